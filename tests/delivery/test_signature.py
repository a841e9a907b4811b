"""Standard Webhooks signatures: by the public library where it can verify, by hand where it cannot."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from streams.clock import SYSTEM_CLOCK, ManualClock
from streams.delivery.signature import sign, signing_key
from streams.errors import SettingsError
from streams.options import TargetSettings

KEY = bytes(range(24))
SECRET = base64.b64encode(KEY).decode()


def test_the_public_library_verifies_text() -> None:
    """Whatever the secret's form, and its signature is ours."""
    now_s, body = SYSTEM_CLOCK.now_ms() // 1000, b'{"patches": ["\xc3\xa9"]}'
    signature = sign(KEY, "id1", now_s, body)
    headers = {"webhook-id": "id1", "webhook-timestamp": str(now_s), "webhook-signature": signature}

    Webhook(f"whsec_{SECRET}").verify(body, headers)
    assert Webhook(SECRET).sign("id1", datetime.fromtimestamp(now_s, UTC), body.decode()) == signature


def test_bytes_are_signed_as_they_are() -> None:
    """HMAC-SHA256 over id, timestamp and body with dots between them, for a body that no text codec takes."""
    body = b"\x28\xb5\x2f\xfd\xff\x00\xc3"

    wanted = base64.b64encode(hmac.digest(KEY, b"id1.1700000000." + body, "sha256")).decode()
    assert f"v1,{wanted}" == sign(KEY, "id1", 1_700_000_000, body)


@pytest.mark.parametrize("secret", [SECRET, f"whsec_{SECRET}", f"whsec_{SECRET}".rstrip("=")])
async def test_a_secret_in_the_settings(secret: str) -> None:
    """With the prefix, without it, and without padding."""
    found = signing_key(TargetSettings(signing_secret=secret))

    assert found is not None
    assert KEY == await found()


def test_no_secret_no_signature() -> None:
    """Nothing to ask."""
    assert signing_key(TargetSettings()) is None


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!secret!", base64.b64encode(b"too short").decode()])
def test_a_secret_that_is_none(secret: str) -> None:
    """Refused at start, by the setting's name, and not shown."""
    with pytest.raises(SettingsError) as raised:
        signing_key(TargetSettings(signing_secret=secret))

    assert "target.signing_secret" in str(raised.value)
    assert secret.removeprefix("whsec_") not in str(raised.value) or secret == "whsec_"


async def test_a_secret_in_a_file_is_renewed(tmp_path: Path) -> None:
    """The file's key; after it changes, the new one; a damaged one does not take the old one away."""
    clock, file = ManualClock(), tmp_path / "secret"
    file.write_text(f"whsec_{SECRET}\n")
    found = signing_key(TargetSettings(signing_secret_file=str(file)), clock)
    assert found is not None
    assert KEY == await found()

    newer = hashlib.sha256(b"newer").digest()
    file.write_text(base64.b64encode(newer).decode())
    os.utime(file, ns=(1, 1))
    clock.advance(60_000)
    assert newer == await found()
    file.write_text("!")
    clock.advance(60_000)
    assert newer == await found()


async def test_a_missing_file_is_found_when_asked(tmp_path: Path) -> None:
    """The setting and the path are named."""
    found = signing_key(TargetSettings(signing_secret_file=str(tmp_path / "none")))
    assert found is not None

    with pytest.raises(SettingsError, match=r"target\.signing_secret_file"):
        await found()
