"""What `streams doctor` has to know of a changelog: its own records and the epochs, read through once, no row kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streams._native import PARTITION_KEY, RESERVED_PREFIX, SCHEMA_KEY, decode_partition, decode_row
from streams.cli import groups, reading
from streams.cli.log_checks import LogFacts
from streams.kernel.messages import load_message
from streams.kernel.schema import MessageSchema, compare
from streams.options import Settings, SyncSettings
from streams.sync.topics import SyncTopics
from streams.transport.identity import Bounds

if TYPE_CHECKING:
    from streams._native import PartitionFields

__all__ = ["Stored", "log_facts", "schema_changes", "stored"]


@dataclass(slots=True)
class Stored:
    """One changelog."""

    schemas: set[bytes] = field(default_factory=set)
    records: dict[int, PartitionFields] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    """The highest of each partition, of rows and record."""

    def take(self, partition: int, key: bytes, value: bytes) -> None:
        """One record that has a value. ValueError: it is none of ours."""
        if key == SCHEMA_KEY:
            self.schemas.add(value)
        elif key == PARTITION_KEY:
            self.records[partition] = decode_partition(value)
            self._issued(partition, self.records[partition]["last_epoch"])
        elif not key.startswith(RESERVED_PREFIX):
            self._issued(partition, decode_row(value)["epoch"])

    def _issued(self, partition: int, epoch: int) -> None:
        self.epochs[partition] = max(epoch, self.epochs.get(partition, 0))


def stored(settings: Settings, changelog: str) -> Stored:
    """Reads a changelog."""
    found = Stored()
    for partition, records in reading.read_all(settings, changelog):
        for index in range(len(records)):
            key, value = records.key(index), records.value(index)
            if key is None or value is None:
                continue
            try:
                found.take(partition, key, value)
            except ValueError:
                continue  # `streams state verify` counts those
    return found


def schema_changes(settings: Settings, sync: SyncSettings, kept: Stored) -> list[str]:
    """What changed incompatibly between the type that stored rows have and the one that the settings name."""
    kind = load_message(sync.message, descriptors=sync.descriptors or None, module=sync.module or None)
    own = MessageSchema(kind, sync.ignore).field_table_bytes
    return sorted({change for value in kept.schemas for change in compare(value[1:], own)})


def log_facts(settings: Settings, sync: SyncSettings, kept: Stored) -> list[LogFacts]:
    """The logs of a sync as they are now, beside what is kept of them, by partition."""
    topics = SyncTopics.of(settings.app.id, sync.source, sync.output, sync.partitioning)
    ids = groups.ids(settings, [topics.input, topics.changelog])
    rows = {place.partition: place.bounds for place in groups.places(settings, topics.changelog)}
    facts = []
    for place in groups.places(settings, topics.input):
        record = kept.records.get(place.partition)
        facts.append(
            LogFacts(
                topics.input,
                topics.changelog,
                place,
                ids.get(topics.input, b""),
                ids.get(topics.changelog, b""),
                rows.get(place.partition, Bounds(0, 0)),
                recorded=record["logs"].get(record["ordinal"], b"") if record is not None else b"",
                has_record=record is not None,
                epoch=kept.epochs.get(place.partition, 0),
                before_rekey=topics.source if topics.rekey else "",
            )
        )
    return facts
