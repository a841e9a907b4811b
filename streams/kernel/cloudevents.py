"""CloudEvents whose value is the whole event: as one Protobuf message, and as JSON.

Sources: CloudEvents Protobuf format 1.0.2 and JSON format 1.0.2.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from streams.errors import InputError
from streams.kernel.attributes import timestamp, timestamp_text
from streams.v1.cloudevents_pb2 import CloudEvent, CloudEventAttributeValue

__all__ = [
    "DATAREF",
    "EVENT_NAME",
    "JSON",
    "STRUCTURED",
    "Attributes",
    "is_json",
    "is_message",
    "read_json",
    "read_message",
]

STRUCTURED = b"application/cloudevents+protobuf"
JSON = b"application/cloudevents+json"
SPEC_VERSION = "1.0"
EVENT_NAME = "io.cloudevents.v1.CloudEvent"
"""The message that a structured event is, as its own file names it."""
DATAREF = "the CloudEvent's data lies elsewhere (dataref), and is not fetched; send it inside"

_LEN = 2
"""The wire type of every field of a CloudEvent."""
_MEMBERS_MAX = 1_000
"""Of a JSON object: an event has a dozen attributes."""
_REQUIRED = ("id", "source", "specversion", "type")


@dataclass(slots=True)
class Attributes:
    """What an event says about itself."""

    id: str = ""
    source: str = ""
    subject: str = ""
    sequence: str | None = None
    time_us: int | None = None
    has_time: bool = False
    trace: tuple[bytes, bytes] = (b"", b"")
    """traceparent and tracestate, as they came."""
    type: str = ""
    schema: str = ""
    has_dataref: bool = False
    data: bytes | any_pb2.Any | InputError | None = None

    def set_time(self, text: str) -> None:
        """The time as text; empty: none was given."""
        self.time_us, self.has_time = timestamp_text(text), bool(text)

    def taken(self) -> bytes | any_pb2.Any:
        """The data, which a structured event must have."""
        if self.has_dataref:
            raise InputError("dataref", DATAREF)
        if self.data is None and not (self.id and self.source):
            raise InputError("bad-envelope", "no CloudEvent: it has no data, and no id or no source")
        if self.data is None:
            raise InputError("no-data", "a structured CloudEvent without data; a DELETE is a record without a value")
        if isinstance(self.data, InputError):
            raise self.data
        return self.data


def is_message(value: bytes) -> bool:
    """Whether bytes without a header are a CloudEvent: its required attributes, a data member, and nothing else."""
    fields = dict(_fields(value))
    texts = [fields.get(number, b"") for number in (1, 2, 4)]
    return (
        0 not in fields
        and all(texts)
        and fields.get(3) == SPEC_VERSION.encode()
        and not fields.keys().isdisjoint((6, 7, 8))
    )


def _fields(value: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that has length-delimited ones up to number 8 alone; 0: it has others, or is none."""
    at = 0
    while at < len(value):
        tag, length, at = value[at], 0, at + 1
        for shift in range(0, 70, 7):
            if at == len(value):
                yield 0, b""
                return
            length |= (value[at] & 127) << shift
            at += 1
            if value[at - 1] < 128:
                break
        else:
            yield 0, b""
            return
        content = value[at : at + length]
        is_wrong = tag > 8 << 3 | _LEN or tag & 7 != _LEN or tag < 8 or len(content) < length
        if is_wrong or (tag >> 3 == 3 and content != SPEC_VERSION.encode()):
            yield 0, b""
            return
        if tag >> 3 in (1, 2, 4) and not _is_utf8(content):
            content = b""
        yield tag >> 3, content
        at += length


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_message(value: bytes, beside: Attributes) -> Attributes:
    """A CloudEvent as one Protobuf message; what it leaves out is filled in from `ce_` headers beside it."""
    try:
        message = CloudEvent.FromString(value)
    except DecodeError as error:
        raise InputError("bad-envelope", "damaged CloudEvent") from error
    found = replace(beside, id=message.id or beside.id, source=message.source or beside.source, type=message.type)
    for name, attribute in message.attributes.items():
        kind, text = attribute.WhichOneof("attr"), _attribute_text(attribute)
        if name == "subject":
            found.subject = text
        elif name == "sequence":
            found.sequence = str(attribute.ce_integer) if kind == "ce_integer" else text
        elif name == "time" and kind == "ce_timestamp":
            found.time_us, found.has_time = timestamp(attribute.ce_timestamp), True
        elif name == "time":
            found.set_time(text)
        elif name == "traceparent":
            found.trace = (text.encode(), found.trace[1])
        elif name == "tracestate":
            found.trace = (found.trace[0], text.encode())
        elif name == "dataschema":
            found.schema = text
    found.has_dataref = "dataref" in message.attributes
    carried = message.WhichOneof("data")
    if carried == "text_data":
        found.data = InputError(
            "bad-envelope", "CloudEvent with text_data; Protobuf travels in binary_data or proto_data"
        )
    elif carried is not None:
        found.data = message.binary_data if carried == "binary_data" else message.proto_data
    return found


def _attribute_text(attribute: CloudEventAttributeValue) -> str:
    kind = attribute.WhichOneof("attr")
    return str(getattr(attribute, kind)) if kind in ("ce_string", "ce_uri", "ce_uri_ref") else ""


def is_json(value: bytes) -> bool:
    """Whether JSON without a header is a CloudEvent."""
    members = _members(value) if value.startswith(b"{") else None
    return (
        members is not None
        and members.get("specversion") == SPEC_VERSION
        and _has_required(members)
        and not members.keys().isdisjoint(("data", "data_base64"))
    )


def read_json(value: bytes, beside: Attributes) -> Attributes:
    """A CloudEvent as one JSON object, its message in `data_base64`."""
    members = _members(value)
    if members is None or not _has_required(members):
        raise InputError("bad-envelope", "a CloudEvent in JSON without id, source, specversion or type")
    given = {name: member for name, member in members.items() if member is not None}
    for name in ("subject", "dataschema"):
        if not isinstance(given.get(name, ""), str):
            raise InputError("bad-envelope", f"CloudEvent in JSON whose {name} is no text")
    found = replace(beside, id=given["id"], source=given["source"], type=given["type"])
    found.subject, found.schema = given.get("subject", beside.subject), given.get("dataschema", "")
    if "sequence" in given:
        plain = type(given["sequence"]) in (str, int)
        found.sequence = str(given["sequence"]) if plain else ""
    if "time" in given:
        found.set_time(given["time"] if isinstance(given["time"], str) else "none")
    if "traceparent" in given:
        found.trace = (_bytes(given["traceparent"]), found.trace[1])
    if "tracestate" in given:
        found.trace = (found.trace[0], _bytes(given["tracestate"]))
    found.has_dataref = "dataref" in given
    if "data" in given:
        found.data = InputError("bad-envelope", "CloudEvent in JSON with data; Protobuf travels in data_base64")
    elif "data_base64" in given:
        found.data = _base64(given["data_base64"])
    return found


def _members(value: bytes) -> dict[str, Any] | None:
    try:
        members = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return members if isinstance(members, dict) and len(members) <= _MEMBERS_MAX else None


def _has_required(members: dict[str, Any]) -> bool:
    return all(isinstance(members.get(name), str) and members[name] for name in _REQUIRED)


def _bytes(text: object) -> bytes:
    """A text's own; what is none cannot be read as anything."""
    return text.encode() if isinstance(text, str) else b"-"


def _base64(text: object) -> bytes | InputError:
    try:
        data = b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        data = None
    # Bits that no byte takes must be zero, or two texts would be the same bytes.
    if data is None or b64encode(data).decode() != text:
        return InputError("bad-envelope", "CloudEvent in JSON whose data_base64 is no base64")
    return data
