"""What a request carries to say who sends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from streams.clock import SYSTEM_CLOCK, Clock
from streams.http import HttpClient
from streams.identity.bearer import BearerToken, BearerTokenFile
from streams.identity.oauth2 import ClientCredentials
from streams.identity.watched import SECRET_BYTES_MAX, Watched, read_secret
from streams.options.delivery import TargetSettings

__all__ = ["Credential", "Credentials"]


class Credential(Protocol):
    """A source of the headers that authenticate a request. Made once per target, used by all of its requests."""

    async def headers(self) -> dict[str, str]:
        """The headers for a request that goes out now. HttpFailure where none are to be had at the moment.

        SettingsError where a file that is named has never held what it should: ask once at start.
        """
        ...

    def invalidate(self) -> None:
        """The receiver refused these headers (401): the next ones are made anew, if that can help."""
        ...


class Credentials:
    """The credentials of a worker's targets. Targets that log in alike share one token."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        """Nothing is read or fetched before a request needs it."""
        self._clock = clock
        self._shared: dict[tuple[str, ...], ClientCredentials] = {}

    def of(self, target: TargetSettings, client: HttpClient) -> Credential | None:
        """The credential that a target's settings ask for; None where they ask for none.

        `client` fetches its tokens. A shared token is fetched by the client of the first target that needs it, so close
        the clients together.
        """
        if target.oauth2_token_url:
            login = (
                target.oauth2_token_url,
                target.oauth2_client_id,
                target.oauth2_scope,
                target.oauth2_audience,
                target.oauth2_client_secret,
                target.oauth2_client_secret_file,
            )
            if login not in self._shared:
                self._shared[login] = ClientCredentials(
                    client,
                    target.oauth2_token_url,
                    target.oauth2_client_id,
                    self._secret(target),
                    scope=target.oauth2_scope,
                    audience=target.oauth2_audience,
                    clock=self._clock,
                )
            return self._shared[login]
        if target.bearer_token_file:
            return BearerTokenFile(f"target.{target.name}.bearer_token_file", target.bearer_token_file, self._clock)
        return BearerToken(target.bearer_token) if target.bearer_token else None

    def _secret(self, target: TargetSettings) -> Callable[[], Awaitable[str]]:
        """Where an OAuth 2 client's secret comes from."""
        path = target.oauth2_client_secret_file
        if path:
            setting = f"target.{target.name}.oauth2_client_secret_file"
            wanted = f"a file with one ASCII secret of at most {SECRET_BYTES_MAX} bytes"
            return Watched(setting, [path], lambda: read_secret(path), wanted, self._clock).get

        async def given() -> str:
            return target.oauth2_client_secret

        return given
