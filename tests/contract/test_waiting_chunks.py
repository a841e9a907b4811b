"""Chunks that wait for an agent: bounded by their bytes, and all of them worked off once it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams._native import Records
from tests.contract.site import Site

CHUNK_BYTES = 128 << 10
BYTES_MAX = 512 << 10
RECORDS, RECORD_BYTES = 300, 8_000
STILL_S = 1.5
"""Longer than a fetch waits: who goes on fetching has done so by then."""


async def test_an_agent_that_stands_still_has_so_many_bytes_wait_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk counted as its number of records: thousands of them, gigabytes, waited in memory."""
    monkeypatch.setattr("streams.transport.event_queue.BYTES_MAX", BYTES_MAX)
    await site.create(partitions=1)
    app = site.app({"chunk.bytes_max": CHUNK_BYTES})
    go_on = asyncio.Event()
    seen: list[int] = []

    @app.agent(app.chunks(site.source))
    async def stands(stream: Any) -> None:
        async for chunk in stream:
            await go_on.wait()
            seen.extend(record.offset for record in chunk)

    for first in range(0, RECORDS, 10):
        records = Records()
        for number in range(first, first + 10):
            records.append(b"k", number.to_bytes(4, "big") * (RECORD_BYTES // 4))
        site._write(site.source, records, 0)
    async with site.running(app) as worker:
        (queue,) = [channel.queue for channel in app.topics._topics if site.source in channel.topics]
        await site.until(queue.full, worker)
        await asyncio.sleep(STILL_S)
        waiting = [event.message.value.records.nbytes for event in queue._queue]
        go_on.set()
        await site.until(lambda: len(seen) == RECORDS, worker)

    assert BYTES_MAX <= sum(waiting) < BYTES_MAX + 2 * CHUNK_BYTES
    assert list(range(RECORDS)) == seen
