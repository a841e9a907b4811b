"""What a record says is believed only where it says it: every sentence of the rule, by the kernel and its reference."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.protobuf import any_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from streams._native import Records, Step, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import InputError
from streams.kernel.confluent import confluent_prefix, message_index, readings
from streams.kernel.envelope import Rules, recognise
from streams.kernel.messages import descriptor_of, known_names, load_message
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.settings import parse
from streams.sync.agent import make_job
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from tests.protos import compile_set, message_class

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "producers.json"
NOW = 1_700_000_000_000
BYTES_MAX = 10_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STRUCTURED = ("content-type", b"application/cloudevents+protobuf")
JSON = ("content-type", b"application/cloudevents+json")
BINARY = [("ce_specversion", b"1.0"), ("ce_id", b"e1"), ("ce_source", b"/s")]

Headers = Sequence[tuple[str, bytes | None]]


@functools.cache
def kind(name: str) -> type[Message]:
    """A message of `several.proto`; the set holds another file too."""
    with tempfile.TemporaryDirectory() as directory:
        path = compile_set(Path(directory) / "set.binpb", "several.proto", "several_more.proto")
        return load_message(name if "." in name.removeprefix("Outer.") else f"acme.several.{name}", descriptors=path)


def process(message: type[Message], value: bytes | None, headers: Headers = (), **settings: Any) -> Step:
    """What the kernel makes of one record, as a worker sets it up."""
    schema = MessageSchema(message)
    spec = SyncSettings(source="devices", message=schema.full_name, **settings)
    table = Table(make_job(schema, spec, "devices", partitions=0, record_bytes_max=BYTES_MAX), 0)
    records = Records()
    seed = b"" if spec.format != "confluent" else framing(message, spec.schema_indexes)
    as_event = [("ce_specversion", b"1.0"), ("ce_id", b"seed")] if spec.format == "cloudevents" else []
    records.append(b"k", seed, as_event, 0, 0)
    records.append(b"k", value, headers, 0, 1)
    step = table.process(records, NOW)
    assert step.fatal is None
    return step


def framing(message: type[Message], written: str) -> bytes:
    """A Confluent prefix as its writers put it."""
    index = message_index(descriptor_of(message))
    standard = confluent_prefix(7, index[::-1] if written == "reversed" else index)
    return {"none": standard[:5], "plain": standard[:5] + bytes([len(index), *index])}.get(written, standard)


def read(message: type[Message], value: bytes | None, headers: Headers = (), **settings: Any) -> bytes | str | None:
    """The message of a record, None for a DELETE; or why there is none, the same by the kernel and the reference."""
    step = process(message, value, headers, **settings)
    given = {name: frozenset(found) if isinstance(found, list | tuple) else found for name, found in settings.items()}
    given.pop("other_types", None)
    rules = Rules.of(descriptor_of(message), record_bytes_max=BYTES_MAX, **given)
    wanted: bytes | str | None
    try:
        wanted = recognise(rules, value, headers).data
    except InputError as error:
        wanted = error.reason
    found: bytes | str | None
    if len(step.dead_letters):
        found = dict(step.dead_letters.headers(0))["dlq-reason"].decode()
        if found == "undecodable":
            return found
    elif step.counts["unchanged"]:
        found = b""  # as the record before it
    else:
        patch = Patch.FromString(step.patches.value(1) or b"")
        # the first record is the message of defaults, and so a delta has all that there is
        found = None if patch.kind == Patch.DELETE else patch.data
    assert found == (MessageSchema(message).canonicalise(wanted) if isinstance(wanted, bytes) else wanted)
    return wanted


def error(message: type[Message], value: bytes | None, headers: Headers = (), **settings: Any) -> str:
    """The words of a dead letter."""
    return dict(process(message, value, headers, **settings).dead_letters.headers(0))["dlq-error"].decode()


def event(**fields: Any) -> bytes:
    """A structured CloudEvent; attributes that the message has no field for are texts."""
    given = {"id": "e1", "source": "/s", "spec_version": "1.0", "type": "t", **fields}
    attributes = {name: given.pop(name) for name in list(given) if name not in CloudEvent.DESCRIPTOR.fields_by_name}
    message = CloudEvent(**given)
    for name, text in attributes.items():
        message.attributes[name].ce_string = text
    return message.SerializeToString()


def json_event(data: bytes | None, /, **fields: Any) -> bytes:
    """A CloudEvent as JSON."""
    given = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t", **fields}
    if data is not None:
        given["data_base64"] = b64encode(data).decode()
    return json.dumps(given).encode()


def packed(message: type[Message], value: bytes) -> bytes:
    """An Any of a message."""
    url = f"type.googleapis.com/{descriptor_of(message).full_name}"
    return any_pb2.Any(type_url=url, value=value).SerializeToString()


READING = b"\x08\x07\x12\x01x"
THING = b"\x0a\x01x\x11" + bytes(7) + b"\x40"


class TestNoDataIsNoDelete:
    """DELETE is a record with null value, nothing else."""

    @pytest.mark.parametrize("headers", [[], BINARY, [STRUCTURED], [JSON], [("content-type", b"text/plain")]])
    def test_null_is_a_delete_in_every_mode(self, headers: Headers) -> None:
        """Whatever the headers say about the form of the value that is not there."""
        assert read(DeviceState, None, headers) is None

    @pytest.mark.parametrize("headers", [[], BINARY])
    def test_an_empty_value_is_a_message_of_defaults(self, headers: Headers) -> None:
        """proto3 writes zero bytes for it."""
        assert read(DeviceState, b"", headers) == b""

    def test_an_empty_value_updates_a_live_row(self) -> None:
        """It takes everything back to its default, and deletes nothing."""
        table = Table(
            make_job(
                MessageSchema(DeviceState),
                SyncSettings(source="devices", message="streams.demo.v1.DeviceState"),
                "devices",
                partitions=0,
                record_bytes_max=BYTES_MAX,
            ),
            0,
        )
        records = Records()
        records.append(b"k", DeviceState(device_id="d").SerializeToString(), BINARY, 0, 0)
        records.append(b"k", b"", [*BINARY[:1], ("ce_id", b"e2")], 0, 1)
        step = table.process(records, NOW)
        assert (2, 0) == (len(step.patches), step.counts["deletes"])

    @pytest.mark.parametrize(
        ("value", "headers", "reason"),
        [
            (event(), [STRUCTURED], "no-data"),
            (json_event(None), [JSON], "no-data"),
            (json_event(None, data=None), [JSON], "no-data"),
            (event(dataref="https://x/y"), [STRUCTURED], "dataref"),
            (event(dataref="https://x/y", binary_data=b""), [STRUCTURED], "dataref"),
            (json_event(b"", dataref="https://x/y"), [JSON], "dataref"),
            (b"", [*BINARY, ("ce_dataref", b"https://x/y")], "dataref"),
            (None, [*BINARY, ("ce_dataref", b"https://x/y")], "dataref"),
            (b"", [STRUCTURED], "bad-envelope"),
        ],
    )
    def test_data_that_is_missing_or_elsewhere_is_a_dead_letter(
        self, value: bytes | None, headers: Headers, reason: str
    ) -> None:
        """A structured event without data; data that lies behind a link."""
        assert read(DeviceState, value, headers) == reason

    def test_binary_data_beside_a_link_is_taken(self) -> None:
        """Both say the same."""
        assert read(kind("Reading"), READING, [*BINARY, ("ce_dataref", b"https://x/y")]) == READING


class TestEnvelopes:
    """An envelope is never taken for a message, nor a message for an envelope."""

    @pytest.mark.parametrize(
        "header",
        [
            ("Content-Type", b"application/cloudevents+protobuf"),
            ("CONTENT-TYPE", b"application/cloudevents+protobuf; charset=utf-8"),
            ("contentType", b"application/cloudevents+protobuf"),
            ("contentType", b'"application/cloudevents+protobuf"'),
            ("content-type", b"Application/CloudEvents+Protobuf;v=1"),
        ],
    )
    @pytest.mark.parametrize("name", ["Reading", "Event", "Blobs"])
    def test_the_header_counts_however_it_is_written(self, name: str, header: tuple[str, bytes]) -> None:
        """Names without case, Spring's `contentType`, parameters, quotes."""
        assert read(kind(name), event(binary_data=b"\x22\x01d"), [header]) == b"\x22\x01d"

    def test_binary_headers_are_compared_without_case(self) -> None:
        """As some writers capitalise them."""
        headers = [(name.title(), value) for name, value in [*BINARY, ("ce_sequence", b"12")]]
        step = process(kind("Reading"), READING, headers)
        patch = Patch.FromString(step.patches.value(1) or b"")
        assert ("e1", "/s", 12) == (patch.event_id, patch.event_source, patch.sequence)

    @pytest.mark.parametrize("name", ["Reading", "Thing", "Outer.Inner"])
    @pytest.mark.parametrize("value", [event(binary_data=b""), json_event(b""), json_event(b"", data=None)])
    def test_without_a_header_a_whole_event_is_read_where_no_message_could_be(self, name: str, value: bytes) -> None:
        """sdk-go#1113, sdk-java#370: the header is missing; Python's v1 SDK writes none or a wrong one."""
        assert read(kind(name), value) == b""
        assert read(kind(name), value, [("content-type", b"application/protobuf")]) == b""

    @pytest.mark.parametrize("name", ["Event", "Blobs"])
    def test_a_message_that_looks_like_an_event_is_the_message(self, name: str) -> None:
        """Where its first four fields hold texts, `auto` asks for headers."""
        message = event(source="(1", binary_data=b"M")
        assert read(kind(name), message) == message

    @pytest.mark.parametrize(
        "value",
        [
            event(spec_version="0.3", binary_data=b"M"),
            event(spec_version="1.0.2", binary_data=b"M"),
            event(type="", binary_data=b"M"),
            event(id="", binary_data=b"M"),
            event(source="", binary_data=b"M"),
            event(),
            event(binary_data=b"M") + b"\x48\x01",
        ],
    )
    def test_what_is_not_wholly_an_event_is_none(self, value: bytes) -> None:
        """It is the message, whose fields of other types are unknown ones; it never says DELETE."""
        assert read(kind("Reading"), value) == value

    def test_json_carries_the_message_in_base64_and_nothing_else(self) -> None:
        """ProtoJSON is not read; an Any inside is."""
        reading = kind("Reading")
        assert read(reading, json_event(READING), [JSON]) == READING
        assert read(reading, json_event(packed(reading, READING)), [JSON]) == READING
        assert read(reading, json_event(None, data={"id": 7}), [JSON]) == "bad-envelope"
        assert "data_base64" in error(reading, json_event(None, data={"id": 7}), [JSON])
        assert read(reading, b"{}", [JSON]) == "bad-envelope"
        assert read(reading, json_event(READING)[:-1], [JSON]) == "bad-envelope"
        assert read(reading, json_event(READING), [("content-type", b"application/cloudevents-batch+json")]) == (
            "bad-envelope"
        )

    @pytest.mark.parametrize("headers", [[], BINARY])
    def test_an_any_of_the_message_is_unwrapped_where_the_message_cannot_begin_so(self, headers: Headers) -> None:
        """The Java SDK writes one in binary mode; of another type it is refused."""
        reading = kind("Reading")
        assert read(reading, packed(reading, READING), headers) == READING
        assert read(reading, packed(reading, b""), headers) == b""
        assert read(reading, packed(kind("Thing"), THING), headers) == "wrong-type"
        assert read(reading, packed(DeviceState, b""), headers) == "wrong-schema"

    @pytest.mark.parametrize("headers", [[], BINARY])
    def test_an_any_that_the_message_could_be_is_not_unwrapped(self, headers: Headers) -> None:
        """Its own is refused, as nothing tells them apart; another's is the message's own business."""
        for name in ("Thing", "Outbox"):
            assert read(kind(name), packed(kind(name), b""), headers) == "bad-envelope"
        other = packed(kind("acme.more.Order"), b"\x0a\x01x")
        assert read(kind("Outbox"), other, headers) == other
        nested = packed(any_pb2.Any, b"\x0a\x01x")
        assert read(any_pb2.Any, nested, headers) == nested

    def test_proto_data_is_an_any_or_as_java_writes_it_the_message_itself(self) -> None:
        """Without a slash in its type URL it is no Any, nor with fields that an Any has not."""
        thing, slash = kind("Thing"), b"\x0a\x03a/b\x11" + bytes(7) + b"\x40"
        head, order = event(), any_pb2.Any(type_url="type.googleapis.com/acme.more.Order")
        for message in (THING, slash, b""):
            assert read(thing, head + bytes([0x42, len(message)]) + message, [STRUCTURED]) == message
        any_thing = any_pb2.Any(type_url="type.googleapis.com/acme.several.Thing", value=THING)
        assert read(thing, event(proto_data=any_thing), [STRUCTURED]) == THING
        assert read(thing, event(proto_data=order), [STRUCTURED]) == "wrong-type"
        order.type_url = "type.googleapis.com/acme.Unknown"
        assert read(thing, event(proto_data=order), [STRUCTURED]) == "wrong-schema"

    @pytest.mark.parametrize("form", ["plain", "confluent"])
    @pytest.mark.parametrize("name", ["Reading", "Event"])
    def test_a_fixed_format_takes_no_event_for_the_message(self, name: str, form: str) -> None:
        """Not one that its header tells, and not one that the message could not be."""
        prefix = b"" if form == "plain" else framing(kind(name), "standard")
        for value, headers in ((event(binary_data=READING), [STRUCTURED]), (json_event(READING), [JSON])):
            assert read(kind(name), value, headers, format=form) == "bad-envelope"
            assert read(kind(name), prefix + READING, headers, format=form) == "bad-envelope"
        if name == "Reading":
            for value in (event(binary_data=READING), packed(kind("Reading"), READING)):
                assert read(kind(name), value, format=form) == "bad-envelope"
            assert read(kind(name), prefix + packed(kind(name), READING), format=form) == "bad-envelope"

    @pytest.mark.parametrize("form", ["plain", "confluent"])
    def test_a_fixed_format_believes_what_headers_say(self, form: str) -> None:
        """The type, and that the data lies elsewhere; id and sequence are for those who read events."""
        prefix = b"" if form == "plain" else framing(kind("Reading"), "standard")
        elsewhere = [*BINARY, ("ce_dataref", b"https://x/y")]
        for value in (prefix + READING, None):
            assert read(kind("Reading"), value, [("ce_type", b"acme.more.Order")], format=form) == "wrong-type"
        assert read(kind("Reading"), None, elsewhere, format=form) == "dataref"
        assert read(kind("Reading"), b"", elsewhere, format=form) == "dataref"
        assert read(kind("Reading"), prefix + READING, elsewhere, format=form) == READING
        assert read(kind("Reading"), None, BINARY, format=form) is None

    def test_where_the_message_is_an_event_plain_is_the_whole_of_it(self) -> None:
        """Nothing else could say so."""
        file = FileDescriptorProto(name="own.proto", package="io.cloudevents.v1", syntax="proto3")
        fields = file.message_type.add(name="CloudEvent").field
        for number, name in enumerate(("id", "source", "spec_version", "type"), 1):
            fields.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING)
        pool = DescriptorPool()
        pool.Add(file)
        own, value = GetMessageClass(pool.FindMessageTypeByName("io.cloudevents.v1.CloudEvent")), event()
        assert read(own, value, [STRUCTURED], format="plain") == value

    @pytest.mark.parametrize("form", ["auto", "plain", "confluent", "cloudevents"])
    def test_the_stub_of_a_dead_letter_is_no_delete(self, form: str) -> None:
        """Tools that send a whole topic back know nothing of stubs; and it stays one when it dies again."""
        stub = [*BINARY, ("dlq-length", b"700000"), ("dlq-sha256", b"00"), ("dlq-reason", b"too-large")]
        assert read(kind("Reading"), None, stub, format=form) == "no-data"
        step = process(kind("Reading"), None, stub, format=form)
        letter = dict(step.dead_letters.headers(0))
        assert (b"700000", b"00", b"no-data") == tuple(letter[f"dlq-{name}"] for name in ("length", "sha256", "reason"))
        assert read(kind("Reading"), None, [*BINARY, ("dlq-reason", b"x")], format=form) is None


class TestTypes:
    """A type that names another message of the loaded descriptors is refused, a business name is not."""

    @pytest.mark.parametrize("value", [READING, b"", None])
    @pytest.mark.parametrize("name", ["ce_type", "ce_dataschema", "CE_Type"])
    @pytest.mark.parametrize("prefix", [b"", b"type.googleapis.com/"])
    @pytest.mark.parametrize("other", [b"acme.several.Thing", b"acme.several.Outer.Second", b"acme.more.Order"])
    def test_another_message_is_a_wrong_type_before_it_is_a_delete(
        self, other: bytes, prefix: bytes, name: str, value: bytes | None
    ) -> None:
        """Of the same file, nested, and of a file that nobody imports."""
        headers = [*BINARY, (name, prefix + other)]
        assert read(kind("Reading"), value, headers) == "wrong-type"
        step = process(kind("Reading"), value, headers, other_types="skip")
        assert (1, 0, 1) == (step.counts["skipped.type"], len(step.dead_letters), len(step.patches))

    @pytest.mark.parametrize(
        "text", [b"", b"device.changed", b"acme.several.Reading", b"acme.Unknown", b"Thing", b"\xff", b"acme.several"]
    )
    def test_a_business_name_is_accepted(self, text: bytes) -> None:
        """Anything that is no other message's name."""
        assert read(kind("Reading"), READING, [*BINARY, ("ce_type", text)]) == READING
        assert read(kind("Reading"), None, [*BINARY, ("ce_type", text)]) is None

    def test_structured_events_are_judged_alike(self) -> None:
        """By their type and their dataschema, in both forms."""
        reading = kind("Reading")
        for fields in ({"type": "acme.several.Thing"}, {"dataschema": "type.googleapis.com/acme.more.Order"}):
            assert read(reading, event(binary_data=b"", **fields), [STRUCTURED]) == "wrong-type"
            assert read(reading, json_event(b"", **fields), [JSON]) == "wrong-type"
            assert read(reading, event(**fields), [STRUCTURED]) == "wrong-type"
        assert read(reading, event(binary_data=b"", type="t", dataschema="https://registry/7"), [STRUCTURED]) == b""

    def test_event_types_narrow_the_business_names(self) -> None:
        """The message's own name is always one; a listed name may be another message's."""
        chosen: dict[str, Any] = {"event_types": ("device.changed", "acme.several.Thing")}
        for text in (b"", b"device.changed", b"acme.several.Thing", b"acme.several.Reading"):
            assert read(kind("Reading"), READING, [*BINARY, ("ce_type", text)], **chosen) == READING
        for text in (b"device.gone", b"acme.more.Order"):
            assert read(kind("Reading"), READING, [*BINARY, ("ce_type", text)], **chosen) == "wrong-type"
            assert read(kind("Reading"), None, [*BINARY, ("ce_type", text)], **chosen) == "wrong-type"
        assert read(kind("Reading"), READING, **chosen) == READING

    def test_the_names_are_those_of_the_set_or_of_the_modules(self) -> None:
        """Nested ones too, entries of maps not."""
        names = known_names(descriptor_of(kind("Reading")))
        assert {"acme.several.Outer.Inner", "acme.more.Order", "acme.several.Reading"} <= set(names)
        assert not any("Entry" in name for name in names if name.startswith("acme."))
        assert {"streams.v1.Patch", "google.protobuf.Any"}.isdisjoint(names)
        assert {"streams.v1.Patch", "streams.demo.v1.Geo"} <= set(known_names(descriptor_of(DeviceState)))

    def test_a_message_of_another_sync_of_the_worker_is_another_type(self) -> None:
        """Its descriptors are in a set of their own, as each `[[sync]]` names one."""
        assert message_class("zoo.three.Maps").DESCRIPTOR.file.pool != kind("Reading").DESCRIPTOR.file.pool
        for value in (READING, b"", None):
            assert read(kind("Reading"), value, [*BINARY, ("ce_type", b"zoo.three.Maps")]) == "wrong-type"
        assert "zoo.three.Maps" in known_names(descriptor_of(DeviceState))

    def test_other_types_are_skipped_by_rekeying_too(self) -> None:
        """A repartitioned topic holds only what is ours."""
        schema = MessageSchema(kind("Thing"))
        spec = SyncSettings(source="devices", message=schema.full_name, key="field:id", other_types="skip")
        table = Table(make_job(schema, spec, "devices", partitions=0, record_bytes_max=BYTES_MAX), 0)
        records = Records()
        records.append(b"a", THING, BINARY, 0, 0)
        records.append(b"a", THING, [*BINARY, ("ce_type", b"acme.more.Order")], 0, 1)
        step = table.rekey(records)
        assert (1, 1, 0) == (step.counts["rekeyed"], step.counts["skipped.type"], len(step.dead_letters))


class TestConfluent:
    """Message indexes must name the configured message."""

    INNER = b"\x0a\x01x"

    @pytest.mark.parametrize(
        ("name", "index", "wanted"),
        [
            ("Outer.Inner", [0, 1], INNER),  # map entries counted, as the format has it
            ("Outer.Inner", [0, 0], INNER),  # Java with normalize.schemas; only this message fits
            ("Outer.Inner", [0, 2], "wrong-type"),
            ("Outer.Inner", [0, 9], "wrong-schema"),
            ("Outer.Inner", [0], "wrong-type"),
            ("Outer.Second", [0, 2], INNER),
            ("Outer.Second", [0, 1], "wrong-type"),  # Inner, or Second without map entries: not believed
            ("Outer.Third", [0, 3], INNER),
            ("Thing", [2], INNER),
            ("Thing", [1], "wrong-type"),
        ],
    )
    @pytest.mark.parametrize("as_header", [False, True])
    def test_indexes_with_and_without_map_entries(
        self, name: str, index: list[int], wanted: bytes | str, as_header: bool
    ) -> None:
        """Schema-registry PR#2359: both are read where only one fits."""
        prefix = confluent_prefix(7, index)
        if as_header:
            assert read(kind(name), self.INNER, [("__value_schema_id", prefix)]) == wanted
            wanted_null = wanted if isinstance(wanted, str) else None
            assert read(kind(name), None, [("__Value_Schema_Id", prefix)]) == wanted_null
        else:
            assert read(kind(name), prefix + self.INNER) == wanted

    def test_readings(self) -> None:
        """Which indexes name a message, and which its neighbours."""
        assert readings(descriptor_of(kind("Outer.Inner"))) == (
            [[0, 0]],
            [[0], [0, 2], [0, 3], [1], [2], [3], [4], [5]],
        )
        assert readings(descriptor_of(kind("Outer.Second")))[0] == []

    @pytest.mark.parametrize(
        ("written", "frame"),
        [
            ("standard", b"\0\0\0\0\7\4\0\2"),
            ("plain", b"\0\0\0\0\7\2\0\1"),
            ("reversed", b"\0\0\0\0\7\4\2\0"),
            ("none", b"\0\0\0\0\7"),
        ],
    )
    def test_older_writers_by_setting(self, written: str, frame: bytes) -> None:
        """confluent-kafka-python before 1.8, .NET from 2.10.1, kafkajs; none is read as another."""
        assert read(kind("Outer.Inner"), frame + self.INNER, schema_indexes=written) == self.INNER
        assert read(kind("Outer.Inner"), frame + self.INNER, schema_indexes=written, format="confluent") == self.INNER
        for other in {"standard", "plain", "reversed"} - {written}:
            assert isinstance(read(kind("Outer.Inner"), frame + self.INNER, schema_indexes=other), str)

    def test_schema_ids_narrow_and_what_they_exclude_can_be_skipped(self) -> None:
        """The only way to tell types apart whose files have one message each."""
        framed = confluent_prefix(8, [2]) + self.INNER
        assert read(kind("Thing"), framed, schema_ids=(7,)) == "wrong-schema"
        step = process(kind("Thing"), framed, schema_ids=(7,), other_types="skip")
        assert (1, 0) == (step.counts["skipped.type"], len(step.dead_letters))
        nothing = process(kind("Thing"), confluent_prefix(7, [99]) + self.INNER, other_types="skip")
        assert (0, 1) == (nothing.counts["skipped.type"], len(nothing.dead_letters))

    def test_a_keys_own_schema_id_says_nothing_about_the_value(self) -> None:
        """`__key_schema_id`, and null."""
        assert read(kind("Thing"), THING, [("__key_schema_id", b"\1"), ("__value_schema_id", None)]) == THING


class TestCompression:
    """One zstd frame, bounded."""

    ZSTD = ("Content-Encoding", b"zstd")

    def test_frames(self) -> None:
        """With and without a size in the frame; nothing behind it; none with a dictionary."""
        frame = zstandard.compress(READING)
        unsized = zstandard.ZstdCompressor(write_content_size=False).compress(READING)
        assert read(kind("Reading"), frame, [self.ZSTD]) == READING
        assert read(kind("Reading"), unsized, [self.ZSTD]) == READING
        for wrong in (frame + b"x", frame + frame, frame[:-1], b"", READING):
            assert read(kind("Reading"), wrong, [self.ZSTD]) == "bad-compression"
        for bomb in (zstandard.compress(bytes(BYTES_MAX + 1)), bomb_without_a_size()):
            assert read(kind("Reading"), bomb, [self.ZSTD]) == "record-too-large"
        assert read(kind("Reading"), frame, [("content-encoding", b"gzip")]) == "bad-compression"

    def test_a_dictionary_is_named(self) -> None:
        """Its id stands in the frame."""
        samples = [b"%d the quick brown fox %d" % (at, at * 7919) * 4 for at in range(500)]
        dictionary = zstandard.train_dictionary(2_000, samples)
        frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0])
        assert read(kind("Reading"), frame, [self.ZSTD]) == "bad-compression"
        assert "dictionary" in error(kind("Reading"), frame, [self.ZSTD])

    def test_every_form_may_be_compressed(self) -> None:
        """The content is recognised as the value would be."""
        for value, headers in [(event(binary_data=READING), [STRUCTURED]), (json_event(READING), [JSON])]:
            assert read(kind("Reading"), zstandard.compress(value), [*headers, self.ZSTD]) == READING


def bomb_without_a_size() -> bytes:
    """A frame of more than is allowed, which does not say so."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10 * BYTES_MAX))


class TestAttributes:
    """What cannot be read costs the event nothing, and is counted."""

    @pytest.mark.parametrize(
        ("header", "name"),
        [
            (("ce_time", b"2026-01-02T03:04:05+0000"), "time"),
            (("ce_time", b"2026-01-02T03:04Z"), "time"),
            (("ce_time", b"2023-01-19T22:30:24.860213GMT"), "time"),
            (("traceparent", TRACE.upper().encode()), "traceparent"),
            (("traceparent", f"{TRACE}-x".encode()), "traceparent"),
            (("ce_traceparent", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"), "traceparent"),
            (("correlation-id", b"a\n"), "correlation-id"),
            (("correlation-id", b"x" * 257), "correlation-id"),
        ],
    )
    def test_unreadable_ones_are_left_out_and_counted(self, header: tuple[str, bytes], name: str) -> None:
        """One by one, by their names."""
        step = process(kind("Reading"), READING, [*BINARY, header])
        patch = Patch.FromString(step.patches.value(1) or b"")
        assert (1, "", False) == (step.counts[f"unreadable.{name}"], patch.traceparent, patch.HasField("event_time"))
        assert [] == step.patches.headers(1)

    def test_a_leap_second_is_the_next_one(self) -> None:
        """As POSIX counts."""
        step = process(kind("Reading"), READING, [*BINARY, ("ce_time", b"2016-12-31T23:59:60Z")])
        assert Patch.FromString(step.patches.value(1) or b"").event_time.seconds == 1_483_228_800

    def test_a_trace_goes_into_the_patch_and_its_headers(self) -> None:
        """With the state that came beside it; a damaged state costs only itself."""
        given = [*BINARY, ("TraceParent", TRACE.encode()), ("correlation-id", b"c 7")]
        step = process(kind("Reading"), READING, [*given, ("tracestate", b"acme=1,b@c=2")])
        patch = Patch.FromString(step.patches.value(1) or b"")
        assert (TRACE, "acme=1,b@c=2") == (patch.traceparent, patch.tracestate)
        wanted = {"traceparent": TRACE.encode(), "tracestate": b"acme=1,b@c=2", "correlation-id": b"c 7"}
        assert wanted == dict(step.patches.headers(1))
        step = process(kind("Reading"), READING, [*given, ("tracestate", b"Acme=1")])
        patch = Patch.FromString(step.patches.value(1) or b"")
        assert (TRACE, "", 1) == (patch.traceparent, patch.tracestate, step.counts["unreadable.tracestate"])

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [(b"7", 7), (b"0007", 7), (b"0" * 30 + b"8", 8), (str(2**64 - 1).encode(), 2**64 - 1)]
        + [(text, None) for text in (str(2**64).encode(), b"+7", b"-1", b" 7", b"7.0", b"", b"0x7", "٣".encode())],
    )
    def test_sequence(self, text: bytes, wanted: int | None) -> None:
        """An unsigned decimal of 64 bits, zeros in front count for nothing; anything else is a dead letter."""
        step = process(kind("Reading"), READING, [*BINARY, ("ce_sequence", text)])
        if wanted is None:
            assert step.counts["dead.bad-sequence"] == 1
        else:
            assert Patch.FromString(step.patches.value(1) or b"").sequence == wanted


class TestWords:
    """A dead letter says what is wrong, where, and the cure; never what the record holds."""

    @pytest.mark.parametrize(
        ("value", "wanted"),
        [
            (b'{"deviceId": "secret"}', "it looks like JSON"),
            (b"device_id,secret\n", "it looks like text"),
            (b"\x0a\x06M\xfcller", "field device_id (1) is not UTF-8"),
            (b"\x0a\x06secret\xaa\x01\x04\x09\x01", "it ends early: no whole field begins at byte 8 of 13"),
            (b"\x0a\x06secret\x07", "it is damaged: no whole field begins at byte 8 of 9"),
            (b"\xaa\x01\x03\x09\x01\x01", "it ends early in field geo: no whole field begins at byte 0 of 3"),
        ],
    )
    def test_undecodable(self, value: bytes, wanted: str) -> None:
        """JSON, Latin-1, a cut and damage are told apart."""
        said = error(DeviceState, value)
        assert said.startswith("no message of streams.demo.v1.DeviceState: ")
        assert wanted in said
        assert "secret" not in said


def test_the_docs_name_every_setting_and_reason() -> None:
    """docs/producers.md: its settings are ones, and it has every reason that the kernel gives."""
    root = Path(__file__).resolve().parent.parent.parent
    text = (root / "docs" / "producers.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (spec,) = parse(text=block).sync
    source = (root / "streams" / "native" / "kernel" / "src" / "envelope.rs").read_text()

    assert (("device.changed", "delete"), "skip", (7, 9)) == (spec.event_types, spec.other_types, spec.schema_ids)
    assert set(re.findall(r'Reason::\w+ => "([\w-]+)"', source)) <= set(re.findall(r"`([\w-]+)`", text))


@pytest.mark.parametrize("vector", [pytest.param(each, id=each["name"]) for each in json.loads(FIXTURES.read_text())])
def test_what_official_clients_write(vector: dict[str, Any]) -> None:
    """Bytes that they wrote, each read as meant, or refused where nothing tells what is meant.

    Each wrote `DeviceState(device_id="dev-1", cpu=0.5)`, nothing at all (none), or no bytes (empty). One says without
    data what a DELETE should say with null: cloudevents (PyPI) 2.2.0 writes an empty value.
    """
    value = None if vector["value"] is None else bytes.fromhex(vector["value"])
    headers = [(name, None if held is None else bytes.fromhex(held)) for name, held in vector["headers"]]
    found = read(DeviceState, value, headers, schema_indexes=vector.get("schema_indexes", "standard"))
    if vector.get("deletes"):
        assert found is None
    else:
        assert found == vector.get("reason", bytes.fromhex(vector.get("data", "")))
