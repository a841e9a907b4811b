"""The two forms of a request body: `streams.v1.PatchBatch`, and JSON. Pure.

JSON is for receivers without Protobuf:

    {"patches": [{
        "key": "ZGV2LTE=", "revision": "8", "base_revision": "7", "kind": "DELTA", "type": "acme.fleet.v1.DeviceState",
        "mask": ["rx_2", "geo.lat"], "data": {"rx_2": "12345678901", "geo": {"lat": 52.1}}, "epoch": "1763800000000",
        "digest": "1311768467463790320", "event_id": "a1", "event_source": "/ingest",
        "event_time": "2026-11-22T10:00:00Z", "traceparent": "00-...", "tracestate": "acme=1", "sequence": "8",
        "schema": "81985529216486895", "numbers": [{"numbers": [11]}, {"numbers": [21, 1]}]
    }]}

It is protobuf's own JSON of `Patch` with original field names (bytes in base64, 64-bit integers as strings, enums by
name, times in RFC 3339) but for two fields. `mask` is an array of original field names, since FieldMask's JSON form
refuses names like `rx_2`; they are those of the worker's descriptor, as the names in `data` are. `data` is an object
with the fields of the partial message, values as in protobuf's JSON, messages field by field without exception: a
Timestamp in here is {"seconds": "1763800000", "nanos": 5}, and Any, Struct and the wrappers show their fields, since
patches of earlier releases may change the nanoseconds alone. The fields up to `epoch` are always there (`data` in all
but DELETE), the others where they are set.

To apply: SNAPSHOT replaces by `data`, DELETE removes; for DELTA remove every field that `mask` names, then merge
`data`: objects are merged, everything else is taken as it comes. A field that is missing has its default (0, "", false,
none).
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from streams.errors import InputError
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import own_paths, unknown_paths
from streams.v1.patch_pb2 import Patch

__all__ = ["JsonForm", "protobuf_body"]

_TAG = 0x0A
"""PatchBatch.patches: field 1, a length and so many bytes."""
_FLOAT = struct.Struct("<f")

Way = Callable[[Any], Any]
"""From a value of one field to what JSON has of it."""


def _head(length: int) -> bytes:
    varint = bytearray([_TAG])
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return bytes(varint)


_HEADS = [_head(length) for length in range(4_096)]
"""Nearly every patch is shorter, and costs 60 ns then instead of a microsecond."""


def protobuf_body(patches: Iterable[bytes]) -> bytes:
    """A PatchBatch of serialised patches. No patch is looked into."""
    parts: list[bytes] = []
    for patch in patches:
        length = len(patch)
        parts.append(_HEADS[length] if length < len(_HEADS) else _head(length))
        parts.append(patch)
    return b"".join(parts)


class JsonForm:
    """Writes patches of one message type as JSON."""

    def __init__(self, message: type[Message]) -> None:
        """Fields that `message` lacks have no name here, so it has to be as new as the patches' owner's."""
        self._message = message
        self._ways: dict[str, tuple[str, Way]] = {}  # by full name of the field: its name in JSON, and how

    def body(self, patches: Iterable[bytes]) -> bytes:
        """The JSON body of serialised patches.

        InputError `target-json` for one that JSON cannot tell: no patch, of another type, or with a field in its mask
        that the message class lacks, which the receiver would take for cleared. A SNAPSHOT's unknown fields are left
        out.
        """
        return orjson.dumps({"patches": [self._told(patch) for patch in patches]})

    def _told(self, patch: bytes) -> dict[str, Any]:
        try:
            read = Patch.FromString(patch)
            descriptor = descriptor_of(self._message)
            told: dict[str, Any] = {
                "key": base64.b64encode(read.key).decode(),
                "revision": str(read.revision),
                "base_revision": str(read.base_revision),
                "kind": Patch.Kind.Name(read.kind),
                "type": read.type,
                "mask": own_paths(descriptor, read),
            }
            if read.kind != Patch.DELETE:
                told["data"] = self._data(read, told["mask"])
            told["epoch"] = str(read.epoch)
            told |= {name: str(getattr(read, name)) for name in ("digest", "sequence", "schema") if getattr(read, name)}
            text = ("event_id", "event_source", "traceparent", "tracestate")
            told |= {name: getattr(read, name) for name in text if getattr(read, name)}
            if read.numbers:
                told["numbers"] = [{"numbers": list(path.numbers)} for path in read.numbers]
            if read.HasField("event_time"):
                told["event_time"] = read.event_time.ToJsonString()
        except (DecodeError, ValueError) as error:
            # Without its text and cause, which may quote values.
            raise InputError("target-json", f"the patch is damaged ({type(error).__name__})") from None
        return told

    def _data(self, patch: Patch, paths: list[str]) -> dict[str, Any]:
        descriptor = descriptor_of(self._message)
        if patch.type != descriptor.full_name:
            raise InputError("target-json", f"the patch is of {patch.type}, expected {descriptor.full_name}")
        unknown = unknown_paths(descriptor, paths) if patch.kind == Patch.DELTA else []
        if unknown:
            raise InputError(
                "target-json",
                f"{descriptor.full_name} has no field {unknown[0]} here, which the patch changes; update it",
            )
        return self.fields(self._message.FromString(patch.data))

    def fields(self, message: Message) -> dict[str, Any]:
        """A message as `data` has it. InputError `target-json` where a text in it is no UTF-8."""
        told = {}
        for field, value in message.ListFields():
            known = self._ways.get(field.full_name)
            if known is None:
                name = f"[{field.full_name}]" if field.is_extension else field.name
                known = self._ways[field.full_name] = name, self._way(field)
            told[known[0]] = known[1](value)
        return told

    def _way(self, field: FieldDescriptor) -> Way:
        """How the whole field is told."""
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            one = self._way_of_one(entry.fields_by_name["value"])
            # Sorted, so that the same patches have the same bytes in every process.
            return lambda values: {_map_key(key): one(values[key]) for key in _ascending(values)}
        one = self._way_of_one(field)
        return (lambda values: [one(value) for value in values]) if field.is_repeated else one

    def _way_of_one(self, field: FieldDescriptor) -> Way:
        """How one value of the field is told."""
        if field.message_type is not None:
            return self.fields
        if field.enum_type is not None:
            names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
            return lambda value: names.get(value, value)  # an open enum keeps numbers that it has no name for
        if field.type == FieldDescriptor.TYPE_BYTES:
            return lambda value: base64.b64encode(value).decode()
        if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
            return str
        if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
            return _double
        if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
            return _float
        return _text if field.type == FieldDescriptor.TYPE_STRING else lambda value: value


def _ascending(keys: Iterable[Any]) -> list[Any]:
    return sorted(keys, key=lambda key: _text(key) if isinstance(key, bytes) else key)


def _text(value: str | bytes) -> str:
    """A string as JSON can hold it. Before proto3 a string may hold any bytes, and protobuf then gives these."""
    if isinstance(value, bytes):
        raise InputError("target-json", "a string field holds bytes that are no UTF-8, which JSON cannot tell")
    return value


def _map_key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _double(value: float) -> float | str:
    """JSON has no numbers for these three."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _float(value: float) -> float | str:
    """The shortest number that is this float32: 52.1, not 52.099998474121094."""
    if not math.isfinite(value):
        return _double(value)
    for digits in (6, 7, 8):
        shorter = float(f"{value:.{digits}g}")
        if abs(shorter) <= 3.4e38 and _FLOAT.unpack(_FLOAT.pack(shorter))[0] == value:
            return shorter
    return value
