"""What a receiver keeps on disk: its rows and how far they go, so that a restart holds what it held.

One SQLite file per topic and group, for one receiver at a time. Rows and positions of a save are there together or not
at all; the group's offsets are committed after them, never before. Whatever is read carries a checksum.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from streams._native import xxh3_64
from streams.client.beginning import Stored
from streams.client.missed import Missing
from streams.client.rows import Entry, Row
from streams.errors import StateError
from streams.kernel.rule import Held

__all__ = ["Kept", "Loaded", "Place", "Save"]

FORMAT = 2
"""Format of the file; another one is refused by name. Only development versions wrote the first."""
BUSY_TIMEOUT_MS = 2_000
"""How long a file that another process holds is waited for: a predecessor that is just ending."""
NAME_CHARACTERS = 60
"""Of topic and group, for people, in the file's name; what is cut is in the checksum behind them."""
TABLES = """
create table meta (key text primary key, value blob not null) without rowid;
create table places (partition integer primary key, place blob not null);
create table rows (partition integer not null, key blob not null, entry blob not null, primary key (partition, key))
without rowid;
"""
SUM = struct.Struct(">Q")
PLACE = struct.Struct(">QQ?")
"""Next offset, age, whether the partition is partial; then the id of the log."""
ENTRY = struct.Struct(">QBQQQQQqB")
"""Fingerprint of the descriptor, flags; of the row epoch, revision, age; of what is missing epoch, revision, offset,
reason. Then the state."""
HAS_ROW, HAS_STATE, IS_INTACT, HAS_MISSING = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Place:
    """How far the rows of a partition go, how often it lost its place, and whether it was begun in the middle."""

    stored: Stored
    age: int = 0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is kept of a partition; `own`: all of it under the descriptor that the receiver has now."""

    place: Place | None = None
    rows: list[tuple[bytes, Row]] = field(default_factory=list)
    missing: dict[bytes, Missing] = field(default_factory=dict)
    own: bool = True


@dataclass(frozen=True, slots=True)
class Save:
    """What is known now of keys that changed, and the places of their partitions."""

    entries: dict[tuple[int, bytes], Entry]
    places: dict[int, Place]


class Kept:
    """The file of one receiver. Any thread, one at a time.

    StateError: another process holds it, a newer release wrote it, it is damaged or of another message type, it cannot
    be written, or the disk is full.
    """

    def __init__(self, directory: Path, topic: str, group: str | None, type_name: str, fingerprint: int) -> None:
        """Opens the file, or makes it."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"datadir {directory}: {error.strerror}; name a directory that can be written") from error
        whose = "" if group is None else f"@{_plain(group)}"
        names = f"{topic}\0{'' if group is None else group}\0{group is None}".encode()
        self.path = directory / f"{_plain(topic)}{whose}.{xxh3_64(names):016x}.receiver.sqlite3"
        self._fingerprint = fingerprint
        with self._named():
            self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                self._open({"topic": topic, "group": group or "", "type": type_name})
            except BaseException:
                self._file.close()
                raise

    def _open(self, owner: dict[str, str]) -> None:
        file = self._file
        file.execute(f"pragma busy_timeout={BUSY_TIMEOUT_MS}")
        file.execute("pragma locking_mode=exclusive")
        file.execute("pragma journal_mode=wal")
        file.execute("pragma synchronous=normal")  # a power cut takes back the last save; the log has it all again
        file.execute("begin exclusive")
        if not file.execute("select 1 from sqlite_master").fetchone():
            for statement in TABLES.split(";\n"):
                file.execute(statement)
            sealed = {name: _sealed(name.encode(), told.encode()) for name, told in owner.items()}
            file.executemany("insert into meta values (?, ?)", {"format": FORMAT, **sealed}.items())
        held = dict(file.execute("select key, value from meta").fetchall())
        came = held.get("format")
        if not isinstance(came, int):
            raise self._damaged()
        if came != FORMAT:
            cure = "upgrade this process" if came > FORMAT else "remove it to begin anew from snapshots"
            raise StateError(f"{self.path}: format {came}, expected {FORMAT}; {cure}")
        for name, wanted in owner.items():
            told = self._unsealed(name.encode(), held.get(name)).decode()
            if told != wanted:
                raise StateError(
                    f"{self.path}: rows of {name} {told}, expected {wanted}; "
                    "give this receiver a datadir of its own, or remove the file to begin anew"
                )
        self._check()
        file.execute("commit")

    def _check(self) -> None:
        """Reads everything once. What is missing shows in no checksum, but in the table; what lies in another place
        than its own would not be found there."""
        if self._file.execute("pragma quick_check(1)").fetchone() != ("ok",):
            raise self._damaged()
        for partition, place in self._file.execute("select partition, place from places"):
            self._unsealed(_at(partition), place)
        for partition, key, entry in self._file.execute("select partition, key, entry from rows"):
            if not isinstance(key, bytes):
                raise self._damaged()
            self._unsealed(_at(partition, key), entry)

    def load(self, partition: int) -> Loaded:
        """What is kept of a partition. Blocks."""
        with self._named():
            found = self._file.execute("select place from places where partition = ?", (partition,)).fetchone()
            entries = self._file.execute("select key, entry from rows where partition = ?", (partition,))
            if found is None:
                return Loaded()
            body = self._unsealed(_at(partition), found[0])
            offset, age, partial = PLACE.unpack_from(body)
            loaded = Loaded(Place(Stored(offset, body[PLACE.size :]), age, partial))
            is_own = True
            for key, sealed in entries:
                fingerprint = self._take(key, self._unsealed(_at(partition, key), sealed), loaded)
                is_own = is_own and fingerprint == self._fingerprint
        return Loaded(loaded.place, loaded.rows, loaded.missing, is_own)

    def _take(self, key: bytes, body: bytes, loaded: Loaded) -> int:
        """Puts an entry where it belongs; returns the fingerprint of its descriptor."""
        fingerprint, flags, epoch, revision, age, *missing = ENTRY.unpack_from(body)
        if flags & HAS_ROW:
            state = body[ENTRY.size :] if flags & HAS_STATE else None
            loaded.rows.append((key, Row(Held(epoch, revision, bool(flags & IS_INTACT)), state, age)))
        if flags & HAS_MISSING:
            needed_epoch, needed_revision, offset, reason = missing
            loaded.missing[key] = Missing((needed_epoch, needed_revision), offset, reason)
        return int(fingerprint)

    def save(self, save: Save) -> None:
        """Writes entries and places, all or nothing. Blocks."""
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
        written, gone = [], []
        for (partition, key), entry in save.entries.items():
            if entry == (None, None):
                gone.append((partition, key))
            else:
                written.append((partition, key, _sealed(_at(partition, key), self._packed(*entry))))
        self._file.executemany("insert or replace into rows values (?, ?, ?)", written)
        self._file.executemany("delete from rows where partition = ? and key = ?", gone)
        self._file.executemany(
            "insert or replace into places values (?, ?)",
            [
                (
                    partition,
                    _sealed(
                        _at(partition),
                        PLACE.pack(place.stored.offset, place.age, place.partial) + place.stored.log,
                    ),
                )
                for partition, place in save.places.items()
            ],
        )

    def _packed(self, row: Row | None, missing: Missing | None) -> bytes:
        """An entry's bytes."""
        flags, numbers, state = 0, (0, 0, 0), b""
        if row is not None:
            flags = HAS_ROW | (IS_INTACT if row.held.intact else 0) | (HAS_STATE if row.state is not None else 0)
            numbers, state = (row.held.epoch, row.held.revision, row.age), row.state or b""
        needed, offset, reason = (0, 0), -1, 0
        if missing is not None:
            flags |= HAS_MISSING
            needed, offset, reason = missing.needed, missing.offset, missing.reason
        return ENTRY.pack(self._fingerprint, flags, *numbers, *needed, offset, reason) + state

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _unsealed(self, name: bytes, sealed: object) -> bytes:
        """What was stored under a name, where it is that."""
        if not isinstance(sealed, bytes) or sealed != _sealed(name, sealed[SUM.size :]):
            raise self._damaged()
        return sealed[SUM.size :]

    def _damaged(self) -> StateError:
        return StateError(f"{self.path}: it is damaged, or no receiver's; remove it to begin anew from snapshots")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                told = "another receiver holds it; give each one a datadir of its own"
            elif code == sqlite3.SQLITE_FULL:
                told = "no room left on the disk; free some: what was not saved is saved then"
            elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                told = "it cannot be opened for writing; name a datadir that can be written"
            elif code == sqlite3.SQLITE_IOERR:
                told = f"the disk failed ({error}); see to it, then start again"
            else:
                raise self._damaged() from error
            raise StateError(f"{self.path}: {told}") from error


def _plain(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:NAME_CHARACTERS]


def _at(partition: object, key: bytes = b"") -> bytes:
    """The name of a place, or of a key's entry. A damaged table may give anything for a partition."""
    return f"{partition} ".encode() + key


def _sealed(name: bytes, body: bytes) -> bytes:
    """A body behind a checksum, which holds for its place too."""
    return SUM.pack(xxh3_64(b"%d %s %s" % (len(name), name, body))) + body
