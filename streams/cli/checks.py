"""What `streams doctor` judges: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from streams.cli.log_checks import LogFacts, log_findings
from streams.cli.verifying import split_finding
from streams.errors import Finding
from streams.options import Settings, SyncSettings
from streams.sync.topics import HEADER_ROOM_BYTES, SyncTopics, count_cure

__all__ = ["Facts", "Stopped", "TopicFacts", "findings"]

CLOCK_AHEAD_MS = 60_000
"""A record stamped a minute ahead of this machine: one of the two clocks is wrong, not merely late."""
DISK_FREE_BYTES_MIN = 1 << 30
"""A store compacts by writing anew: with less it stops in the middle of a busy day."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of a topic. `config` has Kafka's names."""

    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """A number of the configuration; None where the broker does not say."""
        text = self.config.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else None


@dataclass(frozen=True, slots=True)
class Stopped:
    """A partition that stands still since then, because of so many dead letters; `topic` is what is not read."""

    topic: str
    partition: int
    since_ms: int
    letters: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was looked up. `schema_changes` and `newest_ms` by source, where there is anything."""

    topics: Mapping[str, TopicFacts]
    now_ms: int
    disk_free_bytes: int
    schema_changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    newest_ms: Mapping[str, int] = field(default_factory=dict)
    logs: Sequence[LogFacts] = ()
    """Of every partition of every sync whose topics exist."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Topics that the worker on this machine found to be other ones since it started."""
    stops: Mapping[str, Sequence[Stopped]] = field(default_factory=dict)
    """The stopped partitions of each source, as its changelog has them."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """What the worker on this machine waits for, by its /readyz; empty where none answers."""
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Other applications that claim an output, or have state that seems to be of it, by output."""
    split_keys: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """Keys that live in more than one partition, by source."""


def findings(settings: Settings, facts: Facts) -> Iterator[Finding]:
    """Everything that is wrong or will be, each with its cure."""
    for sync in settings.sync:
        topics = SyncTopics.of(settings.app.id, sync.source, sync.output, sync.partitioning)
        if sync.source not in facts.topics:
            yield Finding(
                f"topic {sync.source}", "no such topic", "the topic of the events",
                "create it, with as many partitions as it will ever need; a worker waits for it",
            )  # fmt: skip
            continue
        yield from _counts(topics, facts)
        yield from _changelog(topics, facts)
        yield from _owners(settings, topics, facts)
        yield from split_finding(sync.source, facts.split_keys.get(sync.source, ()))
        yield from _sizes(topics, settings, facts)
        yield from _retention(sync, topics, facts)
        yield from _timestamps(topics, facts)
        yield from _schema(sync, facts)
        yield from _clock(sync, facts)
        yield from _stopped(sync, facts)
    for log in facts.logs:
        yield from log_findings(log, facts.now_ms)
    for topic, note in facts.replaced.items():
        yield Finding(
            f"topic {topic}", note, "the log that it was",
            "nothing has to be done where that was meant; the next start of the worker forgets it",
        )  # fmt: skip
    for name, reason in facts.waiting.items():
        yield Finding(
            f"worker on port {settings.app.web_port}", f"{name}: {reason}", "no reason to wait",
            "it goes on by itself when the reason is gone",
        )  # fmt: skip
    if facts.disk_free_bytes < DISK_FREE_BYTES_MIN:
        yield Finding(
            f"disk of {settings.app.datadir}", f"{facts.disk_free_bytes >> 20} MiB free",
            f"at least {DISK_FREE_BYTES_MIN >> 20} MiB", "free some, or move app.datadir",
        )  # fmt: skip


def _counts(topics: SyncTopics, facts: Facts) -> Iterator[Finding]:
    wanted = facts.topics[topics.source].partitions
    for name in topics.names:
        found = facts.topics.get(name)
        if found is None:
            yield Finding(
                f"topic {name}", "no such topic", f"one of {wanted} partitions", "the first worker creates it"
            )
        elif found.partitions != wanted:
            yield Finding(
                f"topic {name}", f"{found.partitions} partitions", f"{wanted}, as {topics.source} has",
                count_cure(topics, name, grew=found.partitions > wanted),
            )  # fmt: skip


def _changelog(topics: SyncTopics, facts: Facts) -> Iterator[Finding]:
    found = facts.topics.get(topics.changelog)
    policy = found.config.get("cleanup.policy", "") if found else ""
    if policy and policy != "compact":
        yield Finding(
            f"topic {topics.changelog}", f"cleanup.policy={policy}", "compact",
            "rows that are not written anew would be lost: set it before the retention passes",
        )  # fmt: skip


def _owners(settings: Settings, topics: SyncTopics, facts: Facts) -> Iterator[Finding]:
    """Receivers drop what one application sends as soon as another one's epochs are newer."""
    for other in facts.others.get(topics.output, ()):
        yield Finding(
            f"output {topics.output}", f"{settings.app.id} and {other}", "one application that writes it",
            f"set another `output =` for one of them; where {other} is gone for good, delete its changelog, "
            f"and run `streams state take-over {topics.source}` if it holds the claim",
        )  # fmt: skip


def _sizes(topics: SyncTopics, settings: Settings, facts: Facts) -> Iterator[Finding]:
    source = facts.topics[topics.source].number("max.message.bytes")
    wanted = min(source or settings.limits.record_bytes_max, settings.limits.record_bytes_max) + HEADER_ROOM_BYTES
    for name in (topics.output, topics.dead_letters, topics.changelog):
        found = facts.topics.get(name)
        size = found.number("max.message.bytes") if found else None
        if size is not None and size < wanted:
            yield Finding(
                f"topic {name}", f"max.message.bytes={size}", f"at least {wanted}",
                "a record as large as the source allows would not fit with its headers: raise it",
            )  # fmt: skip


def _retention(sync: SyncSettings, topics: SyncTopics, facts: Facts) -> Iterator[Finding]:
    """A tombstone has to outlive every event and dead letter that could come back."""
    for name in (topics.source, topics.dead_letters):
        found = facts.topics.get(name)
        kept_ms = found.number("retention.ms") if found else None
        if kept_ms is not None and (kept_ms < 0 or kept_ms > sync.tombstone_retention_ms):
            kept = "for ever" if kept_ms < 0 else f"for {kept_ms} ms"
            yield Finding(
                f"sync {sync.source}: tombstone_retention_ms",
                f"{sync.tombstone_retention_ms} while {name} keeps {kept}",
                "at least as long", "an event from before a delete could bring the key back: raise it, or keep less",
            )  # fmt: skip


def _timestamps(topics: SyncTopics, facts: Facts) -> Iterator[Finding]:
    """Retention by the event's time would remove the patch of an old event at once."""
    for name in (topics.output, topics.dead_letters):
        found = facts.topics.get(name)
        kind = found.config.get("message.timestamp.type", "LogAppendTime") if found else "LogAppendTime"
        if found and kind != "LogAppendTime" and (found.number("retention.ms") or 0) > 0:
            yield Finding(
                f"topic {name}", f"message.timestamp.type={kind}", "LogAppendTime",
                "retention would count from the event's time, and remove what is old but was just written",
            )  # fmt: skip


def _stopped(sync: SyncSettings, facts: Facts) -> Iterator[Finding]:
    """A partition that stands still while its topic's retention goes on: what is removed then was never read."""
    for stop in facts.stops.get(sync.source, ()):
        age_ms = max(0, facts.now_ms - stop.since_ms)
        topic = facts.topics.get(stop.topic)
        kept_ms = topic.number("retention.ms") if topic else None
        left = "its records are kept for ever"
        if kept_ms is not None and kept_ms >= 0:
            left_ms = kept_ms - age_ms
            left = (
                f"the first records behind it go in {left_ms} ms"
                if left_ms > 0
                else "records behind it are gone unread"
            )
        yield Finding(
            f"{stop.topic} partition {stop.partition}",
            f"stopped since {age_ms} ms by {stop.letters} dead letters; {left}",
            "one that is read",
            f"look at `streams dlq list {sync.source}`, mend the cause, then `streams resume {sync.source}`",
        )


def _schema(sync: SyncSettings, facts: Facts) -> Iterator[Finding]:
    for change in facts.schema_changes.get(sync.source, ()):
        yield Finding(
            f"sync {sync.source}: message", change, "the types that the stored rows were written with",
            "give a changed field a new number, or rebuild the state under another app id",
        )  # fmt: skip


def _clock(sync: SyncSettings, facts: Facts) -> Iterator[Finding]:
    newest_ms = facts.newest_ms.get(sync.source)
    if newest_ms is not None and newest_ms > facts.now_ms + CLOCK_AHEAD_MS:
        yield Finding(
            f"clock, seen in {sync.source}",
            f"a record from {newest_ms - facts.now_ms} ms ahead",
            "none from the future",
            "synchronise the clocks of this machine, the broker and the producers",
        )  # fmt: skip
