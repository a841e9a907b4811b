"""Laws of canonical form, diff and apply: on the reference alone, and native against reference."""

from __future__ import annotations

from random import Random

import pytest
import xxhash
from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from streams._native import Schema
from streams.kernel import reference
from streams.kernel.messages import descriptor_of
from streams.kernel.schema import field_table
from tests.laws.mangle import WAYS, mangled, undeclared_value
from tests.laws.messages import TYPES, deterministic, histories, law, messages, schema_of
from tests.protos import message_class

ways = st.sampled_from(sorted(WAYS))
seeds = st.integers(0, 2**32 - 1)
pairs = st.sampled_from(TYPES).flatmap(lambda name: st.tuples(st.just(name), histories(name, 2)))
singles = st.sampled_from(TYPES).flatmap(lambda name: st.tuples(st.just(name), messages(name)))


def canonical(name: str, message: Message) -> bytes:
    """The canonical form of a message that protobuf itself serialised."""
    found = reference.canonical(message_class(name), deterministic(message))
    assert found is not None
    return found


def has_plain_tails(descriptor: Descriptor, data: bytes) -> bool:
    """Whether unknown fields, at any level, have numbers that no known field has."""
    for record in reference.records(data):
        field = descriptor.fields_by_number.get(record.number)
        if field is None:
            continue
        if not reference.is_known(field, record):
            return False
        if field.message_type is not None and not has_plain_tails(field.message_type, record.value):
            return False
    return True


@law
@given(singles)
def test_canonical_form_is_a_fixed_point(given_as: tuple[str, Message]) -> None:
    """The canonical form of a canonical form is itself, native and reference agree on it, and the digest is XXH3-64."""
    name, message = given_as
    kernel = schema_of(name)
    form = canonical(name, message)
    assert reference.canonical(message_class(name), form) == form
    assert kernel.native.is_canonical(form)
    assert kernel.canonicalise(message.SerializePartialToString()) == form
    assert message_class(name).FromString(form).SerializePartialToString(deterministic=True) == deterministic(message)
    assert reference.digest(form) == xxhash.xxh3_64_intdigest(form)


@law
@given(singles, ways, seeds)
def test_canonical_form_of_any_encoding(given_as: tuple[str, Message], way: str, seed: int) -> None:
    """Whatever the encoding, native and reference agree: rejected, canonical already, or the same canonical form."""
    name, message = given_as
    kernel = schema_of(name)
    raw = mangled(canonical(name, message), descriptor_of(message_class(name)), way, seed)
    wanted = reference.canonical(message_class(name), raw)
    found = kernel.canonicalise(raw)
    assert (found is None) == (wanted is None)
    if kernel.native.is_canonical(raw):
        assert wanted == raw
    if wanted is None or found is None:
        return
    if kernel.native.is_canonical(found):
        assert found == wanted
    if has_plain_tails(descriptor_of(message_class(name)), wanted):
        assert kernel.native.is_canonical(wanted)


@law
@given(pairs)
def test_apply_after_diff_is_the_new_state(given_as: tuple[str, list[Message]]) -> None:
    """apply(diff(a, b), a) == b, by the reference, by the native kernel, and by stock FieldMask code."""
    name, (before, after) = given_as
    cls, kernel = message_class(name), schema_of(name)
    old, new = canonical(name, before), canonical(name, after)
    difference = reference.diff(cls, old, new)
    assert (difference.change == "none") == (old == new)
    assert difference.change in ("none", "delta")
    assert reference.apply(cls, old, difference.paths, difference.data) == new
    assert kernel.native.diff(old, new) == (difference.change, list(difference.paths), difference.data)
    assert kernel.native.apply(old, difference.paths, difference.data) == new
    assert kernel.native.knows(difference.paths)
    assert stock(name, old, difference) == new


def stock(name: str, old: bytes, difference: reference.Difference) -> bytes | None:
    """What the FieldMask of Protobuf's own library makes of a difference, both replace options set.

    None where it gives up: it moves text as Python's, so proto2 text that is no UTF-8 stops it. It moves numbers as
    Python's too, which makes a signalling NaN of 32 bits a quiet one; flipped bits make some, so they are left out.
    """
    cls = message_class(name)
    message = cls.FromString(old)
    try:
        FieldMask(paths=difference.paths).MergeMessage(cls.FromString(difference.data), message, True, True)
    except UnicodeDecodeError:
        return None
    return reference.canonical(cls, message.SerializePartialToString())


def only(name: str, message: Message, path: str) -> tuple[bool, bytes]:
    """Whether a message has all parents of a path, and what it holds there, bit for bit."""
    at, partial = message, message_class(name)()
    *parents, field = path.split(".")
    inner = partial
    for parent in parents:
        if not at.HasField(parent):
            return False, b""
        at, inner = getattr(at, parent), getattr(inner, parent)
    FieldMask(paths=[field]).MergeMessage(at, inner, True, True)
    return True, canonical(name, partial)


def is_present_message(message: Message, path: str) -> bool:
    """Whether a path leads to a single message that is there."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field = descriptor_of(message).fields_by_name[name]
    return field.message_type is not None and not field.is_repeated and message.HasField(name)


@law
@given(pairs)
def test_paths_are_minimal(given_as: tuple[str, list[Message]]) -> None:
    """Each path names something that differs, as deep as both sides have it, and no path lies below another one."""
    name, (before, after) = given_as
    difference = reference.diff(message_class(name), canonical(name, before), canonical(name, after))
    assert len(set(difference.paths)) == len(difference.paths)
    for path in difference.paths:
        assert not any(other.startswith(f"{path}.") for other in difference.paths)
        (had, was), (has, now) = (only(name, message, path) for message in (before, after))
        assert had
        assert has
        assert was != now
        assert not (is_present_message(before, path) and is_present_message(after, path))


@law
@given(pairs, ways, seeds)
def test_diff_of_any_encoding(given_as: tuple[str, list[Message]], way: str, seed: int) -> None:
    """The native diff takes exactly canonical encodings, and then says what the reference says."""
    name, (before, after) = given_as
    cls, kernel = message_class(name), schema_of(name)
    old = canonical(name, before)
    raw = mangled(canonical(name, after), descriptor_of(cls), way, seed)
    found = kernel.native.diff(old, raw)
    assert (found is None) == (not kernel.native.is_canonical(raw))
    if found is None:
        return
    difference = reference.diff(cls, old, raw)
    assert found == (difference.change, list(difference.paths), difference.data)
    if difference.change != "snapshot":
        assert kernel.native.apply(old, difference.paths, difference.data) == raw
        assert reference.apply(cls, old, difference.paths, difference.data) == raw
        if way != "flipped":
            assert stock(name, old, difference) in (raw, None)


@law
@given(pairs, ways, ways, seeds)
def test_diff_between_odd_states(given_as: tuple[str, list[Message]], way: str, other_way: str, seed: int) -> None:
    """States with unknown fields, undeclared values and the like on both sides: apply after diff is the new state."""
    name, (before, after) = given_as
    cls, kernel = message_class(name), schema_of(name)
    old = kernel.canonicalise(mangled(canonical(name, before), descriptor_of(cls), way, seed))
    new = kernel.canonicalise(mangled(canonical(name, after), descriptor_of(cls), other_way, seed + 1))
    if old is None or new is None or not kernel.native.is_canonical(old) or not kernel.native.is_canonical(new):
        return
    difference = reference.diff(cls, old, new)
    assert kernel.native.diff(old, new) == (difference.change, list(difference.paths), difference.data)
    if difference.change != "snapshot":
        assert kernel.native.apply(old, difference.paths, difference.data) == new
        assert reference.apply(cls, old, difference.paths, difference.data) == new
        if "flipped" not in (way, other_way):
            assert stock(name, old, difference) in (new, None)


@law
@given(pairs, st.data())
def test_apply_on_any_state(given_as: tuple[str, list[Message]], data: st.DataObject) -> None:
    """Native and reference agree on a delta applied to a state that it was not made for."""
    name, (before, after) = given_as
    cls, kernel = message_class(name), schema_of(name)
    difference = reference.diff(cls, canonical(name, before), canonical(name, after))
    other = canonical(name, data.draw(messages(name)))
    wanted = reference.apply(cls, other, difference.paths, difference.data)
    assert kernel.native.apply(other, difference.paths, difference.data) == wanted
    assert stock(name, other, difference) == wanted


@law
@given(pairs, st.data())
def test_ignored_paths(given_as: tuple[str, list[Message]], data: st.DataObject) -> None:
    """A difference is ignored iff all its paths are, native as reference; the paths are named all the same."""
    name, (before, after) = given_as
    cls = message_class(name)
    old, new = canonical(name, before), canonical(name, after)
    plain = reference.diff(cls, old, new)
    choices = sorted({part for path in plain.paths for part in (path, path.split(".")[0])}) or ["i32"]
    if not plain.paths:
        return
    ignore = data.draw(st.lists(st.sampled_from(choices), max_size=4))
    difference = reference.diff(cls, old, new, ignore)
    native = Schema(field_table(descriptor_of(cls)), ignore)
    assert native.diff(old, new) == (difference.change, list(difference.paths), difference.data)
    assert difference.paths == plain.paths


@law
@given(pairs, seeds, st.data())
def test_ignored_paths_beside_undeclared_values(
    given_as: tuple[str, list[Message]], seed: int, data: st.DataObject
) -> None:
    """The same where values that a closed enum does not declare keep fields from being named."""
    name, states = given_as
    cls, kernel = message_class(name), schema_of(name)
    tail = undeclared_value(descriptor_of(cls), Random(seed))
    old, new = (kernel.canonicalise(canonical(name, state) + tail) for state in states)
    if old is None or new is None or not kernel.native.is_canonical(old) or not kernel.native.is_canonical(new):
        return
    names = [field.name for field in descriptor_of(cls).fields]
    ignore = data.draw(st.lists(st.sampled_from(names), max_size=len(names), unique=True))
    difference = reference.diff(cls, old, new, ignore)
    native = Schema(field_table(descriptor_of(cls)), ignore)
    assert native.diff(old, new) == (difference.change, list(difference.paths), difference.data)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("depth", [50, 97, 99, 100, 101, 102, 300])
def test_depth(name: str, depth: int) -> None:
    """Nesting as deep as protobuf takes is processed, deeper is rejected, and nothing overflows."""
    chain = {
        "zoo.three.Everything": "again",
        "zoo.three.Maps": "one",
        "zoo.two.Old": "sub",
        "zoo.edition.Edition": "again",
    }
    field = descriptor_of(message_class(name)).fields_by_name[chain[name]]
    data = b""
    for _ in range(depth):
        data = reference.wrapped(field, data)
    kernel = schema_of(name)
    wanted = reference.canonical(message_class(name), data)
    assert kernel.canonicalise(data) == wanted
    if kernel.native.is_canonical(data):
        assert wanted == data
    found = kernel.native.diff(b"", data)
    assert found is None or found == ("delta", [chain[name]], data)


@pytest.mark.parametrize(("name", "data"), [("zoo.two.Old", "3a020805"), ("zoo.edition.Edition", "42020805")])
def test_length_prefixed_repeated_group(name: str, data: str) -> None:
    """upb 6 rejects a length-prefixed record of a repeated group, upb 7 keeps it as unknown: it is upb's to judge."""
    raw = bytes.fromhex(data)
    assert not schema_of(name).native.is_canonical(raw)
    assert schema_of(name).canonicalise(raw) == reference.canonical(message_class(name), raw)
