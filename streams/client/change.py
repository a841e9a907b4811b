"""What a receiver hands out: one change of one entity, and the count of what it did with the patches it read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Generic, TypeVar

from google.protobuf.message import Message

from streams.kernel import rule

__all__ = ["Change", "Counts", "Kind"]

M = TypeVar("M", bound=Message)
"""The message type that a topic's patches are of."""


class Kind(IntEnum):
    """The numbers of `streams.v1.Patch.Kind`."""

    DELTA = rule.DELTA
    SNAPSHOT = rule.SNAPSHOT
    DELETE = rule.DELETE


@dataclass(frozen=True, slots=True)
class Change(Generic[M]):
    """One applied patch: the entity as it is from here on, and what the patch said about its origin.

    `message` is the whole entity after the change, None after a DELETE. `paths` are the fields that changed, as the
    receiver's own message class names them and, where it lacks one, as their owner does; exactly ("*",) for a SNAPSHOT
    and empty for a DELETE. `event_time` is UTC, None where the event gave none; the event's
    strings are empty where it gave none. `partition` and `offset` are the patch's own. Key and message stay out of the
    repr, and so out of logs.
    """

    key: bytes = field(repr=False)
    message: M | None = field(repr=False)
    paths: tuple[str, ...]
    kind: Kind
    epoch: int
    revision: int
    event_id: str
    event_source: str
    event_time: datetime | None
    traceparent: str
    tracestate: str
    partition: int
    offset: int


@dataclass(slots=True)
class Counts:
    """What became of the patches read so far. Every record read is in exactly one of the first seven."""

    applied: int = 0
    duplicates: int = 0
    """At or below what is held."""
    foreign: int = 0
    """Snapshots that another receiver asked for and that are no news here."""
    gaps: int = 0
    """Not applied, because revisions between it and what is held are missing."""
    stale: int = 0
    """Not applied, because the key waits for a snapshot."""
    refused: int = 0
    """Not applied: failed its digest, changed a field that cannot be found here, or was damaged."""
    empty: int = 0
    """Records without a value: no patches; left by tools that write tombstones."""
    digest_failures: int = 0
    unknown_paths: int = 0
    damaged: int = 0
    snapshots_asked: int = 0
    """Requests handed to the log, repeated ones included."""
    logs_replaced: int = 0
    """Partitions whose position meant nothing any more: made anew, of another cluster, or cut by retention."""
