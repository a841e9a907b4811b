"""The rows of one partition on disk (RocksDB): state larger than memory.

A write puts rows and the changelog offset they come from into one write batch, so that both are there or neither is.
The batch is written once the transaction that holds the same changelog records is committed, and is not synced:
after a kill the store is as it was, after power loss it may be behind its changelog, whose tail is then replayed. It is
never ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, cast

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

from streams._native import RESERVED_PREFIX, Records
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import StateError

__all__ = ["Memory", "Store", "StoreName"]

FORMAT = 1
"""Format of the store's keys and reserved values. A row has its own format byte on top."""
RESERVED = b"\x00"
"""First byte of our own keys. Rows have another one: no entity key can collide."""
ROW = b"\x01"
FORMAT_KEY = RESERVED + b"format"
OFFSET_KEY = RESERVED + b"changelog-offset"
TOMBSTONE = RESERVED + b"tombstone/"
"""Before deleted-at (eight bytes, so that the oldest comes first) and key: which rows are to be forgotten, and when."""
TOMBSTONES_END = RESERVED + b"tombstone0"
TOMBSTONES_KEY = RESERVED + b"tombstones"
"""Changelog offset up to which that list is whole, and its length, eight bytes each. A release that does not know of
the list moves the rows' offset alone, and is seen by it."""
WRITTEN_KEY = RESERVED + b"written-ms"
"""When the store last came as far as the offset says; older releases pass it over."""
NAME_KEY = RESERVED + b"name"
"""Whose rows these are; older releases pass it over."""

BLOCK_CACHE_BYTES = 64 << 20
"""All stores of a process together: the hot rows, and the filters and indexes of 100 million keys' worth of files in
part. What does not fit is read from the page cache of the machine."""
WRITE_BUFFER_BYTES = 64 << 20
"""All stores of a process together, so that many partitions do not multiply it."""
STORE_BUFFER_BYTES = 16 << 20
"""One store's buffer before it becomes a file: about 100,000 rows, a tenth of a second to replay at start."""
STORE_BUFFERS_MAX = 2
"""One taking writes while one is being written out."""
OPEN_FILES_MAX = 48
"""Per store: sixteen partitions stay under the usual limit of 1,024 descriptors with room for sockets."""
BACKGROUND_JOBS = 2
"""One flush and one compaction at a time: the processor belongs to the kernel."""
BLOCK_BYTES = 16 << 10
"""Rows are some hundred bytes: fewer, larger blocks keep the index small and compress better than 4 KiB ones."""
BLOOM_BITS_PER_KEY = 10
"""One look in a hundred at a file that does not have the key; new keys are common."""
LOG_FILES_MAX = 2
LOG_FILE_BYTES_MAX = 1 << 20
"""RocksDB's own text log: enough to see why it stalled, never a disk full of it."""
LIST_BATCH = 10_000
"""Entries written at once where the list of tombstones is made anew: a megabyte or two."""
MANIFEST_BLOCK_BYTES, MANIFEST_HEADER_BYTES = 32 << 10, 7
"""It consists of blocks of records; before each are checksum, length (two bytes) and type, none lies across blocks."""
MANIFEST_NEVER = range(5, 9)
"""Types of records in a log file that is used again, which a list of files never is."""
MANIFEST_BYTES_MAX = 4 << 20
"""The list of files is rewritten at this size; its default of 1 GiB slows down the next start."""


class StoreName(NamedTuple):
    """Whose rows a store has. `changelog`: the id of the topic; empty where the broker has none."""

    app: str
    partition: int
    changelog: bytes

    def encode(self) -> bytes:
        """As it is stored."""
        return f"{self.app};{self.partition};{self.changelog.hex()}".encode()

    @classmethod
    def decode(cls, stored: bytes) -> StoreName | None:
        """None where the bytes are no name."""
        parts = stored.decode(errors="replace").split(";")
        try:
            return cls(parts[0], int(parts[1]), bytes.fromhex(parts[2]))
        except (IndexError, ValueError):
            return None


class Memory:
    """Memory that the stores of a process share: one block cache, one bound for all write buffers."""

    def __init__(
        self, block_cache_bytes: int = BLOCK_CACHE_BYTES, write_buffer_bytes: int = WRITE_BUFFER_BYTES
    ) -> None:
        self.cache = Cache(block_cache_bytes)
        self.write_buffers = WriteBufferManager(write_buffer_bytes, allow_stall=False)


class Store:
    """The store in `path`, made when it does not exist. One process at a time; any thread.

    Raises StateError: held by another process, written by a newer release, or damaged.
    """

    def __init__(self, path: str | Path, memory: Memory | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = Path(path)
        self._clock = clock
        with self._named_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            if any(map(_is_endless, self.path.glob("MANIFEST-*"))):
                raise self._error("is damaged (its manifest has a record of another kind of file)")
            self._db = Rdict(str(self.path), _options(memory or Memory()))
        try:
            self._check_format()
            self._tombstones = self._listed()
            self._offset = self.changelog_offset()
        except BaseException:
            self._db.close()
            raise

    def _check_format(self) -> None:
        """Refuses a newer format; marks a new store with ours."""
        with self._named_errors():
            came = self._db.get(FORMAT_KEY)
            if came is None:
                if next(iter(self._db.keys()), None) is not None:
                    raise self._error("is damaged (it has rows, but its format is not recorded)")
                self._db.put(FORMAT_KEY, bytes([FORMAT]))
                return
        if came[0] > FORMAT:
            raise StateError(
                f"state store {self.path} has format {came[0]}, the newest this release reads is {FORMAT}; upgrade "
                "this process, or remove the directory: `streams state rebuild` makes it anew from the changelog"
            )

    @property
    def name(self) -> StoreName | None:
        """Whose rows these are; None where nobody said: the store is new, or of an older release."""
        with self._named_errors():
            stored = self._db.get(NAME_KEY)
        return None if stored is None else StoreName.decode(stored)

    def take_name(self, name: StoreName) -> None:
        """Writes down whose rows these are."""
        with self._named_errors():
            self._db.put(NAME_KEY, name.encode())

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key; None where there is none."""
        with self._named_errors():
            return cast("list[bytes | None]", self._db.get([ROW + key for key in keys]))

    def write(self, rows: Records, changelog_offset: int, moved: Records | None = None) -> None:
        """Writes rows (value None: removes the row) and the offset up to which the store then equals its changelog.

        `moved`: the tombstones that these rows make or end, as `Table.take_moved` gives them; without it the list of
        tombstones is made anew at the next start. All or nothing, also after kill -9. A key that comes twice ends with
        its last row. Every row has a key.
        """
        batch = WriteBatch(raw_mode=True)
        for index in range(len(rows)):
            key, value = rows.key(index), rows.value(index)
            if key is None:
                raise StateError(f"state store {self.path}: row {index} of a write has no key")
            if value is None:
                batch.delete(ROW + key)
            else:
                batch.put(ROW + key, value)
        offset = changelog_offset.to_bytes(8, "big", signed=True)
        batch.put(OFFSET_KEY, offset)
        if changelog_offset != self._offset:
            batch.put(WRITTEN_KEY, self._now())
        made = self._move(batch, moved) if moved is not None else 0
        if self._tombstones is not None and moved is not None:
            batch.put(TOMBSTONES_KEY, offset + (self._tombstones + made).to_bytes(8, "big"))
        with self._named_errors():
            self._db.write(batch)
        self._offset = changelog_offset
        if self._tombstones is not None:
            self._tombstones += made

    def up_to_date(self) -> None:
        """Notes that the store equals its changelog now, as far as its offset says."""
        with self._named_errors():
            self._db.put(WRITTEN_KEY, self._now())

    @property
    def age_ms(self) -> int | None:
        """For how long the store has been where it is; None: an older release wrote here."""
        with self._named_errors():
            written = self._db.get(WRITTEN_KEY)
        return None if written is None else self._clock.now_ms() - int.from_bytes(written, "big")

    def _now(self) -> bytes:
        return self._clock.now_ms().to_bytes(8, "big")

    def changelog_offset(self) -> int | None:
        """The offset of the last `write`; None for a store that has none."""
        with self._named_errors():
            written = self._db.get(OFFSET_KEY)
        return None if written is None else int.from_bytes(written, "big", signed=True)

    @property
    def tombstones(self) -> int | None:
        """Tombstones among the rows; None: an older release wrote here, the list is to be made anew."""
        return self._tombstones

    def due(self, until_ms: int, count: int) -> list[bytes]:
        """Keys of at most `count` tombstones made at or before `until_ms`, the oldest first."""
        keys: list[bytes] = []
        with self._named_errors():
            cursor = self._db.iter()
            cursor.seek(TOMBSTONE)
            while len(keys) < count and cursor.valid():
                entry: bytes = cursor.key()
                at, key = entry[len(TOMBSTONE) : len(TOMBSTONE) + 8], entry[len(TOMBSTONE) + 8 :]
                if not entry.startswith(TOMBSTONE) or int.from_bytes(at, "big") > until_ms:
                    break
                keys.append(key)
                cursor.next()
            cursor.status()
        return keys

    def list_tombstones(self, deleted_at: Callable[[bytes], int | None], keep_going: Callable[[], bool]) -> None:
        """Makes the list of tombstones anew from the rows. Stops without one where `keep_going` says so."""
        with self._named_errors():
            self._db.delete_range(TOMBSTONE, TOMBSTONES_END)
        batch, pending, listed = WriteBatch(raw_mode=True), 0, 0
        for key, row in self.items():
            deleted_at_ms = deleted_at(row)
            if deleted_at_ms is not None:
                batch.put(_entry(deleted_at_ms, key), b"")
                pending, listed = pending + 1, listed + 1
            if pending == LIST_BATCH:
                with self._named_errors():
                    self._db.write(batch)
                batch, pending = WriteBatch(raw_mode=True), 0
            if not keep_going():
                return
        with self._named_errors():
            offset = self._db.get(OFFSET_KEY)
            if offset is not None:
                batch.put(TOMBSTONES_KEY, offset + listed.to_bytes(8, "big"))
            self._db.write(batch)
        self._tombstones = listed

    def _listed(self) -> int | None:
        """Length of the list of tombstones, where it is as far as the rows are."""
        with self._named_errors():
            written, offset = self._db.get(TOMBSTONES_KEY), self._db.get(OFFSET_KEY)
        if written is None:
            return 0 if offset is None else None
        return int.from_bytes(written[8:], "big") if written[:8] == offset else None

    @staticmethod
    def _move(batch: WriteBatch, moved: Records) -> int:
        """Puts the changes of the list into a batch; by how much it grows."""
        made = 0
        for index in range(len(moved)):
            entry = _entry(moved.timestamp_ms(index), moved.key(index) or b"")
            if moved.value(index) is None:
                batch.delete(entry)
                made -= 1
            else:
                batch.put(entry, b"")
                made += 1
        return made

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """As `items`, entities' alone."""
        return (item for item in self.items() if not item[0].startswith(RESERVED_PREFIX))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and rows by ascending key, as of one moment, every block's checksum checked.

        Exhaust or close the iterator before closing the store: it holds the store open.
        """
        with self._named_errors():
            cursor = self._db.iter()
            cursor.seek(ROW)
            while cursor.valid():
                key: bytes = cursor.key()
                if not key.startswith(ROW):
                    break
                yield key[len(ROW) :], cursor.value()
                cursor.next()
            cursor.status()  # a damaged block ends an iteration like the last row does

    def close(self) -> None:
        """Closes the store; closing twice is allowed."""
        with self._named_errors(), suppress(DbClosedError):
            self._db.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turns RocksDB's errors, all of them plain `Exception`s with a text, into ours."""
        try:
            yield
        except StateError:
            raise
        except DbClosedError as error:
            raise StateError(f"state store {self.path} is closed") from error
        except OSError as error:
            raise StateError(f"state store {self.path}: {error.strerror}; check the datadir setting") from error
        except Exception as error:
            text = str(error)
            if "lock hold" in text or "LOCK:" in text:
                raise StateError(
                    f"state store {self.path} is held by another process or by another table of this one; "
                    "give each worker its own datadir"
                ) from error
            if "No space left" in text:
                raise StateError(f"state store {self.path}: no room left on the disk; free some space") from error
            raise self._error(f"is damaged or cannot be used ({text.splitlines()[0]})") from error

    def _error(self, what: str) -> StateError:
        return StateError(
            f"state store {self.path} {what}; stop the worker and run `streams state rebuild`: it makes the store anew "
            "from the changelog"
        )


def _is_endless(manifest: Path) -> bool:
    """Whether a list of files has a record of a type that only a reused log has. RocksDB 9.8 reads such a one for ever,
    and holds the interpreter's lock meanwhile: neither a signal nor the limit on progress would end the process.
    """
    raw, at = (manifest.read_bytes() if manifest.is_file() else b""), 0
    while at + MANIFEST_HEADER_BYTES <= len(raw):
        left = MANIFEST_BLOCK_BYTES - at % MANIFEST_BLOCK_BYTES
        if left < MANIFEST_HEADER_BYTES:
            at += left
            continue
        if raw[at + 6] in MANIFEST_NEVER:
            return True
        at += MANIFEST_HEADER_BYTES + int.from_bytes(raw[at + 4 : at + 6], "little")
    return False


def _entry(deleted_at_ms: int, key: bytes) -> bytes:
    """The list's entry of one tombstone."""
    return TOMBSTONE + deleted_at_ms.to_bytes(8, "big") + key


def _options(memory: Memory) -> Options:
    """Bounded memory, files and logs; see the constants for the reasons."""
    blocks = BlockBasedOptions()
    blocks.set_block_cache(memory.cache)
    blocks.set_block_size(BLOCK_BYTES)
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, block_based=False)
    blocks.set_cache_index_and_filter_blocks(True)  # else they grow beside the cache, without bound
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_manager(memory.write_buffers)
    options.set_write_buffer_size(STORE_BUFFER_BYTES)
    options.set_max_write_buffer_number(STORE_BUFFERS_MAX)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_max_background_jobs(BACKGROUND_JOBS)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)  # keeps dead rows to a tenth of the live ones
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())  # a torn tail is dropped, never anything before it
    options.set_keep_log_file_num(LOG_FILES_MAX)
    options.set_max_log_file_size(LOG_FILE_BYTES_MAX)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    return options
