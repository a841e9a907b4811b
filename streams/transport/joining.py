"""Sends from an agent that works on a chunk: they join the chunk's transaction instead of going out by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Mapping
from contextvars import ContextVar
from typing import Any

from faust.types import TP, RecordMetadata

from streams.errors import ChunkClosed
from streams.transport.chunk import Chunk

__all__ = ["Departing", "Departures", "Sends", "going_out", "header_list", "join_chunk", "joins", "soon", "working_on"]

SIFT_AT = 1_000
"""So many sends of one event, or twice as many as were on their way at the last time, are looked through for those that
have arrived: an event may make millions of them, and what is under way is bounded by the producer."""


class Sends:
    """Where the sends of an agent for its share of a chunk go, for as long as it works on it.

    Tasks that the agent starts inherit it and may outlive the chunk: they hold this, not the records.
    """

    __slots__ = ("_agent", "_chunk", "_place", "rows")

    def __init__(self, share: Chunk) -> None:
        self.rows = Departures()
        """Of tables: these go out by themselves, and the share is done with them."""
        self._chunk: Chunk | None = share
        self._agent = share.agent
        self._place = (share.topic, share.partition, share.last)

    @property
    def chunk(self) -> Chunk:
        """The share. ChunkClosed once the agent is done with it."""
        if self._chunk is None:
            raise ChunkClosed(self._agent, *self._place)
        return self._chunk

    def close(self) -> None:
        """Nothing joins the share any more."""
        if self._chunk is not None:
            self._chunk.closed = True
        self._chunk = None


class Departing:
    """A send that goes out by itself, as its sender gets it: the future of it, and whether the sender has awaited that.

    No future of its own: one that repeats another costs as much as the send.
    """

    __slots__ = ("__weakref__", "awaited", "future")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.awaited = False

    def __await__(self) -> Generator[Any, None, Any]:
        self.awaited = True
        return self.future.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.future, name)

    def error(self) -> BaseException | None:
        """Why it did not arrive, now that it is done."""
        return asyncio.CancelledError() if self.future.cancelled() else self.future.exception()

    @property
    def settled(self) -> bool:
        """Whether it arrived, or its sender knows what became of it."""
        return self.future.done() and (self.awaited or self.error() is None)


class Departures:
    """Sends of an agent that go out by themselves, for the single events in its hands: these are done with the sends.

    Those of a task that outlives the event belong to nobody.
    """

    __slots__ = ("_closed", "_sends", "_sift_at")

    def __init__(self) -> None:
        self._sends: list[Departing] = []
        self._closed = False
        self._sift_at = SIFT_AT

    def add(self, send: Departing) -> None:
        """One more that is on its way."""
        if self._closed:
            return
        if len(self._sends) >= self._sift_at:
            self._sends = [one for one in self._sends if not one.settled]
            self._sift_at = max(SIFT_AT, 2 * len(self._sends))
        self._sends.append(send)

    def close(self) -> list[Departing]:
        """Those that have not arrived, now that the agent is done."""
        self._closed = True
        sends, self._sends = self._sends, []
        return [send for send in sends if not send.settled]


_SENDS: ContextVar[Sends | Departures | None] = ContextVar("streams_sends", default=None)


def working_on(sends: Sends | Departures | None) -> None:
    """What this task, and those that it starts from here on, send joins these; None: it is nobody's."""
    _SENDS.set(sends)


def joins() -> bool:
    """Whether a send here joins a chunk. ChunkClosed where it would and the agent is done with it."""
    sends = _SENDS.get()
    return isinstance(sends, Sends) and sends.chunk is not None


def going_out(send: Awaitable[Any]) -> Awaitable[Any]:
    """A send that joins no chunk is on its way: the event that the current agent works on is not done before it is.

    What the sender gets instead: where it awaits that, what becomes of the send is the sender's business.
    """
    sends = _SENDS.get()
    if not isinstance(sends, Departures):
        return send
    departing = Departing(asyncio.ensure_future(send))
    sends.add(departing)
    return departing


def soon(send: Any) -> bool:
    """As `going_out`, of one that waits to be sent (Faust's FutureMessage). Whether it has joined a chunk instead.

    A table's rows join none: they go out by themselves, whoever writes them. ChunkClosed: too late.
    """
    sends, message = _SENDS.get(), send.message
    if sends is None:
        return False
    if isinstance(sends, Departures) or message.channel.internal:
        (sends if isinstance(sends, Departures) else sends.rows).add(Departing(send))
        return False
    topic = message.channel.get_topic_name()
    joined = join_chunk(topic, message.key, message.value, message.partition, message.timestamp, message.headers)
    assert joined is not None  # there is a chunk
    send.set_result(joined.result())
    if message.callback is not None:
        message.callback(send)
    return True


def header_list(headers: Any) -> list[tuple[str, bytes | None]]:
    """Faust takes headers as a mapping, as pairs, or not at all."""
    return list(headers.items() if isinstance(headers, Mapping) else headers or ())


def join_chunk(
    topic: str, key: bytes | None, value: bytes | None, partition: int | None, timestamp: float | None, headers: Any
) -> asyncio.Future[RecordMetadata] | None:
    """Adds a send to the chunk that the current agent works on; None outside of chunk agents. ChunkClosed: too late.

    The future is done: the offset is known only after the chunk's transaction, -1 says so.
    """
    sends = _SENDS.get()
    if not isinstance(sends, Sends):
        return None
    sends.chunk.send(
        topic,
        key=key,
        value=value,
        headers=header_list(headers),
        partition=-1 if partition is None else partition,
        timestamp_ms=int(timestamp * 1000) if timestamp else -1,
    )
    joined: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
    joined.set_result(RecordMetadata(topic, partition or 0, TP(topic, partition or 0), -1))
    return joined
