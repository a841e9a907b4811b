"""What a worker knows of circuits: the fleet's, its own, what it reports."""

from __future__ import annotations

import pytest

from streams.circuit.board import Board, Kind, Pass, Refusal
from streams.clock import ManualClock
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit, Lease
from streams.v1.outcome_pb2 import Outcomes

SETTINGS = CircuitSettings()
OPEN_MS = SETTINGS.open_ms


@pytest.fixture
def clock() -> ManualClock:
    """Time stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def board(clock: ManualClock) -> Board:
    """A worker's board without jitter."""
    return Board(SETTINGS, "me", clock, chance=lambda: 0.5)


def call(board: Board, kind: Kind, times: int = 1) -> int:
    """Calls that are let through end like this; how many were."""
    made = 0
    for _ in range(times):
        leave = board.ask("t")
        if isinstance(leave, Pass):
            board.outcome(leave, kind, 1_000)
            made += 1
    return made


def told(state: int, transition: int, *, generation: int = 1, mode: int = Circuit.AUTOMATIC, **more: object) -> Circuit:
    """A record of the circuits topic."""
    return Circuit(target="t", state=state, mode=mode, generation=generation, transition=transition, **more)  # type: ignore[arg-type]


def lease(probes: int, *, id: int = 7, reporter: str = "me", expires_ms: int = 60_000) -> Lease:
    """A lease as the owner gives it."""
    return Lease(id=id, reporter=reporter, probes=probes, expires_ms=expires_ms)


def test_traffic_flows_where_nothing_is_known(board: Board) -> None:
    """No record, no outcome: everybody passes, and nothing is reported."""
    leave = board.ask("t")

    assert Pass("t", 0, 0, 0, 0) == leave
    assert not board.is_open("t")
    assert [] == board.drain()


def test_outcomes_are_reported_as_increments(board: Board) -> None:
    """Counts by kind and their time, once; a second drain is empty."""
    kinds: tuple[Kind, ...] = ("ok", "ok", "slow", "failed", "throttled")
    for kind in kinds:
        call(board, kind)
    board.count("topic", "failed", 5)

    expected = [
        Outcomes(target="t", reporter="me", ok=2, slow=1, failed=1, throttled=1, latency_us=5_000),
        Outcomes(target="topic", reporter="me", failed=1, latency_us=5),
    ]
    assert expected == board.drain()
    assert [] == board.drain()


def test_a_drain_that_is_given_back_comes_again(board: Board, clock: ManualClock) -> None:
    """Nothing of it is lost, and what was counted meanwhile is added."""
    call(board, "failed", 3)
    board.set_mode("t", Circuit.FORCED_CLOSED)
    first = board.drain()
    call(board, "ok", 2)
    board.give_back(first)

    expected = Outcomes(
        target="t", reporter="me", ok=2, failed=3, latency_us=5_000, over=True, set_mode=Circuit.FORCED_CLOSED
    )
    assert [expected] == board.drain()


def test_an_open_circuit_refuses_and_says_when_to_come_back(board: Board, clock: ManualClock) -> None:
    """For the open time by the own clock; later the owner is waited for, in steps of a report."""
    board.take(told(Circuit.OPEN, 1, open_ms=OPEN_MS, reason="failures"))

    assert Refusal("t", "failures", 5.0) == board.ask("t")
    clock.advance(60_000)
    assert Refusal("t", "failures", 0.2) == board.ask("t")
    assert board.is_open("t")


def test_lower_records_are_ignored(board: Board) -> None:
    """Order is (generation, transition), whatever comes when."""
    board.take(told(Circuit.OPEN, 5, generation=2))
    board.take(told(Circuit.CLOSED, 9, generation=1))
    board.take(told(Circuit.CLOSED, 5, generation=2))

    assert board.is_open("t")
    board.take(told(Circuit.CLOSED, 6, generation=2))
    assert not board.is_open("t")


def test_half_open_passes_by_lease_one_at_a_time(board: Board) -> None:
    """Two probes of a lease: the second only when the first is back, no third, and none without a lease."""
    board.take(told(Circuit.OPEN, 1))
    board.take(told(Circuit.HALF_OPEN, 2, leases=[lease(2), lease(5, id=8, reporter="other")]))
    first = board.ask("t")
    assert isinstance(first, Pass)
    assert isinstance(board.ask("t"), Refusal)
    board.outcome(first, "ok", 10)
    second = board.ask("t")
    assert isinstance(second, Pass)
    board.outcome(second, "slow", 10)
    assert isinstance(board.ask("t"), Refusal)

    report = board.drain()[0]
    assert (7, 1, 1, 0, 1, 2) == (
        report.lease, report.probes_ok, report.probes_failed, report.ok, report.generation, report.transition,
    )  # fmt: skip


def test_a_lease_expires(board: Board, clock: ManualClock) -> None:
    """It is not used after its time, and not given anew by a record that repeats it."""
    board.take(told(Circuit.OPEN, 1))
    board.take(told(Circuit.HALF_OPEN, 2, leases=[lease(1, expires_ms=1_000)]))
    clock.advance(1_000)
    assert isinstance(board.ask("t"), Refusal)
    board.take(told(Circuit.HALF_OPEN, 3, leases=[lease(1)]))
    assert isinstance(board.ask("t"), Pass)
    board.take(told(Circuit.HALF_OPEN, 4, leases=[lease(1)]))

    assert isinstance(board.ask("t"), Refusal)


def test_a_cancelled_probe_is_free_again(board: Board) -> None:
    """It counts nothing, and the lease has it back."""
    board.take(told(Circuit.HALF_OPEN, 1, leases=[lease(1)]))
    first = board.ask("t")
    assert isinstance(first, Pass)
    board.cancelled(first)
    board.cancelled(first)

    assert isinstance(board.ask("t"), Pass)
    assert isinstance(board.ask("t"), Refusal)


def test_a_probe_of_an_old_lease_counts_nothing_and_is_still_one(board: Board, clock: ManualClock) -> None:
    """Over two trials there is one request on its way; lost for good, it is waited for only so long."""
    board.take(told(Circuit.HALF_OPEN, 1, leases=[lease(1)]))
    first = board.ask("t")
    assert isinstance(first, Pass)
    board.take(told(Circuit.OPEN, 2))
    board.take(told(Circuit.HALF_OPEN, 3, leases=[lease(1, id=8, expires_ms=200_000)]))
    assert isinstance(board.ask("t"), Refusal)
    clock.advance(SETTINGS.half_open_ms_max)
    assert isinstance(board.ask("t"), Pass)
    board.outcome(first, "failed", 1)

    assert [(0, 0)] == [(report.probes_failed, report.failed) for report in board.drain()]


def test_own_trouble_trips_the_own_circuit_at_once(board: Board, clock: ManualClock) -> None:
    """Without any owner: open after the calls that take it, tried after the open time, closed by what it sees."""
    changes: list[tuple[str, str, str, str]] = []
    board.on_change.append(lambda *change: changes.append(change))
    assert SETTINGS.calls_min == call(board, "failed", 100)
    assert Refusal("t", "local failures", 5.0) == board.ask("t")
    assert board.is_open("t")
    clock.advance(OPEN_MS)
    assert not board.is_open("t")
    probe = board.ask("t")
    assert isinstance(probe, Pass)
    assert isinstance(board.ask("t"), Refusal)
    board.outcome(probe, "ok", 1)

    assert not board.is_open("t")
    assert [
        ("t", "local-closed", "local-open", "failures"),
        ("t", "local-open", "local-half-open", "failures"),
        ("t", "local-half-open", "local-closed", "trial-ok"),
    ] == changes


def test_a_call_that_began_before_the_own_trip_does_not_close_it(board: Board, clock: ManualClock) -> None:
    """Late results go to the owner, whose circuit was closed all the time, and not into the trial."""
    early = [board.ask("t") for _ in range(10)]
    call(board, "failed", 20)
    clock.advance(OPEN_MS)
    probe = board.ask("t")
    for leave in early:
        assert isinstance(leave, Pass)
        board.outcome(leave, "ok", 1)

    assert isinstance(probe, Pass)
    assert isinstance(board.ask("t"), Refusal)
    assert [(10, 20, True)] == [(report.ok, report.failed, report.over) for report in board.drain()]


def test_exhausted_opens_here_at_once_and_asks_the_fleet(board: Board) -> None:
    """Whatever the minimum count; told once."""
    call(board, "failed", 1)
    board.exhausted("t")

    assert Refusal("t", "local exhausted", 5.0) == board.ask("t")
    assert [(1, True, True)] == [(report.failed, report.exhausted, report.over) for report in board.drain()]
    assert [] == board.drain()


def test_over_is_told_when_it_begins_and_when_it_ends(board: Board, clock: ManualClock) -> None:
    """Three calls are enough for a vote; the window closes without traffic."""
    call(board, "failed", 2)
    assert [False] == [report.over for report in board.drain()]
    call(board, "failed", 1)
    assert [True] == [report.over for report in board.drain()]
    clock.advance(SETTINGS.window_ms + SETTINGS.bucket_ms)

    assert [False] == [report.over for report in board.drain()]
    assert [] == board.drain()


def test_the_fleets_trip_takes_the_place_of_the_own_one(board: Board) -> None:
    """What is pending then comes late, and the own circuit begins anew when the fleet's closes."""
    call(board, "failed", SETTINGS.calls_min)
    early = Pass("t", 0, 0, 0, 0)
    board.take(told(Circuit.OPEN, 1))
    board.outcome(early, "failed", 1)
    assert [] == board.drain()
    board.take(told(Circuit.HALF_OPEN, 2))
    board.take(told(Circuit.CLOSED, 3))
    board.outcome(early, "failed", 1)

    assert [] == board.drain()
    assert isinstance(board.ask("t"), Pass)


def test_calls_in_flight_count_over_a_record_that_changes_nothing(board: Board) -> None:
    """A new owner tells of the same state again: that makes no call late."""
    leave = board.ask("t")
    board.take(told(Circuit.CLOSED, 1, generation=4))
    assert isinstance(leave, Pass)
    board.outcome(leave, "ok", 1)

    assert [(1, 4, 1)] == [(report.ok, report.generation, report.transition) for report in board.drain()]


@pytest.mark.parametrize("mode", [Circuit.FORCED_CLOSED, Circuit.METRICS_ONLY])
@pytest.mark.parametrize("state", [Circuit.CLOSED, Circuit.OPEN, Circuit.HALF_OPEN])
def test_nobody_is_refused_in_modes_that_only_look(board: Board, mode: int, state: int) -> None:
    """Neither by the fleet's circuit nor by the own one; everything is counted."""
    board.take(told(state, 1, mode=mode, open_ms=OPEN_MS))

    assert 100 == call(board, "failed", 100)
    board.exhausted("t")
    assert not board.is_open("t")
    assert [100] == [report.failed for report in board.drain()]


def test_forced_open_is_so_here_at_once(board: Board, clock: ManualClock) -> None:
    """A target that is gone: refused before the owner has said so, told to the owner, and kept by its record."""
    board.set_mode("t", Circuit.FORCED_OPEN, gone=True)
    assert Refusal("t", "gone", 0.2) == board.ask("t")
    reports = board.drain()
    assert [(Circuit.FORCED_OPEN, True)] == [(report.set_mode, report.gone) for report in reports]
    board.take(told(Circuit.CLOSED, 1))
    assert board.is_open("t")
    board.take(told(Circuit.OPEN, 2, mode=Circuit.FORCED_OPEN, reason="gone"))
    clock.advance(10_000_000)
    assert Refusal("t", "gone", 0.2) == board.ask("t")
    board.take(told(Circuit.CLOSED, 3))

    assert not board.is_open("t")


def test_forced_open_twice_is_over_once(board: Board) -> None:
    """A second 410 that comes when the owner has spoken already does not outlive an operator's word."""
    board.set_mode("t", Circuit.FORCED_OPEN, gone=True)
    board.take(told(Circuit.OPEN, 1, mode=Circuit.FORCED_OPEN, reason="gone"))
    board.set_mode("t", Circuit.FORCED_OPEN, gone=True)
    board.take(told(Circuit.CLOSED, 2))

    assert not board.is_open("t")


def test_what_nobody_asks_for_recovers_by_its_outcomes(board: Board, clock: ManualClock) -> None:
    """Failed produces: they open the own circuit, count for the owner meanwhile, and try it when that is due."""
    for _ in range(30):
        board.count("t", "failed", 10)
    assert "open" == board.state("t")
    assert [30] == [report.failed for report in board.drain()]
    clock.advance(OPEN_MS)
    board.count("t", "ok", 10)
    assert "closed" == board.state("t")
    board.take(told(Circuit.OPEN, 1))
    board.count("t", "ok", 10)
    assert [True] == [report.waiting for report in board.drain()]
    board.take(told(Circuit.HALF_OPEN, 2, leases=[lease(2)]))
    board.count("t", "ok", 10)
    board.count("t", "failed", 10)
    board.count("t", "ok", 10)

    assert [(1, 1, 1)] == [(report.probes_ok, report.probes_failed, report.ok) for report in board.drain()]


def test_waiting_traffic_is_told_while_the_circuit_is_not_closed(board: Board, clock: ManualClock) -> None:
    """At once, again every second, and when it is over; a refused call waits for a while too."""
    board.waiting("t", True)
    assert [] == board.drain()
    board.take(told(Circuit.OPEN, 1))
    assert [True] == [report.waiting for report in board.drain()]
    assert [] == board.drain()
    clock.advance(1_000)
    assert [True] == [report.waiting for report in board.drain()]
    board.waiting("t", False)
    assert [False] == [report.waiting for report in board.drain()]
    assert [] == board.drain()
    board.ask("t")
    assert [True] == [report.waiting for report in board.drain()]
    clock.advance(20_000)

    assert [False] == [report.waiting for report in board.drain()]


def test_one_event_per_transition(board: Board) -> None:
    """Repeated records and repeated refusals say nothing."""
    changes: list[tuple[str, str, str, str]] = []
    board.on_change.append(lambda *change: changes.append(change))
    board.take(told(Circuit.OPEN, 1, reason="slow"))
    board.take(told(Circuit.OPEN, 2, reason="slow"))
    call(board, "ok", 100)
    board.take(told(Circuit.OPEN, 3, mode=Circuit.FORCED_OPEN, reason="operator"))
    board.take(told(Circuit.CLOSED, 4, mode=Circuit.METRICS_ONLY, reason="operator"))

    assert [
        ("t", "closed", "open", "slow"),
        ("t", "open", "forced-open", "operator"),
        ("t", "forced-open", "closed", "operator"),
    ] == changes


def test_the_view_has_both_circuits(board: Board) -> None:
    """For GET /circuits: by target, rates as the owner told them, own ones as of now."""
    call(board, "failed", 1)
    call(board, "ok", 3)
    board.take(told(Circuit.OPEN, 2, mode=Circuit.METRICS_ONLY, open_ms=900, reason="failures", trips=2,
                    failure_rate=0.6, calls=50))  # fmt: skip
    call(board, "ok", 3)
    call(board, "slow", 1)

    assert [{
        "target": "t", "state": "open", "mode": "metrics-only", "reason": "failures", "open_ms": 900, "trips": 2,
        "failure_rate": 0.6, "slow_rate": 0.0, "calls": 50, "generation": 1, "transition": 2,
        "local": {"state": "closed", "reason": "failures", "open_ms": 0, "failure_rate": 0.0, "slow_rate": 0.25,
                  "calls": 4},
    }] == board.view()  # fmt: skip


def test_targets_nobody_asked_for_are_bounded(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reporter that invents targets does not fill this worker's memory, and keeps none out that exists."""
    monkeypatch.setattr("streams.circuit.board.TARGETS_MAX", 10)
    board.expect("own")
    board.ask("asked")
    for name in ("own", "asked", *(f"t-{number}" for number in range(20)), "late"):
        board.take(Circuit(target=name, state=Circuit.OPEN, generation=1, transition=1))
    board.take(Circuit())

    assert {"own", "asked", "late", *(f"t-{number}" for number in range(11, 20))} == {
        circuit["target"] for circuit in board.view()
    }
    assert all(board.is_open(name) for name in ("own", "asked", "late"))


def test_a_state_in_a_word(board: Board, clock: ManualClock) -> None:
    """The worse of both circuits, as the next call would find it."""
    said = [board.state("t")]
    call(board, "failed", 20)
    said.append(board.state("t"))
    clock.advance(OPEN_MS)
    said.append(board.state("t"))
    board.take(told(Circuit.OPEN, 1))
    said.append(board.state("t"))
    board.take(told(Circuit.HALF_OPEN, 2))
    said.append(board.state("t"))
    board.take(told(Circuit.OPEN, 3, mode=Circuit.METRICS_ONLY))
    said.append(board.state("t"))
    board.set_mode("t", Circuit.FORCED_OPEN)
    said.append(board.state("t"))

    assert ["closed", "open", "half-open", "open", "half-open", "closed", "open"] == said
