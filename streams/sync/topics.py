"""The topics of one sync: their names, and how they are made from the source's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.errors import Finding, SettingsError

__all__ = ["HEADER_ROOM_BYTES", "SyncTopics", "TopicPlan", "check_counts"]

HEADER_ROOM_BYTES = 64 * 1024
"""Room that dead letters and patches need for headers beyond what the source's records may have."""
DAY_MS = 86_400_000
LETTER_RETENTION_DAYS = 14
"""Dead letters are for people: they outlive a holiday."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic to be created: partitions are the source's."""

    name: str
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SyncTopics:
    """Names of everything one sync reads and writes."""

    source: str
    output: str
    resync: str
    dead_letters: str
    changelog: str
    rekey: str = ""
    """Between source and sync, where partitioning = "repartition"; else empty."""

    @classmethod
    def of(cls, app_id: str, source: str, output: str, partitioning: str = "") -> SyncTopics:
        """The house's names: DESIGN, Topics."""
        return cls(
            source=source,
            output=output or f"{source}.patches",
            resync=f"{source}.resync",
            dead_letters=f"{source}.dlq",
            changelog=f"{app_id}-{source}-changelog",
            rekey=f"{app_id}-{source}-rekey" if partitioning == "repartition" else "",
        )

    @property
    def input(self) -> str:
        """What the sync itself reads: the source, or its records under their entity keys."""
        return self.rekey or self.source

    @property
    def names(self) -> list[str]:
        """Every topic of the sync."""
        every = (self.source, self.rekey, self.output, self.resync, self.dead_letters, self.changelog)
        return [name for name in every if name]

    def plans(self, record_bytes_max: int) -> list[TopicPlan]:
        """What has to exist beside the source."""
        room = {"max.message.bytes": str(record_bytes_max + HEADER_ROOM_BYTES)}
        # Retention counts from a record's timestamp: that of an old event would be over before anybody reads its patch.
        kept = {"message.timestamp.type": "LogAppendTime"}
        rekey = [TopicPlan(self.rekey, {**room, **kept})] if self.rekey else []
        return [
            *rekey,
            TopicPlan(self.output, {**room, **kept}),
            TopicPlan(self.resync, {**kept, "retention.ms": str(DAY_MS)}),
            TopicPlan(self.dead_letters, {**room, **kept, "retention.ms": str(LETTER_RETENTION_DAYS * DAY_MS)}),
            TopicPlan(self.changelog, {**room, "cleanup.policy": "compact"}),
        ]


def check_counts(topics: SyncTopics, existing: Mapping[str, int]) -> None:
    """Refuses partition counts that differ from the source's: keys would meet the state of others.

    SettingsError names each topic, what was found, what was expected and the cure.
    """
    wanted = existing[topics.source]
    findings = [
        Finding(
            f"topic {name}",
            f"{existing[name]} partitions",
            f"{wanted}, as {topics.source} has",
            count_cure(topics, name, grew=existing[name] > wanted),
        )
        for name in topics.names
        if name in existing and existing[name] != wanted
    ]
    if findings:
        raise SettingsError(*findings)


def count_cure(topics: SyncTopics, name: str, *, grew: bool) -> str:
    """What to do about a partition count that is not the source's."""
    if not grew:
        return (
            f"{topics.source} has grown, and keys would meet the state of others: use another app id and output, or "
            "repartition into a new source"
        )
    if name in (topics.resync, topics.dead_letters):
        return "partitions cannot be taken away: work its records off, stop the workers and delete it; it is made anew"
    return "partitions cannot be taken away: use another app id and output"
