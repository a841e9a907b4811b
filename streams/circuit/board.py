"""What a worker knows of all circuits: the fleet's, as their owners told it, and its own. Asked before every request.

While traffic flows, asking is one dictionary look-up. The fleet's circuit holds for every worker; beside it a worker
has a circuit of its own per target, for trouble that only it has: that one looks at its own calls alone, trips at once,
and tries its target with single requests of its own. Nothing here waits for anybody: without an owner, what is open
stays open, no lease comes, and the own circuits go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from streams.circuit.breaker import Mode
from streams.circuit.standing import Kind, Pass, Refusal, Standing
from streams.clock import SYSTEM_CLOCK, Clock
from streams.options.delivery import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

__all__ = ["Board", "Kind", "OnChange", "Pass", "Refusal"]

OnChange = Callable[[str, str, str, str], None]
"""Target, old and new state, reason. States: closed, open, half-open, forced-open, forced-closed, and local-closed,
local-open, local-half-open for this worker's own circuit."""

TARGETS_MAX = 10_000
"""Circuits of targets that nobody here asked for; a kilobyte each. Those that are asked for come from settings. Beyond,
those heard of longest ago are forgotten: somebody invents names, and must not keep those out that exist."""


class Board:
    """The circuits of all targets as this worker has them. Used on the event loop; not thread-safe."""

    def __init__(
        self,
        settings: CircuitSettings,
        reporter: str,
        clock: Clock = SYSTEM_CLOCK,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`reporter` names this process, and no other one before or after it: leases are given by that name."""
        self.on_change: list[OnChange] = []
        """Called once per transition that is seen here."""
        self.reporter = reporter
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._standings: dict[str, Standing] = {}
        self._own: set[str] = set()
        self._told: dict[str, None] = {}  # names that were only told of, the one heard of longest ago first

    def ask(self, target: str) -> Pass | Refusal:
        """Before a call. Every pass is brought back by `outcome` or `cancelled`, or a trial waits for it in vain."""
        standing = self._standings.get(target) or self._standing(target)
        if standing.flowing is not None:
            return standing.flowing
        answer = standing.ask(self._now_ms(), self._chance())
        self._tell(standing)
        return answer

    def outcome(self, leave: Pass, kind: Kind, latency_us: int) -> None:
        """How the call ended. One that was let through under a former state of the circuit counts nothing."""
        standing = self._standing(leave.target)
        standing.outcome(leave, kind, latency_us, self._now_ms(), self._chance())
        self._tell(standing)

    def count(self, target: str, kind: Kind, latency_us: int) -> None:
        """An outcome of something that nobody asked for before: a failed produce."""
        standing = self._standing(target)
        standing.count(kind, latency_us, self._now_ms(), self._chance())
        self._tell(standing)

    def cancelled(self, leave: Pass) -> None:
        """The call never happened, or was broken off by this side: it says nothing, and may be made again."""
        self._standing(leave.target).cancelled(leave)

    def exhausted(self, target: str) -> None:
        """Attempts ran out and nothing has succeeded lately: opens here at once, and asks the fleet to do so."""
        standing = self._standing(target)
        standing.exhausted(self._now_ms(), self._chance())
        self._tell(standing)

    def waiting(self, target: str, yes: bool) -> None:
        """Whether traffic waits for the target: a lease goes to those who would use it."""
        self._standing(target).wait(yes)

    def set_mode(self, target: str, mode: int, *, gone: bool = False) -> None:
        """An operator's wish, or with `gone` that of a target that answered 410; the owner makes it the fleet's.

        `mode` is one of `Circuit.Mode`. Forced open it is here at once.
        """
        self._standing(target).set_mode(Mode(mode), gone)

    def is_open(self, target: str) -> bool:
        """Whether a call would be refused now; changes nothing."""
        standing = self._standings.get(target)
        return standing is not None and standing.refuses(self._now_ms())

    def state(self, target: str) -> str:
        """In a word: closed, open, or half-open, when single calls may go to try it; changes nothing."""
        standing = self._standings.get(target)
        return "closed" if standing is None else standing.state(self._now_ms())

    def take(self, circuit: Circuit) -> None:
        """Takes a record of the circuits topic in. One that is not above what is known of its target is ignored."""
        target = circuit.target
        if not target:
            return
        standing = self._standings.get(target)
        if standing is None:
            standing = self._standings[target] = self._new(target)
            if target not in self._own:
                self._told[target] = None
        elif target in self._told:
            self._told[target] = self._told.pop(target)
        if len(self._told) > TARGETS_MAX:
            oldest = next(iter(self._told))
            del self._told[oldest], self._standings[oldest]
        standing.take(circuit, self._now_ms())
        self._tell(standing)

    def drain(self) -> list[Outcomes]:
        """What is to be reported: increments since the last drain. Targets without news are left out."""
        now_ms = self._now_ms()
        reports = (standing.drain(now_ms) for standing in self._standings.values())
        return [report for report in reports if report is not None]

    def give_back(self, reports: Iterable[Outcomes]) -> None:
        """A drain was not acknowledged: what it held is reported again."""
        for report in reports:
            self._standing(report.target).give_back(report)

    def view(self) -> list[dict[str, Any]]:
        """Every circuit for people and for GET /circuits, by target."""
        now_ms = self._now_ms()
        return [standing.view(now_ms) for _, standing in sorted(self._standings.items())]

    def expect(self, target: str) -> None:
        """The target is one of this worker's own: its circuit is never forgotten."""
        self._own.add(target)

    def expects(self, target: str) -> bool:
        """Whether the target is one of this worker's own."""
        return target in self._own

    def _standing(self, target: str) -> Standing:
        """The circuit of a target that is asked for here."""
        self._told.pop(target, None)
        standing = self._standings.get(target)
        if standing is None:
            standing = self._standings[target] = self._new(target)
        return standing

    def _new(self, target: str) -> Standing:
        return Standing(target, self.reporter, self._settings, self._now_ms())

    def _tell(self, standing: Standing) -> None:
        if not standing.moves:
            return
        moves = list(standing.moves)
        standing.moves.clear()
        for old, new, reason in moves:
            for listener in self.on_change:
                listener(standing.target, old, new, reason)

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)
