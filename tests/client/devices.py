"""The device's message as others have it: of a later release, or of a team with names of its own."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from streams.demo.v1.device_pb2 import DeviceState


def renamed_device() -> type[Message]:
    """The device's message as another team has it: the same numbers, other names."""
    file = descriptor_pb2.FileDescriptorProto()
    DeviceState.DESCRIPTOR.file.CopyToProto(file)
    names = {"status": "condition", "geo": "place", "lat": "latitude"}
    for field in (field for message in file.message_type for field in message.field):
        field.name = names.get(field.name, field.name)
        field.ClearField("json_name")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("streams.demo.v1.DeviceState"))


def newer_device() -> type[Message]:
    """The device's message as a newer release has it: with one field more."""
    file = descriptor_pb2.FileDescriptorProto()
    DeviceState.DESCRIPTOR.file.CopyToProto(file)
    message = next(message for message in file.message_type if message.name == "DeviceState")
    message.field.add(name="color", number=99, type=9, label=1, json_name="color")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("streams.demo.v1.DeviceState"))
