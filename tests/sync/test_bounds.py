"""What leaves the kernel is bounded, however little came in: keys, patches, rows, answers, and what one call makes."""

from __future__ import annotations

import os

import pytest
import zstandard

from streams._native import Records, Step, Table, decode_row
from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.laws.messages import schema_of
from tests.sync.test_core import NOW, Event, chunk, counted, dead, kinds, make_table, patches

SOURCE_BYTES_MAX = 100_000
OUTPUT_BYTES_MAX = 165_536
KEY_BYTES_MAX = 16_384
STEP_BYTES_MAX = 64 << 20
OVERHEAD_BYTES = 128
SOURCE = (("ce_specversion", b"1.0"), ("ce_id", b"1"))


def state(size: int = 0, **fields: object) -> bytes:
    """A canonical message of about so many bytes."""
    return DeviceState(device_id="d", owner_email="a" * size, **fields).SerializeToString(deterministic=True)  # type: ignore[arg-type]


def largest(step: Step) -> int:
    """Bytes of the largest patch with key and headers, as a topic counts them."""
    out = step.patches
    sizes = [
        OVERHEAD_BYTES
        + len(out.key(at) or b"")
        + len(out.value(at) or b"")
        + sum(10 + len(name) + len(value or b"") for name, value in out.headers(at))
        for at in range(len(out))
    ]
    return max(sizes, default=0)


@pytest.mark.parametrize("rule", ["record", "field:device_id", "subject"])
def test_a_key_has_at_most_a_quarter_of_the_room(rule: str) -> None:
    """It stands in three places. One byte more is a letter, and its neighbours go on."""
    events = []
    for size in (KEY_BYTES_MAX, KEY_BYTES_MAX + 1, 90_000, 5):
        key = "k" * size
        headers = [("ce_specversion", b"1.0"), ("ce_id", str(size).encode()), ("ce_subject", key.encode())]
        value = DeviceState(device_id=key, battery=1.0).SerializeToString(deterministic=True)
        events.append((key.encode(), value, headers))

    step = make_table(key=rule).process(chunk(*events), NOW)

    assert [KEY_BYTES_MAX, 5] == [len(patch.key) for patch in patches(step)]
    assert {"events": 4, "patches": 2, "snapshots": 2, "rows": 2, "dead.too-large": 2} == counted(step)
    assert ["too-large"] * 2 == [letter["dlq-reason"] for letter in dead(step)]
    assert "entity key of 16385 bytes, at most 16384 fit beside a message" == dead(step)[0]["dlq-error"]
    assert 4 == step.taken


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_specversion", b"1.0"), ("ce_id", b"i" * 160_000)],
        [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s" * 160_000)],
        [("content-encoding", b"zstd"), *SOURCE, ("ce_source", b"s" * 70_000)],
    ],
)
def test_a_patch_that_does_not_fit_its_topic_is_a_letter_and_changes_nothing(headers: list[tuple[str, bytes]]) -> None:
    """What is in it beside the message comes from headers of any size; a compressed message was small on its way."""
    table = make_table()
    before = table.process(chunk((b"d", state(battery=1.0), [])), NOW)
    table.commit(before.mark)
    row = table.get(b"d")
    value = state(99_000, battery=2.0)
    if headers[0][0] == "content-encoding":
        value = zstandard.compress(value)

    step = table.process(chunk((b"d", value, headers), (b"e", state(battery=3.0), []), first=1), NOW)
    table.commit(step.mark)

    assert (1, 1, row) == (step.counts["dead.too-large"], len(step.patches), table.get(b"d"))
    assert "patch of " in (dead(step)[0]["dlq-error"] or "")
    after = table.process(chunk((b"d", state(battery=4.0), []), first=3), NOW)
    assert [(Patch.SNAPSHOT, 0, 2)] == kinds(after)


@pytest.mark.parametrize("over", [0, 1])
def test_the_last_byte_that_fits(over: int) -> None:
    """What the kernel lets through is what a topic takes, to the byte."""
    head = make_table().process(chunk((b"d", state(90_000), [*SOURCE, ("ce_source", b"s" * 20_000)])), NOW)
    size = 20_000 + OUTPUT_BYTES_MAX - largest(head) + over

    step = make_table().process(chunk((b"d", state(90_000), [*SOURCE, ("ce_source", b"s" * size)])), NOW)

    assert (1 - over, over) == (len(step.patches), len(step.dead_letters))
    assert largest(step) == (0 if over else OUTPUT_BYTES_MAX)


def test_a_request_that_cannot_be_answered_is_refused_and_counted() -> None:
    """A key that is too long, or a requester's name: nothing is written that its topic does not take."""
    table = make_table()
    table.process(chunk((b"ok", state(battery=1.0), [])), NOW)
    asked = Resync(requester="billing").SerializeToString()
    named = Resync(requester="n" * 160_000).SerializeToString()

    answers = table.snapshots(
        chunk((b"k" * 160_000, asked, []), (b"ok", named, []), (b"ok", asked, []), (os.urandom(20_000), asked, [])), NOW
    )

    assert (3, 4, 1) == (answers.counts["requests.too-large"], answers.taken, len(answers.patches))
    assert [("resync-for", b"billing")] == answers.patches.headers(0)
    assert largest(answers) < OUTPUT_BYTES_MAX


def test_one_answer_serves_all_who_ask_for_a_key() -> None:
    """63 KB of requests by 8,000 requesters for one large state: one answer, for everybody."""
    table = make_table()
    table.process(chunk((b"k", state(90_000), []), (b"l", state(90_000), [])), NOW)
    requests = Records()
    for number in range(8_000):
        requests.append(b"k", Resync(requester=f"g{number}").SerializeToString(), [], 1, number)
    for number in range(2):
        requests.append(b"l", Resync(requester="alone").SerializeToString(), [], 1, 8_000 + number)

    answers = table.snapshots(requests, NOW)

    assert 8_002 == answers.taken
    assert [b"*", b"alone"] == [answers.patches.headers(at)[0][1] for at in range(len(answers.patches))]


def test_deleted_keys_that_were_never_there_are_remembered_up_to_a_limit() -> None:
    """Beyond it they are letters. Keys that had a state are deleted as ever; the oldest go after their retention."""
    table = make_table(tombstones_max=3, tombstone_retention_ms=1_000)

    def deleted(now_ms: int, *keys: bytes) -> dict[str, int]:
        step = table.process(chunk(*[(key, None, []) for key in keys], first=deleted.offset), now_ms)  # type: ignore[attr-defined]
        deleted.offset += len(keys)  # type: ignore[attr-defined]
        table.commit(step.mark)
        return {name: step.counts.get(name, 0) for name in ("deletes", "dead.too-many-tombstones", "expired")}

    deleted.offset = 10  # type: ignore[attr-defined]
    table.commit(table.process(chunk((b"live", state(), [])), NOW).mark)

    assert {"deletes": 0, "dead.too-many-tombstones": 1, "expired": 0} == deleted(NOW, b"a", b"b", b"c", b"d")
    assert {"deletes": 1, "dead.too-many-tombstones": 1, "expired": 0} == deleted(NOW + 5, b"a", b"live", b"d")
    assert 4 == table.tombstones
    assert {"deletes": 0, "dead.too-many-tombstones": 0, "expired": 2} == deleted(NOW + 1_000, b"d")
    assert 3 == table.tombstones


def test_a_delete_that_comes_again_and_again_costs_nothing() -> None:
    """One key, deleted a thousand times, known or not: one row, and memory for one."""
    table = make_table()
    sizes = []
    for at in range(1_000):
        events = [(b"s", state(), []), (b"s", None, []), (b"s", None, []), (b"never", None, [])]
        table.commit(table.process(chunk(*events, first=4 * at), NOW + at).mark)
        sizes.append(table.nbytes)

    assert (2, 2) == (table.tombstones, len(table))
    assert max(sizes[10:]) == sizes[10]


def taken(table: Table, records: Records, *, requests: bool = False) -> list[tuple[int, int]]:
    """Records and bytes of each call until all are done."""
    calls = []
    while len(records):
        step = table.snapshots(records, NOW) if requests else table.process(records, NOW)
        calls.append((step.taken, step.patches.nbytes + step.dead_letters.nbytes))
        records = records.slice(step.taken, len(records))
    return calls


def test_answers_to_many_requests_come_in_several_calls() -> None:
    """1,000 states of 90 KB: 90 MB do not come at once, and each key is answered once."""
    table = make_table()
    keys = [str(number).encode() for number in range(1_000)]
    for offset, key in enumerate(keys):
        table.commit(table.process(chunk((key, state(90_000), []), first=offset), NOW).mark)

    calls = taken(table, chunk(*[(key, None, []) for key in keys]), requests=True)

    assert (1_000, 2) == (sum(count for count, _ in calls), len(calls))
    assert all(size < STEP_BYTES_MAX + OUTPUT_BYTES_MAX for _, size in calls)


def test_compressed_events_come_in_several_calls() -> None:
    """600 records of 100 bytes that hold 90 KB each: states and patches of 108 MB do not come at once."""
    table = make_table()
    events = [
        (str(at).encode(), zstandard.compress(state(90_000, battery=float(at))), [("content-encoding", b"zstd")])
        for at in range(600)
    ]

    calls = taken(table, chunk(*events))

    assert (600, 2) == (sum(count for count, _ in calls), len(calls))
    assert all(size < STEP_BYTES_MAX + OUTPUT_BYTES_MAX for _, size in calls)
    assert decode_row(table.changelog(0, 1 << 60).value(0) or b"")["revision"] == 1


def packed(size: int, *, says: bool = True) -> bytes:
    """A zstd frame of so many bytes, with its size in front or without."""
    return zstandard.ZstdCompressor(write_content_size=says).compress(b"a" * size)


ZSTD = [("Content-Encoding", b"ZSTD")]


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([(b"k", b"v" * 400, [])] * 5, [2, 4]),
        ([(b"k", b"v" * 2_000, [])] * 3, [1, 2]),
        ([(b"k", packed(400), ZSTD)] * 5, [2, 4]),
        ([(b"k", packed(9_000), ZSTD)] * 3, [1, 2]),
        ([(b"k", packed(10, says=False), ZSTD)] * 3, [1, 2]),
        ([(b"k", b"no frame", ZSTD)] * 3, [1, 2]),
        ([(b"k", None, ZSTD)] * 2_000, []),
        ([], []),
    ],
)
def test_a_run_is_cut_by_what_its_values_come_to(events: list[Event], wanted: list[int]) -> None:
    """A thousand bytes a part here, 600 for a value that does not say, or claims more."""
    assert wanted == chunk(*events).cuts(1_000, 600)


def test_requests_are_cut_by_the_keys_they_ask_for() -> None:
    """However many ask for a key, it is answered once."""
    keys = [b"a"] * 100 + [b"b"] * 100 + [b"a", b"c", b"a", None, b"c"]

    assert [201, 203] == chunk(*[(key, b"", []) for key in keys]).cuts(1_200, 600, requests=True)


def test_what_is_taken_can_be_asked_for() -> None:
    """Packed numbers of a field that is not grow when they are made canonical. Found: a state that fitted as a patch
    and as a row was larger than its topic as a snapshot for somebody with a long name: stale there for ever.
    """
    schema = schema_of("zoo.two.Old")
    settings = {"type": schema.full_name, "fingerprint": schema.fingerprint, "field_table": schema.field_table_bytes}
    asked = Resync(requester="n" * 512).SerializeToString()
    outcomes = set()
    for count in range(81_000, 83_000, 50):
        table = make_table(schema.native, **settings, canonicalise=schema.through_upb)
        value = b"\x42" + varint(count) + b"\1" * count + b"\x78\1"
        taken = len(table.process(chunk((b"k", value, [])), NOW).patches)
        answered = len(table.snapshots(chunk((b"k", asked, [])), NOW).patches)
        assert taken == answered, count
        outcomes.add(taken)
    assert {0, 1} == outcomes


def varint(number: int) -> bytes:
    """A length as Protobuf writes it."""
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])
