"""What all tests share: the real Kafka, the seed, how many kills, Hypothesis' profile."""

from __future__ import annotations

import os
import random
import signal
import zlib
from collections.abc import Iterator

import hypothesis
import pytest

from tests.broker import Broker

# In the environment, so that the processes of a parallel run share it.
SEED = int(os.environ.setdefault("STREAMS_TEST_SEED", str(random.SystemRandom().randrange(1 << 32))))
FULL = os.environ.get("STREAMS_TEST_FAULTS") == "full"
LONG = os.environ.get("STREAMS_TEST_LONG") == "1"

# No deadline: two shared cores say nothing about speed, and speed is never a test here.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, max_examples=200)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


def pytest_report_header() -> str:
    """Names the seed, so that a failed run can be had again."""
    return f"STREAMS_TEST_SEED={SEED} faults={'full' if FULL else 'short'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what uses the broker; STREAMS_TEST_KAFKA=0 leaves exactly that out, for machines without Java.

    Tests marked `full` belong to the full faults alone: they take half a minute each. Tests marked `long` take minutes,
    or clients of other languages: `.ci/full` has them.
    """
    for mark, wanted in (("full", FULL), ("long", LONG)):
        if not wanted:
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(mark)])
            items[:] = [item for item in items if not item.get_closest_marker(mark)]
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
    if os.environ.get("STREAMS_TEST_KAFKA") == "0":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("kafka")])
        items[:] = [item for item in items if not item.get_closest_marker("kafka")]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real Kafka for the whole run. A test that stops it starts it again; topics carry the test's own names."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed, from the run's; printed, so that pytest shows it with a failure."""
    chosen = SEED ^ zlib.crc32(request.node.nodeid.encode())
    print(f"STREAMS_TEST_SEED={SEED} (this test: {chosen})")
    return chosen


@pytest.fixture
def kills() -> int:
    """How many random kills a fault test makes: enough for every run, or the full set."""
    return 20 if FULL else 3


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as a terminal's shell hands them on: under nohup, or behind an &, they are ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
