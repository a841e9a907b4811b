"""One target's circuit as a table of transitions. Pure: time and chance are arguments.

The owner of a target drives the fleet's circuit with it, and every worker one of its own for its own trouble. Counting
is done elsewhere (`window.py`); what counts say comes in as `Seen`. Every method that may make a transition returns
whether it made one.
"""

from __future__ import annotations

import math
from enum import Enum, IntEnum
from typing import Protocol

from streams.options.delivery import CircuitSettings

__all__ = ["TRANSITIONS", "Breaker", "Mode", "Seen", "State", "Trigger", "crossed"]


class State(IntEnum):
    """The numbers of `Circuit.State`."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class Mode(IntEnum):
    """The numbers of `Circuit.Mode`."""

    AUTOMATIC = 1
    FORCED_OPEN = 2
    FORCED_CLOSED = 3
    METRICS_ONLY = 4


class Trigger(Enum):
    """What makes a circuit change its state; the value is the reason that its record carries."""

    FAILURES = "failures"
    SLOW = "slow"
    EXHAUSTED = "exhausted"
    OPEN_OVER = "open-over"
    TRIAL_OK = "trial-ok"
    TRIAL_FAILED = "trial-failed"
    TRIAL_EXPIRED = "trial-expired"
    FORCE_OPEN = "force-open"
    FORCE_CLOSED = "force-closed"


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.CLOSED, Trigger.FAILURES): State.OPEN,
    (State.CLOSED, Trigger.SLOW): State.OPEN,
    (State.CLOSED, Trigger.EXHAUSTED): State.OPEN,
    (State.OPEN, Trigger.OPEN_OVER): State.HALF_OPEN,
    (State.HALF_OPEN, Trigger.TRIAL_OK): State.CLOSED,
    (State.HALF_OPEN, Trigger.TRIAL_FAILED): State.OPEN,
    (State.HALF_OPEN, Trigger.TRIAL_EXPIRED): State.OPEN,
    (State.CLOSED, Trigger.FORCE_OPEN): State.OPEN,
    (State.HALF_OPEN, Trigger.FORCE_OPEN): State.OPEN,
    (State.OPEN, Trigger.FORCE_CLOSED): State.CLOSED,
    (State.HALF_OPEN, Trigger.FORCE_CLOSED): State.CLOSED,
}
"""All there is; a trigger that a state does not name leaves it as it is."""

COUNTING = (Mode.AUTOMATIC, Mode.METRICS_ONLY)
"""Modes in which counts decide."""
DOUBLINGS_MAX = 30
"""2 to the 30th of any open time is beyond every cap; more would only make the number long."""


class Seen(Protocol):
    """What was counted; `window.Counts` is one."""

    @property
    def calls(self) -> int: ...
    @property
    def failure_rate(self) -> float: ...
    @property
    def slow_rate(self) -> float: ...


def crossed(settings: CircuitSettings, seen: Seen) -> Trigger | None:
    """Which rate is at or above its threshold, however few calls it is of; failures come first."""
    if not seen.calls:
        return None
    if seen.failure_rate >= settings.failure_rate:
        return Trigger.FAILURES
    return Trigger.SLOW if seen.slow_rate >= settings.slow_rate else None


class Breaker:
    """State, mode and the clockwork of one circuit.

    `epoch` counts transitions: what began in an older one comes late and counts nothing. `chance` arguments are random
    numbers from 0 to below 1, for the jitter of the open time.
    """

    __slots__ = (
        "_settings",
        "budget",
        "closed_ms",
        "epoch",
        "failed",
        "mode",
        "ok",
        "reason",
        "state",
        "trips",
        "until_ms",
    )

    def __init__(self, settings: CircuitSettings, now_ms: int) -> None:
        self._settings = settings
        self.state = State.CLOSED
        self.mode = Mode.AUTOMATIC
        self.epoch = 0
        self.reason = ""
        """Why it is in this state; a trial keeps the reason why the circuit is open."""
        self.trips = 0
        """Openings in a row, without having been closed for long."""
        self.until_ms = 0
        """OPEN: a trial may begin from then on. HALF_OPEN: a trial has decided by then."""
        self.closed_ms = now_ms
        """CLOSED since then."""
        self.budget = 1
        """Trial requests of the next trial, or of this one."""
        self.ok = self.failed = 0
        """Results of this trial."""

    def judge(self, now_ms: int, seen: Seen, chance: float) -> bool:
        """CLOSED: opens where a rate is crossed and the calls are enough to say so."""
        if self.state is not State.CLOSED or self.mode not in COUNTING or seen.calls < self._settings.calls_min:
            return False
        trigger = crossed(self._settings, seen)
        return trigger is not None and self._trip(trigger, now_ms, seen, chance)

    def exhaust(self, now_ms: int, seen: Seen, chance: float) -> bool:
        """CLOSED: opens, however few calls there were: attempts ran out, and nothing has succeeded lately."""
        if self.state is not State.CLOSED or self.mode not in COUNTING:
            return False
        return self._trip(Trigger.EXHAUSTED, now_ms, seen, chance)

    def ready(self, now_ms: int) -> bool:
        """OPEN, and the open time is over: a trial may begin."""
        return self.state is State.OPEN and self.mode is not Mode.FORCED_OPEN and now_ms >= self.until_ms

    def begin_trial(self, now_ms: int) -> bool:
        """HALF_OPEN from now on, where that may be; `budget` says with how many requests."""
        if not self.ready(now_ms) or not self._move(Trigger.OPEN_OVER):
            return False
        self.ok = self.failed = 0
        self.until_ms = now_ms + self._settings.half_open_ms_max
        return True

    def trial(self, now_ms: int, ok: int, failed: int, chance: float) -> bool:
        """HALF_OPEN: takes results in, and decides as soon as those that are missing could not change it."""
        if self.state is not State.HALF_OPEN:
            return False
        self.ok += ok
        self.failed += failed
        fatal = max(math.ceil(self._settings.failure_rate * self.budget - 1e-9), 1)
        if self.failed >= fatal:
            return self._reopen(Trigger.TRIAL_FAILED, now_ms, chance)
        return self.ok > self.budget - fatal and self._close(Trigger.TRIAL_OK, now_ms)

    def end_trial(self, now_ms: int, chance: float) -> bool:
        """HALF_OPEN: no more results will come. Decides on those that came; with none, opens for the first open time
        again: nothing was learned, neither good nor bad.
        """
        if self.state is not State.HALF_OPEN:
            return False
        verdict = self.verdict()
        if verdict is Trigger.TRIAL_OK:
            return self._close(verdict, now_ms)
        return self._reopen(verdict, now_ms, chance)

    def verdict(self) -> Trigger:
        """What the results of this trial say so far."""
        results = self.ok + self.failed
        if not results:
            return Trigger.TRIAL_EXPIRED
        return Trigger.TRIAL_FAILED if self.failed >= self._settings.failure_rate * results else Trigger.TRIAL_OK

    def tick(self, now_ms: int, chance: float) -> bool:
        """What time alone does: a trial that has not decided ends. An open circuit waits for traffic to try it with."""
        return self.state is State.HALF_OPEN and now_ms >= self.until_ms and self.end_trial(now_ms, chance)

    def set_mode(self, now_ms: int, mode: Mode, reason: str) -> bool:
        """Does what an operator, or the target itself, wishes; True where state or mode changed.

        A circuit that is no longer forced open is tried at once, with one request: nobody knows how the target is.
        """
        if mode is self.mode:
            return False
        if self.mode is Mode.FORCED_OPEN:
            self.until_ms = now_ms
        self.mode = mode
        if mode is Mode.FORCED_OPEN:
            self._move(Trigger.FORCE_OPEN)
            self.reason, self.budget = reason, 1
        elif mode is Mode.FORCED_CLOSED:
            self._close(Trigger.FORCE_CLOSED, now_ms)
            self.trips = 0
            self.reason = reason
        return True

    def _trip(self, trigger: Trigger, now_ms: int, seen: Seen, chance: float) -> bool:
        if not self._move(trigger):
            return False
        self.trips = 1 if now_ms - self.closed_ms >= self._settings.trips_reset_ms else self.trips + 1
        self.until_ms = now_ms + self._open_ms(self.trips, chance)
        self.budget = min(max(math.ceil(self._settings.probe_share * seen.calls), 1), self._settings.probes)
        return True

    def _reopen(self, trigger: Trigger, now_ms: int, chance: float) -> bool:
        if not self._move(trigger):
            return False
        learned = trigger is Trigger.TRIAL_FAILED
        self.trips += learned
        self.until_ms = now_ms + self._open_ms(self.trips if learned else 1, chance)
        return True

    def _close(self, trigger: Trigger, now_ms: int) -> bool:
        self.closed_ms = now_ms
        return self._move(trigger)

    def _move(self, trigger: Trigger) -> bool:
        to = TRANSITIONS.get((self.state, trigger))
        if to is None:
            return False
        self.state = to
        self.epoch += 1
        if trigger is not Trigger.OPEN_OVER:
            self.reason = trigger.value
        return True

    def _open_ms(self, trips: int, chance: float) -> int:
        """Doubled with each trip, jittered also at the cap: targets that fell together are tried apart for good."""
        settings = self._settings
        base_ms = settings.open_ms * 2 ** min(max(trips - 1, 0), DOUBLINGS_MAX)
        base_ms = min(base_ms, settings.open_ms_max / (1 + settings.open_jitter))
        return max(int(base_ms * (1 + settings.open_jitter * (2 * chance - 1))), 1)
