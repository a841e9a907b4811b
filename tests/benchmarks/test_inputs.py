"""What the benchmarks are fed with, and how they count what comes out."""

from __future__ import annotations

import pytest

from benchmarks import vehicles, wide
from benchmarks.compression import merge_patch
from benchmarks.latency import PARTITIONS, WARM_S, WINDOWS, Cycle, percentile, windows
from benchmarks.scaling import between
from benchmarks.wide import Load
from benchmarks.workload import SMALL
from streams._native import Records, Table, murmur2_partition
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.sync.agent import make_job


@pytest.mark.parametrize(
    "load",
    [
        Load(50, 400),
        Load(50, 400, changed=0.0),
        Load(50, 400, message_bytes=100, changed=1.0),
        Load(50, 400, message_bytes=10_000),
        Load(50, 400, duplicates=0.5),
    ],
    ids=["usual", "nothing changes", "everything changes", "large", "duplicates"],
)
def test_events_make_as_many_patches_as_was_said(load: Load) -> None:
    """The kernel counts them, and sizes are about what was asked for."""
    job = make_job(
        MessageSchema(wide.message_class()), SyncSettings(source="wide"), "wide", partitions=0, record_bytes_max=1 << 20
    )
    table, made, offset, size = Table(job, 0), 0, 0, 0
    for batch in wide.batches(wide.events(load)):
        batch.assign(offset, 0)
        offset += len(batch)
        step = table.process(batch, 1_700_000_000_000)
        table.commit(step.mark)
        made += step.counts["patches"]
        size += step.counts["value_bytes"]

    assert load.total == offset
    assert wide.patches(load) == made
    assert load.message_bytes * 0.8 <= size / offset <= load.message_bytes * 1.2


def test_events_of_keys_that_exist_begin_at_once() -> None:
    """Rows come from elsewhere then."""
    load = Load(50, 100, already=True)

    assert 100 == sum(1 for _ in wide.events(load)) == wide.patches(load)
    assert 50 == sum(1 for _ in wide.created(load))


def test_vehicles_drive_the_same_way_every_time() -> None:
    """The schema loads, and every report is a state of its own."""
    first = [(key, message.SerializeToString()) for key, message in vehicles.states(3, 4)]

    assert first == [(key, message.SerializeToString()) for key, message in vehicles.states(3, 4)]
    assert 12 == len(set(first))


def test_a_merge_patch_is_rfc_7386s() -> None:
    """Objects are merged, lists replaced, what is gone is null."""
    old = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2], "f": 1}
    new = {"a": 1, "b": {"c": 1, "d": 3}, "e": [1], "g": {"h": 1}}

    assert {"b": {"d": 3}, "e": [1], "f": None, "g": {"h": 1}} == merge_patch(old, new)


def test_a_cycle_knows_each_event_by_its_place() -> None:
    """Partition and offset lead back to the event, round after round; patches are counted as a replay does."""
    cycle = Cycle(SMALL, 300)
    places = [0] * PARTITIONS
    held: dict[bytes, bytes] = {}
    patches, number = 0, 0
    for records in cycle.slice(0, 750):
        for index in range(len(records)):
            key, value = records.key(index) or b"", records.value(index) or b""
            partition = murmur2_partition(key, PARTITIONS)
            assert number == cycle.number(partition, places[partition])
            places[partition] += 1
            patches += held.get(key) != value
            held[key] = value
            number += 1
            assert patches == cycle.patches(number)

    assert 750 == number


def test_percentiles_are_those_of_windows_without_the_first_second() -> None:
    """What was due early is left out; each window counts for itself."""
    early = [(WARM_S / 2, 5_000.0)]
    steady = [(WARM_S + second / 100, float(second % 10)) for second in range(100 * WINDOWS)]

    found = windows([*early, *steady], WARM_S + WINDOWS)

    assert {"minimum": 9.0, "median": 9.0, "maximum": 9.0} == found["p99_ms"]
    assert {} == windows(early, WARM_S + WINDOWS)
    assert 3 == percentile([1, 2, 3], 0.99)


def test_cost_is_counted_from_when_all_have_begun() -> None:
    """Creating the keys and waiting for the second worker are left out, and so is what comes after the last event."""
    one = {"samples": [(0.0, 0, 1.0), (1.0, 100, 2.0), (2.0, 200, 3.0), (3.0, 300, 4.0), (9.0, 300, 9.0)]}
    two = {"samples": [(0.5, 0, 0.0), (1.5, 0, 0.1), (2.5, 50, 1.1), (3.5, 100, 2.1), (8.5, 100, 2.5)]}

    events, wall, cpu = between([one, two], 150)

    assert (200, 1.5, pytest.approx(3.0)) == (events, wall, cpu)


def test_the_records_of_a_cycle_are_plain_states() -> None:
    """Without headers, so that partition and offset are an event's only identity."""
    (records,) = Cycle(SMALL, 10).slice(0, 10)

    assert isinstance(records, Records)
    assert [[]] * 10 == [records.headers(index) for index in range(10)]
