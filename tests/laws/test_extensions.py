"""Laws of extensions: to the kernel they are unknown fields, to the receiver they arrive all the same."""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams.kernel import reference
from streams.kernel.patch import apply_patch
from streams.v1.patch_pb2 import Patch
from tests.laws.messages import deterministic, histories, law, schema_of
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
