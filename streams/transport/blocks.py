"""The SQLite file under the durable local log: its tables, its connections, its errors by name.

A run of records is stored as one block (`Records.encode`), so that a row costs nothing per record. WAL mode gives what
the log promises: a transaction is there wholly or not at all after kill -9, a torn tail of the WAL is cut off at the
last whole transaction, and readers never wait for the writer.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streams.errors import LogDamagedError, LogFullError, TransportError
from streams.transport.file_format import (
    BLOCK,
    FORMAT,
    MARK,
    MARK_OF,
    OFFSET,
    PARTITION,
    TOPIC,
    add_sums,
    fits,
    format_of,
    make_tables,
    rows_of,
    seal_partition,
    seal_places,
    upgrade,
    verify,
)

__all__ = [
    "Block",
    "BlockFile",
    "Fsync",
    "Partition",
    "Position",
    "Topic",
    "TopicPartition",
]

FILE_NAME = "log.sqlite3"
PAGE_BYTES = 16_384
"""A block takes tens to hundreds of kilobytes: large pages keep its chain of overflow pages short (measured)."""
CHECKPOINT_PAGES = 1_000
"""Pages in the WAL (16 MB) after which a commit carries them over: rare enough to pay, few enough to restart fast."""
WAL_BYTES_MAX = 64 << 20
"""A WAL that readers kept from being reset is cut back to this size; four checkpoints' worth."""
BUSY_TIMEOUT_MS = 5_000
"""How long a connection waits for a checkpoint or a recovery in another process before it gives up."""
READERS_MAX = 8
"""Idle reader connections kept open; more threads than that read at once rarely, and then open their own."""

Fsync = Literal["full", "normal"]
TopicPartition = tuple[str, int]
Position = tuple[str, int, int] | tuple[str, int, int, str]
"""Topic, partition and next offset to read, and what is kept beside the offset, where there is anything."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's settings. Times in milliseconds, sizes in bytes; -1 is no limit.

    `id`: 16 bytes made with the topic, so that one made anew under the same name is another; empty where a log that is
    only looked at is of a format that had none.
    """

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    retention_bytes: int
    delete_retention_ms: int
    record_bytes_max: int
    id: bytes = b""


@dataclass(slots=True)
class Partition:
    """Where a partition stands: records in [start, end) may exist, below `cleaned` each key is there once at most.

    `clean_records` lie below `cleaned`; at `tombstones_due_ms` the first of their tombstones may go (None: there are
    none).
    """

    id: int
    start: int
    end: int
    cleaned: int
    clean_records: int
    tombstones_due_ms: int | None


@dataclass(frozen=True, slots=True)
class Block:
    """A stored run of records: its first and last offset, its count, when it was appended, its encoded bytes."""

    first: int
    last: int
    records: int
    created_ms: int
    data: bytes


class BlockFile:
    """The file and its connections: one writer, whose use the caller serialises, and readers for any thread."""

    def __init__(self, directory: Path, *, fsync: Fsync, readonly: bool, bytes_max: int | None) -> None:
        self.path = directory / FILE_NAME
        self._readonly = readonly
        self._is_sealed = True
        self._closed = False
        self._places: set[tuple[object, ...]] = set()  # groups' offsets that the file is sealed with
        self._readers: deque[sqlite3.Connection] = deque(maxlen=READERS_MAX)
        if readonly and not self.path.exists():
            raise TransportError(f"embedded log {self.path} does not exist; check the broker's directory")
        with self.named_errors():
            self._writer = self._connect()
            try:
                self._open(fsync, bytes_max)
            except BaseException:
                self._writer.close()
                raise

    def _connect(self, readonly: bool = False) -> sqlite3.Connection:
        mode = "ro" if readonly or self._readonly else "rwc"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"pragma busy_timeout={BUSY_TIMEOUT_MS}")
        add_sums(connection)
        return connection

    def _open(self, fsync: Fsync, bytes_max: int | None) -> None:
        """Refuses a newer format; makes the tables of a new file, or upgrades those of an older, in one transaction."""
        writer = self._writer
        if self._readonly:
            self._is_sealed = format_of(self._writer, self.path) > 1
            if self._is_sealed:
                verify(self._writer, self.path)
            return
        writer.execute(f"pragma page_size={PAGE_BYTES}")
        writer.execute("pragma journal_mode=wal")
        writer.execute(f"pragma synchronous={fsync}")
        writer.execute("pragma fullfsync=on")  # macOS: its plain fsync leaves data in the drive's cache
        writer.execute("pragma secure_delete=fast")  # some builds overwrite deleted blocks with zeros, at twice the I/O
        writer.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")
        writer.execute(f"pragma journal_size_limit={WAL_BYTES_MAX}")
        if bytes_max is not None:
            (page_bytes,) = writer.execute("pragma page_size").fetchone()
            writer.execute(f"pragma max_page_count={max(1, bytes_max // page_bytes)}")
        if writer.execute("select 1 from sqlite_master where name = 'meta'").fetchone():
            came = format_of(self._writer, self.path)
            if came < FORMAT:
                with self.transaction():
                    upgrade(writer, came)
            verify(writer, self.path)
            return
        with self.transaction():
            make_tables(writer)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turns SQLite's errors into the log's own."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise LogDamagedError(self.path, "SQLite names what is not text") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte; the rest says where in SQLite
            if code == sqlite3.SQLITE_FULL:
                raise LogFullError(self.path) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise LogDamagedError(self.path, str(error)) from error
            raise TransportError(
                f"embedded log {self.path}: {error}", retriable=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic write; the caller holds the write lock. Whatever is raised inside takes all of it back."""
        with self.named_errors():
            self._writer.execute("begin immediate")
            try:
                yield
                self._writer.execute("commit")
            except BaseException:
                self._places.clear()  # what was sealed with it is taken back
                if self._writer.in_transaction:  # SQLite has rolled back by itself where the disk was full
                    self._writer.execute("rollback")
                raise

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own while it reads."""
        with self.named_errors():
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect(readonly=True)
            try:
                yield connection
            finally:
                if len(self._readers) < READERS_MAX and not self._closed:
                    self._readers.append(connection)
                else:
                    connection.close()

    def load(self) -> tuple[dict[str, Topic], dict[TopicPartition, Partition]]:
        """All topics by name, and all partitions by topic and number."""
        with self._reader() as reader:
            topics = rows_of(
                reader,
                self.path,
                "name, partitions, cleanup, retention_ms, retention_bytes, delete_retention_ms, record_bytes_max, "
                + ("id" if self._is_sealed else "x''"),
                fits(TOPIC, is_sealed=self._is_sealed),
                "topics",
            )
            partitions = rows_of(
                reader,
                self.path,
                'topic, partition, id, "start", "end", cleaned, clean_records, tombstones_due_ms',
                fits(PARTITION, is_sealed=self._is_sealed),
                "partitions",
            )
        return {row[0]: Topic(*row) for row in topics}, {(row[0], row[1]): Partition(*row[2:]) for row in partitions}

    def put_topic(self, topic: Topic) -> None:
        """Within a transaction: records a topic and the partitions it does not have yet."""
        self._writer.execute(
            "insert or replace into topics values (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                topic.name,
                topic.partitions,
                topic.cleanup,
                topic.retention_ms,
                topic.retention_bytes,
                topic.delete_retention_ms,
                topic.record_bytes_max,
                topic.id,
            ),
        )
        self._writer.executemany(
            "insert or ignore into partitions (topic, partition) values (?, ?)",
            [(topic.name, number) for number in range(topic.partitions)],
        )
        self._writer.execute(f"update topics set sum = {TOPIC} where name = ?", (topic.name,))
        self._writer.execute(f"update partitions set sum = {PARTITION} where topic = ?", (topic.name,))

    def drop_topic(self, name: str) -> None:
        """Within a transaction: removes a topic, its records, and the offsets that groups have in it."""
        owned = "(select id from partitions where topic = ?)"
        self._writer.execute(f"delete from blocks where partition_id in {owned}", (name,))
        for table, column in (("partitions", "topic"), ("group_offsets", "topic"), ("topics", "name")):
            self._writer.execute(f"delete from {table} where {column} = ?", (name,))
        self._places = {place for place in self._places if place[1] != name}
        seal_places(self._writer)

    def put_end(self, partition_id: int, end: int) -> None:
        """Within a transaction: records a partition's new end."""
        self._writer.execute('update partitions set "end" = ? where id = ?', (end, partition_id))
        seal_partition(self._writer, partition_id)

    def put_upkeep(self, partition: Partition) -> None:
        """Within a transaction: records what upkeep did; never `end`, which appends move at the same time."""
        self._writer.execute(
            'update partitions set "start" = ?, cleaned = ?, clean_records = ?, tombstones_due_ms = ? where id = ?',
            (
                partition.start,
                partition.cleaned,
                partition.clean_records,
                partition.tombstones_due_ms,
                partition.id,
            ),
        )
        seal_partition(self._writer, partition.id)

    def put_block(self, partition_id: int, block: Block) -> None:
        """Within a transaction: stores a block."""
        entry = (partition_id, block.first, block.last, block.records, len(block.data), block.created_ms)
        self._writer.execute(
            'insert into blocks (partition_id, "first", "last", records, bytes, created_ms, data, sum) '
            "values (?, ?, ?, ?, ?, ?, ?, row_sum(?, ?, ?, ?, ?, ?))",
            (*entry, block.data, *entry),
        )
        self._writer.execute(
            f"update partitions set blocks = blocks + ({MARK_OF}) where id = ?",
            (partition_id, block.last, len(block.data), block.created_ms, partition_id),
        )
        seal_partition(self._writer, partition_id)

    def drop_blocks(self, partition_id: int, first: int, last: int) -> None:
        """Within a transaction: removes the blocks whose last offset lies in [first, last]."""
        chosen = 'from blocks where partition_id = ? and "last" between ? and ?'
        self._writer.execute(
            f"update partitions set blocks = blocks - (select coalesce(sum({MARK}), 0) {chosen}) where id = ?",
            (partition_id, first, last, partition_id),
        )
        self._writer.execute(f"delete {chosen}", (partition_id, first, last))
        seal_partition(self._writer, partition_id)

    def blocks(self, partition_id: int, offset: int) -> Generator[Block, None, None]:
        """The blocks that hold `offset` or come after it, in order, as of one moment. Close it when done early."""
        fitting = fits(BLOCK, is_sealed=self._is_sealed)
        wanted = (
            f'select "first", "last", records, created_ms, data, {fitting} and typeof(data) = \'blob\' from blocks '
            'where partition_id = ? and "last" >= ? order by "last"'
        )
        with (
            self._reader() as reader,
            closing(reader.execute(wanted, (partition_id, offset))) as rows,
        ):
            for *row, is_right in rows:
                if not is_right:
                    raise LogDamagedError(self.path, f"an entry of partition {partition_id} does not fit its checksum")
                yield Block(*row)

    def oldest(self, partition_id: int, blocks_max: int) -> list[tuple[int, int, int]]:
        """Last offset, stored bytes and time of append of the oldest blocks."""
        with self._reader() as reader:
            return reader.execute(
                'select "last", bytes, created_ms from blocks where partition_id = ? order by "last" limit ?',
                (partition_id, blocks_max),
            ).fetchall()

    def stored_bytes(self, partition_id: int) -> int:
        """Bytes of all blocks of a partition."""
        with self._reader() as reader:
            (total,) = reader.execute(
                "select coalesce(sum(bytes), 0) from blocks where partition_id = ?", (partition_id,)
            ).fetchone()
            return int(total)

    def put_offsets(self, group: str, offsets: Iterable[Position]) -> None:
        """Within a transaction: records a group's offsets."""
        rows = [(group, *where[:3], where[3] if len(where) > 3 else "") for where in offsets]
        self._writer.executemany(
            'insert or replace into group_offsets (group_name, topic, partition, "offset", metadata, sum) '
            "values (?, ?, ?, ?, ?, row_sum(?, ?, ?, ?, ?))",
            [(*row, *row) for row in rows],
        )
        places = {row[:3] for row in rows}
        if not places <= self._places:
            self._places |= places
            seal_places(self._writer)

    def offsets(self, group: str) -> dict[TopicPartition, tuple[int, str]]:
        """A group's offsets by topic and partition, and what is kept beside each."""
        what = 'topic, partition, "offset", ' + ("metadata" if self._is_sealed else "''")
        fitting = fits(OFFSET, is_sealed=self._is_sealed)
        with self._reader() as reader:
            rows = rows_of(reader, self.path, what, fitting, "group_offsets where group_name = ?", group)
        return {(topic, partition): (offset, kept) for topic, partition, offset, kept in rows}

    def checkpoint(self, wal_bytes_min: int = 0) -> bool:
        """Carries a WAL of at least that size over into the file and empties it; False when a reader was in the way."""
        wal = self.path.with_name(f"{FILE_NAME}-wal")
        if not wal.exists() or wal.stat().st_size < wal_bytes_min:
            return True
        with self.named_errors():
            (busy, _, _) = self._writer.execute("pragma wal_checkpoint(truncate)").fetchone()
            return not busy

    def close(self) -> None:
        """Closes all connections; the last one carries the WAL over."""
        self._closed = True
        while self._readers:
            self._readers.pop().close()
        with self.named_errors():
            self._writer.close()
