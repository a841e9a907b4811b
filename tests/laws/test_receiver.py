"""Laws of the receiver's rule: whatever the way does to patches, the state held is one that the owner had."""

from __future__ import annotations

from dataclasses import dataclass, field

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams.kernel import reference
from streams.kernel.patch import apply_patch
from streams.kernel.rule import Held, Verdict, decide
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import deterministic, histories, law
from tests.protos import message_class

NAME = "zoo.three.Everything"
LENGTH = 7


@dataclass
class Owner:
    """The history of one key: its state at each (epoch, revision), None where it was deleted, and the patches to it."""

    states: dict[tuple[int, int], bytes | None] = field(default_factory=dict)
    patches: list[Patch] = field(default_factory=list)

    def add(self, state: bytes | None, *, new_epoch: bool = False) -> None:
        """The next state; a new epoch is what a forgotten tombstone leaves behind."""
        epoch, revision = next(reversed(self.states), (10, 0))
        before = self.states.get((epoch, revision))
        if new_epoch:
            epoch, revision, before = epoch + 1, 0, None
        head = {"epoch": epoch, "revision": revision + 1, "base_revision": revision}
        if state is None:
            self.patches.append(Patch(kind=Patch.DELETE, **head))
        elif before is None:
            self.patches.append(reference.snapshot(message_class(NAME), state, **{**head, "base_revision": 0}))
        else:
            self.patches.append(reference.delta(message_class(NAME), before, state, **head))
        self.states[epoch, revision + 1] = state

    def resync(self) -> Patch:
        """The answer to a request: the current revision, absolute."""
        (epoch, revision), state = next(reversed(self.states.items()))
        if state is None:
            return Patch(kind=Patch.DELETE, epoch=epoch, revision=revision, base_revision=revision - 1)
        return reference.snapshot(message_class(NAME), state, epoch=epoch, revision=revision)


@dataclass
class Follower:
    """A receiver of one key: the rule, and stock calls."""

    held: Held | None = None
    state: bytes | None = None
    missed: tuple[int, int] = (0, 0)
    """The highest epoch and revision that could not be applied: a request stands until this is reached."""

    def take(self, patch: Patch) -> None:
        """Do with a patch what the rule says."""
        verdict = decide(self.held, patch)
        if verdict is Verdict.APPLY:
            message = message_class(NAME).FromString(self.state or b"")
            after = apply_patch(message, patch)
            self.state = None if after is None else canonical(after)
            intact = self.state is None or reference.digest(self.state) == patch.digest
            self.held = Held(patch.epoch, patch.revision, intact)
        elif verdict is not Verdict.DUPLICATE:
            self.missed = max(self.missed, (patch.epoch, patch.revision))

    @property
    def asked(self) -> bool:
        """Whether a snapshot is wanted."""
        if self.held is None:
            return self.missed > (0, 0)
        return not self.held.intact or self.missed > (self.held.epoch, self.held.revision)


def canonical(message: Message) -> bytes:
    """The canonical form of a message."""
    found = reference.canonical(message_class(NAME), deterministic(message))
    assert found is not None
    return found


@st.composite
def owners(draw: st.DrawFn) -> Owner:
    """A history with deletions, revivals and a change of epoch."""
    owner = Owner()
    for message in draw(histories(NAME, LENGTH)):
        deleted = bool(owner.states) and draw(st.integers(0, 5)) == 0
        owner.add(
            None if deleted else canonical(message), new_epoch=bool(owner.states) and draw(st.integers(0, 9)) == 0
        )
    return owner


def composed(owner: Owner, first: int, last: int) -> Patch:
    """The patches from one index to another as one, as a queue that waits for a sick receiver conflates them."""
    patch = owner.patches[first]
    for second in owner.patches[first + 1 : last + 1]:
        if second.kind != Patch.SNAPSHOT and second.epoch != patch.epoch:
            break
        patch = reference.compose(message_class(NAME), patch, second)
    return patch


@law
@given(owners(), st.lists(st.tuples(st.integers(0, LENGTH - 1), st.integers(0, 3)), max_size=12))
def test_loss_repetition_reordering(owner: Owner, deliveries: list[tuple[int, int]]) -> None:
    """Any patches, composed or not, in any order: what is held is what the owner had then, or a gap is known.

    Deliveries name the index of a patch and how many after it are composed into it.
    """
    follower = Follower()
    newest = (0, 0)
    for first, more in deliveries:
        patch = composed(owner, first, min(first + more, LENGTH - 1))
        newest = max(newest, (patch.epoch, patch.revision))
        follower.take(patch)
        held = follower.held
        if held is not None:
            assert held.intact
            assert follower.state == owner.states[held.epoch, held.revision]
        assert follower.asked or (held is not None and (held.epoch, held.revision) == newest)
    if follower.asked:
        follower.take(owner.resync())
        latest, state = next(reversed(owner.states.items()))
        assert follower.held == Held(*latest)
        assert follower.state == state


@law
@given(owners())
def test_everything_in_order_needs_no_snapshot(owner: Owner) -> None:
    """Without loss every patch is applied, whatever comes twice, and nothing is asked for."""
    follower = Follower()
    for patch in owner.patches:
        follower.take(patch)
        assert follower.held == Held(patch.epoch, patch.revision)
        follower.take(patch)
    for patch in owner.patches:
        follower.take(patch)
    assert not follower.asked
    latest, state = next(reversed(owner.states.items()))
    assert follower.held == Held(*latest)
    assert follower.state == state


@law
@given(owners(), st.integers(1, LENGTH - 1))
def test_a_damaged_state_is_found_and_mended(owner: Owner, at: int) -> None:
    """A held state that rots is found by the next digest, no delta is applied to it, and a snapshot mends it."""
    follower = Follower()
    for patch in owner.patches[:at]:
        follower.take(patch)
    if follower.state is None:
        return
    rotten = message_class(NAME).FromString(follower.state)
    rotten.far = rotten.far ^ 1
    follower.state = canonical(rotten)
    for patch in owner.patches[at:]:
        follower.take(patch)
    latest, state = next(reversed(owner.states.items()))
    if follower.state == state and not follower.asked:
        return
    assert follower.asked
    follower.take(owner.resync())
    assert follower.held == Held(*latest)
    assert follower.state == state
