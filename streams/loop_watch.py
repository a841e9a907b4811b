"""Whether the event loop turns: code that holds it, as an agent's call that blocks, holds up every part of the worker.

Nothing in the loop can tell: pages do not answer, and the stall rule does not look. So a thread does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from streams.errors import HeldError

__all__ = ["LoopWatch", "held_by", "place_of"]

log = logging.getLogger(__name__)

TICK_S = 1.0
TURN_S = 0.2
"""A loop that turns does so within this, also on a busy machine."""
HELD_TICKS = 5
"""Told first after so long, then each time it has doubled: a garbage collection or a busy machine takes less."""
HELD_TIMEOUTS_MAX = 5
"""Of the time without progress that ends a worker. What blocks comes back more often than what hangs, and is told all
along; with the default it has five minutes, as Kafka gives a consumer between two polls."""

LIBRARIES = (sysconfig.get_path("stdlib"), "site-packages", str(Path(__file__).parent), "<frozen")


def place_of(frame: FrameType | None) -> str:
    """The innermost line outside of libraries, as `fleet.py:12 in deliver`; where there is none, the innermost."""
    first = frame
    while frame is not None and any(library in frame.f_code.co_filename for library in LIBRARIES):
        frame = frame.f_back
    shown = frame or first
    if shown is None:
        return "an unknown place"
    return f"{Path(shown.f_code.co_filename).name}:{shown.f_lineno} in {shown.f_code.co_name}"


def holder(thread: int) -> str:
    """Where a thread is at the moment; its values are not shown."""
    return place_of(sys._current_frames().get(thread))


def held_by(loop: asyncio.AbstractEventLoop, thread: int | None) -> str | None:
    """Who holds a loop that runs in this thread; None: it turns, or is closed. For another thread."""
    turned = threading.Event()
    try:
        loop.call_soon_threadsafe(turned.set)
    except RuntimeError:  # it is closed
        return None
    return None if thread is None or turned.wait(TURN_S) else holder(thread)


class LoopWatch:
    """Looks at a running loop from a thread, from its making until `close`.

    Ticks are counted and not seconds: a process that was frozen as a whole finds its loop late, and held by nobody.
    """

    def __init__(self, timeout_ms: int, held: Callable[[HeldError], None], expected: Callable[[], bool]) -> None:
        """`timeout_ms`: of a worker without progress. `held` is called once, in the watch's thread, after some of them.

        Not before `expected` was true once: what is called at the start may take its time.
        """
        self._timeout_ms = timeout_ms * HELD_TIMEOUTS_MAX
        self._held = held
        self._expected = expected
        self._is_expected = False
        self._loop = asyncio.get_running_loop()
        self._of = threading.get_ident()
        self._turned = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(TICK_S):
            self._turned.clear()
            try:
                self._loop.call_soon_threadsafe(self._turned.set)
            except RuntimeError:
                return
            self._is_expected = self._is_expected or self._expected()
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        ticks, told = 0, HELD_TICKS
        while not self._turned.wait(TICK_S) and not self._closed.is_set():
            ticks += 1
            if ticks * TICK_S * 1_000 >= self._timeout_ms and self._is_expected:
                self._held(HeldError(holder(self._of), self._timeout_ms))
                self._closed.set()
            elif ticks == told:
                told *= 2
                _say(
                    "%s has held the event loop for %d s: no other part of this worker goes on, and its pages do not "
                    "answer; let it await, or move what blocks into asyncio.to_thread",
                    holder(self._of),
                    ticks,
                )
        if told > HELD_TICKS and self._turned.is_set():
            _say("the event loop turns again, after %d s", ticks)

    def close(self) -> None:
        """Looks no more."""
        self._closed.set()


def _say(what: str, *values: object) -> None:
    """Logs, and does not wait for it: what holds the loop may be a log whose reader stands still."""
    threading.Thread(target=log.warning, args=(what, *values), name="loop watch says", daemon=True).start()
