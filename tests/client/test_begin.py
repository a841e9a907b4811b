"""streams.client.beginning and .places: where reading begins, and when a place does not count any more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Records
from streams.client.beginning import CUT, REPLACED, Beginning, Bounds, Stored, begin
from streams.client.broker import Run
from streams.client.held import HeldStates
from streams.client.places import Places
from streams.demo.v1.device_pb2 import DeviceState

A, B = b"a" * 16, b"b" * 16
CASES = {
    "everything is new": (Bounds(0, 9, A), None, Beginning(0, 0)),
    "a late joiner of a log that was cut": (Bounds(3, 9, A), None, Beginning(3, 3, partial=True)),
    "a group goes on, nothing is kept": (Bounds(0, 9, A, 5, A), None, Beginning(5, 5, partial=True)),
    "rows reach as far as the group": (Bounds(0, 9, A, 5, A), Stored(5, A), Beginning(5, 5)),
    "another member went on meanwhile": (Bounds(0, 9, A, 7, A), Stored(5, A), Beginning(5, 7)),
    "the last commit was lost": (Bounds(0, 9, A, 3, A), Stored(5, A), Beginning(3, 3)),
    "the group's offsets expired": (Bounds(0, 9, A), Stored(5, A), Beginning(5, 5)),
    "away for longer than the retention": (Bounds(6, 9, A, 5, A), None, Beginning(6, 6, CUT, 5, True)),
    "rows older than the retention": (Bounds(6, 9, A, 8, A), Stored(5, A), Beginning(6, 8, CUT, 5, True)),
    "made anew, the group's offsets gone": (Bounds(0, 9, B), Stored(5, A), Beginning(0, 0, REPLACED, 5, True)),
    "made anew, an offset came along": (Bounds(0, 9, B, 5, A), None, Beginning(0, 0, REPLACED, 5, True)),
    "shorter than it was": (Bounds(0, 3, b"", 5), None, Beginning(0, 0, REPLACED, 5, True)),
    "an older release kept no id": (Bounds(0, 9, B, 5), None, Beginning(5, 5, partial=True)),
}


@pytest.mark.parametrize(("bounds", "stored", "wanted"), CASES.values(), ids=CASES)
def test_where_reading_begins(bounds: Bounds, stored: Stored | None, wanted: Beginning) -> None:
    """Each way to come back, by what the broker and the store say."""
    assert wanted == begin(bounds, stored)


logs = st.sampled_from([b"", A, B])
offsets = st.integers(0, 12)


@given(st.tuples(offsets, offsets).map(sorted), logs, st.none() | offsets, logs, st.none() | st.tuples(offsets, logs))
def test_reading_begins_within_the_log_and_no_loss_is_silent(
    bounds: list[int], log: bytes, committed: int | None, committed_log: bytes, kept: tuple[int, bytes] | None
) -> None:
    """Whatever is kept where: reading begins where there are records, and whoever misses some is told or says so."""
    stored = Stored(*kept) if kept is not None else None
    began = begin(Bounds(*bounds, log, committed, committed_log), stored)
    known = [offset for offset in (committed, stored.offset if stored else None) if offset is not None]

    assert bounds[0] <= began.read_from <= bounds[1]
    assert began.read_from <= began.hand_from
    if not began.lost and known:
        assert began.read_from >= min(known)
        assert began.hand_from == (committed if committed is not None else known[0])
    if not began.partial:
        assert began.read_from == 0 or (stored is not None and began.read_from <= stored.offset)


def run(first: int, count: int) -> Run:
    """Records of partition 0, whatever they hold."""
    records = Records()
    for offset in range(first, first + count):
        records.append(b"k", b"", (), 0, offset)
    return Run(0, records, -1)


def begun(bounds: Bounds) -> Places:
    """A receiver of one partition that has begun."""
    places = Places("devices.patches", HeldStates(DeviceState, requester="r", asks=None))
    places.assign(frozenset({0}))
    places.begin(0, bounds, None)
    return places


def test_what_comes_before_the_bounds_waits() -> None:
    """A broker's client fetches as soon as it is assigned; where that was right, nothing is fetched twice."""
    places = Places("devices.patches", HeldStates(DeviceState, requester="r", asks=None))
    places.assign(frozenset({0}))
    early = run(0, 3)

    assert not places.takes(early)
    assert frozenset({0}) == places.unknown()
    assert ([early], False) == places.begin(0, Bounds(0, 9, A, position=0), None)
    assert {} == places.seek


def test_a_topic_made_anew_is_told_by_its_id() -> None:
    """Even when it has more records than the old one: what was read says nothing of it."""
    places = begun(Bounds(0, 9, A, position=0))
    assert places.takes(run(0, 5))
    places.check(B)

    assert frozenset({0}) == places.unknown()
    assert ([], True) == places.begin(0, Bounds(0, 9, B, position=0), None)
    assert {0: 0} == places.seek
    assert [(REPLACED, 5, 0)] == [(lost.reason, lost.expected, lost.start) for lost in places.lost]
    assert not places.takes(run(5, 2))
    places.sought({0: 0})
    assert places.takes(run(0, 2))
    assert frozenset({0}) == places._held.rows.partial


def test_offsets_that_turn_back_are_another_logs() -> None:
    """Where a broker gives no ids, an offset below one that was read shows it."""
    places = begun(Bounds(0, 9, position=0))
    assert places.takes(run(0, 5))
    assert not places.takes(run(0, 2))

    places.begin(0, Bounds(0, 2, position=0), None)
    assert [(REPLACED, 5, 0)] == [(lost.reason, lost.expected, lost.start) for lost in places.lost]


def test_offsets_that_turn_back_in_one_log_are_a_rebalances() -> None:
    """The client begins at the group's offset again, which lags: nothing is lost, reading goes on where it was."""
    places = begun(Bounds(0, 9, A, position=0))
    assert places.takes(run(0, 5))
    assert not places.takes(run(2, 3))

    assert ([], False) == places.begin(0, Bounds(0, 9, A, 2, A, position=2), None)
    assert (0, {0: 5}, frozenset()) == (len(places.lost), places.seek, places.unknown())
    places.sought({0: 5})
    assert places.takes(run(5, 2))
    assert frozenset() == places._held.rows.partial


def test_left_out_offsets_are_retention_or_nothing() -> None:
    """Markers and compaction leave offsets out all the time; only a log that begins behind them was cut."""
    places = begun(Bounds(0, 9, A, position=0))
    assert places.takes(run(2, 2))
    places.check(A)
    places.begin(0, Bounds(0, 9, A, position=0), None)
    assert not places.lost

    assert places.takes(run(20, 1))
    places.check(A)
    places.begin(0, Bounds(15, 30, A, position=0), None)
    assert [(CUT, 4, 15)] == [(lost.reason, lost.expected, lost.start) for lost in places.lost]
    assert {} == places.seek
    assert frozenset() == places.unknown()


def test_a_partition_that_went_is_begun_anew_when_it_comes_back() -> None:
    """Nothing of its old place is left."""
    places = begun(Bounds(0, 9, A, position=0))
    places.takes(run(0, 5))
    assert [0] == places.assign(frozenset())
    assert [] == places.assign(frozenset({0}))
    assert frozenset({0}) == places.unknown()
