"""What a receiver does not know it knows that it does not: gaps, lost places and damage, over restarts too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streams._native import Records
from streams.client import BlockingReceiver, Receiver
from streams.client.beginning import LogReplaced, Stored
from streams.client.held import HeldStates
from streams.client.kept import Kept, Save
from streams.client.kept import Place as KeptPlace
from streams.client.missed import Missing
from streams.client.resync import ANSWER_TIMEOUT_MS, WANTED_KEYS_MAX, Ask, Asks
from streams.client.rows import Entry, Row
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError, StateError, TransportError
from streams.kernel.rule import Held
from streams.transport.log import Log
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.broker import Broker
from tests.client.devices import newer_device, renamed_device
from tests.client.place import EPOCH, History, Owner, Place
from tests.client.shells import Shell
from tests.client.test_held import take
from tests.client.test_kept import asked, cut, make_anew
from tests.client.test_odd_moments import here, patches
from tests.client.test_receiver import GROUP, changes, device

__all__ = ["here"]


def gap(key: str) -> tuple[History, History]:
    """A key of which two revisions are lost, and one of which the first is."""
    known, unknown = (History(DeviceState, each.encode(), EPOCH - 1) for each in (key, f"un{key}"))
    for number in range(4):
        known.add(device(str(number), key))
        unknown.add(device(str(number), f"un{key}"))
    return known, unknown


@pytest.mark.parametrize("on_gap", ["snapshot", "wait"])
async def test_a_gap_outlives_a_restart(place: Place, shell: Shell, tmp_path: Path, on_gap: str) -> None:
    """A key whose patch was passed over is stale until its snapshot comes, held before or not, restarted or not."""
    place.create()
    known, unknown = gap("d1")
    arguments = {"group": GROUP, "datadir": tmp_path / "kept", "on_gap": on_gap}
    place.publish(known.patches[0], known.patches[3], unknown.patches[3])
    for _ in range(2):
        async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
            await receiver.catch_up(20_000)
            assert (True, True, 2) == (receiver.is_stale("d1"), receiver.is_stale("und1"), receiver.stale_keys)
            assert (device("0"), None, frozenset()) == (receiver.get("d1"), receiver.get("und1"), receiver.partial)
    place.publish(known.snapshot(), unknown.snapshot())
    for count in (2, 0):
        async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
            assert count == await receiver.catch_up(20_000)
            assert (False, False, 0) == (receiver.is_stale("d1"), receiver.is_stale("und1"), receiver.stale_keys)
            assert (device("3"), device("3", "und1")) == (receiver.get("d1"), receiver.get("und1"))


async def test_a_gap_of_an_earlier_run_is_asked_for_when_it_is_used(place: Place, shell: Shell, tmp_path: Path) -> None:
    """The request names the patch that showed it, so that an owner without the key says that it is gone."""
    place.create()
    owner = Owner(place, DeviceState)
    arguments = {"group": GROUP, "datadir": tmp_path / "kept"}
    _, unknown = gap("d1")
    place.publish(unknown.patches[3])
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments, on_gap="wait") as receiver:
        await receiver.catch_up(20_000)
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        await receiver.catch_up(20_000)
        assert 0 == receiver.counts.snapshots_asked
        assert receiver.get("und1") is None
        await asked(receiver)
        (request,) = [Resync.FromString(value or b"") for _, _, _, value, _ in place.read(place.resync)]
        assert (Resync.GAP, 16) == (request.reason, len(request.topic_id))
        assert 1 == owner.work()
        (gone,) = await changes(receiver, 1)
        assert (b"und1", None, False) == (gone.key, gone.message, receiver.is_stale("und1"))


def test_what_was_asked_before_a_restart_is_asked_again() -> None:
    """Where no answer came; it holds no commit up, and comes after what is new."""
    made, _ = gap("d1")
    states = HeldStates(DeviceState, requester="r", asks=(asks := Asks()))
    asks.due(0)
    row = Row(Held(made.patches[0].epoch, 1), made.states[1])
    lost = Missing((made.patches[3].epoch, 4), 17, Resync.GAP)
    states.fill(0, [(b"d1", row)], 0, own=True, missing={b"d1": lost})

    assert (True, 1, []) == (states.is_stale(b"d1"), states.rows.stale, asks.due(ANSWER_TIMEOUT_MS - 1))
    (again,) = asks.due(ANSWER_TIMEOUT_MS)
    assert (b"d1", 0, 17, 1, lost.needed) == (again.key, again.partition, again.offset, again.revision, again.needed)
    assert asks.floor(0) is None

    take(states, made.snapshot())
    assert (False, 0) == (states.is_stale(b"d1"), len(asks))


def test_an_owner_that_is_away_stops_no_reading() -> None:
    """Thousands of requests that nobody answered are repeated bit by bit; new gaps find room among them."""
    asks = Asks(per_second_max=1e9)
    for number in range(10 * WANTED_KEYS_MAX):
        asks.want(Ask(b"%d" % number, 0, number, Resync.GAP, 1, 1, (1, 2)))
        if asks.full:
            asks.asked(asks.due(0), 0)
    asks.asked(asks.due(0), 0)
    late_ms = 10 * ANSWER_TIMEOUT_MS
    repeated: set[bytes] = set()
    while due := asks.due(late_ms):
        assert not asks.full
        repeated |= {ask.key for ask in due}
        asks.asked(due, late_ms)
    assert 10 * WANTED_KEYS_MAX == len(repeated) == len(asks)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_cut_is_told_once(place: Place, shell: Shell, tmp_path: Path, keeps: bool) -> None:
    """Though no record comes afterwards: what was lost stays lost, and stale, and is no news at the next start."""
    place.create(partitions=1)
    told: list[LogReplaced] = []
    arguments: dict[str, Any] = {"group": GROUP, "on_replaced": told.append}
    if keeps:
        arguments["datadir"] = tmp_path / "kept"
    made = History(DeviceState, b"d1")
    place.publish(made.add(device("1")))
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert 1 == await receiver.catch_up(20_000)
    place.publish(made.add(device("2")), made.add(device("3")))
    await cut(place, 3)
    for _ in range(3):
        async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
            assert 0 == await receiver.catch_up(20_000)
            assert (True, frozenset({0})) == (receiver.is_stale("d1"), receiver.partial)
            assert [("cut", 1, 3)] == [(lost.reason, lost.expected, lost.start) for lost in told]


async def test_a_replacement_is_told_once(place: Place, shell: Shell, tmp_path: Path) -> None:
    """An empty topic in the place of the old one: told at the first start, its keys are stale at each."""
    place.create(partitions=1)
    told: list[LogReplaced] = []
    arguments = {"group": GROUP, "on_replaced": told.append, "datadir": tmp_path / "kept"}
    made = History(DeviceState, b"d1")
    place.publish(made.add(device("1")))
    async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
        assert 1 == await receiver.catch_up(20_000)
    await make_anew(place)
    for _ in range(3):
        async with shell.receiver(place.url, place.patches, DeviceState, **arguments) as receiver:
            assert 0 == await receiver.catch_up(20_000)
            assert (True, device("1")) == (receiver.is_stale("d1"), receiver.get("d1"))
            assert ["replaced"] == [lost.reason for lost in told][:1]
            assert {"replaced"} == {lost.reason for lost in told}
            assert len(told) == len({lost.partition for lost in told})


def test_a_topic_made_anew_inside_one_wait(here: Place) -> None:
    """Gone, there again, and longer than it was, before the receiver looks once: told, and read from its beginning."""
    told: list[LogReplaced] = []
    with here:
        here.create(partitions=1)
        here.publish(*patches(["a1", "a2"]))  # type: ignore[arg-type]
        with BlockingReceiver(here.url, here.patches, DeviceState, on_replaced=told.append) as receiver:
            assert 2 == receiver.catch_up(20_000)
            with Log.shared(here.url.removeprefix("embedded://")) as log:
                log.delete_topic(here.patches)
                log.create_topic(here.patches, 1)
            here.publish(*patches([f"b{n}" for n in range(5)]))  # type: ignore[arg-type]
            came = [receiver.next_change(20_000) for _ in range(5)]
            assert [b"b0", b"b1", b"b2", b"b3", b"b4"] == [change.key for change in came if change is not None]
            assert [("replaced", 2, 0)] == [(lost.reason, lost.expected, lost.start) for lost in told]
            assert (True, False) == (receiver.is_stale("a1"), receiver.is_stale("b1"))


def test_another_descriptor_between_two_runs(here: Place, tmp_path: Path) -> None:
    """Newer, renamed, and back: what was kept is held under it, and the next delta of the owner fits."""
    with here:
        here.create(partitions=1)
        made = History(DeviceState, b"d1")
        here.publish(made.add(device("0")))
        for number, message_class in enumerate([DeviceState, newer_device(), renamed_device(), DeviceState], 1):
            with BlockingReceiver(here.url, here.patches, message_class, group="g", datadir=tmp_path / "k") as receiver:
                receiver.catch_up(20_000)
                here.publish(made.add(device(str(number))))
                change = receiver.next_change(20_000)
                assert change is not None
                assert (0, 0, made.states[-1]) == (receiver.counts.gaps, receiver.stale_keys, receiver.bytes("d1"))
                receiver.commit()


def kept(directory: Path) -> Kept:
    """A receiver's file."""
    return Kept(directory, "devices.patches", GROUP, "acme.Device", 7)


def test_no_flipped_byte_is_believed(tmp_path: Path) -> None:
    """Each byte of the file in turn: what is loaded is what was saved, or the damage is named with the cure."""
    entries: dict[tuple[int, bytes], Entry] = {
        (partition, b"d%d" % number): (
            Row(Held(1_700_000_000_000, number), b"state" * number if number % 3 else None, number % 2),
            Missing((1, number), number, Resync.GAP) if number % 2 else None,
        )
        for partition in (0, 1)
        for number in range(20)
    }
    places = {0: KeptPlace(Stored(5, b"i" * 16)), 1: KeptPlace(Stored(9), 2, partial=True)}
    file = kept(tmp_path / "good")
    file.save(Save(entries, places))
    saved = [file.load(partition) for partition in places]
    file.close()
    good = file.path.read_bytes()
    bad = tmp_path / "bad" / file.path.name
    told: set[str] = set()
    for at in (at for at in range(0, len(good), 5) if good[at] or at % 100 == 0):
        shutil.rmtree(bad.parent, ignore_errors=True)
        bad.parent.mkdir()
        bad.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            spoiled = kept(bad.parent)
            loaded = [spoiled.load(partition) for partition in places]
            spoiled.close()
        except StateError as error:
            told.add(str(error).removeprefix(f"{bad}: "))
        else:
            assert saved == loaded
    assert 1 <= len(told) <= 3
    assert all("begin anew" in each or "upgrade" in each for each in told)


@pytest.mark.parametrize(
    "statement",
    [
        "update rows set entry = 'text'",
        "update rows set entry = x''",
        "update rows set key = 'text' where partition = 0",
        "update rows set partition = 1",
        "update places set place = 5",
        "update meta set value = 'text'",
        "update meta set value = x'ff' where key = 'topic'",
        "delete from meta",
        "drop table rows",
    ],
)
def test_odd_content_is_damage(tmp_path: Path, statement: str) -> None:
    """Whatever a hand or a disk has made of the file: named, with the cure, and no error of another kind."""
    file = kept(tmp_path)
    file.save(Save({(0, b"a"): (Row(Held(1, 1), b"state"), None)}, {0: KeptPlace(Stored(5))}))
    file.close()
    other = sqlite3.connect(file.path)
    other.execute(statement)
    other.commit()
    other.close()
    with pytest.raises(StateError, match="remove it to begin anew"):
        kept(tmp_path)


def test_who_keeps_nothing_says_where(here: Place, tmp_path: Path) -> None:
    """A datadir that is a file, lies below one, holds a directory of the file's name, or is nothing at all."""
    (tmp_path / "file").write_text("")
    held = kept(tmp_path / "dir")
    held.close()
    held.path.unlink()
    held.path.mkdir()
    for datadir in ("file", "file/below"):
        with pytest.raises(StateError, match="name a directory that can be written"):
            kept(tmp_path / datadir)
    with pytest.raises(StateError, match="name a datadir that can be written"):
        kept(tmp_path / "dir")
    with pytest.raises(SettingsError, match="datadir: got nothing, expected a directory"):
        BlockingReceiver(here.url, here.patches, DeviceState, datadir="")


def test_every_receiver_has_a_file_of_its_own(tmp_path: Path) -> None:
    """A group named all, none, names that differ in what no file name holds, or after many characters."""
    names = [
        ("t", None),
        ("t", "all"),
        ("t@all", None),
        ("a:b", "g"),
        ("a;b", "g"),
        ("t", "g" * 80 + "1"),
        ("t", "g" * 80),
    ]
    files = [Kept(tmp_path, topic, group, "acme.Device", 7) for topic, group in names]
    for file in files:
        file.close()
    assert len(names) == len({file.path for file in files})
    files[1].path.replace(files[0].path)
    with pytest.raises(StateError, match="rows of group all, expected ; give this receiver a datadir of its own"):
        Kept(tmp_path, "t", None, "acme.Device", 7)


@pytest.mark.parametrize("name", ["caf\udce9", "", "a\0b", "g" * 250])
def test_names_that_no_broker_takes_are_refused(name: str) -> None:
    """Before anything is opened, and those that are no text without showing them."""
    for arguments in ({"group": name}, {"resync_topic": name}):
        with pytest.raises(SettingsError, match=r"(group|resync_topic): got .*, expected 1 to 249 bytes of UTF-8"):
            BlockingReceiver("kafka://127.0.0.1:1", "devices.patches", DeviceState, **arguments)  # type: ignore[arg-type]


async def test_a_receiver_is_opened_once(here: Place) -> None:
    """What it holds belongs to where it was: another one begins there again."""
    with here:
        here.create()
        twin = BlockingReceiver(here.url, here.patches, DeviceState)
        with twin:
            twin.catch_up(20_000)
        with pytest.raises(TransportError, match="was open before; make another one"):
            twin.__enter__()
        async with Receiver(here.url, here.patches, DeviceState) as receiver:
            await receiver.catch_up(20_000)
        with pytest.raises(TransportError, match="was open before; make another one"):
            await receiver.__aenter__()


def test_a_fork_is_told_to_open_its_own(here: Place) -> None:
    """At once: its parent's connections would never answer it. Its parent goes on."""
    with here:
        here.create()
        with BlockingReceiver(here.url, here.patches, DeviceState) as receiver:
            child = os.fork()
            if child == 0:
                told = 1
                try:
                    receiver.next_change(0)
                except TransportError as error:
                    told = 0 if "opened before a fork; open one in each process" in str(error) else 2
                finally:
                    os._exit(told)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            here.publish(*patches(["d1"]))  # type: ignore[arg-type]
            assert 1 == receiver.catch_up(20_000)


class RungError(Exception):
    """What a signal's handler raises, as timeouts of programs without an event loop do."""


def test_a_wait_that_a_signal_ends_loses_nothing(place: Place) -> None:
    """The signal is there before the records are; the handler runs where the wait ends, with the records in hand."""

    def ring(*_: object) -> None:
        raise RungError

    before = signal.signal(signal.SIGUSR1, ring)
    made, waiter, came = History(DeviceState, b"d1"), threading.get_ident(), 0
    try:
        with place:
            place.create(partitions=1)
            with BlockingReceiver(place.url, place.patches, DeviceState) as receiver:
                for number in range(1, 9):
                    patch = made.add(device(str(number)))

                    def bring(patch: object = patch) -> None:
                        signal.pthread_kill(waiter, signal.SIGUSR1)
                        place.publish(patch)  # type: ignore[arg-type]

                    timer = threading.Timer(0.05, bring)
                    timer.start()
                    with contextlib.suppress(RungError):
                        while receiver.next_change(20_000) is not None:
                            came += 1
                    timer.join()
                while came < 8 and receiver.next_change(20_000) is not None:
                    came += 1
                assert (8, 8, 0, 0) == (came, receiver.counts.applied, receiver.counts.gaps, receiver.stale_keys)
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_who_never_gets_a_partition_is_told_why(kafka: Broker) -> None:
    """One partition, two members: the second has no end to reach."""
    with Place(kafka.url, "lonely-devices") as place:
        place.create(partitions=1)
        async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as first:
            assert 0 == await first.catch_up(30_000)
            async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as second:
                with pytest.raises(TimeoutError, match="partition came to this receiver within 300 ms"):
                    await second.catch_up(300)
                with pytest.raises(TimeoutError, match="partition came to this receiver within 300 ms"):
                    await second.catch_up(300)


async def test_two_tasks_take_each_change_once(place: Place) -> None:
    """A task that was forgotten still waits beside the next one: nothing comes twice, no log is taken for another."""
    told: list[LogReplaced] = []
    place.create(partitions=1)
    made = History(DeviceState, b"d1")
    async with Receiver(place.url, place.patches, DeviceState, on_replaced=told.append) as receiver:
        tasks = [asyncio.create_task(receiver.next_change(20_000)) for _ in range(3)]
        await asyncio.sleep(0)
        place.publish(*(made.add(device(str(number))) for number in range(3)))
        came = await asyncio.gather(*tasks)
        assert {1, 2, 3} == {change.revision for change in came if change is not None}
        assert (3, 0, []) == (receiver.counts.applied, receiver.counts.duplicates, told)


def test_a_second_thread_is_refused(place: Place) -> None:
    """At once, in words; the first one goes on."""
    place.create(partitions=1)
    with BlockingReceiver(place.url, place.patches, DeviceState) as receiver:
        assert 0 == receiver.catch_up(20_000)
        first = threading.Thread(target=receiver.next_change, args=(2_000,))
        first.start()
        while not receiver._inside:
            assert first.is_alive()
        with pytest.raises(TransportError, match="is used by another thread; give each one its own"):
            receiver.next_change(0)
        first.join()
        place.publish(*patches(["d1"]))  # type: ignore[arg-type]
        assert receiver.next_change(20_000) is not None


def test_what_is_no_patch_costs_itself(here: Place) -> None:
    """Empty, of no kind, another message's bytes: counted and asked about, and what comes after is read."""
    with here:
        here.create(partitions=1)
        records = Records()
        for value in (b"", device("up").SerializeToString(), Patch(key=b"d1", type="acme.Order").SerializeToString()):
            records.append(b"d1", value, ())
        here.write(here.patches, records)
        here.publish(*patches(["d2"]))  # type: ignore[arg-type]
        with BlockingReceiver(here.url, here.patches, DeviceState) as receiver:
            assert 1 == receiver.catch_up(20_000)
            assert (3, 3, True) == (receiver.counts.refused, receiver.counts.damaged, receiver.is_stale("d1"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"group": 5}, "group: got int, expected 1 to 249"),
        ({"snapshots_per_second_max": float("inf")}, "snapshots_per_second_max: got inf"),
        ({"message_class": int}, "message_class: got type, expected a generated message class"),
    ],
)
def test_arguments_of_another_kind(arguments: dict[str, Any], said: str) -> None:
    """Refused in the words of settings."""
    given = {"broker": "kafka://127.0.0.1:1", "topic": "devices.patches", "message_class": DeviceState, **arguments}
    with pytest.raises(SettingsError, match=said):
        BlockingReceiver(**given)


def test_a_key_is_text_or_bytes(here: Place) -> None:
    """Anything else would be a key that nobody has."""
    receiver = BlockingReceiver(here.url, here.patches, DeviceState)
    for key in (None, 5, "caf\udce9"):
        for call in (receiver.get, receiver.bytes, receiver.revision):
            with pytest.raises(ValueError, match=r"key: got .*, expected"):
                call(key)  # type: ignore[operator]


def test_a_rebalance_of_a_busy_topic_is_no_other_topic(kafka: Broker) -> None:
    """Commits lag where patches keep coming: who keeps a partition over a rebalance goes on where it was."""
    told: list[LogReplaced] = []
    with Place(kafka.url, "busy-devices") as place:
        place.create(partitions=4)
        entities = [History(DeviceState, b"d%d" % number) for number in range(20)]
        arguments: dict[str, Any] = {"group": GROUP, "on_replaced": told.append}
        with BlockingReceiver(place.url, place.patches, DeviceState, **arguments) as first:
            first.catch_up(30_000)
            kept = first._follower.places
            with BlockingReceiver(place.url, place.patches, DeviceState, **arguments) as second:
                deadline_s = time.monotonic() + 60
                while not second._follower.is_assigned or kept.unknown() or len(kept.assignment) == 4:
                    assert time.monotonic() < deadline_s
                    place.publish(*(made.add(device(str(len(made.states)))) for made in entities))
                    for receiver in (first, second):
                        while receiver.next_change(0) is not None:
                            pass
                place.publish(*(made.add(device("last")) for made in entities))
                first.catch_up(30_000)
                assert ([], 0) == (told, first.counts.duplicates)
