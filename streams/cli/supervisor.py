"""Several workers on one machine: one process each, under a parent that starts those again that died.

A worker that dies leaves its partitions to the others meanwhile; the parent says so, waits, and starts it again. One
that was stopped, or whose settings are wrong, is left alone. SIGTERM, SIGHUP and Ctrl-C go to every
worker as SIGTERM; one that has not drained in time is killed, and after a second Ctrl-C all are, at once. The parent's
exit code is the worst of its workers' last ones.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from streams.clock import SYSTEM_CLOCK, Clock
from streams.ending import heeded
from streams.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SETTINGS

__all__ = ["Restarts", "supervise"]

GRACE_MS = 2_000
"""On top of the drain: a process that keeps its promise needs this much to start stopping and to end."""
FIRST_PAUSE_S = 1.0
"""Long enough for a port or a lock to be let go, short enough that the group hardly notices."""
PAUSE_MAX_S = 60.0
"""A worker that cannot live is tried once a minute: each try moves partitions, and somebody may mend it at any time."""
STEADY_S = 300.0
"""One that was up for so long had started well: what ended it is a new trouble, and begins with the first pause."""
WAKE_BYTES_MAX = 4_096


class Restarts:
    """When one worker is started again. Pure."""

    def __init__(self) -> None:
        self._failures = 0

    def pause_s(self, code: int, up_s: float) -> float | None:
        """Seconds until it is started again after an exit code (negative: a signal); None: it is not.

        It was asked to end, or a fresh process would meet the same settings.
        """
        if code in (EXIT_DONE, EXIT_SETTINGS, EXIT_INTERRUPTED):
            return None
        self._failures = 0 if up_s >= STEADY_S else self._failures
        pause_s: float = min(PAUSE_MAX_S, FIRST_PAUSE_S * 2**self._failures)
        self._failures = self._failures + 1 if pause_s < PAUSE_MAX_S else self._failures
        return pause_s


class _Child:
    """One worker: its process, or when the next one is due."""

    def __init__(self, command: Sequence[str], clock: Clock) -> None:
        self._command = command
        self._clock = clock
        self._restarts = Restarts()
        self.start()

    def start(self) -> None:
        """Starts it. The reading end of a pipe is its standard input: when the parent dies, it sees the end of it."""
        self.pause_s: float | None = None
        self.due_s: float | None = None
        self.started_s = self._clock.monotonic_s()
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)
        self.runs = True

    def ended(self) -> bool:
        """Whether it has ended since the last call; then it is decided whether it will be due again."""
        if not self.runs or self.process.poll() is None:
            return False
        self.runs = False
        if self.process.stdin is not None:
            with suppress(OSError):  # nobody reads it any more
                self.process.stdin.close()
        now_s = self._clock.monotonic_s()
        pause_s = self._restarts.pause_s(self.process.returncode, now_s - self.started_s)
        self.pause_s, self.due_s = pause_s, None if pause_s is None else now_s + pause_s
        return True

    @property
    def code(self) -> int:
        """The last exit code, as the parent's. SIGTERM ended one that had not come to heed it: it was asked to end."""
        if self.process.returncode == -signal.SIGTERM:
            return EXIT_DONE
        return self.process.returncode if self.process.returncode >= 0 else EXIT_FAILED


class _Signals:
    """What this process was told, and a wait that ends with the next signal. Used once, in the main thread."""

    def __init__(self) -> None:
        self.stop = self.interrupted = self.at_once = False
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        os.set_blocking(self._reading, False)
        self._before = {number: signal.signal(number, self._heard) for number in (*heeded(), signal.SIGCHLD)}
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        self.at_once = self.at_once or (self.stop and number == signal.SIGINT)
        self.stop = self.stop or number != signal.SIGCHLD
        self.interrupted = self.interrupted or number == signal.SIGINT

    def wait(self, timeout_s: float | None) -> None:
        """Returns with a signal, or one that came before, or after so long."""
        select.select([self._reading], [], [], timeout_s)
        with suppress(BlockingIOError):
            os.read(self._reading, WAKE_BYTES_MAX)

    def close(self) -> None:
        """Signals go where they went before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reading)
        os.close(self._writing)


def supervise(
    commands: Sequence[Sequence[str]], drain_timeout_ms: int, say: Callable[[str], None], clock: Clock = SYSTEM_CLOCK
) -> int:
    """Runs one process per command until all have ended for good; returns the worst exit code, 130 after Ctrl-C."""
    signals = _Signals()
    children: list[_Child] = []
    kill_s: float | None = None
    try:
        children += [_Child(command, clock) for command in commands]
        while True:
            _report(children, stopping=signals.stop, say=say)
            running = [child for child in children if child.runs]
            if signals.stop and kill_s is None:
                kill_s = clock.monotonic_s() + (drain_timeout_ms + GRACE_MS) / 1000
                for child in running:
                    child.process.send_signal(signal.SIGTERM)
            waiting = [] if signals.stop else [child for child in children if child.due_s is not None]
            if not running and not waiting:
                break
            now_s = clock.monotonic_s()
            for child in waiting:
                if child.due_s is not None and child.due_s <= now_s:
                    child.start()
            if kill_s is not None and (kill_s <= now_s or signals.at_once):
                for child in running:
                    child.process.kill()
                kill_s = float("inf")  # nothing escapes it
            until = [*(child.due_s for child in waiting if child.due_s is not None), *([kill_s] if kill_s else [])]
            timeout_s = min(until, default=float("inf")) - now_s
            signals.wait(max(0.0, timeout_s) if timeout_s != float("inf") else None)
    finally:
        for child in children:
            if child.runs:
                child.process.kill()
                child.process.wait()
        signals.close()
    worst = max((child.code for child in children), default=EXIT_DONE)
    return (
        EXIT_INTERRUPTED
        if signals.interrupted and (signals.at_once or worst in (EXIT_DONE, EXIT_INTERRUPTED))
        else worst
    )


def _report(children: Sequence[_Child], *, stopping: bool, say: Callable[[str], None]) -> None:
    """A line for each worker that has ended."""
    for index, child in enumerate(children):
        pid = child.process.pid
        if not child.ended():
            continue
        left = sum(other.runs for other in children)
        what = f"worker {index} (process {pid}) ended with {_how(child.process.returncode)}; {left} still running"
        if child.pause_s is not None and not stopping:
            what += f"; it is started again in {child.pause_s:.0f} s"
        elif child.process.returncode == EXIT_SETTINGS:
            what += "; it is not started again: mend what it named first"
        say(what)


def _how(code: int) -> str:
    """An exit code, or the signal that ended a process, in words."""
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
