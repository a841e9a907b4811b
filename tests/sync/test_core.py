"""The native sync core through its Python face: the rules of emitting, identity and order, bad input and state."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from streams._native import PARTITION_KEY, SCHEMA_KEY, Job, Records, Step, Table, decode_row, murmur2_partition, xxh3_64
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync

NOW = 1_700_000_000_000
RETENTION_MS = 60_000
SCHEMA = MessageSchema(DeviceState, ["last_seen_us"])
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STRUCTURED = ("content-type", b"application/cloudevents+protobuf")

LOG, OUTPUT = b"l" * 16, b"o" * 16

Headers = Sequence[tuple[str, bytes | None]]
Event = tuple[bytes | None, bytes | None, Headers]


def make_job(schema: Any = SCHEMA.native, **changes: Any) -> Job:
    """A job over DeviceState, or `schema`, that ignores `last_seen_us`, with the settings that a test names."""
    settings: dict[str, Any] = {
        "type": SCHEMA.full_name,
        "fingerprint": SCHEMA.fingerprint,
        "field_table": SCHEMA.field_table_bytes,
        "source": "devices",
        "key": "record",
        "sequence": "attribute",
        "format": "auto",
        "partitions": 0,
        "record_bytes_max": 100_000,
        "output_bytes_max": 165_536,
        "tombstone_retention_ms": RETENTION_MS,
        "schema_ids": [],
        "message_index": [1],
        "sealed": False,
        "canonicalise": SCHEMA.through_upb,
    }
    return Job(schema, **(settings | changes))


def make_table(schema: Any = SCHEMA.native, **changes: Any) -> Table:
    """A resident table of partition 0."""
    return Table(make_job(schema, **changes), 0)


def chunk(*events: Event, first: int = 0) -> Records:
    """The events as consecutive records."""
    records = Records()
    for offset, (key, value, headers) in enumerate(events, first):
        records.append(key, value, headers, 1_000 + offset, offset)
    return records


def device(**fields: Any) -> bytes:
    """A canonical DeviceState, long enough that a small change is smaller than a snapshot."""
    state = DeviceState(device_id="d", model="Sensor X", owner_email="somebody@example.com", **fields)
    return state.SerializeToString(deterministic=True)


def binary(key: bytes, value: bytes | None, id: str, source: str = "/s", sequence: object = None) -> Event:
    """A binary CloudEvent."""
    headers = [("ce_specversion", b"1.0"), ("ce_id", id.encode()), ("ce_source", source.encode())]
    if sequence is not None:
        headers.append(("ce_sequence", str(sequence).encode()))
    return key, value, headers


def patches(step: Step) -> list[Patch]:
    """The patches of a step, by stock Protobuf."""
    return [Patch.FromString(step.patches.value(at) or b"") for at in range(len(step.patches))]


def kinds(step: Step) -> list[tuple[int, int, int]]:
    """Kind, base revision and revision of each patch."""
    return [(patch.kind, patch.base_revision, patch.revision) for patch in patches(step)]


def dead(step: Step) -> list[dict[str, str | None]]:
    """The headers of each dead letter."""
    letters = step.dead_letters
    return [
        {name: None if value is None else value.decode() for name, value in letters.headers(at)}
        for at in range(len(letters))
    ]


def counted(step: Step) -> dict[str, int]:
    """The counters that are not zero, sizes left out."""
    return {name: count for name, count in step.counts.items() if count and not name.endswith("_bytes")}


def stuck_name(key: bytes) -> int:
    """What this process calls a key in its log."""
    events = [binary(key, device(), str(at), sequence=1) for at in range(101)]
    return make_table().process(chunk(*events), NOW).stuck[0][0]


def rows(table: Table) -> dict[bytes, bytes | None]:
    """Every committed row."""
    return {key: table.get(key) for key in sorted(table.keys())}


class TestEmitting:
    """What becomes a patch, and which."""

    def test_first_event_is_a_snapshot_and_a_change_a_delta(self) -> None:
        """Revisions count from 1, digests are those of the canonical bytes, the epoch is the owner's clock."""
        one, two = device(battery=1.0), device(battery=2.0)

        step = make_table().process(chunk((b"d", one, []), (b"d", two, [])), NOW)
        snapshot, delta = patches(step)

        assert (Patch.SNAPSHOT, 1, 0, ["*"], one) == (
            snapshot.kind, snapshot.revision, snapshot.base_revision, list(snapshot.mask.paths), snapshot.data
        )  # fmt: skip
        assert (Patch.DELTA, 2, 1, ["battery"]) == (
            delta.kind, delta.revision, delta.base_revision, list(delta.mask.paths)
        )  # fmt: skip
        assert DeviceState(battery=2.0) == DeviceState.FromString(delta.data)
        assert [xxh3_64(one), xxh3_64(two)] == [snapshot.digest, delta.digest]
        assert (b"d", NOW, SCHEMA.fingerprint, SCHEMA.full_name) == (delta.key, delta.epoch, delta.schema, delta.type)
        assert ("devices", "0/1") == (delta.event_source, delta.event_id)
        assert [b"d", b"d"] == [step.patches.key(0), step.patches.key(1)]

    def test_equal_events_and_ignored_fields_publish_nothing(self) -> None:
        """The stored message stays the last published one; ignored fields travel when something else changes."""
        table = make_table()
        values = [device(battery=1.0), device(battery=1.0), device(battery=1.0, last_seen_us=5)]
        values.append(device(battery=2.0, last_seen_us=9))

        step = table.process(chunk(*[binary(b"d", value, str(at)) for at, value in enumerate(values)]), NOW)
        second = patches(step)[1]

        assert (1, 1, 2) == (step.counts["unchanged"], step.counts["ignored"], step.counts["patches"])
        assert ["battery", "last_seen_us"] == list(second.mask.paths)
        table.commit(step.mark)
        row = decode_row(table.get(b"d") or b"")
        assert (values[3], 3, 2, 4) == (row["message"], row["offset"], row["revision"], len(row["ids"]))

    def test_ignored_only_change_keeps_the_published_message_in_the_row(self) -> None:
        """What receivers hold and what the row holds are the same bytes."""
        table = make_table()
        one = device(battery=1.0, last_seen_us=1)

        step = table.process(chunk((b"d", one, []), (b"d", device(battery=1.0, last_seen_us=2), [])), NOW)
        table.commit(step.mark)

        row = decode_row(table.get(b"d") or b"")
        assert (one, 1, 1) == (row["message"], row["offset"], row["revision"])

    def test_delta_that_outgrows_its_snapshot_is_sent_whole(self) -> None:
        """Clearing nearly everything costs more paths than the state has bytes."""
        values = [device(battery=1.0, cpu=1.0, mem=1.0), DeviceState(device_id="e").SerializeToString()]

        step = make_table().process(chunk(*[(b"d", value, []) for value in values]), NOW)

        assert [(Patch.SNAPSHOT, 0, 1), (Patch.SNAPSHOT, 0, 2)] == kinds(step)

    def test_non_canonical_bytes_are_made_canonical_first(self) -> None:
        """Map order is settled natively, anything else by upb; what is stored and published is canonical."""
        table = make_table()
        first = device(labels={"a": "1", "b": "2"})
        one, two = (DeviceState(labels={name: value}).SerializeToString() for name, value in [("a", "1"), ("b", "2")])
        swapped = device() + two + one
        doubled = DeviceState(status="no").SerializeToString() + device(labels={"a": "1", "b": "2"}, status="yes")

        step = table.process(chunk(*[(b"d", value, []) for value in (swapped, first, doubled)]), NOW)
        snapshot, delta = patches(step)

        assert (first, ["status"]) == (snapshot.data, list(delta.mask.paths))
        assert (1, 1, 1) == (step.counts["fallback.native"], step.counts["fallback.upb"], step.counts["unchanged"])
        assert delta.digest == xxh3_64(device(labels={"a": "1", "b": "2"}, status="yes"))

    def test_unknown_fields_at_top_level_make_a_snapshot(self) -> None:
        """A FieldMask cannot name them."""
        step = make_table().process(chunk((b"d", device(), []), (b"d", device() + b"\xf8\x07\x01", [])), NOW)

        assert [(Patch.SNAPSHOT, 0, 1), (Patch.SNAPSHOT, 0, 2)] == kinds(step)

    def test_event_facts_travel_with_the_patch(self) -> None:
        """Identity, time, trace and sequence of a structured CloudEvent; trace and correlation as headers too."""
        event = CloudEvent(id="i", source="/s", spec_version="1.0", type="t", binary_data=device())
        event.attributes["sequence"].ce_string = "0041"
        event.attributes["traceparent"].ce_string = TRACE
        event.attributes["tracestate"].ce_string = "acme=1"
        event.attributes["time"].ce_timestamp.FromMilliseconds(1_234)
        headers = [STRUCTURED, ("correlation-id", b"c"), ("x", b"y")]

        step = make_table().process(chunk((b"d", event.SerializeToString(), headers)), NOW)
        (patch,) = patches(step)

        assert ("i", "/s", 41, TRACE, 1_234) == (
            patch.event_id, patch.event_source, patch.sequence, patch.traceparent, patch.event_time.ToMilliseconds()
        )  # fmt: skip
        assert "acme=1" == patch.tracestate
        trace = [("traceparent", TRACE.encode()), ("tracestate", b"acme=1")]
        assert [*trace, ("correlation-id", b"c")] == step.patches.headers(0)
        assert 1_000 == step.patches.timestamp_ms(0), "the record's: retention goes by it"


class TestDeleting:
    """DELETE, tombstones and what comes after."""

    @pytest.mark.parametrize(
        "event",
        [
            pytest.param((b"d", None, []), id="null"),
            pytest.param(binary(b"d", None, "9"), id="binary"),
            pytest.param((b"d", None, [STRUCTURED]), id="structured"),
        ],
    )
    def test_delete_is_a_revision_and_leaves_a_tombstone(self, event: Event) -> None:
        """Its patch has neither paths nor data; the key comes back in the same epoch."""
        table = make_table()

        step = table.process(chunk((b"d", device(), []), event, (b"d", device(), [])), NOW)

        assert [(Patch.SNAPSHOT, 0, 1), (Patch.DELETE, 1, 2), (Patch.SNAPSHOT, 0, 3)] == kinds(step)
        delete = patches(step)[1]
        assert ([], b"", 0) == (list(delete.mask.paths), delete.data, delete.digest)
        assert {NOW} == {patch.epoch for patch in patches(step)}

    def test_delete_of_nothing_is_counted_and_dropped(self) -> None:
        """Neither a missing key nor a tombstone can be deleted."""
        step = make_table().process(
            chunk((b"x", None, []), (b"d", device(), []), (b"d", None, []), (b"d", None, [])), NOW
        )

        assert (2, 2) == (step.counts["delete-unknown"], len(step.patches))

    def test_tombstone_goes_after_its_retention_and_the_next_epoch_is_higher(self) -> None:
        """The row's removal is a null in the changelog; even a clock set back gives a higher epoch."""
        table = make_table()
        first = table.process(chunk((b"d", device(), []), (b"d", None, [])), NOW)
        table.commit(first.mark)
        assert decode_row(table.get(b"d") or b"")["deleted_at_ms"] == NOW

        step = table.process(Records(), NOW + RETENTION_MS)
        logged = table.changelog(first.mark, step.mark)
        assert (1, b"d", None) == (step.counts["expired"], logged.key(0), logged.value(0))
        table.commit(step.mark)
        assert (None, 0) == (table.get(b"d"), len(table))

        (again,) = patches(table.process(chunk((b"d", device(), []), first=5), NOW - 1_000))
        assert (1, NOW + 1) == (again.revision, again.epoch)

    def test_aborted_expiry_happens_again(self) -> None:
        """An abort puts the tombstone back, and its place in the queue."""
        table = make_table()
        table.commit(table.process(chunk((b"d", device(), []), (b"d", None, [])), NOW).mark)

        expired = []
        for _ in range(2):
            expired.append(table.process(Records(), NOW + RETENTION_MS).counts["expired"])
            table.drop_pending()

        assert [1, 1] == expired

    def test_delete_keeps_ids_and_sequences(self) -> None:
        """What comes later and is older stays out: only `reset-sequence` lets a source start anew."""
        table = make_table()
        events = [binary(b"d", device(), "1", sequence=50), (b"d", None, []), binary(b"d", device(), "2", sequence=1)]
        events.append(binary(b"d", device(), "1", sequence=60))

        step = table.process(chunk(*events), NOW)

        assert (2, 1, 1) == tuple(step.counts[name] for name in ("patches", "dropped.sequence", "dropped.id"))


class TestOrder:
    """Identity and order: what is dropped, and by which reason."""

    def test_known_ids_and_sequences_of_their_source_are_dropped(self) -> None:
        """Between sources arrival order decides."""
        events = [
            binary(b"d", device(battery=1.0), "1", "/a", 5),
            binary(b"d", device(battery=2.0), "1", "/a", 6),
            binary(b"d", device(battery=3.0), "2", "/a", 5),
            binary(b"d", device(battery=4.0), "1", "/b", 1),
        ]

        step = make_table().process(chunk(*events), NOW)

        assert {"events": 4, "patches": 2, "snapshots": 1, "deltas": 1, "rows": 1, "dropped.id": 1} | {
            "dropped.sequence": 1
        } == counted(step)

    def test_eight_ids_are_remembered(self) -> None:
        """The ninth pushes the first out."""
        table = make_table()
        for at in range(9):
            table.process(chunk(binary(b"d", device(battery=float(at)), str(at)), first=at), NOW)

        dropped = [
            table.process(chunk(binary(b"d", device(), known), first=20), NOW).counts["dropped.id"]
            for known in ("8", "1", "0")
        ]

        assert [1, 1, 0] == dropped

    def test_rewind_is_dropped_by_offset_whatever_its_identity(self) -> None:
        """Plain records have no id: topic, partition and offset are their identity."""
        table = make_table()
        events = chunk(*[(b"d", device(battery=float(at)), []) for at in range(3)])
        table.process(events, NOW)

        again = table.process(events, NOW)

        assert {"events": 3, "dropped.offset": 3} == counted(again)

    def test_replayed_dead_letter_is_judged_by_its_origin(self) -> None:
        """An older state never overwrites a newer one, and a second death keeps the first origin."""
        table = make_table()
        table.process(chunk((b"d", device(battery=1.0), []), first=100), NOW)

        def replayed(value: bytes, offset: int) -> Event:
            family = {"topic": "devices", "partition": "0", "offset": str(offset), "timestamp": "7"}
            return b"d", value, [(f"dlq-origin-{name}", text.encode()) for name, text in family.items()]

        step = table.process(
            chunk(
                replayed(device(battery=2.0), 99), replayed(device(battery=3.0), 101), replayed(b"\x08", 102), first=500
            ),
            NOW,
        )

        assert (1, 0, 1) == tuple(step.counts[name] for name in ("dropped.superseded", "dropped.offset", "patches"))
        (letter,) = dead(step)
        assert ("102", "7") == (letter["dlq-origin-offset"], letter["dlq-origin-timestamp"])

    def test_sequence_field_is_the_entitys(self) -> None:
        """With `field:` the sequence holds across sources, and 0 is a sequence where the field has no presence."""
        table = make_table(sequence="field:errors")
        events = [
            binary(b"d", device(errors=errors, battery=float(at)), str(at), source, "not a number")
            for at, (errors, source) in enumerate([(0, "/a"), (0, "/b"), (2, "/a"), (1, "/b"), (3, "/b")])
        ]

        step = table.process(chunk(*events), NOW)

        assert [0, 2, 3] == [patch.sequence for patch in patches(step)]

    def test_key_that_only_drops_is_named_once_by_a_keyed_hash(self) -> None:
        """A hundred in a row. The name tells keys apart within a process; no list of keys can be searched for it."""
        table = make_table()
        stuck: list[tuple[int, int]] = []
        table.process(chunk(binary(b"d", device(), "0", sequence=50)), NOW)
        for at in range(1, 250):
            stuck += table.process(chunk(binary(b"d", device(), str(at), sequence=1), first=at), NOW).stuck

        assert [100] == [offset for _, offset in stuck]
        name = stuck[0][0]
        assert name == stuck_name(b"d")
        assert name not in (xxh3_64(b"d"), stuck_name(b"other"))
        elsewhere = "from tests.sync.test_core import stuck_name; print(stuck_name(b'd'))"
        printed = subprocess.run([sys.executable, "-c", elsewhere], capture_output=True, check=True, text=True).stdout
        assert str(name) != printed.strip()

    def test_none_takes_no_sequence(self) -> None:
        """A sequence that is no number does not matter then."""
        step = make_table(sequence="none").process(chunk(binary(b"d", device(), "1", sequence="x")), NOW)

        assert [0] == [patch.sequence for patch in patches(step)]


class TestKeys:
    """Where the entity key comes from, and where it must lie."""

    @pytest.mark.parametrize(
        ("rule", "expected"), [("record", b"r"), ("subject", b"s"), ("field:device_id", b"d"), ("field:rssi", b"-7")]
    )
    def test_key_rule(self, rule: str, expected: bytes) -> None:
        """Integers are decimal text."""
        event = CloudEvent(id="i", source="/s", spec_version="1.0", binary_data=device(rssi=-7))
        event.attributes["subject"].ce_string = "s"

        step = make_table(key=rule).process(chunk((b"r", event.SerializeToString(), [STRUCTURED])), NOW)

        assert [expected] == [patch.key for patch in patches(step)]

    @pytest.mark.parametrize(
        ("rule", "event"),
        [
            ("record", (None, device(), [])),
            ("record", (b"", device(), [])),
            ("record", (SCHEMA_KEY, device(), [])),
            ("subject", (b"d", device(), [])),
            ("field:serial", (b"d", device(), [])),
            ("field:device_id", (b"d", None, [])),
        ],
    )
    def test_no_key_is_a_dead_letter(self, rule: str, event: Event) -> None:
        """Empty counts as none, and the schema record's key is nobody's."""
        step = make_table(key=rule).process(chunk(event), NOW)

        assert ["missing-key"] == [letter["dlq-reason"] for letter in dead(step)]

    def test_wrong_partition_stops_everything(self) -> None:
        """The text names the place, what was expected and the cure; nothing of the chunk counts."""
        keys = [f"device-{at}".encode() for at in range(20)]
        right = next(key for key in keys if murmur2_partition(key, 4) == 0)
        wrong = next(key for key in keys if murmur2_partition(key, 4) == 3)
        table = make_table(partitions=4, key="field:serial")

        events: list[Event] = [(b"ignored", device(serial=key.decode()), []) for key in (right, wrong)]
        step = table.process(chunk(*events), NOW)

        assert step.fatal is not None
        for part in ("devices", "partition 0", "offset 1", "partition 3 of 4", 'partitioning = "repartition"'):
            assert part in step.fatal
        assert "device-" not in step.fatal
        assert (0, {}, 0) == (len(step.patches), counted(step), len(table.changelog(0, 1 << 60)))


class TestDeadLetters:
    """Bad input goes aside, the rest of its chunk is untouched."""

    @pytest.mark.parametrize(
        ("reason", "event"),
        [
            ("undecodable", (b"d", b"\x08", [])),
            ("undecodable", (b"d", DeviceState(device_id="x").SerializeToString().replace(b"x", b"\xff"), [])),
            ("wrong-schema", (b"d", b"\0\0\0\0\x05\x02\x04" + device(), [])),
            ("bad-sequence", binary(b"d", device(), "1", sequence="-1")),
            ("record-too-large", (b"d", bytes(100_001), [])),
            ("bad-compression", (b"d", device(), [("content-encoding", b"zstd")])),
            ("bad-envelope", (b"d", b"\xff", [STRUCTURED])),
        ],
    )
    def test_reason_and_headers(self, reason: str, event: Event) -> None:
        """The letter has the record's own key, value and headers, and the family; its text holds no payload."""
        key, value, headers = event
        own: Headers = [*headers, ("mine", b"1"), ("dlq-reason", b"older"), ("none", None)]

        step = make_table().process(chunk((b"a", device(), []), (key, value, own), (b"z", device(), []), first=5), NOW)

        letters = step.dead_letters
        assert (key, value, 1_006) == (letters.key(0), letters.value(0), letters.timestamp_ms(0))
        (found,) = dead(step)
        error = found.pop("dlq-error")
        assert {
            name: None if text is None else text.decode() for name, text in [*headers, ("mine", b"1"), ("none", None)]
        } | {
            "dlq-origin-topic": "devices",
            "dlq-origin-partition": "0",
            "dlq-origin-offset": "6",
            "dlq-origin-timestamp": "1006",
            "dlq-reason": reason,
            "dlq-format": "1",
        } == found
        assert error
        assert "somebody" not in error
        assert (1, 2) == (step.counts[f"dead.{reason}"], step.counts["patches"])

    def test_sealed_types_leave_no_value(self) -> None:
        """Only its length and hash."""
        step = make_table(sealed=True).process(chunk((b"d", b"\x08", [])), NOW)

        (letter,) = dead(step)
        assert (None, "1", f"{xxh3_64(bytes([8])):016x}") == (
            step.dead_letters.value(0), letter["dlq-length"], letter["dlq-xxh3"]
        )  # fmt: skip

    def test_any_bytes_are_survived(self, seed: int) -> None:
        """Mangled events of every framing give patches or dead letters, nothing else."""
        chance = random.Random(seed)
        event = CloudEvent(id="i", source="/s", spec_version="1.0", binary_data=device(labels={"a": "b"}))
        event.attributes["sequence"].ce_string = "1"
        framed = b"\0\0\0\0\x05\x02\x02" + device(labels={"a": "b"})
        table, offset = make_table(), 0
        for _ in range(300):
            events: list[Event] = []
            for value, headers in ((event.SerializeToString(), [STRUCTURED]), (framed, []), (device(battery=1.0), [])):
                mangled = bytearray(value)
                for _ in range(chance.randrange(4)):
                    mangled[chance.randrange(len(mangled))] = chance.randrange(256)
                events.append((b"d", bytes(mangled[: chance.randrange(len(mangled)) + 1]), headers))
            step = table.process(chunk(*events, first=offset), NOW)
            offset += len(events)
            for patch in patches(step):
                assert patch.kind != Patch.SNAPSHOT or DeviceState.FromString(patch.data) is not None


class TestSnapshots:
    """Snapshots on demand repeat what is, for who asked."""

    def test_row_tombstone_and_unknown_key(self) -> None:
        """State does not change; a key that is created after an answer is above it."""
        table = make_table()
        table.assigned(log=LOG, output=OUTPUT, generation=None)
        state = device(battery=1.0)
        step = table.process(chunk((b"live", state, []), (b"dead", state, []), (b"dead", None, [])), NOW)
        asked = Resync(requester="billing", topic_id=OUTPUT, partition=0, offset=7).SerializeToString()

        keys = (b"live", b"live", b"dead", b"unknown", None, b"", SCHEMA_KEY)
        requests = chunk(*[(key, asked, []) for key in keys])
        answers = table.snapshots(requests, NOW + 5)

        assert [(Patch.SNAPSHOT, 0, 1), (Patch.DELETE, 0, 2), (Patch.DELETE, 0, 1)] == kinds(answers)
        assert [NOW, NOW, NOW + 5] == [patch.epoch for patch in patches(answers)]
        assert (state, xxh3_64(state)) == (patches(answers)[0].data, patches(answers)[0].digest)
        assert [("resync-for", b"billing")] == answers.patches.headers(0)
        changed = table.changelog(step.mark, answers.mark)
        assert [PARTITION_KEY] == [changed.key(at) for at in range(len(changed))], "the last epoch, for a restart"
        assert 3 == answers.counts["requests.without-key"]
        (created,) = patches(table.process(chunk((b"unknown", state, []), first=9), NOW + 5))
        assert created.epoch > NOW + 5

    def test_request_reads_what_is_not_committed_yet(self) -> None:
        """The answer follows the patches made before it, in the same order."""
        table = make_table()
        table.process(chunk((b"d", device(), []), (b"d", device(battery=1.0), [])), NOW)

        answers = table.snapshots(chunk((b"d", None, [])), NOW)

        assert [(Patch.SNAPSHOT, 0, 2)] == kinds(answers)

    def test_reset_sequence(self) -> None:
        """A request with that header lets a source start anew, and says so in the changelog."""
        table = make_table()
        step = table.process(chunk(binary(b"d", device(), "1", sequence=50)), NOW)

        reset = table.snapshots(chunk((b"d", None, [("reset-sequence", b"")])), NOW)
        again = table.process(chunk(binary(b"d", device(battery=1.0), "2", sequence=1), first=1), NOW)

        assert (1, 1) == (len(table.changelog(step.mark, reset.mark)), again.counts["patches"])


class TestState:
    """Rows, overlays, restore and tables over a store."""

    def test_changelog_restores_the_same_table(self) -> None:
        """Rows, sequences and ids included; the field table lies beside them."""
        table, restored = make_table(), make_table()
        events = [binary(str(at % 3).encode(), device(battery=float(at)), str(at), sequence=at) for at in range(9)]
        step = table.process(chunk(*events), NOW)
        restored.restore(table.changelog(0, step.mark))
        table.commit(step.mark)

        assert rows(table) == rows(restored)
        assert b"S" + SCHEMA.field_table_bytes == restored.get(SCHEMA_KEY)
        assert (3, 3) == (len(table), len(restored))
        again = restored.process(chunk(*events), NOW)
        assert {"events": 9, "dropped.offset": 9} == counted(again)

    def test_restore_keeps_the_highest(self) -> None:
        """Older rows that come late are passed over; null removes."""
        table = make_table()
        logged = []
        for at in range(3):
            step = table.process(chunk((b"d", device(battery=float(at)), []), first=at), NOW)
            logged.append(table.changelog(step.mark - 1, step.mark))
        other = make_table()
        for at in (2, 0, 1):
            other.restore(logged[at])
        assert 3 == decode_row(other.get(b"d") or b"")["revision"]

        gone = Records()
        gone.append(b"d", None)
        other.restore(gone)
        assert (None, 0) == (other.get(b"d"), len(other))

    def test_newer_rows_are_refused_by_name(self) -> None:
        """A row format of a later release names itself; damage says so."""
        newer = Records()
        newer.append(b"d", b"\x03" + bytes(60))

        with pytest.raises(ValueError, match="row format 3"):
            make_table().restore(newer)
        with pytest.raises(ValueError, match="damaged row of 3 bytes"):
            decode_row(b"\x01\x00\x00")

    def test_abort_drops_everything_uncommitted(self) -> None:
        """After it the same chunk gives the same patches."""
        table = make_table()
        table.commit(table.process(chunk((b"d", device(), [])), NOW).mark)
        later = chunk((b"d", device(battery=1.0), []), (b"e", device(), []), first=1)

        first = patches(table.process(later, NOW))
        table.process(chunk((b"d", device(battery=2.0), []), first=3), NOW)
        table.drop_pending()
        again = patches(table.process(later, NOW))

        assert first == again
        assert 1 == len(table)

    def test_other_descriptor_makes_the_next_patch_a_snapshot(self) -> None:
        """Also where the first event after the change says nothing new."""
        table = make_table()
        step = table.process(chunk((b"d", device(), [])), NOW)
        newer = make_table(fingerprint=SCHEMA.fingerprint + 1)
        newer.restore(table.changelog(0, step.mark))

        step = newer.process(
            chunk((b"d", device(), []), (b"d", device(battery=1.0), []), (b"d", device(battery=2.0), []), first=1), NOW
        )

        assert [(Patch.SNAPSHOT, 0, 2), (Patch.DELTA, 2, 3)] == kinds(step)
        assert 1 == step.counts["unchanged"]

    def test_table_over_a_store_must_be_given_its_rows(self) -> None:
        """A key that was not loaded is an error and leaves nothing behind."""
        table = Table(make_job(), 0, resident=False)
        events = chunk((b"a", device(), []), (b"b", device(), []), (b"a", device(), []), (None, device(), []))

        assert [b"a", b"b"] == table.missing(events)
        table.load([b"a"], [None])
        with pytest.raises(RuntimeError, match="offset 1: the row of its key was not loaded"):
            table.process(events, NOW)
        table.load([b"b"], [None])
        step = table.process(events, NOW)
        written = table.commit(step.mark)

        assert {b"a", b"b", SCHEMA_KEY, PARTITION_KEY} == {written.key(at) for at in range(len(written))}

    def test_table_over_a_store_asks_for_tombstones_that_are_due(self) -> None:
        """The store has their list; they are loaded with the keys of a chunk, removed, and returned as null."""
        table = Table(make_job(), 0, resident=False)
        table.load([b"d"], [None])
        written = table.commit(table.process(chunk((b"d", device(), []), (b"d", None, [])), NOW).mark)
        table.commit(0)
        store = {written.key(at): written.value(at) for at in range(len(written))}
        moved = table.take_moved()
        assert [(b"d", NOW, b"")] == [
            (moved.key(at), moved.timestamp_ms(at), moved.value(at)) for at in range(len(moved))
        ]
        assert ([], 1) == (table.missing(Records()), table.tombstones)

        assert 0 == table.process(Records(), NOW + RETENTION_MS).counts["expired"]
        table.load([b"d"], [store[b"d"]])
        step = table.process(Records(), NOW + RETENTION_MS)
        gone = table.commit(step.mark)
        moved = table.take_moved()

        assert (1, b"d", None) == (step.counts["expired"], gone.key(0), gone.value(0))
        assert (1, b"d", NOW, None, 0) == (
            len(moved), moved.key(0), moved.timestamp_ms(0), moved.value(0), table.tombstones,
        )  # fmt: skip

    def test_callback_that_raises_fails_the_call_and_leaves_nothing_behind(self) -> None:
        """Its own exception comes out."""

        def broken(_: bytes) -> bytes | None:
            raise LookupError("broken")

        table = make_table(canonicalise=broken)
        doubled = DeviceState(status="no").SerializeToString() + device(status="yes")

        with pytest.raises(LookupError, match="broken"):
            table.process(chunk((b"d", device(), []), (b"e", doubled, [])), NOW)

        assert (0, 1) == (len(table.changelog(0, 1 << 60)), table.process(chunk((b"d", device(), [])), NOW).mark)

    def test_threads_share_a_table_without_deadlock(self) -> None:
        """One thread calls back into Python while others wait for the same table."""
        table = make_table()
        doubled = DeviceState(status="no").SerializeToString() + device(status="yes")

        def work(number: int) -> None:
            for at in range(50):
                table.process(chunk((str(number).encode(), doubled, []), first=at), NOW)
                len(table)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [False] * 4 == [thread.is_alive() for thread in threads]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "json"}, 'format: came "json"'),
        ({"key": "name"}, 'key: came "name"'),
        ({"key": "field:nope"}, 'has no field "nope"'),
        ({"key": "field:geo"}, "no single string"),
        ({"sequence": "field:tags"}, 'sequence: field "tags"'),
    ],
)
def test_settings_are_refused_by_name(change: dict[str, str], match: str) -> None:
    """The message names the setting, what came and what was wanted."""
    make: Callable[..., Job] = make_job

    with pytest.raises(ValueError, match=match):
        make(**change)
