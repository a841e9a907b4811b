"""Owners and receivers with different descriptors, over real logs: a rename or a new field costs no snapshot."""

from __future__ import annotations

from typing import Any

import pytest

from streams.client import Receiver
from streams.client.applying import Applier, Refusal
from streams.demo.v1.device_pb2 import DeviceState
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.client.devices import newer_device, renamed_device
from tests.client.place import History, Owner, Place

CHANGES = 20


async def test_nobody_asks_because_of_a_name(place: Place) -> None:
    """The case that was found: 40 deltas of a field that one receiver lacks and another has under another name.

    All three hold the owner's state at the end, each of what it knows; the requests' topic stays empty.
    """
    newer = newer_device()
    states = [newer(device_id="d1", model="x" * 500, status=f"s{at}", color=f"c{at}") for at in range(CHANGES)]
    place.create(partitions=1)
    place.send("d1", *states)
    assert CHANGES == Owner(place, newer, partitions=1).work()

    for message_type, name in ((DeviceState, "status"), (renamed_device(), "condition"), (newer, "color")):
        async with Receiver(place.url, place.patches, message_type, group=f"group-{name}") as receiver:
            changes: list[Any] = [await receiver.next_change(20_000) for _ in range(CHANGES)]
            assert name in changes[-1].paths
            assert states[-1] == newer.FromString(receiver.bytes("d1") or b"")
            assert (CHANGES, 0, 0, 0) == (
                receiver.counts.applied, receiver.counts.refused, receiver.counts.unknown_paths,
                receiver.counts.snapshots_asked,
            )  # fmt: skip
    assert [] == place.read(place.resync)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda patch: patch.numbers.pop(), Resync.GAP),
        (lambda patch: patch.ClearField("numbers"), Resync.UNKNOWN_FIELD),
        (lambda patch: patch.numbers[0].numbers.extend([1]), Resync.UNKNOWN_FIELD),
    ],
    ids=["fewer numbers than paths", "no numbers", "through a field that is text here"],
)
def test_what_cannot_be_followed_is_refused_with_its_reason(spoil: Any, reason: Resync.Reason) -> None:
    """Damage is a gap; a path that leads nowhere here is an unknown field."""
    newer = newer_device()
    made = History(newer, b"a")
    made.add(newer(device_id="a"))
    made.add(newer(device_id="a", status="up", color="red"))
    patch = Patch.FromString(made.patches[1].SerializeToString())
    spoil(patch)

    assert Refusal(reason) == Applier(DeviceState).after(made.states[1], patch)
