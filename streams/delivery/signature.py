"""Standard Webhooks signatures (v1: HMAC-SHA256), over bodies as they are sent.

The public library signs and verifies text alone, and our bodies are bytes; it is what the tests verify with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable

from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError
from streams.identity.watched import Watched, read_secret
from streams.options import TargetSettings

__all__ = ["SigningKey", "sign", "signing_key"]

SigningKey = Callable[[], Awaitable[bytes]]
"""The key for a request that goes out now. SettingsError when there has never been a good one."""

_PREFIX = "whsec_"
_KEY_BYTES_MIN = 16
_WANTED = f"a Standard Webhooks secret: base64 of at least {_KEY_BYTES_MIN} bytes, whsec_ in front of it or not"
"""The specification wants 24 bytes; receivers that follow it too late have 16, which nobody guesses either."""


def sign(key: bytes, id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature` for a request with this `webhook-id` and `webhook-timestamp`."""
    signed = hmac.new(key, f"{id}.{timestamp_s}.".encode(), hashlib.sha256)
    signed.update(body)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def signing_key(settings: TargetSettings, clock: Clock = SYSTEM_CLOCK) -> SigningKey | None:
    """Where a target's key comes from: its settings, or a file that is read again when it changes; None: no signature.

    SettingsError for a secret that is none.
    """
    if settings.signing_secret_file:
        path = settings.signing_secret_file
        return Watched("target.signing_secret_file", [path], lambda: _key(read_secret(path)), _WANTED, clock).get
    if not settings.signing_secret:
        return None
    try:
        key = _key(settings.signing_secret)
    except ValueError as error:
        raise SettingsError(Finding("target.signing_secret", str(error), _WANTED)) from None

    async def same() -> bytes:
        return key

    return same


def _key(secret: str) -> bytes:
    """The key in a secret. ValueError, which shows nothing of it."""
    encoded = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        raise ValueError("something that is not base64") from None
    if len(key) < _KEY_BYTES_MIN:
        raise ValueError(f"{len(key)} bytes")
    return key
