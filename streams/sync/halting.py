"""Stops of a sync's partitions: what decides on one, the record of it in the changelog, and how it ends.

A stop is written down in the transaction of the chunk that crossed the limit, by the state of the partition of the same
number: for the source's partition in front of a rekeyed input as well. Whoever owns the partition next reads it there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from streams.clock import Clock
from streams.options import LimitSettings
from streams.state.table import PartitionState, States
from streams.sync.limits import Limits, Stopping, told
from streams.sync.topics import SyncTopics
from streams.transport.chunk import Chunk
from streams.transport.stopped import go_on, hold, stop_after

__all__ = ["Halting"]

RECORD_BYTES = 4_096
"""What the record of a partition adds to a transaction, about; only ids of logs make it grow."""


class Halting:
    """The limits of one sync, and its stopped partitions. `states`: of the partitions that this worker owns."""

    def __init__(
        self, app: Any, topics: SyncTopics, settings: LimitSettings, clock: Clock, states: Callable[[], States]
    ) -> None:
        self._app = app
        self._topics = topics
        self._clock = clock
        self._states = states
        self._limits = {
            topic: Limits(topic, topics.dead_letters, settings, clock) for topic in {topics.source, topics.input}
        }
        self._orders: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def order(self, partition: int) -> asyncio.Lock:
        """Held from taking a mark of the partition's state until its chunk has its turn: so marks stay in order."""
        return self._orders[partition]

    async def count(self, chunk: Chunk, records: int, counts: Mapping[str, int]) -> None:
        """Takes in what came of so many events of a chunk. Where nearly all is bad it is its partition's last."""
        stopping = self._limits[chunk.topic].observe(chunk.partition, records, counts)
        if stopping is not None:
            await self._stop(chunk, stopping)

    async def _stop(self, chunk: Chunk, stopping: Stopping) -> None:
        consumer, now_ms = self._app.consumer, self._clock.now_ms()
        offset = (chunk.whole or chunk).last + 1
        async with consumer.working(), self.order(chunk.partition):
            if not consumer.is_current(chunk):
                return
            state = self._states()[chunk.partition]
            before = chunk.topic != self._topics.input
            mark = await asyncio.to_thread(
                state.table.stop, stopping.code, offset, stopping.dead, now_ms, before=before
            )
            chunk.changed(state, mark, RECORD_BYTES)
            consumer.turns.took(state, mark)
        words = self._words(chunk.topic, chunk.partition, stopping.code, stopping.dead, offset, now_ms)
        stop_after(consumer, chunk, stopping.code, words, now_ms)

    def _words(self, topic: str, partition: int, code: str, count: int, offset: int, since_ms: int) -> str:
        return told(topic, partition, code, count, offset, since_ms, self._topics)

    def hold(self) -> None:
        """State is as the changelog has it: what is stopped there is not read here either."""
        for state in self._states():
            for topic, stop in self._noted(state).items():
                if stop is not None:
                    words = self._words(
                        topic, state.partition, stop["reason"], stop["count"], stop["offset"], stop["since_ms"]
                    )
                    hold(self._app.consumer, topic, state.partition, stop["reason"], words, stop["since_ms"])

    def _noted(self, state: PartitionState) -> dict[str, Any]:
        """The stops of a partition's record by the topic that is not read."""
        record = state.table.partition_record
        return {self._topics.source: record["stop_before"], self._topics.input: record["stop"]}

    async def resume(self, partition: int) -> None:
        """A request ended stops of the partition: those that its record has no more go on, and count from the start."""
        noted = self._noted(self._states()[partition])
        for topic, limits in self._limits.items():
            if noted[topic] is None and await go_on(self._app.consumer, topic, partition):
                limits.clear(partition)

    def clear(self) -> None:
        """Chunks are about to be read again."""
        for limits in self._limits.values():
            limits.clear()
