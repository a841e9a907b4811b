"""Rows from a store for the records that the kernel is to work on: as many at a time as memory is for."""

from __future__ import annotations

import sys

from streams._native import Records, Table
from streams.state.rocks import Store

__all__ = ["Loader"]

ROWS_BYTES_MAX = 32 << 20
"""Of the rows that one call has from a store, as much as the values of a chunk may come to: 8,000 events of a hundred
bytes each may meet 8,000 rows of a megabyte. What is behind is worked on in the next call."""
KEYS_ASKED = 256
"""So many rows are read from a store before their bytes are looked at."""


class Loader:
    """One per partition whose rows are in a store. Used by one thread at a time."""

    def __init__(self, table: Table, store: Store) -> None:
        self._table = table
        self._store = store
        self._records_asked = sys.maxsize // 2  # whose rows are loaded at once

    def load(self, records: Records, also: list[bytes], *, requests: bool) -> Records:
        """Gives the table the rows of the first records' keys, as many as a call may have; these records.

        `also`: keys whose rows are small, and are needed beside them.
        """
        count = min(len(records), self._records_asked)
        while True:
            part = records if count == len(records) else records.slice(0, count)
            keys = [*self._table.missing(part, requests=requests), *also]
            rows = self._rows(keys, ROWS_BYTES_MAX if count > 1 else sys.maxsize)
            if rows is not None:
                break
            self._records_asked = count = (count + 1) // 2
        if count == self._records_asked:
            self._records_asked *= 2  # the next may be small ones
        if keys:
            self._table.load(keys, rows)
        return part

    def _rows(self, keys: list[bytes], bytes_max: int) -> list[bytes | None] | None:
        """The store's rows of these keys; None: they are more bytes than that."""
        found: list[bytes | None] = []
        size = 0
        for first in range(0, len(keys), KEYS_ASKED):
            rows = self._store.multi_get(keys[first : first + KEYS_ASKED])
            size += sum(len(row) for row in rows if row is not None)
            if size > bytes_max:
                return None
            found += rows
        return found
