"""The rolling window, against a plain list of everything that was added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.circuit.window import Counts, Window

WINDOW_MS, BUCKET_MS = 3_000, 500

numbers = st.integers(0, 50)
counts = st.builds(Counts, numbers, numbers, numbers, numbers, numbers)
steps = st.lists(st.tuples(st.integers(0, 2_000), counts), max_size=40)


def summed(history: list[tuple[int, Counts]], now_ms: int) -> Counts:
    """What lies in the buckets of the window that ends now."""
    total, oldest = Counts(), now_ms // BUCKET_MS - WINDOW_MS // BUCKET_MS
    for when_ms, added in history:
        if when_ms // BUCKET_MS > oldest:
            total += added
    return total


@given(steps)
def test_totals_are_those_of_the_last_buckets(history_steps: list[tuple[int, Counts]]) -> None:
    """Whatever was added when: the running total is the sum over the buckets that the window still has."""
    window, now_ms = Window(WINDOW_MS, BUCKET_MS), 0
    history: list[tuple[int, Counts]] = []
    for pause_ms, added in history_steps:
        now_ms += pause_ms
        history.append((now_ms, added))
        window.add(now_ms, added)
        assert summed(history, now_ms) == window.totals(now_ms)
    for later_ms in range(now_ms, now_ms + 2 * WINDOW_MS, 250):
        assert summed(history, later_ms) == window.totals(later_ms)

    assert Counts() == window.totals(now_ms + WINDOW_MS + BUCKET_MS)


@given(steps, st.integers(0, 5_000))
def test_rows_bring_a_window_back(history_steps: list[tuple[int, Counts]], begin_ms: int) -> None:
    """On another clock, the compact form holds what the window holds, and it goes on the same way."""
    window, now_ms = Window(WINDOW_MS, BUCKET_MS), 0
    for pause_ms, added in history_steps:
        now_ms += pause_ms
        window.add(now_ms, added)
    rows = window.rows(now_ms)
    again, other_ms = Window(WINDOW_MS, BUCKET_MS), begin_ms * BUCKET_MS + now_ms % BUCKET_MS
    again.add(other_ms, Counts(1, 1, 1, 1, 1))
    again.restore(other_ms, rows)
    for later_ms in range(0, 2 * WINDOW_MS, 250):
        assert window.totals(now_ms + later_ms) == again.totals(other_ms + later_ms)

    assert len(rows) <= WINDOW_MS // BUCKET_MS


def test_rows_that_aged_meanwhile_are_left_out() -> None:
    """A restart takes time: what is too old by then is not restored, and other widths of buckets are fine."""
    window = Window(WINDOW_MS, 1_000)
    window.restore(10_000, [[0, 1, 0, 0, 0, 0], [900, 2, 0, 0, 0, 0], [2_900, 4, 0, 0, 0, 0], [3_000, 8, 0, 0, 0, 0]])

    assert Counts(ok=7) == window.totals(10_000)


def test_time_never_runs_backwards() -> None:
    """A time before the newest counts as the newest."""
    window = Window(WINDOW_MS, BUCKET_MS)
    window.add(5_000, Counts(ok=1))
    window.add(1_000, Counts(failed=1))

    assert Counts(ok=1, failed=1) == window.totals(0)
    window.clear()
    assert Counts() == window.totals(5_000)


def test_rates_are_of_calls() -> None:
    """Throttled calls are no calls; without calls there is no rate."""
    seen = Counts(ok=1, failed=2, slow=1, throttled=96)

    assert (4, 0.5, 0.25) == (seen.calls, seen.failure_rate, seen.slow_rate)
    assert (0, 0.0, 0.0) == (Counts(throttled=9).calls, Counts().failure_rate, Counts().slow_rate)


@pytest.mark.parametrize(("window_ms", "bucket_ms"), [(0, 0), (100, 0), (100, 200), (100, -1)])
def test_a_window_has_at_least_one_bucket(window_ms: int, bucket_ms: int) -> None:
    """Anything else is refused with both numbers."""
    with pytest.raises(ValueError, match=f"buckets of {bucket_ms} ms in {window_ms} ms"):
        Window(window_ms, bucket_ms)
