"""Connections to the SQLite file under the durable local log: one writes, any thread reads, errors have names."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams._native import wal_damage
from streams.errors import LogDamagedError, LogFullError, TransportError
from streams.transport.file_format import add_sums, make_file

__all__ = ["Connections"]

BUSY_TIMEOUT_MS = 5_000
"""How long a connection waits for a checkpoint or a recovery in another process before it gives up."""
READERS_MAX = 8
"""Idle reader connections kept open; more threads than that read at once rarely, and then open their own."""
CURES = {
    sqlite3.SQLITE_CANTOPEN: "this process needs leave to read and write the directory and every file in it",
    sqlite3.SQLITE_READONLY: "this process needs leave to write the directory and every file in it",
    sqlite3.SQLITE_PERM: "this process needs leave to read and write the directory and every file in it",
    sqlite3.SQLITE_IOERR: "the disk did not do what it was asked to: look at its quota, its mount and its health",
}
"""What to do about SQLite's own words, by its codes."""


class Connections:
    """The connections to one file. The caller serialises the use of the one that writes."""

    def __init__(self, path: Path, *, readonly: bool, is_synced: bool, in_order: bool) -> None:
        """`is_synced`: transactions were on the disk before they were acknowledged. `in_order`: see `wal_damage`."""
        self.path = path
        self._readonly = readonly
        self._closed = False
        self._readers: deque[sqlite3.Connection] = deque(maxlen=READERS_MAX)
        if readonly and not path.exists():
            raise TransportError(f"embedded log {path} does not exist; check the broker's directory")
        with self.named_errors():
            if not path.exists():
                make_file(path)
            elif not readonly and (is_synced or in_order):
                self._check_tail(in_order)
            self._writer = self._connect()

    def _check_tail(self, in_order: bool) -> None:
        """What a killed process left in the WAL; SQLite would read it as far as the first bit that flipped."""
        try:
            wal = self.path.with_name(f"{self.path.name}-wal").read_bytes()
        except FileNotFoundError:
            return
        at = wal_damage(wal, in_order)
        if at is not None:
            raise LogDamagedError(self.path, f"its -wal at byte {at}: what was appended after it would be lost")

    def _connect(self, readonly: bool = False) -> sqlite3.Connection:
        mode = "ro" if readonly or self._readonly else "rwc"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"pragma busy_timeout={BUSY_TIMEOUT_MS}")
        add_sums(connection)
        return connection

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turns SQLite's errors into the log's own."""
        try:
            yield
        except OSError as error:
            raise TransportError(f"embedded log {self.path}: {error.strerror}; {CURES[sqlite3.SQLITE_PERM]}") from error
        except UnicodeDecodeError as error:
            raise LogDamagedError(self.path, "SQLite names what is not text") from error
        except UnicodeEncodeError as error:
            raise TransportError(
                f"embedded log {self.path}: got a name that is not UTF-8, expected text; give the topic or the group "
                "another one"
            ) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte; the rest says where in SQLite
            if code == sqlite3.SQLITE_FULL:
                raise LogFullError(self.path) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise LogDamagedError(self.path, str(error)) from error
            cure = f"; {CURES[code]}" if code in CURES else ""
            raise TransportError(
                f"embedded log {self.path}: {error}{cure}",
                retriable=code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
            ) from error

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
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

    def checkpoint(self, wal_bytes_min: int = 0) -> bool:
        """Carries a WAL of at least that size over into the file and empties it; False when a reader was in the way."""
        wal = self.path.with_name(f"{self.path.name}-wal")
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
