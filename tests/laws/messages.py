"""Strategies: messages of any type with values at the edges, changed messages, and the kernel of each type."""

from __future__ import annotations

import functools
import os
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from streams.kernel.schema import MessageSchema
from tests.protos import message_class

law = settings(
    max_examples=5_000 if os.environ.get("STREAMS_LAWS") == "deep" else 150,
    deadline=None,
    print_blob=True,
    # messages of every kind of field are large examples, and the first one compiles the zoo
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""How hard a law is tried: a little in every run, hard with STREAMS_LAWS=deep. A failure prints how to repeat it."""

TYPES = ["zoo.three.Everything", "zoo.three.Maps", "zoo.two.Old", "zoo.edition.Edition"]
DEPTH_MAX = 3
"""Of generated nesting; recursive types would never end."""

F = FieldDescriptor
BITS = {F.TYPE_INT32: 32, F.TYPE_SINT32: 32, F.TYPE_SFIXED32: 32, F.TYPE_UINT32: 32, F.TYPE_FIXED32: 32}
UNSIGNED = {F.TYPE_UINT32, F.TYPE_UINT64, F.TYPE_FIXED32, F.TYPE_FIXED64}
NUMBERS = [0, 1, 127, 128, 255, 16_383, 16_384]
QUIET, SIGNALLING = (struct.unpack("<d", bytes.fromhex(bits))[0] for bits in ("000000000000f87f", "010000000000f47f"))
FLOATS = [0.0, -0.0, 1.5, -1.5, float("inf"), float("-inf"), QUIET, SIGNALLING, 5e-324, 1e30]
TEXTS = ["", "a", "b", "ab", "é", "\U0001f600", "\uffff", "x" * 127, "x" * 128, "y" * 300]
BLOBS = [b"", b"\0", b"\xff\xfe", b"z" * 127, b"z" * 128]


@functools.cache
def schema_of(name: str) -> MessageSchema:
    """The native kernel of a message of the zoo."""
    return MessageSchema(message_class(name))


def deterministic(message: Message) -> bytes:
    """A message as upb serialises it; canonical but for the order of map entries."""
    return message.SerializePartialToString(deterministic=True)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_single_message(field: FieldDescriptor) -> bool:
    """Whether a path may lead through a field."""
    return field.message_type is not None and not field.is_repeated


@functools.cache
def values(type_: int, closed: tuple[int, ...] | None, known: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Values of a scalar type, its edges more often than the rest. `known` are an enum's values, `closed` if closed."""
    if type_ == F.TYPE_BOOL:
        return st.booleans()
    if type_ in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
        return st.sampled_from(FLOATS)
    if type_ == F.TYPE_STRING:
        return st.sampled_from(TEXTS)
    if type_ == F.TYPE_BYTES:
        return st.sampled_from(BLOBS)
    if type_ == F.TYPE_ENUM:
        return st.sampled_from(closed if closed is not None else [*known, 77, -9])
    bits = BITS.get(type_, 64)
    low, high = (0, 2**bits - 1) if type_ in UNSIGNED else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.sampled_from([*NUMBERS, low, high, low + 1]) | st.integers(low, high)


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a scalar field."""
    known = tuple(field.enum_type.values_by_number) if field.enum_type is not None else ()
    return values(field.type, known if field.enum_type is not None and field.enum_type.is_closed else None, known)


def set_field(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    """Give a field a value, or add some to what a list or a map has."""
    if is_map(field):
        key, value = (field.message_type.fields_by_number[number] for number in (1, 2))
        entries: Any = getattr(message, field.name)
        for at in draw(st.lists(scalar(key), min_size=1, max_size=3)):
            if value.message_type is not None:
                fill(draw, entries[at], depth + 1)
            else:
                entries[at] = draw(scalar(value))
    elif field.is_repeated:
        if field.message_type is not None:
            for _ in range(draw(st.integers(1, 2))):
                fill(draw, getattr(message, field.name).add(), depth + 1)
        else:
            getattr(message, field.name).extend(draw(st.lists(scalar(field), min_size=1, max_size=3)))
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
        fill(draw, getattr(message, field.name), depth + 1)
    else:
        setattr(message, field.name, draw(scalar(field)))


def fill(draw: st.DrawFn, message: Message, depth: int) -> None:
    """Set a few fields."""
    fields = [f for f in message.DESCRIPTOR.fields if depth < DEPTH_MAX or f.message_type is None]
    # sparse, or rich enough that a change finds something to change
    least, most = draw(st.sampled_from([(0, 4), (6, 16)])) if depth == 0 else (0, 3)
    nested = [field for field in fields if is_single_message(field)]
    choices = fields + nested * 3 if depth == 0 else fields
    for field in draw(st.lists(st.sampled_from(choices), min_size=least, max_size=most)) if fields else []:
        set_field(draw, message, field, depth)


def change(draw: st.DrawFn, message: Message, depth: int) -> None:
    """Change a few fields: clear, set, add, drop a map entry or a list item, or go into a nested message."""
    fields = [f for f in message.DESCRIPTOR.fields if depth < DEPTH_MAX or f.message_type is None]
    if not fields:
        return
    present = [field for field, _ in message.ListFields() if not field.is_extension and field in fields]
    nested = [field for field in present if is_single_message(field)]
    for field in draw(st.lists(st.sampled_from(fields + present * 2 + nested * 6), min_size=1, max_size=3)):
        way = draw(st.sampled_from(["clear", "set", "inside", "inside", "inside"]))
        held: Any = getattr(message, field.name)
        if way == "clear":
            message.ClearField(field.name)
        elif way == "inside" and is_map(field) and len(held):
            del held[draw(st.sampled_from(list(held)))]
        elif way == "inside" and field.is_repeated and len(held) and not is_map(field):
            del held[draw(st.integers(0, len(held) - 1))]
        elif (
            way == "inside"
            and field.message_type is not None
            and not field.is_repeated
            and message.HasField(field.name)
        ):
            change(draw, held, depth + 1)
        else:
            set_field(draw, message, field, depth)


@st.composite
def messages(draw: st.DrawFn, name: str) -> Message:
    """Any message of a type."""
    message = message_class(name)()
    fill(draw, message, 0)
    return message


@st.composite
def histories(draw: st.DrawFn, name: str, length: int) -> list[Message]:
    """A message and what became of it, `length` messages in all; a few of them start anew."""
    history = [draw(messages(name))]
    while len(history) < length:
        message = message_class(name)()
        message.CopyFrom(history[-1])
        if draw(st.integers(0, 9)) == 0:
            message = draw(messages(name))
        else:
            change(draw, message, 0)
        history.append(message)
    return history
