"""What an agent is offered after it raised: decided from outcomes and times that others bring, without a clock.

What it raised on is halved down to the single record, in the records' order: nothing behind a record is kept before
that record is taken or is a letter. A single record is tried again with growing pauses. It becomes a letter only where
it is at fault: it failed, the agent took another record, and it failed again. For that a record behind it is offered on
trial, its sends dropped, where nothing else came meanwhile. An agent that does not take that one either takes nothing
(its database is away): the record waits, and is tried again.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Course", "Done", "Letter", "Pause", "Rules", "Run", "Step", "Trial", "backoff"]


class Rules(NamedTuple):
    """How often and how fast a single record is offered again."""

    retries: int
    backoff_s: float
    backoff_max_s: float


class Run(NamedTuple):
    """Offer these records, [first, end); what the agent sends for them is kept."""

    first: int
    end: int


class Trial(NamedTuple):
    """Offer one record further on, behind so many others; what is sent for it is dropped."""

    ahead: int


class Pause(NamedTuple):
    """Nothing before this time. `waiting`: the agent takes nothing at all."""

    until_s: float
    waiting: bool


class Letter(NamedTuple):
    """This record is at fault."""

    at: int


class Done(NamedTuple):
    """Every record was taken, or is a letter."""


Step = Run | Trial | Pause | Letter | Done


def backoff(rules: Rules, failures: int) -> float:
    """Seconds before the next try after so many failures: doubling, up to a limit."""
    return min(rules.backoff_max_s, rules.backoff_s * 2.0 ** min(failures - 1, 32))


class Course:
    """The way of some records that an agent raised on. Its owner asks for a step, does it and tells the outcome."""

    def __init__(self, rules: Rules, records: int) -> None:
        self._rules = rules
        self._left = [(0, records)]  # ranges still to be taken, the next one last
        self._trials = 0
        self._forget()

    def _forget(self) -> None:
        """The next record begins with a clean sheet."""
        self._failures = 0
        self._taken = 0  # what the agent had taken when the record failed first
        self._due_s = 0.0
        self._on_trial = False
        self._waiting = False
        self._at_fault = False

    @property
    def first(self) -> int:
        """The record that is next; behind the last one once all is done."""
        return self._left[-1][0] if self._left else -1

    @property
    def failures(self) -> int:
        """How often the single record that is next has failed."""
        return self._failures

    def step(self, now_s: float, behind: int) -> Step:
        """What to do now. `behind`: how many other records the agent may be tried with."""
        if not self._left:
            return Done()
        first, end = self._left[-1]
        if self._on_trial and not behind:
            self._wait(now_s)
        if now_s < self._due_s:
            return Pause(self._due_s, self._waiting)
        if self._at_fault:
            return Letter(first)
        if self._on_trial:
            return Trial(min(2**self._trials - 1, behind - 1))
        return Run(first, end)

    def taken(self) -> None:
        """The agent took what it was offered, or the letter of it is written."""
        self._left.pop()
        self._forget()

    def failed(self, now_s: float, taken: int, *, is_certain: bool = False) -> None:
        """The agent raised on what it was offered. `taken`: how many times it has taken something else, ever.

        `is_certain`: a single record is at fault, nothing else has to be tried.
        """
        first, end = self._left[-1]
        if end - first > 1:
            middle = (first + end) // 2
            self._left[-1:] = [(middle, end), (first, middle)]
            return
        if not self._failures:
            self._taken = taken
        self._failures += 1
        if is_certain:
            self._at_fault = True
        elif self._failures <= self._rules.retries:
            self._due_s = now_s + backoff(self._rules, self._failures)
        elif taken > self._taken:
            self._at_fault = True
        else:
            self._on_trial = True

    def postponed(self, now_s: float) -> None:
        """What was to be done could not be done now, a letter for example: later."""
        self._failures += 1
        self._wait(now_s)

    def tried(self, now_s: float, *, took: bool, behind: int) -> None:
        """What came of a trial: the agent takes others, so the record gets its last try; or it takes nothing."""
        if took:
            self._on_trial = False
        else:
            self._trials = self._trials + 1 if 2**self._trials - 1 < behind - 1 else 0
            self._wait(now_s)

    def _wait(self, now_s: float) -> None:
        self._on_trial = False
        self._waiting = True
        self._due_s = now_s + backoff(self._rules, self._failures)
