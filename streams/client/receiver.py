"""The async receiver: follows a patches topic and hands out what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from streams.client.change import Change, M
from streams.client.following import FETCH_TIMEOUT_MS, Following, too_late
from streams.client.step import Result

__all__ = ["Receiver"]

T = TypeVar("T")


class Receiver(Following[M]):
    """Follows the patches of one topic, keeps the current message of every key, and yields each change.

        async with Receiver(broker, "devices.patches", DeviceState, group="billing") as receiver:
            async for change in receiver:
                print(change.key, change.paths, change.message)

    Patches are applied by the receiver's rule and proven by their digest. A key with a gap keeps its last proven
    message and is asked for: the owner answers with a snapshot. A change is handed out at least once: its offset is
    committed after the next one was asked for, so that a crash repeats a few.

    A restart holds what it held where there is a `datadir`; else every key is stale until it changes or is asked for
    (`partial`, `is_stale`). Use it from one task at a time: asking for a change takes the one
    before, whoever has it. A cancelled wait loses nothing. Whoever works on one change
    for five minutes loses a group's partitions to others.
    """

    _thread: ThreadPoolExecutor | None = None
    _step: asyncio.Future[Result] | None = None

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"receiver-{self._topic}")
        try:
            await self._in_thread(self._open)
        except BaseException:
            # The thread may still be waiting for the topic: what it opens after all is closed there.
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
            self._thread = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[M]:
        """The next change, whenever it comes."""
        change = await self.next_change()
        while change is None:
            change = await self.next_change()
        return change

    async def next_change(self, timeout_ms: int | None = None) -> Change[M] | None:
        """The next change, or None when none came within `timeout_ms` (None: wait for it).

        Asking for it takes the one before. Raises TransportError, SchemaError and PatchError as reading does.
        """
        deadline_s = None if timeout_ms is None else self._clock.monotonic_s() + timeout_ms / 1000
        while True:
            change = self._follower.next_change()
            if change is not None:
                return change
            if self._follower.has_records:
                await asyncio.sleep(0)  # a long run of duplicates must not hold the event loop
                continue
            left_ms = FETCH_TIMEOUT_MS
            if deadline_s is not None:
                left_ms = min(left_ms, int((deadline_s - self._clock.monotonic_s()) * 1000))
                if left_ms < 0:
                    return None
            await self._advance(left_ms)

    async def catch_up(self, timeout_ms: int = 60_000) -> int:
        """Applies everything up to the end of the log as of now, without handing it out; returns how many changes.

        What it applied counts as taken. TimeoutError when the end is not reached in time. Keys with gaps may still
        wait for their snapshots afterwards (`stale_keys`).
        """
        try:
            async with asyncio.timeout(timeout_ms / 1000) as allowed:
                return await self._catch_up()
        except TimeoutError:
            if not allowed.expired():
                raise  # the caller's own
            raise too_late(self._topic, timeout_ms, is_assigned=self._follower.is_assigned) from None

    async def _catch_up(self) -> int:
        changes = 0
        while not self._follower.is_assigned:
            await self._advance(FETCH_TIMEOUT_MS)
        self._follower.look_again()
        await self._advance(0)
        ends = await self._in_thread(self._reader.ends)
        while True:
            while self._follower.next_change() is not None:
                changes += 1
            if self._follower.has_records:
                await asyncio.sleep(0)
            elif self._follower.has_reached(ends):
                return changes
            else:
                await self._advance(FETCH_TIMEOUT_MS)

    async def commit(self) -> None:
        """Commits everything handed out so far, the last change included."""
        self._follower.take()
        step = self._follower.settle()
        self._absorb(await self._in_thread(lambda: self._perform(step)))

    async def close(self) -> None:
        """Commits what was taken, leaves the group and closes. The change handed out last counts as not taken."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._step is not None:
            await asyncio.wait([self._step])  # what a cancelled call left behind; nobody asks for its records
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
        finally:
            thread.shutdown(wait=False)

    async def _advance(self, timeout_ms: int) -> None:
        """Does the next step, or waits for the one that a cancelled call left behind: its records are not lost."""
        if self._step is None:
            step = self._follower.plan(self._now_ms(), timeout_ms)
            self._step = asyncio.ensure_future(self._in_thread(lambda: self._perform(step)))
        under_way = self._step
        await asyncio.wait([under_way])
        if self._step is under_way:  # else another task has taken it in
            self._step = None
            self._absorb(under_way.result())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._check_process()
        if self._thread is None:
            raise self._not_open()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
