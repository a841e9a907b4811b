"""OAuth 2 client credentials (RFC 6749, 4.4): one token for all who need it, made anew before it expires.

Tokens live in memory only. Whatever happens at the receivers, the token endpoint gets one request at a time, waits
between failures, and a token that was just made is not made again because somebody refuses it.
"""

from __future__ import annotations

import asyncio
import random
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote_plus

from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error

from streams.clock import SYSTEM_CLOCK, Clock
from streams.delivery.retry import full_jitter_ms, retry_after_ms
from streams.errors import StreamsError
from streams.http import Answer, HttpClient, HttpFailure

__all__ = ["ClientCredentials"]

TIMEOUT_MS = 10_000
"""For the token endpoint; longer, the requests that wait for it are better held than hung."""
LIFETIME_S = 300
"""Where an answer does not say how long its token lives: five minutes, what short-lived tokens have."""
LIFETIME_S_MAX = 86_400
"""A token is renewed once a day, whatever its endpoint says."""
LEEWAY_S = 60
"""A token is renewed so long before it expires (a fifth of its life if that is less), up to twice as long by chance:
workers that began together do not ask together."""
AGE_S_MIN = 10
"""A younger token that is refused is not the reason: requests sent with its predecessor are still being answered, and a
receiver that refuses every token must not become load on the token endpoint."""
PAUSE_MS = 1_000
PAUSE_MS_MAX = 60_000
"""Between failures at the token endpoint: full jitter up to a bound that doubles from one second to a minute."""

_TOKEN = re.compile("[!-~]+")
_ERRORS = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
)
"""The codes of RFC 6749, 5.2. Nothing else of an endpoint's answer is repeated in a message."""


@dataclass(frozen=True, slots=True)
class _Token:
    """An access token, and when to do what, on the monotonic clock."""

    value: str = field(repr=False)
    made_s: float
    renew_s: float
    end_s: float


class ClientCredentials:
    """A `Credential` that fetches its tokens over the client it is given. Belongs to one event loop."""

    def __init__(
        self,
        client: HttpClient,
        url: str,
        client_id: str,
        secret: Callable[[], Awaitable[str]],
        *,
        scope: str = "",
        audience: str = "",
        clock: Clock = SYSTEM_CLOCK,
        chance: random.Random | None = None,
    ) -> None:
        """`secret` is asked for every token, so that a renewed one is taken up. `scope`: separated by blanks."""
        self._client = client
        self._url = url
        self._form = BackendApplicationClient(client_id)
        self._client_id = client_id
        self._secret = secret
        self._scope = scope
        self._audience = audience
        self._clock = clock
        self._chance = chance or random.Random()
        self._token: _Token | None = None
        self._in_body = False  # where the endpoint wants the secret, known after the first token
        self._in_body_known = False
        self._renewal: asyncio.Task[None] | None = None
        self._failure: StreamsError = HttpFailure("auth", "no token was fetched yet")
        self._failures = 0
        self._next_s = float("-inf")

    async def headers(self) -> dict[str, str]:
        """The header with a token that has not expired. HttpFailure where none is to be had."""
        now_s = self._clock.monotonic_s()
        if self._token is None or now_s >= self._token.end_s:
            self._renew(now_s)
            if self._renewal is not None:
                # Shielded: others wait for it too.
                await asyncio.shield(self._renewal)
        elif now_s >= self._token.renew_s:
            self._renew(now_s)
        if self._token is None or self._clock.monotonic_s() >= self._token.end_s:
            raise self._failure.with_traceback(None)
        return {"Authorization": f"Bearer {self._token.value}"}

    def invalidate(self) -> None:
        """The receiver refused the token: the next one is fetched, unless this one is only just made."""
        if self._token is not None and self._clock.monotonic_s() - self._token.made_s >= AGE_S_MIN:
            self._token = None

    def _renew(self, now_s: float) -> None:
        """Begins to fetch a token, unless that is under way or failed just now."""
        if self._renewal is None and now_s >= self._next_s:
            self._renewal = asyncio.create_task(self._fetch(), name="oauth2 token")

    async def _fetch(self) -> None:
        """Fetches a token. The outcome is left for all who wait, and for those who come before the next try."""
        began_s = self._clock.monotonic_s()
        try:
            self._token = self._read(await self._asked(), began_s)
            self._failures, self._in_body_known = 0, True
        except StreamsError as failure:
            self._failures += 1
            pause_ms = full_jitter_ms(PAUSE_MS, PAUSE_MS_MAX, self._failures, self._chance.random())
            self._next_s = max(self._next_s, self._clock.monotonic_s() + pause_ms / 1000)
            self._failure = failure
        finally:
            self._renewal = None

    async def _asked(self) -> Answer:
        """The endpoint's answer. Like Go's oauth2, the secret goes where RFC 6749 wants it, then where others do."""
        answer = await self._post()
        if answer.status in (400, 401) and not self._in_body_known:
            self._in_body = True
            answer = await self._post()
            self._in_body = answer.status == 200
        return answer

    async def _post(self) -> Answer:
        secret = await self._secret()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        more = {"audience": self._audience}
        if self._in_body:
            more["client_secret"] = secret
        else:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        form = self._form.prepare_request_body(scope=self._scope, include_client_id=self._in_body, **more)
        try:
            return await self._client.request(
                "POST", self._url, headers=headers, body=form.encode(), timeout_ms=TIMEOUT_MS
            )
        except HttpFailure as failure:
            raise HttpFailure(failure.kind, f"token endpoint: {failure.detail}", status=failure.status) from None

    def _read(self, answer: Answer, began_s: float) -> _Token:
        """The token in an answer. Its life is counted from before the request: never too long."""
        if answer.status != 200:
            now_ms = self._clock.now_ms()
            wait_ms = retry_after_ms(answer.headers.get("retry-after", ""), now_ms / 1000)
            self._next_s = self._clock.monotonic_s() + wait_ms / 1000
        try:
            given = self._form.parse_request_body_response(answer.body.decode())
            value, kind = given["access_token"], given.get("token_type", "Bearer")
            lifetime_s = min(float(given.get("expires_in") or LIFETIME_S), LIFETIME_S_MAX)
        except OAuth2Error as error:
            code = f" ({error.error})" if error.error in _ERRORS else ""
            raise HttpFailure("auth", f"token endpoint answered {answer.status}{code}") from None
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
            raise HttpFailure("auth", f"token endpoint answered {answer.status} without a token") from None
        if answer.status != 200 or not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise HttpFailure("auth", f"token endpoint answered {answer.status} without a usable token")
        if str(kind).lower() != "bearer":
            raise HttpFailure("auth", "token endpoint gave a token that is no bearer token")
        if lifetime_s <= 0:
            raise HttpFailure("auth", "token endpoint gave a token that has expired already")
        leeway_s = min(LEEWAY_S, lifetime_s / 5) * (1 + self._chance.random())
        return _Token(value, began_s, began_s + lifetime_s - leeway_s, began_s + lifetime_s)
