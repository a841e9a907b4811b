"""A fleet of simulated workers under a fake clock, against the laws of circuits.

Three workers with boards, on clocks of their own; one owner at a time that folds their increments, ticks, keeps rows,
crashes and is followed by another, now and then by one that does not know yet that it was; a circuits topic that each
worker reads at its own pace; records that are lost or come again, probes that are lost, results that are late.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.circuit.board import Board, Kind, Pass, Refusal
from streams.circuit.breaker import Mode
from streams.circuit.fleet import Fleet
from streams.clock import ManualClock
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

SETTINGS = CircuitSettings(
    window_ms=10_000, bucket_ms=1_000, calls_min=4, probes=3, probe_share=0.4, open_ms=2_000, open_ms_max=16_000,
    half_open_ms_max=6_000, trips_reset_ms=60_000,
)  # fmt: skip
WORKERS = 3
ROUNDS_MAX = 400
"""Of a tenth of a second, until everything is well again at the end: 40 seconds, more than twice the longest open time
and a trial."""

workers = st.integers(0, WORKERS - 1)
places = st.integers(0, 1_000_000)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["ok", "failed", "failed", "slow", "throttled"])


@dataclass
class Call:
    """One on its way."""

    leave: Pass
    states: int
    probe: bool
    began_ms: int


@dataclass
class Worker:
    """A process: its board, how far it has read, its calls, and what its next reports must hold."""

    name: str
    board: Board
    clock: ManualClock
    read: int = 0
    told: Circuit | None = None
    states: int = 0
    """Counts the fleet's states that it saw: a call of an earlier one is late."""
    calls: list[Call] = field(default_factory=list)
    expected: int = 0

    def now_ms(self) -> int:
        """Its own time."""
        return round(self.clock.monotonic_s() * 1000)


class CircuitMachine(RuleBasedStateMachine):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(1)
        self.names = 0
        self.passed_ms = 0
        self.topic: list[Circuit] = []
        self.outcomes: list[Outcomes] = []
        self.owner: Fleet | None = None
        self.zombie: Fleet | None = None
        self.folded = self.committed = 0
        self.row: tuple[bytes, int] | None = None
        self.generation = 0
        self.mode = Mode.AUTOMATIC
        self.leased: dict[int, tuple[str, int]] = {}  # probes by lease
        self.used: defaultdict[int, int] = defaultdict(int)

    @initialize(offsets=st.lists(st.integers(0, 5_000), min_size=WORKERS, max_size=WORKERS))
    def start(self, offsets: list[int]) -> None:
        """Workers whose clocks differ, and an owner."""
        self.workers = [self.new_worker(offset) for offset in offsets]
        self.take_over()

    def new_worker(self, offset_ms: int) -> Worker:
        """A process with a name of its own."""
        clock = ManualClock()
        clock.advance(offset_ms)
        self.names += 1
        name = f"w-{self.names}"
        return Worker(name, Board(SETTINGS, name, clock, self.chance.random), clock)

    # -- what workers do ----------------------------------------------------------------------------------------

    @rule(number=workers)
    def call(self, number: int) -> None:
        """Asks; what the worker was told decides who may pass."""
        worker = self.workers[number]
        told, state, open_ = worker.told, worker.board.state("t"), worker.board.is_open("t")
        answer = worker.board.ask("t")

        assert open_ == isinstance(answer, Refusal)
        if isinstance(answer, Refusal):
            assert answer.retry_s > 0
            return
        assert told is None or told.mode != Circuit.FORCED_OPEN
        automatic = told is None or told.mode == Circuit.AUTOMATIC
        assert told is None or not automatic or told.state != Circuit.OPEN, "an open circuit let a call through"
        probe = state == "half-open"
        if answer.lease:
            assert told is not None
            assert told.state == Circuit.HALF_OPEN
            assert answer.lease in {lease.id for lease in told.leases if lease.reporter == worker.name}
            self.used[answer.lease] += 1
        assert probe or not answer.lease
        worker.calls.append(Call(answer, worker.states, probe, worker.now_ms()))

    @rule(number=workers, place=places, kind=kinds)
    def finish(self, number: int, place: int, kind: Kind) -> None:
        """A call ends, perhaps long after the circuit changed: then it counts nothing."""
        worker = self.workers[number]
        if worker.calls:
            call = worker.calls.pop(place % len(worker.calls))
            worker.board.outcome(call.leave, kind, 1_000)
            worker.expected += call.states == worker.states

    @rule(number=workers, times=st.integers(1, 8), kind=kinds)
    def traffic(self, number: int, times: int, kind: Kind) -> None:
        """Several calls that end one after the other."""
        for _ in range(times):
            self.call(number)
            self.finish(number, len(self.workers[number].calls) - 1, kind)

    @rule(number=workers, place=places)
    def cancel(self, number: int, place: int) -> None:
        """A call is broken off by the worker."""
        worker = self.workers[number]
        if worker.calls:
            call = worker.calls.pop(place % len(worker.calls))
            worker.board.cancelled(call.leave)
            if call.leave.lease:
                self.used[call.leave.lease] -= 1

    @rule(number=workers, kind=kinds)
    def count(self, number: int, kind: Kind) -> None:
        """Something ended that nobody had asked for: it is counted, whatever the circuit says."""
        worker = self.workers[number]
        worker.board.count("t", kind, 1_000)
        worker.expected += 1

    @rule(number=workers)
    def lose(self, number: int) -> None:
        """Calls that never come back."""
        self.workers[number].calls.clear()

    @rule(number=workers)
    def exhaust(self, number: int) -> None:
        """Attempts ran out: this worker's own circuit is open at once."""
        worker = self.workers[number]
        told = worker.told
        worker.board.exhausted("t")
        if told is None or (told.mode == Circuit.AUTOMATIC and told.state == Circuit.CLOSED):
            assert "closed" != worker.board.state("t")

    @rule(number=workers, yes=st.booleans())
    def wait(self, number: int, yes: bool) -> None:
        """Traffic waits, or no more."""
        self.workers[number].board.waiting("t", yes)

    @rule(number=workers, fate=st.sampled_from(["sent", "sent", "sent", "lost", "given back"]))
    def report(self, number: int, fate: str) -> None:
        """Everything that was counted since, and nothing that was late."""
        worker = self.workers[number]
        reports = worker.board.drain()
        counted = sum(r.ok + r.failed + r.slow + r.throttled + r.probes_ok + r.probes_failed for r in reports)
        assert worker.expected == counted
        if fate == "given back":
            worker.board.give_back(reports)
            return
        worker.expected = 0
        if fate == "sent":
            self.outcomes += reports

    @rule(number=workers, records=st.integers(1, 5))
    def listen(self, number: int, records: int) -> None:
        """Reads some of what the owners told."""
        worker = self.workers[number]
        for circuit in self.topic[worker.read : worker.read + records]:
            worker.read += 1
            self.hear(worker, circuit)

    def hear(self, worker: Worker, circuit: Circuit) -> None:
        """One record; the model goes by the order of numbers."""
        before = worker.told
        worker.board.take(circuit)
        pair = (circuit.generation, circuit.transition)
        if before is None or pair > (before.generation, before.transition):
            worker.told = circuit
            if circuit.state != (before.state if before is not None else Circuit.CLOSED):
                worker.states += 1
                worker.expected = 0

    @rule(number=workers, place=places)
    def hear_again(self, number: int, place: int) -> None:
        """An old record once more: nothing happens."""
        worker = self.workers[number]
        if worker.read:
            before = worker.board.view()
            worker.board.take(self.topic[place % worker.read])
            assert before == worker.board.view()

    @rule(number=workers)
    def restart(self, number: int) -> None:
        """A new process, which reads the topic from its beginning."""
        self.workers[number] = self.new_worker(self.names * 10)

    # -- what owners do -----------------------------------------------------------------------------------------

    def owner_ms(self) -> int:
        """The owners' clock; each begins where it wants, one is enough here."""
        return self.passed_ms

    def tell(self, fleet: Fleet, changed: bool) -> None:
        """Puts a record into the topic, where there is something to tell, and checks what it gives away."""
        if not changed:
            return
        circuit = fleet.record(self.owner_ms())
        self.topic.append(circuit)
        assert not circuit.leases or circuit.state == Circuit.HALF_OPEN
        budget = min(max(math.ceil(SETTINGS.probe_share * circuit.calls), 1), SETTINGS.probes)
        assert sum(lease.probes for lease in circuit.leases) <= budget
        assert all(lease.probes for lease in circuit.leases)
        assert len({lease.reporter for lease in circuit.leases}) == len(circuit.leases)
        for lease in circuit.leases:
            assert (lease.reporter, lease.probes) == self.leased.setdefault(lease.id, (lease.reporter, lease.probes))

    @precondition(lambda self: self.owner is not None)
    @rule(count=st.integers(1, 10))
    def fold(self, count: int) -> None:
        """Takes reports in, in their order."""
        owner = self.owner
        assert owner is not None
        for report in self.outcomes[self.folded : self.folded + count]:
            self.folded += 1
            if report.set_mode:
                self.mode = Mode(report.set_mode)
            self.tell(owner, owner.fold(report, self.owner_ms(), self.chance.random()))

    @precondition(lambda self: self.owner is not None)
    @rule()
    def tick(self) -> None:
        """The owner looks at the time."""
        assert self.owner is not None
        self.tell(self.owner, self.owner.tick(self.owner_ms(), self.chance.random()))

    @precondition(lambda self: self.owner is not None)
    @rule()
    def keep(self) -> None:
        """Row and position are durable."""
        assert self.owner is not None
        self.row, self.committed = (self.owner.row(self.owner_ms()), self.owner_ms()), self.folded

    @rule(is_zombie=st.booleans())
    def crash(self, is_zombie: bool) -> None:
        """The owner is gone, or only out of the group and does not know yet."""
        if self.owner is not None:
            self.zombie = self.owner if is_zombie else None
        self.owner = None

    @precondition(lambda self: self.owner is None)
    @rule(anew=st.booleans())
    def take_over(self, anew: bool = False) -> None:
        """Another one goes on from the last row, and folds again what was folded after it.

        A group that nobody was left in counts its generations anew.
        """
        self.generation = 1 if anew and self.zombie is None else self.generation + 1
        if self.row is None:
            owner = Fleet(SETTINGS, "t", self.owner_ms())
        else:
            row, kept_ms = self.row
            owner = Fleet.of_row(SETTINGS, "t", row, self.owner_ms(), self.owner_ms() - kept_ms)
        self.owner, self.folded = owner, self.committed
        known = max(((told.generation, told.transition) for told in self.topic), default=(0, 0))
        changed = owner.take_over(self.generation, known, self.owner_ms(), self.chance.random())
        self.tell(owner, changed)
        self.mode = Mode(owner.record(self.owner_ms()).mode)

    @precondition(lambda self: self.owner is not None and self.zombie is not None)
    @rule()
    def zombie_speaks(self) -> None:
        """A former owner goes on for a moment; the present one hears it and tells its own again."""
        zombie, owner = self.zombie, self.owner
        assert zombie is not None
        assert owner is not None
        before = len(self.topic)
        self.tell(zombie, zombie.tick(self.owner_ms(), self.chance.random()))
        for told in self.topic[before:]:
            if (told.generation, told.transition) != owner.pair:
                owner.tell_again()
                self.tell(owner, True)

    @rule(mode=st.sampled_from(Mode), gone=st.booleans())
    def operate(self, mode: Mode, gone: bool) -> None:
        """An operator's wish in the topic."""
        self.outcomes.append(Outcomes(target="t", reporter="operator", set_mode=mode.name, gone=gone))

    # -- several at once, which chance alone seldom makes ------------------------------------------------------

    @rule(kind=st.sampled_from(["failed", "slow"]), hear=st.booleans())
    def outage(self, kind: Kind, hear: bool) -> None:
        """Everybody's calls go wrong, and the owner hears of it."""
        for number in range(WORKERS):
            self.call(number)  # stays on its way, and will be late
            self.traffic(number, 5, kind)
            self.report(number, "sent")
        if self.owner is not None:
            self.fold(len(self.outcomes))
        for number in range(WORKERS * hear):
            self.listen(number, len(self.topic))

    @rule(
        ms=st.integers(SETTINGS.open_ms, SETTINGS.open_ms_max),
        who=st.sets(workers, min_size=1),
        fate=st.sampled_from(["calm", "calm", "handed over", "old row"]),
    )
    def trial(self, ms: int, who: set[int], fate: str) -> None:
        """The open time passes, some wait, leases go out; then each makes a call that stays on its way.

        The trial may go to another owner, also to one whose row knows nothing of its end.
        """
        self.advance(ms)
        for number in sorted(who):
            self.wait(number, True)
            self.listen(number, len(self.topic))
            self.report(number, "sent")
        if self.owner is not None:
            self.fold(len(self.outcomes))
        for number in range(WORKERS):
            self.listen(number, len(self.topic))
            self.call(number)
        if fate != "calm" and self.owner is not None:
            self.keep()
            if fate == "old row":
                for number in range(WORKERS):
                    self.finish(number, len(self.workers[number].calls) - 1, "failed")
                self.exchange(None)
            self.hand_over(keep=False)
            for number in range(WORKERS):
                self.traffic(number, 3, "ok")

    @precondition(lambda self: self.owner is not None)
    @rule(keep=st.booleans(), anew=st.booleans())
    def hand_over(self, keep: bool, anew: bool = False) -> None:
        """From one owner to the next, and everybody hears of it."""
        if keep:
            self.keep()
        self.crash(False)
        self.take_over(anew)
        for number in range(WORKERS):
            self.listen(number, len(self.topic))

    @rule(mode=st.sampled_from([Mode.FORCED_OPEN, Mode.AUTOMATIC, Mode.METRICS_ONLY]), ms=st.integers(0, 20_000))
    def order(self, mode: Mode, ms: int) -> None:
        """An operator's wish is done, traffic waits, time passes."""
        self.operate(mode, False)
        self.exchange(None)
        for number in range(WORKERS):
            self.wait(number, True)
        self.advance(ms)

    @rule(kind=st.one_of(st.none(), kinds))
    def exchange(self, kind: Kind | None) -> None:
        """Everybody reports and hears everything; some calls end in between."""
        for number in range(WORKERS):
            self.report(number, "sent")
            if kind is not None:
                self.finish(number, 0, kind)
                self.traffic(number, 3, kind)
        if self.owner is not None:
            self.fold(len(self.outcomes))
        for number in range(WORKERS):
            self.listen(number, len(self.topic))

    # -- time ---------------------------------------------------------------------------------------------------

    @rule(ms=st.one_of(st.integers(1, 500), st.integers(500, 20_000)))
    def advance(self, ms: int) -> None:
        """Time passes for everybody alike."""
        for worker in self.workers:
            worker.clock.advance(ms)
        self.passed_ms += ms

    @precondition(lambda self: self.owner is not None)
    @rule()
    def wait_a_trial_out(self) -> None:
        """No half-open circuit is stuck, whatever became of its probes."""
        owner = self.owner
        assert owner is not None
        before = owner.record(self.owner_ms())
        if before.state == Circuit.HALF_OPEN:
            self.advance(SETTINGS.half_open_ms_max)
            self.tick()
            assert Circuit.HALF_OPEN != owner.record(self.owner_ms()).state

    # -- laws ---------------------------------------------------------------------------------------------------

    @invariant()
    def probes_stay_within_the_budget(self) -> None:
        """Over all workers, no lease is used more often than it says."""
        for lease, used in self.used.items():
            assert used <= self.leased[lease][1]

    @invariant()
    def a_process_probes_once_at_a_time(self) -> None:
        """Unless the one before was given up as lost."""
        for worker in getattr(self, "workers", []):
            recent = worker.now_ms() - SETTINGS.half_open_ms_max
            assert sum(call.probe and call.began_ms > recent for call in worker.calls) <= 1

    @invariant()
    def forced_modes_hold(self) -> None:
        """At the owner, and at every worker that was told."""
        if self.owner is not None:
            told = self.owner.record(self.owner_ms())
            assert self.mode == told.mode
            assert self.mode is not Mode.FORCED_OPEN or told.state == Circuit.OPEN
            assert self.mode is not Mode.FORCED_CLOSED or told.state == Circuit.CLOSED
        for worker in getattr(self, "workers", []):
            if worker.told is not None and worker.told.mode == Circuit.FORCED_OPEN:
                assert worker.board.is_open("t")
            if worker.told is not None and worker.told.mode in (Circuit.FORCED_CLOSED, Circuit.METRICS_ONLY):
                assert not worker.board.is_open("t")

    @invariant()
    def an_open_circuit_stays_open_without_its_owner(self) -> None:
        """And a half-open one without a lease is as good as open."""
        for worker in getattr(self, "workers", []):
            told = worker.told
            if told is None or told.mode != Circuit.AUTOMATIC or told.state == Circuit.CLOSED:
                continue
            leased = any(lease.reporter == worker.name for lease in told.leases)
            assert worker.board.is_open("t") or (told.state == Circuit.HALF_OPEN and leased)

    def teardown(self) -> None:
        """The target is well, everybody is there, traffic waits: every circuit closes, the fleet's and the own ones."""
        if not hasattr(self, "workers"):
            return
        if self.owner is None:
            self.take_over()
        self.operate(Mode.AUTOMATIC, False)
        for worker in self.workers:
            worker.calls.clear()
        for _ in range(ROUNDS_MAX):
            for number, worker in enumerate(self.workers):
                self.listen(number, len(self.topic))
                worker.board.waiting("t", True)
                self.traffic(number, 5, "ok")
                self.report(number, "sent")
            self.fold(len(self.outcomes))
            self.tick()
            self.probes_stay_within_the_budget()
            self.advance(100)
            caught_up = all(worker.read == len(self.topic) for worker in self.workers)
            if caught_up and all(worker.board.state("t") == "closed" for worker in self.workers):
                return
        raise AssertionError([worker.board.view() for worker in self.workers])


TestCircuits = CircuitMachine.TestCase
TestCircuits.settings = profile(max_examples=60, stateful_step_count=60)
