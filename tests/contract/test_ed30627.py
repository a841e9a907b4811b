"""What the release of commit ed30627 stored is read, gone on from, and upgraded: log, changelog, store, progress.

The data lies in tests/fixtures/ed30627 with the script that wrote it: twenty devices, three states each, and the first
three deleted.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from streams._native import PARTITION_KEY, SCHEMA_KEY, KafkaConsumer, Records, decode_partition, decode_row
from streams.cli import groups, run
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.client.event import Event
from streams.client.producer import Producer
from streams.demo.v1.device_pb2 import DeviceState
from streams.settings import read
from tests.broker import Broker
from tests.contract.site import Site

DATA = Path(__file__).parent.parent / "fixtures" / "ed30627"
PARTITIONS = 2
KNOWN = 17
"""Devices that live."""
TIMEOUT_MS = 30_000


def state(number: int, turn: int) -> DeviceState:
    """As the script made them."""
    return DeviceState(device_id=f"d-{number}", model="Sensor X", battery=turn + number / 100, status=f"turn {turn}")


class Old(Site):
    """An application that the old release was at work for."""

    def __init__(self, url: str, folder: Path, name: str) -> None:
        super().__init__(url, folder)
        self.app_id, self.source = f"fleet{name}", f"devices{name}"
        self.patches, self.resync = f"{self.source}.patches", f"{self.source}.resync"
        self.dead_letters = f"{self.source}.dlq"
        self.changelog = f"{self.app_id}-{self.source}-changelog"
        self.config = folder / "streams.toml"
        self.config.write_text(
            f'[app]\nid = "{self.app_id}"\nbroker = "{url}"\ndatadir = "{folder}/data"\n\n[[sync]]\n'
            f'source = "{self.source}"\nmessage = "streams.demo.v1.DeviceState"\n'
            'module = "streams.demo.v1.device_pb2"\n'
        )

    async def events(self, *events: Event) -> None:
        """Sends events under the source that the script named."""
        async with Producer(self.url, source="/fixture") as producer:
            await producer.send_many(self.source, events)

    async def work(self, *events: Event, state: str, target: str = "") -> dict[str, int]:
        """A worker of this release takes events; what it counted."""
        app = self.app({"app.id": self.app_id})
        sync = app.sync(self.source, DeviceState, state=state)
        if target:
            app.target("sink", url=target, source=self.source, allow_private=True, compression="none", linger_ms=1)
        async with self.running(app) as worker:
            await self.events(*events)
            await self.until(lambda: sync.counts["events"] >= len(events), worker)
            if target:
                routes = app.guarded.deliveries.routes if app.guarded is not None and app.guarded.deliveries else ()
                await self.until(lambda: sum(route.counts["patches"] for route in routes) >= 2, worker)
        return dict(sync.counts)

    async def command(self, *arguments: str) -> int:
        """Runs a command; its exit code."""
        return await asyncio.to_thread(run, [*arguments, "--config", str(self.config)])

    def file_format(self) -> int | None:
        """Of the embedded log's file."""
        if not self.embedded:
            return None
        with closing(sqlite3.connect(self.folder / "log" / "log.sqlite3")) as file:
            (number,) = file.execute("select value from meta where key = 'format'").fetchone()
            return int(number)

    async def rows(self) -> dict[bytes, bytes]:
        """The changelog, the last value of each key; the records of its own under their partition."""
        rows: dict[bytes, bytes] = {}
        for found in await self.read(self.changelog):
            own = found.key in (PARTITION_KEY, SCHEMA_KEY)
            rows[b"%b/%d" % (found.key or b"", found.partition) if own else found.key or b""] = found.value or b""
        return rows


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    """The application on each transport, as it was left, with its rocksdb store."""
    shutil.copytree(DATA / "embedded" / "data", tmp_path / "data")
    if request.param == "embedded":
        shutil.copytree(DATA / "embedded" / "log", tmp_path / "log")
        return Old(f"embedded://{tmp_path}/log", tmp_path, "")
    broker: Broker = request.getfixturevalue("kafka")
    there = Old(broker.url, tmp_path, f"-{uuid.uuid4().hex[:8]}")
    names = {"devices": there.source, "devices.patches": there.patches, "fleet-devices-changelog": there.changelog}
    writer = open_writer(broker.url, WriterOptions())
    for name, topic in names.items():
        writer.create_topic(topic, PARTITIONS)
        for partition in range(PARTITIONS):
            writer.write(topic, Records.decode((DATA / "kafka" / f"{name}-{partition}.block").read_bytes()), partition)
    writer.close()
    (tmp_path / "data" / "state" / "devices").rename(tmp_path / "data" / "state" / there.source)
    offsets = json.loads((DATA / "kafka" / "offsets.json").read_text())
    consumer = KafkaConsumer({"bootstrap.servers": broker.bootstrap, "group.id": there.app_id})
    consumer.commit([(there.source, int(partition), offset) for partition, offset in offsets.items()], TIMEOUT_MS)
    consumer.close()
    return there


@pytest.mark.parametrize("where", ["memory", "rocksdb"])
async def test_the_old_state_goes_on(old: Old, where: str) -> None:
    """What was known is known: repeats are dropped, a change is the next revision, the deleted stay deleted. Until an
    upgrade the changelog holds nothing that the old release cannot read; after it the newest format is written.
    """
    counts = await old.work(
        Event(state(5, 7), "d-5", sequence=4),
        Event(state(6, 2), "d-6", sequence=2),
        Event(state(0, 1), "d-0", sequence=3),
        Event(state(99, 0), "d-99", sequence=1),
        state=where,
    )
    rows = await old.rows()
    held = await old.held()

    assert counts["dropped.sequence"] == 2
    assert held == {f"d-{n}".encode(): state(n, 2) for n in range(3, 20) if n != 5} | {
        b"d-5": state(5, 7), b"d-99": state(99, 0)
    }  # fmt: skip
    assert {1} == {decode_row(row)["format"] for key, row in rows.items() if not key.startswith(b"\0")}
    assert not [key for key in rows if key.startswith(PARTITION_KEY)]
    assert decode_row(rows[b"d-5"])["revision"] == 4

    assert old.file_format() in (1, None)
    assert [0, 0] == [await old.command("state", "upgrade", old.source) for _ in range(2)]
    assert old.file_format() in (2, None)
    await old.work(Event(state(5, 8), "d-5", sequence=5), state=where)
    await old.work(Event(state(5, 9), "d-5", sequence=6), state=where)
    rows = await old.rows()
    ids = groups.ids(read(old.config), [old.source])

    assert {b"d-5": 2, b"d-6": 1} == {key: decode_row(rows[key])["format"] for key in (b"d-5", b"d-6")}
    assert decode_row(rows[b"d-5"])["revision"] == 6
    records = [decode_partition(row) for key, row in rows.items() if key.startswith(PARTITION_KEY)]
    assert [{0: ids[old.source]}] * PARTITIONS == [record["logs"] for record in records]
    assert all(record["last_epoch"] >= decode_row(rows[b"d-6"])["epoch"] for record in records)
    assert 0 == await old.command("state", "verify", old.source)


async def test_a_topic_made_anew_needs_the_upgrade_first(old: Old) -> None:
    """The old format cannot tell the offsets of two logs apart: the worker stops with the cure, and goes on then."""
    await old.delete(old.source)
    await old.create(old.source, partitions=PARTITIONS)
    with pytest.raises(Exception, match=f"streams state upgrade {old.source}"):
        await old.work(state="memory")
    assert 0 == await old.command("state", "upgrade", old.source)
    await old.work(*(Event(state(n, 9), f"d-{n}", sequence=20) for n in range(3, 20)), state="memory")

    assert {f"d-{n}".encode(): state(n, 9) for n in range(3, 20)} == await old.held()


@pytest.fixture
async def sink() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A receiver that takes everything, and what it was sent."""
    taken: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(await request.read())
        return web.Response()

    served = web.Application()
    served.router.add_post("/", take)
    runner = web.AppRunner(served)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    place: Any = runner.addresses[0]
    yield f"http://127.0.0.1:{place[1]}/", taken
    await runner.cleanup()


async def test_the_old_progress_goes_on(tmp_path: Path, sink: tuple[str, list[bytes]]) -> None:
    """What a target has taken from the old release is not sent to it again."""
    shutil.copytree(DATA / "embedded" / "log", tmp_path / "log")
    there = Old(f"embedded://{tmp_path}/log", tmp_path, "")
    url, taken = sink
    await there.work(
        Event(state(5, 7), "d-5", sequence=4), Event(state(6, 7), "d-6", sequence=4), state="memory", target=url
    )

    assert b"d-5" in b"".join(taken)
    assert b"d-7" not in b"".join(taken)
