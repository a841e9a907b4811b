"""The contracts: numbers and types that never change, because patches and events of other releases are read by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from streams.cli.proto import CONTRACTS
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel import rule
from streams.v1.cloudevents_pb2 import CloudEvent, CloudEventAttributeValue, CloudEventBatch
from streams.v1.patch_pb2 import FieldPath, Patch, PatchBatch
from streams.v1.resync_pb2 import Resync
from tests.protos import PROTO, compile_set

PATCH = """
1 bytes key, 2 uint64 revision, 3 uint64 base_revision, 4 enum kind, 5 string type, 6 message mask, 7 bytes data,
8 fixed64 digest, 9 string event_id, 10 string event_source, 11 message event_time, 12 string traceparent,
13 uint64 sequence, 14 uint64 epoch, 15 fixed64 schema, 16 string tracestate, 17 repeated message numbers
"""
CLOUD_EVENT = """
1 string id, 2 string source, 3 string spec_version, 4 string type, 5 repeated message attributes, 6 bytes binary_data,
7 string text_data, 8 message proto_data
"""
ATTRIBUTE = """
1 bool ce_boolean, 2 int32 ce_integer, 3 string ce_string, 4 bytes ce_bytes, 5 string ce_uri, 6 string ce_uri_ref,
7 message ce_timestamp
"""
DEVICE = """
1 string device_id, 2 string tenant, 3 string model, 4 string firmware, 5 string serial, 6 string region,
7 string owner_email, 8 string status, 9 int64 uptime_s, 10 int64 rx_bytes, 11 int64 tx_bytes, 12 int32 rssi,
13 double cpu, 14 double mem, 15 double temp_c, 16 double battery, 17 bool online, 18 bool locked,
19 fixed64 last_seen_us, 20 uint32 errors, 21 message geo, 22 repeated string tags, 23 repeated message labels,
24 repeated int32 slots
"""
RESYNC = "1 string requester, 2 uint64 epoch, 3 uint64 held_revision, 4 enum reason"

NAMES = {name for name in vars(FieldDescriptor) if name.startswith("TYPE_")}
TYPES = {getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower() for name in NAMES}


def written(descriptor: Descriptor) -> list[str]:
    """A message's fields as number, type and name."""
    return [
        f"{field.number} {'repeated ' if field.is_repeated else ''}{TYPES[field.type]} {field.name}"
        for field in sorted(descriptor.fields, key=lambda field: field.number)
    ]


@pytest.mark.parametrize(
    ("descriptor", "wanted"),
    [
        (Patch.DESCRIPTOR, PATCH),
        (PatchBatch.DESCRIPTOR, "1 repeated message patches"),
        (FieldPath.DESCRIPTOR, "1 repeated uint32 numbers"),
        (Resync.DESCRIPTOR, RESYNC),
        (CloudEvent.DESCRIPTOR, CLOUD_EVENT),
        (CloudEventAttributeValue.DESCRIPTOR, ATTRIBUTE),
        (CloudEventBatch.DESCRIPTOR, "1 repeated message events"),
        (DeviceState.DESCRIPTOR, DEVICE),
    ],
    ids=lambda value: value.name if isinstance(value, Descriptor) else "",
)
def test_numbers_are_fixed(descriptor: Descriptor, wanted: str) -> None:
    """Fields may be added behind these, never renumbered or retyped."""
    fields = " ".join(wanted.split()).split(", ")
    assert written(descriptor)[: len(fields)] == fields


def test_field_paths_are_packed() -> None:
    """One record per path, whatever its length."""
    assert bytes.fromhex("0a03158201") == FieldPath(numbers=[21, 130]).SerializeToString()


@pytest.mark.parametrize("path", sorted(PROTO.rglob("*.proto")), ids=lambda path: path.stem)
def test_every_file_names_its_packages_for_other_languages(path: Path, tmp_path: Path) -> None:
    """Without `go_package` protoc-gen-go refuses a file; without the others Java and C# get odd names."""
    source = str(path.relative_to(PROTO))
    (file,) = FileDescriptorSet.FromString(
        compile_set(tmp_path / "set.binpb", source, imports=False, root=PROTO).read_bytes()
    ).file
    options = file.options
    package = file.package.split(".")

    assert options.java_multiple_files
    assert file.package == options.java_package
    assert ".".join(part.capitalize() for part in package) == options.csharp_namespace
    assert f"patchstream/{'/'.join(package)};{''.join(package)}" == options.go_package


def test_the_wheel_carries_what_proto_says() -> None:
    """`make proto` copies `proto/` to where the package, and so the wheel, has it."""
    here, copied = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (PROTO, CONTRACTS)
    )

    assert here == copied


def test_kinds() -> None:
    """The numbers of the kinds, in the contract and in the receiver's rule."""
    assert dict(Patch.Kind.items()) == {"KIND_UNSPECIFIED": 0, "DELTA": 1, "SNAPSHOT": 2, "DELETE": 3}
    assert (rule.DELTA, rule.SNAPSHOT, rule.DELETE) == (Patch.DELTA, Patch.SNAPSHOT, Patch.DELETE)


def test_aircraft_has_what_the_demo_shows() -> None:
    """The demo's message has twenty fields or more, nested, repeated, map, enum and optional ones among them."""
    fields = AircraftState.DESCRIPTOR.fields
    assert len(fields) >= 20
    kinds = {TYPES[field.type] for field in fields}
    assert {"message", "enum", "string", "uint64"} <= kinds
    assert any(field.is_repeated for field in fields)
    assert any(field.has_presence and field.message_type is None for field in fields)
