"""Compaction of a topic partition: the last record of each key stays, older ones go. Decides only; touches no file.

One pass learns the last offset of each key in the dirty part of the log, as far as its memory allows, and then filters
every block from the start up to there. Offsets never change, so blocks become sparse. What a pass keeps below its end
has each key once, so the next one learns from there on only.
"""

from __future__ import annotations

from streams._native import Records

__all__ = ["Compaction"]

KEYS_MAX = 250_000
"""Keys one pass remembers: about 50 MB with keys of 36 bytes. More keys take more passes, never more memory."""
KEY_BYTES_MAX = 32 << 20
"""The same bound for long keys."""


class Compaction:
    """One pass over one partition.

    `newest` is the partition's last offset: its record always stays, so that a reader at the end finds the end.
    Tombstones (records without a value) stay `delete_retention_ms` from their append, so that a reader that is not
    further behind than that sees the deletion. Records without a key are nobody's older version and stay.
    """

    def __init__(
        self, cleaned: int, newest: int, now_ms: int, delete_retention_ms: int, *, keys_max: int = KEYS_MAX
    ) -> None:
        self.newest = newest
        """The partition's last offset when the pass began."""
        self._now_ms = now_ms
        self._delete_retention_ms = delete_retention_ms
        self._keys_max = keys_max
        self._last: dict[bytes, int] = {}
        self._key_bytes = 0
        self.target = cleaned
        """Where the learned part ends: each key is there once at most below it, when the pass is through."""
        self.kept = 0
        """Records kept so far."""
        self.tombstones_due_ms: int | None = None
        """When the first of the kept tombstones may go; None: none was kept."""

    def learn(self, records: Records) -> bool:
        """Takes in the next block of the dirty part; False when the pass remembers as much as it may."""
        last = self._last
        for index in range(len(records)):
            key = records.key(index)
            if key is not None:
                if key not in last:
                    self._key_bytes += len(key)
                last[key] = records.offset(index)
        self.target = records.last_offset + 1
        return len(last) < self._keys_max and self._key_bytes < KEY_BYTES_MAX

    def keep(self, records: Records, created_ms: int) -> Records:
        """The records of a block that stay: `records` itself when all do."""
        expires_ms = created_ms + self._delete_retention_ms
        stays = [self._stays(records, index, expires_ms) for index in range(len(records))]
        self.kept += sum(stays)
        if all(stays):
            return records
        kept = Records()
        start = 0
        while start < len(stays):
            stop = start
            while stop < len(stays) and stays[stop]:
                stop += 1
            if stop > start:
                kept.extend(records.slice(start, stop))
            start = stop + 1
        return kept

    def _stays(self, records: Records, index: int, expires_ms: int) -> bool:
        key, offset = records.key(index), records.offset(index)
        if key is None or offset == self.newest:
            return True
        if self._last.get(key, -1) > offset:
            return False
        if records.value(index) is not None:
            return True
        if expires_ms <= self._now_ms:
            return False
        if self.tombstones_due_ms is None or expires_ms < self.tombstones_due_ms:
            self.tombstones_due_ms = expires_ms
        return True
