"""Reading one patches topic for all of its targets: one shared reader, and an own one for each target that lags.

The shared reader is the worker's chunk agent. A target that cannot take a chunk when it comes stays where it is, lags
from there on, and is fed by a reader of its own until it has reached the shared one again: nobody waits for it. The
shared reader waits only while every target that takes anything at all is busy: then they set the pace together.

Positions are next offsets. A target is level on a partition iff its position is not below the shared reader's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from streams._native import Records
from streams.errors import TransportError
from streams.transport.chunk import Chunk
from streams.transport.follow import Follower, opened
from streams.transport.tail import Positions

__all__ = ["Feed", "Taker"]

FETCH_RECORDS_MAX = 4_000
FETCH_BYTES_MAX = 4 << 20
"""As large as the shared reader's chunks: a lagging target is fed in the same steps."""
FETCH_WAIT_MS = 200
"""A fetch ends empty after this, and notices that it is level, or that its partition went."""
PATIENCE_S = 0.25
"""How long the others wait for a busy target before it lags: some requests' time, far below anybody's alarm."""
PACE_S = 10.0
"""And how long the shared reader waits when all are busy: well before it would count as standing still."""
RETRY_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class Taker(Protocol):
    """What the feed asks of a target's route."""

    name: str
    room: asyncio.Event
    """Set while more may come in."""
    lagging: bool
    """A reader of its own feeds it: what it has not read yet conflates as it comes."""

    def take(self, partition: int, records: Records, start: int) -> None:
        """Takes records from `start` on; what is below was taken before, or is nobody's."""
        ...

    @property
    def held(self) -> bool:
        """Nothing is sent at the moment, by its circuit: what comes in conflates, and nobody waits for room."""
        ...

    @property
    def full(self) -> bool:
        """The memory for pending patches is used up."""
        ...


class Feed:
    """The readers of one patches topic."""

    def __init__(
        self,
        topic: str,
        takers: Sequence[Taker],
        open_follower: Callable[[Positions], Follower],
        log_start: Callable[[str, int], int],
    ) -> None:
        """`open_follower` and `log_start` block."""
        self.topic = topic
        self.positions: dict[tuple[str, int], int] = {}
        """Next offset that a target wants of a partition."""
        self.lost: list[Callable[[str, int], None]] = []
        """Called with target and partition when patches it had not read yet are gone from the log."""
        self._takers = tuple(takers)
        self._open_follower = open_follower
        self._log_start = log_start
        self._shared: dict[int, int] = {}  # where the shared reader's next chunk begins
        self._lagging = {taker.name: asyncio.Event() for taker in takers}
        self._closed = False

    def close(self) -> None:
        """The worker stops: chunks pass by, and targets go on from their progress another time."""
        self._closed = True

    # -- assignment -------------------------------------------------------------------------------------------

    def begin(self, partition: int, shared: int) -> None:
        """The shared reader reads this partition from `shared` on."""
        self._shared[partition] = shared

    def start(self, name: str, partition: int, position: int) -> None:
        """A target wants a partition from `position` on."""
        self.positions[name, partition] = position
        self._look(name)

    def release(self, partition: int) -> None:
        """The partition went to another worker."""
        self._shared.pop(partition, None)
        for taker in self._takers:
            self.positions.pop((taker.name, partition), None)

    @property
    def partitions(self) -> set[int]:
        """The partitions that are this worker's."""
        return set(self._shared)

    def lag(self, name: str) -> dict[int, int]:
        """The partitions on which a target is behind the shared reader, with its positions."""
        return {
            partition: position
            for partition, shared in self._shared.items()
            if (position := self.positions.get((name, partition), shared)) < shared
        }

    # -- the shared reader ------------------------------------------------------------------------------------

    async def run(self, stream: AsyncIterable[Chunk]) -> None:
        """The chunk agent's body."""
        async for chunk in stream:
            await self._hand_out(chunk)

    async def _hand_out(self, chunk: Chunk) -> None:
        partition, end = chunk.partition, chunk.last + 1
        if self._closed:
            return
        level = [taker for taker in self._takers if self._wants(taker, partition, chunk.begin, end)]
        await self._wait_for_room(level)
        for taker in level:
            # The wait let others run: the target may be elsewhere by now.
            if self._wants(taker, partition, chunk.begin, end) and self._may_take(taker):
                taker.take(partition, chunk.records, self.positions[taker.name, partition])
                self.positions[taker.name, partition] = end
        if partition in self._shared:
            self._shared[partition] = end
        for taker in self._takers:
            self._look(taker.name)

    def skip(self, partition: int, first: int) -> None:
        """The shared reader goes on at `first`: what lay before is gone, also for targets that were level with it."""
        for taker in self._takers:
            if self.positions.get((taker.name, partition), first) < first:
                for lost in self.lost:
                    lost(taker.name, partition)

    def pass_over(self, partition: int, position: int, end: int) -> None:
        """The shared reader's partition has nothing but markers between the two. Progress that stays before them would
        be out of range once retention has removed them with all before, and look like a loss.
        """
        if self._shared.get(partition) != position:
            return  # chunks are on their way
        self._shared[partition] = end
        for taker in self._takers:
            if self.positions.get((taker.name, partition)) == position:
                self.positions[taker.name, partition] = end
                taker.take(partition, Records(), end)

    def _wants(self, taker: Taker, partition: int, begin: int, end: int) -> bool:
        return begin <= self.positions.get((taker.name, partition), -1) < end

    def _may_take(self, taker: Taker) -> bool:
        return not taker.full and (taker.held or taker.room.is_set())

    async def _wait_for_room(self, level: Iterable[Taker]) -> None:
        """Waits for busy targets, but not longer than others have patience with them."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            sending = [taker for taker in level if not taker.held]
            busy = [taker for taker in sending if not taker.room.is_set()]
            if (
                self._closed
                or not busy
                or loop.time() - began_s >= (PATIENCE_S if len(busy) < len(sending) else PACE_S)
            ):
                return
            await _first(taker.room for taker in busy)

    # -- readers of their own ---------------------------------------------------------------------------------

    async def catch_up(self, taker: Taker) -> None:
        """Feeds one target whenever it lags; never returns. A reader is open only for as long."""
        lagging = self._lagging[taker.name]
        while True:
            await lagging.wait()
            taker.lagging = True
            try:
                await self._follow(taker)
            except TransportError as error:
                log.warning("target %s: its own reader of %s starts anew: %s", taker.name, self.topic, error)
                await asyncio.sleep(RETRY_PAUSE_S)
            finally:
                taker.lagging = False

    async def _follow(self, taker: Taker) -> None:
        held = self.lag(taker.name)  # what the follower reads, and where it stands
        follower = await opened(partial(self._open_follower, _places(self.topic, held)))
        try:
            while lag := self.lag(taker.name):
                if not self._may_take(taker):
                    await _first([taker.room])
                    continue
                await asyncio.to_thread(self._place, follower, held, lag)
                runs = await asyncio.to_thread(follower.fetch, FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS)
                for _, partition, records, end in runs:
                    if len(records) and records.first_offset > held[partition]:
                        await self._check(taker.name, partition, held[partition])
                    held[partition] = self._taken(taker, partition, held[partition], records, end)
        finally:
            await asyncio.to_thread(follower.close)
        self._look(taker.name)

    def _place(self, follower: Follower, held: dict[int, int], lag: Mapping[int, int]) -> None:
        """Brings the follower in line with what lags; blocks."""
        gone = held.keys() - lag.keys()
        moved = {partition: position for partition, position in lag.items() if held.get(partition) != position}
        if gone:
            follower.unassign([(self.topic, partition) for partition in gone])
        if moved:
            follower.assign(_places(self.topic, moved))
        for partition in gone:
            del held[partition]
        held.update(moved)

    async def _check(self, name: str, partition: int, position: int) -> None:
        """Offsets were passed over: markers of transactions have them, or records that are gone."""
        first = await asyncio.to_thread(self._log_start, self.topic, partition)
        if first > position and self.positions.get((name, partition)) == position:
            for lost in self.lost:
                lost(name, partition)

    def _taken(self, taker: Taker, partition: int, position: int, records: Records, end: int) -> int:
        """Hands a run to the target, unless the partition went or moved meanwhile; where the follower stands after."""
        reached = max(position, end, records.last_offset + 1)
        if self.positions.get((taker.name, partition)) == position:
            if len(records):
                taker.take(partition, records, position)
            taker.take(partition, Records(), reached)
            self.positions[taker.name, partition] = reached
        return reached

    def _look(self, name: str) -> None:
        """Wakes the target's own reader where there is something to read."""
        event = self._lagging[name]
        if self.lag(name):
            event.set()
        else:
            event.clear()


def _places(topic: str, positions: Mapping[int, int]) -> dict[tuple[str, int], int]:
    return {(topic, partition): position for partition, position in positions.items()}


async def _first(events: Iterable[asyncio.Event]) -> None:
    """Waits for the first of some events, for as long as the others' patience at most."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
