"""What a worker promises, on every transport: each test runs on the embedded log and on a real Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.contract.site import Site, changes, history

FIRST_PATCH_S = 10
COMMIT_S = 5.0
FETCH_S = 1.5
"""Longer than a fetch waits for records."""


async def test_patches_lead_to_the_state_of_a_plain_replay(site: Site, seed: int) -> None:
    """Events sent before and while the worker runs: every change of every key once, in order, proven by its digest."""
    states = history(seed)
    await site.create()
    await site.send(states[:100])
    app = site.app()
    sync = app.sync(site.source, DeviceState, key="field:device_id")
    async with site.running(app) as worker:
        await site.send(states[100:])
        await site.until(lambda: sync.counts["events"] >= len(states), worker)

    await site.verify(states)


@pytest.mark.parametrize("state", ["memory", "rocksdb"])
async def test_a_restart_goes_on_where_it_stopped(site: Site, seed: int, state: str) -> None:
    """Two workers after each other, with events sent before, between and meanwhile: nothing lost, nothing doubled."""
    states = history(seed)
    await site.create()
    for begin, middle, end in ((0, 50, 150), (150, 200, len(states))):
        await site.send(states[begin:middle])
        app = site.app()
        sync = app.sync(site.source, DeviceState, state=state)
        async with site.running(app) as worker:
            await site.send(states[middle:end])
            await site.until(lambda sync=sync, count=end - begin: sync.counts["events"] >= count, worker)  # type: ignore[misc]
        assert sync.counts["events"] == end - begin

    await site.verify(states)


async def test_two_syncs_and_a_chunk_agent_in_one_worker(site: Site, seed: int) -> None:
    """Each sync has its own topics; what a chunk agent sends about patches comes out once, in their order."""
    other, alarms = f"{site.source}-b", f"{site.source}-alarms"
    states, others = history(seed), history(seed + 1, events=100)
    await site.create(site.source, other, alarms)
    await site.create(site.patches, partitions=3)
    app = site.app()
    first, second = app.sync(site.source, DeviceState), app.sync(other, DeviceState)
    _alarm_on_patches(app, site, alarms)
    async with site.running(app) as worker:
        await site.send(states)
        await site.send(others, other)
        await site.until(lambda: first.counts["events"] >= len(states), worker)
        await site.until(lambda: second.counts["events"] >= len(others), worker)
        await site.records(alarms, sum(changes(states).values()), worker)

    await site.verify(states)
    await site.verify(others, f"{other}.patches")
    assert await _alarmed(site, alarms) == await site.revisions()


def _alarm_on_patches(app: App, site: Site, alarms: str) -> None:
    """An agent that sends one alarm per patch."""
    topic = app.topic(alarms, key_type=bytes, value_type=bytes, value_serializer="raw")

    @app.agent(app.chunks(site.patches))
    async def alarm(stream: Any) -> None:
        async for chunk in stream:
            for record in chunk:
                revision = str(record.patch.revision).encode()
                await topic.send(key=record.key, value=revision, headers={"from": b"agent"})


async def _alarmed(site: Site, alarms: str) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for record in await site.read(alarms):
        assert {"from": b"agent"} == record.headers
        found.setdefault(record.key or b"", []).append(int(record.value or b""))
    return found


async def test_ordinary_agents_and_tables_beside_a_sync(site: Site, seed: int) -> None:
    """Plain Faust works unchanged: an agent that counts in a table, which a second worker restores."""
    words, states = f"{site.source}-words", history(seed, events=60)
    await site.create(site.source, words)
    totals: list[dict[str, int]] = []
    for sent in (["a", "b", "a"], ["a", "c"]):
        app = site.app()
        sync = app.sync(site.source, DeviceState)
        counts, seen = _counting(app, words)
        async with site.running(app) as worker:
            await site.send(states)
            for word in sent:
                await app.topic(words, value_type=str).send(key=word, value=word)
            await site.until(lambda seen=seen, sent=sent: sum(seen.values()) >= len(sent), worker)  # type: ignore[misc]
            await site.until(lambda sync=sync: sync.counts["events"] >= len(states), worker)  # type: ignore[misc]
            totals.append({word: counts[word] for word in "abc"})

    assert [{"a": 2, "b": 1, "c": 0}, {"a": 3, "b": 1, "c": 1}] == totals


async def test_a_stop_commits_what_agents_finished(site: Site) -> None:
    """Found when fetches began to return at once: Faust went back to the committed offsets and forgot the rest."""
    words = f"{site.source}-words"
    await site.create(words)
    seen: list[Counter[str]] = []
    for sent in (["a", "b", "a"], ["c"]):
        app = site.app(broker_commit_interval=3_600.0)
        _, counts = _counting(app, words)
        seen.append(counts)
        async with site.running(app) as worker:
            for word in sent:
                await app.topic(words, value_type=str).send(key=word, value=word)
            await site.until(lambda counts=counts, sent=sent: counts.total() >= len(sent), worker)  # type: ignore[misc]
            app.consumer.stop_flow()
            await asyncio.sleep(FETCH_S)

    assert seen == [{"a": 2, "b": 1}, {"c": 1}]


def _counting(app: App, words: str) -> tuple[Any, Counter[str]]:
    counts, seen = app.Table("counts", default=int, partitions=3), Counter[str]()

    @app.agent(app.topic(words, value_type=str))
    async def count(stream: Any) -> None:
        async for word in stream:
            counts[word] += 1
            seen[word] += 1

    return counts, seen


@pytest.mark.parametrize("site", ["embedded"], indirect=True)
async def test_what_agents_finish_is_committed_after_one_interval(site: Site) -> None:
    """Not after two, as Faust's first time: a worker that was killed until then had committed nothing at all."""
    await site.create(partitions=1)
    app = site.app(broker_commit_interval=COMMIT_S)

    @app.agent(app.topic(site.source, value_type=bytes, value_serializer="raw"))
    async def taking(stream: Any) -> None:
        async for _ in stream:
            pass

    await site.write(site.source, b"1", b"2", partition=0)
    began_s = asyncio.get_running_loop().time()
    async with site.running(app) as worker:
        await site.until(lambda: app.transport.log.log.committed(app.conf.id), worker)
        took_s = asyncio.get_running_loop().time() - began_s

        assert {(site.source, 0): 2} == app.transport.log.log.committed(app.conf.id)
    assert took_s < 2 * COMMIT_S


async def test_a_rebalance_in_the_middle_of_the_work(site: Site, seed: int) -> None:
    """A topic that comes later is subscribed to: partitions are given back and come again, under load."""
    later, states = f"{site.source}-later", history(seed)
    await site.create(site.source, later)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        before = app.consumer_generation_id
        app.topics.add(app.topic(later, value_type=bytes))
        for begin in range(0, len(states), 30):
            await site.send(states[begin : begin + 30])
            await asyncio.sleep(0.5)
        await site.until(lambda: app.consumer_generation_id > before, worker)
        await site.records(site.patches, sum(changes(states).values()), worker)

    await site.verify(states)


async def test_a_snapshot_is_there_for_whoever_asks(site: Site) -> None:
    """A request on the resync topic is answered by the current revision, marked with who asked."""
    await site.create(partitions=1)
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1"), DeviceState(device_id="d-1", battery=0.5)])
        await site.until(lambda: sync.counts["events"] >= 2, worker)
        request = Resync(requester="billing", reason=Resync.LATE_JOINER)
        await site.write(site.resync, request.SerializeToString(), key=b"d-1")
        answer = (await site.records(site.patches, 3, worker))[-1]

    patch = Patch.FromString(answer.value or b"")
    assert (b"billing", b"d-1") == (answer.headers["resync-for"], answer.key)
    assert (Patch.SNAPSHOT, 2) == (patch.kind, patch.revision)
    assert DeviceState(device_id="d-1", battery=0.5) == DeviceState.FromString(patch.data)


async def test_bad_records_become_dead_letters(site: Site) -> None:
    """Their own bytes, where they came from and why; the good ones of the same chunk go on."""
    await site.create(partitions=1)
    await site.send([DeviceState(device_id="d-1")])
    await site.write(site.source, b"\xff\xff\xff", key=b"d-2")
    await site.send([DeviceState(device_id="d-1", battery=0.5)])
    app = site.app()
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["events"] >= 3, worker)

    (letter,) = await site.read(site.dead_letters)
    assert (b"d-2", b"\xff\xff\xff") == (letter.key, letter.value)
    assert site.source.encode() == letter.headers["dlq-origin-topic"]
    assert (b"0", b"1") == (letter.headers["dlq-origin-partition"], letter.headers["dlq-origin-offset"])
    assert letter.headers["dlq-reason"]
    assert {b"d-1": [1, 2]} == await site.revisions()


async def test_a_first_start_without_any_topic(site: Site) -> None:
    """The worker waits for its source (embedded: makes it), and the first event's patch is there within 10 seconds."""
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app, ready=site.embedded) as worker:
        if not site.embedded:
            await site.until(lambda: site.source in app.transport.reasons.get("topics", ""), worker)
            await site.create()
        began_s = asyncio.get_running_loop().time()
        await site.send([DeviceState(device_id="d-1"), DeviceState(device_id="d-2")])
        await site.records(site.patches, 2, worker)
        took_s = asyncio.get_running_loop().time() - began_s

    assert took_s < FIRST_PATCH_S
    assert {b"d-1": [1], b"d-2": [1]} == await site.revisions()


async def test_a_partition_count_that_does_not_fit_ends_the_worker(site: Site) -> None:
    """It says which topic, both counts and the cure, instead of sending keys to the state of others."""
    await site.create(site.source, partitions=3)
    await site.create(site.patches, partitions=2)
    app = site.app()
    app.sync(site.source, DeviceState)
    with pytest.raises(SettingsError, match=rf"{site.patches}.*2 partitions.*3"):
        async with site.running(app) as worker:
            await asyncio.wait_for(worker, 30)


async def test_a_topic_made_anew_has_another_id(site: Site) -> None:
    """16 bytes that stay for as long as the topic does; a topic that does not exist has none."""
    await site.create(site.source, site.patches, partitions=1)

    async def look() -> dict[str, bytes]:
        app = site.app()
        app.sync(site.source, DeviceState)
        async with site.running(app):
            found: dict[str, bytes] = await asyncio.to_thread(
                app.transport.log_ids, [site.source, site.patches, f"{site.source}-absent"]
            )
        return found

    first, second = await look(), await look()
    await site.delete(site.source)
    await site.create(site.source, partitions=1)
    third = await look()

    assert first == second
    assert {site.source: 16, site.patches: 16} == {topic: len(each) for topic, each in first.items()}
    assert (third[site.patches], len(third[site.source])) == (first[site.patches], 16)
    assert third[site.source] != first[site.source]
