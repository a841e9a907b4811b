"""Several workers and one circuit per target: what one sees all know, and nobody's death breaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker import Broker
from tests.faults.receiving import Receivers
from tests.faults.run import Run
from tests.journeys.pages import get
from tests.journeys.process import Worker
from tests.zoo import failing

pytestmark = pytest.mark.faults

PROBES, OPEN_S = 3, 1.0
CIRCUIT = {
    "STREAMS_CIRCUIT__WINDOW_MS": "4000",
    "STREAMS_CIRCUIT__BUCKET_MS": "200",
    "STREAMS_CIRCUIT__CALLS_MIN": "10",
    "STREAMS_CIRCUIT__OPEN_MS": str(int(OPEN_S * 1000)),
    "STREAMS_CIRCUIT__OPEN_MS_MAX": "2000",
    "STREAMS_CIRCUIT__PROBES": str(PROBES),
    "STREAMS_DELIVERY__BACKOFF_MS_MAX": "200",
}
"""Seconds instead of minutes; the share of counts that decides is the default."""
WAIT_S = 60
WATCH_S = 6


def circuit(worker: Worker, target: str) -> dict[str, object]:
    """How a worker sees a target's circuit; empty: not at all."""
    _, body = get(worker, "/circuits")
    views = json.loads(body or '{"circuits": []}')["circuits"]
    return next((view for view in views if view["target"] == target), {})


def owner(workers: list[Worker], target: str) -> Worker:
    """The worker that folds a target's counts."""
    return next(each for each in workers if target in json.loads(get(each, "/circuits")[1] or '{"owned": []}')["owned"])


def wait(condition: Callable[[], object], what: str) -> float:
    """Waits for something to be so; how long it took, in seconds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < WAIT_S, f"not in time: {what}"
        time.sleep(0.05)
    return time.monotonic() - began_s


@pytest.mark.full
def test_three_workers_share_a_circuit_and_its_owner_is_killed(kafka: Broker, tmp_path: Path, seed: int) -> None:
    """60 % errors open it everywhere, trials stay within their budget, the owner's death breaks nothing, it closes."""
    with Receivers("shaky", "well") as receivers, Run(kafka, tmp_path, seed) as run:
        workers = [run.start(name, FAULT_TARGETS=receivers.targets, **CIRCUIT) for name in "abc"]
        shaky = receivers.by_name["shaky"]
        wait(lambda: receivers.ask(lambda: len(shaky.held)) > 200, "deliveries to the target")

        receivers.ask(lambda: setattr(shaky, "refuse", failing(60, 503)))
        took_s = wait(lambda: all(circuit(each, "shaky").get("state") != "closed" for each in workers), "the trip")
        print(f"open in three workers {took_s:.2f} s after the first error")
        assert {"closed"} == {circuit(each, "well").get("state", "closed") for each in workers}

        receivers.ask(lambda: setattr(shaky, "refuse", failing(100, 503)))
        time.sleep(2 * OPEN_S)
        before = receivers.ask(lambda: shaky.requests)
        time.sleep(WATCH_S)
        asked = receivers.ask(lambda: shaky.requests) - before
        print(f"{asked} trial requests of three workers in {WATCH_S} s")
        # Each trial has its probes and follows an open time, which jitter shortens by a fifth at most.
        assert asked <= PROBES * (WATCH_S / (0.8 * OPEN_S) + 1)

        first = owner(workers, "shaky")
        run.kill(first)
        left = [each for each in workers if each is not first]
        time.sleep(2)
        assert all(circuit(each, "shaky").get("state") != "closed" for each in left)

        receivers.ask(lambda: setattr(shaky, "refuse", None))
        took_s = wait(lambda: all(circuit(each, "shaky").get("state") == "closed" for each in left), "the recovery")
        print(f"closed in the others {took_s:.2f} s after the target was well, its owner dead")
        run.finish(receivers)

        assert 0 == shaky.changed


@pytest.mark.full
def test_a_worker_with_trouble_of_its_own_trips_alone(kafka: Broker, tmp_path: Path, seed: int) -> None:
    """One of three workers cannot reach a target that the others reach: its own circuit opens, the fleet's does not."""
    with Receivers("billing") as receivers, Run(kafka, tmp_path, seed) as run:
        others = [run.start(name, FAULT_TARGETS=receivers.targets, **CIRCUIT) for name in "ab"]
        lost = run.start("c", FAULT_TARGETS="billing=http://no-such-host.invalid/patches", **CIRCUIT)

        def own(worker: Worker) -> object:
            local = circuit(worker, "billing").get("local")
            return local["state"] if isinstance(local, dict) else "closed"

        wait(lambda: own(lost) != "closed", "its own trip")
        for _ in range(30):
            assert {"closed"} == {circuit(each, "billing").get("state", "closed") for each in (*others, lost)}
            assert {"closed"} == {own(each) for each in others}
            time.sleep(0.1)
        assert 0 == lost.stop()
        run.finish(receivers)
