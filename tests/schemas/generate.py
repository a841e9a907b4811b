"""Random messages of any type, and what becomes of them. Everything comes from one `Random`: a seed repeats it."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

F = FieldDescriptor
DEPTH_MAX = 4
"""Of generated nesting; recursive types would never end."""
BITS = {F.TYPE_INT32: 32, F.TYPE_SINT32: 32, F.TYPE_SFIXED32: 32, F.TYPE_UINT32: 32, F.TYPE_FIXED32: 32}
UNSIGNED = {F.TYPE_UINT32, F.TYPE_UINT64, F.TYPE_FIXED32, F.TYPE_FIXED64}
NAN = struct.unpack("<d", bytes.fromhex("000000000000f87f"))[0]
FLOATS = [0.0, -0.0, 1.5, float("inf"), float("-inf"), NAN, 1e30]
TEXTS = ["", "a", "ab", "é", "\U0001f600", "\uffff", "x" * 130]
BLOBS = [b"", b"\0", b"\xff\xfe", b"z" * 130]


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def value(field: FieldDescriptor, random: Random) -> Any:
    """A value of a scalar field, its edges more often than the rest."""
    if field.type == F.TYPE_BOOL:
        return random.random() < 0.5
    if field.type in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
        return random.choice(FLOATS)
    if field.type == F.TYPE_STRING:
        return random.choice(TEXTS)
    if field.type == F.TYPE_BYTES:
        return random.choice(BLOBS)
    if field.enum_type is not None:
        known = list(field.enum_type.values_by_number)
        return random.choice(known if field.enum_type.is_closed else [*known, 77, -9])
    bits = BITS.get(field.type, 64)
    low, high = (0, 2**bits - 1) if field.type in UNSIGNED else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return random.choice([0, 1, 127, 128, low, high, random.randint(low, high)])


def fields_of(message: Message, depth: int) -> list[FieldDescriptor]:
    """The fields that may be set, extensions among them."""
    descriptor: Descriptor = message.DESCRIPTOR
    fields = list(descriptor.fields)
    if descriptor.is_extendable:
        fields += descriptor.file.pool.FindAllExtensions(descriptor)
    return [field for field in fields if depth < DEPTH_MAX or field.message_type is None]


def held(message: Message, field: FieldDescriptor) -> Any:
    """What a message holds in a field or an extension."""
    return message.Extensions[field] if field.is_extension else getattr(message, field.name)


def set_field(message: Message, field: FieldDescriptor, random: Random, depth: int) -> None:
    """Gives a field a value, or adds to what a list or a map has."""
    if is_map(field):
        key_field, value_field = (field.message_type.fields_by_number[number] for number in (1, 2))
        entries = held(message, field)
        for _ in range(random.randint(1, 3)):
            key = value(key_field, random)
            if value_field.message_type is not None:
                fill(entries[key], random, depth + 1)
            else:
                entries[key] = value(value_field, random)
    elif field.is_repeated:
        for _ in range(random.randint(1, 3)):
            if field.message_type is not None:
                fill(held(message, field).add(), random, depth + 1)
            else:
                held(message, field).append(value(field, random))
    elif field.message_type is not None:
        held(message, field).SetInParent()
        fill(held(message, field), random, depth + 1)
    elif field.is_extension:
        message.Extensions[field] = value(field, random)
    else:
        setattr(message, field.name, value(field, random))


def fill(message: Message, random: Random, depth: int) -> None:
    """Sets a few fields."""
    fields = fields_of(message, depth)
    for field in random.choices(fields, k=random.randint(0, 8 if depth == 0 else 3)) if fields else []:
        set_field(message, field, random, depth)


def change(message: Message, random: Random, depth: int = 0) -> None:
    """Clears a field, sets one, takes one item away, or goes into a nested message; a few times."""
    present = [field for field, _ in message.ListFields()]
    for _ in range(random.randint(1, 3)):
        inner = [field for field in present if field.message_type is not None and not field.is_repeated]
        way = random.randrange(4)
        if way == 0 and present:
            field = random.choice(present)
            message.ClearExtension(field) if field.is_extension else message.ClearField(field.name)
        elif way == 1 and inner and depth < DEPTH_MAX:
            change(held(message, random.choice(inner)), random, depth + 1)
        elif way == 2 and present:
            field = random.choice(present)
            items = held(message, field)
            if is_map(field) and len(items):
                del items[random.choice(sorted(items))]
            elif field.is_repeated and not is_map(field) and len(items):
                del items[random.randrange(len(items))]
        else:
            fields = fields_of(message, depth)
            if fields:
                set_field(message, random.choice(fields), random, depth)
        present = [field for field, _ in message.ListFields()]
