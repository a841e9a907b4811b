"""How one target stands with one worker: the fleet's circuit as its owner told it, the worker's own, and what is not
reported yet. Pure: time and chance are arguments, transitions are left in `moves` for whoever tells them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streams.circuit.breaker import Mode, State
from streams.circuit.own import LATENCY, NAMES, NUMBERS, Kind, Own
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

__all__ = ["Kind", "Pass", "Refusal", "Standing"]

WAITING_MS = 1_000
"""How often waiting traffic is told again: an owner that took over hears of it within a second."""
ASKED_MS = 10_000
"""A call that was refused counts as waiting traffic for so long: look-ups do not queue, but they come again."""

MODES = {
    Mode.AUTOMATIC: "automatic",
    Mode.FORCED_OPEN: "forced-open",
    Mode.FORCED_CLOSED: "forced-closed",
    Mode.METRICS_ONLY: "metrics-only",
}
STATES = {0: State.CLOSED, **{int(state): state for state in State}}
MODE_NUMBERS = {0: Mode.AUTOMATIC, **{int(mode): mode for mode in Mode}}
"""By their numbers in a record; unspecified is what every circuit begins as."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Leave to make one call; comes back with its outcome. Under a lease it is a trial."""

    target: str
    lease: int
    generation: int
    transition: int
    local: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No call now. `retry_s`: how long until asking again makes sense."""

    target: str
    reason: str
    retry_s: float


class Standing:
    """One target as one worker has it. `reporter` is the worker's name.

    While traffic flows, `flowing` is what every call gets; otherwise `ask` decides. One trial request is on its way at
    a time, the fleet's or an own one, however many leases came and went meanwhile.
    """

    def __init__(self, target: str, reporter: str, settings: CircuitSettings, now_ms: int) -> None:
        self.target = target
        self.flowing: Pass | None = None
        self.moves: list[tuple[str, str, str]] = []
        """Transitions since the last look: old and new state, reason."""
        self._reporter = reporter
        self._settings = settings
        self._own = Own(settings, self.moves, now_ms)
        self._state, self._mode = State.CLOSED, Mode.AUTOMATIC
        self._pair = self._since = (0, 0)  # of the last record, and of the one that began this state
        self._reason, self._trips, self._until_ms = "", 0, 0
        self._failure_rate, self._slow_rate, self._calls = 0.0, 0.0, 0
        self._lease, self._lease_ms, self._probes_left = 0, 0, 0
        self._probe: Pass | None = None  # the trial request on its way
        self._probe_ms = 0  # it is lost if it is not back by then
        self._waiting = False
        self._asked_ms: int | None = None  # when a call was refused last
        self._set_mode: Mode | None = None  # to be reported
        self._gone = False
        self._wish = False  # forced open here already, before the owner says so
        self._pending = [0, 0, 0, 0, 0]
        self._probes_ok = self._probes_failed = 0
        self._exhausted = self._over_told = False
        self._waiting_told_ms: int | None = None  # when the owner was told last that traffic waits
        self._let_flow()

    # -- calls ------------------------------------------------------------------------------------------------

    def ask(self, now_ms: int, chance: float) -> Pass | Refusal:
        """Leave for a call, or none. A trial's pass is waited for until it comes back, or is given up as lost."""
        if self.flowing is not None:
            return self.flowing
        self._asked_ms = now_ms
        report_s = self._settings.report_ms / 1000
        if self._wish or self._state is State.OPEN:
            reason = self._reason if self._state is State.OPEN else "gone" if self._gone else "operator"
            return Refusal(self.target, reason, max((self._until_ms - now_ms) / 1000, report_s))
        if self._state is State.HALF_OPEN:
            if not self._may_probe(now_ms):
                return Refusal(self.target, self._reason, report_s)
            self._probes_left -= 1
            return self._begin_probe(now_ms, self._lease)
        granted = self._own.ask(now_ms, chance, self._waits_for_probe(now_ms))
        flowing = self._let_flow()
        if flowing is not None:
            return flowing
        if granted:
            return self._begin_probe(now_ms, 0)
        return Refusal(self.target, self._own.reason, max(self._own.open_ms(now_ms) / 1000, report_s))

    def refuses(self, now_ms: int) -> bool:
        """Whether a call would be refused now; changes nothing."""
        if self.flowing is not None:
            return False
        if self._wish or self._state is State.OPEN:
            return True
        if self._state is State.HALF_OPEN:
            return not self._may_probe(now_ms)
        return self._own.refuses(now_ms, self._waits_for_probe(now_ms))

    def state(self, now_ms: int) -> str:
        """In a word, the worse of both circuits: closed, open or half-open; closed while nobody is refused."""
        if self.flowing is not None:
            return NAMES[State.CLOSED]
        if self._wish or self._state is not State.CLOSED:
            return NAMES[State.OPEN if self._wish else self._state]
        return NAMES[self._own.state(now_ms)]

    def outcome(self, leave: Pass, kind: Kind, latency_us: int, now_ms: int, chance: float) -> None:
        """How a call ended. One that began under a former state of the circuit counts nothing."""
        if leave == self._probe:
            self._probe = None
        if leave.lease:
            if leave.lease == self._lease:
                self._probes_ok += kind == "ok"
                # Slow is not well, and a target that wants less is not ready for everything.
                self._probes_failed += kind != "ok"
        elif (leave.generation, leave.transition) >= self._since:
            self._add(kind, latency_us)
            if leave.local == self._own.epoch:
                decides = self._state is State.CLOSED and self._mode is Mode.AUTOMATIC
                self._own.count(kind, latency_us, now_ms, chance, decides)
                if leave.local != self._own.epoch:
                    self._let_flow()

    def count(self, kind: Kind, latency_us: int, now_ms: int, chance: float) -> None:
        """An outcome of something that nobody had asked for before: a trial, where one is due.

        Otherwise such a circuit would never close again.
        """
        leave = self.ask(now_ms, chance)
        if isinstance(leave, Pass):
            self.outcome(leave, kind, latency_us, now_ms, chance)
        else:
            self._add(kind, latency_us)

    def cancelled(self, leave: Pass) -> None:
        """The call never happened, or was broken off by this side: it says nothing, and may be made again."""
        if leave != self._probe:
            return
        self._probe = None
        if leave.lease and leave.lease == self._lease:
            self._probes_left += 1
        elif not leave.lease and leave.local == self._own.epoch:
            self._own.put_back()

    def exhausted(self, now_ms: int, chance: float) -> None:
        """Attempts ran out and nothing has succeeded lately: opens here at once, and asks the fleet to do so."""
        if self._state is not State.CLOSED:
            return
        self._exhausted = True
        if self._mode is Mode.AUTOMATIC:
            self._own.exhaust(now_ms, chance)
            self._let_flow()

    def wait(self, yes: bool) -> None:
        """Whether traffic waits for the target."""
        self._waiting = yes
        if not yes:
            self._asked_ms = None

    def set_mode(self, mode: Mode, gone: bool) -> None:
        """A wish to be reported; forced open it is here at once, until an owner has said so or somebody wishes else."""
        self._set_mode, self._gone = mode, gone
        self._wish = mode is Mode.FORCED_OPEN and self._mode is not Mode.FORCED_OPEN
        self._let_flow()

    # -- the topics -------------------------------------------------------------------------------------------

    def take(self, circuit: Circuit, now_ms: int) -> None:
        """Takes a record of the owner's in; one that is not above the last is ignored.

        So is a state or mode of a newer release: what was told before holds.
        """
        pair = (circuit.generation, circuit.transition)
        if pair <= self._pair or circuit.state not in STATES or circuit.mode not in MODE_NUMBERS:
            return
        before = (self._state, self._mode)
        self._pair = pair
        self._state = STATES[circuit.state]
        self._mode = MODE_NUMBERS[circuit.mode]
        self._reason, self._trips = circuit.reason, circuit.trips
        self._failure_rate, self._slow_rate, self._calls = circuit.failure_rate, circuit.slow_rate, circuit.calls
        self._until_ms = now_ms + circuit.open_ms
        if self._mode is Mode.FORCED_OPEN:
            self._wish = False
        if self._state is not before[0]:
            self._since = pair
            self._forget_pending()
        if (self._state, self._mode) != before:
            self._own.begin(now_ms, self._reason)
        mine = next((lease for lease in circuit.leases if lease.reporter == self._reporter), None)
        if mine is None or self._state is not State.HALF_OPEN:
            self._lease = self._probes_left = 0
        else:
            if mine.id != self._lease:
                self._probes_left = mine.probes
            self._lease, self._lease_ms = mine.id, now_ms + mine.expires_ms
        self._let_flow()
        old, new = _label(*before), _label(self._state, self._mode)
        if old != new:
            self.moves.append((old, new, self._reason))

    def drain(self, now_ms: int) -> Outcomes | None:
        """What is to be reported; None: nothing is new."""
        over = (self._state is State.CLOSED or self.flowing is not None) and self._own.over(now_ms)
        asks = self._asked_ms is not None and now_ms - self._asked_ms < ASKED_MS
        waiting = self._state is not State.CLOSED and self._mode is Mode.AUTOMATIC and (self._waiting or asks)
        told_ms = self._waiting_told_ms
        tells = told_ms is None or now_ms - told_ms >= WAITING_MS if waiting else told_ms is not None
        probes = self._probes_ok + self._probes_failed
        changed = over != self._over_told or self._exhausted or self._set_mode is not None
        if not (tells or probes or changed or any(self._pending)):
            return None
        ok, failed, slow, throttled, latency_us = self._pending
        report = Outcomes(
            target=self.target, reporter=self._reporter,
            ok=ok, failed=failed, slow=slow, throttled=throttled, latency_us=latency_us,
            lease=self._lease if probes else 0, probes_ok=self._probes_ok, probes_failed=self._probes_failed,
            generation=self._pair[0], transition=self._pair[1],
            over=over, exhausted=self._exhausted, waiting=waiting,
            set_mode=self._set_mode.name if self._set_mode else None, gone=self._gone and bool(self._set_mode),
        )  # fmt: skip
        self._forget_pending()
        self._over_told, self._set_mode = over, None
        self._waiting_told_ms = now_ms if waiting else None
        return report

    def give_back(self, report: Outcomes) -> None:
        """A report that no owner will see: what it held is reported again, what still is so is told again."""
        if report.set_mode and self._set_mode is None:
            self._set_mode, self._gone = Mode(report.set_mode), report.gone
        if (report.generation, report.transition) < self._since:
            return
        numbers = (report.ok, report.failed, report.slow, report.throttled, report.latency_us)
        self._pending = [here + given for here, given in zip(self._pending, numbers, strict=True)]
        if report.lease and report.lease == self._lease:
            self._probes_ok += report.probes_ok
            self._probes_failed += report.probes_failed
        self._exhausted |= report.exhausted
        self._over_told = not report.over
        self._waiting_told_ms = None if report.waiting else 0

    def view(self, now_ms: int) -> dict[str, Any]:
        """For people."""
        timed = self._state is State.OPEN and self._mode is not Mode.FORCED_OPEN
        return {
            "target": self.target,
            "state": NAMES[self._state],
            "mode": MODES[self._mode],
            "reason": self._reason,
            "open_ms": max(self._until_ms - now_ms, 0) if timed else 0,
            "trips": self._trips,
            "failure_rate": round(self._failure_rate, 4),
            "slow_rate": round(self._slow_rate, 4),
            "calls": self._calls,
            "generation": self._pair[0],
            "transition": self._pair[1],
            "local": self._own.view(now_ms),
        }

    # -- inside -----------------------------------------------------------------------------------------------

    def _may_probe(self, now_ms: int) -> bool:
        return self._probes_left > 0 and now_ms < self._lease_ms and not self._waits_for_probe(now_ms)

    def _waits_for_probe(self, now_ms: int) -> bool:
        return self._probe is not None and now_ms < self._probe_ms

    def _begin_probe(self, now_ms: int, lease: int) -> Pass:
        self._probe = Pass(self.target, lease, *self._pair, self._own.epoch)
        self._probe_ms = now_ms + self._settings.half_open_ms_max
        return self._probe

    def _let_flow(self) -> Pass | None:
        """Brings `flowing` in line with everything else; states refuse nobody in modes that only look."""
        closed = self._state is State.CLOSED and self._own.closed and not self._wish
        looks_only = self._mode in (Mode.FORCED_CLOSED, Mode.METRICS_ONLY) and not self._wish
        self.flowing = Pass(self.target, 0, *self._pair, self._own.epoch) if closed or looks_only else None
        return self.flowing

    def _add(self, kind: Kind, latency_us: int) -> None:
        """Counts for the owner."""
        self._pending[NUMBERS[kind]] += 1
        self._pending[LATENCY] += latency_us

    def _forget_pending(self) -> None:
        """What was counted under a former state comes late: the owner would not count it."""
        self._pending = [0, 0, 0, 0, 0]
        self._probes_ok = self._probes_failed = 0
        self._exhausted = self._over_told = False
        self._waiting_told_ms = None


def _label(state: State, mode: Mode) -> str:
    """The fleet's circuit in a word."""
    return MODES[mode] if mode in (Mode.FORCED_OPEN, Mode.FORCED_CLOSED) else NAMES[state]
