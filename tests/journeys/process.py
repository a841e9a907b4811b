"""A worker, and any other command, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 60
"""Two busy cores have been seen to need half of it for a group's first rebalance."""


def streams(*arguments: str, cwd: Path, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end; `text` is its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
        cwd=cwd, input=text, env=_environment(cwd, environment),
    )  # fmt: skip


class Worker:
    """`streams worker` with these arguments, in a directory of its own; ended when the block ends."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self._arguments = arguments
        self._cwd = cwd
        self._environment = environment
        self.lines: list[str] = []
        self.log = cwd / f"worker-{id(self)}.log"

    def __enter__(self) -> Self:
        self.port = free_port()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "worker", "--set", f"app.web_port={self.port}", *self._arguments],
                stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, cwd=self._cwd,
                env=_environment(self._cwd, self._environment),
            )  # fmt: skip
        threading.Thread(target=self._collect, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if error is not None:
            print(self.log.read_text(errors="replace")[-6000:])

    def wait_ready(self, count: int = 1) -> None:
        """Waits until so many READY lines are out."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while sum(line.startswith("READY") for line in self.lines) < count:
            assert self.process.poll() is None, f"worker ended with {self.process.returncode}"
            assert time.monotonic() < deadline_s, "no READY line in time"
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def _collect(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


def _environment(cwd: Path, more: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMS_")}
    return {**kept, "PYTHONPATH": f"{ROOT}:{cwd}", "NO_COLOR": "1", **more}
