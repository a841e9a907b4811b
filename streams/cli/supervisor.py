"""Several workers on one machine: one process each, under a parent that reports and restarts nothing.

A worker that ends leaves its partitions to the others; the parent says so and goes on. SIGTERM and Ctrl-C go to every
worker; one that has not drained in time is killed. The parent's exit code is the worst of its workers'.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import FrameType

from streams.errors import EXIT_FAILED, EXIT_INTERRUPTED

__all__ = ["supervise"]

GRACE_MS = 2_000
"""On top of the drain: a process that keeps its promise needs this much to start stopping and to end."""


def supervise(commands: Sequence[Sequence[str]], drain_timeout_ms: int, say: Callable[[str], None]) -> int:
    """Runs one process per command until all have ended; returns the worst exit code, 130 after Ctrl-C.

    Each process holds the reading end of a pipe as its standard input: when the parent dies, it sees the end of it.
    """
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) for command in commands]
    running = {process.pid: process for process in processes}
    interrupted = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = interrupted or number == signal.SIGINT
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, (drain_timeout_ms + GRACE_MS) / 1000)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        for process in running.values():
            process.kill()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, give_up)
    codes = [0]
    try:
        while running:
            pid, status = os.wait()
            ended = running.pop(pid, None)
            if ended is None:
                continue
            ended.returncode = os.waitstatus_to_exitcode(status)
            codes.append(ended.returncode if ended.returncode >= 0 else EXIT_FAILED)
            index = processes.index(ended)
            say(f"worker {index} (process {pid}) ended with {_how(ended.returncode)}; {len(running)} still running")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        give_up(signal.SIGALRM, None)
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
    return EXIT_INTERRUPTED if interrupted and max(codes) in (0, EXIT_INTERRUPTED) else max(codes)


def _how(code: int) -> str:
    """An exit code, or the signal that ended a process, in words."""
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
