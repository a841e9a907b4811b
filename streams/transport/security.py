"""What the [security] settings mean to each Kafka client. Pure: secrets, files' contents and time are arguments.

Two clients are configured from one section: librdkafka (records) and aiokafka (group membership). Tokens are read
without verifying them: the broker does that; here only their expiry matters.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass, field
from typing import Any

from streams.errors import TransportError
from streams.options import SecuritySettings

__all__ = ["Token", "aiokafka_config", "librdkafka_config", "protocol", "read_token"]

TOKEN_BYTES_MAX = 65_536
"""Request headers with larger tokens are refused by brokers and proxies alike."""
REFRESH_SHARE = 0.8
"""A token is replaced after this share of its remaining life, as librdkafka does."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and when to replace it; wall time in milliseconds."""

    value: str = field(repr=False)
    principal: str
    expires_ms: int
    refresh_ms: int


def protocol(security: SecuritySettings) -> str:
    """Kafka's name for the combination of TLS and SASL."""
    if security.sasl_mechanism:
        return "SASL_SSL" if security.tls else "SASL_PLAINTEXT"
    return "SSL" if security.tls else "PLAINTEXT"


def librdkafka_config(security: SecuritySettings, password: str = "") -> dict[str, str]:
    """Options for every librdkafka client. `password`: the one to log in with, read from wherever it is.

    With OAUTHBEARER the token is not an option: it is handed to the client, and again before it expires.
    """
    config = {"security.protocol": protocol(security).lower()}
    if security.tls:
        config["ssl.endpoint.identification.algorithm"] = "https"  # the certificate must name the host
        files = {
            "ssl.ca.location": security.ca_file,
            "ssl.certificate.location": security.cert_file,
            "ssl.key.location": security.key_file,
            "ssl.key.password": security.key_password,
        }
        config |= {name: value for name, value in files.items() if value}
    if security.sasl_mechanism:
        config["sasl.mechanism"] = security.sasl_mechanism
    if security.sasl_mechanism not in ("", "OAUTHBEARER"):
        config |= {"sasl.username": security.username, "sasl.password": password}
    return config


def aiokafka_config(
    security: SecuritySettings, password: str = "", *, tls_context: Any = None, token_provider: Any = None
) -> dict[str, Any]:
    """Keyword arguments for every aiokafka client; TLS context and token provider are made by the carrier."""
    config: dict[str, Any] = {"security_protocol": protocol(security)}
    if security.tls:
        config["ssl_context"] = tls_context
    if security.sasl_mechanism:
        config["sasl_mechanism"] = security.sasl_mechanism
    if security.sasl_mechanism == "OAUTHBEARER":
        config["sasl_oauth_token_provider"] = token_provider
    elif security.sasl_mechanism:
        config |= {"sasl_plain_username": security.username, "sasl_plain_password": password}
    return config


def read_token(text: str, now_ms: int, refresh_ms: int) -> Token:
    """A token with the moment to replace it: by its own `exp` if it is a JWT that has one, else every `refresh_ms`.

    TransportError: no token, one that is too large, or one that has expired; retriable, as the source may mend it.
    """
    value = text.strip()
    if not value or len(value) > TOKEN_BYTES_MAX or not value.isascii() or any(sign.isspace() for sign in value):
        raise TransportError(
            f"OAUTHBEARER token: got {len(value)} characters, expected one ASCII token of 1 to {TOKEN_BYTES_MAX} "
            "without spaces; look at what token_file holds or token_command prints",
            retriable=True,
        )
    claims = _claims(value)
    principal = str(claims.get("sub", ""))
    expires_s = claims.get("exp")
    if not isinstance(expires_s, int | float) or isinstance(expires_s, bool) or not math.isfinite(expires_s):
        return Token(value, principal, now_ms + 2 * refresh_ms, now_ms + refresh_ms)
    expires_ms = int(expires_s * 1000)
    if expires_ms <= now_ms:
        raise TransportError(
            f"OAUTHBEARER token: expired {now_ms - expires_ms} ms ago, expected a valid one; "
            "check what writes it, and this machine's clock",
            retriable=True,
        )
    return Token(value, principal, expires_ms, now_ms + int((expires_ms - now_ms) * REFRESH_SHARE))


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JWT (RFC 7519 section 3), unverified; empty for any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
