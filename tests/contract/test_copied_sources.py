"""Commands on a source with `partitioning = "repartition"` that only its application's code says, no file."""

from __future__ import annotations

import asyncio
import json

import pytest

from streams._native import PARTITION_KEY, Records, decode_partition
from streams.cli import groups
from streams.cli.sources import source_of
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.client.event import Event
from streams.client.producer import Producer
from streams.demo.v1.device_pb2 import DeviceState
from tests.contract.site import Site
from tests.contract.test_ed30627 import DATA, PARTITIONS, state
from tests.contract.test_replaced import chosen, expected, states, streams

BAD = 5


def left_by_ed30627(site: Site, rekey: str, changelog: str) -> None:
    """What that release wrote, of a source that it repartitioned: rows have the offsets of the copies."""
    copies = {"devices": rekey, "devices.patches": site.patches, "fleet-devices-changelog": changelog}
    offsets = json.loads((DATA / "kafka" / "offsets.json").read_text())
    writer = open_writer(site.url, WriterOptions())
    for name, topic in [("devices", site.source), *copies.items()]:
        writer.create_topic(topic, PARTITIONS)
        for partition in range(PARTITIONS):
            writer.write(topic, Records.decode((DATA / "kafka" / f"{name}-{partition}.block").read_bytes()), partition)
    writer.close()
    for topic in (site.source, rekey):
        groups.move(chosen(site), topic, [(int(number), offset, "") for number, offset in offsets.items()])


async def test_the_state_of_copies_is_upgraded(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Found: the offsets of the rows were written down as the source's, and the worker took the copies' topic for one
    that had been made anew: it did not start.
    """
    app = site.app()
    sync = app.sync(site.source, DeviceState, partitioning="repartition")
    topics = sync.topics
    await asyncio.to_thread(left_by_ed30627, site, topics.rekey, topics.changelog)
    assert 0 == await streams(site, "state", "upgrade", site.source)
    ids = groups.ids(chosen(site), [topics.rekey])
    records = [found.value or b"" for found in await site.read(topics.changelog) if found.key == PARTITION_KEY]
    assert [ids[topics.rekey]] * PARTITIONS == [decode_partition(each)["logs"][0] for each in records]

    async with site.running(app) as worker:
        async with Producer(site.url, source="/fixture") as producer:
            known, new = Event(state(6, 2), "d-6", sequence=2), Event(state(5, 7), "d-5", sequence=4)
            await producer.send_many(site.source, [known, new])
        await site.until(lambda: sync.counts["events"] == 2, worker)
    assert (1, 1) == (sync.counts["dropped.sequence"], sync.counts["patches"])
    assert 0 == await streams(site, "state", "verify", site.source)
    await streams(site, "doctor")
    assert "another log" not in capsys.readouterr().err


async def test_what_stopped_before_the_copies_goes_on(site: Site) -> None:
    """Found: `streams resume` saw no stop, since the one of the copies took the place of the source's."""
    await site.create(partitions=1)
    app = site.app({"limits.dead_letter_consecutive": BAD})
    sync = app.sync(site.source, DeviceState, key="field:device_id", partitioning="repartition")
    async with site.running(app) as worker:
        await site.write(site.source, *[b"\xff\xff"] * BAD, key=b"d-0", partition=0)
        await site.records(site.dead_letters, BAD, worker)
        await site.until(lambda: sync.states[0].table.partition_record["stop_before"], worker)
    await site.send(states(1))
    assert 0 == await streams(site, "resume", site.source)
    app = site.app({"limits.dead_letter_consecutive": BAD})
    sync = app.sync(site.source, DeviceState, key="field:device_id", partitioning="repartition")
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["patches"] == len(states(1)), worker)
    assert expected(1) == await site.held()


async def test_a_topic_of_copies_names_its_source(site: Site) -> None:
    """Where reading copies goes on is kept beside the changelog of their source."""
    settings = chosen(site)
    assert site.source == source_of(settings, f"{settings.app.id}-{site.source}-rekey")
    for name in (site.source, "other-devices-rekey", f"{settings.app.id}--rekey"):
        assert name == source_of(settings, name)
