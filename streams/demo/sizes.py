"""How large patches are, whole and compressed. Pure."""

from __future__ import annotations

from collections import defaultdict

from streams._native import Records
from streams.kernel.compression import compress

BATCH_PATCHES = 1_000
"""Patches compressed together, per partition: some 400 KB, well within a batch of Kafka's own producer (1 MB)."""


class Sizes:
    """Bytes of the patches that `add` was given; `finish` counts the last, shorter batches."""

    def __init__(self) -> None:
        self.plain_bytes = 0
        """Values alone: whole `streams.v1.Patch` messages."""
        self.compressed_bytes = 0
        """Keys and values as zstd makes them, batch by batch."""
        self._open: defaultdict[int, list[bytes]] = defaultdict(list)

    def add(self, partition: int, records: Records) -> None:
        """Take the next records of one partition. How they are cut into calls changes nothing."""
        batch = self._open[partition]
        for index in range(len(records)):
            value = records.value(index) or b""
            self.plain_bytes += len(value)
            batch.append((records.key(index) or b"") + value)
            if len(batch) == BATCH_PATCHES:
                self._close(batch)

    def finish(self) -> None:
        """Count what is left in every partition."""
        for batch in self._open.values():
            self._close(batch)

    def _close(self, batch: list[bytes]) -> None:
        if batch:
            self.compressed_bytes += len(compress(b"".join(batch)))
            batch.clear()
