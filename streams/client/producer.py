"""The async producer: sends events, each acknowledged on its own, many in one hand-over."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from streams._native import Records
from streams.client.broker import (
    COMPRESSION,
    DELIVERY_TIMEOUT_MS,
    RECORD_BYTES_MAX,
    Ack,
    Outcome,
    Writer,
    WriterOptions,
)
from streams.client.connect import open_writer
from streams.client.event import Encoder, Event, Format, Record, size_of
from streams.client.parcels import Parcels, Tally
from streams.errors import TransportError
from streams.options import SecuritySettings

__all__ = ["Producer"]

BUFFER_RECORDS_MAX = 10_000
"""Events accepted and not yet acknowledged; a send waits while there are so many. Ten milliseconds of a fast broker."""
BUFFER_BYTES_MAX = 32 << 20
"""The same in bytes, as Kafka's own producer has it by default."""

Waiting = asyncio.Future[Sequence[Outcome]]


class _Bundle:
    """Events for one topic on their way together, and who waits for which of them."""

    def __init__(self, settled: asyncio.Future[None]) -> None:
        self.records = Records()
        self.size = 0
        self.settled = settled
        self._waiting: list[tuple[int, Waiting]] = []  # with the number of its records

    def add(self, records: Sequence[Record], size: int, waiting: Waiting) -> None:
        for key, value, headers in records:
            self.records.append(key, value, headers)
        self.size += size
        self._waiting.append((len(records), waiting))

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        at = 0
        for count, waiting in self._waiting:
            if not waiting.done():  # a cancelled send: its event went all the same
                waiting.set_result(outcomes[at : at + count])
            at += count
        self.settled.set_result(None)

    def fail(self, error: BaseException) -> None:
        for _, waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self.settled.set_result(None)


class Producer:
    """Sends events to topics of full states.

        async with Producer(broker, source="/ingest") as producer:
            ack = await producer.send("devices", state, key=state.device_id, sequence=7)

    Events of one key keep the order in which they were sent. While one batch is under way the next one gathers: many
    sends at once cost little more than one. An event is acknowledged once all replicas in sync have it. A send that
    is cancelled may still be delivered. For one event loop; in one process any number may be used.
    """

    def __init__(
        self,
        broker: str,
        source: str = "",
        *,
        format: Format = "cloudevents",
        schema_id: int | uuid.UUID | None = None,
        security: SecuritySettings | None = None,
        delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
        record_bytes_max: int = RECORD_BYTES_MAX,
        compression: str = COMPRESSION,
        buffer_records_max: int = BUFFER_RECORDS_MAX,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        """Nothing is opened before `async with`. SettingsError when the arguments do not go together.

        `broker`: `kafka://host:port[,host:port]`, or `embedded://directory` in the process that owns the directory.
        `source`: who sends, a URI reference; with an event's id it is the event's identity. Wanted for CloudEvents.
        `format`: CloudEvents structured Protobuf, plain Protobuf, or Confluent framing with `schema_id` (the registry's
        id or GUID; no registry is asked).
        """
        self._encoder = Encoder(format, source, schema_id=schema_id, record_bytes_max=record_bytes_max)
        self._broker = broker
        self._options = WriterOptions(security, delivery_timeout_ms, record_bytes_max, compression)
        self._records_max = buffer_records_max
        self._bytes_max = buffer_bytes_max
        self._records = 0  # accepted and not settled
        self._bytes = 0
        self._turnstile = asyncio.Lock()  # sends that find no room pass it one by one, first come first served
        self._entering: set[asyncio.Future[None]] = set()  # one for each send that waits for room
        self._room = asyncio.Event()
        self._bundles: dict[str, _Bundle] = {}
        self._in_flight: _Bundle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writer: Writer | None = None
        self._process = 0  # id of the process that opened it

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            raise TransportError("the producer is open already; use one `async with` for it, or make another producer")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="producer")
        self._process = os.getpid()
        self._writer = await asyncio.get_running_loop().run_in_executor(
            self._thread, open_writer, self._broker, self._options
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self,
        topic: str,
        message: Message | bytes | None,
        *,
        key: bytes | str,
        sequence: int | None = None,
        id: str | None = None,
        time: datetime | None = None,
        traceparent: str | None = None,
        headers: Mapping[str, bytes | str] | None = None,
        type: str | None = None,
        delete: bool = False,
    ) -> Ack:
        """Sends one event and waits until it is acknowledged; returns where it is. The arguments are `Event`'s.

        `delete`, or None as the message, ends the entity. Waits while the buffer is full. Raises ValueError for an
        event that the format cannot say, and RecordTooLargeError, UnknownTopicError, BrokerUnreachableError or another
        TransportError when it was not taken.
        """
        event = Event(message, key, sequence, id, time, traceparent, headers or {}, type, delete)
        record = self._encoder.encode(topic, event)
        outcome = (await (await self._hand_over(topic, [record], size_of(record))))[0]
        if isinstance(outcome, Ack):
            return outcome
        raise outcome

    async def send_many(self, topic: str, events: Iterable[Event] | AsyncIterable[Event]) -> int:
        """Sends events in order, many at a time, and returns how many when all are acknowledged.

        After a failure no further event is taken from `events`; those under way are waited for, and the first failure
        is raised with a note that says how many were acknowledged.
        """
        tally = Tally()
        under_way: deque[Waiting] = deque()
        try:
            async for records, size in self._parcels(topic, events):
                under_way.append(await self._hand_over(topic, records, size))
                while under_way and under_way[0].done():
                    tally.count(under_way.popleft().result())
                if tally.failure is not None:
                    break
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterator raised; raised again below
            tally.failure = error
        while under_way:
            tally.count(await under_way.popleft())
        return tally.result()

    async def flush(self) -> None:
        """Waits until everything sent before is acknowledged or failed; who sent it gets to know which.

        Sends that wait for room in the buffer were sent before, too.
        """
        if self._entering:
            await asyncio.wait(set(self._entering))
        bundles = [*self._bundles.values(), *([self._in_flight] if self._in_flight is not None else [])]
        if bundles:
            await asyncio.wait([bundle.settled for bundle in bundles])

    async def create_topic(self, topic: str, partitions: int) -> None:
        """Makes a topic; one that exists is left as it is. TransportError when it cannot be made."""
        writer, thread = self._open()
        await asyncio.get_running_loop().run_in_executor(thread, writer.create_topic, topic, partitions)

    async def close(self) -> None:
        """Waits for what is under way, at most the delivery timeout, and closes. No send may be made any more."""
        writer, self._writer = self._writer, None
        thread = self._thread
        if writer is None or thread is None or self._process != os.getpid():
            return  # closed before, or its parent's
        try:
            if self._sender is not None:
                await asyncio.wait([self._sender])
        finally:
            thread.submit(writer.close)
            await asyncio.get_running_loop().run_in_executor(None, thread.shutdown)

    def _open(self) -> tuple[Writer, ThreadPoolExecutor]:
        if self._writer is None or self._thread is None:
            raise TransportError("the producer is not open; use it inside `async with`, and not after")
        if self._process != os.getpid():
            raise TransportError("the producer was opened before a fork; open one in each process")
        return self._writer, self._thread

    async def _parcels(
        self, topic: str, events: Iterable[Event] | AsyncIterable[Event]
    ) -> AsyncIterator[tuple[list[Record], int]]:
        """The events' records in runs that are worth a hand-over, with their size."""
        cut = Parcels(self._encoder, topic)
        if isinstance(events, AsyncIterable):
            async for event in events:
                if parcel := cut.add(event):
                    yield parcel
        else:
            for event in events:
                if parcel := cut.add(event):
                    yield parcel
        if parcel := cut.rest():
            yield parcel

    async def _hand_over(self, topic: str, records: Sequence[Record], size: int) -> Waiting:
        """Puts records into the buffer, as soon as there is room; the future gets what became of them."""
        writer, thread = self._open()
        loop = asyncio.get_running_loop()
        if self._turnstile.locked() or not self._has_room(len(records), size):
            entered: asyncio.Future[None] = loop.create_future()
            self._entering.add(entered)
            try:
                async with self._turnstile:
                    while not self._has_room(len(records), size):
                        self._room.clear()
                        await self._room.wait()
                    self._open()
            finally:
                self._entering.discard(entered)
                entered.set_result(None)
        bundle = self._bundles.get(topic)
        if bundle is None:
            bundle = self._bundles[topic] = _Bundle(loop.create_future())
        waiting: Waiting = loop.create_future()
        bundle.add(records, size, waiting)
        self._records += len(records)
        self._bytes += size
        if self._sender is None:
            self._sender = loop.create_task(self._drain(writer, thread))
        return waiting

    def _has_room(self, records: int, size: int) -> bool:
        """Whether the buffer takes so much more; an empty one takes anything."""
        fits = self._records + records <= self._records_max and self._bytes + size <= self._bytes_max
        return fits or self._records == 0

    async def _drain(self, writer: Writer, thread: ThreadPoolExecutor) -> None:
        """Sends bundles until none is left. What is sent while one is under way gathers in the next."""
        try:
            while self._bundles:
                topic = next(iter(self._bundles))
                bundle = self._in_flight = self._bundles.pop(topic)
                written = asyncio.get_running_loop().run_in_executor(thread, writer.write, topic, bundle.records)
                await asyncio.wait([written])
                error = written.exception()
                if error is None:
                    bundle.settle(written.result())
                else:
                    bundle.fail(error)
                self._records -= len(bundle.records)
                self._bytes -= bundle.size
                self._room.set()
                self._in_flight = None
        finally:
            # Only an event loop that ends in the middle leaves any: nobody must wait for what nobody sends.
            for bundle in [*self._bundles.values(), *([self._in_flight] if self._in_flight is not None else [])]:
                bundle.fail(
                    TransportError("the event loop ended before the event was acknowledged; it may have arrived")
                )
            self._bundles.clear()
            self._in_flight = self._sender = None
