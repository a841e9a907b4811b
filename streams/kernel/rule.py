"""The receiver's rule: what to do with a patch, given what is held of its key. Pure, no message is looked into."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from streams.errors import PatchError

DELTA = 1
SNAPSHOT = 2
DELETE = 3
"""The numbers of `Patch.Kind`."""


class PatchHead(Protocol):
    """The part of a patch that the rule looks at; a `streams.v1.Patch` message is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def base_revision(self) -> int: ...
    @property
    def kind(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Held:
    """What a receiver holds of one key.

    `intact` is False once the state failed its digest, or a patch named a field that the receiver's descriptor lacks:
    from then on only a snapshot or a delete helps. A deleted key stays held, at the revision of its DELETE.
    """

    epoch: int
    revision: int
    intact: bool = True


class Verdict(Enum):
    """What to do with one patch."""

    APPLY = "apply"
    DUPLICATE = "duplicate"
    """At or below what is held: answer as success, change nothing."""
    GAP = "gap"
    """Revisions are missing between what is held and the patch: change nothing, ask for a snapshot."""
    STALE = "stale"
    """What is held is not intact and the patch is no snapshot: change nothing, wait for the snapshot asked for."""


def decide(held: Held | None, patch: PatchHead) -> Verdict:
    """Say what to do with `patch` when `held` is held of its key (None: nothing was ever applied).

    SNAPSHOT and DELETE are absolute: they apply above what is held, and at it when that is not intact. DELTA applies
    within one epoch iff base_revision <= held < revision: a composed patch covers every path of its span, so it is
    right from a revision in the middle too. Raises PatchError for a kind that this release does not know.
    """
    if patch.kind not in (DELTA, SNAPSHOT, DELETE):
        raise PatchError(
            f"patch kind is {patch.kind}, expected 1 (DELTA), 2 (SNAPSHOT) or 3 (DELETE); "
            "it was written by a newer release: upgrade this receiver"
        )
    came = (patch.epoch, patch.revision)
    have = (held.epoch, held.revision) if held is not None else (-1, -1)
    intact = held is None or held.intact
    if patch.kind != DELTA:
        return Verdict.APPLY if came > have or (came == have and not intact) else Verdict.DUPLICATE
    if came <= have:
        return Verdict.DUPLICATE
    if not intact:
        return Verdict.STALE
    if patch.epoch == have[0] and patch.base_revision <= have[1]:
        return Verdict.APPLY
    return Verdict.GAP
