"""Other encodings of a message: what parsers accept, or nearly, and no serialiser of ours writes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from streams.kernel.reference import (
    END,
    FIXED32,
    FIXED64,
    LEN,
    START,
    VARINT,
    WIRE_TYPES,
    Record,
    read_varint,
    records,
    varint,
)

Way = Callable[[list[Record], Descriptor, Random], bytes]
TEN_BYTES = 10


def padded(number: int, by: int) -> bytes:
    """A varint that is longer than it needs to be."""
    plain = varint(number)
    by = min(by, TEN_BYTES - len(plain))
    if by <= 0:
        return plain
    return bytes([*plain[:-1], plain[-1] | 128, *[128] * (by - 1), 0])


def record(number: int, wire_type: int, content: bytes) -> bytes:
    """One record; `content` of a LEN record without its length, of a group without its end."""
    tag = varint(number << 3 | wire_type)
    if wire_type == LEN:
        return tag + varint(len(content)) + content
    return tag + content + (varint(number << 3 | END) if wire_type == START else b"")


def wire_type_of(field: FieldDescriptor) -> int:
    """Of one value of a field."""
    return WIRE_TYPES.get(field.type, VARINT)


def is_map(field: FieldDescriptor | None) -> bool:
    """Whether a field is a map."""
    return field is not None and field.message_type is not None and field.message_type.GetOptions().map_entry


def is_packable(field: FieldDescriptor | None) -> bool:
    """Whether the values of a field may lie in one record."""
    return field is not None and field.is_repeated and wire_type_of(field) not in (LEN, START)


def each(change: Callable[[Record, FieldDescriptor | None, Random], bytes | None]) -> Way:
    """A way that changes single records, about every second of those that it can change."""

    def way(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
        out = []
        for item in items:
            changed = change(item, descriptor.fields_by_number.get(item.number), random)
            out.append(item.raw if changed is None or random.random() < 0.4 else changed)
        return b"".join(out)

    return way


def overlong(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """Tags, lengths and numbers in more bytes than needed."""
    tag = padded(item.number << 3 | item.wire_type, random.randrange(3))
    if item.wire_type == VARINT:
        return tag + padded(read_varint(item.value, 0)[0], random.randrange(4))
    if item.wire_type == LEN:
        return tag + padded(len(item.value), random.randrange(3)) + item.value
    if item.wire_type == START:
        return tag + item.value + padded(item.number << 3 | END, random.randrange(3))
    return tag + item.value


def repacked(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """Packed values one by one or in two records, and single values packed."""
    if field is None or not is_packable(field):
        return None
    wire_type = wire_type_of(field)
    if item.wire_type != LEN:
        return record(item.number, LEN, item.value)
    values, at = [], 0
    while at < len(item.value):
        after = read_varint(item.value, at)[1] if wire_type == VARINT else at + (8 if wire_type == FIXED64 else 4)
        values.append(item.value[at:after])
        at = after
    if random.random() < 0.5:
        return b"".join(record(item.number, wire_type, value) for value in values)
    half = random.randrange(len(values) + 1)
    return b"".join(record(item.number, LEN, b"".join(part)) for part in (values[:half], values[half:]))


def split_message(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """A nested message in two records, which parsers merge."""
    if field is None or field.message_type is None or field.is_repeated:
        return None
    parts = [part.raw for part in records(item.value)]
    half = random.randrange(len(parts) + 1)
    return b"".join(record(item.number, item.wire_type, b"".join(some)) for some in (parts[:half], parts[half:]))


def repeated_single(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """A single field twice, first with another value."""
    if field is None or field.is_repeated:
        return None
    first = {VARINT: b"\x05", FIXED32: bytes(4), FIXED64: bytes(8)}.get(item.wire_type, b"")
    return record(item.number, item.wire_type, first) + item.raw


def nested(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """Another way inside a nested message."""
    if field is None or field.message_type is None:
        return None
    inner = random.choice([way for name, way in sorted(WAYS.items()) if name not in ("nested", "flipped")])
    return record(item.number, item.wire_type, inner(list(records(item.value)), field.message_type, random))


def short_negative(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """A 32-bit number cut to 32 bits, or with other high bits, which parsers ignore."""
    if field is None or field.type not in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM) or item.wire_type:
        return None
    low = read_varint(item.value, 0)[0] & 0xFFFFFFFF
    return record(item.number, VARINT, varint(low | random.choice([0, 0xDEAD << 32])))


def large_bool(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """A true that is not 1."""
    if field is None or field.type != FieldDescriptor.TYPE_BOOL or item.wire_type:
        return None
    return record(item.number, VARINT, varint(random.choice([2, 300, 1 << 40, (1 << 64) - 1])))


def odd_entry(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """A map entry without its key or its value, with either twice, in the wrong order, or with something else in it."""
    if not is_map(field):
        return None
    parts = [part.raw for part in records(item.value)]
    extra = record(9, VARINT, b"\x07")
    odd = [
        parts[::-1],
        parts[1:],
        parts[:1],
        [*parts, *parts[1:]],
        [*parts[:1], *parts],
        [],
        [*parts, extra],
        [extra, *parts],
    ]
    return record(item.number, LEN, b"".join(random.choice(odd)))


def doubled_entry(item: Record, field: FieldDescriptor | None, random: Random) -> bytes | None:
    """The same key twice."""
    return item.raw + item.raw if is_map(field) else None


def shuffled(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
    """Fields in any order."""
    raws = [item.raw for item in items]
    random.shuffle(raws)
    return b"".join(raws)


def shuffled_maps(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
    """Entries of each map in any order, at the places of the map."""
    numbers = {item.number for item in items if is_map(descriptor.fields_by_number.get(item.number))}
    left = {number: [item.raw for item in items if item.number == number] for number in sorted(numbers)}
    for entries in left.values():
        random.shuffle(entries)
    return b"".join(left[item.number].pop() if item.number in left else item.raw for item in items)


def inserted(make: Callable[[Descriptor, Random], bytes], *, last: bool = False) -> Way:
    """A way that adds one record, anywhere or at the end."""

    def way(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
        raws = [item.raw for item in items]
        raws.insert(len(raws) if last else random.randrange(len(raws) + 1), make(descriptor, random))
        return b"".join(raws)

    return way


def pick(descriptor: Descriptor, random: Random, wanted: Callable[[FieldDescriptor], Any]) -> FieldDescriptor | None:
    """A field of a kind, if the message has one."""
    found = sorted((field for field in descriptor.fields if wanted(field)), key=lambda field: field.number)
    return random.choice(found) if found else None


def explicit_default(descriptor: Descriptor, random: Random) -> bytes:
    """A default value of a single field on the wire."""
    field = pick(descriptor, random, lambda field: not field.is_repeated and field.message_type is None)
    if field is None:
        return b""
    wire_type = wire_type_of(field)
    return record(field.number, wire_type, {VARINT: b"\0", FIXED32: bytes(4), FIXED64: bytes(8)}.get(wire_type, b""))


def other_member(descriptor: Descriptor, random: Random) -> bytes:
    """A member of a oneof, perhaps beside another one."""
    field = pick(descriptor, random, lambda field: field.containing_oneof is not None)
    if field is None:
        return b""
    wire_type = wire_type_of(field)
    return record(field.number, wire_type, {VARINT: b"\1", FIXED32: bytes(4), FIXED64: bytes(8)}.get(wire_type, b""))


def empty_packed(descriptor: Descriptor, random: Random) -> bytes:
    """A packed list of nothing."""
    field = pick(descriptor, random, is_packable)
    return b"" if field is None else record(field.number, LEN, b"")


def wrong_wire_type(descriptor: Descriptor, random: Random) -> bytes:
    """A known number with a wire type that its field cannot have: an unknown field."""
    field = pick(descriptor, random, lambda field: not is_packable(field) and not is_map(field))
    if field is None:
        return b""
    wire_type = random.choice([kind for kind in (VARINT, FIXED32, FIXED64, LEN) if kind != wire_type_of(field)])
    return record(field.number, wire_type, {VARINT: b"\x09", FIXED32: b"abcd", FIXED64: bytes(8), LEN: b"x"}[wire_type])


def undeclared_value(descriptor: Descriptor, random: Random) -> bytes:
    """A value that a closed enum does not have: an unknown field; packed it is one among others."""
    field = pick(descriptor, random, lambda field: field.enum_type is not None and field.enum_type.is_closed)
    if field is None:
        return b""
    known = varint(min(number for number in field.enum_type.values_by_number if number > 0))
    # a negative one as any serialiser writes it, cut to 32 bits, and with other high bits, which parsers ignore
    low = -9 & 0xFFFFFFFF
    value = varint(random.choice([99, 99, low | 0xFFFFFFFF << 32, low, low | 0xDEAD << 32]))
    if field.is_packed:
        return record(field.number, LEN, value + known + b"\x64")
    return record(field.number, VARINT, value)


def bad_utf8(descriptor: Descriptor, random: Random) -> bytes:
    """Text that is none."""
    field = pick(descriptor, random, lambda field: field.type == FieldDescriptor.TYPE_STRING)
    return b"" if field is None else record(field.number, LEN, b"\xff\xfe")


def unknown(descriptor: Descriptor, random: Random) -> bytes:
    """A field of a number that the type does not have, of any wire type."""
    number = random.choice([26, 900, 901])
    group = record(number, START, b"\x08\x01" + record(7, START, b""))
    return random.choice(
        [
            record(number, VARINT, varint(random.randrange(300))),
            record(number, LEN, b"abc"),
            record(number, FIXED32, bytes(4)),
            group,
        ]
    )


def cut(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
    """The last bytes missing."""
    data = b"".join(item.raw for item in items)
    return data[: -random.randint(1, 4)]


def flipped(items: list[Record], descriptor: Descriptor, random: Random) -> bytes:
    """A few bytes that are others."""
    data = bytearray(b"".join(item.raw for item in items))
    for _ in range(random.choice([1, 1, 2, 5])):
        if data:
            data[random.randrange(len(data))] = random.choice([random.randrange(256), 0xFF, 0x80, 0])
    return bytes(data)


def field_zero(descriptor: Descriptor, random: Random) -> bytes:
    """A field number that does not exist."""
    return random.choice([b"\0\0", b"\x02\0", b"\x07", b"\x0e"])


WAYS: dict[str, Way] = {
    "overlong": each(overlong),
    "repacked": each(repacked),
    "split message": each(split_message),
    "repeated single": each(repeated_single),
    "nested": each(nested),
    "short negative": each(short_negative),
    "large bool": each(large_bool),
    "odd entry": each(odd_entry),
    "doubled entry": each(doubled_entry),
    "shuffled": shuffled,
    "shuffled maps": shuffled_maps,
    "explicit default": inserted(explicit_default),
    "other member": inserted(other_member),
    "empty packed": inserted(empty_packed),
    "wrong wire type": inserted(wrong_wire_type),
    "wrong wire type last": inserted(wrong_wire_type, last=True),
    "undeclared value": inserted(undeclared_value),
    "undeclared value last": inserted(undeclared_value, last=True),
    "bad utf-8": inserted(bad_utf8),
    "unknown": inserted(unknown),
    "unknown last": inserted(unknown, last=True),
    "cut": cut,
    "flipped": flipped,
    "field zero": inserted(field_zero),
}


def mangled(data: bytes, descriptor: Descriptor, way: str, seed: int) -> bytes:
    """`data` in another encoding, by the way of that name."""
    return WAYS[way](list(records(data)), descriptor, Random(seed))
