"""The life of a dictionary: learnt, published, read back, served, renewed; and nobody needs one."""

from __future__ import annotations

import base64
import hashlib
import random
from types import TracebackType
from typing import Any, Self

import aiohttp
import faust
import pytest
import zstandard
from aiohttp import web
from faust.web.drivers.aiohttp import Web

from streams._native import Records
from streams.clock import ManualClock
from streams.delivery.dictionary import ALIVE, HELD_MAX, RENEW_MS, SAMPLE_EVERY, SAMPLES, Dictionaries
from streams.errors import TransportError
from streams.v1.dictionary_pb2 import Dictionary
from streams.v1.patch_pb2 import Patch

TYPE = "acme.fleet.v1.DeviceState"


class Topic:
    """The dictionaries' topic, as several workers see it: what one publishes, all read."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.workers = [Dictionaries(self.publish, self.clock) for _ in range(2)]
        self.rows: dict[bytes, bytes | None] = {}
        self.published = 0
        self.fails = False

    async def publish(self, records: Records) -> None:
        """Appends, and hands everything to all workers."""
        if self.fails:
            raise TransportError("no broker")
        self.published += 1
        for index in range(len(records)):
            key, value = records.key(index) or b"", records.value(index)
            self.rows[key] = value
            for worker in self.workers:
                worker.take(key, value)

    @property
    def alive(self) -> list[Dictionary]:
        """What compaction leaves, the newest first."""
        read = [Dictionary.FromString(value) for value in self.rows.values() if value is not None]
        return sorted(read, key=lambda each: each.created_ms, reverse=True)


def patches(count: int, kind: str = "ok", seed: int = 0) -> list[bytes]:
    """Serialised patches of one type, with the names and values that go with `kind`."""
    random_ = random.Random(seed)
    return [
        Patch(
            key=f"dev-{random_.randrange(10**6)}".encode(), revision=random_.randrange(100), kind=Patch.DELTA,
            type=TYPE, event_source=f"/fleet/{kind}/gateway/{kind}", event_id=f"{random_.getrandbits(64):016x}",
            data=f"{kind} status {kind} firmware {kind} 3.1 {random_.random()} region {kind}".encode(),
        ).SerializeToString()
        for _ in range(count)
    ]  # fmt: skip


def sample(worker: Dictionaries, kind: str = "ok", seed: int = 0) -> None:
    """Enough patches to learn from, each in a request of its own."""
    for patch in patches(SAMPLES, kind, seed):
        worker.sample(TYPE, [patch])


async def test_is_learnt_published_and_read_back() -> None:
    """One worker learns it; both find it by SHA-256 and id, and a stock decoder reads what it compressed."""
    topic = Topic()
    sample(topic.workers[0])
    await topic.workers[0].tend()

    (record,) = topic.alive
    assert (TYPE, topic.clock.now_ms()) == (record.type, record.created_ms)
    assert hashlib.sha256(record.content).digest() == record.sha256
    assert [str(record.id).encode()] == list(topic.rows)
    patch = patches(1, seed=1)[0]
    for worker in topic.workers:
        assert record.content == worker.get(record.id)
        found = worker.find(record.sha256)
        assert found is not None
        stream = found.compress(patch)
        assert len(stream) < 0.9 * len(patch)
        stock = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(record.content))
        assert patch == stock.decompress(stream[40:])


async def test_nothing_is_learnt_from_too_little() -> None:
    """One patch less than enough: nothing; and of a large request only a share is kept."""
    topic = Topic()
    for patch in patches(SAMPLES - 1):
        topic.workers[0].sample(TYPE, [patch])
    await topic.workers[0].tend()
    assert 0 == topic.published

    topic.workers[1].sample(TYPE, patches(SAMPLES * SAMPLE_EVERY // 2))
    await topic.workers[1].tend()
    assert 0 == topic.published


async def test_nothing_is_published_that_saves_nothing() -> None:
    """Noise has nothing to learn: no receiver is asked to fetch that. And it is not tried again until tomorrow."""
    topic, random_ = Topic(), random.Random(0)
    for _ in range(SAMPLES):
        topic.workers[0].sample(TYPE, [random_.randbytes(100)])
    await topic.workers[0].tend()
    sample(topic.workers[0])
    await topic.workers[0].tend()
    assert 0 == topic.published

    topic.clock.advance(RENEW_MS)
    await topic.workers[0].tend()
    assert 1 == topic.published


async def test_is_renewed_after_a_day_if_that_helps() -> None:
    """Not earlier; not while the data is the same; then both stay alive, and only the newest two ever."""
    topic = Topic()
    sample(topic.workers[0])
    await topic.workers[0].tend()
    first = topic.alive[0]
    sample(topic.workers[0], "broken")
    await topic.workers[0].tend()
    assert 1 == topic.published

    sample(topic.workers[0], seed=1)
    topic.clock.advance(RENEW_MS)
    await topic.workers[0].tend()
    assert 1 == topic.published, "the data is what it was"

    for published, kind in ((2, "broken"), (3, "repaired"), (4, "replaced")):
        sample(topic.workers[0], kind)
        topic.clock.advance(RENEW_MS)
        await topic.workers[0].tend()
        assert published == topic.published
        assert ALIVE == len(topic.alive)
        for worker in topic.workers:
            assert all(worker.find(each.sha256) for each in topic.alive)
    assert all(worker.get(first.id) is None and worker.find(first.sha256) is None for worker in topic.workers)


async def test_another_worker_may_be_first() -> None:
    """Both have enough; the one that comes second finds a dictionary and leaves it at that."""
    topic = Topic()
    for seed, worker in enumerate(topic.workers):
        sample(worker, seed=seed)
    for worker in topic.workers:
        await worker.tend()

    assert 1 == topic.published


async def test_a_failed_publication_is_tried_again() -> None:
    """The broker is gone, and nothing is held that others do not have; with the next look it is there."""
    topic = Topic()
    sample(topic.workers[0])
    topic.fails = True
    await topic.workers[0].tend()
    assert [] == topic.workers[0].view()

    topic.fails = False
    await topic.workers[0].tend()
    assert 1 == len(topic.workers[0].view())


def record(content: bytes, id: int = 7, **changed: Any) -> tuple[bytes, bytes]:
    """Key and value of a record, whole unless told otherwise."""
    fields = {"id": id, "type": TYPE, "content": content, "sha256": hashlib.sha256(content).digest()} | changed
    return str(id).encode(), Dictionary(**fields).SerializeToString()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"7", b"\xff"),
        (b"7", b""),
        (b"8", record(b"content")[1]),
        (b"", record(b"content")[1]),
        record(b"content", sha256=b"x" * 32),
        record(b""),
    ],
)
async def test_a_record_that_is_none_is_ignored(key: bytes, value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Damage, another key, another hash: not held, named in the log, and whatever is held stays."""
    dictionaries = Topic().workers[0]
    dictionaries.take(*record(b"good", 9))
    dictionaries.take(key, value)

    assert [9] == [each["id"] for each in dictionaries.view()]
    assert "is ignored" in caplog.text
    dictionaries.take(b"9" * 5_000, None)
    dictionaries.take(b"9", None)
    assert [] == dictionaries.view()


def test_memory_is_bounded() -> None:
    """A topic full of dictionaries leaves the newest ones in memory."""
    dictionaries = Topic().workers[0]
    for number in range(HELD_MAX + 5):
        dictionaries.take(*record(b"%d" % number, number, created_ms=number))

    assert [*range(HELD_MAX + 4, 4, -1)] == [each["id"] for each in dictionaries.view()]


class Served:
    """Faust's own web server with the pages of some dictionaries, as a worker has it."""

    def __init__(self, dictionaries: Dictionaries) -> None:
        self.app = faust.App("served", broker="kafka://127.0.0.1:1", store="memory://", debug=False)
        dictionaries.mount(self.app)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        server = self.app.web
        assert isinstance(server, Web)
        server.init_server()
        self._runner = web.AppRunner(server.web_app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.session = aiohttp.ClientSession(f"http://127.0.0.1:{self._runner.addresses[0][1]}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()
        assert self._runner is not None
        await self._runner.cleanup()


async def test_is_served() -> None:
    """A list with what `Available-Dictionary` is to say, the bytes by id, and 404 for anything else."""
    dictionaries = Topic().workers[0]
    for number, content in ((7, b"older"), (2**32 - 1, bytes(range(256)))):
        dictionaries.take(*record(content, number, created_ms=number))

    async with Served(dictionaries) as served:
        async with served.session.get("/dictionaries") as answer:
            listed = await answer.json()
        async with served.session.get(f"/dictionaries/{listed[0]['id']}") as answer:
            found, content = answer.content_type, await answer.read()
        missing = []
        for unknown in ("8", "x", "-7", "07", "9" * 5_000, "7/8"):
            async with served.session.get(f"/dictionaries/{unknown}") as answer:
                missing.append(answer.status)

    assert [2**32 - 1, 7] == [each["id"] for each in listed]
    digest = base64.b64encode(hashlib.sha256(bytes(range(256))).digest()).decode()
    assert (f":{digest}:", 256, TYPE) == (listed[0]["sha256"], listed[0]["bytes"], listed[0]["type"])
    assert ("application/octet-stream", bytes(range(256))) == (found, content)
    assert {404} == set(missing)
