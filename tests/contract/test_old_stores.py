"""A rocksdb store that a worker finds and must not believe: from a backup that is days old, of another application."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from streams.clock import SYSTEM_CLOCK, ManualClock
from streams.demo.v1.device_pb2 import DeviceState
from streams.state.rocks import Store
from streams.transport.log import Log
from streams.v1.patch_pb2 import Patch
from tests.contract.site import DAY_MS, POLL_S, Site
from tests.contract.test_replaced import states, streams

OPTIONS: dict[str, object] = {"state": "rocksdb", "tombstone_retention_ms": 1_000}


def compact(folder: Path) -> None:
    """As upkeep does two days later."""
    with Log.shared(folder / "log") as log:
        while log.maintain(SYSTEM_CLOCK.now_ms() + 2 * DAY_MS, 1_000, everything=True):
            pass


def age(folder: Path, ms: int) -> None:
    """The stores were written so much earlier."""
    for place in folder.glob("state/*/*"):
        store = Store(place, clock=ManualClock(SYSTEM_CLOCK.now_ms() - ms))
        store.up_to_date()
        store.close()


async def turn(site: Site, *events: DeviceState) -> None:
    """A worker takes events and is stopped."""
    app = site.app()
    sync = app.sync(site.source, DeviceState, **OPTIONS)
    async with site.running(app) as worker:
        await site.send(events)
        await site.until(lambda: sync.counts["events"] == len(events), worker)


async def forgotten(site: Site, key: bytes, other: DeviceState) -> None:
    """A worker deletes a key, and forgets it after its time, with an event of another one."""
    app = site.app()
    sync = app.sync(site.source, DeviceState, **OPTIONS)
    async with site.running(app) as worker:
        await site.write(site.source, None, key=key)
        while not sync.counts["expired"]:
            other.battery += 1
            await site.send([other])
            await asyncio.sleep(POLL_S)
        await site.until(lambda: sync.counts["events"] > other.battery, worker)


@pytest.mark.parametrize("site", ["embedded"], indirect=True)
async def test_a_store_that_slept_for_longer_than_removals_are_told_is_made_anew(site: Site) -> None:
    """Found: a key that was deleted and forgotten meanwhile lived on in the restored store, and its next patch was a
    delta of an epoch that is over: every receiver dropped it.
    """
    first, other = states(1, devices=2)
    await site.create(partitions=1)
    await turn(site, first, other)
    data, backup = site.folder / "data", site.folder / "backup"
    await asyncio.to_thread(shutil.copytree, data, backup)
    await forgotten(site, b"d-0", DeviceState(device_id="d-1"))
    await site.until(lambda: Path(site.url.partition("://")[2]).resolve() not in Log._shared)
    await asyncio.to_thread(compact, site.folder)
    await asyncio.to_thread(shutil.rmtree, data)
    await asyncio.to_thread(shutil.move, backup, data)
    await asyncio.to_thread(age, data, 2 * DAY_MS)

    again = DeviceState(device_id="d-0", battery=9)
    await turn(site, again)
    patches = [Patch.FromString(found.value or b"") for found in await site.read(site.patches)]
    own = [(patch.kind, patch.epoch) for patch in patches if patch.key == b"d-0"]
    assert [Patch.SNAPSHOT, Patch.DELETE, Patch.SNAPSHOT] == [kind for kind, _ in own]
    assert own[0][1] == own[1][1] < own[2][1]
    assert again == (await site.held())[b"d-0"]
    assert 0 == await streams(site, "state", "verify", site.source)


@pytest.mark.parametrize("site", ["embedded"], indirect=True)
@pytest.mark.parametrize("other", ["application", "changelog"])
async def test_a_store_of_other_rows_is_made_anew(site: Site, other: str) -> None:
    """One directory for two applications, or for one whose log was made anew: neither goes on from the other's rows."""
    (device,) = states(1, devices=1)
    await site.create(partitions=1)
    await turn(site, device)
    await site.until(lambda: Path(site.url.partition("://")[2]).resolve() not in Log._shared)
    options: dict[str, object] = {}
    if other == "application":
        options = {"app.id": f"second-{site.source}"}
    else:
        await asyncio.to_thread(shutil.rmtree, site.folder / "log")
        await site.create(partitions=1)
    app = site.app(options)
    app.sync(site.source, DeviceState, output="others", **OPTIONS)
    async with site.running(app) as worker:
        await site.send([device])
        await site.records("others", 1, worker)
    (patch,) = [Patch.FromString(found.value or b"") for found in await site.read("others")]
    assert (Patch.SNAPSHOT, 1) == (patch.kind, patch.revision)
