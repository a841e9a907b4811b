"""Events of hundreds of kilobytes: transactions stay within their bytes, memory does not follow the backlog."""

from __future__ import annotations

import asyncio
import random
import resource
from pathlib import Path

import pytest

from streams._native import Records
from streams.demo.v1.device_pb2 import DeviceState
from tests.broker import Broker
from tests.contract.site import Site

EVENT_BYTES = 300_000
TRANSACTION_BYTES = 4 << 20
PARCEL = 20
MEMORY_MB = 700
"""Two transactions of 64 MB, once as they are and once in the client, 64 MB of prefetch and a fetch, a few chunks. The
rows of the state come on top."""


async def write(site: Site, count: int, seed: int) -> list[DeviceState]:
    """A backlog of large events that do not compress well, one per key."""
    chance = random.Random(seed)
    states = []
    for first in range(0, count, PARCEL):
        records = Records()
        for number in range(first, first + PARCEL):
            states.append(DeviceState(device_id=f"d-{number}", owner_email=chance.randbytes(EVENT_BYTES // 2).hex()))
            records.append(states[-1].device_id.encode(), states[-1].SerializeToString())
        site._write(site.source, records, 0)
    return states


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_transaction_is_closed_by_its_bytes(site: Site, seed: int, guarantee: str) -> None:
    """Sixty events of 300 KB in transactions of 4 MB: each holds a few, with their patches and rows; none fails."""
    await site.create(partitions=1)
    states = await write(site, 60, seed)
    app = site.app({"app.guarantee": guarantee, "transaction.bytes_max": TRANSACTION_BYTES})
    app.sync(site.source, DeviceState)
    failed: list[bool] = []
    async with site.running(app) as worker:
        app.consumer.outcomes.append(failed.append)
        await site.until(lambda: sum(failed) and app.consumer.pace.done and _done(app) >= len(states), worker)
        transactions = app.consumer.ledger.transactions

    assert all(failed)
    assert transactions >= 60 * 3 * EVENT_BYTES // (2 * TRANSACTION_BYTES)
    await site.verify(states)


def _done(app: object) -> int:
    return max(app.consumer.pace.done.values())  # type: ignore[attr-defined,no-any-return]


@pytest.mark.long
@pytest.mark.kafka
@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_memory_does_not_follow_the_backlog(kafka: Broker, tmp_path: Path, seed: int, guarantee: str) -> None:
    """450 MB of large events with settings as they come: what is in memory at a time is bounded by them."""
    site = Site(kafka.url, tmp_path)
    await site.create(partitions=1)
    states = await write(site, 1_500, seed)
    app = site.app({"app.guarantee": guarantee, "transaction.interval_ms": 100})
    app.sync(site.source, DeviceState)
    before, peak = resident_mb(), 0
    async with site.running(app) as worker:
        while not (done := app.consumer.pace.done) or max(done.values()) < len(states):
            if worker.done():
                await worker
            await asyncio.sleep(0.05)
            peak = max(peak, resident_mb() - before)

    print(f"{guarantee}: {peak} MB at most above {before} MB")
    assert peak < 450 + MEMORY_MB


def resident_mb() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20
