"""A receiver that restarts: with a datadir it holds what it held, without one it says what it does not know."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from streams._native import KafkaAdmin
from streams.client.beginning import LogReplaced, Stored
from streams.client.change import Kind
from streams.client.kept import Kept, Save
from streams.client.kept import Place as KeptPlace
from streams.client.missed import Missing
from streams.client.rows import Entry, Row
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import StateError
from streams.kernel.rule import Held
from streams.transport.log import Log
from streams.v1.resync_pb2 import Resync
from tests.client.place import History, Owner, Place
from tests.client.shells import Shell
from tests.client.test_receiver import GROUP, changes, device


async def asked(receiver: Any, before: int = 0) -> None:
    """Waits until a request for a snapshot is in the log; no change must come meanwhile."""
    deadline_s = time.monotonic() + 20
    while receiver.counts.snapshots_asked == before and time.monotonic() < deadline_s:
        assert await receiver.next_change(50) is None
    assert receiver.counts.snapshots_asked > before


KEYS = [f"d{number}" for number in range(10)]


def told_of(place: Place) -> tuple[list[LogReplaced], dict[str, object]]:
    """A list that lost places are told to, and the arguments of a receiver that tells it."""
    told: list[LogReplaced] = []
    return told, {"group": GROUP, "on_replaced": told.append}


async def test_a_restart_holds_what_it_held(place: Place, shell: Shell, tmp_path: Path) -> None:
    """Every revision once, in order, over three runs; the change that was being worked on comes again."""
    place.create()
    owner = Owner(place, DeviceState)
    arguments = {"group": GROUP, "datadir": tmp_path / "billing"}
    place.send("d1", device("1"), device("2"))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert [1, 2] == [change.revision for change in await changes(receiver, 2)]
    place.send("d1", device("3"))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        first, second = await changes(receiver, 2)
        assert [(Kind.DELTA, 2), (Kind.DELTA, 3)] == [(change.kind, change.revision) for change in (first, second)]
        await receiver.commit()
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert 0 == await receiver.catch_up(20_000)
        assert (device("3"), False, 0) == (receiver.get("d1"), receiver.is_stale("d1"), receiver.counts.gaps)
        assert frozenset() == receiver.partial


async def test_a_restart_without_a_datadir_says_what_it_does_not_know(place: Place, shell: Shell) -> None:
    """Nothing is held, every key is stale and says so; one that is used is fetched from its owner."""
    place.create()
    owner = Owner(place, DeviceState)
    for key in KEYS:
        place.send(key, device("up", key))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        assert 10 == await receiver.catch_up(20_000)
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        assert 0 == await receiver.catch_up(20_000)
        assert (0, True, None) == (len(receiver), receiver.is_stale("d3"), receiver.get("d3"))
        assert frozenset({0, 1}) == receiver.partial
        await asked(receiver)
        assert 1 == owner.work()
        (change,) = await changes(receiver, 1)
        assert (b"d3", device("up", "d3"), False) == (change.key, receiver.get("d3"), receiver.is_stale("d3"))
        assert receiver.is_stale("d4")


async def make_anew(place: Place) -> None:
    """Deletes the topic of patches and makes it again."""
    if place.url.startswith("embedded"):
        log = Log.shared(place.url.removeprefix("embedded://"))
        log.delete_topic(place.patches)
        log.create_topic(place.patches, 2)
        log.close()
        return
    admin = KafkaAdmin({"bootstrap.servers": place.url.removeprefix("kafka://")})
    assert [(place.patches, None)] == admin.delete_topics([place.patches], 10_000)
    while place.patches in admin.topics(10_000):
        pass
    place.create(place.patches)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_topic_made_anew_is_told(place: Place, shell: Shell, tmp_path: Path, keeps: bool) -> None:
    """While the receiver is away: told once, its keys are stale, and the first use of one asks its owner."""
    place.create()
    told, arguments = told_of(place)
    if keeps:
        arguments["datadir"] = tmp_path / "billing"
    owner = Owner(place, DeviceState)
    for key in KEYS:
        place.send(key, device("up", key))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert 10 == await receiver.catch_up(20_000)
        assert not told
    await make_anew(place)
    place.send("d1", device("down", "d1"))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        if not keeps:
            # Kafka forgets the group's offsets with the topic: a receiver that holds nothing has lost nothing.
            await asked(receiver)
            assert 1 == owner.work()
        (change,) = await changes(receiver, 1)
        assert (b"d1", 2, device("down", "d1")) == (change.key, change.revision, change.message)
        if keeps:
            assert {"replaced"} == {lost.reason for lost in told}
            assert (receiver.counts.logs_replaced, device("up", "d3")) == (len(told), receiver.get("d3"))
            assert (True, False) == (receiver.is_stale("d3"), receiver.is_stale("d1"))
            await asked(receiver)
            assert 1 == owner.work()
            await receiver.catch_up(20_000)
            assert not receiver.is_stale("d3")


async def cut(place: Place, offset: int) -> None:
    """Removes all records below an offset, as retention does."""
    if place.url.startswith("embedded"):
        log = Log.shared(place.url.removeprefix("embedded://"))
        log.create_topic(place.patches, 1, retention_ms=1)
        while log.maintain(1 << 45, 1_000):
            pass
        log.create_topic(place.patches, 1, retention_ms=-1)
        log.close()
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=place.url.removeprefix("kafka://"))
    await admin.start()
    await admin.delete_records({TopicPartition(place.patches, 0): RecordsToDelete(before_offset=offset)})
    await admin.close()


async def test_away_for_longer_than_the_retention_is_told(place: Place, shell: Shell, tmp_path: Path) -> None:
    """What was not read is gone: told, the keys are stale, and what comes is applied or asked for."""
    place.create(partitions=1)
    told, arguments = told_of(place)
    arguments["datadir"] = tmp_path / "billing"
    made = History(DeviceState, b"d1")
    place.publish(made.add(device("1")), made.add(device("2")))
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert 2 == await receiver.catch_up(20_000)
    place.publish(made.add(device("3")), made.add(device("4")))
    await cut(place, 4)
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        await receiver.catch_up(20_000)
        assert [("cut", 2, 4)] == [(lost.reason, lost.expected, lost.start) for lost in told]
        assert "streams state snapshot" in str(told[0])
        assert (True, 1, device("2")) == (receiver.is_stale("d1"), receiver.stale_keys, receiver.get("d1"))
        place.publish(made.add(device("5")), made.snapshot())
        (change,) = await changes(receiver, 1)
        assert (Kind.SNAPSHOT, 5, False) == (change.kind, change.revision, receiver.is_stale("d1"))


def kept(directory: Path, **more: object) -> Kept:
    """The file of a receiver."""
    arguments = {"topic": "devices.patches", "group": GROUP, "type_name": "acme.Device", "fingerprint": 7, **more}
    return Kept(directory, **arguments)  # type: ignore[arg-type]


ENTRIES: dict[tuple[int, bytes], Entry] = {
    (0, b"a"): (Row(Held(1 << 63, 2), b"state"), None),
    (0, b"empty"): (Row(Held(1, 1), b""), Missing((1, 2), 7, Resync.GAP)),
    (1, b"b"): (Row(Held(3, (1 << 64) - 1, intact=False), None, 1), None),
    (1, b"unknown"): (None, Missing(((1 << 64) - 1, 9), -1, Resync.LATE_JOINER)),
}
PLACES = {0: KeptPlace(Stored(5, b"i" * 16)), 1: KeptPlace(Stored(9), 2, partial=True)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Rows with the whole range of their numbers, deleted ones, places; a row that went is gone."""
    first = kept(tmp_path)
    assert (None, []) == (first.load(0).place, first.load(0).rows)
    first.save(Save(ENTRIES, PLACES))
    first.close()
    second = kept(tmp_path)
    for partition, place in PLACES.items():
        loaded = second.load(partition)
        assert (place, True) == (loaded.place, loaded.own)
        mine = {key: entry for (where, key), entry in ENTRIES.items() if where == partition}
        assert {key: row for key, (row, _) in mine.items() if row is not None} == dict(loaded.rows)
        assert {key: missing for key, (_, missing) in mine.items() if missing is not None} == loaded.missing
    second.save(Save({(0, b"a"): (None, None), (0, b"empty"): (None, None)}, {}))
    assert ([], {}) == (second.load(0).rows, second.load(0).missing)
    second.close()
    other = kept(tmp_path, fingerprint=8)
    assert not other.load(1).own
    other.close()


def test_a_file_has_one_receiver_and_one_topic(tmp_path: Path) -> None:
    """Who comes second, or for something else, is told so with the cure."""
    first = kept(tmp_path)
    with pytest.raises(StateError, match="another receiver holds it; give each one a datadir of its own"):
        kept(tmp_path)
    first.close()
    kept(tmp_path, group="other").close()
    with pytest.raises(StateError, match=r"rows of type acme\.Device, expected acme\.Order; give this receiver a"):
        kept(tmp_path, type_name="acme.Order")


def test_a_newer_or_damaged_file_is_refused(tmp_path: Path) -> None:
    """By name, with the cure."""
    first = kept(tmp_path)
    first.close()
    file = sqlite3.connect(first.path)
    file.execute("update meta set value = 9 where key = 'format'")
    file.commit()
    file.close()
    with pytest.raises(StateError, match="format 9, expected 2; upgrade this process"):
        kept(tmp_path)
    first.path.write_bytes(os.urandom(100_000))
    with pytest.raises(StateError, match="it is damaged, or no receiver's; remove it to begin anew"):
        kept(tmp_path)
