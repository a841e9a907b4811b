"""Patches on Protobuf message objects, with stock library calls only: what any receiver in any language can do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from streams.errors import PatchError
from streams.kernel.messages import descriptor_of
from streams.kernel.rule import DELETE, DELTA, SNAPSHOT
from streams.v1.patch_pb2 import Patch

M = TypeVar("M", bound=Message)


def unknown_paths(descriptor: Descriptor, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that `descriptor` does not have, or that lead through a list, a map or a scalar."""
    return [path for path in paths if not _has(descriptor, path)]


def apply_paths(message: Message, paths: Iterable[str], data: bytes) -> None:
    """Apply a DELTA to `message`: clear each path, as far as its parents are there, then merge the partial message.

    Raises PatchError, with the message unchanged, where a path is unknown, and where protobuf rejects the data.
    """
    paths = list(paths)
    unknown = unknown_paths(descriptor_of(message), paths)
    if unknown:
        raise PatchError(
            f"{descriptor_of(message).full_name} has no field {unknown[0]}, which the patch changes; "
            "it was written with a newer descriptor: update this one, or wait for a snapshot",
        )
    try:
        partial = type(message).FromString(data)
    except DecodeError as error:
        raise PatchError(f"the patch's data is no {descriptor_of(message).full_name}; ask for a snapshot") from error
    for path in paths:
        *parents, name = path.split(".")
        at: Message = message
        for parent in parents:
            if not at.HasField(parent):
                break
            at = getattr(at, parent)
        else:
            at.ClearField(name)
    message.MergeFrom(partial)


def apply_patch(message: M, patch: Patch) -> M | None:
    """Return what `message` is after `patch`; None after a DELETE. A DELTA changes `message` itself.

    Whether the patch may be applied is not looked at: that is `streams.kernel.rule`. Raises PatchError as
    `apply_paths`, and for another message type or an unknown kind.
    """
    if patch.kind == DELETE:
        return None
    if patch.type != descriptor_of(message).full_name:
        raise PatchError(f"the patch is of {patch.type}, expected {descriptor_of(message).full_name}; check the topic")
    if patch.kind == DELTA:
        apply_paths(message, patch.mask.paths, patch.data)
        return message
    if patch.kind != SNAPSHOT:
        raise PatchError(f"patch kind is {patch.kind}, expected 1, 2 or 3; written by a newer release: upgrade")
    try:
        return type(message).FromString(patch.data)
    except DecodeError as error:
        raise PatchError(f"the snapshot's data is no {patch.type}; ask for another one") from error


def _has(descriptor: Descriptor, path: str) -> bool:
    at: Descriptor | None = descriptor
    for name in path.split("."):
        field = at.fields_by_name.get(name) if at is not None else None
        if field is None:
            return False
        at = None if field.is_repeated else field.message_type
    return True
