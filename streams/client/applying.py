"""How a patch changes the state held of a key: applied, and proven by its digest. Pure, on bytes.

An owner may have another descriptor than this receiver: newer, older, or with other names. Then fields are found by the
numbers beside the names, and what the receiver does not know is kept as unknown fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from streams._native import xxh3_64
from streams.kernel.messages import descriptor_of
from streams.kernel.patch import own_paths
from streams.kernel.schema import MessageSchema
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync

__all__ = ["Applier", "Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The patch cannot be applied; `reason` is what to ask for a snapshot with."""

    reason: Resync.Reason


class Applier:
    """Applies patches of one message type, as one message class has it."""

    def __init__(self, message_class: type[Message]) -> None:
        self._descriptor = descriptor_of(message_class)
        self.schema = MessageSchema(message_class)
        self.type = self.schema.full_name

    def after(self, before: bytes | None, patch: Patch) -> bytes | Refusal | None:
        """The state after the patch, canonical here and proven where that can be done; None after a DELETE.

        `before` is canonical here, None where there is no state. Raises ValueError for damage.
        """
        if patch.kind == Patch.DELETE:
            return None
        is_own = patch.schema == self.schema.fingerprint
        if patch.kind == Patch.SNAPSHOT:
            # The digest is of these very bytes, whichever descriptor they were canonical for.
            if patch.digest and xxh3_64(patch.data) != patch.digest:
                return Refusal(Resync.DIGEST_MISMATCH)
            return patch.data if is_own and patch.digest else self._canonical(patch.data)
        if not is_own:
            return self._after_foreign(before or b"", patch)
        state = self.schema.native.apply(before or b"", patch.mask.paths, patch.data)
        if patch.digest and xxh3_64(state) != patch.digest:
            return Refusal(Resync.DIGEST_MISMATCH)
        return state

    def paths(self, patch: Patch) -> tuple[str, ...]:
        """What the patch changes, in the names that this receiver has, and the owner's where it has none."""
        if patch.schema == self.schema.fingerprint:
            return tuple(patch.mask.paths)
        return tuple(own_paths(self._descriptor, patch))

    def _after_foreign(self, before: bytes, patch: Patch) -> bytes | Refusal:
        """The state after a DELTA of an owner with another descriptor, whose digest says nothing here."""
        paths, numbers = list(patch.mask.paths), [list(path.numbers) for path in patch.numbers]
        if numbers and len(numbers) != len(paths):
            return Refusal(Resync.GAP)
        if not self.schema.native.knows(paths, numbers):
            return Refusal(Resync.UNKNOWN_FIELD)
        try:
            return self.schema.native.apply(before, paths, patch.data, numbers)
        except ValueError:
            # What is unknown here may lie among what is known: the owner's order is of its own descriptor.
            return self._canonical(self.schema.native.splice(before, paths, patch.data, numbers))

    def _canonical(self, data: bytes) -> bytes | Refusal:
        canonical = self.schema.canonicalise(data)
        return Refusal(Resync.GAP) if canonical is None else canonical
