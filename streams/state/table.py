"""Keyed state of one sync: a native table per source partition, restored from the changelog, folded by the pipeline."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from streams._native import (
    EXPIRE_MAX,
    PARTITION_KEY,
    REPAIRS_KEY,
    SCHEMA_KEY,
    Job,
    KafkaConsumer,
    Records,
    Step,
    Table,
    decode_row,
    deleted_at,
)
from streams.errors import SchemaError, StateError, TransportError
from streams.kernel.schema import compare
from streams.state.changelog import LogReader
from streams.state.loader import Loader
from streams.state.rocks import Memory, Store, StoreName
from streams.state.standby import Standby
from streams.state.stores import Identity, unfit
from streams.transport.chunk import Output
from streams.transport.identity import Bounds, offset_metadata
from streams.transport.tail import Progress

if TYPE_CHECKING:
    from streams._native import Assigned

__all__ = ["PartitionState", "States"]

log = logging.getLogger(__name__)

NOWHERE = Identity()
OWN_KEYS = (SCHEMA_KEY, PARTITION_KEY, REPAIRS_KEY)
"""What lies beside the entities' rows: in the changelog, and in a store alone the keys whose right row is owed."""


class PartitionState:
    """Rows of one partition. `process` and `commit` run in different threads; the native table has the lock."""

    def __init__(
        self,
        job: Job,
        partition: int,
        changelog_topic: str,
        store: Store | None,
        log: LogReader,
        *,
        fenced: bool = True,
        identity: Identity = NOWHERE,
    ) -> None:
        """`fenced`: the broker refuses the transaction of a worker that is no owner any more (exactly once)."""
        self._job = job
        self.table = Table(job, partition, resident=store is None)
        if store is not None:
            self.table.load(OWN_KEYS, store.multi_get(OWN_KEYS))
        self.partition = partition
        self.store = store
        self.identity = identity
        self._topic = changelog_topic
        self._log = log
        self._fenced = fenced
        self._changelog_end: int | None = None
        self._loader = Loader(self.table, store) if store is not None else None
        self._expired_mark = 0  # of the last call that tombstones of the store were loaded for
        self._begin = 0
        self._reached = 0  # an offset that the changelog's end has reached
        self._covered = 0  # of the changelog: the store has every row below it
        self._handed: tuple[int, int] | None = None  # end of the changelog before the rows under way, and their number
        self.committed_mark = 0
        self.restored = 0
        """Rows read from the changelog at the last restore."""

    def process(self, records: Records, now_ms: int, *, requests: bool = False) -> Step:
        """One chunk of events, or of snapshot requests. Rows stay uncommitted under the step's mark."""
        due: list[bytes] = []
        if self.store is not None:
            due = [] if requests else self._due(self.store, now_ms)
        if self._loader is not None:
            records = self._loader.load(records, due, requests=requests)
        if requests:
            return self.table.snapshots(records, now_ms)
        step = self.table.process(records, now_ms)
        if due:
            self._expired_mark = step.mark
        return step

    def take_back(self, records: Records, now_ms: int, row_bytes_max: int) -> Step:
        """See `Table.take_back`."""
        part = records if self._loader is None else self._loader.load(records, [], requests=False)
        return self.table.take_back(part, now_ms, row_bytes_max)

    def _due(self, store: Store, now_ms: int) -> list[bytes]:
        """Tombstones that the next call is to remove; none while those of an earlier call are not committed."""
        if self.committed_mark < self._expired_mark:
            return []
        return store.due(now_ms - self._job.tombstone_retention_ms, EXPIRE_MAX)

    # -- transport.chunk.Participant --------------------------------------------------------------------------

    def changelog(self, after: int, upto: int) -> Output | None:
        """Rows of the marks in (after, upto], for the changelog topic; None: no row changed."""
        rows = self.table.changelog(after, upto)
        self._reached += len(rows)
        if self.store is not None and not self._fenced:
            self._handed = (self._log.log_end(self._topic, self.partition), len(rows))
        return Output(self._topic, self.partition, rows) if len(rows) else None

    def acknowledged(self) -> None:
        """Notes how far a store will have come when the transaction is confirmed.

        Asked after the commit, by a worker that stood still meanwhile, the end would hold rows of the next owner, which
        this store lacks. Where nobody fences such a worker even the end as of now may: it counts only where the rows
        under way are all that came since the store equalled its changelog.
        """
        if self.store is None:
            return
        end = self._log.log_end(self._topic, self.partition)
        if self._fenced or self._handed == (self._covered, end - self._covered):
            self._covered = end
        self._changelog_end = self._covered

    def commit(self, upto: int) -> None:
        """The transaction is confirmed: the rows of these marks are the state."""
        rows = self.table.commit(upto)
        if self.store is not None and len(rows):
            # The store may take the rows now, never before. An offset below their own is merely read again; only a log
            # that no other worker can write is asked where it ends after the commit.
            end = self._changelog_end
            offset = self._log.log_end(self._topic, self.partition) if end is None else end
            self.store.write(rows, offset, self.table.take_moved())
        self.committed_mark = upto

    def assigned(self, generation: int | None, *, is_group_new: bool, is_replaced: bool) -> Assigned:
        """Tells the table what its owner knows. StateError: the rows' format has no place for it, with the cure.

        TransportError, retriable: a later owner has written, which the group has not said yet.
        """
        try:
            answer = self.table.assigned(
                log=self.identity.source,
                output=self.identity.output,
                generation=generation,
                is_group_new=is_group_new,
                is_replaced=is_replaced,
            )
        except RuntimeError as error:
            raise StateError(str(error), table=self._topic) from None
        if answer["late"]:
            raise TransportError(
                f"{self._topic} partition {self.partition}: another worker has written under a later generation of the "
                "group than this one's; waiting for the group to say so",
                retriable=True,
            )
        return answer

    def beside(self) -> str:
        """What to keep beside the input's offset: the logs that it and the rows below it are in."""
        record = self.table.partition_record
        return offset_metadata(
            self.identity.source,
            self.identity.changelog,
            self._begin,
            self._reached,
            record["last_epoch"],
            partial=record["partial"],
        )

    # -- restoring --------------------------------------------------------------------------------------------

    def restore_from(self) -> int:
        """The changelog offset that the rows already contain."""
        return (self.store.changelog_offset() or 0) if self.store is not None else 0

    def restore(self, rows: Records) -> None:
        """Takes rows of the changelog in; the highest (epoch, revision, ordinal, offset) of a key wins, and among them
        no row of an owner that was none any more.
        """
        if self.store is None or self._loader is None:
            self.table.restore(rows)
        else:
            # Of each key the highest row, the store's own included: a worker that was no owner any more, and not fenced
            # (at least once), may have written a lower one after it.
            left = rows
            while len(left):
                part = self._loader.load(left, [], requests=True)
                self.table.restore(part)
                self.store.write(self.table.commit(0), part.last_offset + 1, self.table.take_moved())
                left = left.slice(len(part), len(left))
        self.restored += len(rows)

    def list_tombstones(self, keep_going: Callable[[], bool]) -> None:
        """Knows the tombstones of a store from here on. One that an older release wrote is read through once."""
        if self.store is not None:
            if self.store.tombstones is None:
                self.store.list_tombstones(deleted_at, keep_going)
            self.table.set_tombstones(self.store.tombstones or 0)

    def restored_to(self, end: int) -> None:
        """The changelog was read up to this offset."""
        self._begin = self._log.log_start(self._topic, self.partition)
        self._reached = self._covered = end

    @property
    def is_empty(self) -> bool:
        """Whether there is no row, not even of a deleted key."""
        return not len(self.table) if self.store is None else next(self.store.rows(), None) is None

    def row(self, key: bytes) -> bytes | None:
        """The committed row of a key."""
        return self.table.get(key) if self.store is None else self.store.multi_get([key])[0]

    def highest_offset(self) -> int:
        """The highest source offset of any row, -1 without one. Every row is read."""
        in_memory = map(self.table.get, self.table.keys())
        rows = in_memory if self.store is None else map(itemgetter(1), self.store.rows())
        return max((decode_row(row)["offset"] for row in rows if row is not None), default=-1)

    def close(self) -> None:
        """Lets the store go; the rows in memory go with this object."""
        if self.store is not None:
            self.store.close()


class States:
    """The partitions of one sync that this worker owns."""

    def __init__(
        self,
        job: Job,
        *,
        owner: str,
        changelog_topic: str,
        field_table: bytes,
        directory: Path | None,
        log: LogReader,
        fenced: bool = True,
        open_tail: Callable[[], KafkaConsumer] | None = None,
    ) -> None:
        """`owner`: the application's id. `directory`: of the rocksdb stores; None keeps the rows in memory.
        `fenced`: see `PartitionState`. `open_tail` makes standbys possible.
        """
        self._job = job
        self._owner = owner
        self._fenced = fenced
        self.identity = Identity()
        """Of the logs, as of the last assignment; set before anything is opened."""
        self.changelog_topic = changelog_topic
        self._field_table = field_table
        self._directory = directory
        self._memory = Memory() if directory is not None else None
        self._log = log
        self._partitions: dict[int, PartitionState] = {}
        self._lock = threading.Lock()
        self._standby = Standby(changelog_topic, self._open, open_tail) if open_tail is not None else None
        self.restore_seconds = 0.0
        """How long the last restore took."""

    def __getitem__(self, partition: int) -> PartitionState:
        return self._partitions[partition]

    def __iter__(self) -> Iterator[PartitionState]:
        return iter(list(self._partitions.values()))

    @property
    def keys(self) -> int:
        """Rows held in memory by this worker."""
        return sum(len(state.table) for state in self)

    def assign(self, partitions: set[int], keep_going: Callable[[], bool], progress: Progress | None = None) -> None:
        """Brings the state in line with the assignment: gives up partitions, restores new ones. Blocks.

        `progress` is called with records read and records to read. Stops without the new ones if `keep_going` says so.
        """
        with self._lock:
            for partition in self._partitions.keys() - partitions:
                self._partitions.pop(partition).close()
            new, start = self._begin(partitions - self._partitions.keys())
            began = time.perf_counter()
            restored = False
            try:
                ends = self._log.read_log(
                    start, lambda _, partition, rows: new[partition].restore(rows), keep_going, progress
                )
                for state in new.values():
                    state.restored_to(ends[self.changelog_topic, state.partition])
                    self._check_schema(state)
                    state.list_tombstones(keep_going)
                restored = keep_going()
            finally:
                if not restored:
                    for state in new.values():
                        state.close()
            if restored:
                for state in new.values():
                    if state.store is not None:
                        state.store.up_to_date()
                self.restore_seconds = time.perf_counter() - began
                self._partitions.update(new)

    def _begin(self, partitions: set[int]) -> tuple[dict[int, PartitionState], dict[tuple[str, int], int]]:
        """New partitions and the changelog offsets to restore them from; a standby's copy is nearly there."""
        new: dict[int, PartitionState] = {}
        start: dict[tuple[str, int], int] = {}
        for partition in partitions:
            taken = self._standby.take(partition) if self._standby is not None else None
            state, position = taken or (self._open(partition), None)
            new[partition] = state
            start[self.changelog_topic, partition] = state.restore_from() if position is None else position
        return new, start

    def follow(self, partitions: set[int]) -> None:
        """Keeps warm copies of partitions that other workers own."""
        if self._standby is not None:
            self._standby.follow(partitions)

    def raise_epoch(self, above: int) -> None:
        """Epochs are issued above this one from now on, in every partition."""
        with self._lock:
            for state in self._partitions.values():
                state.table.raise_epoch(above)

    def close(self) -> None:
        """Lets everything go; stores are closed."""
        if self._standby is not None:
            self._standby.stop()
        self.forget()

    def drop_pending(self) -> None:
        """Uncommitted rows go; the committed ones stay."""
        for state in self:  # a restore may be under way, which adds partitions without any
            state.table.drop_pending()

    def forget(self) -> None:
        """All rows go: whether the last commit happened is not known, the changelog knows."""
        with self._lock:
            for state in self._partitions.values():
                state.close()
            self._partitions.clear()

    def _open(self, partition: int) -> PartitionState:
        store = self._open_store(self._directory / str(partition), partition) if self._directory is not None else None
        return PartitionState(
            self._job,
            partition,
            self.changelog_topic,
            store,
            self._log,
            fenced=self._fenced,
            identity=self.identity,
        )

    def _open_store(self, path: Path, partition: int) -> Store:
        """The partition's store, made anew where its rows are not this changelog's."""
        store = Store(path, self._memory)
        try:
            name = StoreName(self._owner, partition, self.identity.changelog)
            offset = store.changelog_offset()
            start, end = self._log.log_start, self._log.open_end
            if offset is not None:
                bounds = Bounds(start(self.changelog_topic, partition), end(self.changelog_topic, partition))
                markers = self._log.marker_offsets if self._fenced else 0
                fault = unfit(store.name, name, offset, bounds, store.age_ms, marker_offsets=markers)
                if fault is not None:
                    log.warning("state store %s: %s; it is made anew from %s", path, fault, self.changelog_topic)
                    store.close()
                    shutil.rmtree(path)
                    store = Store(path, self._memory)
            if store.name != name:
                store.take_name(name)
        except BaseException:
            store.close()
            raise
        return store

    def _check_schema(self, state: PartitionState) -> None:
        stored = state.row(SCHEMA_KEY)
        if stored is None or stored[1:] == self._field_table:
            return
        changed = compare(stored[1:], self._field_table)
        if changed:
            raise SchemaError(
                f"{self.changelog_topic}/{state.partition}: stored rows and this worker's message type disagree: "
                f"{'; '.join(changed)}; give changed fields new numbers, or rebuild the state under another app id"
            )
