"""How an event travels in a Kafka record: built here for producers, and recognised as the worker's native core does.

Formats: a CloudEvent as one Protobuf message (structured), a CloudEvent in headers (binary), Confluent framing, plain
Protobuf. Sources: CloudEvents Kafka protocol binding 1.0.2, Protobuf event format 1.0.2 and sequence extension; the
framing of Confluent's clients (`confluent_kafka/schema_registry/common/serde.py`); W3C Trace Context.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from streams.errors import InputError
from streams.kernel.compression import decompress
from streams.v1.cloudevents_pb2 import CloudEvent, CloudEventAttributeValue

CONTENT_TYPE = "content-type"
CONTENT_ENCODING = "content-encoding"
STRUCTURED = b"application/cloudevents+protobuf"
PROTOBUF = b"application/protobuf"
SPEC_VERSION = "1.0"
VALUE_SCHEMA_ID = "__value_schema_id"
"""Header in which Confluent's clients put the GUID form."""
TRACEPARENT = "traceparent"

MAGIC_ID = 0
MAGIC_GUID = 1
"""First byte of Confluent's framings. No Protobuf message starts with either: both would be tags of field 0."""

Headers = Sequence[tuple[str, bytes | None]]

_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)
_SEQUENCE_MAX = 2**64 - 1
_TRACEPARENT = re.compile(rb"[!-~]{55,256}")
"""Version 00 has 55 characters; later versions may append."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event and its CloudEvents attributes; empty text and None: not given. `data` None deletes the entity."""

    id: str
    source: str
    type: str
    data: bytes | None
    subject: str = ""
    time: datetime | None = None
    sequence: int | None = None
    traceparent: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Further attributes, each a name of lower-case letters and digits."""


def structured(event: Event) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return value and headers of a record that carries `event` as one Protobuf message.

    An event without data has no structured form (its record would not say DELETE to every reader): ValueError, use
    `binary`.
    """
    if event.data is None:
        raise ValueError("a structured CloudEvent needs data; send a DELETE in binary mode, without a value")
    message = CloudEvent(
        id=event.id, source=event.source, spec_version=SPEC_VERSION, type=event.type, binary_data=event.data
    )
    attributes = message.attributes
    if event.subject:
        attributes["subject"].ce_string = event.subject
    if event.time is not None:
        attributes["time"].ce_timestamp.FromDatetime(event.time)
    if event.sequence is not None:
        attributes["sequence"].ce_string = str(event.sequence)
    if event.traceparent:
        attributes["traceparent"].ce_string = event.traceparent
    for name, text in event.extensions.items():
        attributes[name].ce_string = text
    return message.SerializeToString(), [(CONTENT_TYPE, STRUCTURED)]


def binary(event: Event) -> tuple[bytes | None, list[tuple[str, bytes]]]:
    """Return value and headers of a record that carries `event` in binary mode; without data the value is None."""
    attributes = {"specversion": SPEC_VERSION, "id": event.id, "source": event.source, "type": event.type}
    if event.subject:
        attributes["subject"] = event.subject
    if event.time is not None:
        attributes["time"] = event.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if event.sequence is not None:
        attributes["sequence"] = str(event.sequence)
    if event.traceparent:
        attributes["traceparent"] = event.traceparent
    headers = [(f"ce_{name}", text.encode()) for name, text in {**attributes, **event.extensions}.items()]
    if event.data is not None:
        headers.append((CONTENT_TYPE, PROTOBUF))
    return event.data, headers


def message_index(descriptor: Descriptor) -> list[int]:
    """Return the path of indexes that names a message type in its file, outermost first, as Confluent counts them."""
    path: list[int] = []
    outer = descriptor.containing_type
    while outer is not None:
        path.append([nested.full_name for nested in outer.nested_types].index(descriptor.full_name))
        descriptor, outer = outer, outer.containing_type
    path.append(list(descriptor.file.message_types_by_name).index(descriptor.name))
    return path[::-1]


def confluent_prefix(schema: int | UUID, index: Sequence[int]) -> bytes:
    """Return what goes before the message in Confluent's framing, by registry id or by GUID.

    The GUID form may stand alone in the header `__value_schema_id` instead, with the message as the whole value.
    """
    if isinstance(schema, UUID):
        head = bytes([MAGIC_GUID]) + schema.bytes
    else:
        head = struct.pack(">BI", MAGIC_ID, schema)
    # The index [0], the first message of its file, is written as an empty path.
    return head + (b"\0" if list(index) == [0] else b"".join(_zigzag(number) for number in (len(index), *index)))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the records of one topic may look like."""

    type: str
    index: tuple[int, ...] = (0,)
    format: str = "auto"
    schema_ids: frozenset[int] = frozenset()
    """Confluent ids that are accepted; empty: every id of the message."""
    record_bytes_max: int = 1024 * 1024


@dataclass(slots=True)
class Recognised:
    """One record as an event. `data` None: DELETE."""

    data: bytes | None = None
    id: str = ""
    source: str = ""
    subject: str = ""
    sequence: str | None = None
    """As the source wrote it; `sequence_number` reads it where it is wanted."""
    time_us: int | None = None
    traceparent: str = ""


def recognise(rules: Rules, value: bytes | None, headers: Headers = ()) -> Recognised:
    """Say which event a record carries; InputError with the reason of its dead letter where it carries none.

    This is the reference of the native recogniser, and what tools use that read single records.
    """
    found = {name: value for name, value in headers if value is not None}  # the last one of a name counts
    event = Recognised(traceparent=_trace(found.get(TRACEPARENT, b"")))
    reads_cloudevents = rules.format in ("auto", "cloudevents")
    in_headers = reads_cloudevents and "ce_specversion" in found and "ce_id" in found
    if in_headers:
        _from_headers(event, found)
    if value is None or (in_headers and not value):
        return event
    value = _opened(rules, value, found.get(CONTENT_ENCODING, b"identity"))
    media = found.get(CONTENT_TYPE, b"").split(b";")[0].strip().lower()
    if reads_cloudevents and media == STRUCTURED:
        _from_message(rules, event, value)
        return event
    if reads_cloudevents and media.startswith(b"application/cloudevents"):
        raise InputError("bad-envelope", "a CloudEvents format other than application/cloudevents+protobuf")
    if rules.format == "cloudevents" and not in_headers:
        raise InputError("bad-envelope", "neither content-type application/cloudevents+protobuf nor ce_ headers")
    event.data = _unframed(rules, value, found) if rules.format in ("auto", "confluent") else value
    return event


def sequence_number(text: str) -> int:
    """Read a sequence: an unsigned decimal of 64 bits, with leading zeros as the CloudEvents extension pads it.

    Raises InputError `bad-sequence` for anything else.
    """
    digits = text.lstrip("0") or "0"
    if not text or not _DIGITS.fullmatch(digits) or int(digits) > _SEQUENCE_MAX:
        raise InputError("bad-sequence", "the sequence is not an unsigned decimal of 64 bits")
    return int(digits)


def _opened(rules: Rules, value: bytes, coding: bytes) -> bytes:
    """The value without its compression."""
    if len(value) > rules.record_bytes_max:
        raise InputError(
            "record-too-large", f"value of {len(value)} bytes, record_bytes_max is {rules.record_bytes_max}"
        )
    if coding.lower() == b"zstd":
        return decompress(value, rules.record_bytes_max)
    if coding.lower() != b"identity":
        raise InputError("bad-compression", "content-encoding is neither zstd nor identity")
    return value


def _from_headers(event: Recognised, found: Mapping[str, bytes]) -> None:
    event.id = _text(found["ce_id"], "ce_id")
    event.source = _text(found.get("ce_source", b""), "ce_source")
    event.subject = _text(found.get("ce_subject", b""), "ce_subject")
    if "ce_sequence" in found:
        event.sequence = found["ce_sequence"].decode("latin-1")
    event.time_us = _time(found.get("ce_time", b"").decode("latin-1"))
    event.traceparent = event.traceparent or _trace(found.get("ce_traceparent", b""))


def _from_message(rules: Rules, event: Recognised, value: bytes) -> None:
    try:
        message = CloudEvent.FromString(value)
    except DecodeError as error:
        raise InputError("bad-envelope", "damaged CloudEvent") from error
    # `ce_` headers beside a structured event fill in what it leaves out
    event.id, event.source = message.id or event.id, message.source or event.source
    for name, attribute in message.attributes.items():
        kind = attribute.WhichOneof("attr")
        text = _attribute_text(attribute)
        if name == "subject":
            event.subject = text
        elif name == "sequence":
            event.sequence = str(attribute.ce_integer) if kind == "ce_integer" else text
        elif name == "time":
            event.time_us = _timestamp(attribute.ce_timestamp) if kind == "ce_timestamp" else _time(text)
        elif name == "traceparent":
            event.traceparent = event.traceparent or _trace(text.encode())
    carried = message.WhichOneof("data")
    if carried == "text_data":
        raise InputError("bad-envelope", "CloudEvent with text_data; Protobuf travels in binary_data or proto_data")
    if carried == "binary_data":
        event.data = message.binary_data
    elif carried == "proto_data":
        if message.proto_data.type_url.rpartition("/")[2] != rules.type:
            raise InputError("wrong-schema", f"proto_data holds another type than {rules.type}")
        event.data = message.proto_data.value


def _unframed(rules: Rules, value: bytes, found: Mapping[str, bytes]) -> bytes:
    """The message behind Confluent's framing, or the whole value where there is none."""
    prefix = found.get(VALUE_SCHEMA_ID)
    if prefix is not None:
        if _prefix_length(rules, prefix) != len(prefix):
            raise InputError("bad-envelope", f"bytes after the indexes in header {VALUE_SCHEMA_ID}")
        return value
    if value[:1] in (b"\0", b"\1"):
        return value[_prefix_length(rules, value) :]
    if rules.format == "confluent":
        raise InputError("bad-envelope", f"no Confluent framing: neither magic nor header {VALUE_SCHEMA_ID}")
    return value


def _prefix_length(rules: Rules, frame: bytes) -> int:
    """Bytes of a Confluent prefix; refused where it names another message, or an id that is not wanted."""
    at = {MAGIC_ID: 5, MAGIC_GUID: 17}.get(frame[0], 0) if frame else 0
    if not at:
        raise InputError("bad-envelope", "Confluent framing has magic neither 0x00 nor 0x01")
    if len(frame) < at:
        raise InputError("bad-envelope", "Confluent framing ends early")
    if rules.schema_ids and (frame[0] == MAGIC_GUID or int.from_bytes(frame[1:5]) not in rules.schema_ids):
        raise InputError("wrong-schema", "Confluent schema id is not in schema_ids")
    count, at = _unzigzag(frame, at)
    index = [0] if count == 0 else []
    # A wrong count ends the loop: what follows may be the message.
    while len(index) < count == len(rules.index):
        number, at = _unzigzag(frame, at)
        index.append(number)
    if tuple(index) != rules.index:
        raise InputError("wrong-schema", f"Confluent message indexes name another message than {rules.type}")
    return at


def _zigzag(number: int) -> bytes:
    rest, out = number << 1 ^ number >> 63, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def _unzigzag(frame: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of at most ten bytes at `at`, and the position behind it."""
    raw = 0
    for shift in range(0, 70, 7):
        if at >= len(frame):
            break
        raw |= (frame[at] & 127) << shift
        at += 1
        if frame[at - 1] < 128:
            return raw >> 1 ^ -(raw & 1), at
    raise InputError("bad-envelope", "Confluent framing ends early")


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError("bad-envelope", f"header {name} is not UTF-8") from error


def _attribute_text(attribute: CloudEventAttributeValue) -> str:
    kind = attribute.WhichOneof("attr")
    return str(getattr(attribute, kind)) if kind in ("ce_string", "ce_uri", "ce_uri_ref") else ""


def _trace(value: bytes) -> str:
    """A trace context that is damaged must not cost the event: dropped."""
    return value.decode() if _TRACEPARENT.fullmatch(value) else ""


def _time(text: str) -> int | None:
    """RFC 3339 as microseconds since 1970; None where it cannot be read, which must not cost the event either."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    if read.tzinfo is None:
        return None
    since = read - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _timestamp(stamp: Timestamp) -> int | None:
    valid = -62_135_596_800 <= stamp.seconds <= 253_402_300_799 and 0 <= stamp.nanos < 1_000_000_000
    return stamp.seconds * 1_000_000 + stamp.nanos // 1000 if valid else None
