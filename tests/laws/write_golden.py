"""Write the golden vectors: `python -m tests.laws.write_golden`.

They tell a receiver in any language whether it does right. They come from the reference; tests check that they are up
to date and that the native kernel agrees.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel import reference
from streams.kernel.cloudevents import JSON
from streams.kernel.confluent import VALUE_SCHEMA_ID, confluent_prefix
from streams.kernel.envelope import CONTENT_TYPE, Event, binary, structured
from streams.kernel.rule import Held, decide
from streams.kernel.schema import fingerprint
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from tests.protos import message_class

GOLDEN = Path(__file__).resolve().parent.parent.parent / "proto" / "golden"
EPOCH = 1_767_323_045_678
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Json = dict[str, Any]


def device() -> DeviceState:
    """A device with a field of most kinds."""
    state = DeviceState(
        device_id="dev-1", tenant="t1", status="ok", uptime_s=3600, rssi=-60, cpu=0.25, battery=0.9, online=True
    )
    state.last_seen_us = 1_700_000_000_000_000
    state.geo.lat, state.geo.lon, state.geo.accuracy = 40.5, -73.75, 3
    state.tags.extend(["rack-7", "b", "a"])
    state.labels.update({"zone": "b", "a": "1", "zo": "", "é": "x"})
    state.slots.extend([1, 2, -3])
    return state


def aircraft() -> AircraftState:
    """An aircraft on the ground after its first flight."""
    state = AircraftState(
        tail_number="N14228", phase=AircraftState.ON_GROUND, carrier="UA", flight_number=1545, origin="EWR"
    )
    state.destination, state.arrival_delay_minutes, state.flights = "IAH", 11, 1
    state.position.airport, state.position.lat, state.position.altitude_ft = "IAH", 29.984433, 97
    state.scheduled_departure.FromSeconds(1_357_017_300)
    state.recent_airports.extend(["EWR", "IAH"])
    state.minutes_by_airport.update({"IAH": 227})
    return state


def changed(state: Message, **values: Any) -> Message:
    """A copy with fields set by dotted name with `__`, cleared by None, replaced by lists and dicts."""
    copy = type(state)()
    copy.CopyFrom(state)
    for path, value in values.items():
        at: Any = copy
        *parents, name = path.split("__")
        for parent in parents:
            at = getattr(at, parent)
        at.ClearField(name)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                getattr(at, name).add(**item)
        elif isinstance(value, list):
            getattr(at, name).extend(value)
        elif isinstance(value, dict):
            getattr(at, name).update(value)
        elif value is not None:
            setattr(at, name, value)
    return copy


def states() -> list[tuple[str, Message | None, Message | None]]:
    """Name, state before and state after of each vector; None: no state."""
    here, plane, nan = device(), aircraft(), float("nan")
    labels = {"b": "2", "ab": "", "a": "1"}
    on_time: Json = {"arrival_delay_minutes": None, "departure_delay_minutes": 0}
    unknown = DeviceState.FromString(here.SerializeToString() + bytes.fromhex("f80107"))
    inside = changed(here)
    inside.geo.MergeFromString(bytes.fromhex("f80107"))
    arrived = changed(plane, phase=AircraftState.AIRBORNE, position=None, arrival_delay_minutes=None, flights=2)
    return [
        ("first event of a key: a snapshot", None, here),
        ("one scalar", here, changed(here, cpu=0.5)),
        ("scalars, one of them to its default", here, changed(here, status="fail", online=False, errors=1)),
        ("one field of a nested message: a dotted path", here, changed(here, geo__lat=41.0)),
        ("a nested field to its default: data holds the empty parent", here, changed(here, geo__accuracy=0)),
        ("a nested message goes: named whole", here, changed(here, geo=None)),
        ("a nested message comes: named whole", changed(here, geo=None), here),
        ("a list is replaced whole", here, changed(here, tags=["rack-7", "c"])),
        ("a packed list is emptied", here, changed(here, slots=[])),
        (
            "a map is replaced whole, ascending by the bytes of the key",
            here,
            changed(here, labels=labels),
        ),
        ("0.0 to -0.0 is a change: bits are compared", changed(here, cpu=0.0), changed(here, cpu=-0.0)),
        ("NaN equals itself: only the battery changed", changed(here, cpu=nan), changed(here, cpu=nan, battery=0.5)),
        (
            "optional fields go and come, also with a default",
            plane,
            changed(plane, **on_time),
        ),
        ("a message and an enum", plane, arrived),
        ("a nested optional field goes", plane, changed(plane, position__altitude_ft=None)),
        ("an unknown field at top level changes: a snapshot", here, unknown),
        ("an unknown field in a nested message changes: named whole", here, inside),
        ("a delete", here, None),
        *states_of_everything(),
    ]


def states_of_everything() -> list[tuple[str, Message | None, Message | None]]:
    """The same for what the sample messages do not have."""
    every = everything()
    to_part, to_zero = changed(every, text=None), changed(every, number=0)
    to_part.picked.id = "p"
    beside = every.FromString(canonical(every) + bytes.fromhex("1863"))
    below = changed(every)
    below.part.MergeFromString(bytes.fromhex("1863"))
    extended = every.FromString(canonical(every) + bytes.fromhex("a00605"))
    struct, parts = changed(every), changed(every)
    struct.extra["b"] = [1, None, "x"]
    parts.parts["a"].count = 5
    del parts.parts["é"]
    return [
        ("a oneof switches: both members are named", every, to_part),
        ("a oneof switches to a default, which is on the wire", every, to_zero),
        ("a field of a group: a dotted path", every, changed(every, spot__x=-1)),
        ("a list of groups is replaced whole", every, changed(every, stop=[{"name": "c"}])),
        (
            "beside a required field: data lacks it, and is merged without the check",
            every,
            changed(every, part__count=2),
        ),
        ("a map of messages is replaced whole", every, parts),
        ("a map by sint32, ascending by value", every, changed(every, names={-5: "e", 3: "c", -1: "a"})),
        ("a wrapper: named whole", every, changed(every, limit__value=6)),
        ("a wrapper of its default is there, and empty", every, changed(every, limit__value=0)),
        ("a Timestamp's nanoseconds: named whole", every, changed(every, at__nanos=6)),
        ("a Struct is named whole", every, struct),
        ("a closed enum, single and in lists", every, changed(every, level=-3, levels=[1], packed_levels=[2, -3])),
        ("beside a value that the enum does not declare: a snapshot", beside, changed(beside, levels=[1, 2])),
        ("the same in a nested message: named whole", below, changed(below, part__levels=[2])),
        ("another field may change beside such a value", beside, changed(beside, level=1)),
        ("an extension changes: a snapshot", every, extended),
    ]


def everything() -> Any:
    """A message with what proto2 has, and with types of google.protobuf."""
    state: Any = message_class("streams.golden.v1.Everything")(
        id="e-1",
        level=2,
        levels=[2, 1],
        packed_levels=[1, 2],
        text="t",
        limit={"value": 5},
        at={"seconds": 1, "nanos": 5},
    )
    state.spot.x, state.spot.label = 1, "here"
    for name in ("a", "b"):
        state.stop.add(name=name)
    state.part.id, state.part.count = "p-1", 1
    for key in ("b", "a", "é"):
        state.parts[key].id = key
    state.names.update({3: "c", -1: "a"})
    state.extra.update({"b": {"c": 1.5}, "a": True})
    return state


def patch_vectors() -> list[Json]:
    """The patch of every pair of states, and of some composed ones."""
    vectors = []
    for name, before, after in states():
        cls = type(after if after is not None else before)
        old, new = (None if state is None else canonical(state) for state in (before, after))
        head: Json = {"key": b"dev-1", "epoch": EPOCH, "revision": 8, "base_revision": 7, "event_id": "e8"}
        head |= {"event_source": "/ingest", "traceparent": TRACE, "sequence": 41, "schema": fingerprint(cls.DESCRIPTOR)}
        if old is None and new is not None:
            patch = reference.snapshot(cls, new, **{**head, "revision": 1, "base_revision": 0})
        elif new is None:
            patch = Patch(kind=Patch.DELETE, type=cls.DESCRIPTOR.full_name, **head)
        else:
            patch = reference.delta(cls, old or b"", new, **head)
        patch.event_time.FromMicroseconds(1_767_323_045_678_901)
        vectors.append(vector(name, cls, old, patch, new))
    return [*vectors, *composed_vectors(), *life_vectors()]


def composed_vectors() -> list[Json]:
    """Two deltas as one, which is right from the revision between them too."""
    every = everything()
    chains: list[tuple[str, list[Message]]] = [
        (
            "two patches as one: cpu came back, and stays in the mask",
            [device(), changed(device(), cpu=0.5, geo=None), changed(device(), cpu=0.25, status="warn")],
        ),
        (
            "two patches as one: a oneof switched and switched back, a map and a nested field changed between",
            [
                every,
                changed(every, number=3, part__count=8),
                changed(every, text="again", part__count=9, names={-1: "z"}),
            ],
        ),
    ]
    vectors = []
    for name, chain in chains:
        cls = type(chain[0])
        old, middle, new = (canonical(state) for state in chain)
        head: Json = {"key": b"dev-1", "epoch": EPOCH}
        patch = reference.compose(
            cls,
            reference.delta(cls, old, middle, revision=8, base_revision=7, **head),
            reference.delta(cls, middle, new, revision=9, base_revision=8, **head),
        )
        vectors.append({**vector(name, cls, old, patch, new), "between": middle.hex()})
    return vectors


def life_vectors() -> list[Json]:
    """What follows a DELETE: the next revision of its epoch, and once it is forgotten a new epoch."""
    cls, again = DeviceState, canonical(device())
    head: Json = {"key": b"dev-1", "epoch": EPOCH, "revision": 9}
    created = reference.snapshot(cls, again, **head)
    later = reference.snapshot(cls, again, **{**head, "epoch": EPOCH + 86_400_000, "revision": 1})
    return [
        vector("created again after its DELETE: a snapshot, the next revision", cls, None, created, again),
        vector("created again after its DELETE was forgotten: revision 1 of a higher epoch", cls, None, later, again),
    ]


def rule_vectors() -> list[Json]:
    """What to do with a patch, given what is held: apply, duplicate, gap (ask), stale (wait for what was asked for)."""
    held: list[Held | None] = [None, Held(5, 7), Held(5, 7, intact=False), Held(4, 9)]
    patches = [
        (kind, epoch, base, revision)
        for kind in (Patch.DELTA, Patch.SNAPSHOT, Patch.DELETE)
        for epoch, base, revision in ((5, 6, 7), (5, 7, 8), (5, 6, 9), (5, 8, 9), (6, 0, 1), (4, 9, 10))
    ]
    return [
        {
            "held": None if have is None else {"epoch": have.epoch, "revision": have.revision, "intact": have.intact},
            "kind": Patch.Kind.Name(kind),
            "epoch": epoch,
            "base_revision": base if kind == Patch.DELTA else 0,
            "revision": revision,
            "verdict": decide(
                have, Patch(kind=kind, epoch=epoch, revision=revision, base_revision=base if kind == Patch.DELTA else 0)
            ).value,
        }
        for have in held
        for kind, epoch, base, revision in patches
    ]


def vector(name: str, cls: type[Message], old: bytes | None, patch: Patch, new: bytes | None) -> Json:
    """One vector; bytes are in hexadecimal, the digest is too, as a 64-bit number."""
    return {
        "name": name,
        "type": cls.DESCRIPTOR.full_name,
        "before": None if old is None else old.hex(),
        "patch": patch.SerializeToString(deterministic=True).hex(),
        "kind": Patch.Kind.Name(patch.kind),
        "paths": list(patch.mask.paths),
        "numbers": [list(path.numbers) for path in patch.numbers],
        "data": patch.data.hex(),
        "after": None if new is None else new.hex(),
        "digest": f"{patch.digest:016x}",
    }


def canonical_vectors() -> list[Json]:
    """Encodings of a device that parsers take for the same, and the one that is canonical."""
    cases = {
        "already canonical": "0a056465762d31" + "60c4ffffffffffffffff01",
        "fields out of order": "60c4ffffffffffffffff01" + "0a056465762d31",
        "an overlong varint": "0a056465762d31" + "a0018500",
        "an explicit default of a field without presence": "0a056465762d31" + "1a00" + "880100",
        "the last one of a single field counts": "a00101" + "a00105",
        "a nested message in two records": "aa0109090000000000004440" + "aa010911" + "00000000007052c0",
        "a list that is not packed": "c00101" + "c00102",
        "map entries by key, the last one of a key counts": (
            "ba01060a0162120131" + "ba01060a0161120132" + "ba01060a0162120133"
        ),
        "an entry without a value": "ba01030a0161",
        "unknown fields stay as received, at the end": "f80107" + "0a056465762d31" + "f20103616263",
        "a bool above one": "880102",
    }
    of_everything = {
        "an undeclared value of a closed enum, cut to 32 bits": "0a0165" + "18f7ffffff0f",
        "the same with other high bits, which parsers ignore": "0a0165" + "18f7ffffffdfbdb7de05",
        "the same packed beside declared ones": "0a0165" + "1a0701f7ffffff0f02",
        "the same as any serialiser writes it": "0a0165" + "18f7ffffffffffffffff01",
        "a map by sint32, ascending by value": "0a0165" + "62050806120161" + "62050801120162" + "62050800120163",
        "extensions stay as received": "0a0165" + "aa060161" + "a00605",
        "a required field may be missing": "1001",
        "groups, the last one of a single field in two records merged": "0a0165" + "2b08012c" + "2b1201782c",
    }
    vectors = []
    all_cases = [(DeviceState, name, raw) for name, raw in cases.items()]
    all_cases += [(type(everything()), name, raw) for name, raw in of_everything.items()]
    for cls, name, raw in all_cases:
        form = reference.canonical(cls, bytes.fromhex(raw))
        assert form is not None, name
        digest = f"{reference.digest(form):016x}"
        type_ = cls.DESCRIPTOR.full_name
        vectors.append({"name": name, "type": type_, "encoding": raw, "canonical": form.hex(), "digest": digest})
    return vectors


def envelope_vectors() -> list[Json]:
    """One event in every form that a worker recognises by itself."""
    data = canonical(DeviceState(device_id="dev-1", cpu=0.5))
    event = Event(
        id="e1", source="/ingest", type="device.changed", data=data, subject="dev-1", sequence=7, traceparent=TRACE
    )
    delete = Event("e2", "/ingest", "device.deleted", None, subject="dev-1", sequence=8)
    framed = confluent_prefix(42, [1]) + data
    value, headers = structured(event)  # its attributes are a map, in any order
    packed = CloudEvent.FromString(value)
    packed.proto_data.Pack(DeviceState.FromString(data))
    as_json = {"specversion": "1.0", "id": "e1", "source": "/ingest", "type": "device.changed", "subject": "dev-1"}
    as_json |= {"sequence": "7", "traceparent": TRACE, "data_base64": b64encode(data).decode()}
    guid = UUID("89791762-2336-4186-9674-299b90a802e2")
    forms = [
        ("plain Protobuf", data, []),
        ("CloudEvent, structured Protobuf", canonical(CloudEvent.FromString(value)), headers),
        ("CloudEvent, binary", *binary(event)),
        ("CloudEvent, binary, without a value: the entity is deleted", *binary(delete)),
        ("Confluent framing: magic 0, schema id 42, message index [1]", framed, []),
        ("CloudEvent, structured Protobuf, the message as an Any", canonical(packed), headers),
        ("CloudEvent, structured JSON", json.dumps(as_json).encode(), [(CONTENT_TYPE, JSON)]),
        ("Confluent framing by GUID, in a header", data, [(VALUE_SCHEMA_ID, confluent_prefix(guid, [1]))]),
        ("CloudEvent, binary, of a message of defaults: nothing is deleted", b"", binary(replace(event, id="e3"))[1]),
    ]
    return [
        {
            "name": name,
            "key": b"dev-1".hex(),
            "value": None if value is None else value.hex(),
            "headers": [[header, content.hex()] for header, content in headers],
            "data": None if value is None else (data if value else b"").hex(),
        }
        for name, value, headers in forms
    ]


def canonical(state: Message) -> bytes:
    """The canonical form of a message."""
    form = reference.canonical(type(state), state.SerializePartialToString())
    assert form is not None
    return form


def files() -> dict[str, list[Json]]:
    """The content of every file of vectors."""
    return {
        "patches.json": patch_vectors(),
        "canonical.json": canonical_vectors(),
        "envelopes.json": envelope_vectors(),
        "rule.json": rule_vectors(),
    }


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for file, content in files().items():
        (GOLDEN / file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
