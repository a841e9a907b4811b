"""The durable local log's file: its tables by format, and how an older one is brought up to date.

Format 2 adds a topic's id and what is kept beside a group's offset.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from streams.errors import LogDamagedError, LogFormatError

__all__ = ["FORMAT", "format_of", "make_tables", "upgrade"]

FORMAT = 2
"""Format of the file's tables. A block has its own format byte on top."""

TABLES = """
create table meta (key text primary key, value integer not null) without rowid;
create table topics (
    name text primary key, partitions integer not null, cleanup text not null, retention_ms integer not null,
    retention_bytes integer not null, delete_retention_ms integer not null, record_bytes_max integer not null,
    id blob not null
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
    metadata text not null default '', primary key (group_name, topic, partition)
) without rowid;
"""

UPGRADES = {
    1: """
alter table topics add column id blob not null default x'';
update topics set id = randomblob(16);
alter table group_offsets add column metadata text not null default '';
""",
}
"""What leads from each older format to the next."""


def format_of(reader: sqlite3.Connection, path: Path) -> int:
    """The format of a file that has tables. LogFormatError: a newer one."""
    row = reader.execute("select value from meta where key = 'format'").fetchone()
    if row is None:
        raise LogDamagedError(path, "its format is not recorded")
    if row[0] > FORMAT:
        raise LogFormatError(path, row[0], FORMAT)
    return int(row[0])


def make_tables(writer: sqlite3.Connection) -> None:
    """Within a transaction: the tables of a new file."""
    _run(writer, TABLES)
    writer.execute("insert into meta values ('format', ?)", (FORMAT,))


def upgrade(writer: sqlite3.Connection, came: int) -> None:
    """Within a transaction: brings the tables from format `came` to the newest."""
    for number in range(came, FORMAT):
        _run(writer, UPGRADES[number])
    writer.execute("update meta set value = ? where key = 'format'", (FORMAT,))


def _run(writer: sqlite3.Connection, script: str) -> None:
    """One by one: `executescript` would end the transaction."""
    for statement in script.split(";\n"):
        writer.execute(statement)
