"""What `streams state upgrade` does: the embedded log gets its checksums, a changelog's partitions the newest format.

Rows stay as they are; each is written in the new format when it changes. What is new is the partition record: which log
the offsets of the rows are of, and the last epoch issued. A partition that has one writes the newest format.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from streams._native import PARTITION_KEY, RESERVED_PREFIX, Records, Table, decode_patch, decode_row
from streams.cli import groups, reading
from streams.cli.groups import Place
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.errors import StateError, TransportError
from streams.kernel.schema import MessageSchema
from streams.options import Settings, SyncSettings
from streams.sync.agent import make_job
from streams.sync.topics import SyncTopics
from streams.transport.log import Log
from streams.v1.resync_pb2 import Resync

__all__ = ["Upgraded", "upgrade", "upgrade_log"]


class Upgraded(NamedTuple):
    """One partition, how many rows it has, and whether it was brought to the newest format just now."""

    partition: int
    rows: int
    written: bool


def upgrade_log(directory: Path) -> int | None:
    """Brings an embedded log to the newest format: the blocks that got checksums just now, None where it had it.

    LogBusyError: a process has it open. Killed at any moment it goes on the next time.
    """
    with Log(directory, readonly=True) as looked_at:
        if not looked_at.upgrade.is_due:
            return None
    with Log(directory) as log:
        return max(log.upgrade.steps(), default=None)


def upgrade(settings: Settings, topics: SyncTopics) -> Iterator[Upgraded]:
    """Brings the changelog's partitions up to date, one after the other; what is done is not done again.

    StateError: rows of a newer release, or damaged ones.
    """
    ids = groups.ids(settings, [topics.input, topics.output])
    tables = _tables(settings, topics)
    epochs: dict[int, int] | None = None
    for place in groups.places(settings, topics.input):
        table = tables.get(place.partition)
        if table is None or not len(table) or table.get(PARTITION_KEY) is not None:
            yield Upgraded(place.partition, 0 if table is None else len(table), False)
            continue
        epochs = _epochs(settings, topics.output) if epochs is None else epochs
        log = _log_of(table, place, ids.get(topics.input, b""))
        table.assigned(log=log, output=ids.get(topics.output, b""), generation=None)
        table.raise_epoch(epochs.get(place.partition, 0))
        _write(settings, topics.changelog, place.partition, table.changelog(0, table.upgrade()))
        yield Upgraded(place.partition, len(table), True)


def _tables(settings: Settings, topics: SyncTopics) -> dict[int, Table]:
    """The rows of each partition. No message is looked into, so any type will do."""
    job = make_job(
        MessageSchema(Resync), SyncSettings(source=topics.source), topics.input, partitions=0, record_bytes_max=1 << 20
    )
    tables: dict[int, Table] = {}
    for partition, records in reading.read_all(settings, topics.changelog):
        table = tables.setdefault(partition, Table(job, partition))
        try:
            table.restore(records)
        except ValueError as error:
            raise StateError(f"{topics.changelog} partition {partition}: {error}", table=topics.source) from None
    return tables


def _log_of(table: Table, place: Place, found: bytes) -> bytes:
    """The id of the log that the rows' offsets are of, which need not be the one that is there now."""
    if place.beside is not None and place.beside.source:
        return place.beside.source
    keys = [key for key in table.keys() if not key.startswith(RESERVED_PREFIX)]  # noqa: SIM118 - it is no mapping
    highest = max((decode_row(table.get(key) or b"")["offset"] for key in keys), default=-1)
    # An offset that the log has not reached is of another one, and nobody knows its id: any that is nobody's will do.
    return uuid.uuid4().bytes if highest >= place.bounds.end else found


def _epochs(settings: Settings, output: str) -> dict[int, int]:
    """The highest epoch of any patch, by partition: an older release has issued some that no row tells of."""
    highest: dict[int, int] = {}
    for partition, records in reading.read_all(settings, output):
        for index in range(len(records)):
            try:
                epoch = decode_patch(records.value(index) or b"")["epoch"]
            except ValueError:
                continue  # whatever it is, receivers do not take it for a patch either
            highest[partition] = max(epoch, highest.get(partition, 0))
    return highest


def _write(settings: Settings, changelog: str, partition: int, rows: Records) -> None:
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    try:
        for outcome in writer.write(changelog, rows, partition):
            if isinstance(outcome, TransportError):
                raise outcome
    finally:
        writer.close()
