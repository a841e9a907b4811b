"""Events that an agent has taken, and whose sends have not arrived yet: only then are they done.

An ordinary agent's sends go out by themselves, and Faust's `await topic.send(...)` returns when the send is queued: the
offset moved past an event whose send the broker refused afterwards.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from streams.transport.joining import Departing

__all__ = ["Arrivals", "refusal"]

UNDER_WAY_MAX = 1_000
"""Events whose sends are under way. An agent that outruns the broker by so many waits, rather than gather memory."""

T = TypeVar("T")


class Arrivals(Generic[T]):
    """One per actor. `T`: what was taken.

    They are looked at in their order by one task: sends arrive in batches, and a callback for each costs as much as the
    send.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake`: called when something came back."""
        self._wake = wake
        self._under_way: deque[tuple[T, Sequence[Departing], Callable[[], Awaitable[None]]]] = deque()
        self._settling: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self.refused: deque[tuple[T, BaseException]] = deque()
        """What was taken in vain: a send of it did not arrive."""

    async def expect(self, taken: T, sends: Sequence[Departing], keep: Callable[[], Awaitable[None]]) -> None:
        """Calls `keep` once all the sends have arrived. Waits only while there are too many."""
        self._under_way.append((taken, sends, keep))
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle(), name="arrivals")
        while len(self._under_way) >= UNDER_WAY_MAX:
            self._room.clear()
            await self._room.wait()

    async def _settle(self) -> None:
        while self._under_way:
            taken, sends, keep = self._under_way[0]
            error = await refusal(sends)
            self._under_way.popleft()
            self._room.set()
            if error is None:
                await keep()
            else:
                self.refused.append((taken, error))
                self._wake()


async def refusal(sends: Sequence[Departing]) -> BaseException | None:
    """Waits for sends; what became of the first that did not arrive."""
    for send in sends:
        if not send.future.done():
            await _end_of(send.future)
    return next((error for send in sends if (error := send.error()) is not None), None)


async def _end_of(send: asyncio.Future[Any]) -> None:
    """Waits until it is done, whatever became of it; what asyncio has for that costs several times as much."""
    ended = asyncio.get_running_loop().create_future()

    def end(_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    send.add_done_callback(end)
    await ended
