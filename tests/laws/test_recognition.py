"""Law of recognition: the native core reads every record as `streams.kernel.envelope` does, or refuses it alike."""

from __future__ import annotations

import functools
import json
from base64 import b64encode
from typing import Any as Anything
from uuid import UUID

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Job, Records, Table
from streams.demo.v1.device_pb2 import DeviceState, Geo
from streams.errors import InputError
from streams.kernel.compression import compress
from streams.kernel.confluent import confluent_prefix, message_index, readings
from streams.kernel.envelope import Headers, Rules, recognise, sequence_number
from streams.kernel.messages import descriptor_of, known_names
from streams.kernel.schema import MessageSchema
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import law

NOW_MS = 1_767_323_045_678
BYTES_MAX = 2_000
GUID = UUID("89791762-2336-4186-9674-299b90a802e2")
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# The first asks for headers, as its first four fields are texts; the second can be told from every envelope.
STATES: dict[type[Message], bytes] = {
    DeviceState: DeviceState(device_id="d", cpu=0.5).SerializeToString(),
    Geo: Geo(lat=0.5).SerializeToString(),
}
SCHEMAS = {kind: MessageSchema(kind) for kind in STATES}
KINDS = st.sampled_from(list(STATES))

texts = st.sampled_from(["", "a", "/s", "é", "7"])
numbers = st.sampled_from(["0", "7", "007", str(2**64 - 1), str(2**64), "-1", "+7", "1.5", "", " 7", "x"])
NAMES = "streams.demo.v1.DeviceState streams.demo.v1.Geo streams.v1.Patch type.googleapis.com/streams.demo.v1.Geo"
types = st.sampled_from(["", "t", "changed", "é", "https://reg/streams.demo.v1.Geo", *NAMES.split()])
Outcome = str | tuple[Anything, ...]
"""The reason of a dead letter, or `skipped`; or what a patch says."""

DAY = "2026-01-02"
times = st.sampled_from(
    [
        f"{DAY}T03:04:05Z",
        f"{DAY}T03:04:05.678901+01:00",
        f"{DAY} 03:04:05.5z",
        "1969-12-31T23:59:59.5Z",
        "now",
        "é",
        DAY,
    ]
)
odd_times = st.sampled_from(
    [
        f"{DAY}T03:04Z",
        f"{DAY}T03:04:05+0000",
        f"{DAY}T03:04:05",
        f"{DAY}T24:00:00Z",
        f"{DAY}T03:04:60Z",
        "",
        "20260102T0Z",
    ]
)
far_times = st.sampled_from(["2026-02-29T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-00:01", DAY])
times = st.one_of(times, odd_times, far_times)
traces = st.sampled_from(
    [TRACE, TRACE.upper(), TRACE + b"-more", b"cc" + TRACE[2:] + b"-more", b"00-short", b"", b"\xff" * 55]
)
states = st.sampled_from(
    [b"a=b", b"a=b , c@d=e,", b"a=b,a=c", b"A=b", b"", b",", b"a=\xe9", b",".join(b"k%d=v" % at for at in range(33))]
)


def options(form: str, ids: bool, listed: bool, written: str) -> dict[str, Anything]:
    """What the job and the reference are given alike."""
    return {
        "format": form,
        "schema_ids": frozenset([42] if ids else []),
        "event_types": frozenset(["changed"] if listed else []),
        "schema_indexes": written,
        "record_bytes_max": BYTES_MAX,
    }


@functools.cache
def job(kind: type[Message], form: str, ids: bool, listed: bool, written: str) -> Job:
    """The job of a topic with one format, with or without a choice of Confluent ids and event types."""
    schema, descriptor = SCHEMAS[kind], descriptor_of(kind)
    also, others = readings(descriptor)
    return Job(
        schema.native,
        type=schema.full_name,
        fingerprint=schema.fingerprint,
        field_table=schema.field_table_bytes,
        source="devices",
        key="record",
        sequence="attribute",
        format=form,
        partitions=0,
        record_bytes_max=BYTES_MAX,
        output_bytes_max=BYTES_MAX + 65_536,
        tombstone_retention_ms=1 << 40,
        schema_ids=[42] if ids else [],
        message_index=message_index(descriptor),
        sealed=False,
        canonicalise=schema.through_upb,
        names=known_names(descriptor),
        event_types=["changed"] if listed else [],
        schema_indexes=written,
        also_indexes=also,
        other_indexes=others,
    )


def any_of(name: str, value: bytes) -> Any:
    """An Any of a type by its name."""
    return Any(type_url=f"type.googleapis.com/{name}", value=value)


@st.composite
def data_of(draw: st.DrawFn) -> tuple[str, bytes]:
    """A member of a CloudEvent and its bytes."""
    kind = draw(KINDS)
    state, own = STATES[kind], descriptor_of(kind).full_name
    way = draw(st.sampled_from(["binary", "binary", "text", "any", "bare", "none"]))
    if way == "any":
        name = draw(st.sampled_from([own, own, "acme.Unknown", "streams.v1.Patch"]))
        return "proto_data", any_of(name, state).SerializeToString()
    if way == "bare":
        return "proto_data", draw(
            st.sampled_from([state, b"", DeviceState(device_id="a/b", cpu=1).SerializeToString()])
        )
    return {"binary": ("binary_data", state), "text": ("text_data", b"{}"), "none": ("", b"")}[way]


@st.composite
def cloud_events(draw: st.DrawFn) -> bytes:
    """A CloudEvent as one message, with attributes of any type."""
    event = CloudEvent(id=draw(texts), source=draw(texts), type=draw(types))
    event.spec_version = draw(st.sampled_from(["1.0", "1.0", "0.3", ""]))
    if draw(st.booleans()):
        event.attributes["sequence"].ce_string = draw(numbers)
    elif draw(st.booleans()):
        event.attributes["sequence"].ce_integer = draw(st.sampled_from([0, 7, -1, 2**31 - 1]))
    if draw(st.booleans()):
        event.attributes["time"].ce_string = draw(times)
    elif draw(st.booleans()):
        event.attributes["time"].ce_timestamp.seconds = draw(st.integers(-(2**40), 2**40))
        event.attributes["time"].ce_timestamp.nanos = draw(st.sampled_from([0, 999_999_999, 5_000, -1]))
    if draw(st.booleans()):
        event.attributes["traceparent"].ce_string = draw(st.sampled_from([TRACE.decode(), "00-short"]))
        event.attributes["tracestate"].ce_string = draw(st.sampled_from(["a=b", "", "a"]))
    if draw(st.integers(0, 9)) == 0:
        event.attributes["dataref"].ce_uri = "https://x/y"
    if draw(st.integers(0, 3)) == 0:
        event.attributes["dataschema"].ce_uri = draw(types)
    member, data = draw(data_of())
    if member == "proto_data":
        event.proto_data.MergeFromString(data)
    elif member:
        setattr(event, member, data if member == "binary_data" else data.decode())
    return event.SerializeToString()


@st.composite
def json_events(draw: st.DrawFn) -> bytes:
    """A CloudEvent as JSON, or nearly one."""
    event: dict[str, object] = {"id": draw(texts), "source": draw(texts), "type": draw(types)}
    event["specversion"] = draw(st.sampled_from(["1.0", "1.0", "0.3", 1, None]))
    odd = st.sampled_from([None, 7, 2**64, 1.5, True, [], {"a": [1]}])
    for name, member in (("subject", texts), ("sequence", numbers), ("time", times), ("dataschema", types)):
        if draw(st.booleans()):
            event[name] = draw(st.one_of(member, odd))
    if draw(st.booleans()):
        event["traceparent"] = draw(st.sampled_from([TRACE.decode(), "x", None, 7]))
        event["tracestate"] = draw(st.sampled_from(["a=b", "", None]))
    if draw(st.integers(0, 9)) == 0:
        event["dataref"] = "https://x/y"
    if draw(st.integers(0, 5)):
        text = b64encode(draw(data_of())[1]).decode()
        event["data_base64"] = draw(st.sampled_from([text, text, text, text[:-1], text.replace("=", "a"), None, 7]))
    if draw(st.integers(0, 5)) == 0:
        event["data"] = draw(st.sampled_from([None, {}, "x"]))
    encoded = json.dumps(event, ensure_ascii=draw(st.booleans())).encode()
    return draw(st.sampled_from([encoded, encoded, encoded, encoded[:-1], encoded + b"x", b" " + encoded + b"\n"]))


framed = st.builds(
    lambda kind, schema, index, cut: (confluent_prefix(schema, index) + STATES[kind])[: cut or None],
    KINDS,
    st.sampled_from([42, 43, GUID]),
    st.sampled_from([[1], [1], [0], [0], [1, 0], [2], [300]]),
    st.sampled_from([0, 0, 1, 3, 6, 12]),
)
anys = st.builds(
    lambda kind, name, more: any_of(name or descriptor_of(kind).full_name, STATES[kind]).SerializeToString() + more,
    KINDS,
    st.sampled_from(["", "", "acme.Unknown", "streams.v1.Patch"]),
    st.sampled_from([b"", b"", b"\x18\x01", b"\xff"]),
)
STATE = STATES[DeviceState]
values = st.one_of(
    st.sampled_from([None, b"", *STATES.values(), b"\xff", b"\0", b"\1", STATE + b"\x00", b"x" * (BYTES_MAX + 1)]),
    st.sampled_from([compress(STATE), compress(STATE)[:-1], compress(b"x" * (BYTES_MAX + 1)), compress(STATE) + b"x"]),
    cloud_events(),
    json_events(),
    framed,
    anys,
    st.binary(max_size=30),
)
named = st.sampled_from([str.lower, str.lower, str.title, str.upper])
pairs = st.one_of(
    st.tuples(
        st.sampled_from(["content-type", "content-type", "contenttype"]),
        st.sampled_from([b"application/cloudevents+protobuf", b"application/cloudevents+json", b"text/plain", None]),
    ),
    st.just(("content-type", b"Application/CloudEvents+Protobuf ; charset=utf-8")),
    st.just(("content-type", b'"application/cloudevents+json;charset=utf-8"')),
    st.just(("content-type", b"application/cloudevents-batch+json")),
    st.tuples(st.just("content-encoding"), st.sampled_from([b"zstd", b" ZSTD", b"identity", b"gzip"])),
    st.just(("ce_specversion", b"1.0")),
    st.just(("ce_specversion", b"1.0")),
    st.tuples(st.just("ce_id"), st.sampled_from([b"e1", b"e1", b"", b"\xff"])),
    st.tuples(st.just("ce_source"), st.sampled_from([b"/s", b"\xff", None])),
    st.tuples(st.sampled_from(["ce_type", "ce_dataschema"]), types.map(str.encode)),
    st.tuples(st.just("ce_sequence"), numbers.map(str.encode)),
    st.tuples(st.just("ce_time"), times.map(str.encode)),
    st.just(("ce_dataref", b"https://x/y")),
    st.just(("dlq-length", b"700000")),
    st.tuples(st.sampled_from(["traceparent", "ce_traceparent"]), traces),
    st.tuples(st.sampled_from(["tracestate", "ce_tracestate"]), states),
    st.tuples(st.just("correlation-id"), st.sampled_from([b"c-7", b"", b"\n", b"x" * 257])),
    st.tuples(
        st.just("__value_schema_id"),
        st.sampled_from([confluent_prefix(GUID, [1]), confluent_prefix(42, [1]), confluent_prefix(7, [0]), b"\2"]),
    ),
)
headers = st.lists(st.tuples(named, pairs).map(lambda drawn: (drawn[0](drawn[1][0]), drawn[1][1])), max_size=6)
settings = st.tuples(
    KINDS,
    st.sampled_from(["auto", "auto", "auto", "plain", "confluent", "cloudevents"]),
    st.booleans(),
    st.integers(0, 3).map(lambda chosen: chosen == 0),
    st.sampled_from(["standard", "standard", "plain", "reversed", "none"]),
)
Settings = tuple[type[Message], str, bool, bool, str]


def native(chosen: Settings, value: bytes | None, given_as: Headers) -> Outcome:
    """What the native core makes of a record after a first one of its key."""
    kind, form, *_ = chosen
    table = Table(job(*chosen), 0)
    seed, records = Records(), Records()
    first = kind(**({"device_id": "before"} if kind is DeviceState else {"lon": 1.0})).SerializeToString()
    as_event = [("ce_specversion", b"1.0"), ("ce_id", b"seed"), ("ce_source", b"/seed")]
    prefix = b"" if form != "confluent" else framing(chosen)
    seed.append(b"d", prefix + first, as_event, -1, 0)
    assert len(table.process(seed, NOW_MS).patches) == 1
    records.append(b"d", value, given_as, -1, 1)
    step = table.process(records, NOW_MS)
    assert step.fatal is None
    if len(step.dead_letters):
        return dict(step.dead_letters.headers(0))["dlq-reason"].decode()
    counts = tuple(name for name in step.counts if name.startswith("unreadable.") and step.counts[name])
    assert len(step.patches) == 1
    patch = Patch.FromString(step.patches.value(0) or b"")
    time_us = patch.event_time.ToMicroseconds() if patch.HasField("event_time") else None
    deleted = patch.kind == Patch.DELETE
    beside = dict(step.patches.headers(0))
    state, correlation = (beside.get("tracestate") or b"").decode(), beside.get("correlation-id")
    said = (patch.event_id, patch.event_source, patch.sequence, time_us, patch.traceparent, state, correlation, counts)
    return deleted, *said


def framing(chosen: Settings) -> bytes:
    """A Confluent prefix of the message, as its writers put it."""
    index = message_index(descriptor_of(chosen[0]))
    standard = confluent_prefix(42, index)
    return {"none": standard[:5], "plain": standard[:5] + bytes([len(index), *index])}.get(chosen[4], standard)


def expected(chosen: Settings, value: bytes | None, given_as: Headers) -> tuple[set[str], Outcome | None]:
    """The reasons for which a record may be refused, and what its patch says where there is none."""
    kind = chosen[0]
    rules = Rules.of(descriptor_of(kind), **options(*chosen[1:]))
    try:
        event = recognise(rules, value, given_as)
    except InputError as error:
        return {error.reason}, None
    reasons: set[str] = set()
    number = 0
    if event.sequence is not None:
        try:
            number = sequence_number(event.sequence)
        except InputError as error:
            reasons.add(error.reason)
    if event.data is not None and SCHEMAS[kind].through_upb(event.data) is None:
        reasons.add("undecodable")
    # an event without an id is its topic, partition and offset
    identity = (event.id, event.source) if event.id else ("0/1", "devices")
    counts = tuple(f"unreadable.{name}" for name in event.unreadable)
    said = (event.traceparent, event.tracestate, event.correlation, counts)
    return reasons, (event.data is None, *identity, number, event.time_us, *said)


@law
@given(settings, values, headers)
def test_native_reads_as_the_reference(chosen: Settings, value: bytes | None, given_as: Headers) -> None:
    """A record is refused for the reason that the reference has too, or gives a patch with the same attributes."""
    reasons, outcome = expected(chosen, value, given_as)
    found = native(chosen, value, given_as)
    if reasons:
        assert found in reasons
    else:
        assert found == outcome
