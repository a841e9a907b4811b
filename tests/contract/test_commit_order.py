"""What one transaction holds: rows of a chunk never leave before its outputs and its offset do."""

from __future__ import annotations

import asyncio
import random
import threading
from functools import partial
from typing import Any

import pytest

from streams._native import Records
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.identity import Kept, kept
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site

LARGE_BYTES = 300_000
TRANSACTION_BYTES = 1 << 20


def large(site: Site, number: int, seed: int) -> None:
    """One event that fills a transaction by more than half, with its patch and its row."""
    state = DeviceState(device_id=f"d-{number}", owner_email=random.Random(seed).randbytes(LARGE_BYTES // 2).hex())
    records = Records()
    records.append(state.device_id.encode(), state.SerializeToString())
    site._write(site.source, records, 0)


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_small_answer_does_not_overtake_a_large_chunk_that_waits_for_room(
    site: Site, seed: int, guarantee: str
) -> None:
    """A slower agent has finished the chunk, and waits for room with it, while the sync answers a request. The answer
    would take the chunk's rows into its own transaction: killed behind that, a worker drops the event as known, and its
    patch is lost.
    """
    await site.create(partitions=1)
    app = site.app({"app.guarantee": guarantee, "transaction.bytes_max": TRANSACTION_BYTES})
    app.sync(site.source, DeviceState)

    @app.agent(app.chunks(site.source))
    async def slower(stream: Any) -> None:
        seen = 0
        async for chunk in stream:
            seen += len(chunk)
            await site.until(partial(sync_has_seen, app, site, seen))

    async with site.running(app) as worker:
        consumer, sync = app.consumer, app.syncs[site.source]
        ahead = watched(consumer, sync.states[0].highest_offset, (site.source, 0))
        await site.send([DeviceState(device_id="d-0")])
        await site.records(site.patches, 1, worker)
        room = threading.Event()
        held = asyncio.create_task(consumer.pipeline.run_in_thread(room.wait))
        try:
            await site.send([DeviceState(device_id="d-0", battery=0.5)])
            await site.until(lambda: consumer.pipeline._committing, worker)
            for number in (1, 2):
                await asyncio.to_thread(large, site, number, seed + number)
            await site.until(lambda: consumer.pipeline._open.closed, worker)
            answered = sync.counts["patches"] + 1
            await site.write(site.resync, Resync(requester="test").SerializeToString(), key=b"d-0", partition=0)
            await site.until(lambda: sync.counts["patches"] == answered, worker)
            await asyncio.sleep(0)
        finally:
            room.set()
            await held
        await site.records(site.patches, 5, worker)

    assert ahead
    assert not any(ahead), "rows were committed before the offset of their event"


async def test_a_commit_under_way_has_positions_of_the_log_that_it_read(site: Site) -> None:
    """Its topic is made anew meanwhile: an old position beside the new log's id would be read on from after a kill, and
    the store that it folds into must still be there.
    """
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState, state="rocksdb")
    async with site.running(app) as worker:
        consumer, told = app.consumer, list[Kept | None]()
        commit = consumer.ledger.commit

        def committed(unit: Any) -> None:
            told.append(kept(consumer.logs.metadata(site.source, 0)))
            commit(unit)

        consumer.ledger.commit = committed
        await site.send([DeviceState(device_id="d-0")])
        await site.records(site.patches, 1, worker)
        room, epoch = threading.Event(), consumer.epoch
        held = asyncio.create_task(consumer.pipeline.run_in_thread(room.wait))
        try:
            await site.send([DeviceState(device_id="d-0", battery=0.5)])
            await site.until(lambda: consumer.pipeline._committing, worker)
            await site.delete(site.source)
            await site.create(partitions=1)
            consumer.logs.doubt()
            await site.until(lambda: consumer.epoch > epoch, worker)
            await site.send([DeviceState(device_id="d-0", battery=0.75)])
        finally:
            room.set()
            await held
        await site.until(lambda: sync.counts["events"] >= 3, worker)
        await site.records(site.patches, 3, worker)

    sources = [each.source for each in told if each is not None]
    assert len(sources) >= 3
    assert sources[0] == sources[1] != sources[-1]


def sync_has_seen(app: Any, site: Site, events: int) -> bool:
    """Whether the sync has done its share of so many events."""
    return bool(app.syncs[site.source].counts["events"] >= events)


def watched(consumer: Any, highest: Any, where: tuple[str, int]) -> list[bool]:
    """Whether, after each commit, a row was of an event behind the offset that is committed."""
    found: list[bool] = []
    commit, done = consumer.ledger.commit, {where: 0}

    def committed(unit: Any) -> None:
        commit(unit)
        done.update(unit.positions)
        found.append(highest() >= done[where])

    consumer.ledger.commit = committed
    return found
