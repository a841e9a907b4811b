"""Pipeline: finished chunks are gathered into transactions, one committing while the next is gathered.

At most two transactions exist: one being committed in a thread of its own, one being gathered. A transaction begins
only when its outputs are ready, never while user code runs. Order within a partition holds because the next one is
handed over only when the last one is acknowledged. A transaction is closed before a chunk would make it larger than is
allowed: see `allowance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from streams.errors import TransportError
from streams.transport.allowance import Allowance, Fault, after_failure, after_success, fault_of
from streams.transport.chunk import Chunk, Output, Participant

__all__ = ["Ledger", "Pipeline", "Unit", "due_in", "interval"]

PATIENCE = 1.5
"""A transaction is gathered for so many times as long as the last commit took. Measured at 50,000 events a second: 4
keeps it at the longest interval, since more records take longer to commit; with 1.5 half of the time is waited."""
SHORTEST_SHARE = 0.25
"""Of the longest interval: a commit that takes next to nothing still costs the broker something."""

CLOSE_TIMEOUT_S = 1.0
"""Far above what it takes when the broker is there."""


class Unit:
    """What moves in one transaction: outputs, the rows changed, and the input offsets behind them."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.marks: dict[Participant, int] = {}
        self.positions: dict[tuple[str, int], int] = {}
        """Next offset to read, by (topic, partition)."""
        self.records = 0
        """Input records."""
        self.bytes = 0
        """Of inputs, outputs and the rows behind them."""
        self.closed = False
        """A chunk that does not fit any more waits for the next one."""
        self.generation = -1
        self.opened_at = 0.0

    def add(self, chunk: Chunk, now: float) -> None:
        """Takes a finished chunk in. Chunks of one unit come from one group generation."""
        if not self.positions:
            self.opened_at = now
            self.generation = chunk.generation
        self.outputs.extend(chunk.outputs)
        for participant, mark in chunk.marks:
            self.marks[participant] = max(mark, self.marks.get(participant, 0))
        self.positions[(chunk.topic, chunk.partition)] = chunk.last + 1
        self.records += len(chunk)
        self.bytes += chunk.nbytes

    def fits(self, chunk: Chunk, allowed: Allowance) -> bool:
        """Whether the chunk may be added; an empty unit takes any."""
        return self.empty or (self.records < allowed.records and self.bytes + chunk.nbytes <= allowed.bytes)

    @property
    def empty(self) -> bool:
        """Nothing to commit."""
        return not self.positions


class Ledger(Protocol):
    """Where a unit becomes durable, whole or not at all."""

    def commit(self, unit: Unit) -> None:
        """Blocks until the unit is durable, then tells its participants. Runs in the pipeline's thread.

        Raises TransportError when it is not, or when that cannot be known: the caller drops all uncommitted state.
        """
        ...


def due_in(
    *, records: int, age_s: float, interval_s: float, backlog_s: float, records_max: int, behind: bool, draining: bool
) -> float:
    """Seconds until a unit is to be looked at again; 0: it is to be committed now. Pure.

    It is when it is full, old enough, or everything is to be written out. A worker that is behind gathers longer: its
    readers wait for the backlog anyhow, and the changelog has one row for more changes of a key.
    """
    if draining or records >= records_max:
        return 0.0
    longest_s = max(interval_s, backlog_s) if behind else interval_s
    return min(max(0.0, longest_s - age_s), interval_s)  # soon enough to see that it is not behind any more


def interval(longest_s: float, commit_s: float) -> float:
    """How long a transaction is gathered after one whose commit took `commit_s`. Pure."""
    return min(longest_s, max(longest_s * SHORTEST_SHARE, PATIENCE * commit_s))


class Pipeline:
    """Gathers chunks and commits them, in order, one unit at a time."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        interval_s: float,
        backlog_s: float,
        most: Allowance,
        timeout_s: float,
        on_committed: Callable[[Unit], Awaitable[None]],
        on_failed: Callable[[Exception, Unit, Fault], Awaitable[None]],
    ) -> None:
        """`most`: what a transaction may hold at best. `timeout_s`: the broker aborts it after so long."""
        self.ledger = ledger
        self.longest_s = interval_s
        self.interval_s = interval_s
        self.backlog_s = backlog_s
        self.behind = False
        """Whether the last fetch was full: more records wait."""
        self.most = most
        self.allowed = most
        """What the next transaction may hold, and the next fetch at most."""
        self.failures = 0
        """Transactions that failed since the last one that did not; without those that were merely halved."""
        self._suspects: dict[tuple[str, int], int] = {}  # next offsets of the unit that a record was refused of
        self._timeout_s = timeout_s
        self._on_committed = on_committed
        self._on_failed = on_failed
        self._open = Unit()
        self._committing = False
        self._draining = False
        self._discards = 0
        self._changed = asyncio.Condition()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._task: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to commit; must be called inside the event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pipeline")

    async def submit(self, chunk: Chunk) -> None:
        """Adds a finished chunk; waits while one transaction commits and the next is full: the back-pressure."""
        discards = self._discards
        async with self._changed:
            while discards == self._discards and not self._open.fits(chunk, self.allowed):
                self._open.closed = True
                self._changed.notify_all()
                await self._changed.wait()
            if discards != self._discards:
                return  # its changes went while it waited here: its records are read again
            self._open.add(chunk, asyncio.get_running_loop().time())
            self._changed.notify_all()

    async def pass_over(
        self, where: tuple[str, int], offset: int, generation: int, is_done: Callable[[], bool]
    ) -> None:
        """Commits a position behind which nothing was handed over; not now, where the partition is being moved.

        `is_done`: still nothing of it is waiting to be committed.
        """
        async with self._changed:
            if self._committing or where in self._open.positions or not is_done():
                return
            if self._open.empty:
                self._open.generation, self._open.opened_at = generation, asyncio.get_running_loop().time()
            if self._open.generation == generation:
                self._open.positions[where] = offset
                self._changed.notify_all()

    async def drain(self, timeout_s: float) -> bool:
        """Commits everything submitted so far; False when that took longer than `timeout_s` or failed."""
        async with self._changed:
            self._draining = True
            self._changed.notify_all()
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self.idle), timeout_s)
            except TimeoutError:
                return False
            finally:
                self._draining = False
        return True

    @property
    def idle(self) -> bool:
        """Nothing is gathered and nothing is being committed."""
        return self._open.empty and not self._committing

    def discard(self) -> None:
        """Forgets what was submitted, or waits to be, and has not begun to commit."""
        self._discards += 1
        self._open = Unit()
        # Whoever waits for room has none to wait for any more. It needs the lock, and this must not wait for it.
        self._telling = asyncio.get_running_loop().create_task(self._tell(), name="pipeline-discard")

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def stop(self, close: Callable[[], None] | None = None) -> None:
        """Ends the committing task and its thread; what is not committed is forgotten.

        `close` is the thread's last work; where a commit cannot be interrupted it comes late, and is not waited for.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if close is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._thread, close)
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
        self._thread.shutdown(wait=False)

    async def run_in_thread(self, work: Callable[[], None]) -> None:
        """Runs `work` in the committing thread: never beside a commit."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def settled(self) -> None:
        """Returns when no commit is under way: one that was begun before a `discard` may still write."""
        if self._task is not None:
            await self.run_in_thread(lambda: None)

    def _due_in(self, now: float) -> float | None:
        """Seconds until the open unit is due, or to be looked at again; None while there is nothing to commit."""
        if self._open.empty:
            return None
        return due_in(
            records=self._open.records,
            age_s=now - self._open.opened_at,
            interval_s=self.interval_s,
            backlog_s=self.backlog_s,
            records_max=self.allowed.records,
            behind=self.behind,
            draining=self._draining or self._open.closed or self._open.bytes >= self.allowed.bytes,
        )

    async def _next(self) -> Unit:
        loop = asyncio.get_running_loop()
        async with self._changed:
            while (wait_s := self._due_in(loop.time())) != 0.0:
                try:
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                except TimeoutError:
                    continue
            unit, self._open = self._open, Unit()
            self._committing = True
            self._changed.notify_all()
            return unit

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            unit = await self._next()
            began = loop.time()
            try:
                await loop.run_in_executor(self._thread, self.ledger.commit, unit)
                self.interval_s = interval(self.longest_s, loop.time() - began)
                self._passed(unit)
                await self._on_committed(unit)
            except Exception as error:  # noqa: BLE001 - whatever it is, uncommitted state must go before anything else
                self.discard()
                await self._on_failed(error, unit, self._learn(error, unit, loop.time() - began))
            finally:
                async with self._changed:
                    self._committing = False
                    self._changed.notify_all()

    def _passed(self, unit: Unit) -> None:
        """The unit is durable: more may be tried, once what was refused with others is behind."""
        for where, offset in unit.positions.items():
            if self._suspects.get(where, offset + 1) <= offset:
                del self._suspects[where]
        self.allowed = after_success(self.allowed, self.most, suspects=bool(self._suspects))
        self.failures = 0

    def forget_suspects(self, where: tuple[str, int] | None = None) -> None:
        """This partition stands still, or all leave: nobody is to wait for a record of it that was refused."""
        if where is None:
            self._suspects.clear()
        else:
            self._suspects.pop(where, None)

    def _learn(self, error: Exception, unit: Unit, took_s: float) -> Fault:
        """Whose fault the failure is; the next transactions are gathered accordingly."""
        code = error.code if isinstance(error, TransportError) else ""
        fault = fault_of(code, size=unit.bytes, took_s=took_s, timeout_s=self._timeout_s)
        self.allowed = after_failure(self.allowed, fault, records=unit.records, size=unit.bytes)
        if fault == "size":
            self._suspects = dict(unit.positions)
        if fault != "size" or unit.records == 1:  # halving comes to its end by itself: nothing is gained by waiting
            self.failures += 1
        return fault
