"""Chunks that wait for an agent: bounded by their bytes, and all of them worked off once it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams._native import Records
from streams.app import App
from tests.contract.site import Site

CHUNK_BYTES = 128 << 10
BYTES_MAX = 512 << 10
RECORDS, RECORD_BYTES = 300, 8_000
STILL_S = 3.0
"""Longer than a queue that is full is waited for: who goes on fetching has done so by then."""


def _fill(site: Site) -> None:
    at_once = 10 if site.embedded else RECORDS  # a fetch of the embedded log is of whole appends
    for first in range(0, RECORDS, at_once):
        records = Records()
        for number in range(first, first + at_once):
            records.append(b"k", number.to_bytes(4, "big") * (RECORD_BYTES // 4))
        site._write(site.source, records, 0)


def _topic(app: App, name: str, *, chunked: bool) -> Any:
    return app.chunks(name) if chunked else app.topic(name, value_type=bytes, value_serializer="raw")


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

    _fill(site)
    async with site.running(app) as worker:
        (queue,) = [channel.queue for channel in app.topics._topics if site.source in channel.topics]
        await site.until(queue.full, worker)
        await asyncio.sleep(STILL_S)
        waiting = [event.message.value.records.nbytes for event in queue._queue]
        go_on.set()
        await site.until(lambda: len(seen) == RECORDS, worker)

    assert BYTES_MAX <= sum(waiting) < BYTES_MAX + 4 * CHUNK_BYTES  # what was on its way comes in
    assert list(range(RECORDS)) == seen


@pytest.mark.parametrize("chunked", [True, False])
async def test_no_other_agent_waits_for_one_that_stands_still(
    site: Site, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    """One queue that was full stopped the reading of all topics, until its agent went on."""
    monkeypatch.setattr("streams.transport.event_queue.BYTES_MAX", BYTES_MAX)
    other, count = f"{site.source}-other", 3
    await site.create(site.source, other, partitions=1)
    app = site.app({"chunk.bytes_max": CHUNK_BYTES})
    go_on = asyncio.Event()
    stood, went = list[int](), list[int]()

    async def stands(stream: Any) -> None:
        async for value in stream:
            await go_on.wait()
            stood.extend([one.offset for one in value] if chunked else [int.from_bytes(value[:4], "big")])

    async def goes(stream: Any) -> None:
        async for value in stream:
            went.extend(range(len(value)) if chunked else [0])

    app.agent(_topic(app, site.source, chunked=chunked), name="stands")(stands)
    app.agent(_topic(app, other, chunked=chunked), name="goes")(goes)
    _fill(site)
    async with site.running(app) as worker:
        (queue,) = [channel.queue for channel in app.topics._topics if site.source in channel.topics]
        await site.until(queue.full, worker)
        for number in range(1, count + 1):
            await site.write(other, b"1")
            await site.until(lambda wanted=number: len(went) == wanted, worker)
        assert not stood
        go_on.set()
        await site.until(lambda: len(stood) == RECORDS, worker)

    assert list(range(RECORDS)) == stood
