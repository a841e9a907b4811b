"""The same message under other descriptors: fields renamed, missing, or in no oneof, enum values missing. By seed."""

from __future__ import annotations

import functools
from random import Random

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from streams._native import Job, Records, Table
from streams.kernel.messages import descriptor_of
from streams.kernel.schema import MessageSchema
from tests.protos import message_class

NOW_MS = 1_700_000_000_000


@functools.lru_cache(maxsize=128)
def variant(name: str, seed: int, *, rename: bool = True, fields: bool = True) -> type[Message]:
    """Another descriptor of a message of the zoo, which misses about every fourth of its enum values.

    `fields`: and of its fields. `rename`: about every second name is another one.
    """
    random = Random(seed)
    file = FileDescriptorProto.FromString(descriptor_of(message_class(name)).file.serialized_pb)
    for message in _messages(file):
        if fields and not message.options.map_entry:
            _drop_fields(message, random)
        for field in message.field:
            is_group = field.type == FieldDescriptorProto.TYPE_GROUP
            if rename and not message.options.map_entry and not is_group and random.random() < 0.5:
                field.name = f"{field.name}_called_otherwise"
            field.ClearField("json_name")
    for enum in [*file.enum_type, *(enum for message in _messages(file) for enum in message.enum_type)]:
        _drop_values(enum, random)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(name))


@functools.lru_cache(maxsize=256)
def schema_for(message_type: type[Message]) -> MessageSchema:
    """The native kernel of a class."""
    return MessageSchema(message_type)


def emitted(owner: type[Message], events: list[bytes | None], key: bytes = b"k") -> tuple[list[bytes], int]:
    """The patches that a worker with this class makes of the events of one key, and how many dead letters."""
    schema = schema_for(owner)
    table = Table(
        Job(
            schema.native, type=schema.full_name, fingerprint=schema.fingerprint, field_table=schema.field_table_bytes,
            source="s", key="record", sequence="none", format="plain", partitions=0, record_bytes_max=1 << 22,
            output_bytes_max=1 << 23,
            tombstone_retention_ms=1_000, schema_ids=[], message_index=[0], sealed=False,
            canonicalise=schema.through_upb,
        ),
        0,
    )  # fmt: skip
    records = Records()
    for offset, event in enumerate(events):
        records.append(key, event, [], NOW_MS, offset)
    step = table.process(records, NOW_MS)
    assert step.fatal is None
    return [step.patches.value(at) or b"" for at in range(len(step.patches))], len(step.dead_letters)


def _messages(file: FileDescriptorProto) -> list[DescriptorProto]:
    found = list(file.message_type)
    for message in found:
        found.extend(message.nested_type)
    return found


def _drop_fields(message: DescriptorProto, random: Random) -> None:
    kept = [field for field in message.field if random.random() < 0.75]
    left = [index for index in range(len(message.oneof_decl)) if any(_is_of(field, index) for field in kept)]
    fields, declared = [], [message.oneof_decl[index].name for index in left]
    for field in kept:
        copy = FieldDescriptorProto()
        copy.CopyFrom(field)
        if field.HasField("oneof_index"):
            copy.oneof_index = left.index(field.oneof_index)
        fields.append(copy)
    del message.field[:], message.oneof_decl[:]
    message.field.extend(fields)
    for oneof_name in declared:
        message.oneof_decl.add(name=oneof_name)


def _is_of(field: FieldDescriptorProto, oneof: int) -> bool:
    return field.HasField("oneof_index") and field.oneof_index == oneof


def _drop_values(enum: EnumDescriptorProto, random: Random) -> None:
    kept = [value for index, value in enumerate(enum.value) if index == 0 or random.random() < 0.6]
    values = [(value.name, value.number) for value in kept]
    del enum.value[:]
    for value_name, number in values:
        enum.value.add(name=value_name, number=number)
