"""What only the embedded transport has: one process, one disk, no broker that is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams._native import Records
from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import LogBusyError, LogFullError, RecordTooLargeError, TransportError
from streams.transport.log import Log
from tests.contract.site import Site, changes, history

STOP_TIMEOUT_S = 10
HOLDER = Path(__file__).with_name("log_holder.py")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A directory for a log, and topics of this test's own."""
    return Site(f"embedded://{tmp_path}/log", tmp_path)


@contextlib.asynccontextmanager
async def sending(app: App) -> AsyncIterator[Any]:
    """The app's producer alone."""
    await app.maybe_start_producer()
    try:
        yield app.producer
    finally:
        await app.producer.stop()


@pytest.fixture
def holder(site: Site) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the site's log."""
    held = subprocess.Popen(
        [sys.executable, str(HOLDER), str(site.folder / "log")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        yield held
    finally:
        held.communicate("")


async def test_another_process_is_named(site: Site, holder: subprocess.Popen[str]) -> None:
    """A directory that another process holds ends the worker with who that is."""
    with pytest.raises(LogBusyError, match=str(holder.pid)):
        async with site.running(site.app()):
            pass


async def test_a_full_disk_is_waited_for(site: Site, seed: int) -> None:
    """The worker says why it waits, and goes on when there is room: nothing lost, nothing doubled."""
    states = history(seed, events=400)
    with Log.shared(site.folder / "log", bytes_max=300_000) as log:
        log.create_topic(site.source, 1)
        log.create_topic("ballast", 1, retention_ms=1)
        await _begin(site)
        await site.send(states)
        _fill(log)
        app = site.app()
        sync = app.sync(site.source, DeviceState)
        async with site.running(app) as worker:
            await site.until(lambda: "no room" in app.transport.reasons.get("disk", ""), worker)
            held_back = await site.read(site.patches)
            await site.until(lambda: not log.maintain(1 << 60, 1_000), worker)
            await site.until(lambda: "disk" not in app.transport.reasons, worker)
            await site.records(site.patches, sum(changes(states).values()), worker)

        assert [] == held_back
        assert sync.counts["events"] == len(states)
        await site.verify(states)


async def _begin(site: Site) -> None:
    """A first start, which makes topics and claims the output: that takes room."""
    app = site.app()
    app.sync(site.source, DeviceState)
    async with site.running(app):
        pass


def _fill(log: Log) -> None:
    """Leaves room for the worker's start, not for its outputs."""
    for size in (20_000, 4_000):
        with contextlib.suppress(LogFullError):
            while True:
                ballast = Records()
                ballast.append(None, random.randbytes(size))
                log.append([("ballast", 0, ballast)])


async def test_a_worker_stops_while_the_disk_is_full(site: Site, seed: int) -> None:
    """Nobody waits for room then: what is not written is read again by the next one."""
    with Log.shared(site.folder / "log", bytes_max=300_000) as log:
        log.create_topic(site.source, 1)
        log.create_topic("ballast", 1)
        await _begin(site)
        await site.send(history(seed, events=400))
        _fill(log)
        app = site.app()
        app.sync(site.source, DeviceState)
        async with site.running(app) as worker:
            await site.until(lambda: "no room" in app.transport.reasons.get("disk", ""), worker)
            unsent = asyncio.ensure_future(app.topic("ballast", value_type=bytes).send(value=bytes(50_000)))
            await asyncio.sleep(0.1)
            began_s = asyncio.get_running_loop().time()
        took_s = asyncio.get_running_loop().time() - began_s
        unsent.cancel()

        assert took_s < STOP_TIMEOUT_S
        assert {} == log.committed(app.conf.id)


async def test_a_loss_by_retention_is_not_silent(site: Site) -> None:
    """Records that went before they were processed end the worker, which names partition and offsets."""
    with Log.shared(site.folder / "log") as log:
        log.create_topic(site.source, 1, retention_ms=1)
        await site.send([DeviceState(device_id=f"d-{number}") for number in range(4)])
        log.append([], f"fleet-{site.source}", [(site.source, 0, 2)])
        while log.maintain(1 << 60, 1_000):
            pass
        await site.send([DeviceState(device_id="d-9")])
        app = site.app()
        app.sync(site.source, DeviceState)
        with pytest.raises(TransportError, match=f"{site.source} partition 0: offset 2 is next, the log has 4 to 5"):
            async with site.running(app) as worker:
                await asyncio.wait_for(worker, 30)


async def test_a_backlog_is_committed_in_large_transactions(site: Site, seed: int) -> None:
    """While fetches are full, transactions are gathered to their size, however short the interval is."""
    states = history(seed, events=400)
    await site.create(partitions=1)
    await site.send(states)
    options: dict[str, object] = {
        "chunk.records_max": 10, "transaction.interval_ms": 1, "transaction.backlog_interval_ms": 7_000,
        "transaction.records_max": 100,
    }  # fmt: skip
    app = site.app(options)
    app.sync(site.source, DeviceState)
    async with site.running(app) as worker:
        await site.records(site.patches, sum(changes(states).values()), worker)
        transactions = app.consumer.ledger.transactions

    assert 4 <= transactions <= 8
    await site.verify(states)


async def test_ordinary_sends_keep_their_order(site: Site) -> None:
    """Sends at once share appends, get their offsets, and come out in the order in which they went in."""
    app = site.app()
    async with sending(app) as producer:
        pending = [await producer.send("words", b"key", str(n).encode(), None, None, {"n": b"1"}) for n in range(500)]
        offsets = [(await each).offset for each in pending]
        found = await site.read("words")

    assert list(range(500)) == offsets
    assert [str(n).encode() for n in range(500)] == [one.value for one in found]
    assert {"n": b"1"} == found[0].headers


async def test_what_waits_for_the_log_is_bounded_and_flushed(site: Site) -> None:
    """54 MB of sends at once: some wait for room, and a flush waits for them; they keep their order."""
    app = site.app()
    async with sending(app) as producer:
        values = [b"%d " % n + bytes(900_000) for n in range(60)]
        sends = [asyncio.ensure_future(producer.send("words", b"key", value, 0, None, None)) for value in values]
        await asyncio.sleep(0)
        waiting = [send.done() for send in sends].count(False)
        await producer.flush()
        await asyncio.sleep(0)
        written = [send.done() and send.result().done() for send in sends]

    assert 0 < waiting < 60
    assert [True] * 60 == written
    assert [str(n) for n in range(60)] == [
        (one.value or b"").partition(b" ")[0].decode() for one in await site.read("words")
    ]


async def test_a_send_that_fails_fails_alone(site: Site) -> None:
    """One record over the topic's maximum is refused; those sent together with it are there."""
    app = site.app()
    async with sending(app) as producer:
        sends = [await producer.send("words", b"key", value, 0, None, None) for value in (b"a", bytes(2 << 20), b"b")]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        found = await site.read("words")

    assert [0, RecordTooLargeError, 1] == [getattr(one, "offset", type(one)) for one in outcomes]
    assert [b"a", b"b"] == [one.value for one in found]


@pytest.mark.parametrize("stopped_by", ["timer", "agent"])
async def test_stopping_from_inside_the_app_ends(site: Site, stopped_by: str) -> None:
    """`app.stop()` from the app's own code ends the worker like a signal does."""
    await site.create()
    app = site.app()

    if stopped_by == "timer":

        @app.timer(0.2)
        async def stop() -> None:
            await app.stop()

    else:

        @app.agent(app.chunks(site.source))
        async def read(stream: Any) -> None:
            async for _ in stream:
                await app.stop()

    async with site.running(app) as worker:
        await site.write(site.source, b"1")
        await asyncio.wait_for(worker, STOP_TIMEOUT_S)
