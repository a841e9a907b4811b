"""Sources that are written in transactions: a quiet partition ends behind a marker, and so does its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams._native import KafkaProducer, Records
from streams.app import App
from streams.cli import groups
from streams.demo.v1.device_pb2 import DeviceState
from streams.settings import read
from streams.transport.markers import MARKERS_S
from tests.contract.site import Site
from tests.zoo import Receiver

TIMEOUT_MS = 10_000


def _write(site: Site, states: list[DeviceState], *, abort: bool = False) -> None:
    servers = site.url.partition("://")[2]
    producer = KafkaProducer({"bootstrap.servers": servers, "transactional.id": f"{site.source}-writer"})
    producer.init_transactions(TIMEOUT_MS)
    producer.begin()
    records = Records()
    for state in states:
        records.append(state.device_id.encode(), state.SerializeToString())
    producer.produce(site.source, 0, records, TIMEOUT_MS)
    producer.flush(TIMEOUT_MS)
    producer.abort(TIMEOUT_MS) if abort else producer.commit(TIMEOUT_MS)
    producer.close()


def _place(site: Site, app: App) -> tuple[int | None, int]:
    """Where the group goes on, and where the partition ends."""
    settings = read(flags={"app.id": app.conf.id, "app.broker": site.url})
    (place,) = groups.places(settings, site.source)
    return place.offset, place.bounds.end


def _synced(site: Site, guarantee: str) -> App:
    app = site.app({"app.guarantee": guarantee})
    app.sync(site.source, DeviceState)
    return app


def _ordinary(site: Site, seen: list[bytes]) -> App:
    app = site.app()

    @app.agent(app.topic(site.source, value_serializer="raw", key_serializer="raw"))
    async def look(stream: AsyncIterator[Any]) -> None:
        async for event in stream.events():  # type: ignore[attr-defined]
            seen.append(event.key)

    return app


@pytest.mark.kafka
@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_quiet_source_whose_last_marker_expired_is_no_loss(kafka_site: Site, guarantee: str) -> None:
    """Read whole, then removed whole: the next worker starts, and goes on. Aborted records lie there too."""
    site = kafka_site
    await site.create(partitions=1)
    async with site.running(app := _synced(site, guarantee)) as worker:
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-1", battery=1)])
        await site.records(site.patches, 1, worker)
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-2")], abort=True)
        await site.until(lambda: _place(site, app) == (4, 4), worker)
    await site.expire(site.source)
    async with site.running(_synced(site, guarantee)) as worker:
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-1", battery=2)])
        await site.records(site.patches, 2, worker)

    assert {b"d-1": [1, 2]} == await site.revisions()


@pytest.mark.kafka
async def test_of_an_ordinary_topic_neither(kafka_site: Site) -> None:
    """The same for a plain agent."""
    site = kafka_site
    await site.create(partitions=1)
    seen: list[bytes] = []
    async with site.running(app := _ordinary(site, seen)) as worker:
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-1")])
        await site.until(lambda: seen == [b"d-1"], worker)
        await site.until(lambda: _place(site, app) == (2, 2), worker)
    await site.expire(site.source)
    async with site.running(_ordinary(site, seen)) as worker:
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-2")])
        await site.until(lambda: seen == [b"d-1", b"d-2"], worker)


@pytest.mark.kafka
async def test_what_an_agent_has_in_hand_is_not_passed_over(kafka_site: Site) -> None:
    """The end is told while the record before it is worked on: the group stays before it, and it is read again."""
    site = kafka_site
    await site.create(partitions=1)
    app = site.app()
    held = asyncio.Event()
    taken: list[bytes] = []

    @app.agent(app.topic(site.source, value_serializer="raw", key_serializer="raw"))
    async def hold(stream: AsyncIterator[Any]) -> None:
        async for event in stream.events():  # type: ignore[attr-defined]
            taken.append(event.key)
            await held.wait()

    async with site.running(app) as worker:
        await asyncio.to_thread(_write, site, [DeviceState(device_id="d-1")])
        await site.until(lambda: taken, worker)
        await site.until(app.consumer._thread.behind_markers, worker)
        await asyncio.sleep(2 * MARKERS_S)
        assert await asyncio.to_thread(_place, site, app) in ((None, 2), (0, 2))
        held.set()
        await site.until(lambda: _place(site, app) == (2, 2), worker)


@pytest.mark.kafka
async def test_a_targets_progress_goes_behind_the_markers_too(kafka_site: Site) -> None:
    """Else a quiet topic of patches that expired looks like a loss, and snapshots of all its keys are asked for."""
    site = kafka_site
    await site.create(partitions=1)
    options = {"delivery.progress_ms": 50}
    async with Receiver(DeviceState) as receiver:
        for battery in (1, 2):
            app = site.app(options)
            app.sync(site.source, DeviceState)
            app.target("billing", source=site.source, url=receiver.url, allow_private=True, linger_ms=5)
            async with site.running(app) as worker:
                await site.send([DeviceState(device_id="d-1", battery=battery)])
                await _delivered(site, app, receiver, battery, worker)
            if battery == 1:
                await site.expire(site.patches)

    assert [] == await site.read(site.resync)
    assert 2 == receiver.patches


async def _delivered(
    site: Site, app: App, receiver: Receiver[DeviceState], patches: int, worker: asyncio.Task[None]
) -> None:
    """So many patches arrived, and the target's progress is the end of their topic."""
    assert app.guarded is not None
    assert app.guarded.deliveries is not None
    (route,) = app.guarded.deliveries.routes
    await site.until(lambda: receiver.patches == patches, worker)
    await site.until(lambda: route.lanes.progress(0) == site._ends(site.patches)[0], worker)
