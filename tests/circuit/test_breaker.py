"""The transition table and its clockwork, one rule at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.circuit.breaker import TRANSITIONS, Breaker, Mode, State, Trigger, crossed
from streams.circuit.window import Counts
from streams.options.delivery import CircuitSettings

SETTINGS = CircuitSettings()
SICK = Counts(ok=10, failed=10)
WELL = Counts(ok=11, failed=9)
MIDDLE = 0.5
"""The chance that leaves open times as they are."""


def opened(now_ms: int = 0, seen: Counts = SICK, settings: CircuitSettings = SETTINGS) -> Breaker:
    """A circuit that has tripped."""
    breaker = Breaker(settings, now_ms)
    assert breaker.judge(now_ms, seen, MIDDLE)
    return breaker


def half_open(seen: Counts = SICK) -> tuple[Breaker, int]:
    """A circuit on trial, and the time."""
    breaker = opened(seen=seen)
    assert breaker.begin_trial(breaker.until_ms)
    return breaker, SETTINGS.open_ms


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (SICK, "failures"),
        (WELL, None),
        (Counts(ok=9, failed=10), None),
        (Counts(ok=4, slow=16), "slow"),
        (Counts(ok=5, slow=15), None),
        (Counts(failed=10, slow=10), "failures"),
        (Counts(throttled=1_000), None),
        (Counts(), None),
    ],
)
def test_it_trips_at_a_rate_of_enough_calls(seen: Counts, reason: str | None) -> None:
    """At the threshold, not below, and not with fewer calls than say something; throttled calls are none."""
    breaker = Breaker(SETTINGS, 0)

    assert (reason is not None) == breaker.judge(5, seen, MIDDLE)
    assert (State.OPEN if reason else State.CLOSED, reason or "") == (breaker.state, breaker.reason)


def test_exhausted_needs_no_minimum() -> None:
    """One call, or none at all: attempts ran out."""
    breaker = Breaker(SETTINGS, 0)

    assert breaker.exhaust(0, Counts(failed=1), MIDDLE)
    assert (State.OPEN, "exhausted", 1) == (breaker.state, breaker.reason, breaker.budget)


@pytest.mark.parametrize(("calls", "budget"), [(20, 1), (21, 2), (60, 3), (100, 5), (10_000, 5)])
def test_a_share_of_the_traffic_is_tried(calls: int, budget: int) -> None:
    """5 % of the calls that it tripped on, at least one, at most `probes`."""
    assert budget == opened(seen=Counts(failed=calls)).budget


def test_it_is_tried_when_the_open_time_is_over() -> None:
    """Not a moment before."""
    breaker = opened()

    assert not breaker.begin_trial(SETTINGS.open_ms - 1)
    assert breaker.begin_trial(SETTINGS.open_ms)
    assert (State.HALF_OPEN, "failures") == (breaker.state, breaker.reason)


@pytest.mark.parametrize(
    ("results", "state", "reason"),
    [
        ("ooo", State.CLOSED, "trial-ok"),
        ("fofoo", State.CLOSED, "trial-ok"),
        ("fff", State.OPEN, "trial-failed"),
        ("ofoff", State.OPEN, "trial-failed"),
        ("oofff", State.OPEN, "trial-failed"),
        ("ooff", State.HALF_OPEN, "failures"),
        ("", State.HALF_OPEN, "failures"),
    ],
)
def test_a_trial_decides_as_soon_as_it_can(results: str, state: State, reason: str) -> None:
    """Of five probes three decide; what is missing could not change it."""
    breaker, now_ms = half_open(Counts(failed=100))
    for index, result in enumerate(results):
        moved = breaker.trial(now_ms, result == "o", result == "f", MIDDLE)
        assert moved == (index == len(results) - 1 and state is not State.HALF_OPEN)

    assert (state, reason) == (breaker.state, breaker.reason)


@pytest.mark.parametrize(
    ("results", "state", "reason"),
    [("", State.OPEN, "trial-expired"), ("oo", State.CLOSED, "trial-ok"), ("of", State.OPEN, "trial-failed")],
)
def test_a_trial_that_got_stuck_ends(results: str, state: State, reason: str) -> None:
    """Time alone ends it: by the results that came, and where none did the circuit is open again."""
    breaker, now_ms = half_open(Counts(failed=100))
    for result in results:
        breaker.trial(now_ms, result == "o", result == "f", MIDDLE)
    assert not breaker.tick(now_ms + SETTINGS.half_open_ms_max - 1, MIDDLE)
    assert breaker.tick(now_ms + SETTINGS.half_open_ms_max, MIDDLE)

    assert (state, reason) == (breaker.state, breaker.reason)


def test_open_times_double_up_to_a_cap_with_each_failed_trial() -> None:
    """5, 10, 20 seconds and so on; a trial that taught nothing takes the first again and is not counted."""
    breaker, times = opened(), []
    for _ in range(9):
        now_ms = breaker.until_ms
        breaker.begin_trial(now_ms)
        breaker.trial(now_ms, 0, 5, MIDDLE)
        times.append(breaker.until_ms - now_ms)
    breaker.begin_trial(breaker.until_ms)
    now_ms = breaker.until_ms
    breaker.tick(now_ms, MIDDLE)

    assert [10_000, 20_000, 40_000, 80_000, 160_000, 250_000, 250_000, 250_000, 250_000] == times
    assert (10, 5_000) == (breaker.trips, breaker.until_ms - now_ms)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 40))
def test_jitter_stays_below_the_cap_and_is_there_at_the_cap(chance: float, trips: int) -> None:
    """Up to a fifth more or less, and never above the longest open time."""
    breaker = Breaker(SETTINGS, 0)
    breaker.trips = trips
    breaker.closed_ms = 0
    breaker.judge(1, SICK, chance)
    base_ms = min(SETTINGS.open_ms * 2**trips, SETTINGS.open_ms_max / 1.2)

    assert base_ms * 0.8 - 1 <= breaker.until_ms - 1 <= base_ms * 1.2
    assert breaker.until_ms - 1 <= SETTINGS.open_ms_max


def test_a_long_health_makes_the_next_open_time_the_first() -> None:
    """Shorter, and it goes on doubling."""
    breaker, now_ms = half_open()
    breaker.trial(now_ms, 5, 0, MIDDLE)
    breaker.judge(now_ms + SETTINGS.trips_reset_ms - 1, SICK, MIDDLE)
    assert 2 == breaker.trips
    now_ms = breaker.until_ms
    breaker.begin_trial(now_ms)
    breaker.trial(now_ms, 5, 0, MIDDLE)
    breaker.judge(now_ms + SETTINGS.trips_reset_ms, SICK, MIDDLE)

    assert 1 == breaker.trips


@pytest.mark.parametrize("start", list(State))
@pytest.mark.parametrize("mode", [Mode.FORCED_OPEN, Mode.FORCED_CLOSED])
def test_forced_modes_hold(start: State, mode: Mode) -> None:
    """From any state, whatever is counted, however long; said once."""
    breaker = {State.CLOSED: lambda: Breaker(SETTINGS, 0), State.OPEN: opened, State.HALF_OPEN: lambda: half_open()[0]}[
        start
    ]()
    assert breaker.set_mode(1, mode, "operator")
    assert not breaker.set_mode(2, mode, "operator")
    for now_ms in range(0, 1_000_000, 100_000):
        assert not breaker.judge(now_ms, SICK, MIDDLE)
        assert not breaker.exhaust(now_ms, SICK, MIDDLE)
        assert not breaker.begin_trial(now_ms)
        assert not breaker.trial(now_ms, 5, 5, MIDDLE)
        assert not breaker.tick(now_ms, MIDDLE)

    assert (State.OPEN if mode is Mode.FORCED_OPEN else State.CLOSED, "operator") == (breaker.state, breaker.reason)


def test_after_forced_open_it_is_tried_at_once() -> None:
    """Nobody knows how the target is."""
    breaker = Breaker(SETTINGS, 0)
    breaker.set_mode(1, Mode.FORCED_OPEN, "gone")
    assert "gone" == breaker.reason
    breaker.set_mode(50, Mode.AUTOMATIC, "operator")

    assert (State.OPEN, True) == (breaker.state, breaker.ready(50))


def test_metrics_only_decides_as_ever() -> None:
    """Whether anybody is refused is not the table's business."""
    breaker = Breaker(SETTINGS, 0)
    breaker.set_mode(1, Mode.METRICS_ONLY, "operator")

    assert breaker.judge(2, SICK, MIDDLE)
    assert breaker.begin_trial(breaker.until_ms)
    assert breaker.trial(breaker.until_ms, 1, 0, MIDDLE)


def test_epochs_count_transitions_and_nothing_else() -> None:
    """What began in an older epoch is told from what is of now."""
    breaker = Breaker(SETTINGS, 0)
    breaker.judge(0, WELL, MIDDLE)
    breaker.set_mode(0, Mode.METRICS_ONLY, "operator")
    assert 0 == breaker.epoch
    breaker.judge(0, SICK, MIDDLE)
    breaker.judge(0, SICK, MIDDLE)
    breaker.begin_trial(breaker.until_ms)

    assert 2 == breaker.epoch


def test_the_table_has_every_way_out() -> None:
    """Each state can be left and reached, a trial in three ways, and no trigger leads nowhere."""
    assert set(State) == {state for state, _ in TRANSITIONS} == set(TRANSITIONS.values())
    assert set(Trigger) == {trigger for _, trigger in TRANSITIONS}
    assert all(state is not to for (state, _), to in TRANSITIONS.items())


def test_crossed_looks_at_rates_alone() -> None:
    """However few the calls are."""
    settings = replace(SETTINGS, slow_rate=0.5)

    assert Trigger.FAILURES is crossed(settings, Counts(failed=1))
    assert Trigger.SLOW is crossed(settings, Counts(ok=1, slow=1))
    assert crossed(settings, Counts(ok=1)) is None
