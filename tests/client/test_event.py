"""Events become records that the worker recognises."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from streams.client.event import Encoder, Event, Record
from streams.demo.v1.device_pb2 import DeviceState, Geo
from streams.errors import RecordTooLargeError, SettingsError
from streams.kernel.envelope import Recognised, Rules, message_index, recognise
from streams.kernel.messages import descriptor_of

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = DeviceState(device_id="d1", battery=0.5, labels={"b": "2", "a": "1"})
WHEN = datetime(2026, 5, 4, 3, 2, 1, 500_000, UTC)


def encoder(format: str = "cloudevents", source: str = "/ingest", **more: object) -> Encoder:
    """An encoder with room for every test's record but one's."""
    return Encoder(format, source, **{"record_bytes_max": 10_000, **more})  # type: ignore[arg-type]


def recognised(record: Record, format: str = "auto", message: type = DeviceState) -> Recognised:
    """What the worker sees in a record."""
    descriptor = descriptor_of(message)
    rules = Rules(type=descriptor.full_name, index=tuple(message_index(descriptor)), format=format)
    return recognise(rules, record[1], record[2])


def test_cloudevent_says_everything() -> None:
    """Message, identity, order, time and trace arrive."""
    event = Event(STATE, "d1", sequence=7, id="e1", time=WHEN, traceparent=TRACE, headers={"x": "1", "y": b"\xff"})
    record = encoder().encode("devices", event)
    found = recognised(record)

    assert b"d1" == record[0]
    assert {("x", b"1"), ("y", b"\xff")} < set(record[2])
    assert STATE.SerializeToString(deterministic=True) == found.data
    assert ("e1", "/ingest", "d1", "7") == (found.id, found.source, found.subject, str(found.sequence))
    assert (int(WHEN.timestamp() * 1_000_000), TRACE) == (found.time_us, found.traceparent)


def test_every_event_has_an_identity() -> None:
    """Without an id of its own each gets a new one."""
    ids = {recognised(encoder().encode("devices", Event(STATE, "d1"))).id for _ in range(3)}

    assert 3 == len({uuid.UUID(one) for one in ids})


def test_a_message_has_one_encoding() -> None:
    """Maps are written in order, so that equal states are equal bytes."""
    other = DeviceState(device_id="d1", battery=0.5, labels={"a": "1", "b": "2"})
    found = [recognised(encoder().encode("devices", Event(state, "d1"))).data for state in (STATE, other)]

    assert found[0] == found[1]


@pytest.mark.parametrize("event", [Event(None, "d1", sequence=8), Event(STATE, b"d1", sequence=8, delete=True)])
def test_delete_is_a_cloudevent_without_data(event: Event) -> None:
    """Its record has no value, so that compaction takes it for a tombstone, and keeps identity and order."""
    record = encoder().encode("devices", event)
    found = recognised(record)

    assert (None, None) == (record[1], found.data)
    assert ("/ingest", "8") == (found.source, str(found.sequence))


def test_plain_is_the_message_alone() -> None:
    """With nothing around it but the trace."""
    record = encoder("plain", "").encode("devices", Event(STATE, "d1", traceparent=TRACE))

    assert (b"d1", STATE.SerializeToString(deterministic=True), [("traceparent", TRACE.encode())]) == record
    assert TRACE == recognised(record, "plain").traceparent


def test_plain_delete_is_a_record_without_value() -> None:
    """A tombstone, as compacted topics have them."""
    assert (b"d1", None, []) == encoder("plain").encode("devices", Event(None, "d1"))


@pytest.mark.parametrize("schema_id", [42, uuid.UUID(int=7)])
@pytest.mark.parametrize("message", [STATE, Geo(lat=1.5)])
def test_confluent_framing_names_the_message(schema_id: int | uuid.UUID, message: DeviceState | Geo) -> None:
    """By registry id or GUID, and by the message's place in its file."""
    record = encoder("confluent", schema_id=schema_id).encode("devices", Event(message, "d1"))

    assert message.SerializeToString(deterministic=True) == recognised(record, "confluent", type(message)).data
    assert message.SerializeToString(deterministic=True) == recognised(record, "auto", type(message)).data


def test_bytes_are_sent_as_they_are() -> None:
    """With the type that the caller names."""
    record = encoder().encode("devices", Event(b"\x0a\x02d1", "d1", type="acme.Device"))

    assert b"\x0a\x02d1" == recognised(record).data
    assert b"acme.Device" in (record[1] or b"")


@pytest.mark.parametrize(
    ("format", "event", "said"),
    [
        ("cloudevents", Event(STATE, ""), "entity key"),
        ("cloudevents", Event(b"", "d1"), "full name of the message type"),
        ("cloudevents", Event(STATE, "d1", time=WHEN.replace(tzinfo=None)), "time zone"),
        ("cloudevents", Event(STATE, "d1", sequence=-1), "expected 0 to"),
        ("cloudevents", Event(STATE, "d1", sequence=2**64), "expected 0 to"),
        ("plain", Event(STATE, "d1", sequence=1), "event with sequence: format plain has no place"),
        ("plain", Event(STATE, "d1", id="e1", time=WHEN), "event with id, time"),
        ("confluent", Event(b"", "d1"), "needs the message itself"),
    ],
)
def test_what_a_format_cannot_say_is_an_error(format: str, event: Event, said: str) -> None:
    """Nothing that the caller gave is left out silently."""
    schema_id = 1 if format == "confluent" else None
    with pytest.raises(ValueError, match=said):
        encoder(format, schema_id=schema_id).encode("devices", event)


@pytest.mark.parametrize("event", [Event(STATE, "d" * 9_000), Event(STATE, "d1", headers={"h": "x" * 10_000})])
def test_record_too_large_is_named_before_it_is_sent(event: Event) -> None:
    """Key, value and headers count; the key of a CloudEvent counts twice, being its subject too."""
    with pytest.raises(RecordTooLargeError, match="expected 10000 at most") as caught:
        encoder().encode("devices", event)

    assert caught.value.size > 10_000


@pytest.mark.parametrize(
    ("format", "source", "schema_id", "said"),
    [
        ("json", "/x", None, "cloudevents, plain or confluent"),
        ("cloudevents", "", None, "name this producer"),
        ("confluent", "/x", None, "got none, expected the schema's id"),
        ("plain", "/x", 3, "got 3 with format plain"),
    ],
)
def test_settings_that_do_not_fit(format: str, source: str, schema_id: int | None, said: str) -> None:
    """A producer that could send nothing right is not made."""
    with pytest.raises(SettingsError, match=said):
        encoder(format, source, schema_id=schema_id)


def test_no_payload_in_the_repr() -> None:
    """An event in a log shows neither message nor key."""
    assert "d1" not in repr(Event(STATE, "d1", sequence=7))


HALF = "caf\udce9"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"key": None}, "event key: got NoneType, expected text or bytes"),
        ({"key": 5}, "event key: got int, expected text or bytes"),
        ({"key": HALF}, "event key: got text that is no UTF-8"),
        ({"id": HALF}, "event id: got str that is no UTF-8 text"),
        ({"id": 7}, "event id: got int that is no UTF-8 text"),
        ({"type": HALF}, "event type: got str that is no UTF-8 text"),
        ({"traceparent": 3}, "event traceparent: got int that is no UTF-8 text"),
        ({"sequence": 1.5}, "event sequence: got float, expected 0 to"),
        ({"sequence": True}, "event sequence: got bool, expected 0 to"),
        ({"sequence": "7"}, "event sequence: got str, expected 0 to"),
        ({"time": "2026-05-04"}, "event time: got one without a time zone"),
        ({"time": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9)))}, "event time: got one outside of the years"),
        ({"headers": [("a", "b")]}, "event headers: got list, expected a mapping"),
        ({"headers": {"a": HALF}}, "event header a: got text that is no UTF-8"),
        ({"headers": {"a": 5}}, "event header a: got int, expected text or bytes"),
        ({"headers": {"a": None}}, "event header a: got NoneType, expected text or bytes"),
        ({"headers": {HALF: "b"}}, "event header: got a name that is no UTF-8 text"),
        ({"message": "text"}, "event for devices: got str, expected a Protobuf message, bytes or None"),
        ({"message": DeviceState}, "event for devices: got .*, expected a Protobuf message, bytes or None"),
    ],
)
def test_what_no_record_can_say_is_an_error_of_one_kind(arguments: dict[str, Any], said: str) -> None:
    """Before anything is handed over, and without the value: it may be anybody's."""
    with pytest.raises(ValueError, match=said) as caught:
        encoder().encode("devices", Event(**{"message": STATE, "key": "d1", **arguments}))
    assert "caf" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["content-type", "Content-Type", "contentType", "content-encoding", "ce_id", "CE_type", "__value_schema_id"]
)
def test_no_header_says_what_the_record_is_not(name: str) -> None:
    """One that comes twice counts as it came last: the event would be lost as a dead letter, or read as another."""
    for message in (STATE, None):
        with pytest.raises(ValueError, match="it says what a record is, and this one is a CloudEvent"):
            encoder().encode("devices", Event(message, "d1", headers={name: "x"}))
    assert (name, b"x") in encoder("plain", "").encode("devices", Event(STATE, "d1", headers={name: "x"}))[2]


@pytest.mark.parametrize("key", [b"d1", bytearray(b"d1"), memoryview(b"d1")])
def test_bytes_in_any_form_are_bytes(key: Any) -> None:
    """Key, message and headers."""
    made = encoder("plain", "").encode("devices", Event(key, key, headers={"h": key}))
    assert (b"d1", b"d1", [("h", b"d1")]) == made


def test_names_of_topics_are_text() -> None:
    """A topic's name goes to the broker."""
    with pytest.raises(ValueError, match="topic of an event: got a name that is no UTF-8 text"):
        encoder().encode(HALF, Event(STATE, "d1"))
    with pytest.raises(SettingsError, match="source: got what is no UTF-8"):
        encoder(source=HALF)
    for schema_id in (-1, 1 << 40):
        with pytest.raises(SettingsError, match=f"schema_id: got {schema_id}, expected 0 to 4294967295"):
            encoder("confluent", "", schema_id=schema_id)
