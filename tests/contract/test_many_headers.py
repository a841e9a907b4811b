"""A record with more headers than anybody reads is not taken for one that says nothing in them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

import pytest

from streams._native import Records
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.chunk import Chunk
from tests.contract.site import Site

STATE = DeviceState(device_id="d").SerializeToString()
EVENT = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"streams.v1.Patch")]
KEPT = 50_000
UNREAD = 100_001
"""One more than librdkafka gives."""


def records(*values: tuple[bytes, bytes | None, int]) -> Records:
    """Records by key, value and count of headers; those of an event of another type come last."""
    made = Records()
    for key, value, count in values:
        made.append(key, value, [("", b"")] * (count - len(EVENT)) + EVENT if count else [])
    return made


@pytest.mark.parametrize("partitioning", ["trusted", "repartition"])
async def test_a_record_whose_headers_nobody_reads_is_a_stub(site: Site, partitioning: str) -> None:
    """Found on Kafka: its type was not seen, it was an event, and a letter had lost its family."""
    await site.create(partitions=1)
    made = records((b"a", STATE, UNREAD), (b"b", None, UNREAD), (b"c", STATE, KEPT + 1), (b"d", STATE, KEPT))
    await asyncio.to_thread(site._write, site.source, made, 0)
    app = site.app()
    app.sync(site.source, DeviceState, **({} if partitioning == "trusted" else REKEYED))
    async with site.running(app) as worker:
        await site.send([DeviceState(device_id="e")])
        await site.records(site.patches, 1, worker)
        letters = await site.records(site.dead_letters, 4, worker)

    (patch,) = await site.read(site.patches)
    assert b"e" == patch.key
    assert [b"a", b"b", b"c", b"d"] == [letter.key for letter in letters]
    reasons = [(letter.headers["dlq-reason"] or b"").decode() for letter in letters]
    assert [*["record-too-large"] * 3, "wrong-type"] == reasons
    assert [b"%d" % len(STATE), b"0", b"%d" % len(STATE), None] == [
        letter.headers.get("dlq-length") for letter in letters
    ]
    assert [None, None, None, STATE] == [letter.value for letter in letters]
    assert ["ce_id" in letter.headers for letter in letters] == [False, False, False, True]


REKEYED = {"partitioning": "repartition", "key": "field:device_id"}


async def test_the_letter_of_an_agent_can_be_read(site: Site) -> None:
    """What it raised on has all the headers that a record may have, or more than that."""
    await site.create(partitions=1)
    made = records((b"a", b"x", UNREAD), (b"b", b"y", KEPT), (b"c", b"z", 0))
    await asyncio.to_thread(site._write, site.source, made, 0)
    app = site.app({"app.error_retries": 0, "app.error_backoff_ms": 1})

    @app.agent(app.chunks(site.source), name="picky")
    async def pick(stream: AsyncIterable[Chunk]) -> None:
        async for chunk in stream:
            for record in chunk:
                if record.key != b"c":
                    raise ValueError

    async with site.running(app) as worker:
        letters = await site.records(site.dead_letters, 2, worker)
    assert [b"agent-raised"] * 2 == [letter.headers["dlq-reason"] for letter in letters]
    assert [(None, b"1", False), (b"y", None, True)] == [
        (letter.value, letter.headers.get("dlq-length"), "ce_id" in letter.headers) for letter in letters
    ]
