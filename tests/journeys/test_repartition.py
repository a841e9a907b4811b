"""Keys on the wrong partitions: repartitioning brings them together, murmur2 refuses them with the cure."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from streams._native import Records, murmur2_partition
from streams.client.blocking import BlockingReceiver
from streams.demo.v1.device_pb2 import DeviceState
from tests.broker import Broker
from tests.client.place import Place
from tests.journeys.pages import WAIT_S, wait_for
from tests.journeys.process import Worker

PARTITIONS = 3
DEVICES = [f"d-{number}" for number in range(30)]
VERSIONS = 4


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker of each sort."""
    if request.param == "embedded":
        return f"embedded://{tmp_path}/log"
    kafka: Broker = request.getfixturevalue("kafka")
    return kafka.url


@pytest.fixture
def source(url: str, tmp_path: Path) -> str:
    """A topic whose records have no key and lie on any partition but their entity's; one has no entity at all."""
    name = f"devices-{uuid.uuid4().hex[:8]}"
    (tmp_path / "streams.toml").write_text(
        f'[app]\nid = "fleet-{name}"\nbroker = "{url}"\ndatadir = "{tmp_path}/data"\n\n'
        f'[[sync]]\nsource = "{name}"\nmessage = "streams.demo.v1.DeviceState"\n'
        'module = "streams.demo.v1.device_pb2"\nkey = "field:device_id"\n'
    )
    runs = {partition: Records() for partition in range(PARTITIONS)}
    for version in range(VERSIONS):
        for device in DEVICES:
            wrong = (murmur2_partition(device.encode(), PARTITIONS) + 1) % PARTITIONS
            state = DeviceState(device_id=device, uptime_s=version)
            runs[wrong].append(None, state.SerializeToString(), [("content-kind", b"state")])
    runs[0].append(None, DeviceState(status="nobody").SerializeToString())
    with Place(url, name) as place:
        place.create(name, partitions=PARTITIONS)
        for partition, records in runs.items():
            place.write(name, records, partition)
    return name


def test_repartitioned_keys_meet_in_one_partition(url: str, source: str, tmp_path: Path) -> None:
    """Every version of every key becomes one revision, on the partition of its key; what has none is a dead letter."""
    with (tmp_path / "streams.toml").open("a") as file:
        file.write('partitioning = "repartition"\n')
    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        worker.wait_ready()
        wait_for(worker, "streams_patches_total", source, len(DEVICES) * VERSIONS)
        code = worker.stop()

    assert 0 == code, worker.log.read_text()
    with BlockingReceiver(url, f"{source}.patches", DeviceState, start="earliest") as receiver:
        receiver.catch_up()
        held = {device: receiver.get(device) for device in DEVICES}
        revisions = {device: (receiver.revision(device) or (0, 0))[1] for device in DEVICES}
        counts = receiver.counts
    with Place(url, source) as place:
        patches = place.read(f"{source}.patches")
        letters = place.read(f"{source}.dlq")

    assert {device: DeviceState(device_id=device, uptime_s=VERSIONS - 1) for device in DEVICES} == held
    assert set(revisions.values()) == {VERSIONS}
    assert (len(DEVICES) * VERSIONS, 0, 0) == (counts.applied, counts.duplicates, counts.gaps)
    assert all(murmur2_partition(key or b"", PARTITIONS) == partition for partition, _, key, _, _ in patches)
    headers = dict(letters[0][4])
    assert (source.encode(), b"0", b"missing-key") == tuple(
        headers[f"dlq-{name}"] for name in ("origin-topic", "origin-partition", "reason")
    )
    assert DeviceState(status="nobody").SerializeToString() == letters[0][3]


def test_murmur2_refuses_them(url: str, source: str, tmp_path: Path) -> None:
    """The worker stops with exit code 2, and names the partition that was expected and the cure."""
    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        code = worker.process.wait(timeout=WAIT_S)
        said = worker.log.read_text()

    assert 2 == code, said
    assert f"topic {source} partition" in said
    assert 'set partitioning = "repartition"' in said
