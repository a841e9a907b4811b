"""docs/receivers.md: its applier passes every golden vector, its signature check takes requests, its JSON is ours."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from google.protobuf.message import Message

from streams.delivery.body import JsonForm
from streams.delivery.signature import sign
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel import reference
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import field_numbers
from streams.v1.patch_pb2 import Patch
from tests.journeys.process import ROOT
from tests.protos import message_class

PAGE = (ROOT / "docs" / "receivers.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CLASSES: dict[str, type[Message]] = {
    descriptor_of(cls).full_name: cls
    for cls in (DeviceState, AircraftState, message_class("streams.golden.v1.Everything"))
}


def code(marker: str) -> dict[str, Any]:
    """What a block of Python on the page defines."""
    (text,) = (text for language, text in BLOCKS if language == "python" and marker in text)
    defined: dict[str, Any] = {}
    exec(compile(text, "docs/receivers.md", "exec"), defined)
    return defined


def golden(name: str) -> list[dict[str, Any]]:
    """The vectors of a file."""
    return list(json.loads((ROOT / "proto" / "golden" / name).read_text()))


@pytest.mark.parametrize("vector", golden("patches.json"), ids=lambda vector: vector["name"])
def test_the_applier_passes_every_vector(vector: dict[str, Any]) -> None:
    """From the state before, and from the one in the middle of a composed patch's span."""
    apply, message_type = code("def apply")["apply"], CLASSES[vector["type"]]
    patch = Patch.FromString(bytes.fromhex(vector["patch"]))
    for before in {vector["before"], vector.get("between", vector["before"])}:
        after = apply(message_type, message_type.FromString(bytes.fromhex(before or "")), patch)
        form = None if after is None else reference.canonical(message_type, after.SerializePartialToString())
        assert (None if vector["after"] is None else bytes.fromhex(vector["after"])) == form


@pytest.mark.parametrize("vector", golden("rule.json"), ids=str)
def test_the_rule_passes_every_vector(vector: dict[str, Any]) -> None:
    """Of what is intact: apply, duplicate, or a gap. The page's code leaves waiting keys to the caller."""
    page, held = code("def is_news"), vector["held"]
    if held is not None and not held["intact"]:
        return
    patch = Patch(kind=vector["kind"], **{name: vector[name] for name in ("epoch", "base_revision", "revision")})
    have = None if held is None else (held["epoch"], held["revision"])
    try:
        verdict = "apply" if page["is_news"](have, patch) else "duplicate"
    except page["SnapshotNeeded"]:
        verdict = "gap"

    assert vector["verdict"] == verdict


def test_an_unknown_path_asks_for_a_snapshot() -> None:
    """Nothing of the patch is applied."""
    page = code("def apply")
    patch = Patch(kind=Patch.DELTA, mask={"paths": ["status", "newer"]})

    with pytest.raises(page["SnapshotNeeded"], match="newer"):
        page["apply"](DeviceState, DeviceState(status="up"), patch)


def test_the_signature_check_takes_our_requests() -> None:
    """And refuses another body, key or time."""
    is_signed, key, body = code("def is_signed")["is_signed"], b"k" * 24, b"\x00\xffbody"
    headers = {"webhook-id": "id", "webhook-timestamp": "7", "webhook-signature": sign(key, "id", 7, body)}

    assert is_signed(key, headers, body)
    assert not is_signed(key, headers, body + b"x")
    assert not is_signed(b"x" * 24, headers, body)
    assert not is_signed(key, {**headers, "webhook-timestamp": "8"}, body)


def test_the_json_is_what_a_target_gets() -> None:
    """The example is a body of ours, but for the fields that are left out where they are not set."""
    (example,) = (text for language, text in BLOCKS if language == "json")
    state = DeviceState(status="ok")
    state.geo.lat = 52.1
    patch = Patch(
        key=b"dev-1", revision=8, base_revision=7, kind=Patch.DELTA, type=descriptor_of(DeviceState).full_name,
        data=state.SerializeToString(), epoch=1_763_800_000_000,
    )  # fmt: skip
    patch.mask.paths.extend(["status", "geo.lat"])
    for numbers in field_numbers(descriptor_of(DeviceState), patch.mask.paths):
        patch.numbers.add(numbers=numbers)

    assert json.loads(example) == orjson.loads(JsonForm(DeviceState).body([patch.SerializeToString()]))
