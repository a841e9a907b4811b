"""Patches of a key as fewer patches, and the few numbers of a patch that deciding needs. Pure: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from google.protobuf.message import DecodeError

from streams._native import Schema, compose_patches
from streams.v1.patch_pb2 import Patch

__all__ = ["Conflater", "Head", "fold"]


class Head(NamedTuple):
    """What a patch says of its place in the history of its key."""

    kind: int
    epoch: int
    revision: int
    base_revision: int


class Conflater:
    """Conflates patches of one message type."""

    def __init__(self, schema: Schema) -> None:
        """`schema`: the native kernel of the message type, as this worker knows it."""
        self._schema = schema

    def compose(self, first: bytes, second: bytes) -> bytes | None:
        """The patch that does what both do, from every revision of their span.

        None where there is none: the second does not follow the first, has a field that `schema` lacks, or is damaged.
        """
        try:
            return compose_patches(self._schema, first, second)
        except ValueError:
            return None

    def head(self, patch: bytes) -> Head:
        """Kind, epoch and revisions of a patch. ValueError: it is none.

        By protobuf's own parser: it makes no Python object of a field before it is asked for, `decode_patch` of all.
        """
        try:
            read = Patch.FromString(patch)
        except DecodeError:
            raise ValueError(f"{len(patch)} bytes are no streams.v1.Patch, expected one; see the topic") from None
        return Head(read.kind, read.epoch, read.revision, read.base_revision)


def fold(
    compose: Callable[[bytes, bytes], bytes | None], head: Callable[[bytes], Head], patches: Sequence[bytes]
) -> tuple[list[bytes], list[int]] | None:
    """Consecutive patches of a key as few patches, and for each the index of the first one in it.

    None: between two of them one is missing, so that only a snapshot helps. One that repeats what was before it adds
    nothing. Two that follow each other and cannot be composed, because their message type has got new fields, or
    because one is damaged, stay two: the receiver may know better.
    """
    folded, firsts = [patches[0]], [0]
    for index in range(1, len(patches)):
        composed = compose(folded[-1], patches[index])
        if composed is not None:
            folded[-1] = composed
            continue
        relation = _relation(head, folded[-1], patches[index])
        if relation == "gap":
            return None
        if relation == "follows":
            folded.append(patches[index])
            firsts.append(index)
    return folded, firsts


def _relation(head: Callable[[bytes], Head], first: bytes, second: bytes) -> Literal["repeats", "follows", "gap"]:
    """How a patch stands to the one before it, with which it cannot be composed."""
    try:
        before, after = head(first), head(second)
    except ValueError:
        return "follows"
    if (after.epoch, after.revision) <= (before.epoch, before.revision):
        return "repeats"
    gap = after.kind == Patch.DELTA and (after.epoch != before.epoch or after.base_revision > before.revision)
    return "gap" if gap else "follows"
