"""Producers in other languages: the README's record, byte by byte, and each form made with plain Protobuf alone."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from streams._native import Job, Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.patch_pb2 import Patch
from tests.client.place import EPOCH, job_of

README = Path(__file__).resolve().parents[2] / "README.md"
STATE = DeviceState(device_id="d-17", battery=0.5)
CE = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e0001"),
    ("ce_source", b"/gateways"),
    ("ce_type", b"streams.demo.v1.DeviceState"),
    ("ce_sequence", b"7"),
]
F = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def job() -> Job:
    """The worker's core for the device's messages, with everything as it is by default."""
    return job_of(DeviceState, "devices")


def patch_of(job: Job, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]) -> Patch:
    """The patch that the worker makes of one record."""
    records = Records()
    records.append(key, value, headers, EPOCH, 0)
    step = Table(job, 0).process(records, EPOCH)

    assert (1, 0, None) == (len(step.patches), len(step.dead_letters), step.fatal)
    return Patch.FromString(step.patches.value(0) or b"")


def cloudevents() -> type[Message]:
    """io.cloudevents.v1.CloudEvent as its own .proto file says it, in as far as an event needs it."""
    file = descriptor_pb2.FileDescriptorProto(name="cloudevents.proto", package="io.cloudevents.v1", syntax="proto3")
    event = file.message_type.add(name="CloudEvent")
    event.oneof_decl.add(name="data")
    for number, name in enumerate(("id", "source", "spec_version", "type"), 1):
        event.field.add(name=name, number=number, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    entry = event.nested_type.add(name="AttributesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    value = ".io.cloudevents.v1.CloudEvent.CloudEventAttributeValue"
    entry.field.add(name="value", number=2, type=F.TYPE_MESSAGE, type_name=value, label=F.LABEL_OPTIONAL)
    attributes = ".io.cloudevents.v1.CloudEvent.AttributesEntry"
    event.field.add(name="attributes", number=5, type=F.TYPE_MESSAGE, type_name=attributes, label=F.LABEL_REPEATED)
    event.field.add(name="binary_data", number=6, type=F.TYPE_BYTES, label=F.LABEL_OPTIONAL, oneof_index=0)
    attribute = event.nested_type.add(name="CloudEventAttributeValue")
    attribute.oneof_decl.add(name="attr")
    attribute.field.add(name="ce_string", number=3, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL, oneof_index=0)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("io.cloudevents.v1.CloudEvent"))


def test_the_readmes_record_is_an_event(job: Job) -> None:
    """Key, headers and value as printed there give the patch that the text promises."""
    section = README.read_text(encoding="utf-8").partition("## Producers in other languages")[2].partition("\n## ")[0]
    block = re.findall(r"```text\n(.*?)```", section, re.DOTALL)[0]
    lines = [line.split() for line in block.splitlines()]
    key = next(bytes.fromhex(line[1]) for line in lines if line[0] == "key")
    value = next(bytes.fromhex(line[1]) for line in lines if line[0] == "value")
    headers = [(line[1], bytes.fromhex(line[2])) for line in lines if line[0] == "header"]
    patch = patch_of(job, key, value, headers)

    assert (b"d-17", STATE) == (patch.key, DeviceState.FromString(patch.data))
    assert ("e0001", "/gateways", 7) == (patch.event_id, patch.event_source, patch.sequence)
    assert (CE, STATE.SerializeToString()) == (headers, value)


def test_a_cloudevent_in_one_message(job: Job) -> None:
    """Made with the CloudEvents project's own message, serialised by stock Protobuf."""
    event = cloudevents()(id="e0001", source="/gateways", spec_version="1.0", type="streams.demo.v1.DeviceState")
    event.attributes["sequence"].ce_string = "7"  # type: ignore[attr-defined]
    event.binary_data = STATE.SerializeToString()  # type: ignore[attr-defined]
    headers = [("content-type", b"application/cloudevents+protobuf")]
    patch = patch_of(job, b"d-17", event.SerializeToString(), headers)

    assert STATE == DeviceState.FromString(patch.data)
    assert ("e0001", "/gateways", 7) == (patch.event_id, patch.event_source, patch.sequence)


def test_confluent_framing_by_hand(job: Job) -> None:
    """Magic, id and message indexes: DeviceState is the second message of its file, written [1]."""
    frame = struct.pack(">BI", 0, 100_001) + bytes([2, 2]) + STATE.SerializeToString()

    assert STATE == DeviceState.FromString(patch_of(job, b"d-17", frame, []).data)


def test_the_message_alone(job: Job) -> None:
    """Plain Protobuf needs no header."""
    assert STATE == DeviceState.FromString(patch_of(job, b"d-17", STATE.SerializeToString(), []).data)


def test_a_delete_has_no_value(job: Job) -> None:
    """After the state, a record with the same key, the ce_ headers and no value."""
    records = Records()
    records.append(b"d-17", STATE.SerializeToString(), CE, EPOCH, 0)
    later = [(name, {"ce_id": b"e0002", "ce_sequence": b"8"}.get(name, value)) for name, value in CE]
    records.append(b"d-17", None, later, EPOCH, 1)
    step = Table(job, 0).process(records, EPOCH)
    gone = Patch.FromString(step.patches.value(1) or b"")

    assert (2, Patch.DELETE, "e0002") == (len(step.patches), gone.kind, gone.event_id)
