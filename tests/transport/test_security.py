"""streams.transport.security and credentials: one section, two clients, tokens that are replaced in time."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.clock import ManualClock
from streams.errors import SettingsError, TransportError
from streams.options import SecuritySettings
from streams.transport.credentials import Credentials
from streams.transport.security import aiokafka_config, librdkafka_config, protocol, read_token

NOW_MS = 1_700_000_000_000
MECHANISMS = ["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


def jwt(**claims: object) -> str:
    """An unsigned token with these claims."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_both_clients_are_told_the_same(tls: bool, mechanism: str) -> None:
    """For every combination librdkafka and aiokafka agree on protocol, mechanism, user and password."""
    security = SecuritySettings(tls=tls, sasl_mechanism=mechanism, username="u", ca_file="ca.pem" if tls else "")
    native, python = librdkafka_config(security, "p"), aiokafka_config(security, "p", tls_context=1, token_provider=2)

    assert protocol(security) == python["security_protocol"] == native["security.protocol"].upper()
    assert mechanism == native.get("sasl.mechanism", "") == python.get("sasl_mechanism", "")
    assert native.get("sasl.password") == python.get("sasl_plain_password")
    assert tls == ("ssl_context" in python) == ("ssl.ca.location" in native)
    assert (mechanism == "OAUTHBEARER") == ("sasl_oauth_token_provider" in python)


@given(life_s=st.integers(1, 10**6))
def test_a_jwt_is_replaced_before_it_expires(life_s: int) -> None:
    """Its own expiry counts, and a fifth of its life is left for reading the next one."""
    token = read_token(jwt(exp=NOW_MS // 1000 + life_s, sub="svc") + "\n", NOW_MS, 5_000)

    assert ("svc", NOW_MS + life_s * 1000) == (token.principal, token.expires_ms)
    assert NOW_MS < token.refresh_ms < token.expires_ms


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_any_other_token_is_replaced_regularly(text: str) -> None:
    """A token without an expiry is read again each `refresh_ms`, whatever it looks like."""
    token = read_token(text, NOW_MS, 5_000)

    assert (text, NOW_MS + 5_000) == (token.value, token.refresh_ms)
    assert f"value={text!r}" not in repr(token)


@pytest.mark.parametrize("text", ["", " \n", "two words", "ключ", "x" * 70_000, jwt(exp=1)])
def test_a_token_that_cannot_work_is_refused(text: str) -> None:
    """Nothing, several words, no ASCII, too long, expired: the error says which, may be tried again, shows no token."""
    with pytest.raises(TransportError) as error:
        read_token(text, NOW_MS, 5_000)

    assert error.value.retriable
    assert not text.strip() or text.strip() not in str(error.value)


def test_a_token_file_is_read_again_when_due(tmp_path: Path) -> None:
    """The file may change at any time; the new token is used once the old one is due."""
    file, clock = tmp_path / "token", ManualClock(NOW_MS)
    file.write_text("first")
    security = SecuritySettings(sasl_mechanism="OAUTHBEARER", token_file=str(file), token_refresh_ms=5_000)
    credentials = Credentials(security, clock)
    seen = [credentials.token().value]
    file.write_text("second")
    clock.advance(4_999)
    seen.append(credentials.token().value)
    clock.advance(1)
    seen.append(credentials.token().value)

    assert ["first", "first", "second"] == seen


async def test_a_token_command_reaches_aiokafka() -> None:
    """The command's output is what aiokafka's provider hands out; a command that fails does not show its words."""
    command = f"{sys.executable} -c 'print(\"tok\")'"
    security = SecuritySettings(sasl_mechanism="OAUTHBEARER", token_command=command)

    assert "tok" == await Credentials(security).aiokafka()["sasl_oauth_token_provider"].token()
    with pytest.raises(TransportError) as error:
        Credentials(SecuritySettings(sasl_mechanism="OAUTHBEARER", token_command="false secret")).token()
    assert "secret" not in str(error.value)


def test_a_password_file_is_read(tmp_path: Path) -> None:
    """The password may be in a file; one that is missing is a settings error that names the setting."""
    file = tmp_path / "password"
    file.write_text("p\n")
    security = SecuritySettings(sasl_mechanism="PLAIN", username="u", password_file=str(file))

    assert "p" == Credentials(security).librdkafka()["sasl.password"] == Credentials(security).faust().password
    with pytest.raises(SettingsError, match=r"security\.password_file"):
        Credentials(SecuritySettings(sasl_mechanism="PLAIN", username="u", password_file=str(tmp_path / "none")))


def test_clients_of_other_services_load_no_aiokafka() -> None:
    """Reading credentials for librdkafka alone loads neither aiokafka nor faust."""
    code = (
        "import sys; from streams.transport.credentials import Credentials; "
        "from streams.options import SecuritySettings; Credentials(SecuritySettings()).librdkafka(); "
        "print([name for name in ('aiokafka', 'faust', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
