"""One target's circuit as its owner keeps it: all reporters' counts, who votes, who may try. Pure.

Time is the owner's processing time in milliseconds of a clock that runs forwards; increments count at their arrival.
Every method that may change what the fleet has to know returns whether it did; `record` is what to tell it then.

The fleet trips when the summed rate is crossed and two reporters are over it themselves (one, where only one reports),
so that one worker's own trouble is its own. It is tried by leases: a share of the calls that were counted when it
tripped, spread over the workers whose traffic waits, each worker one call at a time, and nobody twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from streams.circuit.breaker import Breaker, Mode, State, crossed
from streams.circuit.window import Counts, Window
from streams.errors import StateError
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit, Lease
from streams.v1.outcome_pb2 import Outcomes

__all__ = ["Fleet"]

FORMAT = 1
"""First byte of a row."""
REPORTERS_MAX = 1_000
"""Per target. Of more than that the one that was heard longest ago is forgotten: the sums do not need it."""
WAITING_EXPIRES_MS = 5_000
"""Workers tell every second that traffic waits: five times not heard, nothing waits there or nobody is there."""
COUNT_MAX = 1_000_000_000
LATENCY_US_MAX = 1_000_000_000_000
"""Of one report: more than a fifth of a second can hold. A reporter that is mad does not make a row unwritable."""
MODES = {int(mode): mode for mode in Mode}
"""By their numbers in a report; others are of a newer release, or none, and wish nothing here."""
QUORUM = 2
ALONE_MS = 1_000
"""A reporter is the only one when no other was counted for so long after it began: the first to fail is the first to
report, and must not speak for those whose first report is on its way. Five reports, and its own circuit is at once.
"""


@dataclass(slots=True)
class _Reporter:
    """What was heard of one reporter last, and when."""

    heard_ms: int
    counted_ms: int | None = None
    """Calls of it were counted last."""
    began_ms: int = 0
    """They have been counted since, without a window's pause."""
    waiting_ms: int | None = None
    """Traffic waits there."""
    over: bool = False
    exhausted: bool = False


@dataclass(slots=True)
class _Trier:
    """A lease that was given."""

    reporter: str
    probes: int
    left: int


class Fleet:
    """The circuit of one target.

    (`generation`, `transition`) numbers its records. Results that were let through before the record that began the
    present state come late and count nothing; a reporter that follows no circuits sends no number and is never late.
    """

    def __init__(self, settings: CircuitSettings, target: str, now_ms: int, generation: int = 0) -> None:
        self.target = target
        self.generation = generation
        self.transition = 0
        self._settings = settings
        self._since = (0, 0)
        self._window = Window(settings.window_ms, settings.bucket_ms)
        self._breaker = Breaker(settings, now_ms)
        self._reporters: dict[str, _Reporter] = {}
        self._triers: dict[int, _Trier] = {}
        self._seen = Counts()  # of the window, when the circuit changed its state

    @property
    def pair(self) -> tuple[int, int]:
        """Number of the last record; transition 0: there was none."""
        return self.generation, self.transition

    def take_over(self, generation: int, known: tuple[int, int], now_ms: int, chance: float) -> bool:
        """This owner has it now, in this generation of the group; `known`: the last record in the circuits topic.

        Its records stand above everything that was told before, even where the group began to count anew. A trial goes
        on; but where more was told than is known here, its leases may be over, and must not be told again.
        """
        before, last = self._breaker.epoch, max(self.pair, known)
        if known > self.pair:
            self._breaker.end_trial(now_ms, chance)
        told = last[1] > 0
        self.generation, self.transition = max(generation, last[0] + told), last[1]
        if not self._after(before, now_ms) and told:
            self._stamp(False)
        return told

    def fold(self, report: Outcomes, now_ms: int, chance: float) -> bool:
        """Takes a reporter's increments in."""
        reporter = self._heard(report.reporter, now_ms)
        reporter.waiting_ms = now_ms if report.waiting else None
        mode = MODES.get(report.set_mode)
        changed = mode is not None and self.set_mode(mode, now_ms, report.gone)
        pair = (report.generation, report.transition)
        if pair >= self._since or pair == (0, 0):
            said = (report.ok, report.failed, report.slow, report.throttled)
            ok, failed, slow, throttled = (min(number, COUNT_MAX) for number in said)
            counts = Counts(ok, failed, slow, throttled, min(report.latency_us, LATENCY_US_MAX))
            if self._breaker.state is State.CLOSED or self._breaker.mode is Mode.METRICS_ONLY:
                self._count(reporter, report, counts, now_ms)
            if self._breaker.state is State.HALF_OPEN and pair >= self._since:
                changed |= self._trial(report, counts, now_ms, chance)
        return self.tick(now_ms, chance) or changed

    def tick(self, now_ms: int, chance: float) -> bool:
        """What time does without anybody's report: windows close, open times end, trials expire."""
        breaker, before = self._breaker, self._breaker.epoch
        self._look(now_ms)
        if breaker.state is State.HALF_OPEN:
            self._give_up_lost(now_ms, chance)
            breaker.tick(now_ms, chance)
        elif breaker.state is State.OPEN:
            self._try(now_ms, chance)
        else:
            self._judge(now_ms, chance)
        return self._after(before, now_ms)

    def set_mode(self, mode: Mode, now_ms: int, gone: bool = False) -> bool:
        """An operator's wish, or that of a target that is gone."""
        before = self._breaker.epoch
        self._look(now_ms)
        changed = self._breaker.set_mode(now_ms, mode, "gone" if gone else "operator")
        if changed and self._breaker.epoch == before:
            self._stamp(False)
        return self._after(before, now_ms) or changed

    def tell_again(self) -> None:
        """Something lower was told after our last record: the same once more, above it."""
        self._stamp(False)

    def record(self, now_ms: int) -> Circuit:
        """The value for the circuits topic."""
        breaker, state = self._breaker, self._breaker.state
        self._look(now_ms)
        seen = self._seen
        left_ms = max(breaker.until_ms - now_ms, 0)
        return Circuit(
            target=self.target, state=state.name, mode=breaker.mode.name,
            generation=self.generation, transition=self.transition,
            open_ms=left_ms if state is State.OPEN and breaker.mode is not Mode.FORCED_OPEN else 0,
            trips=breaker.trips, reason=breaker.reason,
            failure_rate=seen.failure_rate, slow_rate=seen.slow_rate, calls=seen.calls,
            leases=[
                Lease(id=number, reporter=trier.reporter, probes=trier.probes, expires_ms=left_ms)
                for number, trier in self._triers.items()
            ],
        )  # fmt: skip

    # -- counting ---------------------------------------------------------------------------------------------

    def _heard(self, name: str, now_ms: int) -> _Reporter:
        reporter = self._reporters.pop(name, None) or _Reporter(now_ms)
        reporter.heard_ms = now_ms
        self._reporters[name] = reporter  # the one heard longest ago comes first
        oldest = next(iter(self._reporters))
        if len(self._reporters) > REPORTERS_MAX or now_ms - self._reporters[oldest].heard_ms > self._forget_ms:
            del self._reporters[oldest]
        return reporter

    @property
    def _forget_ms(self) -> int:
        return max(self._settings.window_ms, WAITING_EXPIRES_MS)

    def _count(self, reporter: _Reporter, report: Outcomes, counts: Counts, now_ms: int) -> None:
        if counts.calls or counts.throttled:
            self._window.add(now_ms, counts)
        if counts.calls or counts.throttled or report.exhausted:
            if not _within(reporter.counted_ms, self._settings.window_ms, now_ms):
                reporter.began_ms = now_ms
            reporter.counted_ms = now_ms
        reporter.over = report.over
        reporter.exhausted = report.exhausted or (reporter.exhausted and not counts.ok)

    def _judge(self, now_ms: int, chance: float) -> None:
        """CLOSED: the sum says that it is sick, and enough reporters say so of themselves."""
        alive = [
            each for each in self._reporters.values() if _within(each.counted_ms, self._settings.window_ms, now_ms)
        ]
        voters = [each for each in alive if each.over or each.exhausted]
        alone = len(alive) == 1 and now_ms - alive[0].began_ms >= ALONE_MS
        if len(voters) < QUORUM and not alone:
            return
        seen = self._seen
        if self._breaker.judge(now_ms, seen, chance) or not any(each.exhausted for each in voters):
            return
        # Attempts ran out at one of them: that needs no minimum count, but others' successes speak against it, unless
        # all of them are in trouble by now. Then the successes are of before, and the window would count them for long.
        succeeded = seen.ok + seen.slow > 0 and crossed(self._settings, seen) is None
        if alone or len(voters) == len(alive) or not succeeded:
            self._breaker.exhaust(now_ms, seen, chance)

    # -- trials -----------------------------------------------------------------------------------------------

    def _try(self, now_ms: int, chance: float) -> None:
        """OPEN: leases for those whose traffic waits, once the open time is over and there are such."""
        everybody = self._reporters.items()
        if self._breaker.mode is Mode.METRICS_ONLY:
            # Nobody is refused: all calls are its trial, from when there are some.
            if any(each.counted_ms == now_ms for _, each in everybody):
                self._breaker.begin_trial(now_ms)
            return
        waiting = sorted(name for name, each in everybody if _within(each.waiting_ms, WAITING_EXPIRES_MS, now_ms))
        if not waiting or not self._breaker.begin_trial(now_ms):
            return
        # Whose turn it is is chance: one worker with trouble of its own must not have the only probe each time.
        begin = int(chance * len(waiting))
        turns = [*waiting[begin:], *waiting[:begin]][: self._breaker.budget]
        each, more = divmod(self._breaker.budget, len(turns))
        first = ((self.generation << 28 | self.transition + 1) << 10) % 2**64
        self._triers = {
            first + place: _Trier(name, each + (place < more), each + (place < more))
            for place, name in enumerate(turns)
        }

    def _trial(self, report: Outcomes, counts: Counts, now_ms: int, chance: float) -> bool:
        """HALF_OPEN: results under a lease of this trial; where nobody is refused, all results are."""
        breaker, before = self._breaker, self._breaker.epoch
        if breaker.mode is Mode.METRICS_ONLY:
            breaker.trial(now_ms, counts.ok, counts.failed + counts.slow, chance)
            return self._after(before, now_ms)
        trier = self._triers.get(report.lease)
        if trier is not None and trier.reporter == report.reporter:
            failed = min(report.probes_failed, trier.left)
            ok = min(report.probes_ok, trier.left - failed)
            trier.left -= ok + failed
            breaker.trial(now_ms, ok, failed, chance)
        if not report.waiting:
            # Its traffic is over: what is left of its lease will not be used.
            for each in self._triers.values():
                each.left = 0 if each.reporter == report.reporter else each.left
        if self._triers and not any(each.left for each in self._triers.values()):
            breaker.end_trial(now_ms, chance)
        return self._after(before, now_ms)

    def _give_up_lost(self, now_ms: int, chance: float) -> None:
        """HALF_OPEN: a worker that holds a lease is heard every second; of one that is gone no result will come."""
        for trier in self._triers.values():
            reporter = self._reporters.get(trier.reporter)
            if reporter is None or not _within(reporter.heard_ms, WAITING_EXPIRES_MS, now_ms):
                trier.left = 0
        if self._triers and not any(each.left for each in self._triers.values()):
            self._breaker.end_trial(now_ms, chance)

    def _after(self, epoch: int, now_ms: int) -> bool:
        """Numbers a record where the circuit has changed its state since that epoch."""
        if self._breaker.epoch == epoch:
            return False
        self._stamp(True)
        if self._breaker.state is not State.HALF_OPEN:
            self._triers = {}
        if self._breaker.state is State.CLOSED:
            self._window.clear()
        for each in self._reporters.values():
            each.over = each.exhausted = False
        return True

    def _look(self, now_ms: int) -> None:
        """Remembers what the window says while the circuit is closed: a record tells it after the trip."""
        if self._breaker.state is State.CLOSED:
            self._seen = self._window.totals(now_ms)

    def _stamp(self, new_state: bool) -> None:
        self.transition += 1
        if new_state:
            self._since = self.pair

    # -- rows -------------------------------------------------------------------------------------------------

    def row(self, now_ms: int) -> bytes:
        """Everything, for the table; times as they are now."""
        breaker = self._breaker
        said: dict[str, Any] = {
            "pair": self.pair, "since": self._since, "window": self._window.rows(now_ms),
            "seen": [self._seen.ok, self._seen.failed, self._seen.slow, self._seen.throttled, self._seen.latency_us],
            "state": breaker.state, "mode": breaker.mode, "reason": breaker.reason, "trips": breaker.trips,
            "until": breaker.until_ms - now_ms, "closed": breaker.closed_ms - now_ms,
            "budget": breaker.budget, "ok": breaker.ok, "failed": breaker.failed,
            "triers": [[number, each.reporter, each.probes, each.left] for number, each in self._triers.items()],
            "reporters": [
                [name, now_ms - each.heard_ms, now_ms - each.began_ms, _age(each.counted_ms, now_ms),
                 _age(each.waiting_ms, now_ms), each.over, each.exhausted]
                for name, each in self._reporters.items()
            ],
        }  # fmt: skip
        return bytes([FORMAT]) + orjson.dumps(said)

    @classmethod
    def of_row(cls, settings: CircuitSettings, target: str, row: bytes, now_ms: int, age_ms: int = 0) -> Fleet:
        """The circuit of a row that was written `age_ms` ago. StateError: a row of a newer release.

        ValueError and its like: it is no row.
        """
        if row[:1] > bytes([FORMAT]):
            raise StateError(
                f"circuit {target}: its row has format {row[0]}, expected {FORMAT}; it was written by a newer release: "
                "upgrade this worker too"
            )
        if row[:1] != bytes([FORMAT]):
            raise ValueError(f"circuit {target}: a row without a format")
        said: Mapping[str, Any] = orjson.loads(row[1:])
        then_ms = now_ms - age_ms
        fleet = cls(settings, target, now_ms)
        fleet.generation, fleet.transition = said["pair"]
        fleet._since = (said["since"][0], said["since"][1])
        fleet._window.restore(now_ms, [[age + age_ms, *counts] for age, *counts in said["window"]])
        fleet._seen = Counts(*said["seen"])
        breaker = fleet._breaker
        breaker.state, breaker.mode = State(said["state"]), Mode(said["mode"])
        breaker.reason, breaker.trips = said["reason"], said["trips"]
        breaker.until_ms, breaker.closed_ms = then_ms + said["until"], then_ms + said["closed"]
        breaker.budget, breaker.ok, breaker.failed = said["budget"], said["ok"], said["failed"]
        fleet._triers = {number: _Trier(name, probes, left) for number, name, probes, left in said["triers"]}
        for name, heard, began, counted, waiting, over, exhausted in said["reporters"]:
            counted_ms, waiting_ms = (None if age is None else then_ms - age for age in (counted, waiting))
            fleet._reporters[name] = _Reporter(
                then_ms - heard, counted_ms, then_ms - began, waiting_ms, over, exhausted
            )
        return fleet


def _within(moment_ms: int | None, span_ms: int, now_ms: int) -> bool:
    return moment_ms is not None and now_ms - moment_ms <= span_ms


def _age(moment_ms: int | None, now_ms: int) -> int | None:
    return None if moment_ms is None else now_ms - moment_ms
