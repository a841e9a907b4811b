"""Logs that are other ones under their old names: deleted and made anew, emptied, cut, restored. On every transport."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from streams.app import App
from streams.cli import groups, run
from streams.cli.groups import Place
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import LogReplacedError, StateError, StreamsError
from streams.options import Settings
from streams.settings import read
from streams.transport.identity import offset_metadata
from streams.transport.log import Log
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site

BOTH = ["embedded", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.long])]
"""The tests that take longest on a broker: a group's members have to be missed first."""
DEVICES = 5
TYPE = "streams.demo.v1.DeviceState"


def states(battery: float, devices: int = DEVICES) -> list[DeviceState]:
    """One state of each device."""
    return [DeviceState(device_id=f"d-{n}", model="Sensor X", battery=battery + n) for n in range(devices)]


def expected(battery: float, devices: int = DEVICES) -> dict[bytes, DeviceState]:
    """What a receiver holds then."""
    return {state.device_id.encode(): state for state in states(battery, devices)}


async def work(site: Site, *batches: list[DeviceState], **options: Any) -> App:
    """A worker takes batches of events, each of which changes every device, and is stopped."""
    app = site.app()
    sync = app.sync(site.source, DeviceState, **options)
    async with site.running(app) as worker:
        for batch in batches:
            done = sync.counts["events"] + len(batch)
            await site.send(batch)
            await site.until(lambda done=done: sync.counts["events"] >= done, worker)  # type: ignore[misc]
    return app


async def fails(site: Site, **options: Any) -> StreamsError:
    """What a worker ends with that cannot start."""
    with pytest.raises(StreamsError) as raised:
        await work(site, **options)
    return raised.value


def settings(site: Site, **options: object) -> Path:
    """A file for the command line."""
    file = site.folder / "streams.toml"
    more = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    file.write_text(
        f'[app]\nid = "fleet-{site.source}"\nbroker = "{site.url}"\ndatadir = "{site.folder}/data"\n'
        f'broker_session_timeout_ms = 6000\n\n[[sync]]\nsource = "{site.source}"\nmessage = "{TYPE}"\n'
        f'module = "streams.demo.v1.device_pb2"\n{more}'
    )
    return file


async def streams(site: Site, *arguments: str) -> int:
    """Runs a command; its exit code. A worker that has crashed lets go of an embedded log a moment later."""
    if site.embedded:
        await site.until(lambda: Path(site.url.partition("://")[2]).resolve() not in Log._shared)
    return await asyncio.to_thread(run, [*arguments, "--config", str(settings(site))])


def chosen(site: Site) -> Settings:
    """The same settings, read."""
    return read(settings(site))


def places(site: Site) -> list[Place]:
    """What the group has committed in the source."""
    return groups.places(chosen(site), site.source)


async def remake(site: Site, *topics: str, partitions: int = 2) -> None:
    """Deletes topics and makes them anew."""
    await site.delete(*topics)
    await site.create(*topics, partitions=partitions)


@pytest.mark.parametrize("state", ["memory", "rocksdb"])
async def test_a_source_made_anew_is_read_whole(site: Site, state: str) -> None:
    """Found: every event of known keys was dropped by its offset, ready and with lag 0."""
    await site.create(partitions=2)
    await work(site, states(1), states(2), states(3), state=state)
    await remake(site, site.source)
    app = await work(site, states(10), state=state)

    assert expected(10) == await site.held()
    assert {site.source} == app.log_watch.replaced.keys() == app.log_watch.notes.keys()
    assert 0 == await streams(site, "state", "verify", site.source)
    app = await work(site, states(11), state=state)
    assert (expected(11), {}) == (await site.held(), app.log_watch.notes)


async def test_a_source_made_anew_under_a_worker_is_noticed(site: Site) -> None:
    """The worker begins over by itself, and what it commits is of the new log."""
    await site.create(partitions=2)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        for battery in (1, 2, 3):
            await site.send(states(battery))
        await site.until(lambda: sync.counts["events"] == 3 * DEVICES, worker)
        await remake(site, site.source)
        await site.send(states(10))
        await site.until(lambda: sync.counts["events"] == 4 * DEVICES, worker)
        assert app.log_watch.notes.keys() == {site.source}
    app = await work(site, states(11))

    assert expected(11) == await site.held()
    assert not app.log_watch.notes


@pytest.mark.kafka
@pytest.mark.parametrize("which", ["changelog", "patches"])
async def test_a_topic_that_is_written_to_and_deleted_is_named(kafka_site: Site, which: str) -> None:
    """Found: the reason named another topic, or the broker, and no cure."""
    await kafka_site.create(partitions=1)
    app = kafka_site.app()
    topics = app.sync(kafka_site.source, DeviceState).topics
    deleted = topics.changelog if which == "changelog" else topics.output
    async with kafka_site.running(app) as worker:
        await kafka_site.send(states(1))
        await kafka_site.records(kafka_site.patches, DEVICES, worker)
        await kafka_site.delete(deleted)
        await kafka_site.send(states(2))
        app.consumer.logs.doubt()  # or half a minute later: the client waits for a topic before it fails
        await kafka_site.until(lambda: "deleted" in app.health.reasons(), worker)
        reasons = app.health.reasons()

    assert {"deleted"} == reasons.keys()
    assert deleted in reasons["deleted"]
    assert (which == "changelog") == ("streams state rebuild" in reasons["deleted"])


@pytest.mark.parametrize("site", ["embedded"], indirect=True)
async def test_a_topic_that_is_away_is_waited_for(site: Site) -> None:
    """The worker says what it waits for, and begins over when the topic is there again."""
    await site.create(partitions=2)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send(states(1))
        await site.until(lambda: sync.counts["events"] == DEVICES, worker)
        await site.delete(site.source)
        await site.until(lambda: site.source in app.transport.reasons.get("topics", ""), worker)
        await site.create(partitions=2)
        await site.send(states(10))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES, worker)

    assert expected(10) == await site.held()


@pytest.mark.parametrize("site", BOTH, indirect=True)
async def test_the_operator_may_want_to_decide(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """on_replaced = "stop": a worker does not start on another log until a command has said where it goes on."""
    await site.create(partitions=2)
    await work(site, states(1), states(2))
    await remake(site, site.source)
    await site.send(states(10))
    error = await fails(site, on_replaced="stop")
    found = await streams(site, "doctor")
    told = capsys.readouterr().err
    decided = await streams(site, "state", "replaced", site.source, "--from", "beginning")

    assert isinstance(error, LogReplacedError)
    assert f"streams state replaced {site.source} --from beginning" in str(error)
    assert (3, 0) == (found, decided)
    assert f"topic {site.source} partition 0: got another log" in told
    app = site.app()
    sync = app.sync(site.source, DeviceState, on_replaced="stop")
    async with site.running(app) as worker:
        await site.send(states(11))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES, worker)
    assert expected(11) == await site.held()


@pytest.mark.parametrize("site", BOTH, indirect=True)
@pytest.mark.parametrize("start", ["committed", "beginning"])
async def test_an_offset_that_came_along_stops_the_worker(site: Site, start: str) -> None:
    """A mirror that translates offsets: whether they are right nobody knows but its operator."""
    await site.create(partitions=2)
    await work(site, states(1), states(2))
    left = await asyncio.to_thread(places, site)
    await remake(site, site.source)
    await site.send(states(5))
    came = [(place.partition, 1, offset_metadata(place.beside.source)) for place in left if place.beside is not None]
    await asyncio.to_thread(groups.move, chosen(site), site.source, came)
    error = await fails(site)

    assert isinstance(error, LogReplacedError)
    assert "offset 1, which the group has committed" in str(error)
    assert 0 == await streams(site, "state", "replaced", site.source, "--from", start)

    app = site.app()
    sync = app.sync(site.source, DeviceState)
    skipped = 2 if start == "committed" else 0
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] == DEVICES - skipped, worker)
        await site.send(states(6))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES - skipped, worker)
    assert expected(6) == await site.held()


@pytest.mark.parametrize("site", BOTH, indirect=True)
@pytest.mark.parametrize("how", ["deleted", "emptied"])
async def test_a_lost_changelog_is_not_worked_on(site: Site, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Found: the worker was ready, and answered requests for living keys with DELETE."""
    await site.create(partitions=1)
    app = await work(site, states(1), states(2))
    changelog = app.syncs[site.source].topics.changelog
    await (site.delete(changelog) if how == "deleted" else site.empty(changelog))
    error = await fails(site)
    patches = len(await site.read(site.patches))
    found = await streams(site, "doctor") if how == "emptied" else 3

    assert isinstance(error, StateError)
    assert f"streams state rebuild {site.source} --from-source" in str(error)
    assert changelog in str(error)
    assert 3 == found
    assert 0 == await streams(site, "state", "rebuild", site.source, "--from-source", "--yes")

    await site.send(states(3))
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, patches + 3 * DEVICES, worker)
    assert expected(3) == await site.held()
    assert 0 == await streams(site, "state", "verify", site.source)


@pytest.mark.parametrize("site", BOTH, indirect=True)
async def test_a_source_without_its_beginning_rebuilds_only_what_it_has(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found: keys whose events had expired were forgotten without a word, and then answered with DELETE."""
    await site.create(partitions=1)
    await work(site, states(1))
    await site.empty(site.source)
    await work(site, states(2, devices=1))
    refused = await streams(site, "state", "rebuild", site.source, "--from-source", "--yes")
    told = capsys.readouterr().err
    done = await streams(site, "state", "rebuild", site.source, "--from-source", "--partial", "--yes")

    assert (2, 0) == (refused, done)
    assert "whose first records are gone from partitions [0]" in told
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, DEVICES + 2, worker)
        await site.write(site.resync, Resync(requester="r").SerializeToString(), key=b"d-3", partition=0)
        await site.until(lambda: sync.counts["requests.unknown"] == 1, worker)
        await site.send(states(3, devices=1))
        await site.records(site.patches, DEVICES + 3, worker)
    kinds = [Patch.FromString(record.value or b"").kind for record in await site.read(site.patches)]
    assert [Patch.SNAPSHOT] * (DEVICES + 1) + [Patch.DELTA] == kinds[:DEVICES] + kinds[DEVICES + 1 :]


async def test_what_is_committed_says_of_which_logs_it_is(site: Site) -> None:
    """Each commit keeps the ids of source and changelog, where the changelog begins and had ended, and the epoch."""
    await site.create(partitions=1)
    app = await work(site, states(1), states(2))
    wanted = [site.source, app.syncs[site.source].topics.changelog]
    ids = await asyncio.to_thread(groups.ids, chosen(site), wanted)
    ((_, _, _, beside),) = await asyncio.to_thread(places, site)

    assert beside is not None
    assert [ids[topic] for topic in wanted] == [beside.source, beside.changelog]
    assert beside.begin == 0
    assert beside.end >= DEVICES
    assert beside.epoch > 1_600_000_000_000
