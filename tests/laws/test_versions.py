"""Laws of two descriptors of one type: an owner and a receiver, or an owner before and after a roll-out."""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams.kernel import reference
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import unknown_paths
from streams.kernel.schema import compare
from tests.laws.messages import deterministic, histories, law, schema_of
from tests.protos import message_class

OWN, OTHER = "zoo.three.Everything", "zoo.three.Later"
versions = st.sampled_from([(OWN, OTHER), (OTHER, OWN)])
pairs = versions.flatmap(lambda names: st.tuples(st.just(names), histories(names[0], 2)))


def under(name: str, data: bytes) -> bytes:
    """The canonical form by the descriptor `name`."""
    found = reference.canonical(message_class(name), data)
    assert found is not None
    return found


def test_the_versions_fit() -> None:
    """The two types of these laws differ by fields that came and went only."""
    for before, after in ((OWN, OTHER), (OTHER, OWN)):
        assert compare(schema_of(before).field_table_bytes, schema_of(after).field_table_bytes) == []


@law
@given(pairs)
def test_rows_are_canonical_again_after_a_roll_out(given_as: tuple[tuple[str, str], list[Message]]) -> None:
    """A stored message has a canonical form under the other descriptor, which reads back as the same message."""
    (writer, reader), (message, _) = given_as
    row = under(writer, deterministic(message))
    again = schema_of(reader).canonicalise(row)
    assert again == under(reader, row)
    assert schema_of(reader).native.is_canonical(again)
    assert under(writer, again) == row


@law
@given(pairs)
def test_unknown_fields_of_a_newer_event(given_as: tuple[tuple[str, str], list[Message]]) -> None:
    """An owner with the other descriptor passes on what it does not know: whole if nested, else a snapshot."""
    (writer, reader), history = given_as
    cls, kernel = message_class(reader), schema_of(reader)
    old, new = (under(reader, under(writer, deterministic(message))) for message in history)
    difference = reference.diff(cls, old, new)
    assert kernel.native.diff(old, new) == (difference.change, list(difference.paths), difference.data)
    if difference.change != "snapshot":
        assert kernel.native.apply(old, difference.paths, difference.data) == new
        assert reference.apply(cls, old, difference.paths, difference.data) == new


@law
@given(pairs)
def test_a_receiver_with_another_descriptor(given_as: tuple[tuple[str, str], list[Message]]) -> None:
    """A patch whose paths the receiver knows gives it the owner's state; any other it can tell."""
    (owner, receiver), history = given_as
    old, new = (under(owner, deterministic(message)) for message in history)
    difference = reference.diff(message_class(owner), old, new)
    foreign = unknown_paths(descriptor_of(message_class(receiver)), difference.paths)
    assert schema_of(receiver).native.knows(difference.paths) == (not foreign)
    if foreign:
        return
    held = under(receiver, old)
    data = schema_of(receiver).canonicalise(difference.data)
    assert data is not None
    assert reference.apply(message_class(receiver), held, difference.paths, data) == under(receiver, new)
    assert schema_of(receiver).native.apply(held, difference.paths, data) == under(receiver, new)
