"""streams.cli.supervisor: several workers under one parent. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import sys
from streams.cli.supervisor import supervise
children = [[sys.executable, "-c", code] for code in sys.argv[2:]]
sys.exit(supervise(children, int(sys.argv[1]), lambda text: print(text, flush=True)))
"""
# The children share one pipe: each says its line in one write, which the kernel does not tear (PIPE_BUF in pipe(7)).
UP = "import os, signal, sys\nup = lambda: os.write(1, b'up\\n')\n"
DRAINS = UP + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nup()\nsignal.pause()"
IGNORES = UP + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nup()\nwhile 1: signal.pause()"
WATCHES = UP + "up()\nsys.stdin.read()\nopen('gone', 'w')"


def parent(drain_ms: int, *children: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A supervising process with these children."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(drain_ms), *children], stdout=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def wait_up(process: subprocess.Popen[str], count: int) -> None:
    """Waits until so many children have said that they are up."""
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline() == "up\n"


def test_the_exit_code_is_the_worst() -> None:
    """Every child is reported as it ends; the parent goes on and ends with the worst code."""
    process = parent(1_000, "import sys; sys.exit(0)", "import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)")
    told, _ = process.communicate(timeout=30)

    assert 3 == process.returncode
    assert 3 == told.count("ended with")
    assert "SIGKILL" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_drains_every_child(number: signal.Signals, code: int) -> None:
    """SIGTERM and Ctrl-C reach all children as SIGTERM; a clean drain ends with 0, after Ctrl-C with 130."""
    process = parent(10_000, DRAINS, DRAINS)
    wait_up(process, 2)
    process.send_signal(number)

    assert code == process.wait(timeout=30)


def test_a_child_that_does_not_drain_is_killed() -> None:
    """After drain time and grace what still runs is killed, and the exit code says that it failed."""
    process = parent(100, IGNORES, DRAINS)
    wait_up(process, 2)
    process.send_signal(signal.SIGTERM)

    assert 1 == process.wait(timeout=30)


def test_children_notice_that_the_parent_died(tmp_path: Path) -> None:
    """A parent that is killed closes the children's standard input, which is their sign to drain."""
    process = parent(1_000, WATCHES, cwd=tmp_path)
    wait_up(process, 1)
    process.kill()
    process.wait()
    for _ in range(300):
        if (tmp_path / "gone").exists():
            break
        time.sleep(0.1)

    assert (tmp_path / "gone").exists()
