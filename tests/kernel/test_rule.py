"""The receiver's rule, case by case."""

from __future__ import annotations

import pytest

from streams.errors import PatchError
from streams.kernel.rule import Held, Verdict, decide
from streams.v1.patch_pb2 import Patch

HELD = Held(epoch=10, revision=5)
BROKEN = Held(epoch=10, revision=5, intact=False)


def patch(kind: Patch.Kind, epoch: int, base: int, revision: int) -> Patch:
    return Patch(kind=kind, epoch=epoch, base_revision=base, revision=revision)


@pytest.mark.parametrize(
    ("held", "came", "verdict"),
    [
        (None, patch(Patch.SNAPSHOT, 10, 0, 1), Verdict.APPLY),
        (None, patch(Patch.DELETE, 10, 3, 4), Verdict.APPLY),
        (None, patch(Patch.DELTA, 10, 1, 2), Verdict.GAP),
        (HELD, patch(Patch.DELTA, 10, 5, 6), Verdict.APPLY),
        (HELD, patch(Patch.DELTA, 10, 2, 9), Verdict.APPLY),
        (HELD, patch(Patch.DELTA, 10, 6, 7), Verdict.GAP),
        (HELD, patch(Patch.DELTA, 10, 4, 5), Verdict.DUPLICATE),
        (HELD, patch(Patch.DELTA, 9, 5, 6), Verdict.DUPLICATE),
        (HELD, patch(Patch.DELTA, 11, 1, 2), Verdict.GAP),
        (HELD, patch(Patch.SNAPSHOT, 10, 0, 5), Verdict.DUPLICATE),
        (HELD, patch(Patch.SNAPSHOT, 10, 0, 8), Verdict.APPLY),
        (HELD, patch(Patch.SNAPSHOT, 11, 0, 1), Verdict.APPLY),
        (HELD, patch(Patch.SNAPSHOT, 9, 0, 99), Verdict.DUPLICATE),
        (HELD, patch(Patch.DELETE, 10, 5, 6), Verdict.APPLY),
        (HELD, patch(Patch.DELETE, 10, 4, 5), Verdict.DUPLICATE),
        (BROKEN, patch(Patch.SNAPSHOT, 10, 0, 5), Verdict.APPLY),
        (BROKEN, patch(Patch.DELETE, 10, 4, 5), Verdict.APPLY),
        (BROKEN, patch(Patch.SNAPSHOT, 10, 0, 4), Verdict.DUPLICATE),
        (BROKEN, patch(Patch.DELTA, 10, 5, 6), Verdict.STALE),
        (BROKEN, patch(Patch.DELTA, 10, 4, 5), Verdict.DUPLICATE),
    ],
)
def test_verdict(held: Held | None, came: Patch, verdict: Verdict) -> None:
    """Each row is one sentence of the rule."""
    assert decide(held, came) is verdict


def test_unknown_kind_is_named() -> None:
    """A kind of a newer release is refused by its number."""
    with pytest.raises(PatchError, match="patch kind is 0"):
        decide(HELD, Patch(epoch=10, revision=6))
