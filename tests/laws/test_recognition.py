"""Law of recognition: the native core reads every record as `streams.kernel.envelope` does, or refuses it alike."""

from __future__ import annotations

import functools
from uuid import UUID

from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Job, Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import InputError
from streams.kernel.compression import compress
from streams.kernel.envelope import Headers, Rules, confluent_prefix, recognise, sequence_number
from streams.kernel.schema import MessageSchema
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import law

NOW_MS = 1_767_323_045_678
BYTES_MAX = 2_000
GUID = UUID("89791762-2336-4186-9674-299b90a802e2")
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = DeviceState(device_id="d", cpu=0.5).SerializeToString()
SCHEMA = MessageSchema(DeviceState)

texts = st.sampled_from(["", "a", "/s", "é", "7"])
numbers = st.sampled_from(["0", "7", "007", str(2**64 - 1), str(2**64), "-1", "1.5", "", " 7", "x"])
Outcome = str | tuple[bool, str, str, int, int | None, str]
"""The reason of a dead letter; or deleted, id, source, sequence, time and trace of a patch."""

times = st.sampled_from(
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.678901+01:00",
        "2026-01-02 03:04",
        "1969-12-31T23:59:59.5Z",
        "",
        "now",
    ]
)
traces = st.sampled_from([TRACE, TRACE + b"-more", b"00-short", b"", b"\xff" * 55])


@functools.cache
def job(form: str, ids: bool) -> Job:
    """The job of a topic with one format, with or without a choice of Confluent ids."""
    return Job(
        SCHEMA.native,
        type=SCHEMA.full_name,
        fingerprint=SCHEMA.fingerprint,
        field_table=SCHEMA.field_table_bytes,
        source="devices",
        key="record",
        sequence="attribute",
        format=form,
        partitions=0,
        record_bytes_max=BYTES_MAX,
        tombstone_retention_ms=1 << 40,
        schema_ids=[42] if ids else [],
        message_index=[1],
        sealed=False,
        canonicalise=SCHEMA.through_upb,
    )


@st.composite
def cloud_events(draw: st.DrawFn) -> bytes:
    """A CloudEvent as one message, with attributes of any type."""
    event = CloudEvent(id=draw(texts), source=draw(texts), spec_version="1.0", type="t")
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
    way = draw(st.sampled_from(["binary", "binary", "text", "any", "other any", "none"]))
    if way == "binary":
        event.binary_data = STATE
    elif way == "text":
        event.text_data = "{}"
    elif way != "none":
        url = f"type.googleapis.com/{SCHEMA.full_name}" if way == "any" else "type.googleapis.com/acme.Other"
        event.proto_data.CopyFrom(Any(type_url=url, value=STATE))
    return event.SerializeToString()


framed = st.builds(
    lambda schema, index, cut: (confluent_prefix(schema, index) + STATE)[: cut or None],
    st.sampled_from([42, 43, GUID]),
    st.sampled_from([[1], [1], [0], [1, 0], [300]]),
    st.sampled_from([0, 0, 1, 3, 6, 12]),
)
values = st.one_of(
    st.sampled_from([None, b"", STATE, b"\xff", b"\0", b"\1", STATE + b"\x00", b"x" * (BYTES_MAX + 1)]),
    st.sampled_from([compress(STATE), compress(STATE)[:-1], compress(b"x" * (BYTES_MAX + 1)), compress(STATE) + b"x"]),
    cloud_events(),
    framed,
    st.binary(max_size=30),
)
headers = st.lists(
    st.one_of(
        st.tuples(
            st.just("content-type"), st.sampled_from([b"application/cloudevents+protobuf"] * 3 + [b"text/plain"])
        ),
        st.just(("content-type", b"Application/CloudEvents+Protobuf ; charset=utf-8")),
        st.just(("content-type", b"application/cloudevents+json")),
        st.tuples(st.just("content-encoding"), st.sampled_from([b"zstd", b"ZSTD", b"identity", b"gzip"])),
        st.just(("ce_specversion", b"1.0")),
        st.tuples(st.just("ce_id"), st.sampled_from([b"e1", b"", b"\xff"])),
        st.tuples(st.just("ce_source"), st.sampled_from([b"/s", b"\xff", None])),
        st.tuples(st.just("ce_sequence"), numbers.map(str.encode)),
        st.tuples(st.just("ce_time"), times.map(str.encode)),
        st.tuples(st.sampled_from(["traceparent", "ce_traceparent"]), traces),
        st.tuples(
            st.just("__value_schema_id"),
            st.sampled_from([confluent_prefix(GUID, [1]), confluent_prefix(42, [1]), confluent_prefix(7, [0]), b"\2"]),
        ),
    ),
    max_size=5,
)


def native(form: str, ids: bool, value: bytes | None, given_as: Headers) -> Outcome:
    """What the native core makes of a record after a first one of its key."""
    table = Table(job(form, ids), 0)
    seed, records = Records(), Records()
    first = DeviceState(device_id="before").SerializeToString()
    as_event = [("ce_specversion", b"1.0"), ("ce_id", b"seed"), ("ce_source", b"/seed")]
    seed.append(b"d", confluent_prefix(42, [1]) + first if form == "confluent" else first, as_event, -1, 0)
    assert len(table.process(seed, NOW_MS).patches) == 1
    records.append(b"d", value, given_as, -1, 1)
    step = table.process(records, NOW_MS)
    assert step.fatal is None
    if len(step.dead_letters):
        return dict(step.dead_letters.headers(0))["dlq-reason"].decode()
    assert len(step.patches) == 1
    patch = Patch.FromString(step.patches.value(0) or b"")
    time_us = patch.event_time.ToMicroseconds() if patch.HasField("event_time") else None
    deleted = patch.kind == Patch.DELETE
    return deleted, patch.event_id, patch.event_source, patch.sequence, time_us, patch.traceparent


def expected(form: str, ids: bool, value: bytes | None, given_as: Headers) -> tuple[set[str], Outcome | None]:
    """The reasons for which a record may be refused, and what its patch says where there is none."""
    rules = Rules(SCHEMA.full_name, (1,), form, frozenset([42]) if ids else frozenset(), BYTES_MAX)
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
    if event.data is not None and SCHEMA.through_upb(event.data) is None:
        reasons.add("undecodable")
    # an event without an id is its topic, partition and offset
    identity = (event.id, event.source) if event.id else ("0/1", "devices")
    return reasons, (event.data is None, *identity, number, event.time_us, event.traceparent)


@law
@given(st.sampled_from(["auto", "auto", "plain", "confluent", "cloudevents"]), st.booleans(), values, headers)
def test_native_reads_as_the_reference(form: str, ids: bool, value: bytes | None, given_as: Headers) -> None:
    """A record is refused for the reason that the reference has too, or gives a patch with the same attributes."""
    reasons, outcome = expected(form, ids, value, given_as)
    found = native(form, ids, value, given_as)
    if reasons:
        assert found in reasons
    else:
        assert found == outcome
