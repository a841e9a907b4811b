"""Certificates from files: shown to servers that want them, renewed while connections live."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from streams.clock import ManualClock
from streams.errors import SettingsError
from streams.http import HttpClient, HttpFailure
from streams.identity.mtls import TlsFiles, tls_files
from streams.options.delivery import TargetSettings
from tests.zoo import Certificates, Zoo


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """A CA and what it signed."""
    return Certificates(tmp_path)


@pytest.fixture
async def zoo(certificates: Certificates) -> AsyncIterator[Zoo]:
    """Servers with TLS."""
    async with Zoo(certificates) as opened:
        yield opened


async def status(tls: TlsFiles, url: str) -> int:
    """The status of an answer to a client of its own, so over a new connection."""
    async with HttpClient(allow_private=True, tls=tls) as client:
        return (await client.request("GET", url, timeout_ms=30_000)).status


async def test_a_client_certificate_is_shown(zoo: Zoo, certificates: Certificates) -> None:
    """A server that takes clients of its CA alone takes ours."""
    cert_file, key_file = certificates.client("ours")
    tls = TlsFiles("target.a", ca_file=certificates.ca_file, cert_file=cert_file, key_file=key_file)

    assert 200 == await status(tls, zoo.url("tls-mutual"))


@pytest.mark.parametrize("foreign", [True, False])
async def test_without_the_right_certificate_nobody_gets_in(
    zoo: Zoo, certificates: Certificates, foreign: bool
) -> None:
    """None at all, or one of another CA: a failure of TLS, or a reset where the server hangs up before it says so."""
    cert_file, key_file = certificates.client("theirs", foreign=True) if foreign else ("", "")
    tls = TlsFiles("target.a", ca_file=certificates.ca_file, cert_file=cert_file, key_file=key_file)
    with pytest.raises(HttpFailure) as caught:
        await status(tls, zoo.url("tls-mutual"))

    assert caught.value.kind in ("tls", "reset")
    assert 0 == zoo.requests["tls-mutual"]


async def test_renewed_files_are_used_for_new_connections(zoo: Zoo, certificates: Certificates) -> None:
    """A foreign certificate is replaced by a good one: first the file of the one, then of the other."""
    cert_file, key_file = certificates.client("used", foreign=True)
    clock = ManualClock()
    tls = TlsFiles("target.a", ca_file=certificates.ca_file, cert_file=cert_file, key_file=key_file, clock=clock)
    first = await tls.context()
    new_cert, new_key = certificates.client("new")
    shutil.copyfile(new_cert, cert_file)
    clock.advance(60_000)
    half = await tls.context()
    shutil.copyfile(new_key, key_file)
    clock.advance(60_000)
    second = await tls.context()

    assert first is half
    assert second is not first
    assert second is await tls.context()
    assert 200 == await status(tls, zoo.url("tls-mutual"))


async def test_living_connections_outlive_a_renewal(zoo: Zoo, certificates: Certificates) -> None:
    """An idle connection of the old context is not used again, and nothing breaks."""
    cert_file, key_file = certificates.client("used")
    clock = ManualClock()
    tls = TlsFiles("target.a", ca_file=certificates.ca_file, cert_file=cert_file, key_file=key_file, clock=clock)
    async with HttpClient(allow_private=True, tls=tls) as client:
        for name in ("new", "newer"):
            for _ in range(3):
                answer = await client.request("GET", zoo.url("tls-mutual"), timeout_ms=30_000)
                assert 200 == answer.status
            for file, made in zip((cert_file, key_file), certificates.client(name), strict=True):
                shutil.copyfile(made, file)
            clock.advance(60_000)

    assert 2 == zoo.connections


@pytest.mark.parametrize("broken", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("how", ["missing", "no PEM"])
async def test_files_that_are_no_good(certificates: Certificates, tmp_path: Path, broken: str, how: str) -> None:
    """Are an error in the settings when there was no good one before."""
    cert_file, key_file = certificates.client("used")
    files = {"ca_file": certificates.ca_file, "cert_file": cert_file, "key_file": key_file}
    files[broken] = str(tmp_path / "broken")
    if how == "no PEM":
        (tmp_path / "broken").write_text("nothing\n")
    with pytest.raises(SettingsError) as caught:
        await TlsFiles("target.a.cert_file", **files).context()

    assert "target.a.cert_file" in str(caught.value)


async def test_an_encrypted_key_asks_nobody(certificates: Certificates) -> None:
    """OpenSSL would ask for its password on the terminal, and wait for ever."""
    cert_file, key_file = certificates.client("used")
    _lock(Path(key_file))
    with pytest.raises(SettingsError):
        await TlsFiles("target.a", cert_file=cert_file, key_file=key_file).context()


def _lock(key_file: Path) -> None:
    """Encrypts the key in a file."""
    key = load_pem_private_key(key_file.read_bytes(), None)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))


def test_a_target_without_files_has_the_machines_tls(certificates: Certificates) -> None:
    """Files are what makes the difference."""
    assert tls_files(TargetSettings(name="a")) is None
    assert tls_files(TargetSettings(name="a", ca_file=certificates.ca_file)) is not None
