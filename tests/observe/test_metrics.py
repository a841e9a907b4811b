"""The kernel's counters under their public names."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.core import CounterMetricFamily

import streams
from streams._native import Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.observe.metrics import COUNTERS, DELIVERY_COUNTERS, WITH_REASON, counters, deliveries
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


def test_a_counter_without_a_description_costs_no_other() -> None:
    """Found: one new counter of a route, or of the kernel, made the whole of /metrics fail."""
    shown = list(deliveries({"t": {"dropped": 2, "patches": 3, "patches.late": 1, "answers.ok": 4, "answers": 5}}))
    kernel = list(counters({"devices": {"events": 1, "invented": 2}}))

    assert {("streams_delivery_other_total", "dropped", 2), ("streams_delivery_other_total", "patches.late", 1),
            ("streams_delivery_other_total", "answers", 5), ("streams_delivered_patches_total", None, 3),
            ("streams_delivery_answers_total", "ok", 4)} == _samples(shown)  # fmt: skip
    assert {("streams_kernel_other_total", "invented", 2), ("streams_events_total", None, 1)} == _samples(kernel)
    assert len({family.name for family in shown}) == len(shown)


def _samples(families: list[CounterMetricFamily]) -> set[tuple[str, str | None, float]]:
    """Name, reason and value of every sample."""
    return {(each.name, each.labels.get("reason"), each.value) for family in families for each in family.samples}


def test_every_counter_of_a_delivery_is_described() -> None:
    """What the delivery's code counts, as it is written there."""
    text = "".join(path.read_text() for path in (Path(streams.__file__).parent / "delivery").glob("*.py"))
    counted = set(re.findall(r"""counts\[f?"(\w+)(\.?)""", text))

    assert {(name, "." if name in WITH_REASON else "") for name in DELIVERY_COUNTERS} == counted


def test_dead_letters_are_counted_by_reason() -> None:
    """One family for all topics and reasons, with no other labels."""
    counts = {"devices": {"dead.undecodable": 3, "dead.missing-key": 1}, "orders": {"dead.undecodable": 2}}
    (family,) = counters(counts)

    assert isinstance(family, CounterMetricFamily)
    found = {(sample.labels["topic"], sample.labels["reason"]): sample.value for sample in family.samples}
    assert {("devices", "undecodable"): 3, ("devices", "missing-key"): 1, ("orders", "undecodable"): 2} == found
    assert "streams_dead_letters_total" == family.samples[0].name
    assert set(family.samples[0].labels) <= LABELS
