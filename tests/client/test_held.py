"""What a receiver holds: right under loss, repetition and reordering, and never wrong in silence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.client.change import Kind
from streams.client.held import RESYNC_FOR, HeldStates
from streams.client.resync import Asks
from streams.client.rows import DELETED_KEYS_MAX
from streams.demo.v1.device_pb2 import DeviceState, Geo
from streams.errors import PatchError, SchemaError
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync
from tests.client.devices import newer_device, renamed_device
from tests.client.place import EPOCH, History

ME = "billing"
KEYS = [b"a", b"b"]

values = st.builds(
    DeviceState,
    status=st.sampled_from(["", "up", "down"]),
    battery=st.sampled_from([0.0, 0.5]),
    tags=st.lists(st.sampled_from(["x", "y"]), max_size=2),
    labels=st.dictionaries(st.sampled_from(["m", "n"]), st.sampled_from(["", "1"]), max_size=2),
    geo=st.none() | st.builds(Geo, lat=st.sampled_from([0.0, 1.0]), lon=st.sampled_from([0.0, 2.0])),
)
lives = st.lists(st.none() | values, min_size=1, max_size=12)


def held(asks: Asks | None = None) -> HeldStates[DeviceState]:
    """A receiver's state, empty."""
    return HeldStates(DeviceState, requester=ME, asks=asks)


def history(key: bytes, life: list[DeviceState | None]) -> History:
    """The patches of an entity that is as in `life`, one after the other; what changes nothing gives none."""
    made = History(DeviceState, key)
    for state in life:
        if state is not None:
            state.device_id = key.decode()
        canonical = None if state is None else state.SerializeToString(deterministic=True)
        if canonical != made.states[-1]:
            made.add(state)
    return made


def take(states: HeldStates[DeviceState], patch: Patch, offset: int = 0, requester: str = "") -> object:
    """Gives one patch to a receiver."""
    headers = [(RESYNC_FOR, requester.encode())] if requester else []
    return states.take(0, offset, patch.key, patch.SerializeToString(), headers)


def total(states: HeldStates[DeviceState]) -> int:
    """Records counted, each exactly once."""
    counts = states.counts
    return (
        counts.applied + counts.duplicates + counts.foreign + counts.gaps + counts.stale + counts.refused + counts.empty
    )


@given(st.lists(lives, min_size=2, max_size=2), st.data())
def test_loss_repetition_and_reordering_end_in_the_right_state(
    both: list[list[DeviceState | None]], data: st.DataObject
) -> None:
    """At every moment each key holds a state it really had, at its revision; answers to what was asked mend the rest.

    The network loses, repeats and reorders at will. Afterwards the owner answers whatever was asked, and one more patch
    per key arrives: then every key is right.
    """
    histories = {key: history(key, life) for key, life in zip(KEYS, both, strict=True)}
    sent = [patch for made in histories.values() for patch in made.patches]
    arrived = data.draw(st.lists(st.sampled_from(sent), max_size=30) if sent else st.just([]))
    asks = Asks()
    states = held(asks)

    for offset, patch in enumerate(arrived):
        take(states, patch, offset)
        for key, made in histories.items():
            revision = states.revision(key)
            assert made.states[revision[1] if revision else 0] == states.state(key)

    for key, made in histories.items():
        last = DeviceState(device_id=key.decode(), status="last")
        take(states, made.add(last))
    for ask in asks.due(0):
        take(states, histories[ask.key].snapshot(), requester=ME)

    assert len(arrived) + len(KEYS) + states.counts.snapshots_asked <= total(states)
    assert 0 == len(asks)
    for key, made in histories.items():
        assert (made.states[-1], False) == (states.state(key), states.is_stale(key))
        assert (EPOCH, len(made.states) - 1) == states.revision(key)


@given(lives)
def test_every_change_tells_what_is_now(life: list[DeviceState | None]) -> None:
    """In order, each patch gives one change with the message after it, its paths and its kind."""
    made, states = history(b"a", life), held()
    for revision, patch in enumerate(made.patches, 1):
        change = states.take(3, revision, patch.key, patch.SerializeToString())

        assert change is not None
        state = made.states[revision]
        assert (None if state is None else DeviceState.FromString(state)) == change.message == states.get(b"a")
        assert (Kind(patch.kind), tuple(patch.mask.paths)) == (change.kind, change.paths)
        assert (EPOCH, revision, 3, revision) == (change.epoch, change.revision, change.partition, change.offset)
    assert dict(states.states()) == ({} if made.states[-1] is None else {b"a": states.get(b"a")})
    assert len(dict(states.states())) == len(states)


def test_origin_of_a_change() -> None:
    """Event, time and trace are handed on; a time that no datetime holds is left out."""
    patch = history(b"a", [DeviceState(status="up")]).patches[0]
    patch.event_id, patch.event_source, patch.traceparent, patch.tracestate = "e1", "/ingest", "00-trace", "acme=1"
    patch.event_time.FromDatetime(datetime(2026, 5, 4, 3, 2, 1, 500_000, UTC))
    change = held().take(0, 0, patch.key, patch.SerializeToString())

    assert change is not None
    assert ("e1", "/ingest", "00-trace") == (change.event_id, change.event_source, change.traceparent)
    assert "acme=1" == change.tracestate
    assert datetime(2026, 5, 4, 3, 2, 1, 500_000, UTC) == change.event_time

    patch.event_time.seconds = 2**62
    change = held().take(0, 0, patch.key, patch.SerializeToString())

    assert change is not None
    assert change.event_time is None


def test_digest_mismatch_keeps_the_proven_state_and_asks() -> None:
    """The result is not held; later deltas wait; the snapshot at the very same revision mends it."""
    made = history(b"a", [DeviceState(status="up"), DeviceState(status="down"), DeviceState(status="late")])
    asks = Asks()
    states = held(asks)
    take(states, made.patches[0])
    wrong = Patch()
    wrong.CopyFrom(made.patches[1])
    wrong.digest ^= 1

    assert take(states, wrong) is None
    assert take(states, made.patches[2]) is None
    assert (1, 1, 1) == (states.counts.digest_failures, states.counts.refused, states.counts.stale)
    assert (made.states[1], True) == (states.state(b"a"), states.is_stale(b"a"))
    (ask,) = asks.due(0)
    assert (b"a", Resync.DIGEST_MISMATCH, EPOCH, 1) == (ask.key, ask.reason, ask.epoch, ask.revision)

    assert take(states, made.snapshot(), requester=ME) is not None
    assert (made.states[-1], False) == (states.state(b"a"), states.is_stale(b"a"))


def test_a_snapshot_proves_itself_too() -> None:
    """One that was damaged on its way is not held, and asked for again."""
    patch = history(b"a", [DeviceState(status="up")]).patches[0]
    patch.data += DeviceState(online=True).SerializeToString()
    asks = Asks()
    states = held(asks)

    assert take(states, patch) is None
    assert (1, None, [b"a"]) == (states.counts.digest_failures, states.get(b"a"), [ask.key for ask in asks.due(0)])


@pytest.mark.parametrize("schema", [0, 12345])
def test_another_descriptors_digest_is_not_checked_after_a_delta(schema: int) -> None:
    """Canonical bytes depend on the descriptor: the digest of an owner with another one says nothing here."""
    made = history(b"a", [DeviceState(status="up"), DeviceState(status="down")])
    states = held()
    for patch in made.patches:
        patch.schema = schema
    made.patches[1].digest ^= 1
    for patch in made.patches:
        take(states, patch)

    assert (2, made.states[-1]) == (states.counts.applied, states.state(b"a"))


def test_a_field_that_the_class_lacks_is_found_by_its_number_and_kept() -> None:
    """A delta of it applies, nothing is asked for, and a later class reads what was kept."""
    newer = newer_device()
    made = History(newer, b"a")
    for color in ("", "red", "blue", ""):
        made.add(newer(device_id="a", color=color))
    asks = Asks()
    states = held(asks)

    changes = [take(states, patch) for patch in made.patches]

    assert [("*",), ("color",), ("color",), ("color",)] == [change.paths for change in changes if change is not None]
    assert (4, 0, 0) == (states.counts.applied, states.counts.refused, len(asks))
    assert made.states[-1] == states.state(b"a")


def test_a_renamed_field_is_found_by_its_number_and_told_under_its_own_name() -> None:
    """A rename costs nothing: no snapshot is asked for, and a change says what this class calls the field."""
    renamed = renamed_device()
    made = History(renamed, b"a")
    made.add(renamed(device_id="a", condition="up"))
    down = renamed(device_id="a", condition="down")
    down.place.latitude = 3
    made.add(down)
    down.place.latitude = 4
    made.add(down)
    asks = Asks()
    states = held(asks)

    changes = [take(states, patch) for patch in made.patches]

    assert [["*"], ["condition", "place"], ["place.latitude"]] == [list(patch.mask.paths) for patch in made.patches]
    assert [("*",), ("status", "geo"), ("geo.lat",)] == [change.paths for change in changes if change is not None]
    assert (3, 0, 0) == (states.counts.applied, states.counts.refused, len(asks))
    assert DeviceState(device_id="a", status="down", geo=Geo(lat=4)) == states.get(b"a")


def test_numbers_that_do_not_fit_the_paths_are_damage() -> None:
    """One number less than paths, or a path without numbers: the key waits for a snapshot, nothing is guessed."""
    newer = newer_device()
    for damage in ("less", "empty"):
        made = History(newer, b"a")
        made.add(newer(device_id="a"))
        made.add(newer(device_id="a", color="red", status="up"))
        asks = Asks()
        states = held(asks)
        take(states, made.patches[0])
        if damage == "less":
            del made.patches[1].numbers[1]
        else:
            made.patches[1].numbers[1].ClearField("numbers")

        assert take(states, made.patches[1]) is None
        assert (1, True) == (states.counts.refused, states.is_stale(b"a"))


def test_a_field_without_a_number_waits_for_a_snapshot_and_keeps_its_bytes() -> None:
    """Of an owner that writes no numbers: the delta makes the key stale, the snapshot's field is kept and survives."""
    newer = newer_device()
    made = History(newer, b"a")
    made.add(newer(device_id="a"))
    made.add(newer(device_id="a", color="red"))
    made.patches[1].ClearField("numbers")
    asks = Asks()
    states = held(asks)
    take(states, made.patches[0])

    assert take(states, made.patches[1]) is None
    assert (1, True) == (states.counts.unknown_paths, states.is_stale(b"a"))
    assert [Resync.UNKNOWN_FIELD] == [ask.reason for ask in asks.due(0)]

    assert take(states, made.snapshot(), requester=ME) is not None
    assert newer.FromString(states.state(b"a") or b"") == newer(device_id="a", color="red")

    assert take(states, made.add(newer(device_id="a", color="red", online=True))) is not None
    assert newer.FromString(states.state(b"a") or b"") == newer(device_id="a", color="red", online=True)
    assert states.get(b"a") is not None
    assert not states.is_stale(b"a")


def test_damaged_records_are_counted_and_asked_about() -> None:
    """A value that is no patch, a delta whose data is none, a record without value: no change, no crash."""
    made = history(b"a", [DeviceState(status="up"), DeviceState(status="down")])
    asks = Asks()
    states = held(asks)
    take(states, made.patches[0])

    assert states.take(0, 1, b"a", b"\xff") is None
    assert [(b"a", Resync.GAP)] == [(ask.key, ask.reason) for ask in asks.due(0)]
    made.patches[1].data = b"\xff"
    assert take(states, made.patches[1]) is None
    assert states.take(0, 3, b"a", None) is None
    assert (2, 2, 1) == (states.counts.refused, states.counts.damaged, states.counts.empty)
    assert (made.states[1], True) == (states.state(b"a"), states.is_stale(b"a"))


def test_a_foreign_snapshot_helps_or_is_skipped() -> None:
    """What another receiver asked for is applied where it is news, counted apart where it is none."""
    made = history(b"a", [DeviceState(status="up"), DeviceState(status="down")])
    states = held()
    take(states, made.patches[0])

    assert take(states, made.snapshot(), requester="other") is not None
    assert take(states, made.snapshot(), requester="other") is None
    assert take(states, made.snapshot(), requester=ME) is None
    assert (1, 1) == (states.counts.foreign, states.counts.duplicates)


def test_waiting_without_asking() -> None:
    """Without requests a gap is counted, and mended by what others ask for."""
    made = history(b"a", [DeviceState(status="up"), DeviceState(status="down"), DeviceState(status="late")])
    states = held()
    take(states, made.patches[0])
    take(states, made.patches[2])

    assert (1, made.states[1]) == (states.counts.gaps, states.state(b"a"))
    assert take(states, made.snapshot(), requester="other") is not None


def test_a_key_that_comes_back_has_a_new_epoch() -> None:
    """After its tombstone went the owner starts again, above everything held."""
    old = history(b"a", [DeviceState(status="up"), None])
    new = History(DeviceState, b"a", EPOCH + 1)
    new.add(DeviceState(device_id="a", status="again"))
    states = held()
    for patch in (*old.patches, *new.patches):
        assert take(states, patch) is not None
    assert take(states, old.patches[0]) is None
    assert new.states[-1] == states.state(b"a")


def test_deleted_keys_are_forgotten_in_the_end() -> None:
    """So many are remembered and no more; the oldest goes first."""
    states = held()
    for number in range(DELETED_KEYS_MAX + 1):
        patch = Patch(key=b"%d" % number, kind=Patch.DELETE, epoch=1, revision=2, base_revision=1)
        states.take(0, number, patch.key, patch.SerializeToString())

    assert (None, (1, 2)) == (states.revision(b"0"), states.revision(b"1"))
    assert (0, []) == (len(states), list(states.states()))


def test_a_partition_that_moved_is_forgotten() -> None:
    """Its keys are another receiver's; the others stay."""
    states = held(Asks())
    for partition, key in enumerate(KEYS):
        patch = history(key, [DeviceState(status="up")]).patches[0]
        states.take(partition, 0, key, patch.SerializeToString())
    states.drop(0)

    assert (None, 1) == (states.get(b"a"), len(states))
    assert states.get(b"b") is not None


def test_a_topic_of_another_type_stops_the_receiver() -> None:
    """Both types are named; nothing is skipped in silence."""
    patch = History(Geo, b"a").add(Geo(lat=1.0))
    with pytest.raises(SchemaError, match=r"the patch is of streams\.demo\.v1\.Geo, expected streams\.demo\.v1\.Dev"):
        take(held(), patch)


def test_a_newer_releases_kind_stops_the_receiver() -> None:
    """An unknown kind is no patch to be skipped."""
    patch = history(b"a", [DeviceState(status="up")]).patches[0]
    patch.kind = 9  # type: ignore[assignment]
    with pytest.raises(PatchError, match="patch kind is 9"):
        take(held(), patch)
