"""An event to send, and the Kafka record it becomes. Pure: no clock but the one passed in, no I/O.

A CloudEvent is the default form, because its id and sequence let the worker drop what a retry repeats. Plain and
Confluent-framed records have no room for either; asking for them there is an error, not a silent loss.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, get_args

from google.protobuf.message import Message

from streams.errors import Finding, RecordTooLargeError, SettingsError
from streams.kernel import envelope
from streams.kernel.messages import descriptor_of

__all__ = ["Encoder", "Event", "Format", "Record", "raw_bytes", "size_of"]

Format = Literal["cloudevents", "plain", "confluent"]

SEQUENCE_MAX = 2**64 - 1
"""The sequence travels as an unsigned 64-bit decimal."""
DELETE_TYPE = "delete"
"""CloudEvents demand a type; a delete that is given none says what it does."""

WHAT_IT_IS = ("ce_", "content-type", "contenttype", "content-encoding", "__value_schema_id")
"""How names of headers begin that say what a record is: beside a CloudEvent of ours they make it another thing."""
SCHEMA_ID_MAX = 2**32 - 1

Record = tuple[bytes, bytes | None, list[tuple[str, bytes | None]]]
"""Key, value and headers of a Kafka record."""


@dataclass(frozen=True, slots=True)
class Event:
    """The full state of one entity at one moment, or its end.

    `message` is a Protobuf message, or its bytes with `type` naming it; None, or `delete`, ends the entity. `key` is
    the entity key: it decides the partition, and so the order. `sequence` is the source's own number of the event (0 to
    2^64-1, growing per source). `id` with the producer's source is the event's identity (default: a new UUID; give your
    own where a retry may send the event again). `time` must have a time zone. `headers` are the record's own; in format
    cloudevents none that says what the record is (`content-type`, `content-encoding`, `ce_...`).
    """

    message: Message | bytes | None = field(repr=False)
    key: bytes | str = field(repr=False)
    sequence: int | None = None
    id: str | None = None
    time: datetime | None = None
    traceparent: str | None = None
    headers: Mapping[str, bytes | str] = field(default_factory=dict)
    type: str | None = None
    delete: bool = False


class Encoder:
    """Makes records of events, all in one format and from one source."""

    def __init__(
        self, format: Format, source: str, *, schema_id: int | uuid.UUID | None = None, record_bytes_max: int
    ) -> None:
        """`schema_id` is what a schema registry calls the schema; wanted for `confluent`, asked from nobody.

        SettingsError when they do not go together.
        """
        findings = []
        if format not in get_args(Format):
            findings.append(Finding("format", repr(format), "cloudevents, plain or confluent"))
        if format == "cloudevents" and not source:
            findings.append(Finding("source", "nothing", "a URI reference", "name this producer, for example /ingest"))
        elif not _is_text(source):
            findings.append(Finding("source", "what is no UTF-8", "a URI reference"))
        if (format == "confluent") != (schema_id is not None):
            came = "none" if schema_id is None else f"{schema_id} with format {format}"
            findings.append(Finding("schema_id", came, "the schema's id or GUID with format confluent, and only there"))
        elif isinstance(schema_id, int) and not 0 <= schema_id <= SCHEMA_ID_MAX:
            findings.append(Finding("schema_id", str(schema_id), f"0 to {SCHEMA_ID_MAX}"))
        if findings:
            raise SettingsError(*findings)
        self._format = format
        self._source = source
        self._schema_id = schema_id
        self._record_bytes_max = record_bytes_max
        self._prefixes: dict[str, bytes] = {}

    def encode(self, topic: str, event: Event) -> Record:
        """The record of one event.

        ValueError when the event cannot be said in this format, RecordTooLargeError when the record would be larger
        than `record_bytes_max`; `topic` is for that error.
        """
        _check(topic, event)
        key = raw_bytes("event key", event.key)
        if not key:
            raise ValueError(f"event for {topic}: got an empty key, expected the entity key; it decides the partition")
        data, type_name = _data(event)
        if self._format == "cloudevents":
            value, headers = self._cloudevent(event, key, data, type_name)
        else:
            value, headers = self._bare(event, data)
        record: Record = key, value, [*headers, *self._own_headers(event)]
        size = size_of(record)
        if size > self._record_bytes_max:
            raise RecordTooLargeError(topic, size, self._record_bytes_max)
        return record

    def _own_headers(self, event: Event) -> list[tuple[str, bytes]]:
        """The headers that came with the event."""
        found = []
        for name, text in event.headers.items():
            if not isinstance(name, str) or not _is_text(name):
                raise ValueError("event header: got a name that is no UTF-8 text, expected such a name")
            if self._format == "cloudevents" and name.lower().startswith(WHAT_IT_IS):
                raise ValueError(
                    f"event header {name}: it says what a record is, and this one is a CloudEvent of the producer; use "
                    "the event's own arguments, or format plain where all headers are yours"
                )
            found.append((name, raw_bytes(f"event header {name}", text)))
        return found

    def _cloudevent(
        self, event: Event, key: bytes, data: bytes | None, type_name: str
    ) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        if data is not None and not type_name:
            raise ValueError("event with bytes as its message: got no type, expected the full name of the message type")
        attributes = envelope.Event(
            id=event.id or str(uuid.uuid4()),
            source=self._source,
            type=type_name or DELETE_TYPE,
            data=data,
            subject=_text(key),
            time=event.time,
            sequence=event.sequence,
            traceparent=event.traceparent or "",
        )
        return envelope.binary(attributes) if data is None else envelope.structured(attributes)

    def _bare(self, event: Event, data: bytes | None) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """A record whose value is the message, framed or not."""
        given = {"sequence": event.sequence, "id": event.id, "time": event.time}
        lost = [name for name, value in given.items() if value is not None]
        if lost:
            raise ValueError(
                f"event with {', '.join(lost)}: format {self._format} has no place for that; use format cloudevents, "
                "or leave it out and put the sequence into a field of the message (`sequence = field:...`)"
            )
        headers = [(envelope.TRACEPARENT, event.traceparent.encode())] if event.traceparent else []
        if data is None or self._schema_id is None:
            return data, headers
        if not isinstance(event.message, Message):
            raise ValueError("event with bytes as its message: format confluent needs the message itself, to name it")
        descriptor = descriptor_of(event.message)
        prefix = self._prefixes.get(descriptor.full_name)
        if prefix is None:
            prefix = envelope.confluent_prefix(self._schema_id, envelope.message_index(descriptor))
            self._prefixes[descriptor.full_name] = prefix
        return prefix + data, headers


def _check(topic: str, event: Event) -> None:
    """ValueError for what no format can say, by name: values stay out of it, they may be anybody's."""
    if not isinstance(topic, str) or not _is_text(topic):
        raise ValueError("topic of an event: got a name that is no UTF-8 text, expected such a name")
    if not isinstance(event, Event):
        raise ValueError(f"event for {topic}: got {_kind(event)}, expected an Event")
    if not isinstance(event.message, Message | bytes | bytearray | memoryview | None):
        raise ValueError(f"event for {topic}: got {_kind(event.message)}, expected a Protobuf message, bytes or None")
    for name, text in {"id": event.id, "type": event.type, "traceparent": event.traceparent}.items():
        if text is not None and not (isinstance(text, str) and _is_text(text)):
            raise ValueError(f"event {name}: got {_kind(text)} that is no UTF-8 text, expected such text")
    if event.time is not None:
        if not isinstance(event.time, datetime) or event.time.tzinfo is None:
            raise ValueError("event time: got one without a time zone, expected an aware datetime such as UTC")
        try:
            event.time.astimezone(UTC)
        except OverflowError:
            raise ValueError("event time: got one outside of the years 1 to 9999 in UTC, expected one within") from None
    sequence: object = event.sequence
    if sequence is not None and (isinstance(sequence, bool) or not isinstance(sequence, int)):
        raise ValueError(f"event sequence: got {_kind(sequence)}, expected 0 to {SEQUENCE_MAX}")
    if sequence is not None and not 0 <= sequence <= SEQUENCE_MAX:
        raise ValueError(f"event sequence: got {sequence}, expected 0 to {SEQUENCE_MAX}")
    if not isinstance(event.headers, Mapping):
        raise ValueError(f"event headers: got {_kind(event.headers)}, expected a mapping of names to text or bytes")


def _kind(value: object) -> str:
    """What came, without its value."""
    return type(value).__name__


def raw_bytes(what: str, value: object) -> bytes:
    """The bytes of a text, or of bytes in any form."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"{what}: got {_kind(value)}, expected text or bytes")
    if not _is_text(value):
        raise ValueError(f"{what}: got text that is no UTF-8, expected such text, or bytes")
    return value.encode()


def _is_text(value: str) -> bool:
    """Whether a string is text at all: what Python reads from a terminal or a file name may be half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _data(event: Event) -> tuple[bytes | None, str]:
    """The message's deterministic bytes, None for a delete, and the full name of its type."""
    if not isinstance(event.message, Message):
        held = bytes(event.message) if event.message is not None else None
        return None if event.delete else held, event.type or ""
    name = event.type or event.message.DESCRIPTOR.full_name
    return None if event.delete else event.message.SerializeToString(deterministic=True), name


def size_of(record: Record) -> int:
    """Bytes of a record's key, value and headers, as limits count them."""
    key, value, headers = record
    return len(key) + len(value or b"") + sum(len(name) + len(held or b"") for name, held in headers)


def _text(key: bytes) -> str:
    """The key as the event's subject; empty where it is no text."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return ""
