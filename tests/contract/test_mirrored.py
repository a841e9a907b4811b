"""A cluster that was mirrored to another one: other ids, other offsets, the same records. On two real Kafkas."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams._native import KafkaConsumer, Records
from streams.cli import groups, run
from streams.client.broker import ReaderOptions, WriterOptions
from streams.client.connect import open_reader, open_writer
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import LogReplacedError
from streams.settings import read
from tests.broker import Broker
from tests.contract.site import Site
from tests.contract.test_replaced import DEVICES, expected, settings, states, work

TIMEOUT_MS = 30_000
MISSING = 1
"""Records of each partition of the source that the mirror does not have: its offsets are lower by so many."""

pytestmark = pytest.mark.long


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Broker]:
    """A second Kafka."""
    broker = Broker(tmp_path / "mirror")
    broker.start()
    yield broker
    broker.stop()


def copy(site: Site, there: Site, topic: str, skipped: int = 0) -> None:
    """Copies a topic as a mirror does: records in their partitions, in their order, with their headers."""
    reader = open_reader(site.url, topic, ReaderOptions(start="earliest"))
    writer = open_writer(there.url, WriterOptions())
    try:
        ends = {partition: end for partition, end in reader.ends().items() if end}
        writer.create_topic(topic, 2)
        taken: dict[int, Records] = {}
        while ends:
            for came in reader.fetch(10_000, 200):
                taken.setdefault(came.partition, Records()).extend(came.records)
                if max(came.records.last_offset + 1, came.end) >= ends.get(came.partition, 0):
                    ends.pop(came.partition, None)
        for partition, records in taken.items():
            writer.write(topic, records.slice(skipped, len(records)), partition)
    finally:
        reader.close()
        writer.close()


@pytest.mark.parametrize("translated", [False, True])
async def test_an_application_moves_to_a_mirror(
    kafka: Broker, mirror: Broker, tmp_path: Path, translated: bool
) -> None:
    """Without offsets the mirror is read from its beginning and nothing is doubled; with translated ones a person says
    that they are right, and reading goes on there. Nothing is lost either way.
    """
    site, there = Site(kafka.url, tmp_path / "first"), Site(mirror.url, tmp_path / "second")
    for folder in (site.folder, there.folder):
        folder.mkdir()
    for name in ("source", "patches", "resync", "dead_letters"):
        setattr(there, name, getattr(site, name))
    await site.create(partitions=2)
    app = await work(site, states(1), states(2))
    await asyncio.to_thread(copy, site, there, site.source, MISSING)
    for topic in (site.patches, app.syncs[site.source].topics.changelog):
        await asyncio.to_thread(copy, site, there, topic)
    before = await there.read(there.patches)
    await there.send(states(3))
    if translated:
        await asyncio.to_thread(translate, site, there)
        with pytest.raises(LogReplacedError, match="as on another cluster"):
            await work(there)
        arguments = ["state", "replaced", there.source, "--from", "committed", "--config", str(settings(there))]
        assert 0 == await asyncio.to_thread(run, arguments)

    app = there.app()
    sync = app.sync(there.source, DeviceState)
    backlog = 0 if translated else 2 * DEVICES - 2 * MISSING
    async with there.running(app) as worker:
        await there.until(lambda: sync.counts["events"] == backlog + DEVICES, worker)
        await there.records(there.patches, len(before) + DEVICES, worker)
    assert expected(3) == await there.held()
    assert len(before) + DEVICES == len(await there.read(there.patches))


def translate(site: Site, there: Site) -> None:
    """What a mirror does with a group's offsets: the same metadata, other numbers."""
    where = [(site.source, place.partition) for place in groups.places(read(settings(site)), site.source)]
    first, second = (
        KafkaConsumer({"bootstrap.servers": each.url.partition("://")[2], "group.id": f"fleet-{site.source}"})
        for each in (site, there)
    )
    kept = first.kept(where, TIMEOUT_MS)
    second.commit([(topic, number, offset - MISSING, text) for topic, number, offset, text in kept], TIMEOUT_MS)
    first.close()
    second.close()
