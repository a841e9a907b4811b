"""What a receiver holds of every key, and how a patch changes it. Pure: records in, changes and wishes out, no I/O.

Both receivers, async and blocking, are thin shells around this. The verdict on a patch is `streams.kernel.rule`'s; this
applies the patch, proves the result by its digest, and notes which keys need a snapshot. A key whose patch could not be
applied keeps its last proven state, at that state's revision, until a snapshot or a delete comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Generic

from google.protobuf.message import DecodeError

from streams.client.applying import Applier, Refusal
from streams.client.change import Change, Counts, Kind, M
from streams.client.missed import Missing
from streams.client.resync import Ask, Asks
from streams.client.rows import Row, Rows
from streams.errors import SchemaError
from streams.kernel.rule import Held, Verdict, decide
from streams.v1.patch_pb2 import Patch
from streams.v1.resync_pb2 import Resync

__all__ = ["RESYNC_FOR", "HeldStates"]

RESYNC_FOR = "resync-for"
"""Header of a snapshot on demand; its value names who asked."""
ANYBODY = b"*"
"""The name of all who asked, where one snapshot answers several."""

Header = tuple[str, bytes | None]


class HeldStates(Generic[M]):
    """The keyed state of one receiver, per partition. Not thread-safe: one record after the other."""

    def __init__(self, message_class: type[M], *, requester: str, asks: Asks | None) -> None:
        """`requester` is this receiver's name on its requests. `asks` None: gaps are counted and waited out."""
        self.counts = Counts()
        self._message_class = message_class
        self._applier = Applier(message_class)
        self._requester = requester.encode()
        self._asks = asks
        self.rows = Rows()

    def take(
        self, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Sequence[Header] = ()
    ) -> Change[M] | None:
        """Applies the patch of one record. Returns the change, or None when the record changed nothing.

        Raises SchemaError when the patch is of another message type, PatchError when its kind is unknown: going on
        would silently skip what this receiver was made for.
        """
        if value is None:
            self.counts.empty += 1
            return None
        try:
            patch = Patch.FromString(value)
            is_patch = patch.kind != Patch.KIND_UNSPECIFIED
        except DecodeError:
            is_patch = False
        if not is_patch:  # nobody's record, whatever its bytes may pass for: no release writes one without a kind
            self._damaged(key or b"", partition, offset)
            return None
        if patch.type != self._applier.type and (patch.type or patch.kind != Patch.DELETE):
            raise SchemaError(
                f"partition {partition} offset {offset}: the patch is of {patch.type or 'no type'}, expected "
                f"{self._applier.type}; give the receiver the topic's message class, or the topic of this class",
                type=self._applier.type,
                came=patch.type,
                wanted=self._applier.type,
            )
        row = self.rows.get(partition, patch.key)
        verdict = decide(row.held if row is not None else None, patch)
        if verdict is Verdict.APPLY:
            return self._apply(row, patch, partition, offset)
        self._count(verdict, patch, headers)
        if verdict is Verdict.DUPLICATE:
            if patch.kind != Patch.DELTA:
                row = self.rows.confirm(partition, patch.key, (patch.epoch, patch.revision))
            self._answered(patch.key, row)
        else:
            missing = Missing((patch.epoch, patch.revision), offset, Resync.GAP)
            self._want(row, patch.key, partition, missing)
        return None

    def get(self, key: bytes) -> M | None:
        """The message held of the key, parsed anew; None when there is none."""
        state = self.state(key)
        return None if state is None else self._message_class.FromString(state)

    def state(self, key: bytes) -> bytes | None:
        """The canonical bytes held of the key, fields that the message class lacks included; None: no message."""
        found = self.rows.find(key)
        return found[1].state if found is not None else None

    def states(self) -> Iterator[tuple[bytes, M]]:
        """Every key with its message, deleted ones left out. Parsed as it is read; changes meanwhile may show."""
        for key, row in self.rows.items():
            if row.state is not None:
                yield key, self._message_class.FromString(row.state)

    def revision(self, key: bytes) -> tuple[int, int] | None:
        """(epoch, revision) held of the key, that of the DELETE after one; None when nothing is held."""
        found = self.rows.find(key)
        return (found[1].held.epoch, found[1].held.revision) if found is not None else None

    def is_stale(self, key: bytes) -> bool:
        """Whether what is held of a key may be older than what its owner has.

        A patch of it could not be applied, or it was asked for, or its partition lost its place since, or nothing is
        held of it where keys may exist.
        """
        if self.rows.missed.find(key) is not None or (self._asks is not None and key in self._asks):
            return True
        found = self.rows.find(key)
        if found is None:
            return bool(self.rows.partial)
        return not found[1].held.intact or self.rows.is_doubtful(*found)

    def use(self, key: bytes) -> None:
        """Somebody wants to know of a key: one that is stale, or may exist, is asked for."""
        if self._asks is None:
            return
        found, missed = self.rows.find(key), self.rows.missed.find(key)
        if missed is not None:
            self._asks.use(self._again(*missed, key))
        elif found is None and self.rows.partial:
            everywhere = tuple(sorted(self.rows.partial))
            self._asks.use(Ask(key, -1, -1, Resync.LATE_JOINER, 0, 0, (0, 0), everywhere=everywhere))
        elif found is not None and (self.rows.is_doubtful(*found) or not found[1].held.intact):
            partition, (epoch, revision) = found[0], (found[1].held.epoch, found[1].held.revision)
            self._asks.use(Ask(key, partition, -1, Resync.LATE_JOINER, epoch, revision, (epoch, revision)))

    def fill(
        self,
        partition: int,
        rows: Iterable[tuple[bytes, Row]],
        age: int,
        *,
        own: bool,
        missing: Mapping[bytes, Missing],
    ) -> None:
        """Takes in what was stored of a partition; `own`: under this very descriptor.

        What keys missed was asked for before it was stored; it is asked for again where no answer comes.
        """
        held = rows if own else [(key, self._recast(row)) for key, row in rows]
        unread = {key: row.held for key, row in held if not row.held.intact and key not in missing}
        missing = {
            **missing,
            **{key: Missing((was.epoch, was.revision), -1, Resync.LATE_JOINER) for key, was in unread.items()},
        }
        self.rows.fill(partition, held, missing, age, changed=not own)
        if self._asks is not None:
            for key, missed in missing.items():
                self._asks.resume(self._again(partition, missed, key))

    def _again(self, partition: int, missed: Missing, key: bytes) -> Ask:
        """The request for what a key misses, which holds no commit up: its patch was passed long ago."""
        row = self.rows.get(partition, key)
        epoch, revision = (row.held.epoch, row.held.revision) if row is not None else (0, 0)
        return Ask(
            key, partition, missed.offset, missed.reason, epoch, revision, missed.needed, attempts=1, earlier=True
        )

    def replaced(self, partition: int) -> None:
        """The partition is another log's now: requests that name patches of the old one say nothing there."""
        self.rows.missed.forgive(partition)
        if self._asks is not None:
            self._asks.drop(partition)

    def _recast(self, row: Row) -> Row:
        """A row in the canonical form of this descriptor; where there is none it waits for a snapshot."""
        if row.state is None:
            return row
        state = self._applier.schema.canonicalise(row.state)
        try:
            self._message_class.FromString(state or b"")
        except DecodeError:
            state = None
        held = row.held if state is not None else replace(row.held, intact=False)
        return replace(row, held=held, state=state)

    def drop(self, partition: int) -> None:
        """Forgets a partition that another member of the group reads from here on."""
        self.rows.drop(partition)
        if self._asks is not None:
            self._asks.drop(partition)

    def __len__(self) -> int:
        """Keys with a message."""
        return len(self.rows)

    def _apply(self, row: Row | None, patch: Patch, partition: int, offset: int) -> Change[M] | None:
        """Applies a patch that the rule lets through; refuses it when the result cannot be trusted."""
        message = None
        try:
            state = self._applier.after(row.state if row is not None else None, patch)
            if isinstance(state, bytes):
                message = self._message_class.FromString(state)
        except (ValueError, DecodeError):
            state = Refusal(Resync.GAP)
        if not isinstance(state, Refusal):
            return self._store(patch, state, message, partition, offset)
        reason = state.reason
        self.counts.refused += 1
        if reason == Resync.DIGEST_MISMATCH:
            self.counts.digest_failures += 1
        elif reason == Resync.UNKNOWN_FIELD:
            self.counts.unknown_paths += 1
        else:
            self.counts.damaged += 1
        if row is not None:
            self.rows.distrust(partition, patch.key, row)
        self._want(row, patch.key, partition, Missing((patch.epoch, patch.revision), offset, reason))
        return None

    def _store(self, patch: Patch, state: bytes | None, message: M | None, partition: int, offset: int) -> Change[M]:
        self.counts.applied += 1
        row = self.rows.put(partition, patch.key, Held(patch.epoch, patch.revision), state)
        self._answered(patch.key, row)
        return Change(
            key=patch.key,
            message=message,
            paths=self._applier.paths(patch),
            kind=Kind(patch.kind),
            epoch=patch.epoch,
            revision=patch.revision,
            event_id=patch.event_id,
            event_source=patch.event_source,
            event_time=_event_time(patch),
            traceparent=patch.traceparent,
            tracestate=patch.tracestate,
            partition=partition,
            offset=offset,
        )

    def _count(self, verdict: Verdict, patch: Patch, headers: Sequence[Header]) -> None:
        """Counts a patch that is not applied."""
        if verdict is Verdict.GAP:
            self.counts.gaps += 1
        elif verdict is Verdict.STALE:
            self.counts.stale += 1
        elif any(name == RESYNC_FOR and requester not in (self._requester, ANYBODY) for name, requester in headers):
            self.counts.foreign += 1
        else:
            self.counts.duplicates += 1

    def _damaged(self, key: bytes, partition: int, offset: int) -> None:
        """A record that is no patch: whatever it said of its key is lost, so a snapshot of the key is wanted."""
        self.counts.refused += 1
        self.counts.damaged += 1
        row = self.rows.get(partition, key)
        if key:
            needed = (row.held.epoch, row.held.revision) if row is not None else (0, 0)
            self._want(row, key, partition, Missing(needed, offset, Resync.GAP))

    def _want(self, row: Row | None, key: bytes, partition: int, missing: Missing) -> None:
        """The key misses something: known until it is made up for, and asked for where that is wanted."""
        self.rows.missed.add(partition, key, missing)
        if self._asks is not None:
            epoch, revision = (row.held.epoch, row.held.revision) if row is not None else (0, 0)
            ask = Ask(key, partition, missing.offset, missing.reason, epoch, revision, missing.needed)
            self._asks.want(ask)

    def _answered(self, key: bytes, row: Row | None) -> None:
        """What is held of the key now may be what it missed, and what was asked for."""
        if row is not None and row.held.intact:
            version = (row.held.epoch, row.held.revision)
            self.rows.missed.made_up(key, version)
            if self._asks:
                self._asks.answered(key, version)


def _event_time(patch: Patch) -> datetime | None:
    """The event's time in UTC, to the microsecond; None where there is none or a datetime cannot hold it."""
    if not patch.HasField("event_time"):
        return None
    try:
        stamp = patch.event_time
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    except OverflowError:
        return None
