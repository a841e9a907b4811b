"""What one record's transaction is refused for is this record's own."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from streams._native import KafkaAdmin
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.log import Log
from tests.broker import Broker
from tests.contract.site import Site

ROOM_BYTES = 20_000
NOISE = random.Random(3).randbytes(ROOM_BYTES).hex()
"""No smaller when compressed."""


def make(site: Site, topic: str, record_bytes_max: int) -> None:
    """A topic of one partition that takes no large record."""
    if site.embedded:
        with Log.shared(site.folder / "log") as log:
            log.create_topic(topic, 1, record_bytes_max=record_bytes_max)
        return
    made = KafkaAdmin({"bootstrap.servers": site.url.partition("://")[2]}).create_topics(
        [(topic, 1, -1, {"max.message.bytes": str(record_bytes_max)})], 30_000
    )
    assert [(topic, None)] == made


async def test_a_patch_that_its_topic_refuses_costs_its_event_alone(site: Site) -> None:
    """Somebody made the topic of the patches with little room: two events are letters, the others go on.

    The letters name the topic, and the log that their origin counts in.
    """
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, site.patches, ROOM_BYTES)
    states = [
        DeviceState(device_id=f"d-{number}", owner_email=NOISE if number in (3, 7) else "") for number in range(12)
    ]
    await site.send(states)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, 10, worker)
        await site.send([DeviceState(device_id="d-12")])
        await site.records(site.patches, 11, worker)
        ids = app.transport.log_ids([site.source])
        reasons = dict(app.transport.reasons)
    letters = await site.read(site.dead_letters)

    assert [b"3", b"7"] == [letter.headers["dlq-origin-offset"] for letter in letters]
    assert [b"d-3", b"d-7"] == [letter.key for letter in letters]
    assert {b"record-too-large"} == {letter.headers["dlq-reason"] for letter in letters}
    assert {ids[site.source].hex().encode()} == {letter.headers["dlq-origin-topic-id"] for letter in letters}
    assert site.patches.encode() in (letters[0].headers["dlq-error"] or b"")
    assert {f"d-{number}".encode(): [1] for number in range(13) if number not in (3, 7)} == await site.revisions()
    assert 2 == sync.counts["dead.record-too-large"]
    assert {} == reasons


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_the_first_of_a_full_chunk_is_found_soon(site: Site, guarantee: str) -> None:
    """Found: each of a dozen failures took the time of a whole transaction, for what was refused at once."""
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, site.patches, ROOM_BYTES)
    await site.send(
        [DeviceState(device_id=f"d-{number}", owner_email="" if number else NOISE) for number in range(2_000)]
    )
    app = site.app({"app.guarantee": guarantee})
    app.sync(site.source, DeviceState)
    outcomes: list[bool] = []
    async with site.running(app) as worker:
        app.consumer.outcomes.append(outcomes.append)
        await site.records(site.dead_letters, 1, worker)
        await site.records(site.patches, 1_999, worker)

    assert 1 < outcomes.count(False) <= 8
    (letter,) = await site.read(site.dead_letters)
    assert b"0" == letter.headers["dlq-origin-offset"]


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_topic_that_takes_no_large_batch_takes_its_records(site: Site, guarantee: str) -> None:
    """A topic's limit holds for a batch. Found: transactions failed again and again, as often as they grew."""
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, site.patches, ROOM_BYTES)
    states = [
        DeviceState(device_id=f"d-{number}", owner_email=NOISE[number : number + 1_000]) for number in range(2_000)
    ]
    await site.send(states)
    app = site.app({"app.guarantee": guarantee})
    app.sync(site.source, DeviceState)
    outcomes: list[bool] = []
    async with site.running(app) as worker:
        app.consumer.outcomes.append(outcomes.append)
        await site.records(site.patches, 2_000, worker)

    assert outcomes.count(False) <= 2
    assert [] == await site.read(site.dead_letters)


@pytest.mark.parametrize("state", ["memory", "rocksdb"])
async def test_patches_of_a_row_that_the_changelog_refuses_are_taken_back(
    kafka: Broker, tmp_path: Path, state: str
) -> None:
    """At least once they are out before. Found: the next event's had the same revisions, and receivers dropped them."""
    site = Site(kafka.url, tmp_path)
    await site.create(partitions=1)
    app = site.app({"app.guarantee": "at_least_once"})
    sync = app.sync(site.source, DeviceState, state=state)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d", battery=1)])
        await site.records(site.patches, 1, worker)
        await site.limit(sync.topics.changelog, ROOM_BYTES)
        await site.send([DeviceState(device_id="d", battery=7, owner_email=NOISE), DeviceState(device_id="new")])
        await site.send([DeviceState(device_id="born", owner_email=NOISE)])
        await site.records(site.dead_letters, 2, worker)
        await site.until(lambda: sync.counts["dead.record-too-large"] == 2, worker)
        before = await site.held()
        await site.send([DeviceState(device_id="d", battery=2), DeviceState(device_id="born", battery=3)])
        await site.until(lambda: sync.counts["patches"] >= 5, worker)
    after = await site.held()

    assert {b"d": DeviceState(device_id="d", battery=1), b"new": DeviceState(device_id="new")} == before
    assert DeviceState(device_id="d", battery=2) == after[b"d"]
    assert DeviceState(device_id="born", battery=3) == after[b"born"]
    assert 2 == sync.counts["repaired"]
