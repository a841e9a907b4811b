"""Laws of descriptors that differ: whoever knows less or says it otherwise loses nothing, and asks for nothing."""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams._native import compose_patches
from streams.client.held import HeldStates
from streams.kernel.patch import apply_patch
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import TYPES, deterministic, histories, law
from tests.laws.variants import emitted, schema_for, variant
from tests.protos import message_class

seeds = st.integers(0, 11)
chains = st.sampled_from([*TYPES, "zoo.two.Old"]).flatmap(lambda name: st.tuples(st.just(name), histories(name, 5)))


def seen_by(reader: type[Message], state: bytes) -> bytes:
    """What a class that knows everything makes of bytes that were held; bit for bit."""
    return deterministic(reader.FromString(state))


@law
@given(chains, seeds)
def test_a_receiver_with_another_descriptor_applies_every_delta(chain: tuple[str, list[Message]], seed: int) -> None:
    """Fields renamed or missing, enum values missing: nothing is refused, and all that came is still there."""
    name, history = chain
    full, own = message_class(name), variant(name, seed)
    patches, letters = emitted(full, [deterministic(message) for message in history])
    states = HeldStates(own, requester="r", asks=None)

    for offset, patch in enumerate(patches):
        assert states.take(0, offset, b"k", patch) is not None
    assert (len(patches), 0, 0) == (states.counts.applied, states.counts.refused, letters)
    wanted = schema_for(own).canonicalise(schema_for(full).canonicalise(deterministic(history[-1])) or b"")
    assert seen_by(full, wanted or b"") == seen_by(full, states.state(b"k") or b"")


@law
@given(chains, seeds)
def test_an_owner_with_another_descriptor_never_clears_what_it_does_not_know(
    chain: tuple[str, list[Message]], seed: int
) -> None:
    """A worker that lacks fields and enum values, between producers and receivers that know them all.

    Stock calls, the product's receiver and a replay of the worker's states agree on everything that the receivers know.
    """
    name, history = chain
    full, owner = message_class(name), variant(name, seed, rename=False)
    events = [deterministic(message) for message in history]
    patches, letters = emitted(owner, events)
    states = HeldStates(full, requester="r", asks=None)
    stock: Message | None = full()

    for offset, patch in enumerate(patches):
        assert states.take(0, offset, b"k", patch) is not None
        stock = apply_patch(stock if stock is not None else full(), Patch.FromString(patch))
    wanted = schema_for(owner).canonicalise(events[-1])
    assert letters == 0
    assert seen_by(full, wanted or b"") == seen_by(full, states.state(b"k") or b"")
    assert stock is not None
    assert seen_by(full, wanted or b"") == deterministic(stock)


@law
@given(chains, seeds)
def test_a_conflater_with_another_descriptor_composes_right_or_not_at_all(
    chain: tuple[str, list[Message]], seed: int
) -> None:
    """What a delivery agent with an older or renaming descriptor composes is what the owner would have written."""
    name, history = chain
    full, between = message_class(name), schema_for(variant(name, seed)).native
    patches, _ = emitted(full, [deterministic(message) for message in history])
    kinds = [Patch.FromString(patch).kind for patch in patches]
    for first in range(1, len(patches) - 1):
        if kinds[first] != Patch.DELTA or kinds[first + 1] != Patch.DELTA:
            continue
        try:
            composed = compose_patches(between, patches[first], patches[first + 1])
        except ValueError:
            continue  # a message that the first one names whole, and the second one goes into
        assert composed == compose_patches(schema_for(full).native, patches[first], patches[first + 1])


def test_values_that_a_workers_enum_lacks_are_not_cleared() -> None:
    """The case that was found: [1, 99] becomes [1, 99, 3] behind a worker that knows 1, 2 and 3, at both levels."""
    full, owner = message_class("zoo.two.Newer"), message_class("zoo.two.Older")
    events = [full(pad="x" * 200, many=many, packed=many) for many in ([1, 99], [1, 99, 3], [99], [99, 2], [2])]
    for event in events:
        event.inner.many.extend(event.many)
        event.inner.packed.extend(event.packed)
    patches, letters = emitted(owner, [event.SerializeToString() for event in events])
    states = HeldStates(full, requester="r", asks=None)

    for offset, (patch, event) in enumerate(zip(patches, events, strict=True)):
        read = Patch.FromString(patch)
        read.type = "zoo.two.Newer"
        change = states.take(0, offset, b"k", read.SerializeToString())
        assert change is not None
        assert change.message is not None
        for message in (change.message, change.message.inner):
            assert sorted(event.many) == sorted(message.many) == sorted(message.packed)
    assert 0 == letters
