"""Reading a changelog: what a transport offers for it, and telling how far it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from streams.clock import SYSTEM_CLOCK, Clock
from streams.transport.tail import Positions, Progress, Sink

__all__ = ["LogReader", "RestoreReport", "remaining_s"]

log = logging.getLogger(__name__)

REPORT_EVERY_S = 2.0
"""A short restore says nothing; a long one is seen to move."""


class LogReader(Protocol):
    """What a transport offers for restoring."""

    marker_offsets: int
    """How many offsets the end of a transaction takes behind its records."""

    def read_log(
        self, start: Positions, sink: Sink, keep_going: Callable[[], bool], progress: Progress | None = None
    ) -> dict[tuple[str, int], int]:
        """Reads committed records from `start` to the end as of now; next offsets. Blocks."""
        ...

    def log_start(self, topic: str, partition: int) -> int:
        """First offset of a partition that is still there. Blocks."""
        ...

    def log_end(self, topic: str, partition: int) -> int:
        """Next offset of a partition. Blocks."""
        ...

    def open_end(self, topic: str, partition: int) -> int:
        """Next offset of a partition, records of open transactions included. Blocks."""
        ...


def remaining_s(done: int, total: int, elapsed_s: float) -> float | None:
    """Seconds left at the rate so far; None before there is a rate."""
    if done <= 0 or elapsed_s <= 0:
        return None
    return (total - done) * elapsed_s / done


class RestoreReport:
    """Called with records read and records to read; logs now and then, and tells `declare` why there is no progress."""

    def __init__(self, name: str, declare: Callable[[str], None], clock: Clock = SYSTEM_CLOCK) -> None:
        self._name = name
        self._declare = declare
        self._clock = clock
        self._began = self._said = clock.monotonic_s()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock.monotonic_s()
        elapsed_s = now - self._began
        left_s = remaining_s(done, total, elapsed_s)
        share = done / total if total else 1.0
        text = f"restoring state: {share:.0%} of {total} changelog records"
        if left_s is not None:
            text += f", {done / elapsed_s:,.0f}/s, about {left_s:.0f} s left"
        self._declare(text)
        if now - self._said >= REPORT_EVERY_S:
            self._said = now
            log.info("%s: %s", self._name, text)
