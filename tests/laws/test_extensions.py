"""Laws of extensions: to the kernel they are unknown fields, to the receiver they arrive all the same."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams.client.held import HeldStates
from streams.kernel import reference
from streams.kernel.patch import apply_patch
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import deterministic, histories, law, schema_of
from tests.laws.variants import emitted
from tests.protos import message_class

NAME = "zoo.two.Old"


@st.composite
def extended(draw: st.DrawFn) -> list[Message]:
    """Two messages with extensions, at top level and nested."""
    pool = message_class(NAME).DESCRIPTOR.file.pool
    number, texts, nested = (pool.FindExtensionByName(f"zoo.two.ext_{name}") for name in ("i32", "text", "old"))
    history = draw(histories(NAME, 2))
    for message in history:
        for at in [message, *([message.sub] if message.HasField("sub") else [])]:
            if draw(st.booleans()):
                at.Extensions[number] = draw(st.integers(0, 2))
            if draw(st.booleans()):
                at.Extensions[texts].extend(draw(st.lists(st.sampled_from(["", "a", "b"]), max_size=2)))
            if draw(st.booleans()):
                at.Extensions[nested].i32 = draw(st.integers(0, 2))
    return history


@law
@given(extended())
def test_extensions_arrive(history: list[Message]) -> None:
    """A changed extension travels with the message that holds it, a snapshot at top level, and nothing else is lost."""
    cls, kernel = message_class(NAME), schema_of(NAME)
    old, new = (kernel.canonicalise(deterministic(message)) for message in history)
    assert old is not None
    assert new is not None
    change, paths, data = kernel.native.diff(old, new)
    patch = reference.delta(cls, old, new)
    assert (patch.kind == Patch.SNAPSHOT) == (change == "snapshot")
    if change != "snapshot":
        assert (list(patch.mask.paths), patch.data) == (paths, data)
        assert kernel.native.apply(old, paths, data) == new
    after = apply_patch(cls.FromString(old), patch)
    assert after is not None
    assert deterministic(after) == deterministic(history[1])


NUMBER, TEXT, OTHER_TEXT, NESTED = "a00605", "aa060161", "aa060162", "b206020807"
"""Records of the extensions 100 (5), 101 ("a" and "b") and 102 ({1: 7}) of zoo.two.Old."""
PAD = "12" + f"{100:02x}" + "78" * 100
"""Text enough that a small change is a DELTA."""


def at_each_level(inner: str) -> list[str]:
    """An Old with these fields at top level, in a nested message, in a group and in the value of a map."""
    length = len(inner) // 2
    nested = f"5a{length:02x}{inner}"
    group = f"33{f'1a{length:02x}{inner}'}34"
    entry = f"9a01{length + 4:02x}080112{length:02x}{inner}"
    return [PAD + inner, PAD + nested, PAD + group, PAD + entry]


@pytest.mark.parametrize("level", range(4))
def test_another_order_is_no_change(level: int) -> None:
    """Extensions that only change places give no patch; what changes beside them is a delta that proves itself."""
    one, other = (at_each_level(fields)[level] for fields in (NUMBER + TEXT + NESTED, NESTED + TEXT + NUMBER))
    last = f"0803{other}"
    patches, letters = emitted(message_class(NAME), [bytes.fromhex(event) for event in (one, other, one, last)])
    states = HeldStates(message_class(NAME), requester="r", asks=None)

    for offset, patch in enumerate(patches):
        assert states.take(0, offset, b"k", patch) is not None
    read = [Patch.FromString(patch) for patch in patches]
    assert (2, 0) == (len(patches), letters)
    assert (["i32"], True) == (list(read[1].mask.paths), read[1].digest != 0)
    assert bytes.fromhex(f"0803{one}") == states.state(b"k")


def test_another_order_of_one_number_is_a_change() -> None:
    """A repeated extension is a list: its order counts."""
    events = [bytes.fromhex(PAD + fields) for fields in (TEXT + OTHER_TEXT, OTHER_TEXT + TEXT)]
    patches, _ = emitted(message_class(NAME), list(events))

    assert 2 == len(patches)


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("damage", ["b20601ff", "b206020a05", "b206033a0108"])
def test_content_that_protobuf_refuses_is_a_dead_letter(level: int, damage: str) -> None:
    """As the first event of a key and after a sound one: one letter, and nobody is sent a state that cannot be read."""
    sound, broken = (bytes.fromhex(at_each_level(fields)[level]) for fields in (NUMBER, damage))
    later = bytes.fromhex("0809") + sound

    patches, letters = emitted(message_class(NAME), [broken, sound, broken, later])

    if schema_of(NAME).through_upb(broken) is None:
        assert (2, 2) == (len(patches), letters)
        assert ["i32"] == list(Patch.FromString(patches[1]).mask.paths)
    else:  # upb 7 keeps a group that comes with its length as an unknown field
        assert ("b206033a0108", 4, 0) == (damage, len(patches), letters)


def test_a_number_that_nobody_may_extend_holds_anything() -> None:
    """Outside the extension range a field is unknown to every runtime, whatever is in it."""
    patches, letters = emitted(message_class(NAME), [bytes.fromhex(PAD + "c23e01ff")])

    assert (1, 0) == (len(patches), letters)
