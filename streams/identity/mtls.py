"""TLS from certificate files: whom to trust, and who we are (mutual TLS). Renewed files are taken up as they come."""

from __future__ import annotations

import ssl

from streams.clock import SYSTEM_CLOCK, Clock
from streams.identity.watched import Watched
from streams.options.delivery import TargetSettings

__all__ = ["TlsFiles", "tls_files"]


class TlsFiles:
    """A TLS context from PEM files; an HttpClient's `tls`.

    When a file changes, a new context is made and used for new connections; those that exist live on. Certificate and
    key are replaced one after the other: between the two they do not fit, and the old context stays in use.
    """

    def __init__(
        self, setting: str, *, ca_file: str = "", cert_file: str = "", key_file: str = "", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`ca_file` empty: the machine's trusted certificates. `setting`: the option's name, for messages."""
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._key_file = key_file
        paths = [path for path in (ca_file, cert_file, key_file) if path]
        self._context = Watched(setting, paths, self._load, "PEM files, the key fitting its certificate", clock)

    async def context(self) -> ssl.SSLContext:
        """The context for new connections. SettingsError when there has never been a good one: ask once at start."""
        return await self._context.get()

    def _load(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca_file or None)
            context.set_alpn_protocols(["http/1.1"])
            if self._cert_file:
                # Without a password OpenSSL would ask for an encrypted key's on the terminal, and wait.
                context.load_cert_chain(self._cert_file, self._key_file, password="")
        except ssl.SSLError as error:
            raise ValueError(error.reason or "no PEM, or the wrong key") from None
        return context


def tls_files(target: TargetSettings, clock: Clock = SYSTEM_CLOCK) -> TlsFiles | None:
    """The files that a target names; None where it names none."""
    if not target.ca_file and not target.cert_file:
        return None
    return TlsFiles(
        f"target.{target.name}.cert_file" if target.cert_file else f"target.{target.name}.ca_file",
        ca_file=target.ca_file,
        cert_file=target.cert_file,
        key_file=target.key_file,
        clock=clock,
    )
