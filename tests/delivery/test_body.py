"""Request bodies: a PatchBatch by its bytes, and the JSON form by what a receiver makes of it."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.body import JsonForm, protobuf_body
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import InputError
from streams.kernel import reference
from streams.kernel.patch import field_numbers
from streams.v1.patch_pb2 import Patch, PatchBatch
from tests.laws.messages import TYPES, deterministic, histories, law, schema_of
from tests.protos import message_class
from tests.zoo import Receiver

DEVICE = "streams.demo.v1.DeviceState"

patches = st.builds(
    Patch,
    key=st.binary(max_size=20),
    revision=st.integers(0, 2**64 - 1),
    kind=st.sampled_from([Patch.DELTA, Patch.SNAPSHOT, Patch.DELETE]),
    data=st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 127, b"x" * 5_000, b"x" * 20_000])),
)


@given(st.lists(patches, max_size=10))
def test_protobuf_is_what_stock_protobuf_writes(given_: list[Patch]) -> None:
    """Byte for byte, for patches of every length, without any of them having been parsed."""
    body = protobuf_body(patch.SerializeToString(deterministic=True) for patch in given_)

    assert PatchBatch(patches=given_).SerializeToString(deterministic=True) == body


def told(patch: Patch, message: type[Message] = DeviceState) -> dict[str, Any]:
    """The one patch in a JSON body."""
    read: dict[str, Any] = orjson.loads(JsonForm(message).body([patch.SerializeToString()]))
    assert ["patches"] == list(read)
    (only,) = read["patches"]
    return dict(only)


def test_json_is_as_documented() -> None:
    """Every field of a patch, by its original name, in protobuf's JSON but for `mask` and `data`."""
    state = DeviceState(rx_bytes=2**60, rssi=-3, online=True, tags=["a"], labels={"b": "2", "a": "1"})
    state.geo.accuracy = 52.1
    patch = Patch(
        key=b"\xffdev", revision=8, base_revision=7, kind=Patch.DELTA, type=DEVICE, data=state.SerializeToString(),
        digest=2**64 - 1, event_id="a1", event_source="/s", event_time=Timestamp(seconds=1, nanos=5), sequence=8,
        traceparent="00-1-2-01", tracestate="acme=1", epoch=9, schema=3,
    )  # fmt: skip
    patch.mask.paths.extend(["rx_bytes", "geo.accuracy", "status"])
    for numbers in field_numbers(DeviceState.DESCRIPTOR, patch.mask.paths):
        patch.numbers.add(numbers=numbers)
    assert [field.name for field in Patch.DESCRIPTOR.fields] == [field.name for field, _ in patch.ListFields()]

    assert {
        "key": base64.b64encode(b"\xffdev").decode(),
        "revision": "8",
        "base_revision": "7",
        "kind": "DELTA",
        "type": DEVICE,
        "mask": ["rx_bytes", "geo.accuracy", "status"],
        "data": {
            "rx_bytes": str(2**60),
            "rssi": -3,
            "online": True,
            "geo": {"accuracy": 52.1},
            "tags": ["a"],
            "labels": {"a": "1", "b": "2"},
        },
        "epoch": "9",
        "digest": str(2**64 - 1),
        "sequence": "8",
        "schema": "3",
        "event_id": "a1",
        "event_source": "/s",
        "traceparent": "00-1-2-01",
        "tracestate": "acme=1",
        "numbers": [{"numbers": [10]}, {"numbers": [21, 3]}, {"numbers": [8]}],
        "event_time": "1970-01-01T00:00:01.000000005Z",
    } == told(patch)


def test_every_field_of_a_patch_has_a_place_in_json() -> None:
    """A field that is added to the contract and forgotten here fails this test."""
    patch = Patch(kind=Patch.DELTA, type=DEVICE)
    for field in Patch.DESCRIPTOR.fields:
        if field.name == "data":
            patch.data = DeviceState(status="up").SerializeToString()
        elif field.message_type is not None:
            patch.mask.paths[:] = ["status"]
            patch.event_time.seconds = 1
            patch.numbers.add(numbers=[8])
        elif field.name not in ("kind", "type"):
            number = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
            setattr(patch, field.name, 1 if number else b"1" if field.type == field.TYPE_BYTES else "1")
    del patch.numbers[1:]

    assert {field.name for field in Patch.DESCRIPTOR.fields} == set(told(patch))


def test_json_names_fields_as_this_worker_does() -> None:
    """A field that the patch's owner has renamed is found by its number: `mask` and `data` say the same name."""
    patch = Patch(kind=Patch.DELTA, type=DEVICE, data=DeviceState(status="up").SerializeToString())
    patch.mask.paths.append("condition")
    patch.numbers.add(numbers=[8])

    assert (["status"], {"status": "up"}) == (told(patch)["mask"], told(patch)["data"])


@pytest.mark.parametrize("data", ["12 01 ff", "62 05 0a 01 ff 10 05"])
def test_json_of_text_that_is_no_utf8_is_refused(data: str) -> None:
    """Proto2 strings may hold any bytes, as values and as keys of maps: an InputError that shows none of them."""
    message = message_class("zoo.two.Old")
    patch = Patch(kind=Patch.SNAPSHOT, type="zoo.two.Old", data=bytes.fromhex(data))

    with pytest.raises(InputError) as raised:
        told(patch, message)
    assert ("target-json", True) == (raised.value.reason, "no UTF-8" in str(raised.value))


def test_json_leaves_out_what_is_not_set() -> None:
    """A bare DELETE has the fields that a receiver decides by, and no data."""
    deleted = told(Patch(key=b"k", revision=3, kind=Patch.DELETE, type=DEVICE, epoch=1))

    assert ["key", "revision", "base_revision", "kind", "type", "mask", "epoch"] == list(deleted)


def test_json_says_parts_of_a_timestamp() -> None:
    """A patch of the nanoseconds alone is told as such; RFC 3339 could not."""
    name = "google.protobuf.Timestamp"
    patch = Patch(kind=Patch.DELTA, type=name, data=Timestamp(nanos=7).SerializeToString())
    patch.mask.paths.append("nanos")

    assert {"nanos": 7} == told(patch, Timestamp)["data"]


@law
@given(st.sampled_from(TYPES).flatmap(lambda name: st.tuples(st.just(name), histories(name, 2))))
def test_json_patches_lead_to_the_new_state(given_: tuple[str, list[Message]]) -> None:
    """For every kind of field: the old state's snapshot and the patch, applied as documented, are the new snapshot."""
    name, (old, new) = given_
    kernel, message = schema_of(name), message_class(name)
    states = [reference.canonical(message, deterministic(each)) for each in (old, new)]
    assert states[0] is not None
    assert states[1] is not None
    change = kernel.native.diff(states[0], states[1])
    assert change is not None
    kind, paths, data = change
    if kind != "delta":
        return
    form, receiver = JsonForm(message), Receiver(message).held_json

    def snapshot(state: bytes, revision: int) -> Patch:
        made = Patch(key=b"k", revision=revision, kind=Patch.SNAPSHOT, type=kernel.full_name, data=state)
        made.mask.paths.append("*")
        return made

    delta = Patch(key=b"k", revision=2, base_revision=1, kind=Patch.DELTA, type=kernel.full_name, data=data)
    delta.mask.paths.extend(paths)
    body = form.body([snapshot(states[0], 1).SerializeToString(), delta.SerializeToString()])
    wanted = orjson.loads(form.body([snapshot(states[1], 2).SerializeToString()]))["patches"][0]["data"]

    assert [None, None] == [receiver.take(patch) for patch in orjson.loads(body)["patches"]]
    ordered = orjson.OPT_SORT_KEYS
    assert orjson.dumps(wanted, option=ordered) == orjson.dumps(receiver.rows[b"k"][1], option=ordered)


@law
@given(histories("zoo.three.Everything", 1))
def test_json_values_are_protobufs(given_: list[Message]) -> None:
    """Where no well-known type is in play, `data` is exactly what protobuf's own JSON has, shortest floats included."""
    (message,) = given_
    kernel = schema_of("zoo.three.Everything")
    form = reference.canonical(kernel.message_class, deterministic(message))
    assert form is not None
    patch = Patch(kind=Patch.SNAPSHOT, type=kernel.full_name, data=form)

    parsed = kernel.message_class.FromString(form)
    assert MessageToDict(parsed, preserving_proto_field_name=True) == told(patch, kernel.message_class)["data"]


def test_json_of_an_unknown_field_is_refused() -> None:
    """A masked field without a name here would look cleared to the receiver."""
    patch = Patch(kind=Patch.DELTA, type=DEVICE)
    patch.mask.paths.append("brand_new")

    with pytest.raises(InputError) as raised:
        told(patch)
    assert "target-json" == raised.value.reason


@pytest.mark.parametrize(
    "patch",
    [
        b"\xff",
        Patch(kind=Patch.SNAPSHOT, type="acme.Other").SerializeToString(),
        Patch(kind=Patch.SNAPSHOT, type=DEVICE, data=b"\xffsecret").SerializeToString(),
        Patch(kind=Patch.DELETE, type=DEVICE, event_time=Timestamp(seconds=2**60)).SerializeToString(),
        b"\x20\x63",  # kind 99
    ],
)
def test_json_of_a_damaged_patch_is_refused(patch: bytes) -> None:
    """No patch, another type, data that is none, a time or a kind that has no name: an InputError without payload."""
    with pytest.raises(InputError) as raised:
        JsonForm(DeviceState).body([patch])

    assert "target-json" == raised.value.reason
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
