"""The cache that workers share: a Redis, through aiocache. Never needed, never waited for.

Every call ends within its time-out, and no failure leaves this module: a cache that does not answer has nothing. After
a failure it is left alone for a while, by chance a shorter or a longer one, and then asked by one look-up at a time.

aiocache logs the keys that it is given, and on some paths the values: keys are hashes, and what fails here is named by
its type alone. Values are a small header and the bytes as they came; nothing is ever unpickled. How old an answer is
follows from Redis' own clock, so that workers' clocks need not agree.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from aiocache.backends.redis import RedisCache
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from streams.clock import Clock
from streams.errors import Finding, SettingsError

__all__ = ["Shared", "SharedCache"]

CONNECTIONS_MAX = 16
"""Redis serves one command after the other anyway; further look-ups wait, within their time-out."""
BACKOFF_S = 1.0
BACKOFF_S_MAX = 30.0
"""A cache that failed is left alone for half to all of a second, then of twice as long each time: one that hangs costs
one look-up its time-out now and then, and one that was restarted is in use again within half a minute."""

FORMAT = 1
"""First byte of every value. Anything else is of another release, or not ours: as if nothing were there."""
_HEADER = struct.Struct(">BHQ16s")
"""Format, HTTP status, lifetime in ms, and a hash of the key: an answer under another's key is never taken for its own,
whatever becomes of connections or of the Redis."""
_READ = "return {redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1])}"
"""Time left and value in one round trip; aiocache has no such command of its own."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Shared(NamedTuple):
    """An answer from the shared cache. `age_s`: since it was put there."""

    status: int
    body: bytes
    age_s: float


class Bytes:
    """aiocache's serializer for values that are bytes already."""

    encoding: str | None = None
    """aiocache decodes answers unless this is None."""

    def dumps(self, value: bytes) -> bytes:
        """The value as it is."""
        return value

    def loads(self, value: bytes | None) -> bytes | None:
        """The value as it is; None where there is none."""
        return value


class SharedCache:
    """Answers in a Redis, as far as it answers."""

    def __init__(self, url: str, timeout_ms: int, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        """`url`: redis://[[user]:password@]host[:port][/db], or rediss:// for TLS with a trusted certificate."""
        self.errors = 0
        """Calls that failed or timed out, since the start."""
        self._timeout_s = timeout_ms / 1000
        self._clock = clock
        self._chance = chance
        self._failures = 0  # in a row
        self._again_s = float("-inf")
        self._trying = False
        self._cache, self._place = _opened(url, self._timeout_s)

    @property
    def answers(self) -> bool:
        """Whether the last call was answered."""
        return not self._failures

    async def get(self, key: str) -> Shared | None:
        """What is there under the key; None too where the cache does not answer."""
        found = await self._call(lambda: self._cache.raw("eval", _READ, 1, key))
        return _read(key, *found) if found is not None else None

    async def put(self, key: str, status: int, body: bytes, lifetime_ms: int) -> None:
        """Puts an answer there, for so long, if the cache answers."""
        value = _HEADER.pack(FORMAT, status, lifetime_ms, _check(key)) + body
        await self._call(lambda: self._cache.set(key, value, ttl=lifetime_ms / 1000))

    async def close(self) -> None:
        """Closes the connections."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._cache.client.aclose()  # aiocache's own close calls one that redis is to lose
        except Exception as error:  # noqa: BLE001 - as in a call
            log.debug("the shared cache of look-ups at %s was not closed (%s)", self._place, type(error).__name__)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The call's result, or None: not now, not in time, or not at all."""
        trial = self._failures > 0
        if self._trying or (trial and self._clock.monotonic_s() < self._again_s):
            return None
        self._trying = trial
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await call()
        except Exception as error:  # noqa: BLE001 - whatever a cache's client raises, the look-up goes on without it
            self._failed(error)
            return None
        finally:
            if trial:
                self._trying = False
        if self._failures:
            log.warning("the shared cache of look-ups at %s answers again", self._place)
            self._failures = 0
        return result

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        now_s = self._clock.monotonic_s()
        if self._failures and now_s < self._again_s:
            return  # begun before: it says nothing new
        if not self._failures:
            log.warning(
                "the shared cache of look-ups at %s does not answer (%s); memory and targets do without it meanwhile",
                self._place,
                type(error).__name__,
            )
        pause_s = min(BACKOFF_S * 2 ** min(self._failures, 16), BACKOFF_S_MAX)
        self._again_s = now_s + pause_s * (1 + self._chance()) / 2
        self._failures += 1


def _read(key: str, left_ms: int, value: bytes | None) -> Shared | None:
    """What a value says; None for none, and for one that is not ours."""
    if value is None or len(value) < _HEADER.size or left_ms < 0:
        return None
    written, status, lifetime_ms, check = _HEADER.unpack_from(value)
    if written != FORMAT or check != _check(key) or lifetime_ms < left_ms:
        return None
    return Shared(status, value[_HEADER.size :], (lifetime_ms - left_ms) / 1000)


def _check(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _opened(url: str, timeout_s: float) -> tuple[Any, str]:
    """aiocache's cache for a URL, and where it is, without its secrets. Nothing is connected before the first call."""
    try:
        parts = urlsplit(url)
        host, port, db = parts.hostname or "", parts.port or 6379, int(parts.path.strip("/") or 0)
    except ValueError:
        host = ""
    if not host:
        raise SettingsError(Finding("lookup.cache", "an address that cannot be read", "redis://host:port[/db]"))
    options: dict[str, Any] = {
        "username": unquote(parts.username) if parts.username else None,
        "timeout": timeout_s,
        "socket_timeout": None,  # every call has its time-out here; the client's costs a task per command
        # A connection of a server that was restarted is found dead by its next command: that one is sent once more.
        "retry": Retry(NoBackoff(), 1),
    }
    if parts.scheme == "rediss":
        options.update(ssl_cert_reqs="required", ssl_check_hostname=True)
    make: Any = RedisCache  # aiocache has no types
    cache = make(
        serializer=Bytes(),
        endpoint=host,
        port=port,
        db=db,
        password=unquote(parts.password) if parts.password else None,
        pool_max_size=CONNECTIONS_MAX,
        create_connection_timeout=timeout_s,
        ssl=parts.scheme == "rediss",
        connection_pool_class=BlockingConnectionPool,
        connection_pool_kwargs=options,
        timeout=None,  # its own makes a task of every call
    )
    return cache, f"{host}:{port}"
