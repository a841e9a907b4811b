"""The native kernel's twin in plain Python on upb: slow, short, and the oracle of its tests.

It shares nothing with the native code but the contracts. Where the kernel walks bytes, this parses and serialises
messages with stock Protobuf calls; where bytes must be compared, because NaN equals itself and 0.0 differs from -0.0
only there, it splits the canonical encoding into one byte string per field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from streams._native import xxh3_64
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import apply_paths, field_numbers
from streams.v1.patch_pb2 import Patch

VARINT, FIXED64, LEN, START, END, FIXED32 = range(6)
"""Wire types."""

WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
    FieldDescriptor.TYPE_STRING: LEN,
    FieldDescriptor.TYPE_BYTES: LEN,
    FieldDescriptor.TYPE_MESSAGE: LEN,
    FieldDescriptor.TYPE_GROUP: START,
}
"""Of one value; every type that is not named is a varint."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an encoding: `raw` is all of it, `value` what is behind the tag and the length."""

    number: int
    wire_type: int
    raw: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """What leads from one message to another; `change` is none, ignored, delta or snapshot."""

    change: str
    paths: tuple[str, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """One path, and what changed there: the path itself, or what lies below it where no path leads on."""

    path: str
    inside: tuple[str, ...]

    def below(self, parent: str) -> Change:
        """The same as seen from the message that holds `parent`."""
        return Change(f"{parent}.{self.path}", tuple(f"{parent}.{path}" for path in self.inside))


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at `at` and the position behind it. IndexError where it is cut."""
    number = 0
    for shift in range(0, 70, 7):
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise IndexError("a varint of more than ten bytes")


def varint(number: int) -> bytes:
    """Encode a number that is not negative."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def records(data: bytes) -> Iterator[Record]:
    """Split an encoding into its records. `data` must have been accepted by protobuf."""
    at = 0
    while at < len(data):
        tag, content = read_varint(data, at)
        start, end, after = _content(data, content, tag & 7)
        yield Record(tag >> 3, tag & 7, data[at:after], data[start:end])
        at = after


def canonical(message_class: type[Message], data: bytes) -> bytes | None:
    """Return the canonical form of a message, None where protobuf rejects it.

    upb's deterministic serialiser orders map entries in a way of its own, which differs between releases, so they are
    put into order here: by key, numbers by value, text by its UTF-8 bytes.
    """
    try:
        serialised = message_class.FromString(data).SerializePartialToString(deterministic=True)
    except (DecodeError, EncodeError):
        return None
    return _ordered(descriptor_of(message_class), serialised)


def digest(canonical_bytes: bytes) -> int:
    """XXH3-64 of a canonical encoding."""
    return xxh3_64(canonical_bytes)


def diff(message_class: type[Message], old: bytes, new: bytes, ignore: Sequence[str] = ()) -> Difference:
    """Say what leads from `old` to `new`, both canonical."""
    found = _diff(descriptor_of(message_class), old, new)
    if found is None:
        return Difference("snapshot")
    changes, data, is_nameable = found
    if not changes:
        return Difference("none")
    inner = [path for change in changes for path in change.inside]
    if all(any(path == name or path.startswith(f"{name}.") for name in ignore) for path in inner):
        return Difference("ignored", tuple(change.path for change in changes), data)
    if not is_nameable:
        return Difference("snapshot")
    return Difference("delta", tuple(change.path for change in changes), data)


def apply(message_class: type[Message], state: bytes, paths: Sequence[str], data: bytes) -> bytes:
    """Return the canonical state after a patch, by stock calls: parse, clear, merge, serialise."""
    message = message_class()
    if list(paths) == ["*"]:
        message.MergeFromString(data)
    else:
        message.MergeFromString(state)
        apply_paths(message, paths, data)
    after = canonical(message_class, message.SerializePartialToString())
    assert after is not None, "protobuf rejects what it wrote"
    return after


def snapshot(message_class: type[Message], state: bytes, **head: Any) -> Patch:
    """Build the SNAPSHOT of a canonical state; `head` are further fields of the patch."""
    patch = Patch(
        kind=Patch.SNAPSHOT, type=descriptor_of(message_class).full_name, data=state, digest=digest(state), **head
    )
    _mask(patch, ["*"])
    return patch


def delta(message_class: type[Message], old: bytes, new: bytes, **head: Any) -> Patch:
    """Build the patch that leads from `old` to `new`: a SNAPSHOT where no path can say it."""
    difference = diff(message_class, old, new)
    if difference.change == "snapshot":
        return snapshot(message_class, new, **{**head, "base_revision": 0})
    patch = Patch(
        kind=Patch.DELTA, type=descriptor_of(message_class).full_name, data=difference.data, digest=digest(new), **head
    )
    _mask(patch, difference.paths, descriptor_of(message_class))
    return patch


def compose(message_class: type[Message], first: Patch, second: Patch) -> Patch:
    """Return the one patch that does what `first` and then `second` do, from every revision of their span."""
    composed = Patch()
    composed.CopyFrom(second)
    if second.kind == Patch.SNAPSHOT:
        return composed
    if second.kind == Patch.DELETE:
        composed.base_revision = first.base_revision
        return composed
    before = b"" if first.kind == Patch.DELETE else first.data
    composed.data = apply(message_class, before, second.mask.paths, second.data)
    if first.kind == Patch.DELTA:
        composed.base_revision = first.base_revision
        descriptor = descriptor_of(message_class)
        _mask(composed, _united(descriptor, [*first.mask.paths, *second.mask.paths]), descriptor)
    else:
        composed.kind, composed.base_revision = Patch.SNAPSHOT, 0
        _mask(composed, ["*"])
    return composed


def is_known(field: FieldDescriptor | None, record: Record) -> bool:
    """Whether protobuf takes a record for a value of `field`, rather than for an unknown field."""
    if field is None:
        return False
    packable = field.is_repeated and WIRE_TYPES.get(field.type, VARINT) not in (LEN, START)
    if record.wire_type == LEN and packable:
        return True
    if record.wire_type != WIRE_TYPES.get(field.type, VARINT):
        return False
    if field.enum_type is not None and field.enum_type.is_closed:
        number = read_varint(record.value, 0)[0] & 0xFFFFFFFF
        return (number - (1 << 32) if number >> 31 else number) in field.enum_type.values_by_number
    if field.message_type is not None and _is_map(field):
        # an entry with anything but its key and its value is kept as an unknown field of the message
        parts = field.message_type.fields_by_number
        return all(is_known(parts.get(part.number), part) for part in records(record.value))
    return True


def wrapped(field: FieldDescriptor, content: bytes) -> bytes:
    """A nested message as one record of `field`."""
    if field.type == FieldDescriptor.TYPE_GROUP:
        return varint(field.number << 3 | START) + content + varint(field.number << 3 | END)
    return varint(field.number << 3 | LEN) + varint(len(content)) + content


def _mask(patch: Patch, paths: Sequence[str], descriptor: Descriptor | None = None) -> None:
    """Give a patch its mask, a DELTA's with numbers; none at all where there are no paths, as every encoder does."""
    patch.ClearField("mask")
    patch.ClearField("numbers")
    if paths:
        patch.mask.paths.extend(paths)
    if descriptor is not None:
        for numbers in field_numbers(descriptor, paths):
            patch.numbers.add(numbers=numbers)


def _content(data: bytes, at: int, wire_type: int) -> tuple[int, int, int]:
    """Where the content of the record whose tag ends at `at` starts and ends, and where the next record starts."""
    if wire_type == VARINT:
        after = read_varint(data, at)[1]
        return at, after, after
    if wire_type == LEN:
        length, at = read_varint(data, at)
        return at, at + length, at + length
    if wire_type == START:
        inner = at
        while True:
            tag, content = read_varint(data, inner)
            if tag & 7 == END:
                return at, inner, content
            inner = _content(data, content, tag & 7)[2]
    after = at + (8 if wire_type == FIXED64 else 4)
    return at, after, after


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_key(entry: Descriptor, value: bytes) -> Any:
    """The key of a map entry, for sorting. upb writes both parts of every entry."""
    return next(_number(entry.fields_by_number[1], part.value) for part in records(value) if part.number == 1)


def _number(field: FieldDescriptor, value: bytes) -> Any:
    """The value of a map key from its bytes; text stays bytes, so that it sorts by UTF-8."""
    kind = field.type
    if kind == FieldDescriptor.TYPE_STRING:
        return value
    if kind in (FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_FIXED64):
        return int.from_bytes(value, "little")
    if kind in (FieldDescriptor.TYPE_SFIXED32, FieldDescriptor.TYPE_SFIXED64):
        return int.from_bytes(value, "little", signed=True)
    number, _ = read_varint(value, 0)
    if kind in (FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64):
        return number >> 1 ^ -(number & 1)
    if kind in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
        return number - (1 << 64) if number >> 63 else number
    return number


def _ordered(descriptor: Descriptor, data: bytes) -> bytes:
    """`data`, which upb serialised, with the entries of every map in order."""
    out: list[bytes] = []
    maps: dict[int, list[tuple[Any, bytes]]] = {}
    places: dict[int, int] = {}
    for record in records(data):
        field = descriptor.fields_by_number.get(record.number)
        if field is None or field.message_type is None or not is_known(field, record):
            out.append(record.raw if field is None else _wide(field, record))
            continue
        nested = wrapped(field, _ordered(field.message_type, record.value))
        if not _is_map(field):
            out.append(nested)
            continue
        if record.number not in maps:
            places[record.number] = len(out)
            out.append(b"")
        maps.setdefault(record.number, []).append((_map_key(field.message_type, record.value), nested))
    for number, entries in maps.items():
        out[places[number]] = b"".join(entry for _, entry in sorted(entries))
    return b"".join(out)


def _wide(field: FieldDescriptor, record: Record) -> bytes:
    """A record as it is, but a value that a closed enum does not declare as a varint of 64 bits, like any other value.

    Releases of upb differ in what they make of a negative one.
    """
    closed = field.enum_type is not None and field.enum_type.is_closed and record.wire_type == VARINT
    if not closed or is_known(field, record):
        return record.raw
    tag = record.raw[: len(record.raw) - len(record.value)]
    low = read_varint(record.value, 0)[0] & 0xFFFFFFFF
    return tag + varint(low | 0xFFFFFFFF << 32 if low >> 31 else low)


def _fields(descriptor: Descriptor, data: bytes) -> tuple[dict[int, bytes], dict[int, Record], bytes]:
    """A canonical message as the bytes of each field, the last record of each, and the bytes of the unknown ones."""
    known: dict[int, bytes] = {}
    last: dict[int, Record] = {}
    unknown = b""
    for record in records(data):
        if not unknown and is_known(descriptor.fields_by_number.get(record.number), record):
            known[record.number] = known.get(record.number, b"") + record.raw
            last[record.number] = record
        else:
            unknown += record.raw
    return known, last, unknown


def _diff(descriptor: Descriptor, old: bytes, new: bytes) -> tuple[list[Change], bytes, bool] | None:
    """The paths and the partial message that lead from `old` to `new`, and whether paths may say it.

    None: unknown fields differ, so that none can.
    """
    before, before_last, before_unknown = _fields(descriptor, old)
    after, after_last, after_unknown = _fields(descriptor, new)
    if before_unknown != after_unknown:
        return None
    beside = {record.number for record in records(before_unknown)}
    changes: list[Change] = []
    data = b""
    is_nameable = True
    for number in sorted({*before, *after}):
        if before.get(number) == after.get(number):
            continue
        field = descriptor.fields_by_number[number]
        is_nameable &= not beside & _together(field)
        inner = None
        if field.message_type is not None and not field.is_repeated and number in before and number in after:
            inner = _diff(field.message_type, before_last[number].value, after_last[number].value)
        if inner is None:
            changes.append(Change(field.name, (field.name,)))
            data += after.get(number, b"")
        elif not inner[2] or _type_in(field).startswith("google.protobuf."):
            below = tuple(f"{field.name}.{path}" for change in inner[0] for path in change.inside)
            changes.append(Change(field.name, below))
            data += after[number]
        else:
            changes += [change.below(field.name) for change in inner[0]]
            data += wrapped(field, inner[1])
    return changes, data, is_nameable


def _type_in(field: FieldDescriptor) -> str:
    """The full name of the message type that a field holds; empty: none."""
    return "" if field.message_type is None else field.message_type.full_name


def _together(field: FieldDescriptor) -> set[int]:
    """The numbers of the fields that cannot be changed without this one: its own, and those of its oneof."""
    members = field.containing_oneof.fields if field.containing_oneof is not None else []
    return {field.number, *(member.number for member in members)}


def _united(descriptor: Descriptor, paths: Sequence[str]) -> list[str]:
    """All of `paths` without those below another one, in the order of their field numbers."""
    unique = {path for path in paths if not any(path.startswith(f"{above}.") for above in paths)}

    def numbers(path: str) -> list[int]:
        at: Descriptor | None = descriptor
        found: list[int] = []
        for name in path.split("."):
            field = at.fields_by_name[name] if at is not None else None
            if field is not None:
                found.append(field.number)
                at = field.message_type
        return found

    return sorted(unique, key=numbers)
