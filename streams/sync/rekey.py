"""Repartitioning: every source record goes through `{app}-{source}-rekey`, under its entity key, before it is synced.

The Java client's murmur2 then puts all records of a key on one partition, wherever the producers put them. Value and
headers stay as they are. The copy is one of exactly one: it moves in the chunk's transaction. Between partitions of the
source the order is that of arrival, so events of one key from several partitions need a sequence to be told apart by
age; a replayed dead letter is judged by its sequence and id too, since its origin offset counts in another topic. An
event without an id has topic, partition and offset of the rekey topic as its identity.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable
from typing import Any

from streams._native import Job, Table
from streams.errors import TransportError
from streams.sync.burial import buried, refusing, send_letters
from streams.sync.halting import Halting
from streams.sync.topics import HEADER_ROOM_BYTES, SyncTopics
from streams.transport.chunk import Chunk

__all__ = ["Rekey"]

RETRY_PAUSE_S = 1.0
BY_KEY = -1
"""The partition that leaves the choice to murmur2 of the key."""


class Rekey:
    """The agent in front of a sync with `partitioning = "repartition"`."""

    def __init__(
        self,
        app: Any,
        topics: SyncTopics,
        halting: Halting,
        counts: Counter[str],
        record_bytes_max: int,
    ) -> None:
        """`counts`: the sync's counters; what is dead-lettered here is counted there."""
        self._app = app
        self._topics = topics
        self._halting = halting
        self._counts = counts
        self._letter_bytes_max = record_bytes_max + HEADER_ROOM_BYTES
        self._job: Job | None = None
        self._tables: dict[int, Table] = {}  # without rows; dead letters name their partition, copies their origin

    def set_up(self, job: Job) -> None:
        """`job` knows where the key is."""
        self._job = job

    async def run(self, stream: AsyncIterable[Chunk]) -> None:
        """The agent's body."""
        async for chunk in stream:
            await self._work(chunk)

    async def rewind(self, lost: bool) -> None:
        """Chunks are read again: which log they are of is asked again."""
        self._tables.clear()

    def _table(self, job: Job, partition: int) -> Table:
        """A table that knows its log: copies say where they come from, so that none counts twice. Blocks."""
        source = self._topics.source
        table = Table(job, partition)
        found: dict[str, bytes] = self._app.transport.log_ids([source])
        table.assigned(log=found.get(source, b""), output=b"", generation=None)
        return table

    async def _placed(self, job: Job, partition: int) -> Table:
        while True:
            try:
                return await asyncio.to_thread(self._table, job, partition)
            except TransportError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S)  # a broker that is away is waited for

    async def _work(self, chunk: Chunk) -> None:
        if self._job is None:
            raise RuntimeError(f"rekey of {self._topics.source} has no partitions yet")
        table = self._tables.get(chunk.partition)
        if table is None:
            table = self._tables[chunk.partition] = await self._placed(self._job, chunk.partition)
        if refuser := refusing(chunk, (self._topics.rekey,)):
            letters, counts = await asyncio.to_thread(buried, chunk, refuser, self._app.transport.log_ids)
        else:
            step = await asyncio.to_thread(table.rekey, chunk.records)
            chunk.send_records(self._topics.rekey, BY_KEY, step.patches)
            letters, counts = step.dead_letters, step.counts
        unwritable = send_letters(chunk, self._topics.dead_letters, letters, self._letter_bytes_max)
        self._counts.update({**counts, "letters.unwritable": unwritable})
        await self._halting.count(chunk, len(chunk), counts)
