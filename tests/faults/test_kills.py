"""kill -9 under load, and at chosen points: nothing lost, nothing doubled, whatever was killed meanwhile."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.broker import Broker
from tests.faults.run import Run, cases

pytestmark = pytest.mark.faults


KINDS = [("memory", "exactly_once"), ("rocksdb", "exactly_once"), ("memory", "at_least_once")]


@pytest.mark.parametrize(("state", "guarantee"), cases(KINDS[:1], [*KINDS[1:], ("rocksdb", "at_least_once")]))
def test_no_fault(kafka: Broker, tmp_path: Path, seed: int, state: str, guarantee: str) -> None:
    """One worker, started, stopped and started again: the check itself finds nothing."""
    with Run(kafka, tmp_path, seed, state=state, guarantee=guarantee) as run:
        worker = run.start()
        time.sleep(1)

        assert 0 == worker.stop()

        run.start()
        result = run.finish()

        assert 0 == result.repeats


@pytest.mark.parametrize(("state", "guarantee"), cases(KINDS[:2], [*KINDS[2:], ("rocksdb", "at_least_once")]))
def test_killed_at_random_moments(
    kafka: Broker, tmp_path: Path, seed: int, kills: int, state: str, guarantee: str
) -> None:
    """A worker is killed while it starts, restores or works, and started again, over and over."""
    chance = random.Random(seed)
    with Run(kafka, tmp_path, seed, state=state, guarantee=guarantee) as run:
        for number in range(kills):
            worker = run.start(ready=number % 3 != 2)
            moment_s = chance.uniform(0.05, 3 if number % 3 != 2 else 6)
            time.sleep(moment_s)
            print(f"kill {number + 1}: {moment_s:.3f} s after {'READY' if number % 3 != 2 else 'its start'}")
            run.kill(worker)
        run.start()
        run.finish()


@pytest.mark.parametrize(
    ("state", "guarantee", "point"),
    cases(
        [
            ("memory", "exactly_once", "send_offsets:5"),
            ("rocksdb", "exactly_once", "write:9"),
        ],
        [
            ("memory", "exactly_once", "commit:7"),
            ("memory", "at_least_once", "flush:7"),
            ("memory", "exactly_once", "begin:4"),
            ("memory", "exactly_once", "produce:21"),
            ("memory", "exactly_once", "flush:6"),
            ("rocksdb", "exactly_once", "commit:6"),
            ("memory", "at_least_once", "flush:8"),
            ("rocksdb", "at_least_once", "write:9"),
        ],
    ),
)
def test_killed_at_a_chosen_point(
    kafka: Broker, tmp_path: Path, seed: int, state: str, guarantee: str, point: str
) -> None:
    """The process dies right after a step of a transaction; the next one takes its place."""
    with Run(kafka, tmp_path, seed, state=state, guarantee=guarantee) as run:
        worker = run.start(FAULT_AT=point, ready=False)

        assert -9 == worker.process.wait(60)

        run.start()
        run.finish()
