"""What a receiver keeps on disk: its rows and how far they go, so that a restart holds what it held.

One SQLite file per topic and group, for one receiver at a time. Rows and positions of a save are there together or not
at all; the group's offsets are committed after them, never before.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from streams.client.beginning import Stored
from streams.client.rows import Row
from streams.errors import StateError
from streams.kernel.rule import Held

__all__ = ["Kept", "Loaded", "Place", "Save"]

FORMAT = 1
"""Format of the file; a newer one is refused by name."""
BUSY_TIMEOUT_MS = 2_000
"""How long a file that another process holds is waited for: a predecessor that is just ending."""
TABLES = """
create table meta (key text primary key, value blob not null) without rowid;
create table places (
    partition integer primary key, "offset" integer not null, log blob not null, age integer not null,
    partial integer not null, schema text not null
);
create table rows (
    partition integer not null, key blob not null, epoch integer not null, revision integer not null,
    intact integer not null, age integer not null, state blob, primary key (partition, key)
) without rowid;
"""
SIGNED = 1 << 63
"""SQLite's integers are signed, epochs and revisions are not."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far the rows of a partition go, how often it lost its place, and whether it was begun in the middle."""

    stored: Stored
    age: int = 0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is kept of a partition; `own`: under the descriptor that the receiver has now."""

    place: Place | None = None
    rows: list[tuple[bytes, Row]] = field(default_factory=list)
    own: bool = True


@dataclass(frozen=True, slots=True)
class Save:
    """Rows that changed, None: they went, and the places of their partitions."""

    rows: dict[tuple[int, bytes], Row | None]
    places: dict[int, Place]


class Kept:
    """The file of one receiver. Any thread, one at a time.

    StateError: another process holds it, a newer release wrote it, it is damaged or of another message type, or the
    disk is full.
    """

    def __init__(self, directory: Path, topic: str, group: str, type_name: str, fingerprint: int) -> None:
        """Opens the file, or makes it."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"datadir {directory}: {error.strerror}; name a directory that can be written") from error
        self.path = directory / f"{_plain(topic)}.{_plain(group) or 'all'}.receiver.sqlite3"
        self._schema = f"{fingerprint:016x}"
        with self._named():
            self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                self._open(topic, group, type_name)
            except BaseException:
                self._file.close()
                raise

    def _open(self, topic: str, group: str, type_name: str) -> None:
        file = self._file
        file.execute(f"pragma busy_timeout={BUSY_TIMEOUT_MS}")
        file.execute("pragma locking_mode=exclusive")
        file.execute("pragma journal_mode=wal")
        file.execute("pragma synchronous=normal")  # a power cut takes back the last save; the log has it all again
        file.execute("begin exclusive")
        owner = {"topic": topic, "group": group, "type": type_name}
        if not file.execute("select 1 from sqlite_master where name = 'meta'").fetchone():
            for statement in TABLES.split(";\n"):
                file.execute(statement)
            file.executemany("insert into meta values (?, ?)", {"format": FORMAT, **owner}.items())
        held = dict(file.execute("select key, value from meta").fetchall())
        file.execute("commit")
        if held.get("format", 0) > FORMAT:
            raise StateError(f"{self.path}: format {held['format']}, expected at most {FORMAT}; upgrade this process")
        for name, wanted in owner.items():
            if held.get(name) != wanted:
                raise StateError(
                    f"{self.path}: rows of {name} {held.get(name)}, expected {wanted}; "
                    "give this receiver a datadir of its own, or remove the file to begin anew"
                )

    def load(self, partition: int) -> Loaded:
        """What is kept of a partition. Blocks."""
        with self._named():
            found = self._file.execute(
                'select "offset", log, age, partial, schema from places where partition = ?', (partition,)
            ).fetchone()
            if found is None:
                return Loaded()
            offset, log, age, partial, schema = found
            rows = self._file.execute(
                "select key, epoch, revision, intact, age, state from rows where partition = ?", (partition,)
            )
            kept = [
                (key, Row(Held(epoch + SIGNED, revision + SIGNED, bool(intact)), state, row_age))
                for key, epoch, revision, intact, row_age, state in rows
            ]
        return Loaded(Place(Stored(offset, log), age, bool(partial)), kept, schema == self._schema)

    def save(self, save: Save) -> None:
        """Writes rows and places, all or nothing. Blocks."""
        with self._named():
            self._file.execute("begin immediate")
            try:
                self._write(save)
                self._file.execute("commit")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("rollback")
                raise

    def _write(self, save: Save) -> None:
        self._file.executemany(
            "insert or replace into rows values (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    partition,
                    key,
                    row.held.epoch - SIGNED,
                    row.held.revision - SIGNED,
                    row.held.intact,
                    row.age,
                    row.state,
                )
                for (partition, key), row in save.rows.items()
                if row is not None
            ],
        )
        self._file.executemany(
            "delete from rows where partition = ? and key = ?",
            [where for where, row in save.rows.items() if row is None],
        )
        self._file.executemany(
            "insert or replace into places values (?, ?, ?, ?, ?, ?)",
            [
                (partition, place.stored.offset, place.stored.log, place.age, place.partial, self._schema)
                for partition, place in save.places.items()
            ],
        )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                told = "another receiver holds it; give each one a datadir of its own"
            elif code == sqlite3.SQLITE_FULL:
                told = "no room left on the disk; free some, then start again"
            elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                told = "it is damaged; remove it to begin anew from snapshots"
            else:
                told = str(error)
            raise StateError(f"{self.path}: {told}") from error


def _plain(name: str) -> str:
    """A name as part of a file's name; what it loses is compared in the file."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
