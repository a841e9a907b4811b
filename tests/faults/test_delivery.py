"""Deliveries to HTTP receivers while workers are killed: at least once, in order, and level in the end."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.broker import Broker
from tests.faults.receiving import Receivers
from tests.faults.run import Run

pytestmark = pytest.mark.faults


@pytest.mark.full
def test_killed_workers_repeat_little_and_lose_nothing(kafka: Broker, tmp_path: Path, seed: int, kills: int) -> None:
    """Kill -9 at random moments: every receiver ends level; what comes again has the same bytes under the same key."""
    chance = random.Random(seed)
    with Receivers("billing") as receivers, Run(kafka, tmp_path, seed) as run:
        for _ in range(kills):
            worker = run.start("a", FAULT_TARGETS=receivers.targets)
            time.sleep(1 + chance.random() * 2)
            run.kill(worker)
        run.start("a", FAULT_TARGETS=receivers.targets)
        run.finish(receivers)
        billing = receivers.by_name["billing"]

        assert 0 == billing.changed
        assert 0 == billing.stale


@pytest.mark.full
def test_partitions_move_between_workers_that_deliver(kafka: Broker, tmp_path: Path, seed: int) -> None:
    """A second worker joins and the first one leaves cleanly: progress moves with the partitions."""
    with Receivers("billing") as receivers, Run(kafka, tmp_path, seed) as run:
        first = run.start("a", FAULT_TARGETS=receivers.targets)
        time.sleep(2)
        run.start("b", FAULT_TARGETS=receivers.targets)
        time.sleep(3)

        assert 0 == first.stop()

        time.sleep(2)
        run.finish(receivers)
        assert 0 == receivers.by_name["billing"].changed
