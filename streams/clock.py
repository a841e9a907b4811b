"""The clock: the one place that asks the machine what time it is.

Decisions take time as an argument; carriers and flows get a `Clock` and ask it. A test, ours or a user's, passes a
`ManualClock` and moves it.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the house asks of a clock."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since 1970-01-01 UTC. May jump, also backwards: stamp with it, never measure."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment. Never goes backwards: measure with it, never stamp."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment, never going backwards."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is moved.

    Both of its readings move together with `advance`; `set_wall` moves the wall time alone, as an operator or NTP does.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        """Wall time in milliseconds, as set."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds advanced since this clock was made."""
        return self._monotonic_s

    def advance(self, ms: float) -> None:
        """Lets `ms` milliseconds pass. ValueError for a negative number: time does not run backwards here."""
        if ms < 0:
            raise ValueError(f"advance: got {ms} ms, expected 0 or more; set_wall moves the wall time back")
        self._monotonic_s += ms / 1000
        self._now_ms += int(ms)

    def set_wall(self, now_ms: int) -> None:
        """Sets the wall time alone, forwards or backwards."""
        self._now_ms = now_ms


SYSTEM_CLOCK = SystemClock()
