"""What `streams doctor` judges about a sync's logs: whether they are those that offsets and rows speak of. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from streams.cli.groups import Place
from streams.errors import Finding
from streams.transport.identity import Bounds, Source, changelog_fault, is_other, judge_source

__all__ = ["LogFacts", "log_findings"]

CLOCK_AHEAD_MS = 60_000
"""Epochs come from a clock: one that is a minute ahead was not read off this one."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """One partition of a sync. Ids are empty where the broker has none."""

    source: str
    changelog: str
    place: Place
    """Of what the sync reads: what is there, and what the group has committed."""
    found: bytes
    """The source's id."""
    changelog_id: bytes
    rows: Bounds
    """Of the changelog."""
    recorded: bytes = b""
    """The id of the log that the rows speak of; empty where no record says it."""
    has_record: bool = False
    epoch: int = 0
    """The highest that was issued."""
    before_rekey: str = ""
    """Where `source` holds copies: of which topic."""


def log_findings(facts: LogFacts, now_ms: int) -> Iterator[Finding]:
    """Everything that is wrong with the logs of one partition."""
    place, number = facts.place, facts.place.partition
    verdict = judge_source(place.offset, place.beside, facts.recorded, facts.found, place.bounds, [facts.changelog_id])
    decided = place.beside is not None and place.beside.source == facts.found != b""
    if verdict is Source.OUTSIDE:
        yield Finding(
            f"topic {facts.source} partition {number}",
            f"{place.bounds.start} to {place.bounds.end}, the group goes on at {place.offset}",
            "a topic that has this offset",
            f"records are gone that were not read: streams state replaced {facts.source} --from beginning goes on",
        )
    elif verdict is not Source.COUNTS or (is_other(facts.recorded, facts.found) and not decided):
        cure = (
            f"a worker stops there until streams state replaced {facts.source} --from beginning|committed decides"
            if verdict is Source.CAME_ALONG
            else "it was deleted and made anew: the next worker reads it from its beginning"
        )
        yield Finding(
            f"topic {facts.source} partition {number}", "another log", "the one that rows and offsets speak of", cure
        )
    fault = changelog_fault(place.beside, facts.has_record, facts.changelog_id, facts.rows)
    if fault is not None:
        yield Finding(
            f"topic {facts.changelog} partition {number}", fault, "the rows of every key",
            f"restore it, or stop all workers and run streams state rebuild "
            f"{facts.before_rekey or facts.source} --from-source",
        )  # fmt: skip
    if facts.epoch > now_ms + CLOCK_AHEAD_MS:
        yield Finding(
            f"epochs of {facts.source} partition {number}", f"one that is {facts.epoch - now_ms} ms ahead",
            "none from the future",
            "an older release, or a clock that was wrong; what is created from now on gets higher ones",
        )  # fmt: skip
