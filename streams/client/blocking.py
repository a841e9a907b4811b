"""Producer and receiver for code without an event loop: the same arguments, the same promises, calls that wait."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
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
from streams.client.change import Change, M
from streams.client.connect import open_writer
from streams.client.event import Encoder, Event, Format, Record
from streams.client.following import FETCH_TIMEOUT_MS, Following, too_late
from streams.client.parcels import Parcels, Tally
from streams.errors import TransportError
from streams.options import SecuritySettings

__all__ = ["BlockingProducer", "BlockingReceiver"]


class BlockingProducer:
    """Sends events to topics of full states; every call returns when its events are acknowledged.

        with BlockingProducer(broker, source="/ingest") as producer:
            producer.send("devices", state, key=state.device_id, sequence=7)

    May be used from several threads; each thread's events keep their order. For throughput use `send_many`.
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
    ) -> None:
        """The arguments are `Producer`'s. Nothing is opened before `with`."""
        self._encoder = Encoder(format, source, schema_id=schema_id, record_bytes_max=record_bytes_max)
        self._broker = broker
        self._options = WriterOptions(security, delivery_timeout_ms, record_bytes_max, compression)
        self._opened: Writer | None = None
        self._process = 0  # id of the process that opened it

    def __enter__(self) -> Self:
        if self._opened is not None:
            raise TransportError("the producer is open already; use one `with` for it, or make another producer")
        self._opened = open_writer(self._broker, self._options)
        self._process = os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(
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
        """Sends one event and waits until it is acknowledged; returns where it is. As `Producer.send`."""
        event = Event(message, key, sequence, id, time, traceparent, headers or {}, type, delete)
        outcome = self._write(topic, [self._encoder.encode(topic, event)])[0]
        if isinstance(outcome, Ack):
            return outcome
        raise outcome

    def send_many(self, topic: str, events: Iterable[Event]) -> int:
        """Sends events in order, many at a time, and returns how many when all are acknowledged.

        After a failure no further event is taken from `events`; the first failure is raised with a note that says how
        many were acknowledged.
        """
        tally = Tally()
        cut = Parcels(self._encoder, topic)
        try:
            for event in events:
                if parcel := cut.add(event):
                    tally.count(self._write(topic, parcel[0]))
                    if tally.failure is not None:
                        break
            else:
                if parcel := cut.rest():
                    tally.count(self._write(topic, parcel[0]))
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterator raised; raised again below
            tally.failure = error
        return tally.result()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Makes a topic; one that exists is left as it is. TransportError when it cannot be made."""
        self._writer.create_topic(topic, partitions)

    def close(self) -> None:
        """Closes. Nothing is under way but calls of other threads, which must have returned."""
        writer, self._opened = self._opened, None
        if writer is not None and self._process == os.getpid():  # not its parent's
            writer.close()

    @property
    def _writer(self) -> Writer:
        if self._opened is None:
            raise TransportError("the producer is not open; use it inside `with`, and not after")
        if self._process != os.getpid():
            raise TransportError("the producer was opened before a fork; open one in each process")
        return self._opened

    def _write(self, topic: str, encoded: Sequence[Record]) -> list[Outcome]:
        records = Records()
        for key, value, headers in encoded:
            records.append(key, value, headers)
        return self._writer.write(topic, records)


class BlockingReceiver(Following[M]):
    """Follows the patches of one topic, keeps the current message of every key, and yields each change.

        with BlockingReceiver(broker, "devices.patches", DeviceState, group="billing") as receiver:
            for change in receiver:
                print(change.key, change.paths, change.message)

    Its promises are `Receiver`'s. For one thread; calls less than five minutes apart keep a group's partitions. It may
    be used on after a wait that Ctrl-C or a signal's handler ended.
    """

    _is_cut_short = False
    _inside = 0  # the thread that does a step

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change[M]:
        """The next change, whenever it comes."""
        change = self.next_change()
        while change is None:
            change = self.next_change()
        return change

    def next_change(self, timeout_ms: int | None = None) -> Change[M] | None:
        """The next change, or None when none came within `timeout_ms` (None: wait for it).

        Asking for it takes the one before. Raises TransportError, SchemaError and PatchError as reading does.
        """
        deadline_s = None if timeout_ms is None else self._clock.monotonic_s() + timeout_ms / 1000
        while True:
            change = self._follower.next_change()
            if change is not None:
                return change
            left_ms = FETCH_TIMEOUT_MS
            if deadline_s is not None:
                left_ms = min(left_ms, int((deadline_s - self._clock.monotonic_s()) * 1000))
                if left_ms < 0:
                    return None
            if not self._follower.has_records:
                self._advance(left_ms)

    def catch_up(self, timeout_ms: int = 60_000) -> int:
        """Applies everything up to the end of the log as of now, without handing it out; returns how many changes.

        What it applied counts as taken. TimeoutError when the end is not reached in time. Keys with gaps may still
        wait for their snapshots afterwards (`stale_keys`).
        """
        changes = 0
        deadline_s = self._clock.monotonic_s() + timeout_ms / 1000
        while not self._follower.is_assigned:
            self._advance(FETCH_TIMEOUT_MS)
            self._check(deadline_s, timeout_ms)
        self._follower.look_again()
        self._advance(0)
        ends = self._reader.ends()
        while True:
            while self._follower.next_change() is not None:
                changes += 1
            self._check(deadline_s, timeout_ms)
            if self._follower.has_records:
                continue
            if self._follower.has_reached(ends):
                return changes
            self._advance(FETCH_TIMEOUT_MS)

    def commit(self) -> None:
        """Commits everything handed out so far, the last change included."""
        self._follower.take()
        self._absorb(self._perform(self._follower.settle()))

    def close(self) -> None:
        """Commits what was taken, leaves the group and closes. The change handed out last counts as not taken."""
        self._close()

    def _advance(self, timeout_ms: int) -> None:
        if self._inside not in (0, threading.get_ident()):
            raise TransportError(f"the receiver of {self._topic} is used by another thread; give each one its own")
        self._inside = threading.get_ident()
        try:
            self._do_step(timeout_ms)
        finally:
            self._inside = 0

    def _do_step(self, timeout_ms: int) -> None:
        if self._is_cut_short:
            self._follower.places.rewind()
        # A signal's handler may raise in the middle, mostly where the wait ends: what was fetched is fetched again.
        self._is_cut_short = True
        result = self._perform(self._follower.plan(self._now_ms(), timeout_ms))
        self._is_cut_short = False
        self._absorb(result)

    def _check(self, deadline_s: float, timeout_ms: int) -> None:
        if self._clock.monotonic_s() > deadline_s:
            raise too_late(self._topic, timeout_ms, is_assigned=self._follower.is_assigned)
