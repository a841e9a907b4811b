"""What `streams state replaced` commits: where reading a replaced topic goes on. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from streams.cli.groups import Place
from streams.errors import Finding, SettingsError
from streams.transport.identity import Bounds, Kept, is_other, offset_metadata

__all__ = ["moves"]


def moves(
    topic: str, found: bytes, places: Iterable[Place], start: str, changelog: bytes, rows: Mapping[int, Bounds]
) -> list[tuple[int, int, str]]:
    """Partition, offset and what to keep beside it, of every partition; `start` is "committed" or "beginning".

    `changelog` is the id of the one that is there now, `rows` where its partitions begin and end: on another cluster it
    is another one too, and believed; where it alone was replaced the worker goes on to refuse it. SettingsError: there
    is no such topic, or a committed offset is not in it.
    """
    moved, findings = [], []
    for place in places:
        offset = place.bounds.start if start == "beginning" or place.offset is None else place.offset
        if not place.bounds.hold(offset):
            findings.append(
                Finding(
                    f"{topic} partition {place.partition}",
                    f"offset {offset}, which the group has committed",
                    f"one from {place.bounds.start} to {place.bounds.end}",
                    "--from beginning",
                )
            )
        beside = place.beside or Kept(b"")
        if is_other(beside.source, found) and is_other(beside.changelog, changelog):
            there = rows.get(place.partition, Bounds(0, 0))
            beside = dataclasses.replace(beside, changelog=changelog, begin=there.start, end=there.end)
        moved.append((
            place.partition,
            offset,
            offset_metadata(
                found, beside.changelog, beside.begin, beside.end, beside.epoch, partial=beside.partial,
                replaced=not is_other(beside.source, found), moved=True, home=beside.home,
            ),
        ))  # fmt: skip
    if not moved:
        findings.append(Finding("TOPIC", f"{topic}, which does not exist", "a topic that the application reads"))
    if findings:
        raise SettingsError(*findings)
    return moved
