"""Groups whose offsets others moved or forgot, and state that begins anew. On every transport, or on Kafka where it is
Kafka that forgets.
"""

from __future__ import annotations

import asyncio

import pytest

from streams import declaring
from streams.cli import groups
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError, StateError
from streams.transport.identity import offset_metadata
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site
from tests.contract.test_replaced import BOTH, DEVICES, chosen, expected, fails, places, remake, states, streams, work

KAFKA = [pytest.param("kafka", marks=pytest.mark.kafka)]


async def test_what_a_worker_committed_before_it_saw_the_new_log_counts_in_the_old_one(site: Site) -> None:
    """Found: stopped between the deletion and its look, a worker began nowhere until somebody had decided."""
    await site.create(partitions=2)
    await work(site, states(1), states(2))
    left = await asyncio.to_thread(places, site)
    await remake(site, site.source)
    await site.send(states(5))
    came = [
        (
            place.partition,
            1,
            offset_metadata(place.beside.source, place.beside.changelog, place.beside.begin, place.beside.end),
        )
        for place in left
        if place.beside is not None
    ]
    await asyncio.to_thread(groups.move, chosen(site), site.source, came)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] == DEVICES, worker)
        await site.send(states(6))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES, worker)
    assert expected(6) == await site.held()


@pytest.mark.parametrize("site", BOTH, indirect=True)
@pytest.mark.parametrize("how", ["lost", "absent", "unread copies"])
async def test_a_repartitioned_source_is_rebuilt(site: Site, how: str) -> None:
    """Found: a worker refused its lost changelog after the rebuild as before; and copies that nobody had read yet made
    all that were made anew look old, so that keys were forgotten.
    """
    await site.create(partitions=2)
    app = await work(site, states(1), states(2), partitioning="repartition")
    topics = app.syncs[site.source].topics
    if how != "unread copies":
        await site.delete(topics.changelog)
    if how == "lost":
        error = await fails(site, partitioning="repartition")
        assert isinstance(error, StateError)
    if how == "unread copies":
        back = [
            (place.partition, max(0, (place.offset or 0) - 1), "")
            for place in await asyncio.to_thread(groups.places, chosen(site), topics.rekey)
        ]
        await asyncio.to_thread(groups.move, chosen(site), topics.rekey, back)
    assert 0 == await streams(site, "state", "rebuild", site.source, "--from-source", "--yes")

    app = site.app()
    sync = app.sync(site.source, DeviceState, partitioning="repartition")
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES, worker)
        assert not sync.counts["dropped.origin"]
        await site.send(states(3, devices=1))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES + 1, worker)
    assert {**expected(2), **expected(3, devices=1)} == await site.held()
    assert 0 == await streams(site, "state", "verify", site.source)


@pytest.mark.parametrize("site", KAFKA, indirect=True)
@pytest.mark.parametrize("how", ["moved", "rebuilt"])
async def test_a_group_that_was_made_anew_counts_its_generations_anew(site: Site, how: str) -> None:
    """At least once. Found: offsets that were committed for a group that had expired made its workers wait for ever."""
    await site.create(partitions=2)
    options: dict[str, object] = {"app.guarantee": "at_least_once"}
    for battery in (1, 2):
        app = site.app(options)
        sync = app.sync(site.source, DeviceState)
        async with site.running(app) as worker:
            await site.send(states(battery))
            await site.until(lambda: sync.counts["events"] == DEVICES, worker)  # noqa: B023 - awaited here
            await site.records(site.patches, battery * DEVICES, worker)
    await site.forget_group(app.conf.id)
    if how == "moved":
        await asyncio.to_thread(groups.move, chosen(site), site.source, [(0, 0, ""), (1, 0, "")])
    else:
        assert 0 == await streams(site, "state", "rebuild", site.source, "--from-source", "--yes")

    app = site.app(options)
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send(states(3))
        await site.until(lambda: sync.counts["events"] == 3 * DEVICES, worker)
    assert expected(3) == await site.held()


@pytest.mark.parametrize("site", KAFKA, indirect=True)
async def test_state_that_begins_anew_does_not_delete_what_the_source_has_forgotten(site: Site) -> None:
    """Changelog and offsets are gone, and the source lacks its beginning: an unknown key may live all the same."""
    await site.create(partitions=1)
    app = await work(site, states(1))
    await site.expire(site.source)
    await site.delete(app.syncs[site.source].topics.changelog)
    await site.forget_group(app.conf.id)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        patch = (await site.read(site.patches))[-1]
        ids = await asyncio.to_thread(groups.ids, chosen(site), [site.patches])
        ask = Resync(requester="r", topic_id=ids[site.patches], partition=0, offset=patch.offset)
        await site.write(site.resync, ask.SerializeToString(), key=patch.key, partition=0)
        await site.until(lambda: sync.counts["requests.unknown"] == 1, worker)
        await site.send(states(2, devices=1))
        await site.records(site.patches, DEVICES + 1, worker)
    found = [Patch.FromString(record.value or b"") for record in await site.read(site.patches)]
    assert [Patch.SNAPSHOT] * (DEVICES + 1) == [each.kind for each in found]
    assert found[-1].epoch > max(each.epoch for each in found[:-1])


@pytest.mark.parametrize("site", KAFKA, indirect=True)
async def test_a_table_whose_changelog_is_made_anew_under_a_worker_does_not_end_it(site: Site) -> None:
    """Found: nothing was left to commit then, and that ended the worker with a ValueError of Kafka's client."""
    await site.create(partitions=2)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    app.target("nobody", url="http://127.0.0.1:9/", source=site.source, allow_private=True)
    changelog = f"{app.conf.id}-circuits-changelog"
    async with site.running(app) as worker:
        await site.send(states(1))
        await site.until(lambda: sync.counts["events"] == DEVICES, worker)
        left = app.consumer.logs.ids[changelog]
        await site.delete(changelog)
        await site.create(changelog, partitions=8)
        app.consumer.logs.doubt()
        await site.until(lambda: app.consumer.logs.ids.get(changelog, left) != left, worker)
        await site.send(states(2))
        await site.until(lambda: sync.counts["events"] == 2 * DEVICES, worker)


async def test_copies_that_went_with_their_topic_are_made_again(site: Site) -> None:
    """Events whose copies nobody had read are in the source alone, once the copies are deleted."""
    await site.create(partitions=2)
    app = await work(site, states(1), states(2), partitioning="repartition")
    topics = app.syncs[site.source].topics
    await site.send(states(3))
    done = [
        (place.partition, place.bounds.end, offset_metadata(place.beside.source, copies=place.beside.copies))
        for place in await asyncio.to_thread(places, site)
        if place.beside is not None
    ]
    await asyncio.to_thread(groups.move, chosen(site), site.source, done)
    await remake(site, topics.rekey)

    app = site.app()
    sync = app.sync(site.source, DeviceState, partitioning="repartition")
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] == 3 * DEVICES, worker)
    assert (2 * DEVICES, DEVICES) == (sync.counts["dropped.origin"], sync.counts["patches"])
    assert expected(3) == await site.held()


async def test_copies_that_went_under_a_worker_are_made_again(site: Site) -> None:
    """It begins over with the source as well."""
    await site.create(partitions=2)
    app = site.app()
    sync = app.sync(site.source, DeviceState, partitioning="repartition")
    async with site.running(app) as worker:
        await site.send(states(1))
        await site.until(lambda: sync.counts["events"] == DEVICES, worker)
        await remake(site, sync.topics.rekey)
        app.consumer.logs.doubt()
        await site.until(lambda: sync.counts["dropped.origin"] == DEVICES, worker)
        await site.send(states(2))
        await site.until(lambda: sync.counts["events"] == 3 * DEVICES, worker)
    assert expected(2) == await site.held()


@pytest.mark.parametrize("site", BOTH, indirect=True)
@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_source_made_anew_with_other_partitions_is_not_begun(
    site: Site, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys lie elsewhere now. Found: the worker took its events in for some seconds before it ended in words."""
    await site.create(partitions=2)
    monkeypatch.setattr(declaring, "LOOK_PAUSE_S", 3_600.0)  # whoever compares ids does not wait for it
    app = site.app()
    sync = app.sync(site.source, DeviceState)

    async def remade() -> None:
        async with site.running(app) as worker:
            await site.send(states(1))
            await site.records(site.patches, DEVICES, worker)
            await remake(site, site.source, partitions=partitions)
            await site.send(states(2, devices=1))
            app.consumer.logs.doubt()
            await asyncio.wait_for(worker, 60)

    with pytest.raises(SettingsError, match=f"expected {partitions}, as {site.source} has"):
        await remade()
    assert sync.counts["events"] == len(await site.read(site.patches)) == DEVICES


async def test_the_epoch_beside_an_offset_is_passed(site: Site) -> None:
    """The one place that knows the last epoch over a changelog of an older release: an answer about an unknown key may
    have had it, and what is created after a restart would be below.
    """
    await site.create(partitions=1)
    await work(site, states(1, devices=1))
    ((_, _, offset, beside),) = await asyncio.to_thread(places, site)
    assert beside is not None
    assert offset is not None
    ahead = beside.epoch + 3_600_000
    logs = beside.source, beside.changelog, beside.begin, beside.end
    await asyncio.to_thread(groups.move, chosen(site), site.source, [(0, offset, offset_metadata(*logs, ahead))])
    await work(site, states(1, devices=2))

    epochs = [Patch.FromString(record.value or b"").epoch for record in await site.read(site.patches)]
    assert ahead in range(epochs[0], epochs[1])
