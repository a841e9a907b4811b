"""The SQLite file under the durable local log: what is written into its tables and read from them.

A run of records is stored as one block (`Records.encode`), so that a row costs nothing per record. WAL mode gives what
the log promises: a transaction is there wholly or not at all after kill -9, a torn tail of the WAL is cut off at the
last whole transaction, and readers never wait for the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streams.errors import LogDamagedError
from streams.transport.connections import Connections
from streams.transport.file_format import (
    BLOCK,
    MARK,
    MARK_OF,
    OFFSET,
    OLD_FORMAT,
    PARTITION,
    TOPIC,
    format_of,
    is_prepared,
    plain_upto,
    prepare,
    seal_partition,
    seal_places,
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
CHECKPOINT_PAGES = 1_000
"""Pages in the WAL (16 MB) after which a commit carries them over: rare enough to pay, few enough to restart fast."""
WAL_BYTES_MAX = 64 << 20
"""A WAL that readers kept from being reset is cut back to this size; four checkpoints' worth."""

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


class BlockFile(Connections):
    """The file: what is written within a transaction, and what any thread reads."""

    def __init__(
        self, directory: Path, *, fsync: Fsync, readonly: bool, bytes_max: int | None, in_order: bool = False
    ) -> None:
        """`in_order`: whatever was written last is there with all before it, the machine has not lost power since."""
        super().__init__(directory / FILE_NAME, readonly=readonly, is_synced=fsync == "full", in_order=in_order)
        self.is_sealed = True
        """Whether the file has checksums: format 2. They are written and not believed in one of format 1."""
        self._is_prepared = True
        self.plain_upto = -1
        """Blocks with an id up to this one wait for their checksums: the file is being upgraded."""
        self._places: set[tuple[object, ...]] = set()  # groups' offsets that the file is sealed with
        try:
            with self.named_errors():
                self._open(fsync, bytes_max)
        except BaseException:
            self._writer.close()
            raise

    def _open(self, fsync: Fsync, bytes_max: int | None) -> None:
        """Refuses a newer format, and what is no log. A file of format 1 stays one."""
        writer = self._writer
        if self._readonly:
            self.know_format()
            return
        writer.execute("pragma journal_mode=wal")
        writer.execute(f"pragma synchronous={fsync}")
        writer.execute("pragma fullfsync=on")  # macOS: its plain fsync leaves data in the drive's cache
        writer.execute("pragma secure_delete=fast")  # some builds overwrite deleted blocks with zeros, at twice the I/O
        writer.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")
        writer.execute(f"pragma journal_size_limit={WAL_BYTES_MAX}")
        if bytes_max is not None:
            (page_bytes,) = writer.execute("pragma page_size").fetchone()
            writer.execute(f"pragma max_page_count={max(1, bytes_max // page_bytes)}")
        if format_of(writer, self.path) == OLD_FORMAT:
            with self.transaction():
                prepare(writer)
        self.know_format()

    def know_format(self) -> None:
        """Learns how the file is to be read, and what of it is damaged. LogFormatError, LogDamagedError."""
        self.is_sealed = format_of(self._writer, self.path) > OLD_FORMAT
        self._is_prepared = is_prepared(self._writer)
        if self.is_sealed:
            self.plain_upto = plain_upto(self._writer)
            verify(self._writer, self.path)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic write; the caller holds the write lock. Whatever is raised inside takes all of it back."""
        with self.named_errors():
            self._writer.execute("begin immediate")
            try:
                yield self._writer
                self._writer.execute("commit")
            except BaseException:
                self._places.clear()  # what was sealed with it is taken back
                if self._writer.in_transaction:  # SQLite has rolled back by itself where the disk was full
                    self._writer.execute("rollback")
                raise

    def load(self) -> tuple[dict[str, Topic], dict[TopicPartition, Partition]]:
        """All topics by name, and all partitions by topic and number."""
        beside = "left join topic_ids using (name)" if self._is_prepared else ""
        topic = "name, partitions, cleanup, retention_ms, retention_bytes, delete_retention_ms, record_bytes_max"
        topic_id = "coalesce(id, x'')" if self._is_prepared else "x''"
        partition = 'topic, partition, id, "start", "end", cleaned, clean_records, tombstones_due_ms'
        with self.reader() as reader:
            topics = self._rows(reader, f"{topic}, {topic_id}", TOPIC, f"topics {beside}")
            partitions = self._rows(reader, partition, PARTITION, "partitions")
        return {row[0]: Topic(*row) for row in topics}, {(row[0], row[1]): Partition(*row[2:]) for row in partitions}

    def _rows(
        self, reader: sqlite3.Connection, what: str, row_sum: str, where: str, *values: object
    ) -> list[tuple[Any, ...]]:
        """Rows of a table, which fit their checksums: LogDamagedError; a file of format 1 is believed."""
        fitting = f"sum = {row_sum}" if self.is_sealed else "1"
        rows = reader.execute(f"select {what}, {fitting} from {where}", values).fetchall()
        if not all(row[-1] for row in rows):
            raise LogDamagedError(self.path, f"a row of {where.split()[0]} does not fit its checksum")
        return [row[:-1] for row in rows]

    def put_topic(self, topic: Topic) -> None:
        """Within a transaction: records a topic and the partitions it does not have yet."""
        row = (topic.name, topic.partitions, topic.cleanup, topic.retention_ms, topic.retention_bytes,
               topic.delete_retention_ms, topic.record_bytes_max)  # fmt: skip
        self._writer.execute("insert or replace into topics values (?, ?, ?, ?, ?, ?, ?)", row)
        self._writer.execute(
            "insert or replace into topic_ids values (?, ?, row_sum(?, ?, ?, ?, ?, ?, ?, ?))",
            (topic.name, topic.id, *row, topic.id),
        )
        self._writer.executemany(
            "insert or ignore into partitions (topic, partition) values (?, ?)",
            [(topic.name, number) for number in range(topic.partitions)],
        )
        self._writer.execute(f"update partitions set sum = {PARTITION} where topic = ?", (topic.name,))

    def drop_topic(self, name: str) -> None:
        """Within a transaction: removes a topic, its records, and the offsets that groups have in it."""
        owned = "(select id from partitions where topic = ?)"
        self._writer.execute(f"delete from blocks where partition_id in {owned}", (name,))
        for table in ("partitions", "group_offsets", "offset_notes"):
            self._writer.execute(f"delete from {table} where topic = ?", (name,))
        for table in ("topics", "topic_ids"):
            self._writer.execute(f"delete from {table} where name = ?", (name,))
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
        fitting = f"(id <= {self.plain_upto} or sum = {BLOCK})" if self.is_sealed else "1"
        wanted = (
            f'select "first", "last", records, created_ms, data, {fitting} and typeof(data) = \'blob\' from blocks '
            'where partition_id = ? and "last" >= ? order by "last"'
        )
        with (
            self.reader() as reader,
            closing(reader.execute(wanted, (partition_id, offset))) as rows,
        ):
            for *row, is_right in rows:
                if not is_right:
                    raise LogDamagedError(self.path, f"an entry of partition {partition_id} does not fit its checksum")
                yield Block(*row)

    def oldest(self, partition_id: int, blocks_max: int) -> list[tuple[int, int, int]]:
        """Last offset, stored bytes and time of append of the oldest blocks."""
        with self.reader() as reader:
            return reader.execute(
                'select "last", bytes, created_ms from blocks where partition_id = ? order by "last" limit ?',
                (partition_id, blocks_max),
            ).fetchall()

    def stored_bytes(self, partition_id: int) -> int:
        """Bytes of all blocks of a partition."""
        with self.reader() as reader:
            (total,) = reader.execute(
                "select coalesce(sum(bytes), 0) from blocks where partition_id = ?", (partition_id,)
            ).fetchone()
            return int(total)

    def put_offsets(self, group: str, offsets: Iterable[Position]) -> None:
        """Within a transaction: records a group's offsets."""
        rows = [(group, *where[:3], where[3] if len(where) > 3 else "") for where in offsets]
        self._writer.executemany("insert or replace into group_offsets values (?, ?, ?, ?)", [row[:4] for row in rows])
        self._writer.executemany(
            "insert or replace into offset_notes values (?, ?, ?, ?, ?, row_sum(?, ?, ?, ?, ?))",
            [(*row, *row) for row in rows],
        )
        places = {row[:3] for row in rows}
        if not places <= self._places:
            self._places |= places
            seal_places(self._writer)

    def offsets(self, group: str) -> dict[TopicPartition, tuple[int, str]]:
        """A group's offsets by topic and partition, and what is kept beside each: nothing beside one that the older
        release of a file of format 1 has moved.
        """
        place = "group_name, topic, partition"
        beside = f"left join offset_notes as n using ({place})" if self._is_prepared else ""
        note = """case n."offset" when o."offset" then metadata else '' end""" if self._is_prepared else "''"
        with self.reader() as reader:
            rows = self._rows(
                reader, f'topic, partition, o."offset", {note}', OFFSET,
                f"group_offsets as o {beside} where group_name = ?", group,
            )  # fmt: skip
        return {(topic, partition): (offset, kept) for topic, partition, offset, kept in rows}
