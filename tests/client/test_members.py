"""Members of a group that come and go: a partition that was another's between two looks is no older for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from streams._native import KafkaProducer, Records
from streams.client import BlockingReceiver, Receiver
from streams.client.beginning import Bounds, LogReplaced
from streams.client.follow import Follower
from streams.client.step import Result
from streams.demo.v1.device_pb2 import DeviceState
from tests.broker import Broker
from tests.client.place import History, Place
from tests.client.test_follow import life, run
from tests.client.test_kept import cut
from tests.client.test_receiver import GROUP, device

LOG = b"a" * 16
BEFORE, AFTER = ("m", 1), ("m", 2)
MINE = frozenset({0})


@pytest.mark.parametrize("keeps", [False, True])
def test_what_another_member_read_meanwhile_is_held(kafka: Broker, tmp_path: Path, *, keeps: bool) -> None:
    """While its user worked on a change a receiver lost a partition, and got it back behind another's commit."""
    told: list[LogReplaced] = []
    with Place(kafka.url, f"members-{keeps}") as place:
        place.create(partitions=2)
        made = [History(DeviceState, b"d%d" % number) for number in range(20)]
        place.publish(*(each.add(device("1")) for each in made))
        arguments: dict[str, Any] = {"group": GROUP, "on_gap": "wait"}
        more: dict[str, Any] = {"datadir": tmp_path if keeps else None, "on_replaced": told.append}
        with BlockingReceiver(place.url, place.patches, DeviceState, **arguments, **more) as slow:
            assert 20 == slow.catch_up(30_000)
            slow.commit()
            place.publish(*(each.add(device("2")) for each in made))
            with BlockingReceiver(place.url, place.patches, DeviceState, **arguments) as quick:
                quick.catch_up(60_000)
                assert 1 == len(quick.partial)
                quick.commit()
            deadline_s = time.monotonic() + 60
            while slow._reader.assignment() != {0, 1}:  # its client deals with the group by itself
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            slow.catch_up(30_000)
            assert [device("2")] * 20 == [slow.get(each.patches[0].key) for each in made]
            assert (20, 0, [], 0) == (len(slow), slow.stale_keys, told, slow.counts.gaps)


def member(log: bytes) -> tuple[Follower[DeviceState], History]:
    """A member that has read two patches of three and committed them."""
    following = Follower(
        "devices.patches", DeviceState, group=GROUP, start="group", keeps=False, on_gap="wait", resync_topic=None,
        snapshots_per_second_max=500,
    )  # fmt: skip
    made = life(b"a", "up", "down", "lost", "found")
    following.absorb(Result(assignment=MINE, membership=BEFORE, bounds={0: Bounds(0, 2, log, position=0)}), 0)
    following.absorb(Result(assignment=MINE, membership=BEFORE, runs=[run(0, *made.patches[:2])]), 0)
    while following.next_change() is not None:
        pass
    following.absorb(Result(assignment=MINE, membership=BEFORE, committed=following.settle().commit), 0)
    return following, made


@pytest.mark.parametrize("log", [LOG, b""])
@pytest.mark.parametrize("committed", [1, 2, 3])
def test_a_partition_dealt_anew_is_read_on_from_where_it_was(log: bytes, committed: int) -> None:
    """Wherever the client begins, with ids or without: nothing is told, and nothing that others handed out comes."""
    following, made = member(log)
    client = run(0, *made.patches[committed:], first=committed)
    following.absorb(Result(assignment=MINE, membership=AFTER, runs=[client]), 0)
    assert not following.has_records
    assert {0} == following.plan(0, 0).look

    following.absorb(Result(assignment=MINE, membership=AFTER, bounds={0: Bounds(0, 4, log, committed, log)}), 0)
    assert {0: 2} == following.plan(0, 0).seek
    following.absorb(Result(sought={0: 2}, assignment=MINE, membership=AFTER), 0)
    following.absorb(Result(assignment=MINE, membership=AFTER, runs=[run(0, *made.patches[2:], first=2)]), 0)
    came = []
    while following.has_records:
        if (change := following.next_change()) is not None:
            came.append(change.revision)
    assert list(range(max(committed, 2) + 1, 5)) == came
    assert (0, 0, 4) == (following.held.counts.logs_replaced, following.stale_keys, following.held.counts.applied)


def test_without_ids_a_deleted_topic_is_another_one() -> None:
    """It took the group's offsets along, and the group was dealt anew for it."""
    following, _ = member(b"")
    following.absorb(Result(assignment=MINE, membership=AFTER), 0)
    following.absorb(Result(assignment=MINE, membership=AFTER, bounds={0: Bounds(0, 9, b"", None)}), 0)
    assert (1, {0: 0}) == (following.held.counts.logs_replaced, following.plan(0, 0).seek)


def test_who_makes_up_for_what_he_holds_commits_nothing_backwards() -> None:
    """Others have handed that out: a crash meanwhile would have it all handed out again."""
    following, made = member(LOG)
    following.absorb(Result(assignment=MINE, membership=AFTER), 0)
    following.absorb(Result(assignment=MINE, membership=AFTER, bounds={0: Bounds(0, 4, LOG, 4, LOG)}), 0)
    following.absorb(Result(sought={0: 2}, assignment=MINE, membership=AFTER), 0)
    for number in (2, 3):
        following.absorb(Result(runs=[run(0, made.patches[number], first=number)]), 0)
        assert following.next_change() is None
        assert ({} if number == 2 else {0: 4}) == following.settle().commit


async def test_markers_of_transactions_are_no_loss(kafka: Broker, tmp_path: Path) -> None:
    """All was read, and retention removed it with the markers behind it: nothing is told, nothing is stale."""
    told: list[LogReplaced] = []
    with Place(kafka.url, "marked-devices") as place:
        place.create(partitions=1)
        producer = KafkaProducer({"bootstrap.servers": kafka.bootstrap, "transactional.id": "marked"})
        producer.init_transactions(30_000)
        made, records = History(DeviceState, b"d1"), Records()
        patch = made.add(device("1"))
        records.append(patch.key, patch.SerializeToString())
        producer.begin()
        producer.produce(place.patches, 0, records)
        producer.commit(30_000)
        everything: list[dict[str, Any]] = [
            {"group": "g1", "datadir": tmp_path / "g1"}, {"group": "g2"}, {"datadir": tmp_path / "by-hand"}
        ]  # fmt: skip
        for arguments in everything:
            async with Receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
                assert 1 == await receiver.catch_up(30_000)
        async with Receiver(place.url, place.patches, DeviceState, on_replaced=told.append) as running:
            assert 1 == await running.catch_up(30_000)
            await cut(place, 2)
            assert 0 == await running.catch_up(30_000)
            assert not running.is_stale("d1")
        for arguments in everything:
            async with Receiver(
                place.url, place.patches, DeviceState, on_replaced=told.append, **arguments
            ) as receiver:
                assert 0 == await receiver.catch_up(30_000)
                assert ("datadir" not in arguments) == receiver.is_stale("d1")
        producer.close()
    assert not told
