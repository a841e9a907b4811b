"""Which log an offset is of: what is kept beside a group's offsets, and what the logs that are there now mean for it.

An offset counts in one log, and a topic that was deleted and made anew, or stands in another cluster, is another log
under the same name. So each commit keeps the identities of its source and of the changelog that belongs to it beside
the offset, and whoever goes on from there compares first. Decides only; asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Bounds", "Kept", "Source", "changelog_fault", "is_other", "judge_source", "kept", "offset_metadata"]

MARK = "streams1"
"""Begins what this house keeps beside an offset. Other programs write what they like there."""
FIELDS_MIN = 5
PARTIAL = "partial"
REPLACED = "replaced"
MOVED = "moved"
HOME = "home="
COPIES = "copies="


@dataclass(frozen=True, slots=True)
class Kept:
    """What a commit says beside the offset. Ids are empty where the broker has none."""

    source: bytes
    """Of the log that the offset counts in."""
    changelog: bytes = b""
    """Of the changelog that held the rows of everything below the offset."""
    begin: int = 0
    """Where that changelog began, and"""
    end: int = 0
    """an offset that its end had reached."""
    epoch: int = 0
    """The last epoch issued."""
    partial: bool = False
    """Whether the state was rebuilt from a source that lacks its beginning: an unknown key may live all the same."""
    replaced: bool = False
    """Whether a person said that the log is another one than the rows speak of, whatever its id says."""
    moved: bool = False
    """Whether a command committed it, from outside: the group may have been made anew for it."""
    home: bytes = b""
    """Of a changelog of the application, where this partition has none: a mirror of the offset lacks that log."""
    copies: bytes = b""
    """Of the topic that everything below the offset was copied to under its entity keys."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """First offset of a partition that is still there, and the next one."""

    start: int
    end: int

    def hold(self, offset: int) -> bool:
        """Whether reading can go on at this offset."""
        return self.start <= offset <= self.end


class Source(Enum):
    """What becomes of a committed offset."""

    COUNTS = "counts"
    """It is one of this log: reading goes on there."""
    ANEW = "anew"
    """This is another log, in which it is nobody's: reading begins at the beginning."""
    CAME_ALONG = "came along"
    """This is another log, and somebody committed an offset that can be one of it: a person decides."""
    OUTSIDE = "outside"
    """The log is the same, or nobody can tell, and the offset is not there any more: a person decides."""


def offset_metadata(
    source_id: bytes,
    changelog_id: bytes = b"",
    begin: int = 0,
    end: int = 0,
    last_epoch: int = 0,
    *,
    partial: bool = False,
    replaced: bool = False,
    moved: bool = False,
    home: bytes = b"",
    copies: bytes = b"",
) -> str:
    """What is committed beside an offset: some 100 bytes, where brokers take 4,096."""
    fields = [MARK, source_id.hex(), changelog_id.hex(), str(begin), str(end), str(last_epoch)]
    flags = {PARTIAL: partial, REPLACED: replaced, MOVED: moved}
    named = {HOME: home, COPIES: copies}
    fields += [flag for flag, is_set in flags.items() if is_set]
    return ";".join([*fields, *(f"{name}{log.hex()}" for name, log in named.items() if log)])


def kept(metadata: str) -> Kept | None:
    """What was committed beside an offset; None where it was by an older release or by somebody else."""
    mark, *fields = metadata.split(";")
    if mark != MARK or len(fields) < FIELDS_MIN:
        return None
    try:
        source, changelog = bytes.fromhex(fields[0]), bytes.fromhex(fields[1])
        begin, end, epoch = (int(field) for field in fields[2:5])
        home, copies = (_named(name, fields[5:]) for name in (HOME, COPIES))
    except ValueError:
        return None
    partial, replaced, moved = (flag in fields[5:] for flag in (PARTIAL, REPLACED, MOVED))
    return Kept(source, changelog, begin, end, epoch, partial, replaced, moved, home, copies)


def _named(name: str, fields: Iterable[str]) -> bytes:
    return next((bytes.fromhex(field.removeprefix(name)) for field in fields if field.startswith(name)), b"")


def is_other(kept_id: bytes, found_id: bytes) -> bool:
    """Whether two ids are of different logs; not where one of them is not known."""
    return bool(kept_id and found_id and kept_id != found_id)


def judge_source(
    offset: int | None,
    beside: Kept | None,
    recorded: bytes,
    found: bytes,
    bounds: Bounds,
    homes: Collection[bytes] = (),
) -> Source:
    """What a committed offset means in the log that is there now.

    `recorded`: the id of the log that the partition's rows speak of, by its own record; it counts where the commit says
    nothing. Without any id an end below the offset shows another log. `homes`: the ids of the application's changelogs;
    what was committed beside one of them no mirror has translated, but a worker that had not seen the new log yet.
    """
    if offset is None:
        return Source.COUNTS
    known = beside.source if beside is not None and beside.source else recorded
    if is_other(known, found):
        is_at_home = beside is not None and any(home and home in homes for home in (beside.changelog, beside.home))
        return Source.CAME_ALONG if bounds.hold(offset) and not is_at_home else Source.ANEW
    if bounds.hold(offset):
        return Source.COUNTS
    nobody_knows = not (known and found)
    return Source.ANEW if nobody_knows and offset > bounds.end else Source.OUTSIDE


def changelog_fault(beside: Kept | None, has_record: bool, found: bytes, bounds: Bounds) -> str | None:
    """What is wrong with a changelog, in words; None: it holds what was committed to it, as far as anybody can tell.

    Compaction alone never moves the beginning of a log. `has_record`: whether there is a partition record in it.
    """
    if beside is None or not (beside.changelog or beside.end):
        if bounds.start > 0 and not has_record and beside is None:
            return f"it begins at offset {bounds.start}: rows were removed by somebody, compaction moves no beginning"
        return None
    if is_other(beside.changelog, found):
        return "it is another one than the committed offsets belong to: it was deleted and made anew"
    if bounds.start > beside.begin:
        return (
            f"it begins at offset {bounds.start}, with the committed offsets it began at {beside.begin}: rows were "
            "removed by somebody, compaction moves no beginning"
        )
    if bounds.end < beside.end:
        return f"it ends at offset {bounds.end}, {beside.end} were committed: it was emptied, or restored from a copy"
    return None
