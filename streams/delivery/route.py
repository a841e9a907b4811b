"""One target's way out: what comes in from its feed waits in lanes, and leaves in requests as its circuit lets them.

The route decides when a request may leave (linger, concurrency, rate, a throttled target's wait, the circuit) and what
waiting means while the circuit is open (the target's `fallback`). What becomes of one request is `attempt.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Mapping

from aiolimiter import AsyncLimiter

from streams._native import Records
from streams.circuit.board import Board, Pass, Refusal
from streams.clock import Clock
from streams.delivery.attempt import Attempts
from streams.delivery.lane import Batch, Lanes
from streams.delivery.stale import StaleKeys
from streams.delivery.target import Target

__all__ = ["Route"]

ROOM_BATCHES = 4
"""Requests' worth of patches that wait while others are on their way: the next are built without waiting for a read."""
LOOK_AGAIN_S = 1.0
"""The longest sleep of a route with something to send: what wakes it otherwise may be another worker's doing."""

log = logging.getLogger(__name__)


class Route:
    """The carrier of one target in one worker. Its tasks run in the worker's event loop."""

    def __init__(
        self, target: Target, lanes: Lanes, attempts: Attempts, stale: StaleKeys, board: Board, clock: Clock
    ) -> None:
        self.target = target
        self.name = target.name
        self.lanes = lanes
        self.counts: Counter[str] = attempts.counts
        self.room = asyncio.Event()
        self.room.set()
        self.lagging = False
        self._attempts = attempts
        self._stale = stale
        self._board = board
        self._clock = clock
        self._wake = asyncio.Event()
        self._waiting_since_s: float | None = None  # when the oldest patch came that no request has taken
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None  # of a request's own making, which nobody expected
        self._room_records = target.batch_records_max * (target.concurrency + ROOM_BATCHES)
        rate = target.rate_per_second_max
        self._limiter = AsyncLimiter(max(1, rate), 1.0) if rate else None

    # -- what the feed asks -----------------------------------------------------------------------------------

    def take(self, partition: int, records: Records, start: int) -> None:
        """Takes patches in; older ones than `start` were taken before."""
        self._conflate()
        self.lanes.take(partition, records, start)
        self._stale.look()
        if self._waiting_since_s is None and self.lanes.pending_records:
            self._waiting_since_s = self._clock.monotonic_s()
        self._look()

    @property
    def held(self) -> bool:
        """Its circuit refuses requests, or too many dead letters stopped it."""
        return self._board.is_open(self.name) or bool(self._attempts.stopped)

    @property
    def full(self) -> bool:
        """The memory for pending patches is used up."""
        return self.lanes.full

    def assign(self, partition: int, position: int) -> None:
        """The partition is this worker's now, and what is below `position` is done."""
        self.lanes.assign(partition, position)

    def release(self, partition: int) -> None:
        """The partition went to another worker: what is pending of it is that one's."""
        self.lanes.release(partition)
        self._stale.release(partition)
        self._look()

    # -- sending ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Sends whatever may leave, whenever it may; never returns. Raises what went wrong within a request."""
        try:
            while True:
                self._wake.clear()
                if self._failure is not None:
                    raise self._failure
                wait_s = await self._send()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Gives requests on their way up; what they carried is sent again by whoever goes on."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> float | None:
        """Starts what may leave now; seconds until there may be more without being woken."""
        self._conflate()
        await self._fall_back()
        self._board.waiting(self.name, bool(self.lanes.pending_records) or self._stale.wanted)
        while len(self._tasks) < self.target.concurrency:
            now_s = self._clock.monotonic_s()
            wait_s = self._wait_s(now_s)
            if wait_s is None or wait_s > 0:
                return wait_s
            answer = self._board.ask(self.name)
            if isinstance(answer, Refusal):
                return min(answer.retry_s, LOOK_AGAIN_S)
            batch = self._cut(now_s, self._size(answer))
            if batch is None:
                self._board.cancelled(answer)
                return self._next_s(now_s)
            self._start(batch, answer)
        return LOOK_AGAIN_S

    def _cut(self, now_s: float, records_max: int) -> Batch | None:
        keys_max = 1 if self.target.one_key else None
        return self.lanes.cut(int(now_s * 1000), records_max, self.target.batch_bytes_max, keys_max)

    def _start(self, batch: Batch, leave: Pass) -> None:
        self._waiting_since_s = self._clock.monotonic_s() if self.lanes.pending_records else None
        task = asyncio.create_task(self._carry(batch, leave), name=f"delivery {self.name}")
        self._tasks.add(task)
        self._look()

    async def _carry(self, batch: Batch, leave: Pass) -> None:
        try:
            if self._limiter is not None:
                await self._limiter.acquire()
            await self._attempts.run(batch, leave)
        except asyncio.CancelledError:
            self.lanes.put_back(batch)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, `run` raises it and the worker ends with it
            self._failure = error
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._tasks.discard(task)
            self._look()
            self._wake.set()

    def _wait_s(self, now_s: float) -> float | None:
        """Seconds until a request should leave; None: nothing waits."""
        if not self.lanes.pending_records:
            return None
        if self._attempts.stopped:
            return LOOK_AGAIN_S
        throttled_s = self._attempts.resume_s - now_s
        if throttled_s > 0:
            return throttled_s
        if self.lanes.pending_records >= self.target.batch_records_max or self._waiting_since_s is None:
            return 0.0
        return max(0.0, self._waiting_since_s + self.target.linger_ms / 1000 - now_s)

    def _next_s(self, now_s: float) -> float | None:
        """Seconds until a waiting key is due; None: only an event brings something."""
        next_ms = self.lanes.next_ms
        return None if next_ms is None else max(0.001, next_ms / 1000 - now_s)

    def _size(self, leave: Pass) -> int:
        """Patches in the next request: trial traffic is a small share of what waits."""
        size = self.target.batch_records_max
        if not leave.lease and self._board.state(self.name) == "closed":
            return size
        return min(size, max(1, math.ceil(self.target.probe_share * self.lanes.pending_records)))

    # -- while the circuit is open ----------------------------------------------------------------------------

    def _conflate(self) -> None:
        held = self.held
        if self.lanes.conflating != (held or self.lagging):
            self.lanes.conflating = held or self.lagging

    async def _fall_back(self) -> None:
        """What the target's `fallback` wants done with what is pending."""
        if not self.held or self._board.state(self.name) != "open":
            return
        if self.target.fallback == "snapshot":
            self.lanes.drop_pending()
            self._stale.look()
        elif self.target.fallback == "fail":
            await self._fail()

    async def _fail(self) -> None:
        """Everything pending becomes dead letters that say why; their keys need snapshots once the target is back."""
        while batch := self._cut(self._clock.monotonic_s(), self.target.batch_records_max):
            await self._attempts.bury(batch, "circuit-open", "the target's circuit is open and its fallback is fail")

    def _look(self) -> None:
        """Opens or closes the door to the feed."""
        waiting = self.lanes.pending_records - self.lanes.resting_keys
        if self.lanes.full or (not self.lanes.conflating and waiting >= self._room_records):
            self.room.clear()
        else:
            self.room.set()
        if self.lanes.pending_records:
            self._wake.set()

    def view(self) -> Mapping[str, int]:
        """Gauges of this moment, for metrics."""
        return {
            "pending_patches": self.lanes.pending_records,
            "pending_bytes": self.lanes.pending_bytes,
            "in_flight_requests": len(self._tasks),
            "waiting_keys": self.lanes.waiting_keys + len(self._stale),
        }
