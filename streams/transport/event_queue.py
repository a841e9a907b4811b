"""The queue between the consumer and one agent: bounded by what its events hold as well as by their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from faust.types import TP
from mode.utils.queues import ThrowableQueue
from typing_extensions import override

__all__ = ["EventQueue"]

BYTES_MAX = 32 << 20
"""Keys and values of the events that wait, a chunk being one: four chunks of the largest usual size. 4,096 events of a
megabyte each would be four gigabytes for every agent that is slower than the broker. One event is always let in."""


STILL_S = 1.0
"""So long all agents wait for one whose queue is full: it may be slower than the broker. One that stands still longer
has its partitions to itself."""


class EventQueue(ThrowableQueue[Any]):
    """Faust's queue of a channel. Whoever puts an event waits while it is full, and nothing more is fetched then.

    All agents wait with him, so he does not for an agent that stands still: of its partitions nothing more is fetched,
    and what is on its way comes in.
    """

    def __init__(
        self,
        *args: Any,
        hold: Callable[[TP], None] = lambda _: None,
        release: Callable[[set[TP]], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        """`hold`: a partition is not to be fetched; `release`: these are fetched again."""
        self._hold = hold
        self._release = release
        self._held: set[TP] = set()
        super().__init__(*args, **kwargs)

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    @override
    async def put(self, value: Any) -> None:
        message = getattr(value, "message", None)
        if message is None:  # a local channel's, which holds up nobody else
            await super().put(value)
            return
        await self._flow_control.acquire()
        if not self._held:
            try:
                await asyncio.wait_for(super().put(value), STILL_S)
                return
            except TimeoutError:
                pass
        tp = message.tp
        self._held.add(tp)
        self._hold(tp)
        self.force_put_nowait(value)

    def _go_on(self) -> None:
        held, self._held = self._held, set()
        self._release(held)

    @override
    def full(self) -> bool:
        return self._bytes >= BYTES_MAX or super().full()

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= _size(item)
        if self._held and self._bytes <= BYTES_MAX / 2 and self.qsize() <= self.maxsize / 2:
            self._go_on()
        return item

    @override
    def clear(self) -> None:
        super().clear()
        self._bytes = 0
        if self._held:
            self._go_on()


def _size(event: Any) -> int:
    """Bytes of an event of a topic; what a local channel holds is its owner's business."""
    message = getattr(event, "message", None)
    if message is None:
        return 0
    return int(message.serialized_key_size or 0) + int(message.serialized_value_size or 0)
