"""The kernel's counters under their public names."""

from __future__ import annotations

import re

from prometheus_client.core import CounterMetricFamily

from streams._native import Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.observe.metrics import COUNTERS, counters
from tests.client.place import job_of

LABELS = {"topic", "partition", "target", "reason"}


def test_every_counter_of_the_kernel_has_a_name() -> None:
    """A counter that the kernel gained, or lost, is noticed here."""
    counted = Table(job_of(DeviceState, "devices"), 0).process(Records(), 1).counts

    assert set(counted) == set(COUNTERS)


def test_names_are_prometheus_names() -> None:
    """`streams_`, lower case, the unit last, `_total` added once; one help text for each name."""
    helps: dict[str, str] = {}
    for counter in COUNTERS.values():
        assert re.fullmatch(r"streams(_[a-z]+)+", counter.name)
        assert not counter.name.endswith("_total")
        assert helps.setdefault(counter.name, counter.help) == counter.help


def test_dead_letters_are_counted_by_reason() -> None:
    """One family for all topics and reasons, with no other labels."""
    counts = {"devices": {"dead.undecodable": 3, "dead.missing-key": 1}, "orders": {"dead.undecodable": 2}}
    (family,) = counters(counts)

    assert isinstance(family, CounterMetricFamily)
    found = {(sample.labels["topic"], sample.labels["reason"]): sample.value for sample in family.samples}
    assert {("devices", "undecodable"): 3, ("devices", "missing-key"): 1, ("orders", "undecodable"): 2} == found
    assert "streams_dead_letters_total" == family.samples[0].name
    assert set(family.samples[0].labels) <= LABELS
