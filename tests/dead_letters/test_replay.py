"""Which letters go back, and what was done about which: decisions, filters and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Records
from streams.dead_letters.letter import Letter, read
from streams.dead_letters.replay import (
    MARK_OFFSETS_MAX,
    REPLAYS_MAX,
    WAYS,
    Done,
    Entry,
    Filter,
    Marks,
    Rules,
    Span,
    decide,
    is_mark,
    mark,
    parcels,
)
from streams.errors import InputError

LETTER = Letter("devices", 1, 17, 1_000, "undecodable", "field 4", b"k", b"v")
RULES = Rules({"devices": {0: 5, 1: 18}}, 2)
REKEYED = Rules({"devices": {1: 18}, "fleet-devices-rekey": {1: 18}}, 2, before_rekey="devices")


def marks(*written: tuple[Done, Sequence[int]], partition: int = 0, at: int = 10_000) -> Marks:
    """What a reader of these marks knows."""
    records, held = Records(), Marks()
    for done, offsets in written:
        mark(records, done, offsets)
    records.assign(at, 1)
    for index in range(len(records)):
        assert is_mark(records, index)
        held.take(partition, records, index)
    return held


IDS = replace(RULES, logs={"devices": bytes(range(16))})


@pytest.mark.parametrize(
    ("changes", "rules", "act", "code"),
    [
        ({"offset": 18, "topic_id": bytes(range(16)).hex()}, IDS, "refuse", "elsewhere"),
        ({"offset": 18, "topic_id": bytes(range(1, 17)).hex()}, IDS, "resend", ""),
        ({"offset": 18, "topic_id": bytes(range(1, 17)).hex()}, RULES, "refuse", "elsewhere"),
        ({}, RULES, "resend", ""),
        ({"value": None}, RULES, "resend", ""),
        ({"length": 5, "value": None}, RULES, "refuse", "stub"),
        ({"topic": "others"}, RULES, "refuse", "elsewhere"),
        ({"topic": "devices.patches"}, RULES, "refuse", "elsewhere"),
        ({"partition": 2}, RULES, "refuse", "elsewhere"),
        ({"offset": 18}, RULES, "refuse", "elsewhere"),
        ({"replay_count": REPLAYS_MAX - 1}, RULES, "resend", ""),
        ({"replay_count": REPLAYS_MAX}, RULES, "refuse", "replayed-often"),
        ({"replay_count": REPLAYS_MAX}, replace(RULES, replays_max=REPLAYS_MAX + 1), "resend", ""),
        ({"topic": "devices.patches", "target": "billing"}, RULES, "ask", ""),
        ({"target": "billing", "length": 5, "value": None}, RULES, "ask", ""),
        ({"target": "billing", "replay_count": 99}, RULES, "ask", ""),
        ({"target": "billing", "key": None}, RULES, "refuse", "no-key"),
        ({"target": "billing", "partition": 2}, RULES, "refuse", "elsewhere"),
        ({"topic": "fleet-devices-rekey"}, REKEYED, "resend", ""),
        ({}, REKEYED, "refuse", "unordered"),
        ({}, replace(REKEYED, unordered=True), "resend", ""),
    ],
)
def test_each_letter_has_its_way(changes: dict[str, Any], rules: Rules, act: str, code: str) -> None:
    """Back to where it died, a snapshot for its target, or nothing, with the reason."""
    decision = decide(replace(LETTER, **changes), rules)

    assert (act, code) == (decision.act, decision.code)
    assert bool(decision.why) == (act == "refuse")


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Filter(), True),
        (Filter(reasons=frozenset({"undecodable", "too-deep"})), True),
        (Filter(reasons=frozenset({"too-deep"})), False),
        (Filter(targets=frozenset({"billing"})), False),
        (Filter(since_ms=1_000, until_ms=1_001), True),
        (Filter(since_ms=1_001), False),
        (Filter(until_ms=1_000), False),
        (Filter(key=b"entity"), True),
        (Filter(key=b"k"), False),
        (Filter(spans=(Span(3, 1, 6), Span(3, 7, 7))), True),
        (Filter(spans=(Span(2, 7, 7), Span(3, 8, 9))), False),
    ],
)
def test_filters(wanted: Filter, takes: bool) -> None:
    """All parts of a filter must be met; the key is the entity's, not the record's."""
    assert takes == wanted.takes(Entry(3, 7, LETTER), b"entity")


def test_a_letter_without_a_time_passes_no_filter_of_times() -> None:
    """It is not from 1970."""
    assert not Filter(until_ms=5_000).takes(Entry(0, 1, replace(LETTER, timestamp_ms=-1)), None)


offsets = st.lists(st.integers(0, 200), max_size=60, unique=True)


@given(st.lists(st.tuples(st.sampled_from(WAYS), offsets.filter(bool)), max_size=8))
def test_marks_say_what_was_done_about_every_letter_and_no_other(written: list[tuple[Done, list[int]]]) -> None:
    """Whatever the order of offsets and however the runs touch: as a plain dictionary says it."""
    held = marks(*written)
    told: dict[int, set[str]] = {}
    for done, some in written:
        for offset in some:
            told.setdefault(offset, set()).add(done)

    for offset in range(-1, 202):
        assert (held.done(0, offset) in told[offset]) if offset in told else held.done(0, offset) is None
    assert held.done(1, 5) is None


def test_a_mark_is_small_and_no_letter() -> None:
    """Runs are written as such; a reader of letters does not take it for one; its size is bounded."""
    records = Records()
    mark(records, "replayed", [3, 4, 9, 5, 12])

    assert (None, b"3-5,9,12") == (records.key(0), records.value(0))
    assert [("dlq-done", b"replayed"), ("dlq-format", b"1")] == records.headers(0)
    with pytest.raises(InputError, match="bad-letter"):
        read(records, 0)
    with pytest.raises(ValueError, match="at most 1000"):
        mark(records, "replayed", range(MARK_OFFSETS_MAX + 1))


@pytest.mark.parametrize(
    ("done", "value", "form", "reason"),
    [
        (b"replayed", b"", b"1", "bad-mark"),
        (b"replayed", b"1,", b"1", "bad-mark"),
        (b"replayed", b"5-3", b"1", "bad-mark"),
        (b"replayed", b"-3", b"1", "bad-mark"),
        (b"replayed", b"1-2-3", b"1", "bad-mark"),
        (b"replayed", b"9" * 30, b"1", "bad-mark"),
        (b"replayed", b"7", b"1", "bad-mark"),
        (b"forgotten", b"3", b"1", "bad-mark"),
        (b"replayed", b"3", b"", "bad-mark"),
        (b"replayed", b"3", b"2", "newer-letter"),
        (None, b"3", b"1", "bad-mark"),
    ],
)
def test_a_damaged_mark_says_nothing(done: bytes | None, value: bytes, form: bytes, reason: str) -> None:
    """Nor does one that speaks of what comes after it: the letters stay listed."""
    records, held = Records(), Marks()
    records.append(None, value, [("dlq-done", done), ("dlq-format", form)], offset=7)
    with pytest.raises(InputError) as caught:
        held.take(0, records, 0)

    assert reason == caught.value.reason
    assert all(held.done(0, offset) is None for offset in range(10))


entries = st.lists(
    st.builds(
        lambda partition, origin, target, size: Entry(
            partition, 0, replace(LETTER, partition=origin, target=target, value=b"v" * size)
        ),
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from(["", "billing"]),
        st.integers(0, 9),
    ),
    max_size=30,
)


@given(entries, st.integers(1, 5), st.integers(1, 20))
def test_parcels_are_bounded_and_keep_the_order(found: list[Entry], records_max: int, bytes_max: int) -> None:
    """Each goes to one place and comes from one partition; together they are all letters as they came."""
    made = list(parcels(((entry, number) for number, entry in enumerate(found)), records_max, bytes_max))

    assert list(range(len(found))) == [number for parcel in made for _, number in parcel]
    for parcel in made:
        places = {(entry.partition, entry.letter.partition, entry.letter.target) for entry, _ in parcel}
        size = sum(len(entry.letter.key or b"") + len(entry.letter.value or b"") for entry, _ in parcel)
        assert (1, True) == (len(places), len(parcel) <= records_max)
        assert len(parcel) == 1 or size <= bytes_max
