"""The durable local log's file: its tables, and the checksums over them.

Format 2 has checksums of each row, of the blocks that an index must name, of the tables' own definitions: a disk that
flips a bit is found out, whatever the bit was part of. A file of format 1 stays one until `streams state upgrade`, and
the release that made it can open it again: what is newer, a topic's id and what is kept beside a group's offset, lies
in tables and columns that it passes over, and no checksum is believed.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from streams._native import xxh3_64
from streams.errors import LogDamagedError, LogFormatError

__all__ = [
    "BLOCK",
    "FORMAT",
    "MARK",
    "MARK_OF",
    "OFFSET",
    "OLD_FORMAT",
    "PARTITION",
    "PLAIN_KEY",
    "TOPIC",
    "add_sums",
    "format_of",
    "is_prepared",
    "make_file",
    "plain_upto",
    "prepare",
    "seal",
    "seal_partition",
    "seal_places",
    "verify",
]

FORMAT = 2
"""Format of the file's tables. A block has its own format byte on top."""
OLD_FORMAT = 1
"""Without checksums. It is still written over a file that an older release made, until that is upgraded."""
PAGE_BYTES = 16_384
"""A block takes tens to hundreds of kilobytes: large pages keep its chain of overflow pages short (measured)."""
PLAIN_KEY = "plain"
"""In a file that is being upgraded: blocks with an id up to this one have no checksums yet."""

TABLES = """
create table meta (key text primary key, value integer not null) without rowid;
create table topics (
    name text primary key, partitions integer not null, cleanup text not null, retention_ms integer not null,
    retention_bytes integer not null, delete_retention_ms integer not null, record_bytes_max integer not null
) without rowid;
create table partitions (
    id integer primary key, topic text not null, partition integer not null, "start" integer not null default 0,
    "end" integer not null default 0, cleaned integer not null default 0, clean_records integer not null default 0,
    tombstones_due_ms integer, unique (topic, partition)
);
create table blocks (
    id integer primary key, partition_id integer not null, "first" integer not null, "last" integer not null,
    records integer not null, bytes integer not null, created_ms integer not null, data blob not null
);
create index blocks_by_offset on blocks (partition_id, "last", bytes, created_ms);
create table group_offsets (
    group_name text not null, topic text not null, partition integer not null, "offset" integer not null,
    primary key (group_name, topic, partition)
) without rowid;
"""
"""As format 1 began."""
BESIDE = """
create table topic_ids (name text primary key, id blob not null, sum integer not null default 0) without rowid;
create table offset_notes (
    group_name text not null, topic text not null, partition integer not null, "offset" integer not null,
    metadata text not null, sum integer not null default 0, primary key (group_name, topic, partition)
) without rowid;
alter table partitions add column blocks integer not null default 0;
alter table partitions add column sum integer not null default 0;
alter table blocks add column sum integer not null default 0;
"""
"""What came later, where the release that made format 1 neither meets nor touches it. Costs no look at any row."""

TOPIC = "row_sum(name, partitions, cleanup, retention_ms, retention_bytes, delete_retention_ms, record_bytes_max, id)"
PARTITION = 'row_sum(id, topic, partition, "start", "end", cleaned, clean_records, tombstones_due_ms, blocks)'
BLOCK = 'row_sum(partition_id, "first", "last", records, bytes, created_ms)'
OFFSET = 'row_sum(group_name, topic, partition, o."offset", metadata)'
"""Checksums of rows, as SQL; a block's data has one of its own."""
MARK = 'row_sum(partition_id, "last", bytes, created_ms) & 4294967295'
MARK_OF = "row_sum(?, ?, ?, ?) & 4294967295"
"""What a block adds to its partition's `blocks`: 32 bits, so that the sum of billions fits; the index has it all."""


def format_of(reader: sqlite3.Connection, path: Path) -> int:
    """The format of a file that has tables. LogFormatError: a newer one."""
    if not reader.execute("select 1 from sqlite_master where name = 'meta'").fetchone():
        is_empty = not reader.execute("select 1 from sqlite_master").fetchone()
        raise LogDamagedError(path, "it is empty" if is_empty else "it is something else")
    row = reader.execute("select value from meta where key = 'format'").fetchone()
    if row is None:
        raise LogDamagedError(path, "its format is not recorded")
    if not isinstance(row[0], int) or row[0] < 1:
        raise LogDamagedError(path, "its format is none")
    if row[0] > FORMAT:
        raise LogFormatError(path, row[0], FORMAT)
    if row[0] == OLD_FORMAT and reader.execute("select 1 from meta where key = 'schema'").fetchone():
        raise LogDamagedError(path, "its format is another one than it was brought to")
    return int(row[0])


def make_file(path: Path) -> None:
    """Makes the file of a new log. It comes whole under its name or not at all: an empty one lost what it had."""
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise LogDamagedError(path, "it is gone, and what was written to it last is still beside it")
    part = path.with_name(f"{path.name}.new")
    for left in (part, part.with_name(f"{part.name}-journal"), path.with_name(f"{path.name}-shm")):
        left.unlink(missing_ok=True)
    with closing(sqlite3.connect(part, isolation_level=None)) as writer:
        add_sums(writer)
        writer.execute(f"pragma page_size={PAGE_BYTES}")
        writer.execute("pragma synchronous=full")
        writer.execute("begin")
        _run(writer, TABLES + BESIDE)
        writer.execute("insert into meta values ('format', ?)", (FORMAT,))
        seal(writer)
        writer.execute("commit")
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_prepared(reader: sqlite3.Connection) -> bool:
    """Whether a file has what came after format 1 began."""
    return reader.execute("select 1 from sqlite_master where name = 'offset_notes'").fetchone() is not None


def prepare(writer: sqlite3.Connection) -> None:
    """Within a transaction: a file of format 1 gets a place for what is newer, and each topic an id."""
    if not is_prepared(writer):
        _run(writer, BESIDE)
    unnamed = "select name, randomblob(16) from topics where name not in (select name from topic_ids)"
    writer.execute(f"insert into topic_ids (name, id) {unnamed}")


def plain_upto(reader: sqlite3.Connection) -> int:
    """In a file of format 2: blocks with an id up to this one are still as format 1 has them."""
    row = reader.execute("select value from meta where key = ?", (PLAIN_KEY,)).fetchone()
    return int(row[0]) if row is not None else -1


def add_sums(connection: sqlite3.Connection) -> None:
    """Gives a connection the function `row_sum`. Text that is not UTF-8 is read all the same: its sum will not fit."""
    connection.create_function("row_sum", -1, _row_sum, deterministic=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def verify(reader: sqlite3.Connection, path: Path) -> None:
    """Compares tables, and the index over the blocks, with their checksums, as of one moment. LogDamagedError.

    It reads the index and no block: 100,000 blocks take a tenth of a second.
    """
    reader.execute("begin")
    try:
        _compare(reader, path)
    finally:
        if reader.in_transaction:
            reader.execute("rollback")  # nothing was written


def _compare(reader: sqlite3.Connection, path: Path) -> None:
    sealed = reader.execute("select value from meta where key = 'schema'").fetchone()
    if sealed is None or sealed[0] != _definitions(reader):
        raise LogDamagedError(path, "its tables are not what they were made as")
    found = dict(reader.execute(f"select partition_id, sum({MARK}) from blocks group by partition_id").fetchall())
    for number, blocks in reader.execute("select id, blocks from partitions"):
        if found.pop(number, 0) != blocks:
            raise LogDamagedError(path, f"blocks of partition {number} are missing or are not what was written")
    if found:
        raise LogDamagedError(path, "it has blocks of no partition")
    (listed,) = reader.execute("select coalesce(sum(partitions), 0) from topics").fetchone()
    if listed != reader.execute("select count(*) from partitions").fetchone()[0]:
        raise LogDamagedError(path, "topics are missing or are not what was written")
    (places,) = reader.execute("select value from meta where key = 'places'").fetchone() or (0,)
    if places != _places(reader):
        raise LogDamagedError(path, "offsets of a group are missing or are not what was written")


def seal_partition(writer: sqlite3.Connection, number: int) -> None:
    """Within a transaction: a partition's row changed."""
    writer.execute(f"update partitions set sum = {PARTITION} where id = ?", (number,))


def _row_sum(*values: object) -> int:
    """XXH3-64 of a row's values, as SQLite's signed integers hold it."""
    return xxh3_64(repr(values).encode("utf-8", "surrogateescape")) >> 1


def seal_places(writer: sqlite3.Connection) -> None:
    """Within a transaction: a group has offsets where it had none, or none where it had."""
    writer.execute("insert or replace into meta values ('places', ?)", (_places(writer),))


def _places(reader: sqlite3.Connection) -> int:
    """A checksum of which groups have offsets where."""
    found = "select coalesce(sum(row_sum(group_name, topic, partition) & 4294967295), 0) from group_offsets"
    return int(reader.execute(found).fetchone()[0])


def _definitions(reader: sqlite3.Connection) -> int:
    return _row_sum(reader.execute("select type, name, tbl_name, sql from sqlite_master order by name").fetchall())


def seal(writer: sqlite3.Connection) -> None:
    """Within a transaction: the definitions of the tables, and which groups have offsets, are what they are now."""
    seal_places(writer)
    writer.execute("insert or replace into meta values ('schema', ?)", (_definitions(writer),))


def _run(writer: sqlite3.Connection, script: str) -> None:
    """One by one: `executescript` would end the transaction."""
    for statement in script.split(";\n"):
        if statement.strip():
            writer.execute(statement)
