"""What others do to a worker on a real Kafka: partitions are added, its name is taken, its group's memory goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from streams import declaring
from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError, StreamsError, TransportError
from streams.sync.topics import SyncTopics, check_counts
from tests.broker import Broker
from tests.client.place import History
from tests.contract.site import Site
from tests.zoo import Receiver

END_TIMEOUT_S = 60
GROWN_S = 30
"""What is promised; only the other tests look more often, to be quicker."""


@pytest.fixture
def site(kafka: Broker, tmp_path: object) -> Site:
    """A site on the real Kafka."""
    return Site(kafka.url, tmp_path)  # type: ignore[arg-type]


async def _grow(site: Site, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.url.partition("://")[2])
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(partitions)})
    finally:
        await admin.close()


def _app(site: Site, **options: object) -> App:
    app = site.app(options)
    app.sync(site.source, DeviceState)
    return app


async def _serve(app: App) -> None:
    await asyncio.wait_for(app.serve(), END_TIMEOUT_S)


@pytest.mark.parametrize("what", ["source", pytest.param("changelog", marks=pytest.mark.long)])
async def test_a_grown_topic_ends_the_worker_in_words(site: Site, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the worker and at its next start: both sides are named, and what to do."""
    monkeypatch.setattr(declaring, "LOOK_PAUSE_S", 0.5)  # not ten seconds
    await site.create(partitions=1)
    topics = SyncTopics.of(f"fleet-{site.source}", site.source, "")
    grown = str(getattr(topics, what))
    place, came, wanted = (topics.output, 1, 2) if what == "source" else (grown, 2, 1)

    async def grow() -> None:
        async with site.running(_app(site)) as worker:
            await site.send([DeviceState(device_id="d-1", battery=1)])
            await site.records(site.patches, 1, worker)
            await _grow(site, grown, 2)
            await asyncio.wait_for(worker, END_TIMEOUT_S)

    sides = f"got {came} partitions, expected {wanted}, as {site.source} has"
    said = f"topic {place}: {sides}; .*use another app id and output"
    with pytest.raises(SettingsError, match=said):
        await grow()
    with pytest.raises(SettingsError, match=said):
        await _serve(_app(site))


async def test_a_grown_topic_of_an_ordinary_agent_ends_the_worker_in_words(site: Site) -> None:
    """Nobody read its new partition for minutes, and nothing said so. The next worker reads all that is there."""
    await site.create(partitions=1)
    seen: list[bytes] = []

    def make() -> App:
        app = site.app()

        @app.agent(app.topic(site.source, value_type=bytes, value_serializer="raw"))
        async def note(stream: Any) -> None:
            async for value in stream:
                seen.append(value)

        return app

    async def grow() -> None:
        async with site.running(make()) as worker:
            await site.write(site.source, b"1")
            await site.until(lambda: seen == [b"1"], worker)
            await _grow(site, site.source, 2)
            await asyncio.wait_for(worker, GROWN_S)

    with pytest.raises(TransportError, match=f"topic {site.source}: got 2 partitions, expected 1, .*start it again"):
        await grow()
    await site.write(site.source, b"2", partition=1)
    async with site.running(make()) as worker:
        await site.until(lambda: b"2" in seen, worker)


async def test_a_grown_topic_of_a_delivery_ends_the_worker_in_words(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that only delivers the patches of another application: the next one delivers those of all partitions."""
    monkeypatch.setattr(declaring, "LOOK_PAUSE_S", 0.5)
    async with Receiver(DeviceState) as receiver:

        def make() -> App:
            app = site.app({"app.id": f"post-{site.source}"})
            app.target("billing", url=receiver.url, source=site.source, message=DeviceState, allow_private=True)
            return app

        async def grow() -> None:
            async with site.running(make()) as worker:
                await site.until(lambda: b"d-1" in receiver.states(), worker)
                await _grow(site, site.patches, 2)
                await asyncio.wait_for(worker, END_TIMEOUT_S)

        await site.create(site.patches, site.resync, partitions=1)
        await site.write(site.patches, _first("d-1"), key=b"d-1")
        with pytest.raises(TransportError, match=f"topic {site.patches}: got 2 partitions, expected 1"):
            await grow()
        await site.write(site.patches, _first("d-2"), key=b"d-2", partition=1)
        async with site.running(make()) as worker:
            await site.until(lambda: b"d-2" in receiver.states(), worker)


def _first(name: str) -> bytes:
    """A device's first patch."""
    history = History(DeviceState, name.encode())
    history.add(DeviceState(device_id=name, battery=1))
    return history.patches[0].SerializeToString()


def test_each_topic_that_does_not_fit_has_its_cure() -> None:
    """The source grew: all of its topics are behind. One of them grew: partitions cannot be taken away."""
    topics = SyncTopics.of("a", "s", "")
    every = dict.fromkeys(topics.names, 2)
    check_counts(topics, every)
    for name in topics.names[1:]:
        with pytest.raises(SettingsError, match="partitions cannot be taken away") as raised:
            check_counts(topics, {**every, name: 3})
        assert [f"topic {name}"] == [finding.setting for finding in raised.value.findings]
    with pytest.raises(SettingsError, match="s has grown") as raised:
        check_counts(topics, {**every, "s": 3})
    assert len(topics.names) - 1 == len(raised.value.findings)


async def test_of_two_workers_with_one_name_the_later_ends(site: Site) -> None:
    """It names the instance and the cure; the earlier one goes on, and leaves its name to the next at once."""
    await site.create(partitions=2)
    app = _app(site, **{"app.instance": "same"})
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id=f"d-{number}", battery=1) for number in range(9)])
        await site.records(site.patches, 9, worker)
        with pytest.raises(StreamsError) as raised:
            await _serve(_app(site, **{"app.instance": "same", "app.datadir": str(site.folder / "other")}))
        await site.send([DeviceState(device_id=f"d-{number}", battery=2) for number in range(9)])
        await site.records(site.patches, 18, worker)
    async with site.running(_app(site, **{"app.instance": "same"})) as worker:
        await site.send([DeviceState(device_id=f"d-{number}", battery=3) for number in range(9)])
        await site.records(site.patches, 27, worker)

    assert 2 == raised.value.exit_code
    assert f"app.instance: got same, which another worker of fleet-{site.source} on" in str(raised.value)
    assert "set app.instance, or stop the other one" in str(raised.value)
    assert {f"d-{number}".encode(): [1, 2, 3] for number in range(9)} == await site.revisions()


REKEYED: dict[str, object] = {"key": "field:device_id", "partitioning": "repartition"}


@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.long), REKEYED])
async def test_a_group_whose_offsets_are_gone_doubles_nothing(site: Site, options: dict[str, object]) -> None:
    """Kafka forgets them after seven days without members. All is read again, and what is known is dropped."""

    def app() -> App:
        made = site.app()
        made.sync(site.source, DeviceState, **options)
        return made

    await site.create(partitions=2)
    first = app()
    async with site.running(first) as worker:
        for battery in range(12):
            await site.send([DeviceState(device_id=f"d-{number}", battery=battery) for number in range(3)])
        await site.records(site.patches, 36, worker)
    await site.forget_group(first.conf.id)
    again = app()
    sync = again.syncs[site.source]
    async with site.running(again) as worker:
        await site.until(lambda: sync.counts["dropped.offset"] + sync.counts["dropped.origin"] == 36, worker)
        await site.send([DeviceState(device_id="d-0", battery=99)])
        await site.records(site.patches, 37, worker)

    assert 37 == len(await site.read(site.patches))
    assert list(range(1, 14)) == (await site.revisions())[b"d-0"]
