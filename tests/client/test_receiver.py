"""The receivers' contract, on every broker and in both shells, with the native core as the owner."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from streams._native import KafkaProducer, Records
from streams.client import Change, Kind, Receiver
from streams.client.held import RESYNC_FOR
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import TransportError, UnknownTopicError
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.broker import Broker
from tests.client.place import History, Owner, Place
from tests.client.shells import Shell

GROUP = "billing"


def device(status: str, key: str = "d1") -> DeviceState:
    """A state that differs by its status."""
    return DeviceState(device_id=key, status=status, battery=0.5)


async def changes(receiver: Any, count: int) -> list[Change[DeviceState]]:
    """The next changes; so many must come."""
    found = [await receiver.next_change(20_000) for _ in range(count)]
    assert None not in found
    return found


async def asked(receiver: Any) -> None:
    """Waits until a request for a snapshot is in the log; no change must come meanwhile."""
    deadline_s = time.monotonic() + 20
    while not receiver.counts.snapshots_asked and time.monotonic() < deadline_s:
        assert await receiver.next_change(50) is None
    assert 1 == receiver.counts.snapshots_asked


def damage(number: int, how: str) -> Any:
    """Damages the patch of one revision: loses it, or spoils its digest."""

    def spoil(patch: Patch) -> Patch | None:
        if patch.revision == number and how == "lost":
            return None
        if patch.revision == number:
            patch.digest ^= 1
        return patch

    return spoil


async def test_changes_arrive_with_the_whole_message(place: Place, shell: Shell) -> None:
    """From event through the owner's patch to the change: message, paths, kind, origin; and a delete in the end."""
    place.create()
    place.send("d1", device("up"), device("down"), None)
    assert 3 == Owner(place, DeviceState).work()
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        up, down, gone = await changes(receiver, 3)

        assert (b"d1", Kind.SNAPSHOT, ("*",), device("up")) == (up.key, up.kind, up.paths, up.message)
        assert (Kind.DELTA, ("status",), device("down")) == (down.kind, down.paths, down.message)
        assert (Kind.DELETE, (), None) == (gone.kind, gone.paths, gone.message)
        assert [(up.epoch, 1), (up.epoch, 2), (up.epoch, 3)] == [(c.epoch, c.revision) for c in (up, down, gone)]
        assert "/test" == up.event_source
        assert up.event_id != down.event_id
        assert (None, None, 0) == (receiver.get("d1"), receiver.bytes("d1"), len(receiver))
        assert (up.epoch, 3) == receiver.revision(b"d1")


async def test_catching_up_reads_to_the_end(place: Place, shell: Shell) -> None:
    """Whatever is there is held afterwards; an empty topic has its end at once."""
    place.create()
    keys = [f"d{number}" for number in range(20)]
    async with shell.receiver(place.url, place.patches, DeviceState) as receiver:
        assert 0 == await receiver.catch_up(20_000)
        for key in keys:
            place.send(key, device("up", key), device("down", key))
        Owner(place, DeviceState).work()

        assert 40 == await receiver.catch_up(20_000)
        assert {key.encode(): device("down", key) for key in keys} == dict(receiver.states())
        assert device("down", "d7").SerializeToString(deterministic=True) == receiver.bytes("d7")
        assert (20, 40, 0) == (len(receiver), receiver.counts.applied, receiver.stale_keys)


async def test_a_group_goes_on_where_it_was(place: Place, shell: Shell) -> None:
    """Taken changes do not come again; the one that was being worked on does, as a snapshot of now."""
    place.create()
    owner = Owner(place, DeviceState)
    place.send("d1", device("1"), device("2"), device("3"))
    owner.work()
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        assert [1, 2, 3] == [change.revision for change in await changes(receiver, 3)]
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        await asked(receiver)
        assert (1, 1) == (receiver.counts.gaps, owner.work())
        (again,) = await changes(receiver, 1)
        assert (Kind.SNAPSHOT, 3, device("3")) == (again.kind, again.revision, again.message)
        await receiver.commit()
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        place.send("d1", device("4"))
        owner.work()
        assert 0 == await receiver.catch_up(20_000)
        assert 1 == receiver.counts.gaps


@pytest.mark.parametrize("how", ["lost", "spoilt"])
async def test_a_gap_is_mended_by_a_snapshot(place: Place, shell: Shell, how: str) -> None:
    """A lost or spoilt patch: the request names the requester and what is held, on the patch's own partition; the
    answer brings the right state, and other receivers are not bothered by it."""
    place.create()
    owner = Owner(place, DeviceState)
    place.send("d1", device("1"), device("2"), device("3"))
    owner.work(damage(2, how))
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        (first,) = await changes(receiver, 1)
        await asked(receiver)
        assert (device("1"), True, 1) == (receiver.get("d1"), receiver.is_stale("d1"), receiver.stale_keys)
        ((partition, _, key, value, _),) = place.read(place.resync)
        reason = Resync.GAP if how == "lost" else Resync.DIGEST_MISMATCH
        wanted = Resync(
            requester=GROUP, epoch=first.epoch, held_revision=1, reason=reason, topic_id=place.log(place.patches),
            partition=first.partition, offset=first.offset + 1,
        )  # fmt: skip
        assert (first.partition, b"d1", wanted) == (partition, key, Resync.FromString(value or b""))

        assert 1 == owner.work()
        (mended,) = await changes(receiver, 1)
        assert (Kind.SNAPSHOT, 3, device("3")) == (mended.kind, mended.revision, mended.message)
        assert (device("3"), False, 0) == (receiver.get("d1"), receiver.is_stale("d1"), receiver.stale_keys)
        assert (RESYNC_FOR, GROUP.encode()) in place.read(place.patches)[-1][4]
        place.send("d1", device("4"))
        owner.work()
        assert [(Kind.DELTA, 4)] == [(change.kind, change.revision) for change in await changes(receiver, 1)]
    async with shell.receiver(place.url, place.patches, DeviceState, on_gap="wait") as other:
        await other.catch_up(20_000)
        assert (device("4"), 1 if how == "spoilt" else 0) == (other.get("d1"), other.counts.digest_failures)


async def test_one_request_for_many_gaps_of_a_key(place: Place, shell: Shell) -> None:
    """However many patches wait for the snapshot; and none at all with on_gap = wait."""
    place.create()
    made = History(DeviceState, b"d1")
    for number in range(30):
        made.add(device(str(number)))
    place.publish(made.patches[0], *made.patches[5:])
    async with shell.receiver(place.url, place.patches, DeviceState, on_gap="wait") as receiver:
        assert 1 == await receiver.catch_up(20_000)
        assert (25, 0) == (receiver.counts.gaps, receiver.counts.snapshots_asked)
    assert [] == place.read(place.resync)
    async with shell.receiver(place.url, place.patches, DeviceState) as receiver:
        assert 1 == await receiver.catch_up(20_000)
        await asked(receiver)
        assert 25 == receiver.counts.gaps
        place.publish(made.snapshot(), headers=((RESYNC_FOR, receiver.requester.encode()),))
        assert [30] == [change.revision for change in await changes(receiver, 1)]
    assert 1 == len(place.read(place.resync))


async def test_an_unknown_key_is_answered_by_its_delete(place: Place, shell: Shell) -> None:
    """What the owner does not know is gone: the receiver no longer waits for it."""
    place.create()
    made = History(DeviceState, b"d1", epoch=5)
    made.add(device("1"))
    place.publish(made.add(device("2")))
    owner = Owner(place, DeviceState)
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        await asked(receiver)
        assert 1 == owner.work()
        (gone,) = await changes(receiver, 1)
        assert (Kind.DELETE, None, 0) == (gone.kind, gone.message, receiver.stale_keys)


async def test_a_gap_that_nobody_can_be_asked_about(place: Place, shell: Shell) -> None:
    """Without a topic for requests the receiver says so, rather than wait for ever."""
    place.create(place.patches)
    made = History(DeviceState, b"d1")
    made.add(device("1"))
    place.publish(made.add(device("2")))
    async with shell.receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        with pytest.raises(TransportError, match=f"on {place.resync}: topic .* does not exist .* on_gap = 'wait'"):
            await receiver.next_change(20_000)


async def test_a_missing_topic_is_waited_for(place: Place, shell: Shell) -> None:
    """As long as allowed, then it is named."""
    with pytest.raises(UnknownTopicError, match=f"topic {place.patches} does not exist"):
        async with shell.receiver(place.url, place.patches, DeviceState, topic_timeout_ms=100):
            pass
    creating = asyncio.get_running_loop().run_in_executor(None, place.create)
    async with shell.receiver(place.url, place.patches, DeviceState, topic_timeout_ms=20_000) as receiver:
        assert 0 == await receiver.catch_up(20_000)
    await creating


async def test_a_receiver_is_used_inside_with(place: Place, shell: Shell) -> None:
    """Before and after it, a call says so."""
    place.create()
    receiver = shell.receiver(place.url, place.patches, DeviceState)
    for _ in range(2):
        with pytest.raises(TransportError, match=f"the receiver of {place.patches} is not open"):
            await receiver.next_change(100)
        with contextlib.suppress(TransportError):
            async with receiver:
                pass


async def test_a_cancelled_wait_loses_nothing(place: Place) -> None:
    """However often the wait for a change is cut short, each change arrives once, in order."""
    place.create()
    made = History(DeviceState, b"d1")
    async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
        found: list[int] = []
        for number in range(1, 41):
            place.publish(made.add(device(str(number))))
            while len(found) < number - 5:
                with contextlib.suppress(TimeoutError):
                    found.append((await asyncio.wait_for(anext(receiver), 0.003)).revision)
        async for change in receiver:
            found.append(change.revision)
            if change.revision == 40:
                break

        assert list(range(1, 41)) == found
        assert (40, 0) == (receiver.counts.applied, receiver.counts.duplicates)


async def test_leaving_in_the_middle_of_a_wait(place: Place) -> None:
    """A task that is cancelled while it waits closes its receiver and ends."""
    place.create()
    entered = asyncio.Event()

    async def follow() -> None:
        async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
            entered.set()
            async for _ in receiver:
                pass

    following = asyncio.create_task(follow())
    await asyncio.wait_for(entered.wait(), 20)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(following, 20)


async def test_members_of_a_group_share_the_partitions(kafka: Broker) -> None:
    """Two receivers of one group hold different keys, together all; when one leaves the other takes its part over."""
    with Place(kafka.url, "shared-devices") as place:
        place.create()
        owner = Owner(place, DeviceState)
        keys = [f"d{number}" for number in range(20)]
        async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as one:
            async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as two:
                for _ in range(200):
                    await one.next_change(100)
                    await two.next_change(100)
                    if len(one._follower.places.assignment) == len(two._follower.places.assignment) == 1:
                        break
                for key in keys:
                    place.send(key, device("1", key))
                owner.work()
                await one.catch_up(20_000)
                await two.catch_up(20_000)
                parts = [set(dict(receiver.states())) for receiver in (one, two)]
                assert ({key.encode() for key in keys}, set()) == (parts[0] | parts[1], parts[0] & parts[1])
                assert all(parts)
            for _ in range(200):
                await one.next_change(100)
                if len(one._follower.places.assignment) == 2:
                    break
            for key in keys:
                place.send(key, device("2", key))
            owner.work()
            while one.stale_keys or len(one) < len(keys):
                await one.catch_up(20_000)
                await one.next_change(50)
                owner.work()
            assert {key.encode(): device("2", key) for key in keys} == dict(one.states())


async def test_only_committed_patches_are_read(kafka: Broker) -> None:
    """Patches of an open transaction wait for its end; those of an aborted one are never seen, and no gap is either."""
    with Place(kafka.url, "committed-devices") as place:
        place.create(partitions=1)
        made = History(DeviceState, b"d1")
        owner = KafkaProducer({"bootstrap.servers": kafka.bootstrap, "transactional.id": place.source}, {})
        owner.init_transactions(30_000)

        def produce(patch: Patch) -> None:
            records = Records()
            records.append(patch.key, patch.SerializeToString())
            owner.produce(place.patches, 0, records)
            owner.flush(10_000)

        async with Receiver(place.url, place.patches, DeviceState, group=GROUP) as receiver:
            owner.begin()
            produce(made.add(device("1")))
            assert 0 == await receiver.catch_up(20_000)
            assert await receiver.next_change(300) is None
            owner.commit(10_000)
            assert [1] == [change.revision for change in await changes(receiver, 1)]
            owner.begin()
            produce(made.add(device("never")))
            owner.abort(10_000)
            made.patches.pop()
            made.states.pop()
            owner.begin()
            produce(made.add(device("2")))
            owner.commit(10_000)
            assert [(2, device("2"))] == [(change.revision, change.message) for change in await changes(receiver, 1)]
            assert 0 == receiver.counts.gaps + receiver.counts.duplicates
            assert 0 == await receiver.catch_up(20_000)
        owner.close()
