"""A receiver at odd moments: damage beside it, topics that change under it, callers who only look, restarts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from streams.client import BlockingReceiver
from streams.client.beginning import Bounds, LogReplaced
from streams.client.follow import Follower
from streams.client.resync import Ask, Asks
from streams.client.rows import Rows
from streams.client.step import Result
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import LogDamagedError, SettingsError, TransportError, UnknownTopicError
from streams.kernel.rule import Held
from streams.transport.blocks import BlockFile
from streams.transport.log import Log
from streams.v1.resync_pb2 import Resync
from tests.client.place import History, Place
from tests.client.test_follow import follower, life, run
from tests.client.test_receiver import device

A, B = b"a" * 16, b"b" * 16


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """A place on the embedded log."""
    return Place(f"embedded://{tmp_path / 'log'}", "odd")


def patches(keys: list[str], status: str = "up") -> list[object]:
    """The first patch of each key."""
    return [History(DeviceState, key.encode()).add(device(status, key)) for key in keys]


def test_a_restart_without_a_group_is_no_loss(here: Place, tmp_path: Path) -> None:
    """What is kept is held again, however little it was; nothing is told, nothing stale, nothing handed out twice."""
    told: list[LogReplaced] = []
    with here:
        here.create()
        here.publish(*patches([f"d{n}" for n in range(20)]))  # type: ignore[arg-type]
        for came in (20, 0, 0):
            with BlockingReceiver(
                here.url, here.patches, DeviceState, datadir=tmp_path / "kept", on_replaced=told.append
            ) as receiver:
                assert came == receiver.catch_up(20_000)
                assert (20, 0, False, frozenset()) == (
                    len(receiver), receiver.stale_keys, receiver.is_stale("d3"), receiver.partial
                )  # fmt: skip
    assert not told


def test_a_damaged_partition_costs_no_other_its_changes(here: Place, tmp_path: Path) -> None:
    """The changes of the healthy one are handed out; then the damage is named."""
    with here:
        here.create()
        here.publish(*patches([f"d{n}" for n in range(20)]))  # type: ignore[arg-type]
        file = sqlite3.connect(tmp_path / "log" / "log.sqlite3")
        bad = "(select id from partitions where topic = 'odd.patches' and partition = 0)"
        file.execute(f"update blocks set data = x'02' where partition_id = {bad}")
        file.commit()
        file.close()
        seen: set[int] = set()
        with BlockingReceiver(here.url, here.patches, DeviceState) as receiver:
            for _ in range(50):
                try:
                    change = receiver.next_change(100)
                except LogDamagedError as error:
                    seen.add(-1 if "odd.patches partition 0" in str(error) else -2)
                else:
                    seen |= {change.partition} if change is not None else set()
        assert seen == {1, -1}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_topic_made_anew_with_another_count(here: Place, before: int, after: int) -> None:
    """While it is read: told for each partition that is left, all of the new ones are read."""
    told: list[LogReplaced] = []
    with here:
        here.create(partitions=before)
        here.publish(*patches([f"d{n}" for n in range(8)]))  # type: ignore[arg-type]
        with BlockingReceiver(here.url, here.patches, DeviceState, on_replaced=told.append) as receiver:
            assert 8 == receiver.catch_up(20_000)
            with Log.shared(here.url.removeprefix("embedded://")) as log:
                log.delete_topic(here.patches)
                log.create_topic(here.patches, after)
            here.publish(*patches([f"e{n}" for n in range(8)]))  # type: ignore[arg-type]
            assert 8 == receiver.catch_up(20_000)
            assert {device("up", f"e{n}").SerializeToString() for n in range(8)} <= {
                message.SerializeToString() for _, message in receiver.states()
            }
    assert {"replaced"} == {lost.reason for lost in told}


def test_who_only_looks_reads_on(here: Place) -> None:
    """A key that nobody can be asked about stops nobody, nor do thousands of them."""
    with here:
        here.create(here.patches)
        here.publish(*patches(["d1"]))  # type: ignore[arg-type]
        with BlockingReceiver(here.url, here.patches, DeviceState, group="g") as receiver:
            assert receiver.is_stale("d1")
            assert 1 == receiver.catch_up(20_000)
        with BlockingReceiver(here.url, here.patches, DeviceState, group="g") as receiver:
            assert 0 == receiver.catch_up(20_000)
            for number in range(2_000):
                assert receiver.get(f"typo-{number}") is None
            here.publish(*patches(["d2"]))  # type: ignore[arg-type]
            change = receiver.next_change(10_000)
            assert change is not None
            assert b"d2" == change.key


def test_a_receiver_that_could_not_open_lets_its_file_go(here: Place, tmp_path: Path) -> None:
    """The topic did not come in time; the next try is not told that another receiver holds the file."""
    with here:
        arguments = {"datadir": tmp_path / "kept", "topic_timeout_ms": 50}
        with pytest.raises(UnknownTopicError):
            BlockingReceiver(here.url, here.patches, DeviceState, **arguments).__enter__()  # type: ignore[arg-type]
        here.create()
        with BlockingReceiver(here.url, here.patches, DeviceState, **arguments):  # type: ignore[arg-type]
            pass


def test_nothing_is_committed_of_a_place_in_doubt() -> None:
    """Once the topic is known to be another one, offsets of the old one are not committed under the new id."""
    following, made = follower(), life(b"a", "up", "down")
    mine = dict.fromkeys((0, 1), Bounds(0, 9, A, position=0))
    following = Follower(
        "devices.patches", DeviceState, group="g", start="group", keeps=False, on_gap="snapshot", resync_topic=None,
        snapshots_per_second_max=500,
    )  # fmt: skip
    following.absorb(Result(assignment=frozenset({0, 1}), bounds=mine), 0)
    following.absorb(Result(runs=[run(0, *made.patches)]), 0)
    while following.next_change() is not None:
        pass
    assert {0: 2} == following.settle().commit

    following.absorb(Result(log=B), 0)
    assert {} == following.settle().commit


def test_the_newest_row_of_a_key_that_moved_counts() -> None:
    """Partitions grew: what is held of the key in its old one is doubtful, and not what is shown."""
    rows = Rows()
    rows.put(0, b"k", Held(1, 5), b"old")
    rows.begin(0, partial=True, lost=True)
    rows.put(1, b"k", Held(1, 1), b"new")

    assert (1, b"new") == ((found := rows.find(b"k")) and (found[0], found[1].state))


def ask(offset: int, partition: int = 0) -> Ask:
    """A request for one key."""
    return Ask(b"k", partition, offset, Resync.GAP, 1, 1, (1, 2))


def test_a_request_that_is_repeated_holds_no_commit() -> None:
    """Its first one is in the log; going back to its offset would hand everything since out again."""
    asks = Asks(answer_timeout_ms=10)
    asks.want(ask(7))
    assert 7 == asks.floor(0)
    asks.asked(asks.due(0), 0)
    asks.due(1_000)

    assert b"k" in asks
    assert asks.floor(0) is None


@pytest.mark.parametrize("asked", [False, True])
def test_a_gap_counts_though_somebody_looked_before(asked: bool) -> None:
    """The request names the patch that showed the gap, and commits wait for it."""
    asks = Asks()
    asks.use(ask(-1, partition=-1))
    if asked:
        asks.asked(asks.due(0), 0)
    asks.want(ask(7))

    assert 7 == asks.floor(0)
    assert [(0, 7)] == [(each.partition, each.offset) for each in asks.due(10_000)]


def test_a_slow_rate_asks_and_none_is_refused() -> None:
    """Less than one a second is a rate; none at all would stop reading in the end."""
    asks = Asks(per_second_max=0.5)
    asks.want(ask(7))
    assert [7] == [each.offset for now_ms in (0, 3_000) for each in asks.due(now_ms)][:1]
    with pytest.raises(SettingsError, match="more than 0"):
        follower(snapshots_per_second_max=0)


def commit_beside_a_failure(file: BlockFile) -> None:
    """A group's offsets in a transaction that fails."""
    with file.transaction():
        file.put_offsets("g", [("t", 0, 5)])
        raise TransportError("the disk was full for another append")


def test_offsets_that_were_taken_back_are_sealed_when_they_come_again(tmp_path: Path) -> None:
    """A group's first commit shares its transaction with an append that fails: the log opens again afterwards."""
    with Log(tmp_path) as log:
        log.create_topic("t", 1)
    file = BlockFile(tmp_path, fsync="normal", readonly=False, bytes_max=None)
    with pytest.raises(TransportError):
        commit_beside_a_failure(file)
    with file.transaction():
        file.put_offsets("g", [("t", 0, 5)])
    file.close()

    with Log(tmp_path) as log:
        assert {("t", 0): 5} == log.committed("g")


def test_a_log_that_lost_its_topics_is_damaged(tmp_path: Path) -> None:
    """A page of the table of topics that reads as empty hides all of them: that is no new log."""
    with Log(tmp_path) as log:
        log.create_topic("t", 1)
    file = sqlite3.connect(tmp_path / "log.sqlite3")
    file.execute("delete from topics")
    file.commit()
    file.close()
    with pytest.raises(LogDamagedError, match="topics are missing"):
        Log(tmp_path)
