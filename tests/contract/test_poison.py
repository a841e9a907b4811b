"""One record that cannot be dealt with costs itself: what comes of it would fit no topic, or fill the memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import pytest
import zstandard

from streams._native import Records
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.chunk import Chunk
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site

LONG = os.urandom(300_000).hex()[:560_000]
NEVER_BORN = os.urandom(600_000)

Header = tuple[str, bytes | None]
Poison = tuple[bytes, bytes, Sequence[Header]]


def long_key() -> Poison:
    """Its key stands in the record, in the patch and in the row."""
    return b"x", DeviceState(device_id=LONG, battery=1.0).SerializeToString(), ()


def compressed() -> Poison:
    """A megabyte behind a hundred bytes, and an event's source of 200 KB: together no patch that fits."""
    value = DeviceState(device_id="z", owner_email="a" * 1_040_000).SerializeToString()
    headers = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s" * 200_000)]
    return b"z", zstandard.compress(value), [("content-encoding", b"zstd"), *headers]


@pytest.mark.parametrize("poison", [long_key, compressed])
async def test_a_record_whose_patch_fits_no_topic_is_a_letter(site: Site, poison: object) -> None:
    """The records around it arrive, one transaction after the other, and its key has no state."""
    key, value, headers = poison()  # type: ignore[operator]
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState, key="field:device_id")
    failed: list[bool] = []
    async with site.running(app) as worker:
        app.consumer.outcomes.append(failed.append)
        await site.send([DeviceState(device_id="ok", battery=1.0)])
        await site.records(site.patches, 1, worker)
        records = Records()
        records.append(key, value, headers)
        await asyncio.to_thread(site._write, site.source, records, 0)
        await site.send([DeviceState(device_id="ok", battery=2.0)])
        patches = await site.records(site.patches, 2, worker)
        (letter,) = await site.records(site.dead_letters, 1, worker)

    assert [b"ok", b"ok"] == [patch.key for patch in patches]
    assert (b"too-large", all(failed), 1) == (letter.headers["dlq-reason"], True, sync.counts["dead.too-large"])
    assert letter.value == value


async def test_requests_that_cannot_be_answered_stop_nothing(site: Site) -> None:
    """Every receiver may ask: for a key that no answer could hold, under a name of 900 KB, or a thousand times."""
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    failed: list[bool] = []
    async with site.running(app) as worker:
        app.consumer.outcomes.append(failed.append)
        large = DeviceState(device_id="ok", battery=1.0, owner_email=os.urandom(150_000).hex())
        await site.send([large])
        await site.records(site.patches, 1, worker)
        for key, requester in ((NEVER_BORN, "x"), (b"ok", "n" * 900_000)):
            records = Records()
            records.append(key, Resync(requester=requester).SerializeToString())
            await asyncio.to_thread(site._write, site.resync, records, 0)
        many = Records()
        for number in range(1_000):
            many.append(b"ok", Resync(requester=f"r-{number}").SerializeToString())
        await asyncio.to_thread(site._write, site.resync, many, 0)
        await site.until(lambda: sync.counts["requests.too-large"] == 2, worker)
        await site.until(lambda: sync.counts["snapshots"] > 1, worker)
        large.battery = 2.0
        await site.send([large])
        await site.until(lambda: sync.counts["deltas"] == 1, worker)
        patches = await site.records(site.patches, 1 + sync.counts["snapshots"], worker)

    answers = [patch for patch in patches if "resync-for" in patch.headers]
    assert 0 < len(answers) < 50
    assert b"*" in {answer.headers["resync-for"] for answer in answers}
    assert all(failed)


@pytest.mark.long
async def test_what_is_small_on_its_way_is_not_gathered(site: Site) -> None:
    """64 compressed megabytes arrive in a few kilobytes, and are asked for in as many: neither is one chunk."""
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    records, requests = Records(), Records()
    for number in range(64):
        state = DeviceState(device_id=f"d-{number}", owner_email=str(number % 10) * 1_000_000)
        records.append(
            state.device_id.encode(), zstandard.compress(state.SerializeToString()), [("content-encoding", b"zstd")]
        )
        requests.append(state.device_id.encode(), Resync(requester="r").SerializeToString())
    await asyncio.to_thread(site._write, site.source, records, 0)
    largest: list[int] = []
    async with site.running(app) as worker:
        submit = app.consumer.pipeline.submit

        async def watched(chunk: Chunk) -> None:
            largest.append(chunk.nbytes)
            await submit(chunk)

        app.consumer.pipeline.submit = watched
        await site.until(lambda: sync.counts["snapshots"] == 64, worker)
        await asyncio.to_thread(site._write, site.resync, requests, 0)
        await site.until(lambda: sync.counts["snapshots"] == 128, worker)
        await site.until(lambda: app.consumer.pipeline.idle, worker)

    assert len(largest) >= 3
    assert max(largest) < 3 * (33 << 20)
