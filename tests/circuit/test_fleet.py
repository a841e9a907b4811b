"""One target's circuit at its owner: who is counted, who votes, who may try, what a restart keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.circuit.breaker import Mode
from streams.circuit.fleet import ALONE_MS, Fleet
from streams.circuit.window import Counts, Window
from streams.errors import StateError
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

SETTINGS = CircuitSettings()
MIDDLE = 0.5


def report(reporter: str, fleet: Fleet | None = None, **said: Any) -> Outcomes:
    """A reporter's increments; with `fleet` under its last record."""
    pair = fleet.pair if fleet is not None else (0, 0)
    return Outcomes(target="t", reporter=reporter, generation=pair[0], transition=pair[1], **said)


def new(settings: CircuitSettings = SETTINGS) -> Fleet:
    """A circuit in the first generation."""
    fleet = Fleet(settings, "t", 0)
    fleet.take_over(1, (0, 0), 0, MIDDLE)
    return fleet


def tripped(failed: int = 100) -> Fleet:
    """One that has opened at 0 ms, on the counts of two workers."""
    fleet = new()
    fleet.fold(report("a", failed=failed // 2, over=True), 0, MIDDLE)
    assert fleet.fold(report("b", failed=failed - failed // 2, over=True), 0, MIDDLE)
    return fleet


def on_trial(*waiting: str, failed: int = 100, chance: float = 0.0) -> Fleet:
    """One whose trial has just begun, with leases for those whose traffic waits."""
    fleet, now_ms = tripped(failed), SETTINGS.open_ms
    for name in waiting:
        fleet.fold(report(name, fleet, waiting=True), now_ms - 1, chance)
    assert fleet.tick(now_ms, chance)
    return fleet


def leases(fleet: Fleet, now_ms: int = SETTINGS.open_ms) -> dict[str, int]:
    """Probes by reporter, as told."""
    return {lease.reporter: lease.probes for lease in fleet.record(now_ms).leases}


def state(fleet: Fleet, now_ms: int = 0) -> tuple[str, str]:
    """State and reason, as told."""
    told = fleet.record(now_ms)
    return Circuit.State.Name(told.state), told.reason


def test_a_record_has_everything_that_workers_need() -> None:
    """State, durations, rates of the window that it tripped on."""
    fleet = tripped()

    expected = Circuit(
        target="t", state=Circuit.OPEN, mode=Circuit.AUTOMATIC, generation=1, transition=1, open_ms=4_000, trips=1,
        reason="failures", failure_rate=1.0, calls=100,
    )  # fmt: skip
    assert expected == fleet.record(1_000)


@pytest.mark.parametrize(
    ("reports", "trips"),
    [
        ([("a", 20, 0, True)], True),  # only one reports
        ([("a", 20, 0, False)], True),  # a service that votes not, but is alone
        ([("a", 15, 0, True), ("b", 5, 0, True)], True),
        ([("a", 100, 0, True), ("b", 0, 50, False), ("c", 0, 40, False)], False),  # one has trouble of its own
        ([("a", 100, 0, True), ("b", 5, 5, True), ("c", 0, 40, False)], True),
        ([("a", 10, 0, True), ("b", 9, 0, True)], False),  # too few
        ([("c", 0, 30, False), ("a", 10, 0, True), ("b", 10, 0, True)], False),  # the sum is well
    ],
)
def test_who_trips_the_fleet(reports: list[tuple[str, int, int, bool]], trips: bool) -> None:
    """The summed rate, and two that are over it themselves, or one where only one reports. Who comes first does not
    matter: the only one is the only one for a while.
    """
    fleet = new()
    for index, (name, failed, ok, over) in enumerate(reports):
        fleet.fold(report(name, failed=failed, ok=ok, over=over), 300 * index, MIDDLE)
    fleet.tick(ALONE_MS, MIDDLE)

    assert trips == (state(fleet)[0] == "OPEN")


def test_a_vote_and_a_reporter_age_with_the_window() -> None:
    """A worker that died with its vote does not count for ever; nor does one that fell silent make a quorum of two."""
    fleet = new()
    fleet.fold(report("dead", failed=30, over=True), 0, MIDDLE)
    fleet.fold(report("well", ok=40), 0, MIDDLE)
    assert not fleet.tick(SETTINGS.window_ms + 1_000, MIDDLE)
    now_ms = 40_000
    fleet.fold(report("sick", failed=20), now_ms, MIDDLE)
    fleet.tick(now_ms + ALONE_MS, MIDDLE)

    assert ("OPEN", "failures") == state(fleet, now_ms)


@pytest.mark.parametrize(
    ("others", "trips"),
    [
        ([], True),
        ([("b", {"ok": 1})], False),  # one succeeded meanwhile
        ([("b", {"throttled": 3, "exhausted": True})], True),
        ([("b", {"failed": 3, "over": True})], True),
        ([("b", {"failed": 1})], False),
        ([("b", {"ok": 50}), ("c", {"exhausted": True})], False),  # two have trouble, the fleet succeeds
        ([("b", {"waiting": True})], True),  # nothing is counted there
    ],
)
def test_exhausted_needs_no_minimum_and_no_successes_of_others(
    others: list[tuple[str, dict[str, Any]]], trips: bool
) -> None:
    """With the same votes as ever: one worker whose attempts ran out has perhaps trouble of its own."""
    fleet = new()
    fleet.fold(report("a", throttled=1), 0, MIDDLE)
    for name, said in others:
        fleet.fold(report(name, **said), 0, MIDDLE)
    fleet.fold(report("a", exhausted=True), 0, MIDDLE)
    fleet.tick(ALONE_MS, MIDDLE)

    assert (("OPEN", "exhausted") if trips else ("CLOSED", "")) == state(fleet)


def test_what_succeeded_before_does_not_speak_for_a_target_that_nobody_reaches() -> None:
    """Found by the benchmark: half a minute passed until the window had forgotten the successes before a failure."""
    fleet = new()
    for name in "abc":
        fleet.fold(report(name, ok=100), 0, MIDDLE)
    fleet.fold(report("a", failed=9, exhausted=True, over=True), 900, MIDDLE)
    fleet.fold(report("b", failed=9, over=True), 1_000, MIDDLE)
    assert ("CLOSED", "") == state(fleet)
    fleet.fold(report("c", failed=9, exhausted=True, over=True), 1_100, MIDDLE)

    assert ("OPEN", "exhausted") == state(fleet)


def test_leases_share_the_budget_out() -> None:
    """5 % of what it tripped on, over those whose traffic waits; who begins is chance."""
    assert {"a": 2, "b": 2, "c": 1} == leases(on_trial("a", "b", "c"))
    assert {"a": 5} == leases(on_trial("a"))
    assert {"a": 1} == leases(on_trial("a", "b", "c", failed=20))
    assert {"c": 1} == leases(on_trial("a", "b", "c", failed=20, chance=0.9))


def test_no_trial_without_traffic() -> None:
    """The circuit stays open until somebody waits, then it is tried at once."""
    fleet = tripped()
    assert not fleet.tick(SETTINGS.open_ms * 10, MIDDLE)
    fleet.fold(report("a", fleet, waiting=True), SETTINGS.open_ms * 10, MIDDLE)

    assert "HALF_OPEN" == state(fleet)[0]


def test_waiting_that_was_not_heard_for_long_is_nothing() -> None:
    """A worker that is gone gets no lease."""
    fleet = tripped()
    fleet.fold(report("dead", fleet, waiting=True), 0, MIDDLE)
    fleet.fold(report("a", fleet, waiting=True), 5_001, MIDDLE)

    assert {"a": 5} == leases(fleet)


def test_fresh_counts_decide() -> None:
    """Three of five; the sums of both workers count, in whatever order they come."""
    fleet = on_trial("a", "b")
    told = fleet.record(SETTINGS.open_ms)
    first, second = told.leases
    fleet.fold(report("a", fleet, lease=first.id, probes_ok=1, probes_failed=1, waiting=True), 5_001, MIDDLE)
    assert "HALF_OPEN" == state(fleet)[0]
    assert fleet.fold(report("b", fleet, lease=second.id, probes_ok=2, waiting=True), 5_002, MIDDLE)

    assert ("CLOSED", "trial-ok") == state(fleet)


def test_a_failed_trial_doubles_the_open_time() -> None:
    """And says so."""
    fleet = on_trial("a")
    lease = fleet.record(SETTINGS.open_ms).leases[0]
    fleet.fold(report("a", fleet, lease=lease.id, probes_failed=3, waiting=True), 5_001, MIDDLE)

    told = fleet.record(5_001)
    assert (Circuit.OPEN, "trial-failed", 10_000, 2) == (told.state, told.reason, told.open_ms, told.trips)


@pytest.mark.parametrize(
    "wrong",
    [{"lease": 1}, {"reporter": "b"}, {"transition": 1}, {"generation": 0, "transition": 0}],
)
def test_results_that_are_not_of_this_trial_count_nothing(wrong: dict[str, Any]) -> None:
    """An unknown lease, somebody else's, or results let through under an older record."""
    fleet = on_trial("a", "b")
    lease = next(lease for lease in fleet.record(SETTINGS.open_ms).leases if lease.reporter == "a")
    late = report("a", fleet, lease=lease.id, probes_failed=5, waiting=True)
    for name, value in wrong.items():
        setattr(late, name, value)
    fleet.fold(late, 5_001, MIDDLE)
    assert "HALF_OPEN" == state(fleet)[0]
    right = report("a", fleet, lease=lease.id, probes_ok=3, waiting=True)
    fleet.fold(right, 5_002, MIDDLE)

    assert "CLOSED" == state(fleet)[0]


def test_more_results_than_leased_count_as_leased() -> None:
    """A worker reports nine successes on a lease of two: two count."""
    fleet = on_trial("a", "b", "c")
    lease = next(lease for lease in fleet.record(SETTINGS.open_ms).leases if lease.reporter == "a")
    assert 2 == lease.probes
    fleet.fold(report("a", fleet, lease=lease.id, probes_ok=9, waiting=True), 5_001, MIDDLE)

    assert "HALF_OPEN" == state(fleet)[0]


def test_a_lease_that_is_not_used_up_is_given_back() -> None:
    """With nothing waiting any more the trial ends on what came."""
    fleet = on_trial("a")
    lease = fleet.record(SETTINGS.open_ms).leases[0]
    fleet.fold(report("a", fleet, lease=lease.id, probes_ok=1), 5_001, MIDDLE)

    assert ("CLOSED", "trial-ok") == state(fleet)


def test_lost_probes_expire() -> None:
    """Nothing came of a worker that is still there: open again, for the first open time: nothing was learned."""
    fleet = on_trial("a")
    end_ms = SETTINGS.open_ms + SETTINGS.half_open_ms_max
    assert not fleet.fold(report("a", fleet, waiting=True), end_ms - 1, MIDDLE)
    assert fleet.tick(end_ms, MIDDLE)

    told = fleet.record(end_ms)
    assert (Circuit.OPEN, "trial-expired", 5_000, 1, 0) == (
        told.state, told.reason, told.open_ms, told.trips, len(told.leases),
    )  # fmt: skip


def test_a_dead_workers_lease_is_not_waited_for() -> None:
    """One of two was killed with its lease: what the other one found decides, five seconds after the last word."""
    fleet = on_trial("a", "b", failed=40)
    lease = next(lease for lease in fleet.record(SETTINGS.open_ms).leases if lease.reporter == "a")
    now_ms = SETTINGS.open_ms + 1
    fleet.fold(report("a", fleet, lease=lease.id, probes_ok=lease.probes, waiting=True), now_ms, MIDDLE)
    assert "HALF_OPEN" == state(fleet)[0]
    fleet.fold(report("a", fleet, waiting=True), now_ms + 5_000, MIDDLE)

    assert ("CLOSED", "trial-ok") == state(fleet)


def test_leases_are_never_given_twice() -> None:
    """Over trials, and over owners, ids are new."""
    fleet, ids, now_ms = on_trial("a"), set(), SETTINGS.open_ms
    for generation in range(2, 6):
        ids.add(fleet.record(now_ms).leases[0].id)
        now_ms += SETTINGS.half_open_ms_max
        fleet.tick(now_ms, MIDDLE)
        fleet.take_over(generation, (0, 0), now_ms, MIDDLE)
        now_ms += SETTINGS.open_ms_max
        fleet.fold(report("a", fleet, waiting=True), now_ms, MIDDLE)

    assert 4 == len(ids)


def test_late_counts_do_not_touch_a_closed_circuit() -> None:
    """Calls that began before the trip end after the circuit closed again: they are of the past."""
    fleet = on_trial("a")
    early = report("a", failed=90, over=True)
    early.generation, early.transition = 1, 1
    lease = fleet.record(SETTINGS.open_ms).leases[0]
    fleet.fold(report("a", fleet, lease=lease.id, probes_ok=5, waiting=True), 5_001, MIDDLE)
    fleet.fold(early, 5_002, MIDDLE)

    assert ("CLOSED", 0) == (state(fleet)[0], fleet.record(5_002).calls)


def test_services_that_follow_no_circuits_are_counted() -> None:
    """They send no number, whatever was told before."""
    fleet = on_trial("a")
    lease = fleet.record(SETTINGS.open_ms).leases[0]
    fleet.fold(report("a", fleet, lease=lease.id, probes_ok=5, waiting=True), 5_001, MIDDLE)
    fleet.fold(report("service", ok=3), 5_002, MIDDLE)

    assert 3 == fleet.record(5_002).calls


def test_modes_are_told_once() -> None:
    """An operator's wish and a target's 410 differ by their reason; the same wish again says nothing."""
    fleet = new()
    assert fleet.fold(report("cli", set_mode=Circuit.FORCED_OPEN), 0, MIDDLE)
    assert ("OPEN", "operator") == state(fleet)
    assert not fleet.fold(report("cli", set_mode=Circuit.FORCED_OPEN), 0, MIDDLE)
    assert fleet.fold(report("cli", set_mode=Circuit.AUTOMATIC), 0, MIDDLE)
    assert fleet.fold(report("a", set_mode=Circuit.FORCED_OPEN, gone=True), 0, MIDDLE)

    assert ("OPEN", "gone") == state(fleet)
    assert (3, 0) == (fleet.transition, fleet.record(0).open_ms)


def test_metrics_only_tells_what_would_be() -> None:
    """Counts decide over its trial too, from when there are some; no leases, as nobody is refused."""
    fleet = new()
    fleet.set_mode(Mode.METRICS_ONLY, 0)
    fleet.fold(report("a", fleet, failed=20, over=True), 0, MIDDLE)
    fleet.tick(ALONE_MS, MIDDLE)
    assert ("OPEN", "failures") == state(fleet)
    assert not fleet.tick(600_000, MIDDLE)
    fleet.fold(report("a", fleet, ok=1), 600_000, MIDDLE)
    assert ("HALF_OPEN", 0) == (state(fleet)[0], len(fleet.record(600_000).leases))
    fleet.fold(report("a", fleet, ok=1), 600_001, MIDDLE)

    assert ("CLOSED", "trial-ok") == state(fleet)


def test_numbers_go_on_over_owners() -> None:
    """Above everything told, also where the group counts anew or another owner told more than the row says."""
    fleet = tripped()
    assert fleet.take_over(1, (1, 1), 0, MIDDLE)
    assert (2, 2) == fleet.pair
    assert fleet.take_over(3, (2, 9), 0, MIDDLE)
    assert (3, 10) == fleet.pair
    assert not new().take_over(7, (0, 0), 0, MIDDLE)


def test_a_trial_that_may_be_over_is_not_told_again() -> None:
    """The row is older than the last record: its leases could be used twice."""
    fleet = on_trial("a")
    assert fleet.take_over(2, (1, 9), SETTINGS.open_ms, MIDDLE)

    assert ("OPEN", "trial-expired") == state(fleet)


@pytest.mark.parametrize("fleet", [new(), tripped(), on_trial("a", "b")], ids=["closed", "open", "half-open"])
def test_a_row_brings_everything_back(fleet: Fleet) -> None:
    """On another clock, a while later: the same circuit, as much older."""
    fleet.fold(report("z", fleet, ok=1, waiting=True), 5_500, MIDDLE)
    row = fleet.row(6_000)
    again = Fleet.of_row(SETTINGS, "t", row, 100, age_ms=2_000)

    assert fleet.record(8_000) == again.record(100)
    assert fleet.row(8_000) == again.row(100)


def test_a_row_of_a_newer_release_is_refused_by_name() -> None:
    """With its format and the cure."""
    with pytest.raises(StateError, match=r"circuit t: its row has format 9, expected 1; .* upgrade"):
        Fleet.of_row(SETTINGS, "t", b"\x09{}", 0)


def test_reporters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that never come again are forgotten, and so are the oldest of too many."""
    monkeypatch.setattr("streams.circuit.fleet.REPORTERS_MAX", 5)
    fleet = new()
    for number in range(50):
        fleet.fold(report(f"r-{number}", ok=1), number, MIDDLE)
    assert 5 == len(fleet._reporters)
    for number in range(20):
        fleet.fold(report("last", ok=1), 100_000 + number, MIDDLE)

    assert ["last"] == list(fleet._reporters)


numbers = st.integers(0, 8)
folds = st.lists(
    st.tuples(st.sampled_from("abc"), numbers, numbers, numbers, st.booleans(), st.integers(0, 2_000)), max_size=30
)


@given(folds)
def test_the_fleet_trips_exactly_when_the_rule_says_so(steps: list[tuple[str, int, int, int, bool, int]]) -> None:
    """Against a plain list of all reports: window, minimum, rates, votes."""
    settings = replace(SETTINGS, window_ms=5_000)
    fleet, window, now_ms = new(settings), Window(5_000, 1_000), 0
    counted: dict[str, int] = {}
    began: dict[str, int] = {}
    over: dict[str, bool] = {}
    for name, ok, failed, slow, is_over, pause_ms in steps:
        now_ms += pause_ms
        window.add(now_ms, Counts(ok, failed, slow))
        if ok + failed + slow:
            if now_ms - counted.get(name, -9_999) > 5_000:
                began[name] = now_ms
            counted[name] = now_ms
        over[name] = is_over
        fleet.fold(report(name, ok=ok, failed=failed, slow=slow, over=is_over), now_ms, MIDDLE)
        seen = window.totals(now_ms)
        alive = [each for each, when_ms in counted.items() if now_ms - when_ms <= 5_000]
        votes = sum(over[each] for each in alive)
        sick = seen.calls >= settings.calls_min and (
            seen.failure_rate >= settings.failure_rate or seen.slow_rate >= settings.slow_rate
        )
        alone = len(alive) == 1 and now_ms - began[alive[0]] >= ALONE_MS
        expected = sick and (votes >= 2 or alone)
        assert expected == (state(fleet, now_ms)[0] == "OPEN")
        if expected:
            return
