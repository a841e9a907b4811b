"""streams.cli.supervisor: several workers under one parent. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.cli.supervisor import Restarts

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
    """Every child is reported as it ends; the parent goes on and ends with the worst code.

    A child that was stopped, or whose settings are wrong, is not started again.
    """
    process = parent(1_000, "import sys; sys.exit(0)", "import sys; sys.exit(2)", "import sys; sys.exit(130)")
    told, _ = process.communicate(timeout=30)

    assert 130 == process.returncode
    assert 3 == told.count("ended with")
    assert "code 2; " in told
    assert "mend what it named first" in told


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit(1)"])
def test_a_child_that_died_is_started_again(end: str, tmp_path: Path) -> None:
    """One that was killed or failed comes back; its last code counts, and its sister runs on meanwhile."""
    dies_once = f"import os, sys\nif not os.path.exists('died'):\n    open('died', 'w')\n    {end}\n{DRAINS}"
    process = parent(10_000, dies_once, DRAINS, cwd=tmp_path)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)

    assert 0 == process.wait(timeout=30)
    assert 2 == told.count("up\n"), told
    assert any("1 still running; it is started again in 1 s" in line for line in told), told


def test_a_child_that_waits_to_be_started_again_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """SIGTERM while a child that failed waits for its next start: nothing is started any more, and its code counts."""
    process = parent(10_000, "import sys; sys.exit(1)")
    assert process.stdout is not None
    told = process.stdout.readline()
    process.send_signal(signal.SIGTERM)

    assert 1 == process.wait(timeout=30)
    assert "started again" in told
    assert process.stdout.read().count("ended") == 0


def test_the_pauses_grow_and_begin_anew_after_steady_work() -> None:
    """A second, doubled up to a minute; a worker that was up for long begins with the first pause again."""
    restarts = Restarts()
    pauses = [restarts.pause_s(-9, 10.0) for _ in range(8)]

    assert [1, 2, 4, 8, 16, 32, 60, 60] == pauses
    assert 1 == restarts.pause_s(1, 300.0)
    assert 2 == restarts.pause_s(1, 299.0)
    assert [None, None, None] == [restarts.pause_s(code, 1_000.0) for code in (0, 2, 130)]


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


def test_a_second_interrupt_kills_every_child() -> None:
    """The drain may take its time; who presses Ctrl-C twice does not wait for it."""
    process = parent(60_000, IGNORES, IGNORES)
    wait_up(process, 2)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)

    assert 130 == process.wait(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("terminal")
def test_a_child_that_had_not_begun_was_asked_to_end(number: signal.Signals) -> None:
    """SIGTERM ends a child that does not heed it yet: nothing failed."""
    process = parent(10_000, UP + "up()\nsignal.pause()")
    wait_up(process, 1)
    process.send_signal(number)

    assert 0 == process.wait(timeout=30)


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
