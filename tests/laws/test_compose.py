"""Laws of composed patches: one patch that does what two did, from every revision of their span."""

from __future__ import annotations

from functools import reduce

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams._native import compose_patches, decode_patch, encode_patch
from streams.kernel import reference
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import TYPES, deterministic, histories, law, schema_of
from tests.protos import message_class

EPOCH = 1_767_323_045_678
chains = st.sampled_from(TYPES).flatmap(lambda name: st.tuples(st.just(name), histories(name, 4)))


def forms(name: str, history: list[Message]) -> list[bytes]:
    """The canonical state at each revision, the first one revision 1."""
    found = [reference.canonical(message_class(name), deterministic(message)) for message in history]
    return [form for form in found if form is not None]


def patches(name: str, states: list[bytes], kinds: list[int]) -> list[Patch]:
    """The patch to each revision from 2 on, of the kind that is wanted for it."""
    made = []
    for revision, kind in enumerate(kinds, start=2):
        head = {
            "key": b"k",
            "revision": revision,
            "base_revision": revision - 1,
            "epoch": EPOCH,
            "event_id": str(revision),
        }
        cls, (old, new) = message_class(name), states[revision - 2 : revision]
        if kind == Patch.SNAPSHOT:
            made.append(reference.snapshot(cls, new, **{**head, "base_revision": 0}))
        else:
            made.append(reference.delta(cls, old, new, **head))
    return made


def after(name: str, state: bytes | None, patch: Patch) -> bytes | None:
    """The state after a patch, by the reference; None: deleted."""
    if patch.kind == Patch.DELETE:
        return None
    return reference.apply(message_class(name), state or b"", patch.mask.paths, patch.data)


def native_compose(name: str, first: Patch, second: Patch) -> Patch:
    """Two patches composed by the native kernel."""
    composed = compose_patches(schema_of(name).native, first.SerializeToString(), second.SerializeToString())
    return Patch.FromString(composed)


@law
@given(chains, st.lists(st.sampled_from([Patch.DELTA, Patch.DELTA, Patch.SNAPSHOT]), min_size=3, max_size=3))
def test_composed_patch_is_right_from_every_revision(chain: tuple[str, list[Message]], kinds: list[int]) -> None:
    """Applied to any state of its span a composed patch gives the last one, and native composes as the reference."""
    name, history = chain
    states = forms(name, history)
    made = patches(name, states, kinds)
    composed = reduce(lambda first, second: reference.compose(message_class(name), first, second), made)
    assert reduce(lambda first, second: native_compose(name, first, second), made) == composed
    assert composed.digest == reference.digest(states[-1])
    for state in states:
        assert after(name, state, composed) == states[-1]


@law
@given(chains)
def test_composition_is_associative(chain: tuple[str, list[Message]]) -> None:
    """Conflating now or later gives the same patch, byte for byte."""
    name, history = chain
    first, second, third = patches(name, forms(name, history), [Patch.DELTA] * 3)
    early = native_compose(name, native_compose(name, first, second), third)
    late = native_compose(name, first, native_compose(name, second, third))
    assert early.SerializeToString(deterministic=True) == late.SerializeToString(deterministic=True)


@law
@given(chains)
def test_no_path_is_dropped(chain: tuple[str, list[Message]]) -> None:
    """Every path of the span is covered by the composed mask, even one whose value came back to what it was."""
    name, history = chain
    states = forms(name, history)
    there, back = states[0], states[1]
    first, second = patches(name, [there, back, there], [Patch.DELTA] * 2)
    composed = native_compose(name, first, second)
    for path in [*first.mask.paths, *second.mask.paths]:
        assert any(path == other or path.startswith(f"{other}.") for other in composed.mask.paths)
    for state in (there, back):
        assert after(name, state, composed) == there


@law
@given(chains)
def test_delete_in_a_span(chain: tuple[str, list[Message]]) -> None:
    """What comes before a DELETE is forgotten, what comes after it starts from nothing."""
    name, history = chain
    states = forms(name, history)
    (first,) = patches(name, states[:2], [Patch.DELTA])
    deleted = Patch(kind=Patch.DELETE, key=b"k", revision=3, base_revision=2, epoch=EPOCH, type=first.type)
    composed = native_compose(name, first, deleted)
    assert composed == reference.compose(message_class(name), first, deleted)
    assert (composed.kind, composed.base_revision, composed.revision) == (Patch.DELETE, 1, 3)
    again = reference.snapshot(message_class(name), states[2], key=b"k", revision=4, epoch=EPOCH)
    assert native_compose(name, composed, again) == again


@law
@given(
    st.builds(
        Patch,
        key=st.binary(max_size=20),
        revision=st.integers(0, 2**64 - 1),
        base_revision=st.integers(0, 2**64 - 1),
        kind=st.sampled_from([Patch.DELTA, Patch.SNAPSHOT, Patch.DELETE]),
        type=st.sampled_from(["", "acme.Device", "é"]),
        data=st.binary(max_size=200),
        digest=st.integers(0, 2**64 - 1),
        event_id=st.sampled_from(["", "e1", "\U0001f600"]),
        event_source=st.sampled_from(["", "/s"]),
        traceparent=st.sampled_from(["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]),
        sequence=st.integers(0, 2**64 - 1),
        epoch=st.integers(0, 2**64 - 1),
        schema=st.integers(0, 2**64 - 1),
    ),
    st.lists(st.sampled_from(["a", "b.c", "ü"]), max_size=3),
    st.none() | st.integers(-(2**50), 2**50),
)
def test_patch_bytes(patch: Patch, paths: list[str], time_us: int | None) -> None:
    """The native encoder writes what protobuf writes, and the native decoder reads it back."""
    if patch.kind == Patch.DELTA and paths:
        patch.mask.paths[:] = paths
    if patch.kind == Patch.SNAPSHOT:
        patch.mask.paths[:] = ["*"]
    if time_us is not None:
        patch.event_time.FromMicroseconds(time_us)
    fields = {
        **{field.name: getattr(patch, field.name) for field in patch.DESCRIPTOR.fields},
        "paths": list(patch.mask.paths),
        "event_time_us": time_us,
    }
    del fields["mask"], fields["event_time"]
    assert encode_patch(**fields) == patch.SerializeToString(deterministic=True)
    assert decode_patch(patch.SerializeToString()) == fields
