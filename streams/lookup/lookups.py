"""The look-ups of a worker: from memory, from the cache that workers share, and only then from the target.

An answer is fresh for `ttl_ms` (a 404 for `negative_ttl_ms`). What is not fresh in memory is asked for once, however
many wait for it. Where the target cannot be asked, or fails, its last answer is given for `stale_ms_max` longer, marked
stale. No value, path or secret reaches a log.

What is in memory is a bounded dictionary of our own: aiocache's has no bound, keeps a timer per entry, and a read of it
was measured to take 7 µs (52 with its time-out), of this 0.3. aiocache holds what is shared, see `shared.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from streams.circuit.board import Board
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, LookupFailedError, SettingsError
from streams.lookup.source import NOTHING, PAUSE_S, Connect, Counts, Failed, Source
from streams.options import LookupSettings, TargetSettings

if TYPE_CHECKING:
    from streams.lookup.shared import SharedCache

__all__ = ["Found", "Lookups"]

MEMORY_BYTES_MAX = 268_435_456
"""Of all answers in memory, whatever `entries_max` says: 100,000 of them may be a kilobyte each, or a megabyte."""
ENTRY_BYTES = 400
"""What an answer takes in memory beside the bytes of its value and path, measured."""
FAILED_PATHS_MAX = 10_000
"""Paths that are known to have failed just now; forgetting one costs a request."""
FLIGHTS_MAX = 10_000
"""Paths being asked for at a time; more is a target that does not keep up, and look-ups of further ones fail."""

Place = tuple[str, str]
"""Target and path."""


class Found(NamedTuple):
    """An answer. `value` None: the target says that there is nothing (404 or 410). `age_s`: since it was asked for.

    `stale`: it is older than it should be, because the target cannot be asked.
    """

    value: bytes | None
    status: int
    stale: bool
    age_s: float


class _Kept(NamedTuple):
    """An answer as it is kept, times on the monotonic clock."""

    value: bytes | None
    status: int
    asked_s: float
    fresh_s: float
    usable_s: float


class Lookups:
    """The look-ups of one worker. Used on its event loop."""

    def __init__(
        self,
        board: Board,
        settings: LookupSettings,
        targets: Iterable[TargetSettings],
        connect: Connect,
        *,
        namespace: str,
        clock: Clock = SYSTEM_CLOCK,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`connect` is called once per target that is looked up. `namespace`, the app's id, keeps apps apart that share
        a Redis: they may be allowed different things."""
        self._settings = settings
        self._namespace = namespace
        self._clock = clock
        self._sources = {target.name: Source(target, settings, board, connect, clock) for target in targets}
        self.counts: dict[str, Counts] = {name: source.counts for name, source in self._sources.items()}
        self.shared: SharedCache | None = None
        if settings.cache != "memory":
            # Here, since aiocache and redis take a third of a second to load and most workers do without.
            from streams.lookup.shared import SharedCache

            self.shared = SharedCache(settings.cache, settings.cache_timeout_ms, clock, chance)
        self._memory = _Memory(settings.entries_max)
        self._failed: dict[Place, Failed] = {}
        self._flights: dict[Place, asyncio.Task[_Kept | Failed]] = {}

    async def get(self, target: str, path: str) -> Found:
        """What the target answers to a GET of `path`, which is put behind its URL and may carry a query.

        LookupFailedError when the target cannot be asked or fails, and no answer is left that is young enough.
        InputError for a path that could name something else than it seems to: percent-encode what comes from outside.
        SettingsError for a target that is not configured for look-ups.
        """
        place = (target, path)
        now_s = self._clock.monotonic_s()
        kept = self._memory.get(place)
        if kept is not None and now_s < kept.fresh_s:
            self.counts[target].hits += 1
            return Found(kept.value, kept.status, False, now_s - kept.asked_s)
        failed = self._failed.get(place)
        if failed is None or now_s >= failed.at_s + min(failed.retry_s, PAUSE_S):
            got = await self._ask(place)
            if isinstance(got, _Kept):
                return Found(got.value, got.status, False, self._clock.monotonic_s() - got.asked_s)
            failed = got
        return self._fall_back(place, failed)

    async def close(self) -> None:
        """Ends what is under way, whose look-ups fall back or fail, and closes all connections."""
        await asyncio.sleep(0)  # a task that never began cannot give its look-ups an answer
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for source in self._sources.values():
            await source.close()
        if self.shared is not None:
            await self.shared.close()

    async def __aenter__(self) -> Self:
        """Nothing is opened before the first look-up."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the look-ups."""
        await self.close()

    def _fall_back(self, place: Place, failed: Failed) -> Found:
        """The last answer, if it may still be given."""
        counts, now_s = self.counts[place[0]], self._clock.monotonic_s()
        kept = self._memory.get(place)
        if kept is not None and now_s < kept.usable_s:
            counts.stale += 1
            return Found(kept.value, kept.status, True, now_s - kept.asked_s)
        counts.failed += 1
        raise LookupFailedError(place[0], failed.reason, max(failed.at_s + failed.retry_s - now_s, 0))

    async def _ask(self, place: Place) -> _Kept | Failed:
        """Joins the request for this answer, or begins one."""
        flight = self._flights.get(place)
        joined = flight is not None
        if flight is None:
            source = self._sources.get(place[0])
            if source is None:
                known = ", ".join(sorted(self._sources)) or "none"
                raise SettingsError(Finding("lookup", f"target {place[0]!r}", f"the name of a [[target]]: {known}"))
            url = source.url(place[1])
            if len(self._flights) >= FLIGHTS_MAX:
                return Failed("busy", self._clock.monotonic_s(), PAUSE_S)
            flight = self._flights[place] = asyncio.create_task(self._fly(place, source, url), name="look-up")
        # Shielded: others wait for it too, and it is worth having even if nobody does any more.
        got = await asyncio.shield(flight)
        self.counts[place[0]].joined += joined and isinstance(got, _Kept)
        return got

    async def _fly(self, place: Place, source: Source, url: str) -> _Kept | Failed:
        """Asks the shared cache, then the target. A failure is returned, so that each look-up raises its own."""
        try:
            name = f"{self._namespace}:lookup:{hashlib.sha256(url.encode()).hexdigest()}"
            kept = await self._from_shared(place, name)
            if kept is not None and self._clock.monotonic_s() < kept.fresh_s:
                source.counts.shared += 1
                return kept
            began_s = self._clock.monotonic_s()
            answer = await source.fetch(url)
            if isinstance(answer, Failed):
                self._note(place, answer)
                return answer
            value = None if answer.status in NOTHING else answer.body
            kept = self._keep(place, value, answer.status, began_s)
            source.counts.fetched += 1
            if self.shared is not None:
                lifetime_ms = self._ttl_ms(value) + self._settings.stale_ms_max
                await self.shared.put(name, answer.status, value or b"", lifetime_ms)
            return kept
        except asyncio.CancelledError:  # by `close` alone
            return Failed("closed", self._clock.monotonic_s(), 0)
        finally:
            del self._flights[place]

    async def _from_shared(self, place: Place, name: str) -> _Kept | None:
        """What the shared cache holds; kept in memory too, unless a younger answer is there."""
        found = await self.shared.get(name) if self.shared is not None else None
        if found is None:
            return None
        asked_s = self._clock.monotonic_s() - found.age_s
        held = self._memory.get(place)
        if held is not None and held.asked_s >= asked_s:
            return held
        return self._keep(place, None if found.status in NOTHING else found.body, found.status, asked_s)

    def _keep(self, place: Place, value: bytes | None, status: int, asked_s: float) -> _Kept:
        fresh_s = asked_s + self._ttl_ms(value) / 1000
        kept = _Kept(value, status, asked_s, fresh_s, fresh_s + self._settings.stale_ms_max / 1000)
        self._memory.put(place, kept)
        self._failed.pop(place, None)
        return kept

    def _note(self, place: Place, failed: Failed) -> None:
        self._failed.pop(place, None)
        self._failed[place] = failed
        if len(self._failed) > FAILED_PATHS_MAX:
            del self._failed[next(iter(self._failed))]

    def _ttl_ms(self, value: bytes | None) -> int:
        return self._settings.negative_ttl_ms if value is None else self._settings.ttl_ms


class _Memory:
    """Answers in memory. The one unused for longest goes first."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[Place, _Kept] = OrderedDict()
        self._nbytes = 0

    def get(self, place: Place) -> _Kept | None:
        kept = self._entries.get(place)
        if kept is not None:
            self._entries.move_to_end(place)
        return kept

    def put(self, place: Place, kept: _Kept) -> None:
        old = self._entries.pop(place, None)
        self._nbytes += _nbytes(place, kept) - (0 if old is None else _nbytes(place, old))
        self._entries[place] = kept
        while len(self._entries) > self._entries_max or self._nbytes > MEMORY_BYTES_MAX:
            self._nbytes -= _nbytes(*self._entries.popitem(last=False))


def _nbytes(place: Place, kept: _Kept) -> int:
    return ENTRY_BYTES + len(place[1]) + len(kept.value or b"")
