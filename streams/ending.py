"""How a worker's process is told to end: SIGTERM, SIGHUP or Ctrl-C, and a second Ctrl-C that waits for nothing.

The handlers are Python's own and not the event loop's: an agent that holds the loop would keep it from hearing them.
They write to a pipe, and a thread of its own acts: a handler runs in the middle of anything, also of what holds a lock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from streams.errors import EXIT_INTERRUPTED

__all__ = ["Ending", "end_now", "heeded"]

AT_ONCE = "error: interrupted twice: ended at once; what was not committed is read again after a restart"
WORDS_S = 1.0
"""For the last words: whoever reads them may be gone, or stand still, as a pager or a terminal after Ctrl-S does."""
CLOSED = b"\0"
"""No signal has this number."""


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that end a worker: SIGHUP is a terminal that closes, unless `nohup` or a shell had it ignored."""
    ends = (signal.SIGTERM, signal.SIGINT)
    return ends if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*ends, signal.SIGHUP)


class Ending:
    """Whether a worker was told to end, and that its end began. Made in the running loop; `close` after the loop."""

    def __init__(self, begun: Callable[[], None] | None = None) -> None:
        """`begun` is called once, when the end begins, in whatever thread that is."""
        self.told = asyncio.Event()
        self.interrupted = False
        """Whether Ctrl-C came first."""
        self._begun = begun
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._before: dict[signal.Signals, Any] = {}

    def begin(self) -> None:
        """The end begins, in any thread; twice is once."""
        with suppress(RuntimeError):  # the loop is closed: all has ended already
            self._loop.call_soon_threadsafe(self.told.set)
        with self._lock:
            begun, self._begun = self._begun, None
        if begun is not None:
            begun()

    def heed_signals(self) -> None:
        """From here on signals begin the end. In the main thread."""
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)  # a pipe that is full has told enough
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        self._before = {number: signal.signal(number, self._hear) for number in heeded()}

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            os.write(self._writing, bytes([number]))

    def _listen(self) -> None:
        told = False
        while (number := os.read(self._reading, 1)) != CLOSED:
            interrupts = number[0] == signal.SIGINT
            if not told:
                told, self.interrupted = True, interrupts
                self.begin()
            elif interrupts:  # whoever stops services may tell them twice: the drain is bounded. A person is in haste
                end_now(EXIT_INTERRUPTED, AT_ONCE)
        os.close(self._reading)

    def close(self) -> None:
        """Signals go where they went before."""
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.set_blocking(self._writing, True)
        os.write(self._writing, CLOSED)
        os.close(self._writing)


def end_now(code: int, text: str = "") -> NoReturn:
    """The end of the process, in any thread, whatever holds it: also one that waits for its own output to be read."""

    def say() -> None:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode() if text else b"")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()

    words = threading.Thread(target=say, daemon=True)
    with suppress(RuntimeError):  # Python starts none any more when it is about to end
        words.start()
        words.join(WORDS_S)
    os._exit(code)
