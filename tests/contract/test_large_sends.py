"""What an agent sends for one record may be more than its topic, or a transaction, takes: that record's own fault."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Callable

import pytest

from streams._native import Records
from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import RecordTooLargeError
from streams.transport.chunk import Chunk
from tests.contract.site import Site
from tests.contract.test_large_records import NOISE, ROOM_BYTES, make

LARGE = (3, 7)
GUARANTEES = ["exactly_once", "at_least_once"]


def forwarder(app: App, source: str, alarms: str, value: Callable[[bytes], bytes]) -> None:
    """An agent that sends one record for each of the source."""
    topic = app.topic(alarms, value_serializer="raw", key_type=bytes)

    @app.agent(app.chunks(source), name="forwarder")
    async def forward(stream: AsyncIterable[Chunk]) -> None:
        async for chunk in stream:
            for record in chunk:
                await topic.send(key=record.key, value=value(record.value or b""))


def names(*numbers: int) -> list[bytes]:
    """Keys of these devices."""
    return [f"d-{number}".encode() for number in numbers]


@pytest.mark.parametrize("guarantee", GUARANTEES)
async def test_a_send_that_its_topic_refuses_is_a_letter_of_that_agent(site: Site, guarantee: str) -> None:
    """Found: it failed for ever, and the sync beside it buried records that were good for everybody else."""
    alarms = f"{site.source}.alarms"
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, alarms, ROOM_BYTES)
    states = [DeviceState(device_id=f"d-{n}", owner_email=NOISE if n in LARGE else "") for n in range(12)]
    await site.send(states)
    app = site.app({"app.guarantee": guarantee})
    app.sync(site.source, DeviceState)
    forwarder(app, site.source, alarms, lambda value: value)
    async with site.running(app) as worker:
        await site.records(alarms, 10, worker)
        await site.records(site.patches, 12, worker)
        letters = await site.records(site.dead_letters, 2, worker)
        await site.send([DeviceState(device_id="d-12")])
        await site.records(site.patches, 13, worker)
        await site.until(lambda: not app.transport.reasons, worker)
    sent = [record.key for record in await site.read(alarms)]

    assert names(*LARGE) == [letter.key for letter in letters]
    assert {b"agent-raised"} == {letter.headers["dlq-reason"] for letter in letters}
    assert all(alarms.encode() in (letter.headers["dlq-error"] or b"") for letter in letters)
    assert names(*[n for n in range(13) if n not in LARGE]) == list(dict.fromkeys(sent))
    assert guarantee == "at_least_once" or len(sent) == 11


async def test_the_agent_hears_of_it_and_may_send_less(site: Site) -> None:
    """The error is raised at the send: an agent that knows what to do then loses nothing."""
    alarms = f"{site.source}.alarms"
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, alarms, ROOM_BYTES)
    await site.send([DeviceState(device_id=f"d-{n}", owner_email=NOISE if n in LARGE else "") for n in range(12)])
    app = site.app()
    topic = app.topic(alarms, value_serializer="raw", key_type=bytes)

    @app.agent(app.chunks(site.source), name="forwarder")
    async def forward(stream: AsyncIterable[Chunk]) -> None:
        async for chunk in stream:
            for record in chunk:
                try:
                    await topic.send(key=record.key, value=record.value)
                except RecordTooLargeError:
                    await topic.send(key=record.key, value=b"large")

    async with site.running(app) as worker:
        sent = await site.records(alarms, 12, worker)

    assert names(*range(12)) == [record.key for record in sent]
    assert names(*LARGE) == [record.key for record in sent if record.value == b"large"]


async def test_a_record_for_which_an_agent_sends_too_much_is_a_letter(site: Site) -> None:
    """More than a transaction holds, in records of which each fits: nobody gathers it, and no other record is tried."""
    alarms = f"{site.source}.alarms"
    await site.create(partitions=1)
    await site.create(alarms, partitions=1)
    await site.send([DeviceState(device_id=f"d-{n}") for n in range(5)])
    app = site.app({"transaction.bytes_max": 17 << 20})
    topic = app.topic(alarms, value_serializer="raw", key_type=bytes)

    @app.agent(app.chunks(site.source), name="amplifier")
    async def amplify(stream: AsyncIterable[Chunk]) -> None:
        async for chunk in stream:
            for record in chunk:
                for _ in range(10_000 if record.key == b"d-3" else 1):
                    await topic.send(key=record.key, value=bytes(100_000))

    async with site.running(app) as worker:
        await site.records(alarms, 4, worker)
        (letter,) = await site.records(site.dead_letters, 1, worker)
        sent = await site.read(alarms)

    assert names(0, 1, 2, 4) == [record.key for record in sent]
    assert names(3) == [letter.key]
    assert b"transaction.bytes_max" in (letter.headers["dlq-error"] or b"")


@pytest.mark.parametrize("room", [8_000, 600])
@pytest.mark.parametrize("raises", [False, True])
async def test_a_letter_that_its_topic_refuses_is_written_smaller(site: Site, room: int, raises: bool) -> None:
    """Somebody made the topic of the dead letters small: a stub, at last one without key, headers and the error's text.

    Found: the letter was written again, for ever, in the sync as for an agent's record.
    """
    await site.create(partitions=1)
    await asyncio.to_thread(make, site, site.dead_letters, room)
    noise = random.Random(room)
    large = [("note", noise.randbytes(9_000))]
    poison = b"\xff" + NOISE.encode()
    await asyncio.to_thread(site._write, site.source, one(noise.randbytes(700), poison, large), 0)
    app = site.app({"app.error_retries": 0, "app.error_backoff_ms": 1, "app.error_backoff_max_ms": 10})
    taken: list[bytes | None] = []
    if raises:

        @app.agent(app.chunks(site.source), name="picky")
        async def pick(stream: AsyncIterable[Chunk]) -> None:
            async for chunk in stream:
                for record in chunk:
                    if record.value == poison:
                        raise ValueError("no such device " * 60)
                    taken.append(record.key)
    else:
        app.sync(site.source, DeviceState)
    await site.send([DeviceState(device_id="d-1")])
    async with site.running(app) as worker:
        (letter,) = await site.records(site.dead_letters, 1, worker)
        if not raises:
            await site.records(site.patches, 1, worker)
    assert (None, b"0") == (letter.value, letter.headers["dlq-origin-offset"])
    assert str(len(poison)).encode() == letter.headers["dlq-length"]
    assert "note" not in letter.headers
    assert letter.key is (None if room == 600 else letter.key)


def one(key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> Records:
    """A batch of one record."""
    records = Records()
    records.append(key, value, headers)
    return records
