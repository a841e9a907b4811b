"""The benchmarks on real Kafka in their small form: they run, and what they measure is right."""

from __future__ import annotations

import pytest

from benchmarks import pipeline, restore
from benchmarks.workload import SMALL
from tests.broker import Broker


@pytest.mark.parametrize(("guarantee", "state"), [("exactly_once", "memory"), ("at_least_once", "rocksdb")])
def test_pipeline_puts_out_what_a_plain_replay_does(kafka: Broker, guarantee: str, state: str) -> None:
    """Every patch of the small workload, once, in order, whatever the guarantee: nothing was killed."""
    figures = pipeline.run(kafka.url, SMALL, guarantee, state)

    assert figures.get("findings") is None
    assert figures["verified"] is True
    assert figures["events"] == SMALL.events
    assert figures["counts"]["patches"] == 47_578


def test_restore_brings_every_key_back(kafka: Broker) -> None:
    """As many rows as the changelog has keys."""
    figures = restore.run(kafka.url, restore.SMALL_KEYS)

    assert figures["verified"] is True
    assert figures["keys"] == restore.SMALL_KEYS
