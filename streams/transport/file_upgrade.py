"""What `streams state upgrade` makes of a log of format 1: the newest format, in small transactions.

The first one is the step from which no older release opens the file; it takes as long as one look at the index. Then
blocks get their checksums, some at a time from the newest to the oldest. A kill in between leaves a log that works:
what has no checksum yet is believed, and the next upgrade goes on there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from streams._native import Records
from streams.transport.blocks import BlockFile
from streams.transport.file_format import (
    FORMAT,
    MARK,
    MARK_OF,
    OFFSET,
    PARTITION,
    PLAIN_KEY,
    TOPIC,
    plain_upto,
    prepare,
    seal,
    seal_partition,
)

__all__ = ["Upgrade"]

STEP_BLOCKS = 256
STEP_BYTES = 8 << 20
"""Blocks of one transaction, whichever comes first: tens of milliseconds, and a WAL that is carried over on the way."""


class Upgrade:
    """The upgrade of one file. `write` is the transaction of the log's single writer."""

    def __init__(self, file: BlockFile, write: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._file = file
        self._write = write

    @property
    def is_due(self) -> bool:
        """Whether something of the file is in an older format."""
        return not self._file.is_sealed or self._file.plain_upto >= 0

    def steps(self) -> Iterator[int]:
        """Does what is due: the number of blocks that have got their checksums, after each transaction."""
        file = self._file
        if not file.is_sealed:
            with self._write() as writer:
                _begin(writer)
            file.know_format()
            yield 0
        done = 0
        while file.plain_upto >= 0:
            with self._write() as writer:
                done += _step(writer)
                left = plain_upto(writer)
            file.plain_upto = left
            yield done


def _begin(writer: sqlite3.Connection) -> None:
    """Checksums of everything but the blocks; from here on the file has the newest format."""
    prepare(writer)
    ids_of = "topics join topic_ids as named using (name) where name = topic_ids.name"
    places = "group_name, topic, partition"
    moved = f'{places}, "offset"'
    of_it = "from blocks where partition_id = partitions.id"
    for statement in (
        f"update topic_ids set sum = (select {TOPIC} from {ids_of})",
        f"delete from offset_notes where ({moved}) not in (select {moved} from group_offsets)",
        f"insert into offset_notes ({moved}, metadata) select {moved}, '' from group_offsets "
        f"where ({places}) not in (select {places} from offset_notes)",
        f"update offset_notes as o set sum = {OFFSET}",
        f"update partitions set blocks = (select coalesce(sum({MARK}), 0) {of_it})",
        f"update partitions set sum = {PARTITION}",
    ):
        writer.execute(statement)
    writer.execute("insert into meta select ?, max(id) from blocks having max(id) is not null", (PLAIN_KEY,))
    writer.execute("update meta set value = ? where key = 'format'", (FORMAT,))
    seal(writer)


def _step(writer: sqlite3.Connection) -> int:
    """Gives some blocks their checksums; how many."""
    rows, nbytes = [], 0
    wanted = (
        'select id, partition_id, "first", "last", records, bytes, created_ms, data from blocks where id <= ? '
        "order by id desc limit ?"
    )
    for row in writer.execute(wanted, (plain_upto(writer), STEP_BLOCKS)):
        rows.append(row)
        nbytes += row[5]
        if nbytes >= STEP_BYTES:
            break
    for number, *entry, data in rows:
        partition, first, last, records, came, created_ms = entry
        sealed = _sealed(data)
        now = (partition, first, last, records, len(sealed), created_ms)
        writer.execute(
            "update blocks set data = ?, bytes = ?, sum = row_sum(?, ?, ?, ?, ?, ?) where id = ?",
            (sealed, len(sealed), *now, number),
        )
        writer.execute(
            f"update partitions set blocks = blocks - ({MARK_OF}) + ({MARK_OF}) where id = ?",
            (partition, last, came, created_ms, partition, last, len(sealed), created_ms, partition),
        )
    for partition in {row[1] for row in rows}:
        seal_partition(writer, partition)
    if rows:
        writer.execute("update meta set value = ? where key = ?", (rows[-1][0] - 1, PLAIN_KEY))
    else:
        writer.execute("delete from meta where key = ?", (PLAIN_KEY,))
    return len(rows)


def _sealed(data: bytes) -> bytes:
    """A block with its checksum. One that is damaged stays as it is: whoever reads it says so, the rest is upgraded."""
    try:
        return Records.decode(data).encode()
    except (ValueError, TypeError):
        return data
