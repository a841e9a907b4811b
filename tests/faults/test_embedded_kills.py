"""kill -9 of a worker on the embedded log, under load and at chosen points: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.site import Site, history
from tests.faults.embedded_agents import is_bad
from tests.faults.run import cases

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
EVENTS_PER_KILL = 600
RECORDS_PER_KILL = 60
END_TIMEOUT_S = 120


class Load:
    """A worker with its load in a directory, started again after each kill."""

    def __init__(self, folder: Path, seed: int, state: str, events: int) -> None:
        self.site = Site(f"embedded://{folder}/log", folder)
        self._arguments = [str(folder), self.site.source, str(seed), str(events), state]
        self._states = history(seed, events, devices=40)

    def start(self, *, at: str = "") -> subprocess.Popen[str]:
        """One more process."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.embedded_worker", *self._arguments, *([at] if at else [])],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=ROOT,
        )  # fmt: skip

    def finish(self) -> None:
        """Lets the last process end by itself; every change of every key is there once then, and in order."""
        with self.start() as process:
            try:
                said, _ = process.communicate(timeout=END_TIMEOUT_S)
            finally:
                process.kill()
        assert "DONE" in said
        asyncio.run(self.site.verify(self._states))


@pytest.mark.parametrize("state", ["memory", "rocksdb"])
def test_killed_at_random_moments(tmp_path: Path, seed: int, kills: int, state: str) -> None:
    """A worker is killed while it starts, restores or works, and started again, over and over."""
    chance = random.Random(seed)
    load = Load(tmp_path, seed, state, events=EVENTS_PER_KILL * (kills + 1))
    for number in range(kills):
        with load.start() as process:
            ready = number % 3 != 2
            moment_s = chance.uniform(0.0, 0.6 if ready else 2.5)
            print(f"kill {number + 1}: {moment_s:.3f} s after {'READY' if ready else 'its start'}")
            if ready:
                assert process.stdout is not None
                assert process.stdout.readline() == "READY\n"
            time.sleep(moment_s)
            process.kill()
    load.finish()


@pytest.mark.parametrize(
    ("state", "at"),
    cases([("memory", "append:7"), ("rocksdb", "write:9")], [("rocksdb", "append:8"), ("rocksdb", "write:1")]),
)
def test_killed_at_a_chosen_point(tmp_path: Path, seed: int, state: str, at: str) -> None:
    """The process dies right after a step of a transaction; the next one takes its place."""
    load = Load(tmp_path, seed, state, events=1_000)
    with load.start(at=at) as process:
        assert process.wait(END_TIMEOUT_S) == -9
    load.finish()


def test_killed_amid_the_retries_of_an_agent(tmp_path: Path, seed: int, kills: int) -> None:
    """What an agent sent in a try that failed, and a kill in the middle of it, costs nobody a record and doubles none:
    each bad record is one letter of the agent that raises, everything else comes out once and in order.
    """
    chance = random.Random(seed)
    site, count = Site(f"embedded://{tmp_path}/log", tmp_path), RECORDS_PER_KILL * (kills + 1)
    command = [sys.executable, "-m", "tests.faults.embedded_agents", str(tmp_path), site.source, str(count)]
    for number in range(kills + 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            if number == kills:
                assert "DONE" in process.communicate(timeout=END_TIMEOUT_S)[0]
                break
            assert process.stdout.readline() == "READY\n"
            moment_s = chance.uniform(0.0, 0.8)
            print(f"kill {number + 1}: {moment_s:.3f} s after READY")
            time.sleep(moment_s)
            process.kill()

    def came(topic: str) -> list[int]:
        return [int(one.value or b"") for one in asyncio.run(site.read(topic))]

    numbers = [number for parity in range(2) for number in range(count) if number % 2 == parity]
    assert numbers == came(f"{site.source}.good")
    assert [number for number in numbers if not is_bad(number)] == came(f"{site.source}.bad")
    letters = asyncio.run(site.read(f"{site.source}.dlq"))
    assert {b"agent-raised"} == {letter.headers["dlq-reason"] for letter in letters}
    assert [number for number in numbers if is_bad(number)] == sorted(int(letter.value or b"") for letter in letters)
