"""Partitions that too many dead letters stop: alone, visibly, and until somebody lets them go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from faust.types import TP

from streams._native import murmur2_partition
from streams.app import App
from streams.cli import run
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.stopped import Stop, go_on
from tests.contract.site import Site

GARBAGE = b"\xff\xff\xff"
ROW = 50
"""Dead letters in a row that stop a partition, as the default is."""


def device(partition: int, number: int = 0, partitions: int = 2) -> DeviceState:
    """One whose key lies on the partition."""
    names = (f"d-{number}-{attempt}" for attempt in range(100))
    return DeviceState(device_id=next(n for n in names if murmur2_partition(n.encode(), partitions) == partition))


def stopped(app: App) -> dict[tuple[str, int], int]:
    """The stopped partitions of a worker and where they go on."""
    return {(tp.topic, tp.partition): stop.offset for tp, stop in app.consumer.stops}


def keys(states: Sequence[DeviceState]) -> dict[bytes, list[int]]:
    """Each state once."""
    return {state.device_id.encode(): [1] for state in states}


async def test_too_many_dead_letters_stop_their_partition_alone(site: Site) -> None:
    """Its letters are there to be looked at; other partitions and syncs go on; what lies behind waits, and is told."""
    other = f"{site.source}.other"
    await site.create(site.source, other, partitions=2)
    app = site.app({"app.progress_timeout_ms": 1_000})
    sync = app.sync(site.source, DeviceState)
    app.sync(other, DeviceState)
    async with site.running(app) as worker:
        await site.write(site.source, *[GARBAGE] * (ROW + 10), key=b"k", partition=0)
        await site.records(site.dead_letters, ROW, worker)
        await site.until(lambda: stopped(app), worker)
        await site.send([device(0), device(1)])
        await site.send([device(0), device(1)], topic=other)
        await site.records(f"{other}.patches", 2, worker)
        await site.records(site.patches, 1, worker)
        await asyncio.sleep(1.5)  # longer than a topic may stand still
        assert not worker.done()
        told = app.health.held_back()
        metrics = {f"{tp.partition} {stop.code}" for tp, stop in app.consumer.stops}
        letters = await site.read(site.dead_letters)
        assert {(site.source, 0): len(letters)} == stopped(app)

    assert ROW <= len(letters) <= ROW + 10
    assert {"0 consecutive:undecodable"} == metrics
    (words,) = told.values()
    assert {f"stopped {site.source}/0"} == set(told)
    assert "limits.dead_letter_consecutive" in words
    assert site.dead_letters in words
    assert "streams resume" in words
    assert keys([device(1)]) == await site.revisions()
    assert sync.counts["dead.undecodable"] == len(letters)


async def test_a_ratio_of_one_and_no_row_stop_nothing(site: Site) -> None:
    """Both rules can be left off: then letters are all that happens."""
    await site.create(partitions=1)
    await site.write(site.source, *[GARBAGE] * 300, key=b"k", partition=0)
    app = site.app({
        "limits.dead_letter_ratio": 1, "limits.dead_letter_window_records": 10, "limits.dead_letter_consecutive": 0,
    })  # fmt: skip
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="d-1")])
        await site.records(site.patches, 1, worker)

        assert {} == stopped(app)

    assert 300 == len(await site.read(site.dead_letters))


async def test_a_stopped_partition_goes_on_where_it_stopped(site: Site) -> None:
    """Nothing between is lost or worked on twice, however much of it had been fetched before."""
    await site.create(partitions=1)
    app = site.app({"chunk.records_max": 10, "limits.dead_letter_consecutive": 30})
    sync = app.sync(site.source, DeviceState)
    states = [DeviceState(device_id=f"d-{number}") for number in range(200)]
    async with site.running(app) as worker:
        await site.write(site.source, *[GARBAGE] * 30, key=b"k", partition=0)
        await site.send(states)
        await site.until(lambda: stopped(app), worker)
        await site.records(site.dead_letters, 30, worker)
        held = await site.revisions()
        assert await go_on(app.consumer, site.source, 0)
        assert not await go_on(app.consumer, site.source, 0)
        await site.records(site.patches, 200, worker)

    assert {} == held
    assert keys(states) == await site.revisions()
    assert 230 == sync.counts["events"]


async def test_what_was_fetched_behind_a_stop_is_not_taken_when_it_goes_on_at_that_moment(kafka_site: Site) -> None:
    """The consumer's thread has moved its position, and has not told the partition's turn yet: it is fetched again."""
    await kafka_site.create(partitions=1)
    app = kafka_site.app()
    sync = app.sync(kafka_site.source, DeviceState)
    async with kafka_site.running(app) as worker:
        consumer, tp, loop = app.consumer, TP(kafka_site.source, 0), asyncio.get_running_loop()
        split, turned = consumer.split, []

        def stop_and_go_on(tp_: TP, begin: int, *rest: Any) -> list[Any]:
            if tp_ == tp and not turned:
                turned.append(begin)
                consumer.stops.stop(tp, Stop("code", "why", begin, 1))
                asyncio.run_coroutine_threadsafe(go_on(consumer, *tp), loop).result()
            return split(tp_, begin, *rest)  # type: ignore[no-any-return]

        consumer.split = stop_and_go_on
        await kafka_site.send([device(0, number, 1) for number in range(5)])
        await kafka_site.records(kafka_site.patches, 5, worker)
        await kafka_site.send([device(0, 5, 1)])
        await kafka_site.records(kafka_site.patches, 6, worker)

    assert [0] == turned
    assert 6 == sync.counts["events"]


async def test_a_stop_outlives_the_worker_and_ends_on_request(site: Site) -> None:
    """The next worker reads it; requests without a worker, twice, and for one that is not stopped do no harm."""
    await site.create(partitions=2)
    config = site.folder / "streams.toml"
    config.write_text(f'[app]\nid = "fleet-{site.source}"\nbroker = "{site.url}"\n')
    resume = ["resume", site.source, "--config", str(config)]
    await site.write(site.source, *[GARBAGE] * ROW, key=b"k", partition=0)
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.dead_letters, ROW, worker)
        await site.until(lambda: stopped(app), worker)
    await site.send([device(0), device(1)])

    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, 1, worker)
        assert {(site.source, 0)} == set(stopped(app))
        (words,) = app.health.held_back().values()
        assert f"at offset {ROW}" in words
        assert keys([device(1)]) == await site.revisions()
    assert [0, 0, 0] == [await asyncio.to_thread(run, [*resume, *more]) for more in ([], [], ["--partition", "1"])]
    assert 2 == await asyncio.to_thread(run, [*resume, "--partition", "2"])

    app = site.app({"limits.dead_letter_consecutive": 20})
    sync = app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, 2, worker)
        await site.until(lambda: sync.counts["resumes"], worker)
        assert {} == stopped(app)
        await site.write(site.source, *[GARBAGE] * 20, key=b"k", partition=0)
        await site.until(lambda: stopped(app), worker)
    assert keys([device(0), device(1)]) == await site.revisions()
    assert ROW + 20 == len(await site.read(site.dead_letters))


async def test_the_source_in_front_of_a_rekeyed_input_stops_by_itself(site: Site) -> None:
    """What others copied into the partition of the same number goes on; the stop outlives the worker here, too."""
    await site.create(partitions=2)
    config = site.folder / "streams.toml"
    config.write_text(
        f'[app]\nid = "fleet-{site.source}"\nbroker = "{site.url}"\n[[sync]]\nsource = "{site.source}"\n'
        'message = "streams.demo.v1.DeviceState"\nmodule = "streams.demo.v1.device_pb2"\npartitioning = "repartition"\n'
    )
    await site.write(site.source, *[GARBAGE] * ROW, partition=0)
    for restarted in (False, True):
        app = site.app()
        app.sync(site.source, DeviceState, key="field:device_id", partitioning="repartition")
        async with site.running(app) as worker:
            await site.until(partial(stopped, app), worker)
            assert {(site.source, 0)} == set(stopped(app))
            states = [DeviceState(device_id=f"{restarted}-{number}") for number in range(8)]
            await site.write(site.source, *[state.SerializeToString() for state in states], partition=1)
            await site.records(site.patches, 16 if restarted else 8, worker)
            await site.write(site.source, states[0].SerializeToString(), partition=0)
    assert 0 == await asyncio.to_thread(run, ["resume", site.source, "--config", str(config)])

    app = site.app()
    sync = app.sync(site.source, DeviceState, key="field:device_id", partitioning="repartition")
    async with site.running(app) as worker:
        await site.until(lambda: sync.counts["rekeyed"] == 2, worker)
        assert {} == stopped(app)
    assert ROW == len(await site.read(site.dead_letters))
