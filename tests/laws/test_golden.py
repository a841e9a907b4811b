"""The golden vectors in `proto/golden`: up to date, right by the native kernel, and right by stock calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message

from streams._native import decode_patch
from streams.client.held import HeldStates
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel import reference
from streams.kernel.envelope import Rules, recognise
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import apply_patch
from streams.kernel.schema import MessageSchema
from streams.v1.patch_pb2 import Patch
from tests.laws.write_golden import GOLDEN, files
from tests.protos import message_class

EVERYTHING = message_class("streams.golden.v1.Everything")
CLASSES: dict[str, type[Message]] = {
    descriptor_of(cls).full_name: cls for cls in (DeviceState, AircraftState, EVERYTHING)
}
SCHEMAS = {name: MessageSchema(cls) for name, cls in CLASSES.items()}


def vectors(file: str) -> list[Any]:
    """The vectors of a file, each a test of its own."""
    content = json.loads((GOLDEN / file).read_text())
    return [pytest.param(vector, id=vector["name"]) for vector in content]


def unhex(text: str | None) -> bytes | None:
    """Bytes from hexadecimal; None stays."""
    return None if text is None else bytes.fromhex(text)


@pytest.mark.parametrize("file", ["patches.json", "canonical.json", "envelopes.json", "rule.json"])
def test_files_are_up_to_date(file: str) -> None:
    """The files are what `python -m tests.laws.write_golden` writes."""
    assert json.loads((GOLDEN / file).read_text()) == files()[file]


@pytest.mark.parametrize("vector", vectors("patches.json"))
def test_patch(vector: dict[str, Any]) -> None:
    """The native kernel makes this patch, and applying it by stock calls gives the state with the digest."""
    cls, schema = CLASSES[vector["type"]], SCHEMAS[vector["type"]]
    before, after = unhex(vector["before"]), unhex(vector["after"])
    patch = Patch.FromString(bytes.fromhex(vector["patch"]))
    read = decode_patch(bytes.fromhex(vector["patch"]))
    assert (read["paths"], read["data"].hex()) == (vector["paths"], vector["data"])
    assert read["numbers"] == vector["numbers"]
    states = HeldStates(cls, requester="r", asks=None)
    if vector["before"] is not None:
        first = reference.snapshot(
            cls, before or b"", key=patch.key, epoch=patch.epoch, revision=patch.revision - 1, schema=patch.schema
        )
        assert states.take(0, 0, patch.key, first.SerializeToString()) is not None
    assert states.take(0, 1, patch.key, bytes.fromhex(vector["patch"])) is not None
    assert (after, 0) == (states.state(patch.key), states.counts.refused)
    assert f"{patch.digest:016x}" == vector["digest"]
    for state in [before, *([unhex(vector["between"])] if "between" in vector else [])]:
        made = apply_patch(cls.FromString(state or b""), patch)
        assert (None if made is None else reference.canonical(cls, made.SerializePartialToString())) == after
    if after is not None:
        assert reference.digest(after) == patch.digest
    if patch.kind == Patch.DELTA and "between" not in vector:
        assert schema.native.diff(before, after) == ("delta", vector["paths"], bytes.fromhex(vector["data"]))
        assert schema.native.apply(before, vector["paths"], bytes.fromhex(vector["data"])) == after


@pytest.mark.parametrize("vector", vectors("canonical.json"))
def test_canonical(vector: dict[str, Any]) -> None:
    """The encoding has this canonical form and digest by the native kernel too."""
    schema = SCHEMAS[vector["type"]]
    form = schema.canonicalise(bytes.fromhex(vector["encoding"]))
    assert form == bytes.fromhex(vector["canonical"])
    assert schema.native.is_canonical(form)
    assert f"{reference.digest(form):016x}" == vector["digest"]


@pytest.mark.parametrize("vector", vectors("envelopes.json"))
def test_envelope(vector: dict[str, Any]) -> None:
    """Every form of the event is recognised as the same message."""
    headers = [(name, bytes.fromhex(content)) for name, content in vector["headers"]]
    event = recognise(Rules("streams.demo.v1.DeviceState", index=(1,)), unhex(vector["value"]), headers)
    assert event.data == unhex(vector["data"])
