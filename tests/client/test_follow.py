"""The order of a receiver's steps: what may be committed when, and what is done about gaps first."""

from __future__ import annotations

import pytest

from streams._native import Records
from streams.client.beginning import Bounds
from streams.client.broker import Run
from streams.client.follow import COMMIT_INTERVAL_MS, FETCH_RECORDS_MAX, SILENT_RECORDS_MAX, Follower
from streams.client.resync import WANTED_KEYS_MAX
from streams.client.step import Result
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError
from streams.v1.patch_pb2 import Patch
from tests.client.place import History

MINE = frozenset({0, 1})


def follower(**more: object) -> Follower[DeviceState]:
    """A member of a group."""
    arguments = {
        "group": "billing",
        "start": "group",
        "keeps": False,
        "on_gap": "snapshot",
        "resync_topic": None,
        "snapshots_per_second_max": 500,
    }
    made: Follower[DeviceState] = Follower("devices.patches", DeviceState, **{**arguments, **more})  # type: ignore[arg-type]
    made.absorb(Result(assignment=MINE, bounds=dict.fromkeys(MINE, Bounds(0, 1_000_000, position=0))), 0)
    return made


def run(partition: int, *patches: Patch, first: int = 0, end: int = -1) -> Run:
    """Patches as they were fetched."""
    records = Records()
    for offset, patch in enumerate(patches, first):
        records.append(patch.key, patch.SerializeToString(), (), 0, offset)
    return Run(partition, records, end)


def life(key: bytes, *states: str) -> History:
    """An entity's patches."""
    made = History(DeviceState, key)
    for status in states:
        made.add(DeviceState(device_id=key.decode(), status=status))
    return made


def commits(following: Follower[DeviceState], now_ms: int = 10 * COMMIT_INTERVAL_MS) -> dict[int, int]:
    """What the next step would commit."""
    return following.plan(now_ms, 100).commit


def test_a_change_is_taken_when_the_next_one_is_asked_for() -> None:
    """A crash while a change is worked on hands it out again."""
    following, made = follower(), life(b"a", "up", "down")
    following.absorb(Result(runs=[run(0, *made.patches)], assignment=MINE), 0)

    assert following.next_change() is not None
    assert {} == following.settle().commit
    assert following.next_change() is not None
    assert {0: 1} == following.settle().commit
    assert following.next_change() is None
    assert {0: 2} == following.settle().commit


def test_commits_are_repeated_until_they_worked() -> None:
    """Only what the broker confirmed is not sent again; and not more often than the interval."""
    following, made = follower(), life(b"a", "up")
    following.absorb(Result(runs=[run(0, *made.patches)], assignment=MINE), 0)
    while following.next_change() is not None:
        pass

    assert [{0: 1}, {}, {0: 1}] == [commits(following, now_ms) for now_ms in (0, 1, COMMIT_INTERVAL_MS)]
    following.absorb(Result(committed={0: 1}), 0)
    assert {} == commits(following)


@pytest.mark.parametrize("arguments", [{"group": None}, {"start": "earliest"}])
def test_a_reader_of_everything_commits_nothing(arguments: dict[str, object]) -> None:
    """Without a group, and from the earliest on, the log is read whole each time."""
    following = follower(**arguments)
    following.absorb(Result(runs=[run(0, *life(b"a", "up").patches)], assignment=MINE), 0)
    while following.next_change() is not None:
        pass

    assert {} == following.settle().commit


def test_offsets_wait_for_requests() -> None:
    """No offset above a gap is committed before the request for its snapshot is in the log."""
    following, made = follower(), life(b"a", "up", "down", "late")
    following.absorb(Result(runs=[run(0, made.patches[0], made.patches[2], first=10)], assignment=MINE), 0)
    while following.next_change() is not None:
        pass
    step = following.plan(0, 100)

    assert {0: 11} == step.commit
    following.absorb(Result(asked=step.asks), 0)
    assert {0: 12} == following.settle().commit
    assert (1, 1) == (following.stale_keys, following.held.counts.snapshots_asked)


def test_reading_pauses_while_requests_wait() -> None:
    """With too many gaps not asked for yet, nothing more is fetched."""
    following = follower()
    gaps = [life(b"%d" % number, "up", "down").patches[1] for number in range(WANTED_KEYS_MAX)]
    following.absorb(Result(runs=[run(0, *gaps)], assignment=MINE), 0)
    while following.has_records:
        assert following.next_change() is None
    step = following.plan(0, 100)

    assert (0, 500) == (step.records_max, len(step.asks))
    following.absorb(Result(asked=step.asks), 0)
    assert FETCH_RECORDS_MAX == following.plan(0, 100).records_max


def test_a_long_run_of_duplicates_lets_others_breathe() -> None:
    """A shell gets control back in the middle of records that change nothing."""
    following, made = follower(), life(b"a", "up")
    again = made.patches * (SILENT_RECORDS_MAX + 1)
    following.absorb(Result(runs=[run(0, *made.patches, *again)], assignment=MINE), 0)

    assert following.next_change() is not None
    assert (None, True) == (following.next_change(), following.has_records)
    assert (None, False) == (following.next_change(), following.has_records)


def test_a_partition_that_moved_is_let_go() -> None:
    """Its records, state and offsets are the other member's; those of the others stay."""
    following = follower()
    runs = [run(0, *life(b"a", "up").patches), run(1, *life(b"b", "up", "down").patches)]
    following.absorb(Result(runs=runs, assignment=MINE), 0)
    assert following.next_change() is not None
    following.absorb(Result(assignment=frozenset({1})), 0)
    changes = [following.next_change(), following.next_change(), following.next_change()]

    assert [b"b", b"b", None] == [change and change.key for change in changes]
    assert ({1: 2}, None) == (following.settle().commit, following.held.get(b"a"))


def test_records_fetched_for_another_are_left_to_it() -> None:
    """What was fetched just before a partition moved is not applied."""
    following = follower()
    following.absorb(Result(runs=[run(5, *life(b"a", "up").patches)], assignment=MINE), 0)

    assert (None, False) == (following.next_change(), following.has_records)


def test_the_end_is_reached_when_its_records_are_worked_through() -> None:
    """An end that the broker reports counts after the records before it, also where the last offset is no record."""
    following = follower()
    ends = {0: 3, 1: 7}
    following.absorb(Result(runs=[run(0, *life(b"a", "up").patches, end=3), run(1, end=7)], assignment=MINE), 0)

    assert not following.has_reached(ends)
    assert following.next_change() is not None
    assert following.next_change() is None
    assert following.has_reached(ends)


@pytest.mark.parametrize(
    ("topic", "arguments", "said"),
    [
        ("devices.patches", {"start": "latest"}, "group or earliest"),
        ("devices.patches", {"on_gap": "ignore"}, "snapshot or wait"),
        ("devices.patches", {"start": "earliest", "keeps": True}, "datadir"),
        ("changes", {}, r"name the owner's \{source\}.resync as resync_topic"),
    ],
)
def test_settings_that_do_not_fit(topic: str, arguments: dict[str, object], said: str) -> None:
    """Each finding names what came and what was wanted."""
    given = {
        "group": None, "start": "group", "keeps": False, "on_gap": "snapshot", "resync_topic": None, **arguments
    }  # fmt: skip
    with pytest.raises(SettingsError, match=said):
        Follower(topic, DeviceState, snapshots_per_second_max=1, **given)  # type: ignore[arg-type]


def test_topic_of_requests() -> None:
    """It is the source's, by name, or as given."""
    assert "devices.resync" == follower().resync_topic
    assert "other" == follower(resync_topic="other").resync_topic
