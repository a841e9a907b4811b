"""The queue between the consumer and one agent: bounded by what its events hold as well as by their number."""

from __future__ import annotations

from typing import Any

from mode.utils.queues import ThrowableQueue
from typing_extensions import override

__all__ = ["EventQueue"]

BYTES_MAX = 32 << 20
"""Keys and values of the events that wait, a chunk being one: four chunks of the largest usual size. 4,096 events of a
megabyte each would be four gigabytes for every agent that is slower than the broker. One event is always let in."""


class EventQueue(ThrowableQueue[Any]):
    """Faust's queue of a channel. Whoever puts an event waits while it is full, and nothing more is fetched then."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    @override
    def full(self) -> bool:
        return self._bytes >= BYTES_MAX or super().full()

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= _size(item)
        return item

    @override
    def clear(self) -> None:
        super().clear()
        self._bytes = 0


def _size(event: Any) -> int:
    """Bytes of an event of a topic; what a local channel holds is its owner's business."""
    message = getattr(event, "message", None)
    if message is None:
        return 0
    return int(message.serialized_key_size or 0) + int(message.serialized_value_size or 0)
