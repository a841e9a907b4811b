"""Following topics beside the group, the same on the embedded log and on a real Kafka."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from streams.errors import TransportError
from streams.transport.follow import Follower, open_follower, opened
from streams.transport.log import Log
from tests.contract.site import WORK_TIMEOUT_S, Site

RECORDS_MAX, BYTES_MAX, WAIT_MS = 1_000, 1 << 20, 100
Seen = defaultdict[tuple[str, int], list[bytes | None]]


@pytest.fixture
async def topic(site: Site) -> str:
    """A topic with two partitions."""
    await site.create(site.source, partitions=2)
    return site.source


async def read(follower: Follower, seen: Seen, count: int, ends: int = 0) -> dict[tuple[str, int], int]:
    """Fetches until so many values are seen and the ends of so many partitions were told."""
    told: dict[tuple[str, int], int] = {}
    deadline_s = asyncio.get_running_loop().time() + WORK_TIMEOUT_S
    while sum(map(len, seen.values())) < count or len(told) < ends:
        assert asyncio.get_running_loop().time() < deadline_s, (dict(seen), told)
        for name, partition, records, end in await asyncio.to_thread(follower.fetch, RECORDS_MAX, BYTES_MAX, WAIT_MS):
            seen[name, partition] += [records.value(index) for index in range(len(records))]
            if end >= 0:
                told[name, partition] = end
    return told


async def test_it_reads_from_where_it_is_told_and_goes_on(site: Site, topic: str) -> None:
    """Each partition from its own offset, its end where it stands there, then what comes; nothing twice."""
    await site.write(topic, b"0", b"1", b"2", partition=0)
    seen: Seen = defaultdict(list)
    follower = open_follower(site.app().transport, {(topic, 0): 1, (topic, 1): 0})
    try:
        ends = await read(follower, seen, 2, ends=2)
        await site.write(topic, b"3", b"4", partition=1)
        await read(follower, seen, 4)
        await site.write(topic, b"5", partition=0)
        await read(follower, seen, 5)
    finally:
        await asyncio.to_thread(follower.close)

    assert {(topic, 0): 3, (topic, 1): 0} == ends
    assert {(topic, 0): [b"1", b"2", b"5"], (topic, 1): [b"3", b"4"]} == seen


async def test_partitions_come_and_go(site: Site, topic: str) -> None:
    """One that is taken away is not read; one that is assigned again moves to its new offset."""
    await site.write(topic, b"0", b"1", partition=0)
    await site.write(topic, b"2", partition=1)
    seen: Seen = defaultdict(list)
    follower = open_follower(site.app().transport, {(topic, 0): 0})
    try:
        await read(follower, seen, 2, ends=1)
        follower.unassign([(topic, 0), (topic, 1)])
        follower.assign({(topic, 1): 0})
        await read(follower, seen, 3, ends=1)
        follower.assign({(topic, 0): 1, (topic, 1): 0})
        await read(follower, seen, 5, ends=2)
    finally:
        await asyncio.to_thread(follower.close)

    assert {(topic, 0): [b"0", b"1", b"1"], (topic, 1): [b"2", b"2"]} == seen


async def test_the_limit_of_records_is_kept(site: Site, topic: str) -> None:
    """What does not fit into one fetch comes with the next ones, from all partitions in turn."""
    for partition in (0, 1):
        await site.write(topic, *[str(number).encode() for number in range(20)], partition=partition)
    follower = open_follower(site.app().transport, {(topic, 0): 0, (topic, 1): 0})
    seen: Seen = defaultdict(list)
    largest = 0
    try:
        deadline_s = asyncio.get_running_loop().time() + WORK_TIMEOUT_S
        while sum(map(len, seen.values())) < 40:
            assert asyncio.get_running_loop().time() < deadline_s
            runs = await asyncio.to_thread(follower.fetch, 7, BYTES_MAX, WAIT_MS)
            largest = max(largest, sum(len(records) for _, _, records, _ in runs))
            for name, partition, records, _ in runs:
                seen[name, partition] += [records.value(index) for index in range(len(records))]
    finally:
        await asyncio.to_thread(follower.close)

    expected = [str(number).encode() for number in range(20)]
    assert {(topic, 0): expected, (topic, 1): expected} == seen
    assert largest <= 7


async def test_a_partition_that_does_not_exist_is_named(tmp_path: object) -> None:
    """On the embedded log at once; Kafka's metadata come later, and topics are made before they are followed."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)  # type: ignore[arg-type]
    await site.create(partitions=1)

    with pytest.raises(TransportError, match=f"no partition 4 of {site.source}"):
        open_follower(site.app().transport, {(site.source, 4): 0})


async def test_whoever_is_cancelled_while_one_opens_leaves_none_open(tmp_path: Path) -> None:
    """A worker that ends at its start did: the log stayed open in this process, and no other one could have it."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    await site.create(site.source, partitions=1)
    transport = site.app().transport
    opens, is_open = threading.Event(), threading.Event()

    def slowly() -> Follower:
        opens.wait()
        follower = open_follower(transport, {(site.source, 0): 0})
        is_open.set()
        return follower

    opening = asyncio.create_task(opened(slowly))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    opens.set()
    await site.until(is_open.is_set)
    await site.until(lambda: (tmp_path / "log").resolve() not in Log._shared)
