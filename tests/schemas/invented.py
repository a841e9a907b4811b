"""Message types that nobody wrote: every kind of field in every syntax, in odd places. A seed repeats them."""

from __future__ import annotations

import functools
from random import Random

from google.protobuf.descriptor_pb2 import (
    EDITION_2023,
    DescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

PREFIX = "invented."
F = FieldDescriptorProto
SCALARS = sorted(set(F.Type.values()) - {F.TYPE_GROUP, F.TYPE_MESSAGE, F.TYPE_ENUM})
KEYS = sorted(set(SCALARS) - {F.TYPE_DOUBLE, F.TYPE_FLOAT, F.TYPE_BYTES})
NAMES = (
    "class",
    "None",
    "from",
    "data",
    "mask",
    "type",
    "_x",
    "X1",
    "value",
    "key",
    "id",
    "has_y",
    "fooBar",
    "FOO",
    "a__b",
)
NUMBERS = (1, 2, 3, 7, 15, 16, 17, 255, 256, 257, 2_047, 2_048, 18_999, 20_000, 2**28, 2**29 - 1)
"""Where tags and tables grow by a byte or change their kind."""
VALUES = (0, 1, 2, -1, -(2**31), 2**31 - 1)
MESSAGES = 3


@functools.lru_cache(maxsize=64)
def message(name: str) -> type[Message]:
    """The class called `invented.<seed>.M0` to `M2`. Seeds whose file Protobuf refuses are passed over upwards."""
    _, seed, short = name.split(".")
    for at in range(int(seed), int(seed) + 100):
        pool = DescriptorPool()
        try:
            pool.Add(_file(Random(at)))
        except TypeError:
            continue
        return GetMessageClass(pool.FindMessageTypeByName(f"invented.{short}"))
    raise AssertionError(f"a hundred files from seed {seed} on are refused")


def _file(random: Random) -> FileDescriptorProto:
    syntax = random.choice(("proto2", "proto3", "editions"))
    file = FileDescriptorProto(name="invented.proto", package="invented", syntax=syntax)
    if syntax == "editions":
        file.edition = EDITION_2023
        features = file.options.features
        features.field_presence = random.choice((FeatureSet.EXPLICIT, FeatureSet.IMPLICIT))
        features.enum_type = random.choice((FeatureSet.OPEN, FeatureSet.CLOSED))
        features.repeated_field_encoding = random.choice((FeatureSet.PACKED, FeatureSet.EXPANDED))
        features.utf8_validation = random.choice((FeatureSet.VERIFY, FeatureSet.NONE))
        features.message_encoding = random.choice((FeatureSet.LENGTH_PREFIXED, FeatureSet.DELIMITED))
    enum = file.enum_type.add(name="E")
    first = random.choice(VALUES) if syntax == "proto2" else 0
    for number in (first, *random.sample(sorted(set(VALUES) - {first}), 3)):
        enum.value.add(name=f"E{len(enum.value)}", number=number)
    for at in range(MESSAGES):
        _message(file.message_type.add(name=f"M{at}"), syntax, random)
    for declared in file.message_type if syntax != "proto3" else ():
        if random.random() < 0.5:
            declared.extension_range.add(start=30_000, end=40_000)
            label = random.choice((F.LABEL_OPTIONAL, F.LABEL_REPEATED))
            extension = file.extension.add(name=f"x{declared.name}", number=30_007, label=label)
            extension.extendee = f".invented.{declared.name}"
            _type(extension, random)
    return file


def _message(declared: DescriptorProto, syntax: str, random: Random) -> None:
    names = random.sample(NAMES, random.randint(3, 9))
    has_oneof = random.random() < 0.6
    optional = []
    for name, number in zip(names, random.sample(NUMBERS, len(names)), strict=True):
        field, way = declared.field.add(name=name, number=number, label=F.LABEL_OPTIONAL), random.random()
        if random.random() < 0.15:
            _map(declared, field, random)
            continue
        _type(field, random)
        if way < 0.3:
            field.label = F.LABEL_REPEATED
            if syntax != "editions" and field.type in SCALARS and field.type not in (F.TYPE_STRING, F.TYPE_BYTES):
                field.options.packed = random.random() < 0.5
        elif way < 0.55 and has_oneof:
            field.oneof_index = 0
        elif way < 0.6 and syntax == "proto2":
            field.label = F.LABEL_REQUIRED
        elif way < 0.75 and syntax == "proto3":
            field.proto3_optional = True
            optional.append(field)
    if any(field.HasField("oneof_index") for field in declared.field):
        declared.oneof_decl.add(name="choice")
    for field in optional:
        field.oneof_index = len(declared.oneof_decl)
        declared.oneof_decl.add(name=f"_{field.name}")


def _type(field: FieldDescriptorProto, random: Random) -> None:
    way = random.random()
    if way < 0.35:
        field.type, field.type_name = F.TYPE_MESSAGE, f".invented.M{random.randrange(MESSAGES)}"
    elif way < 0.5:
        field.type, field.type_name = F.TYPE_ENUM, ".invented.E"
    else:
        field.type = F.Type.ValueType(random.choice(SCALARS))


def _map(declared: DescriptorProto, field: FieldDescriptorProto, random: Random) -> None:
    name = "".join(part[:1].upper() + part[1:] for part in field.name.split("_")) + "Entry"
    entry = declared.nested_type.add(name=name)
    entry.options.map_entry = True
    key = F.Type.ValueType(random.choice(KEYS))
    entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=key)
    _type(entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL), random)
    field.label, field.type, field.type_name = F.LABEL_REPEATED, F.TYPE_MESSAGE, f".invented.{declared.name}.{name}"
