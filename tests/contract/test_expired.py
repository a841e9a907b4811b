"""Records that retention removed before they were read: requests and counts are passed over, events never."""

from __future__ import annotations

import asyncio
import re

import pytest
from faust.types import TP

from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import TransportError
from streams.v1.outcome_pb2 import Outcomes
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site

STATE = DeviceState(device_id="d-1", battery=1)
ASK = Resync(requester="test").SerializeToString()
FETCH_S = 1.5
"""Longer than a fetch waits for records: what is under way when a partition is paused has ended then."""
NOWHERE = "http://127.0.0.1:9/"


async def _patches(site: Site) -> list[Patch]:
    return [Patch.FromString(record.value or b"") for record in await site.read(site.patches)]


def _delivering(site: Site) -> App:
    """An app with a target alone; nobody answers at its address."""
    app = site.app({"app.id": f"deliver-{site.source}", "app.datadir": str(site.folder / "delivering")})
    app.target("nobody", url=NOWHERE, source=site.source, message=DeviceState, allow_private=True)
    return app


async def test_requests_that_expired_do_not_keep_a_worker_from_starting(site: Site) -> None:
    """The worker was away for longer than requests are kept: it starts, and answers the next one."""
    await site.create(partitions=1)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([STATE])
        await site.records(site.patches, 1, worker)
        await site.write(site.resync, ASK, key=b"d-1", partition=0)
        await site.records(site.patches, 2, worker)
    await site.write(site.resync, *[ASK] * 5, key=b"d-1", partition=0)
    await site.expire(site.resync)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.until(lambda: app.transport.expiry.counts[site.resync] == 5, worker)
        await site.write(site.resync, ASK, key=b"d-1", partition=0)
        await site.records(site.patches, 3, worker)
        await site.send([DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 4, worker)

    kinds = [(patch.kind, patch.revision) for patch in await _patches(site)]
    assert [(Patch.SNAPSHOT, 1)] * 3 == kinds[:3]
    assert 2 == kinds[3][1]


async def test_requests_that_expire_under_a_worker_do_not_end_it(site: Site) -> None:
    """What waits for a partition that is held up expires; reading goes on with the next, in the middle of a run."""
    await site.create(partitions=1)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([STATE])
        await site.write(site.resync, ASK, key=b"d-1", partition=0)
        await site.records(site.patches, 2, worker)
        app.consumer.pause_partitions({TP(site.resync, 0)})
        await asyncio.sleep(FETCH_S)
        await site.write(site.resync, *[ASK] * 5, key=b"d-1", partition=0)
        await site.expire(site.resync)
        app.consumer.resume_partitions({TP(site.resync, 0)})
        await site.write(site.resync, ASK, key=b"d-1", partition=0)
        await site.records(site.patches, 3, worker)

    assert 3 <= len(await _patches(site)) <= 8


async def test_events_that_expired_stop_a_worker_in_words(site: Site) -> None:
    """Removed before they were processed, they are a loss: topic, partition, both offsets and the cure are named."""
    await site.create(partitions=1)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([STATE])
        await site.records(site.patches, 1, worker)
    await site.send([STATE, STATE])
    await site.expire(site.source)
    app = site.app()
    app.sync(site.source, DeviceState)

    with pytest.raises(TransportError) as raised:
        async with site.running(app) as worker:
            await worker
    said = rf"{site.source} partition 0: offset 1 is next, the log has 3 to 3: "
    assert re.match(said, str(raised.value)), raised.value
    assert f"streams state replaced {site.source}" in str(raised.value)


async def test_patches_and_counts_that_expired_do_not_keep_a_target_from_starting(site: Site) -> None:
    """An app that delivers another's patches, and was away for longer than they are kept, starts and takes the next."""
    await site.create(partitions=1)
    owner = site.app()
    owner.sync(site.source, DeviceState)
    async with site.running(owner) as worker:
        await site.send([STATE])
        await site.records(site.patches, 1, worker)
        app = _delivering(site)
        if not site.embedded:
            async with site.running(app) as delivering:
                await site.until(lambda: app.consumer.pace.done, delivering)
        await site.send([DeviceState(device_id="d-1", battery=battery) for battery in (2, 3, 4)])
        await site.records(site.patches, 4, worker)
    report = Outcomes(target="t", reporter="r", ok=1).SerializeToString()
    outcomes = f"{app.conf.id}.outcomes"
    if site.embedded:
        await site.create(outcomes, partitions=8)
    await site.write(outcomes, *[report] * 3, key=b"t", partition=0)
    await site.expire(site.patches)
    await site.expire(outcomes)
    app = _delivering(site)
    async with site.running(app) as delivering:
        await site.write(
            site.patches, Patch(key=b"d-1", kind=Patch.DELETE).SerializeToString(), key=b"d-1", partition=0
        )
        await site.until(lambda: app.guarded.deliveries.pending, delivering)


async def test_bad_records_in_topics_of_our_own_cost_themselves(site: Site) -> None:
    """Progress, circuits, dictionaries, outcomes, requests: what is none is counted, and the worker works."""
    await site.create(partitions=1)
    ids = f"fleet-{site.source}"
    counts = {"progress": 1, "circuits": 1, "dictionaries": 1, "outcomes": 8}
    for name, partitions in counts.items():
        await site.create(f"{ids}.{name}", partitions=partitions)
        for key in (b"", b"nobody", b"\xff"):
            await site.write(f"{ids}.{name}", b"", b"\xff\xff", b"\x00" * 100, key=key, partition=0)
    await site.create(site.resync, partitions=1)
    await site.write(site.resync, b"\xff", b"", key=b"d-1", partition=0)
    app = site.app()
    app.sync(site.source, DeviceState)
    app.target("nobody", url=NOWHERE, source=site.source, allow_private=True, compression="dictionary")
    guarded = app.guarded
    assert guarded is not None
    async with site.running(app) as worker:
        await site.send([STATE])
        await site.records(site.patches, 1, worker)
        await site.until(lambda: guarded.deliveries is not None and guarded.deliveries.pending, worker)
        await site.until(lambda: all(guarded.damaged[f"{ids}.{name}"] >= 3 for name in counts), worker)
