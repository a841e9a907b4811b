"""A worker's own circuit of one target: it looks at this worker's calls alone, trips at once, and tries its target with
single requests. Pure: time and chance are arguments.
"""

from __future__ import annotations

from typing import Any, Literal

from streams.circuit.breaker import Breaker, State, Trigger, crossed
from streams.circuit.window import Window
from streams.options.delivery import CircuitSettings

__all__ = ["LATENCY", "NAMES", "NUMBERS", "Kind", "Own"]

Kind = Literal["ok", "failed", "slow", "throttled"]

OVER_CALLS_MIN = 3
"""Own calls that a vote for the fleet's trip takes: two of three that fail by chance are one in 3,000 at 1 % failures;
one of one would be one in a hundred."""

NUMBERS: dict[str, int] = {"ok": 0, "failed": 1, "slow": 2, "throttled": 3}
LATENCY = 4
"""Places in five numbers in the order of `Counts`."""
NAMES = {State.CLOSED: "closed", State.OPEN: "open", State.HALF_OPEN: "half-open"}


class Own:
    """The circuit with its window. Transitions go into `moves`: old and new state, reason."""

    def __init__(self, settings: CircuitSettings, moves: list[tuple[str, str, str]], now_ms: int) -> None:
        self._settings = settings
        self._moves = moves
        self._window = Window(settings.window_ms, settings.bucket_ms)
        self._breaker = Breaker(settings, now_ms)
        self._left = 0  # requests that its trial may still make

    @property
    def epoch(self) -> int:
        """Counts its transitions; a call that began in an older one comes late."""
        return self._breaker.epoch

    @property
    def closed(self) -> bool:
        """Whether it lets everything through."""
        return self._breaker.state is State.CLOSED

    @property
    def reason(self) -> str:
        """Why it is open."""
        return f"local {self._breaker.reason}"

    def begin(self, now_ms: int, reason: str) -> None:
        """Starts anew: what it had counted belongs to a former state of the fleet's circuit."""
        old, epoch = self._breaker.state, self._breaker.epoch
        self._breaker = Breaker(self._settings, now_ms)
        self._breaker.epoch = epoch + 1
        self._breaker.reason = reason
        self._moved(old, old is not State.CLOSED)
        self._window.clear()

    def ask(self, now_ms: int, chance: float, busy: bool) -> bool:
        """Whether a trial request may go; `busy`: one is on its way. With the open time over, a trial begins."""
        breaker = self._breaker
        self._moved(breaker.state, breaker.tick(now_ms, chance))
        if not busy and breaker.begin_trial(now_ms):
            self._left = breaker.budget
            self._moved(State.OPEN, True)
        if busy or breaker.state is not State.HALF_OPEN or self._left <= 0:
            return False
        self._left -= 1
        return True

    def refuses(self, now_ms: int, busy: bool) -> bool:
        """As `ask` would say, but changes nothing."""
        state = self.state(now_ms)
        used_up = self._breaker.state is State.HALF_OPEN and self._left <= 0
        return state is State.OPEN or (state is State.HALF_OPEN and (busy or used_up))

    def state(self, now_ms: int) -> State:
        """As the next call would find it: open times and trials that are over by then are over."""
        breaker = self._breaker
        if breaker.state is State.OPEN and breaker.ready(now_ms):
            return State.HALF_OPEN
        if breaker.state is State.HALF_OPEN and now_ms >= breaker.until_ms:
            return State.CLOSED if breaker.verdict() is Trigger.TRIAL_OK else State.OPEN
        return breaker.state

    def open_ms(self, now_ms: int) -> int:
        """How long it stays open."""
        return max(self._breaker.until_ms - now_ms, 0) if self._breaker.state is State.OPEN else 0

    def put_back(self) -> None:
        """A trial request was not made after all."""
        self._left += 1

    def count(self, kind: Kind, latency_us: int, now_ms: int, chance: float, decides: bool) -> None:
        """A call ended. Trial requests decide at once; others only where `decides` says that this circuit counts."""
        breaker, old = self._breaker, self._breaker.state
        if old is State.HALF_OPEN:
            self._moved(old, breaker.trial(now_ms, kind == "ok", kind != "ok", chance))
            return
        numbers = [0, 0, 0, 0, latency_us]
        numbers[NUMBERS[kind]] = 1
        self._window.add_numbers(now_ms, numbers)
        if decides:
            self._moved(old, breaker.judge(now_ms, self._window.totals(now_ms), chance))

    def exhaust(self, now_ms: int, chance: float) -> None:
        """Opens, however few calls there were."""
        old = self._breaker.state
        self._moved(old, self._breaker.exhaust(now_ms, self._window.totals(now_ms), chance))

    def over(self, now_ms: int) -> bool:
        """Whether this worker is over the threshold itself: its vote for the fleet's trip."""
        if not self.closed:
            return True
        seen = self._window.totals(now_ms)
        return seen.calls >= min(OVER_CALLS_MIN, self._settings.calls_min) and crossed(self._settings, seen) is not None

    def view(self, now_ms: int) -> dict[str, Any]:
        """For people."""
        seen = self._window.totals(now_ms)
        return {
            "state": NAMES[self._breaker.state],
            "reason": self._breaker.reason,
            "open_ms": self.open_ms(now_ms),
            "failure_rate": round(seen.failure_rate, 4),
            "slow_rate": round(seen.slow_rate, 4),
            "calls": seen.calls,
        }

    def _moved(self, old: State, moved: bool) -> None:
        if not moved:
            return
        if self.closed:
            self._window.clear()
        new = self._breaker.state
        self._moves.append((f"local-{NAMES[old]}", f"local-{NAMES[new]}", self._breaker.reason))
