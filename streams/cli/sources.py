"""What the commands know of a source: its [[sync]], as the file has it, and its topics, as they are on the broker.

An application in code may have no file that says how its source is partitioned, and a command that took the offsets of
the copies for those of the source would write down the wrong log, or see no stop. So the topic of the copies says it.
"""

from __future__ import annotations

import dataclasses

from streams.cli import reading
from streams.options import Settings, SyncSettings
from streams.sync.topics import SyncTopics

__all__ = ["as_found", "source_of", "sync_of", "topics_of"]

COPIED = "repartition"


def sync_of(settings: Settings, source: str) -> SyncSettings:
    """The [[sync]] of a source; one with defaults where the file has none, as for an app in code."""
    return next((sync for sync in settings.sync if sync.source == source), SyncSettings(source=source))


def topics_of(settings: Settings, source: str) -> SyncTopics:
    """The topics of a source; with that of its copies where the file names it, or there is one."""
    sync = sync_of(settings, source)
    copied = SyncTopics.of(settings.app.id, source, sync.output, COPIED)
    if sync.partitioning == COPIED or reading.ends(settings, copied.rekey)[copied.rekey]:
        return copied
    return SyncTopics.of(settings.app.id, source, sync.output)


def as_found(settings: Settings) -> Settings:
    """The same settings, each [[sync]] with `repartition` where there is a topic of copies of its source."""
    found = [
        dataclasses.replace(sync, partitioning=COPIED) if topics_of(settings, sync.source).rekey else sync
        for sync in settings.sync
    ]
    return dataclasses.replace(settings, sync=tuple(found))


def source_of(settings: Settings, topic: str) -> str:
    """Of which source a topic holds the copies, by its name; the topic's own name where it is none of these."""
    before, after = (SyncTopics.of(settings.app.id, "\0", "", COPIED).rekey).split("\0")
    is_copy = topic.startswith(before) and topic.endswith(after) and len(topic) > len(before) + len(after)
    return topic[len(before) : -len(after)] if is_copy else topic
