"""The durable local log: topics, partitions and group offsets in one directory, for one process.

What Kafka does for a cluster this does for one machine: `append` writes outputs and consumer offsets in one atomic,
durable transaction. Kill -9 at any moment leaves every acknowledged append whole and nothing half; only power loss
under `fsync="normal"` may take back the last ones.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal

from typing_extensions import override

from streams._native import Records
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import TransportError
from streams.transport.appender import Appender
from streams.transport.blocks import BlockFile, Fsync, Partition, Position, Topic, TopicPartition
from streams.transport.directory_lock import DirectoryLock
from streams.transport.file_upgrade import Upgrade
from streams.transport.upkeep import Upkeep, decoded

__all__ = ["Log", "Topic", "TopicPartition"]

POLL_MS = 100
"""A read-only log cannot be told of another process's appends and looks this often."""
PARTITIONS_MAX = 100_000
"""librdkafka's for a new topic: each partition costs every broker, and every client, memory."""
WAL_BYTES_MAX = 64 << 20
"""Four times the size at which commits carry the WAL over: only readers that never pause let it grow so far."""
UNLIMITED = -1

DEFAULTS = Topic(
    name="",
    partitions=0,
    cleanup="delete",
    retention_ms=7 * 24 * 3_600_000,  # Kafka's default
    retention_bytes=UNLIMITED,  # Kafka's default
    delete_retention_ms=24 * 3_600_000,  # Kafka's default: how far behind a reader of a compacted topic may be
    record_bytes_max=1 << 20,  # what Kafka's brokers take by default, so that a job moves there unchanged
)


class Log(AbstractContextManager["Log", None]):
    """The log in `directory`, made when it does not exist. Thread-safe.

    `fsync`: "full" survives power loss, "normal" survives the death of the process only and is faster. `bytes_max`
    bounds the file (None: the disk does). `readonly` looks at a log that another process may hold, and needs no lock.

    Raises LogBusyError where another process holds the directory, LogFormatError, LogDamagedError.
    """

    _shared: ClassVar[dict[Path, Log]] = {}
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        directory: str | Path,
        fsync: Fsync = "full",
        *,
        readonly: bool = False,
        bytes_max: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.directory = Path(directory)
        self._clock = clock
        self._readonly = readonly
        self._users = 1
        self._closed = False
        self._lock: DirectoryLock | None = None
        if not readonly:
            self._lock = DirectoryLock(self.directory)
        try:
            in_order = self._lock is not None and self._lock.follows_a_kill
            self._file = BlockFile(
                self.directory, fsync=fsync, readonly=readonly, bytes_max=bytes_max, in_order=in_order
            )
            self._topics, self._partitions = self._file.load()
        except BaseException:
            if self._lock:
                self._lock.release()
            raise
        self._write_lock = threading.Lock()
        self._upkeep_lock = threading.Lock()
        self._appended = threading.Condition()
        self._appender = Appender(self._file, self._topics, self._partitions, self._write_lock, self._appended, clock)
        self.upgrade = Upgrade(self._file, self._writing)
        """What brings a log of an older release to the newest format; until then that release can open it again."""
        self._upkeep = Upkeep(self._file, self._topics, self._partitions, self._writing)

    @classmethod
    def shared(cls, directory: str | Path, fsync: Fsync = "full", *, bytes_max: int | None = None) -> Log:
        """The one log of this directory in this process: a worker, a producer and a receiver in one program use it
        together. `fsync` and `bytes_max` are those of the first caller; the last one's `close` closes it.
        """
        path = Path(directory).resolve()
        with cls._shared_lock:
            log = cls._shared.get(path)
            if log is None:
                log = cls._shared[path] = cls(path, fsync, bytes_max=bytes_max)
            else:
                log._users += 1
            return log

    def create_topic(
        self,
        name: str,
        partitions: int,
        *,
        cleanup: Literal["delete", "compact"] | None = None,
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        delete_retention_ms: int | None = None,
        record_bytes_max: int | None = None,
    ) -> Topic:
        """Makes a topic, or brings the named settings of an existing one up to date (None: as it is; -1: no limit).

        TransportError when it exists with another partition count: keys would change their partitions.
        """
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise TransportError(f"topic {name}: got {partitions} partitions, expected 1 to {PARTITIONS_MAX}")
        with self._write_lock:
            self._check_open(writing=True)
            present = self._topics.get(name) or replace(
                DEFAULTS, name=name, partitions=partitions, id=uuid.uuid4().bytes
            )
            if present.partitions != partitions:
                raise TransportError(
                    f"topic {name} has {present.partitions} partitions, not {partitions}: a key would change its "
                    "partition; keep the count, or use another topic"
                )
            topic = Topic(
                name,
                partitions,
                cleanup or present.cleanup,
                _or(retention_ms, present.retention_ms),
                _or(retention_bytes, present.retention_bytes),
                _or(delete_retention_ms, present.delete_retention_ms),
                _or(record_bytes_max, present.record_bytes_max),
                present.id,
            )
            if self._topics.get(name) != topic:
                with self._file.transaction():
                    self._file.put_topic(topic)
                topics, standing = self._file.load()
                for where in [where for where in standing if where not in self._partitions]:
                    self._partitions[where] = standing[where]
                self._topics[name] = topics[name]
            return topic

    def delete_topic(self, name: str) -> None:
        """Removes a topic, its records and the offsets that groups have in it; one that does not exist is no error.

        Whoever reads it is told that there is no such topic, until it is made anew, with another id.
        """
        with self._upkeep_lock, self._write_lock:
            self._check_open(writing=True)
            with self._file.transaction():
                self._file.drop_topic(name)
            self._upkeep.forget(name)
            for where in [where for where in self._partitions if where[0] == name]:
                del self._partitions[where]
            self._topics.pop(name, None)

    def topics(self) -> dict[str, Topic]:
        """All topics by name."""
        self._check_open()
        return dict(self._topics)

    def partitions(self, topic: str) -> int | None:
        """A topic's partition count; None when there is no such topic."""
        self._check_open()
        found = self._topics.get(topic)
        return found.partitions if found else None

    def append(
        self,
        batches: Sequence[tuple[str, int, Records]],
        group: str | None = None,
        offsets: Sequence[Position] = (),
    ) -> list[int]:
        """Writes batches (topic, partition, records) and a group's offsets in one transaction; returns, when it is
        durable, each batch's last offset.

        The records get their offsets in place, one after the other, and the present time where they have none.
        Threads that append at once share a transaction. Raises RecordTooLargeError and LogFullError with nothing
        written.
        """
        self._check_open(writing=True)
        if offsets and group is None:
            raise ValueError("append: got offsets without the group they belong to")
        for topic, partition, _ in batches:
            self._find(topic, partition)
        return self._appender.append(batches, group, offsets)

    def read(
        self, topic: str, partition: int, offset: int, records_max: int = 20_000, bytes_max: int = 16 << 20
    ) -> Records:
        """The records from `offset` on: at most `records_max`, and whole blocks until `bytes_max` is reached.

        Offsets ascend and may have holes (compaction). Empty: nothing is there at `offset` or above. An offset below
        `start` goes on at `start`.
        """
        where = (topic, partition)
        out: Records | None = None
        with closing(self._file.blocks(self._find(topic, partition).id, offset)) as blocks:
            for block in blocks:
                if out is not None and len(out) + block.records > records_max:
                    break
                records = decoded(self._file, where, block)
                if block.first < offset:
                    records = records.slice(_index_of(records, offset), len(records))
                if out is None:
                    out = records
                else:
                    out.extend(records)
                if len(out) >= records_max or out.nbytes >= bytes_max:
                    break
        if out is None:
            return Records()
        return out if len(out) <= records_max else out.slice(0, records_max)

    def start(self, topic: str, partition: int) -> int:
        """The first offset that retention has not removed."""
        return self._find(topic, partition).start

    def end(self, topic: str, partition: int) -> int:
        """The offset that the next record gets."""
        return self._find(topic, partition).end

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """A group's offsets: where it goes on reading."""
        return {where: offset for where, (offset, _) in self.kept(group).items()}

    def kept(self, group: str) -> dict[TopicPartition, tuple[int, str]]:
        """As `committed`, with what was kept beside each offset; empty: nothing."""
        self._check_open()
        return self._file.offsets(group)

    def reset_offsets(self, group: str, offsets: Iterable[Position]) -> None:
        """Moves a group, forwards or backwards."""
        wanted = list(offsets)
        for where in wanted:
            self._find(where[0], where[1])
        with self._writing():
            self._file.put_offsets(group, wanted)

    def wait(self, positions: Mapping[TopicPartition, int], timeout_ms: int) -> list[TopicPartition]:
        """Waits until there are records at or above one of `positions`; returns where, or [] after `timeout_ms`.

        Closing the log ends the wait.
        """
        for where in positions:
            self._find(*where)
        deadline = self._clock.monotonic_s() + timeout_ms / 1000
        with self._appended:
            while not self._closed:
                self._check_open()
                ready = []
                for where, offset in positions.items():
                    standing = self._partitions.get(where)
                    if standing is None:
                        return []  # its topic was deleted meanwhile: the next call says so
                    if standing.end > max(offset, standing.start):
                        ready.append(where)
                left_s = deadline - self._clock.monotonic_s()
                if ready or left_s <= 0:
                    return ready
                self._appended.wait(min(left_s, POLL_MS / 1000) if self._readonly else left_s)
        return []

    def maintain(self, now_ms: int, budget_ms: int, *, everything: bool = False) -> bool:
        """Retention and compaction as of `now_ms`, in steps of some milliseconds, for about `budget_ms`.

        True: there is more to do. `everything` compacts also what is hardly dirty. Appends and reads go on meanwhile.
        """
        self._check_open(writing=True)
        deadline = self._clock.monotonic_s() + budget_ms / 1000
        with self._upkeep_lock:
            for _ in self._upkeep.steps(now_ms, everything):
                if self._clock.monotonic_s() >= deadline:
                    return True
            self.checkpoint(WAL_BYTES_MAX)
        return False

    def checkpoint(self, wal_bytes_min: int = 0) -> bool:
        """Carries a WAL of at least that size over into the file and empties it; False when a reader was in the way."""
        with self._write_lock:
            self._check_open(writing=True)
            return self._file.checkpoint(wal_bytes_min)

    def close(self) -> None:
        """Ends waits, closes the file and lets the directory go; for a shared log, when its last user closes it."""
        with self._shared_lock:
            self._users -= 1
            if self._users > 0 or self._closed:
                return
            if self._shared.get(self.directory) is self:
                del self._shared[self.directory]
            with self._upkeep_lock, self._write_lock:
                with self._appended:
                    self._closed = True
                    self._appended.notify_all()
                self._file.close()
                if self._lock:
                    self._lock.release()

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the single writer."""
        with self._write_lock:
            self._check_open(writing=True)
            with self._file.transaction() as writer:
                yield writer

    def _check_open(self, *, writing: bool = False) -> None:
        if self._closed:
            raise TransportError(f"embedded log {self.directory} is closed")
        if writing and self._readonly:
            raise TransportError(f"embedded log {self.directory} was opened for reading only")
        if self._readonly:  # another process may have written meanwhile
            self._topics, self._partitions = self._file.load()

    def _find(self, topic: str, partition: int) -> Partition:
        self._check_open()
        standing = self._partitions.get((topic, partition))
        if standing is None:
            found = self._topics.get(topic)
            has = f"it has {found.partitions} partitions" if found else "there is no such topic; create it first"
            raise TransportError(f"embedded log {self.directory}: no partition {partition} of {topic}: {has}")
        return standing


def _or(wanted: int | None, present: int) -> int:
    return present if wanted is None else wanted


def _index_of(records: Records, offset: int) -> int:
    """The first record at or above `offset`."""
    low, high = 0, len(records)
    while low < high:
        middle = (low + high) // 2
        if records.offset(middle) < offset:
            low = middle + 1
        else:
            high = middle
    return low
