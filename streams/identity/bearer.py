"""Bearer tokens that somebody else made: given in the settings, or in a file that is renewed."""

from __future__ import annotations

from streams.clock import SYSTEM_CLOCK, Clock
from streams.identity.watched import SECRET_BYTES_MAX, Watched, read_secret

__all__ = ["BearerToken", "BearerTokenFile"]


class BearerToken:
    """A token that does not change."""

    def __init__(self, token: str) -> None:
        """`token` as it is sent."""
        self._headers = {"Authorization": f"Bearer {token}"}

    async def headers(self) -> dict[str, str]:
        """The header, always the same."""
        return dict(self._headers)

    def invalidate(self) -> None:
        """There is no other token."""


class BearerTokenFile:
    """A token in a file, read again when the file changes."""

    def __init__(self, setting: str, path: str, clock: Clock = SYSTEM_CLOCK) -> None:
        """`setting`: the option's name, for messages."""
        wanted = f"a file with one ASCII token of at most {SECRET_BYTES_MAX} bytes"
        self._token = Watched(setting, [path], lambda: read_secret(path), wanted, clock)

    async def headers(self) -> dict[str, str]:
        """The header with the token of the file. SettingsError when there has never been a good one."""
        return {"Authorization": f"Bearer {await self._token.get()}"}

    def invalidate(self) -> None:
        """Looks at the file at once, next time."""
        self._token.expire()
