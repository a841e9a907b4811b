"""What a record is: the reference of the native recogniser, and what tools use that read single records.

What a record says is believed only where it says it: a DELETE is a record without a value, a type that names another
known message is not ours, and bytes without a header are a CloudEvent only where they cannot be the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import any_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from streams.errors import InputError
from streams.kernel import attributes, cloudevents
from streams.kernel.compression import decompress
from streams.kernel.confluent import MAGIC_GUID, MAGIC_ID, VALUE_SCHEMA_ID, message_index, read_indexes, readings
from streams.kernel.messages import known_names

__all__ = ["Headers", "Recognised", "Rules", "recognise"]

Headers = Sequence[tuple[str, bytes | None]]
Trace = tuple[bytes, bytes]
"""A `traceparent` and a `tracestate` as they came."""

LETTER_LENGTH = "dlq-length"
"""Header of a dead letter that lacks its record's value, for its size or because it is sealed: how long that was."""
HEADERS_MAX = 50_000
"""Headers of one record that are read: half of what librdkafka reads. Above that it gives none of them."""
HEADERS_UNREAD = "dlq-headers-unread"
"""Header that stands for those of a record which its reader could not read."""
UNREADABLE = ("time", "traceparent", "tracestate", "correlation-id")
"""Attributes that cost an event nothing when they cannot be read."""
TYPE_URL = "type.googleapis.com/"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the records of one topic may look like."""

    type: str
    index: tuple[int, ...] = (0,)
    format: str = "auto"
    schema_ids: frozenset[int] = frozenset()
    """Confluent ids that are accepted; empty: every id of the message."""
    record_bytes_max: int = 1024 * 1024
    names: frozenset[str] = frozenset()
    """Full names of the other messages that the loaded descriptors hold."""
    event_types: frozenset[str] = frozenset()
    """The only event types that are accepted; empty: every one that names no other message."""
    schema_indexes: str = "standard"
    also: tuple[tuple[int, ...], ...] = ()
    others: tuple[tuple[int, ...], ...] = ()
    """Confluent indexes that name the message too, and those that name others of its file."""
    tells_cloudevents: bool = False
    tells_any: bool = False
    """Whether bytes of the message could be no CloudEvent's, and no google.protobuf.Any's."""

    @classmethod
    def of(cls, descriptor: Descriptor, **settings: Any) -> Rules:
        """The rules that a message's descriptor decides about, and settings by their names here."""
        also, others = readings(descriptor)
        texts = [_holds_text(descriptor, number) for number in (1, 2, 3, 4)]
        return cls(
            type=descriptor.full_name,
            index=tuple(message_index(descriptor)),
            names=frozenset(known_names(descriptor)) - {descriptor.full_name},
            also=tuple(map(tuple, also)),
            others=tuple(map(tuple, others)),
            # A message is read from many a text, though never from `1.0`, nor from a type's name.
            tells_cloudevents=not (all(texts) and texts[2] != "message"),
            tells_any=descriptor.full_name != "google.protobuf.Any" and texts[0] != "text",
            **settings,
        )


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
    tracestate: str = ""
    correlation: bytes | None = None
    unreadable: tuple[str, ...] = ()
    """Which attributes were given and left out, of UNREADABLE."""


def recognise(rules: Rules, value: bytes | None, headers: Headers = ()) -> Recognised:
    """Say which event a record carries; InputError with the reason of its dead letter where it carries none."""
    found = _by_name(headers)
    if HEADERS_UNREAD in found or len(headers) > HEADERS_MAX:
        raise InputError("record-too-large", f"more than {HEADERS_MAX} headers, which nobody reads; send fewer")
    event, says_binary = Recognised(), "ce_specversion" in found and "ce_id" in found
    in_headers = says_binary and rules.format in ("auto", "cloudevents")
    # What a record says of itself holds in every format, also what that format has no use for.
    _judge(rules, found.get("ce_type", b""), found.get("ce_dataschema", b""))
    given = _from_headers(found) if in_headers else cloudevents.Attributes()
    if value is not None:
        given, event.data = _from_value(rules, found, given, in_headers, _opened(rules, value, found))
    elif says_binary and "ce_dataref" in found:
        raise InputError("dataref", cloudevents.DATAREF)
    elif any(name == LETTER_LENGTH for name, _ in headers):
        raise InputError("no-data", "the stub of a dead letter, which lacks its value: no DELETE")
    elif rules.format in ("auto", "confluent") and VALUE_SCHEMA_ID in found:
        _check_header(rules, found[VALUE_SCHEMA_ID])
    event.id, event.source, event.subject, event.sequence = given.id, given.source, given.subject, given.sequence
    event.time_us = given.time_us
    unreadable = {"time"} if given.time_us is None and given.has_time else set()
    for parent, state in ((found.get("traceparent", b""), found.get("tracestate", b"")), given.trace):
        event.traceparent = attributes.traceparent(parent) or ""
        if event.traceparent:
            event.tracestate = attributes.tracestate(state) or ""
            unreadable |= {"tracestate"} if state and not event.tracestate else set()
            break
        unreadable |= {"traceparent"} if parent else set()
    correlation = found.get("correlation-id", b"")
    event.correlation = attributes.correlation(correlation)
    unreadable |= {"correlation-id"} if correlation and event.correlation is None else set()
    event.unreadable = tuple(name for name in UNREADABLE if name in unreadable)
    return event


def _by_name(headers: Headers) -> dict[str, bytes]:
    """Headers that say something, by their names in lower case (ASCII's alone); the last one of a name counts."""
    found = {}
    for name, value in headers:
        lower = name.encode(errors="replace").lower().decode()
        if value is not None:
            # Spring writes `contentType`.
            found["content-type" if lower == "contenttype" else lower] = value
    return found


def _media(found: Mapping[str, bytes]) -> bytes:
    """The media type of a record that is a CloudEvent in one piece; empty: it does not say that it is."""
    media = found.get("content-type", b"").split(b";")[0].strip().removeprefix(b'"').removesuffix(b'"').lower()
    return media if media.startswith(b"application/cloudevents") else b""


def _from_headers(found: Mapping[str, bytes]) -> cloudevents.Attributes:
    """The attributes of binary mode."""
    sequence = found.get("ce_sequence")
    given = cloudevents.Attributes(
        id=_text(found["ce_id"], "ce_id"),
        source=_text(found.get("ce_source", b""), "ce_source"),
        subject=_text(found.get("ce_subject", b""), "ce_subject"),
        sequence=None if sequence is None else sequence.decode("latin-1"),
        trace=(found.get("ce_traceparent", b""), found.get("ce_tracestate", b"")),
    )
    given.set_time(found.get("ce_time", b"").decode("latin-1"))
    return given


def _opened(rules: Rules, value: bytes, found: Mapping[str, bytes]) -> bytes:
    """The value without its compression."""
    if len(value) > rules.record_bytes_max:
        raise InputError(
            "record-too-large", f"value of {len(value)} bytes, record_bytes_max is {rules.record_bytes_max}"
        )
    coding = found.get("content-encoding", b"identity").strip().lower()
    if coding == b"zstd":
        return decompress(value, rules.record_bytes_max)
    if coding != b"identity":
        raise InputError("bad-compression", "content-encoding is neither zstd nor identity")
    return value


def _from_value(
    rules: Rules, found: Mapping[str, bytes], given: cloudevents.Attributes, in_headers: bool, value: bytes
) -> tuple[cloudevents.Attributes, bytes]:
    """What the value itself says about the event, where it does, and the message in it."""
    media = _media(found)
    if not value and not media and {"ce_specversion", "ce_id", "ce_dataref"} <= found.keys():
        raise InputError("dataref", cloudevents.DATAREF)
    if rules.format not in ("auto", "cloudevents"):
        is_event = rules.format == "plain" and rules.tells_cloudevents and cloudevents.is_message(value)
        # Where the message is a CloudEvent itself, it is what the record says.
        if (media and rules.type != cloudevents.EVENT_NAME) or is_event:
            raise InputError("bad-envelope", "a CloudEvent in one piece, which the topic's format does not read")
    else:
        read = None
        if media == cloudevents.STRUCTURED:
            read = cloudevents.read_message(value, given)
        elif media == cloudevents.JSON:
            read = cloudevents.read_json(value, given)
        elif media:
            raise InputError("bad-envelope", "a CloudEvents format other than +protobuf and +json")
        elif rules.format == "cloudevents" and not in_headers:
            raise InputError("bad-envelope", "neither content-type application/cloudevents+protobuf nor ce_ headers")
        elif in_headers or VALUE_SCHEMA_ID in found:
            pass
        elif rules.tells_cloudevents and cloudevents.is_message(value):
            read = cloudevents.read_message(value, given)
        elif cloudevents.is_json(value):
            read = cloudevents.read_json(value, given)
        if read is not None:
            _judge(rules, read.type.encode(), read.schema.encode())
            data = read.taken()
            return read, _unwrapped(rules, data) if isinstance(data, bytes) else _proto_data(rules, data)
    if rules.format in ("auto", "confluent"):
        value = _unframed(rules, value, found)
    data = _unwrapped(rules, value)
    if rules.format not in ("auto", "cloudevents") and len(data) != len(value):
        raise InputError("bad-envelope", "a google.protobuf.Any, which the topic's format does not unwrap")
    return given, data


def _judge(rules: Rules, type: bytes, schema: bytes) -> None:
    """Refuse an event whose type or schema names another message. A text that names none is a business name."""
    for what, given in (("type", type), ("dataschema", schema)):
        text = given.decode(errors="replace")
        url = text.removeprefix("https://") if text.startswith("https://") else text.removeprefix("//")
        name = url.removeprefix(TYPE_URL) if url.startswith(TYPE_URL) else text
        if not text or name == rules.type or (what == "type" and text in rules.event_types):
            continue
        if name in rules.names:
            raise InputError("wrong-type", f"the event's {what} names another message than {rules.type}")
        if what == "type" and rules.event_types:
            raise InputError("wrong-type", "the event's type is not in event_types")


def _check_any(rules: Rules, name: str) -> None:
    if name != rules.type:
        reason = "wrong-type" if name in rules.names else "wrong-schema"
        raise InputError(reason, f"a google.protobuf.Any of another message than {rules.type}")


def _url_name(packed: any_pb2.Any) -> str | None:
    """The name that an Any ends its type URL with; None: it is no Any, but another message that was read as one."""
    exact = not len(UnknownFieldSet(cast(Message, packed)))
    return packed.type_url.rpartition("/")[2] if exact and "/" in packed.type_url else None


def _proto_data(rules: Rules, packed: any_pb2.Any) -> bytes:
    """The message in `proto_data`: an Any of the type; or, as the Java SDK writes bytes, the message itself."""
    name = _url_name(packed)
    if name is None:
        return packed.SerializeToString()
    _check_any(rules, name)
    return packed.value


def _unwrapped(rules: Rules, value: bytes) -> bytes:
    """The message of a value that is an Any: where the configured message cannot begin so, it is that Any's."""
    url = TYPE_URL.encode()
    if value[:1] != b"\x0a" or url not in (value[2 : 2 + len(url)], value[3 : 3 + len(url)]):
        return value
    try:
        packed = any_pb2.Any.FromString(value)
    except DecodeError:
        return value
    name = _url_name(packed)
    if name is not None and rules.tells_any:
        _check_any(rules, name)
        return packed.value
    if name == rules.type and name != "google.protobuf.Any":
        raise InputError("bad-envelope", f"a google.protobuf.Any of {rules.type}, whose own field 1 is a text")
    return value


def _unframed(rules: Rules, value: bytes, found: Mapping[str, bytes]) -> bytes:
    """The message behind Confluent's framing, or the whole value where there is none."""
    if VALUE_SCHEMA_ID in found:
        _check_header(rules, found[VALUE_SCHEMA_ID])
        return value
    if value[:1] in (b"\0", b"\1"):
        return value[_prefix_length(rules, value) :]
    if rules.format == "confluent":
        raise InputError("bad-envelope", f"no Confluent framing: neither magic nor header {VALUE_SCHEMA_ID}")
    return value


def _check_header(rules: Rules, prefix: bytes) -> None:
    if _prefix_length(rules, prefix) != len(prefix):
        raise InputError("bad-envelope", f"bytes after the indexes in header {VALUE_SCHEMA_ID}")


def _prefix_length(rules: Rules, frame: bytes) -> int:
    """Bytes of a Confluent prefix; refused where it names another message, or an id that is not wanted."""
    at = {MAGIC_ID: 5, MAGIC_GUID: 17}.get(frame[0], 0) if frame else 0
    if not at:
        raise InputError("bad-envelope", "Confluent framing has magic neither 0x00 nor 0x01")
    if len(frame) < at:
        raise InputError("bad-envelope", "Confluent framing ends early")
    if rules.schema_ids and (frame[0] == MAGIC_GUID or int.from_bytes(frame[1:5]) not in rules.schema_ids):
        raise InputError("wrong-schema", "Confluent schema id is not in schema_ids")
    if rules.schema_indexes == "none":
        return at
    own = [rules.index, *rules.also]
    index, at = read_indexes(frame, at, rules.schema_indexes, {len(path) for path in (*own, *rules.others)})
    if tuple(index) in rules.others:
        raise InputError("wrong-type", f"Confluent message indexes name another message of the file of {rules.type}")
    if tuple(index) not in own:
        raise InputError("wrong-schema", f"Confluent message indexes name no message of the file of {rules.type}")
    return at


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError("bad-envelope", f"header {name} is not UTF-8") from error


def _holds_text(descriptor: Descriptor, number: int) -> str:
    """Whether a field's bytes can be a text's: `text`, some of them: `message`, none: empty."""
    field = descriptor.fields_by_number.get(number)
    if field is None:
        return ""
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return "text"
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return "message"
    return "text" if field.is_repeated and field.type != FieldDescriptor.TYPE_GROUP else ""
