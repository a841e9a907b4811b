"""Where a receiver's reading of a partition begins, and what is doubtful of what it holds. Pure.

An offset counts in one log. One of another log, one that the log does not reach, and one that retention has passed say
nothing of what the receiver holds: it reads what there is, and its keys are asked for when they are used or change.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CUT", "REPLACED", "Beginning", "Bounds", "LogReplaced", "Stored", "begin", "log_of"]

REPLACED, CUT = "replaced", "cut"
ID_BYTES = 16
"""Ids of logs are UUIDs."""


@dataclass(frozen=True, slots=True)
class LogReplaced:
    """Told when a receiver's position means nothing any more in its partition.

    `reason` "replaced": the topic was made anew, or is another cluster's. "cut": retention removed patches that were
    not read yet. `expected` is the offset that was to be read next, `start` where reading goes on. The partition's keys
    are stale until they change or are asked for.
    """

    topic: str
    partition: int
    reason: str
    expected: int
    start: int

    def __str__(self) -> str:
        what = (
            "retention removed patches before they were read"
            if self.reason == CUT
            else "the topic is another one than before"
        )
        return (
            f"{self.topic} partition {self.partition}: {what} (next was {self.expected}, reading goes on at "
            f"{self.start}); its keys are stale until they change or are asked for; `streams state snapshot --all` "
            "sends all at once"
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition as the broker has it: its first and next offset, the id of its log, and the group's offset.

    Ids are 16 bytes, empty where the broker has none; `committed_log` is the id that was kept beside the offset.
    `position`: where the broker's client begins by itself; None: nowhere.
    """

    start: int
    end: int
    log: bytes = b""
    committed: int | None = None
    committed_log: bytes = b""
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """How far the rows that a receiver holds of a partition go: the next offset, and the log that it counts in."""

    offset: int
    log: bytes = b""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What to do: read from `read_from`, hand changes out from `hand_from` on.

    `lost`: why the position was given up; empty: it was not. `expected` is what it was. `partial`: keys may exist that
    nothing is held of.
    """

    read_from: int
    hand_from: int
    lost: str = ""
    expected: int = 0
    partial: bool = False


def begin(bounds: Bounds, stored: Stored | None) -> Beginning:
    """How a partition is begun, given what the broker says and what is held of it (None: nothing).

    Changes that another member of the group has handed out since the rows were stored are applied and not handed out.
    """
    lost, expected = "", 0
    committed = bounds.committed
    if committed is not None and not _counts(committed, bounds.committed_log, bounds):
        lost, expected, committed = REPLACED, committed, None
    reached = stored.offset if stored is not None else None
    if stored is not None and not _counts(stored.offset, stored.log, bounds):
        lost, expected, reached = REPLACED, stored.offset, None
    known = [offset for offset in (committed, reached) if offset is not None]
    hand_from = (committed if committed is not None else reached) if known else bounds.start
    assert hand_from is not None  # one of the two is known
    read_from = min(known, default=bounds.start) if reached is not None else hand_from
    if read_from < bounds.start:
        lost, expected, read_from = lost or CUT, expected if lost else read_from, bounds.start
    partial = bool(lost) or (stored is None and read_from > 0)
    return Beginning(read_from, max(hand_from, read_from), lost, expected, partial)


def log_of(metadata: str) -> bytes:
    """The id of a log that was kept beside an offset; empty: none, or another program's words."""
    try:
        kept = bytes.fromhex(metadata)
    except ValueError:
        return b""
    return kept if len(kept) == ID_BYTES else b""


def _counts(offset: int, log: bytes, bounds: Bounds) -> bool:
    """Whether an offset kept beside the id of a log is one of this log."""
    return offset <= bounds.end and not (log and bounds.log and log != bounds.log)
