"""Field tables, fingerprints and the comparison of descriptors, on a zoo of every syntax."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SchemaError
from streams.kernel import schema
from tests.protos import message_class

PROTO = 'name: "f.proto" package: "acme" syntax: "proto3" message_type { name: "M" %s }'
"""The text format of a file with one message."""

DEVICE_FINGERPRINT = 0xADF4727F7FE6FA


def acme(fields: str, more: str = "") -> bytes:
    """The stored form of a message with `fields`, each `number:type:label`, for example `1:STRING:OPTIONAL`."""
    rows = []
    for field in fields.split():
        number, kind, label = field.split(":")
        child = f'type_name: ".acme.{kind}" ' if kind in ("N", "E") else ""
        declared = {"N": "MESSAGE", "E": "ENUM"}.get(kind, kind)
        rows.append(f'field {{ name: "f{number}" number: {number} type: TYPE_{declared} {child}label: LABEL_{label} }}')
    file = FileDescriptorProto()
    text_format.Parse(PROTO % " ".join(rows) + more, file)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return schema.field_table_bytes(pool.FindMessageTypeByName("acme.M"))


def row(name: str, field: str) -> schema.Field:
    """One field of a message of the zoo."""
    root = schema.field_table(message_class(name).DESCRIPTOR)[0][1]
    return next(row for row in root if row[5] == field)


@pytest.mark.parametrize(
    ("message", "field", "wanted"),
    [
        ("zoo.three.Everything", "i32", (1, schema.INT32, schema.IMPLICIT, 0, -1, "i32", None)),
        ("zoo.three.Everything", "s64", (6, schema.UINT64, schema.IMPLICIT | schema.SIGNED, 0, -1, "s64", None)),
        ("zoo.three.Everything", "sf32", (9, schema.FIX32, schema.IMPLICIT | schema.SIGNED, 0, -1, "sf32", None)),
        ("zoo.three.Everything", "text", (14, schema.STR, schema.IMPLICIT | schema.UTF8, 0, -1, "text", None)),
        ("zoo.three.Everything", "maybe_text", (19, schema.STR, schema.UTF8, 0, -1, "maybe_text", None)),
        ("zoo.three.Everything", "color", (16, schema.INT32, schema.IMPLICIT, 0, -1, "color", None)),
        ("zoo.three.Everything", "leaf", (17, schema.MSG, 0, 1, -1, "leaf", None)),
        ("zoo.three.Everything", "many_wide", (33, schema.FIX64, 3, 0, -1, "many_wide", None)),
        ("zoo.three.Everything", "expanded_i32", (39, schema.INT32, 1, 0, -1, "expanded_i32", None)),
        ("zoo.three.Everything", "choice_i32", (60, schema.INT32, 0, 0, 0, "choice_i32", None)),
        ("zoo.three.Everything", "other_flag", (65, schema.BOOL, 0, 0, 1, "other_flag", None)),
        ("zoo.three.Everything", "again", (70, schema.MSG, 0, 0, -1, "again", None)),
        ("zoo.three.Maps", "by_i32", (1, schema.MSG, schema.REPEATED | schema.MAP, 1, -1, "by_i32", None)),
        ("zoo.two.Old", "text", (2, schema.STR, 0, 0, -1, "text", None)),
        ("zoo.two.Old", "gappy", (5, schema.CENUM, 0, 0, -1, "gappy", [-7, 0, 5])),
        ("zoo.two.Old", "grp", (6, schema.GROUP, 0, 1, -1, "grp", None)),
        ("zoo.two.Old", "must", (15, schema.INT32, 0, 0, -1, "must", None)),
        ("zoo.two.Old", "packed_gappy", (14, schema.CENUM, 3, 0, -1, "packed_gappy", [-7, 0, 5])),
        ("zoo.edition.Edition", "implicit", (1, schema.INT32, schema.IMPLICIT, 0, -1, "implicit", None)),
        ("zoo.edition.Edition", "explicit", (2, schema.INT32, 0, 0, -1, "explicit", None)),
        ("zoo.edition.Edition", "delimited", (6, schema.GROUP, 0, 1, -1, "delimited", None)),
        ("zoo.edition.Edition", "prefixed", (7, schema.MSG, 0, 1, -1, "prefixed", None)),
        ("zoo.edition.Edition", "parts", (12, schema.MSG, 9, 2, -1, "parts", None)),
        ("zoo.edition.Edition", "closed", (15, schema.CENUM, 0, 0, -1, "closed", [1, 3])),
    ],
)
def test_field_of_every_syntax(message: str, field: str, wanted: schema.Field) -> None:
    """Presence, encoding, closed enums, groups and oneofs come from the features, whatever the syntax."""
    assert row(message, field) == wanted


def test_utf8_feature_reaches_map_entries() -> None:
    """A feature on a map field holds for the key and the value of its entries."""
    table = dict(schema.field_table(message_class("zoo.edition.Edition").DESCRIPTOR))
    assert [entry[2] for entry in table["zoo.edition.Edition.LooseLabelsEntry"]] == [0, 0]
    assert [entry[2] for entry in table["zoo.edition.Edition.PartsEntry"]] == [schema.UTF8, 0]
    assert [entry[2] for entry in table["zoo.edition.Part"]][1] == schema.IMPLICIT


@pytest.mark.parametrize("name", ["zoo.three.Everything", "zoo.three.Maps", "zoo.two.Old", "zoo.edition.Edition"])
def test_utf8_flag_is_what_upb_checks(name: str) -> None:
    """A field has the UTF8 flag exactly where upb rejects a byte that is no UTF-8."""
    cls = message_class(name)
    for number, kind, flags, _child, _oneof, _name, _values in schema.field_table(cls.DESCRIPTOR)[0][1]:
        if kind != schema.STR:
            continue
        tag = number << 3 | 2
        head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
        rejected = schema.canonicaliser(cls)(head + b"\x01\xff") is None
        assert rejected == bool(flags & schema.UTF8), _name


def test_fingerprint_is_fixed() -> None:
    """Fingerprints are stored and travel in patches: they never change for the same descriptor."""
    assert schema.fingerprint(DeviceState.DESCRIPTOR) == DEVICE_FINGERPRINT
    assert schema.fingerprint(AircraftState.DESCRIPTOR) != DEVICE_FINGERPRINT


def test_compare_ignores_what_protobuf_can_read() -> None:
    """Added, removed and renamed fields, new packing and presence are fine."""
    assert schema.compare(acme("1:STRING:OPTIONAL 2:INT32:OPTIONAL"), acme("2:INT32:OPTIONAL 3:BYTES:REPEATED")) == []
    device = schema.field_table_bytes(DeviceState.DESCRIPTOR)
    assert schema.compare(device, device) == []


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("1:UINT32:OPTIONAL", "1:SINT32:OPTIONAL", "acme.M field 1: stored as uint32 f1, now sint32 f1"),
        ("1:FLOAT:OPTIONAL", "1:FIXED32:OPTIONAL", "acme.M field 1: stored as float f1, now fixed32 f1"),
        ("1:STRING:OPTIONAL", "1:STRING:REPEATED", "acme.M field 1: stored as string f1, now repeated string f1"),
        (
            "1:INT64:REPEATED",
            "1:STRING:REPEATED",
            "acme.M field 1: stored as repeated int64 f1, now repeated string f1",
        ),
    ],
)
def test_compare_names_both_sides(before: str, after: str, named: str) -> None:
    """A number that changed its type is named with both types, also where the wire type stayed the same."""
    assert schema.compare(acme(before), acme(after)) == [named]


def test_compare_looks_into_children() -> None:
    """A changed number of a nested type is found, and a recursive type ends."""
    nested = ' message_type { name: "N" field { name: "x" number: 1 type: TYPE_%s label: LABEL_OPTIONAL } %s }'
    again = 'field { name: "n" number: 2 type: TYPE_MESSAGE type_name: ".acme.N" label: LABEL_OPTIONAL }'
    before = acme("1:N:OPTIONAL", nested % ("INT32", again))
    after = acme("1:N:OPTIONAL", nested % ("BOOL", again))
    assert schema.compare(before, after) == ["acme.N field 1: stored as int32 x, now bool x"]


@pytest.mark.parametrize("stored", [b"", b"{}", b"[1]", b"\xff", b'{"format":1,"messages":3}'])
def test_damaged_stored_table(stored: bytes) -> None:
    """A stored table that cannot be read is an error with its cure."""
    with pytest.raises(SchemaError, match="rebuild"):
        schema.compare(stored, acme("1:BOOL:OPTIONAL"))


def test_newer_stored_table() -> None:
    """A stored table of a newer release is refused by name."""
    with pytest.raises(SchemaError, match="format 2, this release reads up to 1"):
        schema.compare(b'{"format":2}', acme("1:BOOL:OPTIONAL"))


def test_canonicaliser() -> None:
    """Re-serialises what is unusual, rejects what is damaged, does not mind a missing required field."""
    canonicalise = schema.canonicaliser(DeviceState)
    assert canonicalise(b"\x12\x01b\x0a\x01a") == b"\x0a\x01a\x12\x01b"
    assert canonicalise(b"\x12\x05b") is None
    assert schema.canonicaliser(message_class("zoo.two.Old"))(b"\x08\x05") == b"\x08\x05"


def test_pure_python_runtime_is_refused() -> None:
    """Without upb there is one clear error instead of a slow worker with another canonical form."""
    code = (
        "from streams.kernel.schema import canonicaliser; from streams.v1.patch_pb2 import Patch; canonicaliser(Patch)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SchemaError: the Protobuf runtime is 'python', expected 'upb'" in run.stderr


def test_message_schema() -> None:
    """One object holds what the kernel needs of a class, and brings any encoding into canonical form."""
    kernel = schema.MessageSchema(DeviceState, ["geo.lat"])
    assert (kernel.full_name, kernel.fingerprint) == ("streams.demo.v1.DeviceState", DEVICE_FINGERPRINT)
    state = DeviceState(device_id="d", labels={"b": "2", "a": "1", "": "0"}, slots=[3])
    form = kernel.canonicalise(state.SerializeToString())
    assert form is not None
    assert kernel.native.is_canonical(form)
    unpacked = b"".join([b"\xc0\x01\x03", DeviceState(labels=state.labels, device_id="d").SerializeToString()])
    assert kernel.canonicalise(unpacked) == form
    assert kernel.canonicalise(b"\x0a\x05") is None


def test_message_schema_names_a_wrong_ignored_path() -> None:
    """An ignored path that the class lacks is a mistake in the settings."""
    with pytest.raises(SchemaError, match=r"streams\.demo\.v1\.DeviceState: .*geo\.alt"):
        schema.MessageSchema(DeviceState, ["geo.alt"])
