"""Conflating: fewer patches that lead to the same state, and never a silent hole between two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery.conflate import Conflater, Head, fold
from streams.kernel.rule import DELETE, DELTA, SNAPSHOT
from streams.v1.patch_pb2 import Patch
from tests.delivery.owner import DAMAGED, SCHEMA, Owner, Receiver

KEY = b"d1"
CONFLATER = Conflater(SCHEMA.native)

changes = st.lists(
    st.fixed_dictionaries(
        {"uptime_s": st.integers(1, 9)},
        optional={"status": st.sampled_from(["", "up"]), "cpu": st.sampled_from([0.0, 0.5])},
    )
    | st.none(),
    min_size=1,
    max_size=8,
)


def history(owner: Owner, steps: list[dict[str, object] | None]) -> list[bytes]:
    """Patches of one device; None deletes it, where it is there."""
    patches = [owner.change(KEY, uptime_s=100)]
    for step in steps:
        if step is not None:
            patches.append(owner.change(KEY, **step))
        elif owner.states[KEY] is not None:
            patches.append(owner.delete(KEY))
    return patches


def folded(patches: list[bytes]) -> tuple[list[bytes], list[int]] | None:
    """As lanes do it."""
    return fold(CONFLATER.compose, CONFLATER.head, patches)


def test_head() -> None:
    """What a patch says of its place, and nothing for what is none."""
    owner = Owner()
    heads = [CONFLATER.head(patch) for patch in history(owner, [{"uptime_s": 1}, None])]
    with pytest.raises(ValueError, match="2 bytes are no streams"):
        CONFLATER.head(DAMAGED)

    assert [Head(SNAPSHOT, 1_000, 1, 0), Head(DELTA, 1_000, 2, 1), Head(DELETE, 1_000, 3, 2)] == heads


def test_two_become_one() -> None:
    """A delta after a delta covers both, from the first one's base."""
    owner = Owner()
    _, first, second = history(owner, [{"uptime_s": 1}, {"status": "up", "uptime_s": 1}])
    composed = CONFLATER.compose(first, second)
    assert composed is not None
    read = Patch.FromString(composed)

    assert (1, 3, ["status", "uptime_s"]) == (read.base_revision, read.revision, sorted(read.mask.paths))


def test_a_hole_is_seen() -> None:
    """With the middle one missing there is no composition: only a snapshot helps."""
    owner = Owner()
    first, _, third = history(owner, [{"uptime_s": 1}, {"uptime_s": 2}])

    assert (None, None) == (CONFLATER.compose(first, third), folded([first, third]))


def test_a_snapshot_closes_a_hole() -> None:
    """What is absolute needs nothing before it."""
    owner = Owner()
    first, _, third = history(owner, [{"uptime_s": 1}, {"uptime_s": 2}])
    answer = owner.answer(KEY)

    assert ([answer], [0]) == folded([first, answer])
    assert folded([first, third, answer]) is None, "a hole in the middle is not looked behind"


def test_what_repeats_adds_nothing() -> None:
    """A patch at or below the one before it was written twice."""
    owner = Owner()
    first, second = history(owner, [{"uptime_s": 1}])
    folded_all = folded([first, second, second, first])

    assert ([CONFLATER.compose(first, second)], [0]) == folded_all


def test_what_cannot_be_read_stays() -> None:
    """A damaged patch is the receiver's to refuse: it is neither dropped nor a reason to drop others."""
    owner = Owner()
    first, second = history(owner, [{"uptime_s": 1}])

    assert ([first, DAMAGED, second], [0, 1, 2]) == folded([first, DAMAGED, second])


def test_unknown_fields_stay() -> None:
    """Two that follow each other in a descriptor newer than ours stay two: nothing is lost."""
    owner = Owner()
    first, second, third = history(owner, [{"uptime_s": 1}, {"uptime_s": 2}])
    newer = Patch.FromString(second)
    newer.mask.paths.append("of_tomorrow")

    assert ([first, newer.SerializeToString(), third], [0, 1, 2]) == folded([first, newer.SerializeToString(), third])


def test_a_gap_of_epochs_is_seen() -> None:
    """A delta of another epoch does not follow."""
    owner = Owner()
    first, second = history(owner, [{"uptime_s": 1}])
    other = Patch.FromString(second)
    other.epoch += 1

    assert folded([first, other.SerializeToString()]) is None


@given(changes)
def test_folding_leads_to_the_same_state(steps: list[dict[str, object] | None]) -> None:
    """Any history becomes one patch, and a receiver that gets it holds what a plain replay gives."""
    owner, receiver = Owner(), Receiver()
    patches = history(owner, steps)
    result = folded(patches)

    assert result is not None
    assert [0] == result[1]
    assert receiver.apply(KEY, result[0])
    assert owner.states[KEY] == receiver.held.state(KEY)
    assert owner.reached[KEY] == receiver.reached(KEY)
