"""Dead letters of a real worker, on every transport: when they cannot be written, and when they come back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from streams._native import KafkaAdmin, KafkaConsumer, Records
from streams.cli import run
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.log import Log
from tests.broker import Broker
from tests.contract.site import Site, history

LETTER_BYTES_MAX = 5_000
NOISE = random.Random(5).randbytes(2 * LETTER_BYTES_MAX)
"""No message, and no smaller when compressed."""


def dead(*states: DeviceState) -> Records:
    """Events whose sequence is no number: dead letters, until a worker is told that there are no sequences."""
    records = Records()
    for state in states:
        headers = [("ce_specversion", b"1.0"), ("ce_id", b"dead"), ("ce_source", state.device_id.encode())]
        records.append(state.device_id.encode(), state.SerializeToString(), [*headers, ("ce_sequence", b"Monday")])
    return records


def admin(site: Site) -> KafkaAdmin:
    """Topics of the site's Kafka."""
    return KafkaAdmin({"bootstrap.servers": site.url.partition("://")[2]})


async def committed(site: Site) -> int:
    """How far the worker's group has come in the source's one partition; 0 where it has not."""
    group = f"fleet-{site.source}"
    if site.embedded:
        with Log.shared(site.folder / "log") as log:
            return log.committed(group).get((site.source, 0), 0)
    consumer = KafkaConsumer({"bootstrap.servers": site.url.partition("://")[2], "group.id": group})
    try:
        ((_, _, offset),) = await asyncio.to_thread(consumer.committed, [(site.source, 0)], 10_000)
    finally:
        consumer.close()
    return max(offset, 0)


def limit(site: Site) -> None:
    """Makes the dead-letter topic one that takes no large record."""
    if site.embedded:
        with Log.shared(site.folder / "log") as log:
            log.create_topic(site.dead_letters, 1, record_bytes_max=LETTER_BYTES_MAX)
    else:
        topic = (site.dead_letters, 1, -1, {"max.message.bytes": str(LETTER_BYTES_MAX)})
        assert [(site.dead_letters, None)] == admin(site).create_topics([topic], 30_000)


async def test_a_record_is_passed_with_its_letter_however_small(site: Site) -> None:
    """The topic refuses the letter as it is: a stub is written, and with it what came after goes on, once.

    Found: the letter was asked for again and again, and the partition stood still.
    """
    await site.create(partitions=1)
    await asyncio.to_thread(limit, site)
    await site.send([DeviceState(device_id="d-1")])
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, 1, worker)
        await site.write(site.source, NOISE, key=b"d-2")
        await site.send([DeviceState(device_id="d-3")])
        await site.records(site.patches, 2, worker)
    letters, revisions = await site.read(site.dead_letters), await site.revisions()

    assert {b"d-1": [1], b"d-3": [1]} == revisions
    assert [(b"d-2", None, b"1")] == [(one.key, one.value, one.headers["dlq-origin-offset"]) for one in letters]
    assert str(len(NOISE)).encode() == letters[0].headers["dlq-length"]
    assert 3 == await committed(site)


@pytest.mark.kafka
async def test_a_topic_that_went_is_waited_for(kafka: Broker, tmp_path: Path) -> None:
    """Somebody deletes the dead-letter topic under the worker: it holds its partition until there is one again."""
    site = Site(kafka.url, tmp_path)
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1")])
        await site.records(site.patches, 1, worker)
        await asyncio.to_thread(admin(site).delete_topics, [site.dead_letters], 30_000)
        await site.until(lambda: site.dead_letters not in admin(site).topics(10_000))
        await site.write(site.source, NOISE, key=b"d-2")
        await site.send([DeviceState(device_id="d-3")])
        await site.until(lambda: sync.counts["dead.undecodable"], worker)
        held = await committed(site), await site.revisions()
        await site.create(site.dead_letters, partitions=1)
        (letter,) = await site.records(site.dead_letters, 1, worker)

    assert (1, {b"d-1": [1]}) == held
    assert (b"d-2", NOISE) == (letter.key, letter.value)
    assert {b"d-1": [1], b"d-3": [1]} == await site.revisions()


async def test_replays_beside_live_events(site: Site, seed: int) -> None:
    """Monday's events come back while others flow: none overwrites Friday's state, and all revisions are in order."""
    states = history(seed)
    mondays = [DeviceState(device_id=f"d-{number}", status="Monday") for number in range(12)]
    late = DeviceState(device_id="late", status="never heard of since")
    await site.create(partitions=1)
    await asyncio.to_thread(site._write, site.source, dead(*mondays, late), 0)
    await site.send(states[:100])
    config = site.folder / "streams.toml"
    config.write_text(
        f'[app]\nid = "fleet-{site.source}"\nbroker = "{site.url}"\n\n[[sync]]\nsource = "{site.source}"\n'
        'module = "streams.demo.v1.device_pb2"\nmessage = "streams.demo.v1.DeviceState"\nsequence = "none"\n'
    )
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] >= 113, worker)
    app = site.app()
    sync = app.sync(site.source, DeviceState, sequence="none")
    async with site.running(app) as worker:
        replay = ["dlq", "replay", site.source, "--config", str(config), "--per-second", "10", "--yes"]
        replaying = asyncio.create_task(asyncio.to_thread(run, replay))
        for first in range(100, len(states), 10):
            await site.send(states[first : first + 10])
        code = await replaying
        await site.until(lambda: sync.counts["events"] >= len(states) - 100 + 13, worker)

    assert 0 == code
    assert 12 == sync.counts["dropped.superseded"]
    assert 13 == sum("dlq-reason" in record.headers for record in await site.read(site.dead_letters))
    await site.verify([late, *states])
