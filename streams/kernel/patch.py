"""Patches on Protobuf message objects, with stock library calls only: what any receiver in any language can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from streams.errors import PatchError
from streams.kernel.messages import descriptor_of
from streams.kernel.rule import DELETE, DELTA, SNAPSHOT
from streams.v1.patch_pb2 import Patch

M = TypeVar("M", bound=Message)


def unknown_paths(descriptor: Descriptor, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that `descriptor` does not have, or that lead through a list, a map or a scalar."""
    return [path for path in paths if not _has(descriptor, path)]


def field_numbers(descriptor: Descriptor, paths: Iterable[str]) -> list[list[int]]:
    """Return the field numbers along each path, as `Patch.numbers` has them; every path must be a known one."""
    return [[field.number for field in _fields(descriptor, path)] for path in paths]


def own_paths(descriptor: Descriptor, patch: Patch) -> list[str]:
    """Return the paths of a DELTA as `descriptor` names them, by their field numbers where the patch has these.

    From the first field on that `descriptor` lacks, a path keeps the names that the patch's owner has.
    """
    if len(patch.numbers) != len(patch.mask.paths):
        return list(patch.mask.paths)
    return [
        _own_name(descriptor, path, given.numbers) for path, given in zip(patch.mask.paths, patch.numbers, strict=True)
    ]


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
    return len(_fields(descriptor, path)) == path.count(".") + 1


def _fields(descriptor: Descriptor, path: str) -> list[FieldDescriptor]:
    """The fields along a path, as far as `descriptor` has them and they are single messages."""
    at: Descriptor | None = descriptor
    found: list[FieldDescriptor] = []
    for name in path.split("."):
        field = at.fields_by_name.get(name) if at is not None else None
        if field is None:
            break
        found.append(field)
        at = None if field.is_repeated else field.message_type
    return found


def _own_name(descriptor: Descriptor, path: str, numbers: Sequence[int]) -> str:
    at: Descriptor | None = descriptor
    names = path.split(".")
    for level, number in enumerate(numbers[: len(names)]):
        field = at.fields_by_number.get(number) if at is not None else None
        if field is None:
            break
        names[level] = field.name
        at = None if field.is_repeated else field.message_type
    return ".".join(names)
