"""What an agent is offered at a time: a chunk, one event, or several of them. Each knows how to hand over a part of it,
and what it takes that a part is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from faust.exceptions import Skip
from faust.types import TP

from streams._native import Records
from streams.errors import RecordTooLargeError, StreamsError, TransportError, UnreadableRecordError
from streams.transport.allowance import sends_max
from streams.transport.arrivals import refusal
from streams.transport.chunk import NONE_REFUSED, Chunk, Output, sizes
from streams.transport.joining import Departing, Departures, Sends, header_list, working_on
from streams.transport.topic import Unreadable

__all__ = ["ChunkWork", "EventWork", "Place", "Work", "check"]


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int


class Work(Protocol):
    """Some records for an agent, in their order; a part of them is [first, end)."""

    tps: frozenset[TP]

    def __len__(self) -> int: ...

    async def open(self, first: int, end: int) -> Any:
        """What the agent gets for a part; Skip where a processor of the stream leaves nothing of it."""
        ...

    def close(self) -> None:
        """The agent is done with the part, or has raised: what it sent for it is dropped unless `keep` follows."""
        ...

    async def keep(self, first: int, end: int) -> None:
        """The part that was closed last is taken: its sends count, its offsets may move."""
        ...

    def sends(self) -> list[Departing]:
        """Those of the part that was closed last that have to arrive before it may be kept."""
        ...

    async def unsendable(self) -> BaseException | None:
        """Why what was sent for the part that was closed last can arrive nowhere, where that is known already."""
        ...

    def sample(self, index: int) -> Work:
        """A record that was taken, to be offered again on trial: nothing of it is kept."""
        ...

    def record(self, index: int) -> tuple[Records, int, Place]:
        """A record as it came, for its letter."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """The topics that refused what came of the one record of this work: see `Chunk.refused`."""
        ...

    async def bury(self, index: int, letter: Output) -> None:
        """The letter stands for the record from now on."""
        ...

    def place(self, first: int) -> Place:
        """Where the agent was in the part that begins here."""
        ...

    def set_aside(self) -> None:
        """Nobody is to wait for the agent to finish it."""
        ...

    @property
    def stale(self) -> bool:
        """The records were, or will be, fetched again."""
        ...


class ChunkWork:
    """A chunk. Where this agent alone reads it each part is committed by itself, else all of it at once."""

    def __init__(self, stream: Any, agent: str, event: Any, chunk: Chunk | None = None) -> None:
        """`chunk`: another than the event's."""
        self._stream = stream
        self._agent = agent
        self._event = event
        self._chunk: Chunk = chunk or event.value
        # Faust counts the agents that a message went to when it hands it out: the only moment that is certain.
        self._readers: int = event.message.refcount
        self._kept = self._chunk.share(agent)
        self._share: Chunk | None = None
        self._sends: Sends | None = None
        self.tps = frozenset({TP(self._chunk.topic, self._chunk.partition)})

    def __len__(self) -> int:
        return len(self._chunk)

    async def open(self, first: int, end: int) -> Chunk:
        """See `Work`."""
        self._share = self._chunk.share(self._agent, first, end)
        self._share.sends_max = sends_max(self._stream.app.consumer.pipeline.allowed)
        self._sends = Sends(self._share)
        working_on(self._sends)
        event = self._event
        self._stream.work_on(self._stream.app.create_event(event.key, self._share, event.headers, event.message))
        self._stream.app.consumer.pace.begun(self._share)
        return await self._stream.processed(self._share)  # type: ignore[no-any-return]

    def close(self) -> None:
        """See `Work`."""
        if self._sends is not None:
            self._sends.close()

    async def keep(self, first: int, end: int) -> None:
        """See `Work`."""
        assert self._share is not None  # it was offered
        await self._finish(self._share, end)

    def sends(self) -> list[Departing]:
        """They are in the chunk's transaction."""
        return []

    async def unsendable(self) -> BaseException | None:
        """A transaction that holds a record for a topic that does not exist fails for all that is in it.

        Rows of tables are in none: they are waited for, or a kill between them and the transaction lost them. Here,
        since chunks are finished in their order.
        """
        if self._sends is not None and (error := await refusal(self._sends.rows.close())) is not None:
            return error
        if self._share is None or not self._share.named:
            return None
        return await self._stream.app.producer.unsendable(self._share.named)  # type: ignore[no-any-return]

    async def _finish(self, share: Chunk, end: int) -> None:
        if self._readers == 1:
            share.whole = None
            await self._stream.app.consumer.chunk_done(share, 1)
            return
        if share.whole is self._chunk:
            self._kept.take_in(share)
        if end == len(self):
            await self._stream.app.consumer.chunk_done(self._kept, self._readers)

    def sample(self, index: int) -> Work:
        """See `Work`."""
        return ChunkWork(self._stream, self._agent, self._event, self._chunk.share(self._agent, index, index + 1))

    def record(self, index: int) -> tuple[Records, int, Place]:
        """See `Work`."""
        records = self._chunk.records
        return records, index, Place(self._chunk.topic, self._chunk.partition, records.offset(index))

    @property
    def refused(self) -> Mapping[str, int]:
        """See `Work`."""
        return self._chunk.refused

    async def bury(self, index: int, letter: Output) -> None:
        """See `Work`."""
        share = self._chunk.share(self._agent, index, index + 1)
        share.outputs.append(letter)
        await self._finish(share, index + 1)

    def place(self, first: int) -> Place:
        """See `Work`."""
        reached = self._share.reached if self._share is not None else 0
        return Place(self._chunk.topic, self._chunk.partition, self._chunk.records.offset(first + reached))

    def set_aside(self) -> None:
        """Nobody waits for chunks."""

    @property
    def stale(self) -> bool:
        """See `Work`."""
        return not self._stream.app.consumer.is_current(self._chunk)


def check(event: Any) -> None:
    """UnreadableRecordError for an event whose record its topic's codec could not read."""
    if isinstance(event.value, Unreadable):
        message = event.message
        raise UnreadableRecordError(message.topic, message.partition, message.offset, event.value.kind)


class EventWork:
    """Single events of ordinary topics; `several`: the agent gets a list of them, else it is one."""

    def __init__(self, stream: Any, events: Sequence[Any], *, several: bool, acking: bool, shape: Any = None) -> None:
        """`shape`: what a list holds of an event and its value; the value where there is none."""
        self._stream = stream
        self._events = list(events)
        self._several = several
        self._acking = acking
        self._shape = shape
        self._refused: Mapping[str, int] = NONE_REFUSED
        self._departures: Departures | None = None
        self._left: list[Departing] = []
        self.tps = frozenset([event.message.tp for event in events])
        if acking:  # partitions that go wait for it, unless it is set aside
            stream.app.consumer.unacked.update(event.message for event in events)

    def __len__(self) -> int:
        return len(self._events)

    async def open(self, first: int, end: int) -> Any:
        """See `Work`."""
        self._departures = departures = Departures()
        working_on(departures)
        values = []
        for event in self._events[first:end]:
            check(event)
            self._stream.work_on(event)
            try:
                value = await self._stream.processed(event.value)
            except Skip:
                continue
            values.append(self._shape(event, value) if self._shape is not None else value)
        if not values:
            raise Skip
        return values if self._several else values[0]

    def close(self) -> None:
        """What it sent is on its way."""
        assert self._departures is not None  # it was offered
        self._left = self._departures.close()

    def sends(self) -> list[Departing]:
        """See `Work`."""
        return self._left

    async def unsendable(self) -> None:
        """What does not arrive says so itself."""

    async def keep(self, first: int, end: int) -> None:
        """See `Work`."""
        for event in self._events[first:end]:
            if self._acking:
                await self._stream.ack(event)

    def sample(self, index: int) -> Work:
        """See `Work`."""
        events = self._events[index : index + 1]
        return EventWork(self._stream, events, several=self._several, acking=False, shape=self._shape)

    def record(self, index: int) -> tuple[Records, int, Place]:
        """See `Work`."""
        message = self._events[index].message
        records = Records()
        timestamp_ms = int(message.timestamp * 1000) if message.timestamp else -1
        records.append(message.key, message.value, header_list(message.headers), timestamp_ms, message.offset)
        return records, 0, self.place(index)

    @property
    def refused(self) -> Mapping[str, int]:
        """See `Work`."""
        return self._refused

    async def bury(self, index: int, letter: Output) -> None:
        """See `Work`."""
        working_on(None)
        topic, _, records = letter
        key, value, headers = records.key(0), records.value(0), records.headers(0)
        timestamp_s = records.timestamp_ms(0) / 1000 if records.timestamp_ms(0) >= 0 else None
        try:
            await self._stream.app.producer.send_and_wait(topic, key, value, None, timestamp_s, headers)
        except RecordTooLargeError:
            self._refused = {topic: max(sizes(records))}
            raise
        except StreamsError:
            raise
        except Exception as error:
            raise TransportError(f"{topic}: not written: {type(error).__name__}", retriable=True) from error
        await self._stream.ack(self._events[index])  # also where the agent acknowledges by itself: it never will

    def place(self, first: int) -> Place:
        """See `Work`."""
        message = self._events[first].message
        return Place(message.topic, message.partition, message.offset)

    def set_aside(self) -> None:
        """See `Work`."""
        for event in self._events:
            self._stream.set_aside(event)

    @property
    def stale(self) -> bool:
        """See `Work`."""
        generation = self._stream.app.consumer_generation_id
        return any(event.message.generation_id != generation for event in self._events)
