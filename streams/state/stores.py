"""Which logs a sync's state is of, and whether a store's rows are: one that cannot prove it is made anew. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from streams.state.rocks import StoreName
from streams.transport.identity import Bounds, is_other

BEHIND_MS_MAX = 12 * 3_600_000
"""Half of what Kafka keeps a removed row's mark for (`delete.retention.ms`), and the embedded log too. A store that was
away for longer may never hear of a removal: a deleted key would live on there, in an epoch that is over."""

__all__ = ["Identity", "unfit"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The logs of one sync by their ids; empty where the broker has none."""

    source: bytes = b""
    changelog: bytes = b""
    output: bytes = b""


def unfit(
    found: StoreName | None,
    wanted: StoreName,
    offset: int | None,
    changelog: Bounds,
    age_ms: int | None = None,
    *,
    marker_offsets: int = 0,
) -> str | None:
    """Why a store must be made anew from the changelog; None: it is the wanted one, or has nothing yet.

    `offset`: up to which it says to equal its changelog. Without a name nobody knows which changelog that was: another
    one may have outgrown the offset since. `age_ms`: for how long it has been at that offset, where it says so.
    `marker_offsets`: that the end of the transaction takes which brought it there; that alone is nobody's writing.
    """
    if offset is None:
        return None
    if found is None:
        return "an older release wrote it, without the name of its changelog"
    if (found.app, found.partition) != (wanted.app, wanted.partition):
        return f"it holds partition {found.partition} of {found.app}"
    if is_other(found.changelog, wanted.changelog):
        return "it holds the rows of another changelog"
    if offset > changelog.end:
        return f"it is at offset {offset} and its changelog ends at {changelog.end}"
    if offset + marker_offsets < changelog.end and age_ms is not None and age_ms > BEHIND_MS_MAX:
        return f"it is {age_ms // 3_600_000} hours old, and its changelog tells of removed rows for a day only"
    return None
