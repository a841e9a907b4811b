"""Dead letters: whole, with one header family, bounded in size."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Job, Records, Schema, Table
from streams.dead_letters.letter import ERROR_BYTES_MAX, Letter, bury, fitted, read, replayed, write
from streams.errors import InputError

LARGE = 1 << 20
LOG = b"l" * 16
names = st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("dlq-"))
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=8)), max_size=4)
optional = st.none() | st.binary(max_size=30)


def record(
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    own: list[tuple[str, bytes | None]] | None = None,
    timestamp_ms: int = 5,
    offset: int = 17,
) -> Records:
    records = Records()
    records.append(key, value, own or [], timestamp_ms, offset)
    return records


def written(letter: Letter, record_bytes_max: int = LARGE) -> Records:
    out = Records()
    write(out, letter, record_bytes_max)
    return out


def family(records: Records) -> list[tuple[str, bytes | None]]:
    return [(name, value) for name, value in records.headers(0) if name.startswith("dlq-")]


@given(key=optional, value=optional, own=headers, timestamp_ms=st.integers(-1, 1 << 50), offset=st.integers(0, 1 << 60))
def test_a_letter_keeps_the_record(
    key: bytes | None, value: bytes | None, own: list[tuple[str, bytes | None]], timestamp_ms: int, offset: int
) -> None:
    """Key, value and headers are the record's own; the letter read back is the letter written."""
    dead = record(key, value, own, timestamp_ms, offset)
    letter = bury(dead, 0, "devices", 3, InputError("undecodable", "field 4: truncated"))
    out = written(letter)
    assert (out.key(0), out.value(0)) == (key, value)
    assert out.headers(0)[: len(own)] == own
    assert read(out, 0) == letter
    assert letter == Letter(
        "devices", 3, offset, timestamp_ms, "undecodable", "field 4: truncated", key, value, tuple(own)
    )


def test_a_stub_that_somebody_sent_back_stays_one() -> None:
    """Its record has no value; a replay of its letter would be a DELETE otherwise."""
    stub = read(written(bury(record(value=b"x" * 900), 0, "devices", 3, InputError("too-large", "x")), 800), 0)
    back = record(value=None, own=[("dlq-length", b"900"), ("dlq-sha256", (stub.sha256 or "").encode())])

    letter = bury(back, 0, "devices", 3, InputError("agent-failed", "x"))

    assert (900, stub.sha256) == (letter.length, letter.sha256)
    assert read(written(letter), 0) == letter
    with pytest.raises(InputError, match="stub"):
        replayed(Records(), letter)


def test_a_letter_knows_the_log_of_its_origin() -> None:
    """Also through a replay and a second death; in a log that was replaced the first origin lies anywhere."""
    first, second = bytes(range(16)), bytes(range(1, 17))
    error = InputError("undecodable", "field 4")
    letter = bury(record(offset=17), 0, "devices", 3, error, topic_id=first)
    out = written(letter)
    assert ("dlq-origin-topic-id", first.hex().encode()) in family(out)
    assert letter == read(out, 0)

    back = Records()
    replayed(back, letter)
    again = Records()
    again.append(b"k", b"v", back.headers(0), 9, 4)
    assert (17, first.hex()) == (lambda one: (one.offset, one.topic_id))(
        bury(again, 0, "devices", 3, error, topic_id=second)
    )
    assert (4, first.hex()) == (lambda one: (one.offset, one.topic_id))(
        bury(again, 0, "devices", 3, error, topic_id=first)
    )
    assert "" == bury(record(own=[("dlq-origin-topic-id", b"x")]), 0, "devices", 3, error).topic_id


def test_the_family_is_fixed() -> None:
    """Names, order and text of the headers are a contract."""
    letter = bury(record(), 0, "devices", 3, InputError("missing-key", "no key"))
    assert family(written(letter)) == [
        ("dlq-origin-topic", b"devices"),
        ("dlq-origin-partition", b"3"),
        ("dlq-origin-offset", b"17"),
        ("dlq-origin-timestamp", b"5"),
        ("dlq-reason", b"missing-key"),
        ("dlq-error", b"no key"),
        ("dlq-format", b"1"),
    ]


def test_a_targets_letter_is_never_sent_again() -> None:
    """It names its target, last in the family; the target's cure is a snapshot."""
    letter = Letter("devices.patches", 3, 17, 5, "delivery-permanent", "400", b"k", b"patch", target="billing")
    assert family(written(letter))[-1] == ("dlq-target", b"billing")
    assert read(written(letter), 0) == letter
    with pytest.raises(InputError, match="delivery: a patch for target billing is never sent again"):
        replayed(Records(), letter)


def test_a_replayed_record_gets_the_present_time() -> None:
    """With that of its first day its topic's retention could be over before a worker has read it."""
    out = Records()
    replayed(out, bury(record(), 0, "devices", 3, InputError("undecodable")))
    assert out.timestamp_ms(0) == -1
    assert ("dlq-origin-timestamp", b"5") in out.headers(0)


def test_a_second_death_replaces_the_family() -> None:
    """Dead, replayed and dead again: one family, the first origin, the new reason, one replay counted."""
    first = bury(record(own=[("ce_id", b"1")]), 0, "devices", 3, InputError("undecodable", "first"))
    again = Records()
    replayed(again, first)
    assert [name for name, _ in again.headers(0)] == [
        "ce_id",
        "dlq-origin-topic",
        "dlq-origin-partition",
        "dlq-origin-offset",
        "dlq-origin-timestamp",
        "dlq-format",
        "dlq-replay-count",
    ]
    back = record(again.key(0), again.value(0), again.headers(0), 999, 1_000)
    second = bury(back, 0, "devices", 3, InputError("bad-sequence", "second"))
    assert (second.partition, second.offset, second.timestamp_ms) == (3, 17, 5)
    assert (second.reason, second.error, second.replay_count) == ("bad-sequence", "second", 1)
    assert second.headers == (("ce_id", b"1"),)
    assert len(family(written(second))) == 8


@pytest.mark.parametrize(("topic", "partition", "offset"), [("orders", 1, 17), ("devices", 3, 17), ("devices", 1, 40)])
def test_an_origin_elsewhere_is_none(topic: str, partition: int, offset: int) -> None:
    """A record that claims to come from another partition, or from where it lies, is buried where it lies."""
    first = bury(record(offset=offset), 0, topic, partition, InputError("undecodable"))
    moved = written(first)
    second = bury(record(b"k", b"v", moved.headers(0), 6, 40), 0, "devices", 1, InputError("undecodable"))
    assert (second.topic, second.partition, second.offset, second.timestamp_ms) == ("devices", 1, 40, 6)


@pytest.mark.parametrize("number", [b"x", b"", b"9" * 30, "٣".encode(), b"--1", b"1.5"])
def test_foreign_numbers_do_no_harm(number: bytes) -> None:
    """Headers that anybody may have written are read as absent unless they are plain numbers."""
    forged = [("dlq-origin-topic", b"devices"), ("dlq-origin-offset", number), ("dlq-replay-count", number)]
    letter = bury(record(own=list(forged)), 0, "devices", 3, InputError("undecodable"))
    assert (letter.offset, letter.replay_count) == (17, 0)


def test_errors_are_cut_between_characters() -> None:
    """An error text of any length becomes one of at most a kibibyte of valid UTF-8."""
    letter = bury(record(), 0, "devices", 3, InputError("undecodable", "€" * 1_000))
    assert letter.error == "€" * (ERROR_BYTES_MAX // 3)
    assert read(written(letter), 0).error == letter.error


def test_what_does_not_fit_becomes_a_stub() -> None:
    """Too large for its topic: length and SHA-256 instead of the value; it can be read, and not replayed."""
    value = b"x" * 5_000
    letter = bury(record(value=value, own=[("h", b"1")]), 0, "devices", 3, InputError("too-large"))
    out = Records()
    stub = write(out, letter, 5_000)
    assert out.nbytes < 5_000
    assert read(out, 0) == stub
    assert (stub.key, stub.value, stub.headers) == (b"k", None, (("h", b"1"),))
    assert (stub.length, stub.sha256) == (5_000, hashlib.sha256(value).hexdigest())
    with pytest.raises(InputError, match="stub: the value of 5000 bytes is not in the letter"):
        replayed(Records(), stub)


def test_a_stub_of_a_stub_keeps_the_first_length() -> None:
    """A sealed letter, or one written anew, that does not fit loses its headers, not what is known of its value."""
    stub = Letter("devices", 3, 17, 5, "undecodable", "", b"k", None, (("h", b"x" * 5_000),), length=70, sha256="aa")
    fitting = write(Records(), stub, 3_000)
    assert (fitting.length, fitting.sha256, fitting.headers) == (70, "aa", ())


@given(
    key=st.integers(0, 4_000),
    value=st.integers(0, 4_000),
    header=st.integers(0, 4_000),
    limit=st.integers(2_500, 9_000),
)
def test_a_letter_never_exceeds_its_limit(key: int, value: int, header: int, limit: int) -> None:
    """Whatever is large, the letter fits, and nothing is left out that would have fitted."""
    dead = record(b"k" * key, b"v" * value, [("h", b"x" * header)])
    letter = bury(dead, 0, "t" * 249, 3, InputError("too-large", "e" * 2_000))
    out = written(letter, limit)
    assert out.nbytes <= limit
    if key + value + header + 2_000 <= limit:
        assert read(out, 0) == letter


def test_what_is_no_letter_is_refused() -> None:
    """A record without the family, or of a newer format, is refused with what is missing."""
    with pytest.raises(InputError, match="bad-letter: no usable header dlq-format"):
        read(record(), 0)
    letter = written(bury(record(), 0, "devices", 3, InputError("undecodable")))
    newer = [(name, b"2" if name == "dlq-format" else value) for name, value in letter.headers(0)]
    with pytest.raises(InputError, match="newer-letter: dlq-format is 2"):
        read(record(own=newer), 0)


ORIGIN = [("dlq-origin-topic", b"devices"), ("dlq-origin-partition", b"3"), ("dlq-origin-timestamp", b"2")]


@pytest.mark.parametrize(
    "own",
    [
        [("h", b"1"), ("h", None)],
        [*ORIGIN, ("dlq-origin-offset", b"4"), ("dlq-replay-count", b"2"), ("dlq-reason", b"old"), ("h", b"1")],
        [*ORIGIN, ("dlq-origin-offset", b"17")],
        [*ORIGIN, ("dlq-origin-offset", b"4"), ("dlq-origin-topic-id", LOG.hex().encode())],
        [*ORIGIN, ("dlq-origin-offset", b"minus one")],
    ],
)
def test_the_native_core_writes_the_same_letters(own: list[tuple[str, bytes | None]]) -> None:
    """A record that the core refuses gives the letter that this module gives, at first and after a replay."""
    job = Job(
        Schema([("demo.Message", [(1, 0, 4, 0, -1, "number", None)])]),
        type="demo.Message",
        fingerprint=1,
        field_table=b"",
        source="devices",
        key="record",
        sequence="none",
        format="plain",
        partitions=0,
        record_bytes_max=LARGE,
        output_bytes_max=LARGE + 65_536,
        tombstone_retention_ms=1,
        schema_ids=[],
        message_index=[],
        sealed=False,
        canonicalise=lambda message: None,
    )
    dead = record(b"k", b"\xff\xff", own, 1_000, 17)
    table = Table(job, 3)
    table.assigned(log=LOG, output=b"", generation=None)
    native = table.process(dead, 2_000).dead_letters
    letter = read(native, 0)
    ours = written(bury(dead, 0, "devices", 3, InputError(letter.reason, letter.error), LOG))
    assert sorted(native.headers(0), key=repr) == sorted(ours.headers(0), key=repr)
    assert (native.key(0), native.value(0)) == (ours.key(0), ours.value(0))
    assert read(ours, 0) == letter


def test_letters_that_fit_stay_as_they_are_and_others_become_stubs() -> None:
    """One letter too large for its topic must not keep the whole chunk from being committed."""
    source = Records()
    source.append(b"small", b"x", [], 1, 7)
    source.append(b"large", b"y" * 5_000, [], 1, 8)
    letters = Records()
    for index in range(2):
        write(letters, bury(source, index, "devices", 0, InputError("undecodable", "no message")), 10_000)

    assert fitted(letters, 100_000) is letters

    out = fitted(letters, 2_000)
    assert [read(out, index).key for index in range(2)] == [b"small", b"large"]
    assert [read(out, index).value for index in range(2)] == [b"x", None]
    assert read(out, 1).length == 5_000
