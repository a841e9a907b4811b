"""Ctrl-C in a command that sends: what is under way gets a moment, then the process ends.

librdkafka's calls cannot be interrupted, and Python waits at its end for the threads that are in one: without a broker,
that is for minutes. A read of an idle terminal or pipe goes on after a handler that only takes note.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from streams.ending import end_now
from streams.errors import EXIT_INTERRUPTED

__all__ = ["ends_in_time"]

MOMENT_S = 5.0
"""A broker that is up acknowledges within one; longer, and people press again."""


@contextmanager
def ends_in_time(moment_s: float = MOMENT_S) -> Iterator[None]:
    """Within it the first Ctrl-C raises KeyboardInterrupt and starts the clock, the second one ends the process."""
    clock = threading.Timer(moment_s, _end)
    clock.daemon = True

    def heard(_number: int, _frame: FrameType | None) -> None:
        if clock.is_alive():
            _end()
        clock.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        if not clock.is_alive():  # else Python's own end is what may wait
            signal.signal(signal.SIGINT, before)


def _end() -> None:
    """The end of the process, whatever it waits for."""
    end_now(EXIT_INTERRUPTED, "error: interrupted; what was being sent may or may not have arrived")
