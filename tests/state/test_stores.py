"""A store proves whose rows it has, or is made anew: by name, by changelog, and by where it says to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams._native import Records
from streams.clock import ManualClock
from streams.state.rocks import Store, StoreName
from streams.state.stores import BEHIND_MS_MAX, unfit
from streams.transport.identity import Bounds

A, B = b"a" * 16, b"b" * 16
OURS = StoreName("fleet", 3, A)
LOG = Bounds(0, 100)


@pytest.mark.parametrize(
    ("found", "offset", "told"),
    [
        (OURS, 100, None),
        (StoreName("fleet", 3, b""), 50, None),
        (None, None, None),
        (StoreName("other", 3, B), None, None),
        (None, 50, "older release"),
        (StoreName("other", 3, A), 50, "partition 3 of other"),
        (StoreName("fleet", 2, A), 50, "partition 2 of fleet"),
        (StoreName("fleet", 3, B), 50, "another changelog"),
        (OURS, 101, "at offset 101 and its changelog ends at 100"),
    ],
)
def test_a_store_that_cannot_prove_itself_is_named(
    found: StoreName | None, offset: int | None, told: str | None
) -> None:
    """An empty one has nothing to prove; an id that is not known is no other."""
    fault = unfit(found, OURS, offset, LOG)

    assert fault is None if told is None else fault is not None and told in fault


@pytest.mark.parametrize(
    ("offset", "age_ms", "fits"),
    [(50, BEHIND_MS_MAX, True), (50, BEHIND_MS_MAX + 1, False), (100, 10 * BEHIND_MS_MAX, True), (50, None, True)],
)
def test_a_store_that_was_away_for_long_may_have_missed_removals(offset: int, age_ms: int | None, fits: bool) -> None:
    """Not where nothing was written meanwhile, and not where an older release has noted no time."""
    assert fits == (unfit(OURS, OURS, offset, LOG, age_ms) is None)


@pytest.mark.parametrize(("offset", "fits"), [(100, True), (99, True), (98, False)])
def test_a_quiet_changelog_ends_behind_its_last_marker(offset: int, fits: bool) -> None:
    """Found: in Kafka's transactions each store whose source was quiet for half a day was made anew at a restart."""
    assert fits == (unfit(OURS, OURS, offset, LOG, BEHIND_MS_MAX + 1, marker_offsets=1) is None)


def test_a_store_is_as_old_as_its_offset(tmp_path: Path) -> None:
    """Rows that do not bring it further make it no younger: others' rows before them are what it lacks."""
    clock, rows = ManualClock(), Records()
    rows.append(b"d", b"row")
    store = Store(tmp_path / "0", clock=clock)
    assert store.age_ms is None
    store.write(rows, 7)
    clock.advance(1_000)
    store.write(rows, 7)
    assert 1_000 == store.age_ms
    store.write(rows, 8)
    assert 0 == store.age_ms
    clock.advance(1_000)
    store.up_to_date()
    assert 0 == store.age_ms
    store.close()


def test_a_name_is_kept(tmp_path: Path) -> None:
    """With the rows, and not among them; damaged it is none."""
    store = Store(tmp_path / "0")
    assert store.name is None
    store.take_name(OURS)
    rows = Records()
    rows.append(b"d", b"row")
    store.write(rows, 7)
    store.close()
    again = Store(tmp_path / "0")

    assert (OURS, [(b"d", b"row")]) == (again.name, list(again.items()))
    assert StoreName.decode(b"\xff;x") is None
    again.close()
