"""Confluent's framing as bytes: magic, schema id or GUID, message indexes; and which indexes name which message.

Sources: the framing of Confluent's clients (`confluent_kafka/schema_registry/common/serde.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from google.protobuf.descriptor import Descriptor

from streams.errors import InputError

__all__ = ["MAGIC_GUID", "MAGIC_ID", "VALUE_SCHEMA_ID", "confluent_prefix", "message_index", "read_indexes", "readings"]

VALUE_SCHEMA_ID = "__value_schema_id"
"""Header in which Confluent's clients put the GUID form."""

MAGIC_ID = 0
MAGIC_GUID = 1
"""First byte of Confluent's framings. No Protobuf message starts with either: both would be tags of field 0."""


def message_index(descriptor: Descriptor) -> list[int]:
    """Return the path of indexes that names a message type in its file, outermost first, as Confluent counts them."""
    return _path(descriptor, map_entries=True)


def readings(descriptor: Descriptor) -> tuple[list[list[int]], list[list[int]]]:
    """Return the other indexes that name a message type, and those that name other messages of its file.

    Some writers (Java's with `normalize.schemas`) do not count the entries of maps as nested types. Their indexes are
    believed where no other message has the same ones with map entries counted, as the format has it.
    """
    own, bare = message_index(descriptor), _path(descriptor, map_entries=False)
    others = [other for other in _messages(descriptor) if other.full_name != descriptor.full_name]
    counted = [message_index(other) for other in others]
    also = [] if bare == own or bare in counted else [bare]
    uncounted = (_path(other, map_entries=False) for other in others)
    paths = {tuple(path) for path in [*counted, *uncounted] if path != own and path not in also}
    return also, sorted(list(path) for path in paths)


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


def read_indexes(frame: bytes, at: int, written: str, lengths: Collection[int]) -> tuple[list[int], int]:
    """Return the message indexes at `at`, outermost first, and the position behind them.

    `written` is the setting `schema_indexes`. A count that is none of `lengths` ends it: what follows may be the
    message. Raises InputError `bad-envelope` where the frame ends early.
    """
    read = _varint if written == "plain" else _unzigzag
    count, at = read(frame, at)
    index = [0] if count == 0 else []
    while len(index) < count and count in lengths:
        number, at = read(frame, at)
        index.append(number)
    return index[::-1] if written == "reversed" else index, at


def _path(descriptor: Descriptor, *, map_entries: bool) -> list[int]:
    path: list[int] = []
    outer = descriptor.containing_type
    while outer is not None:
        nested = [each.full_name for each in outer.nested_types if map_entries or not _is_map_entry(each)]
        path.append(nested.index(descriptor.full_name))
        descriptor, outer = outer, outer.containing_type
    path.append(list(descriptor.file.message_types_by_name).index(descriptor.name))
    return path[::-1]


def _messages(descriptor: Descriptor) -> Iterator[Descriptor]:
    """Every message type of the file; entries of maps are none."""
    waiting = list(descriptor.file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        yield message
        waiting.extend(nested for nested in message.nested_types if not _is_map_entry(nested))


def _is_map_entry(descriptor: Descriptor) -> bool:
    return bool(descriptor.GetOptions().map_entry)


def _zigzag(number: int) -> bytes:
    rest, out = number << 1 ^ number >> 63, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def _unzigzag(frame: bytes, at: int) -> tuple[int, int]:
    raw, at = _varint(frame, at)
    return raw >> 1 ^ -(raw & 1), at


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """A varint of at most ten bytes at `at`, and the position behind it."""
    raw = 0
    for shift in range(0, 70, 7):
        if at >= len(frame):
            break
        raw |= (frame[at] & 127) << shift
        at += 1
        if frame[at - 1] < 128:
            return raw, at
    raise InputError("bad-envelope", "Confluent framing ends early")
