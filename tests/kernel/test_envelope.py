"""Envelopes: what producers write, byte by byte, and what is recognised in a record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import InputError
from streams.kernel.compression import compress
from streams.kernel.envelope import (
    Event,
    Recognised,
    Rules,
    binary,
    confluent_prefix,
    message_index,
    recognise,
    sequence_number,
    structured,
)
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch, PatchBatch
from streams.v1.resync_pb2 import Resync
from tests.protos import message_class

RULES = Rules(type="acme.Device")
GUID = UUID("89791762-2336-4186-9674-299b90a802e2")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TIME_US = 1_767_323_045_678_901
EVENT = Event(
    id="e1",
    source="/ingest",
    type="acme.device.changed",
    data=b"\x0a\x01d",
    subject="d",
    time=TIME,
    sequence=7,
    traceparent=TRACE,
)
SEEN = Recognised(b"\x0a\x01d", "e1", "/ingest", "d", "7", TIME_US, TRACE)


def reason(rules: Rules, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> str:
    """Why a record is refused."""
    with pytest.raises(InputError) as raised:
        recognise(rules, value, headers)
    return raised.value.reason


def test_structured_bytes() -> None:
    """A small event is the bytes that the public Protobuf format says, written down by hand."""
    value, headers = structured(Event(id="1", source="/s", type="t", data=b"\x08\x01", sequence=7))
    assert value.hex(" ") == (
        "0a 01 31 12 02 2f 73 1a 03 31 2e 30 22 01 74 "  # id, source, spec_version "1.0", type
        "2a 0f 0a 08 73 65 71 75 65 6e 63 65 12 03 1a 01 37 "  # attributes["sequence"].ce_string = "7"
        "32 02 08 01"  # binary_data
    )
    assert headers == [("content-type", b"application/cloudevents+protobuf")]


def test_binary_headers() -> None:
    """Binary mode has every attribute in a header of its own and the message as the value."""
    value, headers = binary(EVENT)
    assert value == EVENT.data
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"e1",
        "ce_source": b"/ingest",
        "ce_type": b"acme.device.changed",
        "ce_subject": b"d",
        "ce_time": b"2026-01-02T03:04:05.678901Z",
        "ce_sequence": b"7",
        "ce_traceparent": TRACE.encode(),
        "content-type": b"application/protobuf",
    }


@pytest.mark.parametrize("write", [structured, binary])
def test_what_is_written_is_recognised(write: type[structured] | type[binary]) -> None:
    """Both modes come back with every attribute."""
    assert recognise(RULES, *write(EVENT)) == SEEN


def test_extensions_travel() -> None:
    """Further attributes are strings beside the known ones."""
    event = Event(id="1", source="/s", type="t", data=b"", extensions={"correlationid": "c7"})
    message = CloudEvent.FromString(structured(event)[0])
    assert message.attributes["correlationid"].ce_string == "c7"
    assert ("ce_correlationid", b"c7") in binary(event)[1]


def test_delete_has_no_value() -> None:
    """Only binary mode can say DELETE."""
    event = Event(id="1", source="/s", type="t", data=None, subject="d")
    value, headers = binary(event)
    assert value is None
    assert recognise(RULES, value, headers) == Recognised(None, "1", "/s", "d")
    with pytest.raises(ValueError, match="binary mode"):
        structured(event)


@pytest.mark.parametrize(
    ("index", "schema", "wanted"),
    [
        ([0], 42, "00 0000002a 00"),
        ([1], 1234567890, "00 499602d2 02 02"),
        ([2, 0], 1234567890, "00 499602d2 04 04 00"),
        ([0, 300], 1234567890, "00 499602d2 04 00 d804"),
        ([70, 5, 1], 1234567890, "00 499602d2 06 8c01 0a 02"),
        ([0], GUID, "01 89791762233641869674299b90a802e2 00"),
        ([70, 5, 1], GUID, "01 89791762233641869674299b90a802e2 06 8c01 0a 02"),
    ],
)
def test_confluent_prefix(index: list[int], schema: int | UUID, wanted: str) -> None:
    """The vectors were made with confluent-kafka 2.16's SchemaId; each is recognised by value and by header."""
    prefix = confluent_prefix(schema, index)
    assert prefix == bytes.fromhex(wanted)
    rules = Rules(type="acme.Device", index=tuple(index))
    assert recognise(rules, prefix + b"\x0a\x01d").data == b"\x0a\x01d"
    assert recognise(rules, b"\x0a\x01d", [("__value_schema_id", prefix)]).data == b"\x0a\x01d"


def test_message_index() -> None:
    """Top-level and nested types are counted in the order of their file."""
    assert message_index(Patch.DESCRIPTOR) == [0]
    assert message_index(PatchBatch.DESCRIPTOR) == [1]
    assert message_index(Resync.DESCRIPTOR) == [0]
    assert message_index(message_class("zoo.two.Old.Rg").DESCRIPTOR) == [0, 1]


def test_proto_data() -> None:
    """An Any of the configured type is read, of another one refused."""
    wrapped = Any(type_url="type.googleapis.com/acme.Device", value=b"\x0a\x01d")
    value = CloudEvent(id="1", source="/s", proto_data=wrapped).SerializeToString()
    headers = [("content-type", b"Application/CloudEvents+Protobuf; charset=utf-8")]
    assert recognise(RULES, value, headers).data == b"\x0a\x01d"
    assert reason(Rules(type="acme.Other"), value, list(headers)) == "wrong-schema"


@pytest.mark.parametrize(
    ("kind", "given_as", "wanted"),
    [
        ("sequence", {"ce_integer": 12}, {"sequence": "12"}),
        ("sequence", {"ce_string": "012"}, {"sequence": "012"}),
        ("time", {"ce_string": "2026-01-02T04:04:05.678901+01:00"}, {"time_us": TIME_US}),
        ("time", {"ce_string": "yesterday"}, {"time_us": None}),
        ("subject", {"ce_uri": "urn:d"}, {"subject": "urn:d"}),
        ("traceparent", {"ce_string": "00-short"}, {"traceparent": ""}),
    ],
)
def test_attribute_types(kind: str, given_as: dict[str, object], wanted: dict[str, object]) -> None:
    """Attributes are read from every type in which other libraries send them."""
    message = CloudEvent(id="1", source="/s", binary_data=b"")
    setattr(message.attributes[kind], *next(iter(given_as.items())))
    event = recognise(RULES, message.SerializeToString(), [("content-type", b"application/cloudevents+protobuf")])
    assert {name: getattr(event, name) for name in wanted} == wanted


def test_record_header_beats_attribute() -> None:
    """The record's own traceparent is this hop's, the event's is its start."""
    hop = TRACE.replace("-01", "-00")
    value, headers = structured(EVENT)
    assert recognise(RULES, value, [*headers, ("traceparent", hop.encode())]).traceparent == hop


@pytest.mark.parametrize(
    ("rules", "value", "headers", "wanted"),
    [
        (RULES, b"\0\0\0", [], "bad-envelope"),
        (RULES, b"\0\0\0\0\x2a\x02\x02", [], "wrong-schema"),
        (Rules("acme.Device", schema_ids=frozenset([7])), b"\0\0\0\0\x2a\0", [], "wrong-schema"),
        (Rules("acme.Device", schema_ids=frozenset([7])), b"\1" + GUID.bytes + b"\0", [], "wrong-schema"),
        (RULES, b"x", [("__value_schema_id", b"")], "bad-envelope"),
        (RULES, b"x", [("__value_schema_id", b"\2abc")], "bad-envelope"),
        (RULES, b"x", [("__value_schema_id", b"\1" + GUID.bytes + b"\0x")], "bad-envelope"),
        (Rules("acme.Device", format="confluent"), b"x", [], "bad-envelope"),
        (Rules("acme.Device", format="cloudevents"), b"x", [], "bad-envelope"),
        (RULES, b"\xff", [("content-type", b"application/cloudevents+protobuf")], "bad-envelope"),
        (RULES, b"{}", [("content-type", b"application/cloudevents+json")], "bad-envelope"),
        (RULES, b"x", [("content-encoding", b"gzip")], "bad-compression"),
        (RULES, b"x", [("dlq-headers-unread", b"")], "record-too-large"),
        (RULES, None, [("", b"")] * 50_001, "record-too-large"),
        (RULES, b"x", [("content-encoding", b"zstd")], "bad-compression"),
        (RULES, b"x", [("ce_specversion", b"1.0"), ("ce_id", b"\xff")], "bad-envelope"),
        (Rules("acme.Device", record_bytes_max=3), b"xxxx", [], "record-too-large"),
        (
            Rules("acme.Device", record_bytes_max=50),
            compress(b"x" * 51),
            [("content-encoding", b"zstd")],
            "record-too-large",
        ),
    ],
)
def test_refused(rules: Rules, value: bytes, headers: list[tuple[str, bytes | None]], wanted: str) -> None:
    """Everything that is no event has a reason code."""
    assert reason(rules, value, headers) == wanted


@pytest.mark.parametrize(
    ("value", "headers", "data"),
    [
        (None, [], None),
        (b"", [], b""),
        (b"", [("ce_specversion", b"1.0"), ("ce_id", b"1")], b""),
        (b"", [("ce_id", b"1")], b""),
        (compress(b"\x0a\x01d"), [("content-encoding", b"ZSTD")], b"\x0a\x01d"),
        (b"\x0a\x01d", [("content-encoding", b"identity"), ("content-type", b"application/protobuf")], b"\x0a\x01d"),
    ],
)
def test_plain_and_absent(value: bytes | None, headers: list[tuple[str, bytes | None]], data: bytes | None) -> None:
    """No value is a DELETE, an empty one is an empty message, of a binary CloudEvent too."""
    assert recognise(RULES, value, headers).data == data


def test_fixed_format_is_not_guessed() -> None:
    """With a fixed format the bytes of another one are payload."""
    framed = confluent_prefix(42, [0]) + b"\x0a\x01d"
    assert recognise(Rules("acme.Device", format="plain"), framed).data == framed


@pytest.mark.parametrize("text", ["", "-1", "1.0", "+1", " 1", "1 ", "٣", str(2**64), "9" * 5000])
def test_sequence_that_is_none(text: str) -> None:
    """Anything but an unsigned decimal of 64 bits is refused."""
    with pytest.raises(InputError) as raised:
        sequence_number(text)
    assert raised.value.reason == "bad-sequence"


def test_sequence() -> None:
    """Zeros in front count for nothing."""
    assert [sequence_number(text) for text in ("0", "7", "0" * 30 + "8", str(2**64 - 1))] == [0, 7, 8, 2**64 - 1]


@given(
    st.datetimes(
        min_value=datetime(2, 1, 1),
        max_value=datetime(9998, 12, 31),
        timezones=st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours))),
    )
)
def test_time_is_kept_to_the_microsecond(time: datetime) -> None:
    """Any time, in any zone, comes back the same from both modes."""
    event = Event(id="1", source="/s", type="t", data=b"", time=time)
    wanted = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert recognise(RULES, *structured(event)).time_us == wanted
    assert recognise(Rules("acme.Device"), *binary(Event("1", "/s", "t", b"x", time=time))).time_us == wanted


@given(st.binary(max_size=60), st.sampled_from(["auto", "plain", "confluent", "cloudevents"]), st.booleans())
def test_any_bytes(value: bytes, form: str, as_event: bool) -> None:
    """Any bytes are an event or refused with a reason, never another error."""
    headers = [("content-type", b"application/cloudevents+protobuf")] if as_event else []
    reasons = {"bad-envelope", "wrong-schema"}
    try:
        recognise(Rules("acme.Device", format=form), value, headers)
    except InputError as error:
        reasons.remove(error.reason)
