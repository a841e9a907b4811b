"""Reads what [security] points at: password and token files, token commands, certificates.

A `Credentials` lives as long as its clients. Its token is read again before it expires; two clients that ask at the
same time share one reading. No secret appears in a message.
"""

from __future__ import annotations

import asyncio
import shlex
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError, TransportError
from streams.options import SecuritySettings
from streams.transport.security import TOKEN_BYTES_MAX, Token, aiokafka_config, librdkafka_config, read_token

__all__ = ["Credentials"]

COMMAND_TIMEOUT_S = 30
"""Token endpoints answer in seconds; a command that hangs must not hang the worker."""


class Credentials:
    """The [security] section, ready for both Kafka clients.

    SettingsError: a file that is named cannot be read, or is no certificate. TransportError: no usable token now.
    """

    def __init__(self, security: SecuritySettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._security = security
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._password = security.password
        if security.password_file:
            self._password = _text("security.password_file", security.password_file).strip()

    @property
    def uses_token(self) -> bool:
        """Whether clients have to be handed a token (OAUTHBEARER)."""
        return self._security.sasl_mechanism == "OAUTHBEARER"

    def librdkafka(self) -> dict[str, str]:
        """Options for a librdkafka client; with `uses_token` hand it `token()` as well."""
        return librdkafka_config(self._security, self._password)

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments for an aiokafka client."""
        return aiokafka_config(
            self._security,
            self._password,
            tls_context=self.tls_context(),
            token_provider=_provider(self) if self.uses_token else None,
        )

    def faust(self) -> Any:
        """Faust's `broker_credentials`, or None when neither TLS nor SASL is on."""
        from faust import auth

        context = self.tls_context()
        if self.uses_token:
            return auth.OAuthCredentials(oauth_cb=_provider(self), ssl_context=context)
        if self._security.sasl_mechanism:
            return auth.SASLCredentials(
                username=self._security.username,
                password=self._password,
                ssl_context=context,
                mechanism=self._security.sasl_mechanism,
            )
        return auth.SSLCredentials(context) if context is not None else None

    def tls_context(self) -> ssl.SSLContext | None:
        """Python's TLS context with the same files; None without TLS."""
        if not self._security.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self._security.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(Finding("security.ca_file", str(error), "a readable PEM file")) from error
        if self._security.cert_file:
            password = self._security.key_password  # never None: OpenSSL would ask at the terminal
            try:
                context.load_cert_chain(self._security.cert_file, self._security.key_file, password)
            except (OSError, ssl.SSLError) as error:
                cure = "check cert_file, key_file and key_password"
                raise SettingsError(Finding("security.key_file", str(error), "PEM files that fit", cure)) from error
        return context

    def token(self) -> Token:
        """The current token, read again when it is due; one that is still valid serves while no new one can be read.

        Blocks for as long as the file or command takes.
        """
        try:
            return self.fresh_token()
        except (SettingsError, TransportError):
            last = self._token
            if last is None or self._clock.now_ms() >= last.expires_ms:
                raise
            return last

    def fresh_token(self) -> Token:
        """As `token`, but an error wherever the one that is due cannot be read.

        Once there was a token that is a TransportError, to be tried again: what writes the file may be at it.
        """
        with self._lock:
            now_ms = self._clock.now_ms()
            if self._token is None or now_ms >= self._token.refresh_ms:
                try:
                    self._token = read_token(self._read_token(), now_ms, self._security.token_refresh_ms)
                except SettingsError as error:
                    if self._token is None:
                        raise
                    raise TransportError(f"no new token: {error}", retriable=True) from None
            return self._token

    def _read_token(self) -> str:
        if self._security.token_file:
            return _text("security.token_file", self._security.token_file)
        try:
            command = shlex.split(self._security.token_command) or [""]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # The command and its own words may hold secrets: how it ended is enough to find out.
            raise TransportError(
                f"security.token_command: {type(error).__name__}, expected a token on its output "
                f"within {COMMAND_TIMEOUT_S} s",
                retriable=True,
            ) from None
        return done.stdout[: TOKEN_BYTES_MAX + 1].decode("ascii", "replace")


def _text(setting: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(Finding(setting, f"{path} ({type(error).__name__})", "a readable text file")) from None


def _provider(credentials: Credentials) -> Any:
    """aiokafka's token provider. Its class is made here, so that clients without aiokafka do not load it."""
    from aiokafka.abc import AbstractTokenProvider

    class Provider(AbstractTokenProvider):
        async def token(self) -> str:
            return (await asyncio.to_thread(credentials.token)).value

    return Provider()
