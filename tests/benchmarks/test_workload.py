from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import benchmarks.workload as module
from benchmarks.workload import SMALL, Check, Workload, blocks, events, expected, fill
from streams._native import Job, KafkaConsumer, Records, Table, murmur2_partition
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.v1.cloudevents_pb2 import CloudEvent
from streams.v1.patch_pb2 import Patch
from tests.broker import Broker

TINY = Workload(2000, 50)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkout's own cache stays as it is."""
    monkeypatch.setattr(module, "CACHE", tmp_path)
    return tmp_path


def test_the_workload_is_the_same_every_time() -> None:
    """Same seed, same bytes: figures of two machines are about the same input."""
    assert list(events(TINY)) == list(events(TINY))
    assert next(events(TINY)) != next(events(Workload(TINY.events, TINY.devices, seed=8)))


def test_events_are_cloudevents_around_a_device() -> None:
    """Key, subject and device id agree; the sequence is the device's own."""
    key, value, headers = next(events(TINY))
    event = CloudEvent.FromString(value)
    device = DeviceState.FromString(event.proto_data.value)
    assert headers == [("content-type", b"application/cloudevents+protobuf")]
    assert key.decode() == event.attributes["subject"].ce_string == device.device_id
    assert event.attributes["sequence"].ce_string == "1"
    assert event.proto_data.TypeName() == event.type == "streams.demo.v1.DeviceState"


def test_the_small_workload_has_these_figures() -> None:
    """A change of the generator or of the replay shows here, before anybody compares speeds."""
    result = expected(SMALL)
    assert result.figures() == {
        "events": 50_000,
        "duplicates": 2_422,
        "patches": 47_578,
        "keys": 1_000,
        "event_bytes": 25_185_022,
        "data_bytes": 1_804_960,
        "hash": 7193459146516583511,
    }
    assert sum(revision for revision, _ in result.last.values()) == result.patches


def test_the_cache_gives_what_was_generated(cache: Path) -> None:
    """A second look reads the files, and they say the same."""
    first = expected(TINY)
    again = expected(TINY)
    assert (again.figures(), again.last) == (first.figures(), first.last)
    assert [len(block) for block in blocks(TINY)] == [2000]
    assert json.loads((TINY.folder / "expected.json").read_text()) == first.figures()
    assert {path.name for path in TINY.folder.iterdir()} == {"events", "states", "expected.json"}


def test_the_native_core_puts_out_what_the_replay_expects() -> None:
    """Every patch of the product's core is the plain replay's: paths, data, digest, revision chain, last states."""
    check = Check(expected(TINY))
    for patches in _core(TINY):
        check.add(patches)
    assert check.findings() == []
    assert check.patches == TINY.events - expected(TINY).duplicates


def _joined(*parts: Records) -> Records:
    whole = Records()
    for part in parts:
        whole.extend(part)
    return whole


def _altered(patches: Records) -> Records:
    changed = Records()
    for index in range(len(patches)):
        patch = Patch.FromString(patches.value(index) or b"")
        if index == 100:
            patch.mask.paths.append("tenant")
        changed.append(patches.key(index), patch.SerializeToString(), offset=index)
    return changed


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda patches: patches.slice(0, 99), "99 patches"),
        (lambda patches: _joined(patches.slice(0, 100), patches.slice(99, len(patches))), "do not follow"),
        (lambda patches: _joined(patches.slice(100, len(patches)), patches.slice(0, 100)), "do not follow"),
        (_altered, "the hash over all patches"),
    ],
    ids=["lost", "doubled", "reordered", "altered"],
)
def test_the_check_finds_what_is_wrong(spoil: Callable[[Records], Records], finding: str) -> None:
    """A lost, doubled, reordered or altered patch each has its line."""
    check = Check(expected(TINY))
    check.add(spoil(_joined(*_core(TINY))))
    assert any(finding in line for line in check.findings())


def test_filling_partitions_by_key(kafka: Broker) -> None:
    """All events arrive, each key on the partition that the Java client would choose, in the workload's order."""
    assert fill(TINY, kafka.bootstrap, "benchmark-fill", 3) == TINY.events
    arrived: dict[bytes, list[bytes]] = {}
    for partition, records in _read(kafka, "benchmark-fill", 3):
        for index in range(len(records)):
            key = records.key(index) or b""
            assert murmur2_partition(key, 3) == partition
            assert records.headers(index) == module.HEADERS
            arrived.setdefault(key, []).append(records.value(index) or b"")
    sent: dict[bytes, list[bytes]] = {}
    for key, value, _ in events(TINY):
        sent.setdefault(key, []).append(value)
    assert arrived == sent


def _core(workload: Workload) -> Iterator[Records]:
    """The patches of the native table, as one partition and without a broker."""
    schema = MessageSchema(DeviceState)
    job = Job(
        schema.native, type=DeviceState.DESCRIPTOR.full_name,
        fingerprint=schema.fingerprint, field_table=schema.field_table_bytes, source="devices", key="record",
        sequence="attribute", format="auto", partitions=0, record_bytes_max=1 << 20, output_bytes_max=1 << 21,
        tombstone_retention_ms=86_400_000,
        schema_ids=[], message_index=[0], sealed=False, canonicalise=schema.canonicalise,
    )  # fmt: skip
    table = Table(job, 0)
    next_offset = 0
    for block in blocks(workload):
        block.assign(next_offset, 0)
        next_offset += len(block)
        step = table.process(block, 1_700_000_000_000)
        assert step.fatal is None
        table.commit(step.mark)
        yield step.patches


def _read(kafka: Broker, topic: str, partitions: int) -> Iterator[tuple[int, Records]]:
    consumer = KafkaConsumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic, "enable.partition.eof": "true"})
    consumer.assign([(topic, partition, 0) for partition in range(partitions)])
    ended: set[int] = set()
    while len(ended) < partitions:
        for _, partition, records, end in consumer.fetch(1000, 1 << 20, 1000):
            if end >= 0:
                ended.add(partition)
            yield partition, records
    consumer.close()
