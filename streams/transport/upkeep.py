"""Upkeep of the durable local log, in steps of bounded length: retention and compaction.

Each step is one small transaction, or a read without one, so that appends wait for milliseconds and a kill in between
leaves a log that is merely less tidy: removing what is already superseded can begin anew at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace

from streams._native import Records
from streams.errors import LogDamagedError
from streams.transport.blocks import Block, BlockFile, Partition, Topic, TopicPartition
from streams.transport.compaction import Compaction

__all__ = ["BLOCK_BYTES_MAX", "BLOCK_RECORDS_MAX", "Upkeep", "decoded", "encoded"]

BLOCK_RECORDS_MAX = 8_192
"""Records in a block: twice a usual chunk, and few enough that reading from its middle costs a millisecond."""
BLOCK_BYTES_MAX = 4 << 20
"""Bytes of a block's records before compression, where it has more than one: bounds what a reader decodes at once."""
RETENTION_BLOCKS = 64
"""Blocks removed in one transaction: at most 256 MB of pages to free while an append waits."""
DIRTY_RECORDS_MIN = 10_000
"""A pass is not worth starting for less: one block or two."""
DIRTY_RATIO = 0.5
"""Dirty records per clean one that start a pass: Kafka's default; each record is then rewritten a few times at most."""
MERGE_RECORDS_MAX = 1_024
"""Neighbours are merged while they hold no more than this on average: single sends become blocks, blocks stay alone."""


def encoded(file: BlockFile, records: Records, created_ms: int) -> Block:
    """A block of records that have their offsets, as the file's format has it."""
    data = records.encode(checksum=file.is_sealed)
    return Block(records.first_offset, records.last_offset, len(records), created_ms, data)


def decoded(file: BlockFile, where: TopicPartition, block: Block) -> Records:
    """A block's records. LogDamagedError names where a damaged one lies."""
    place = f"{where[0]} partition {where[1]} offset {block.first}"
    try:
        records = Records.decode(block.data)
    except ValueError as error:
        raise LogDamagedError(file.path, f"{place}: {error}") from error
    if (block.first, block.last, block.records) != (records.first_offset, records.last_offset, len(records)):
        raise LogDamagedError(file.path, f"{place}: the block holds other records than its entry says")
    return records


@dataclass(slots=True)
class _Pass:
    """A compaction under way: first it learns from `cursor` on, then it rewrites from the start."""

    compaction: Compaction
    cursor: int
    learning: bool = True


class Upkeep:
    """Keeps the partitions of one log within their topics' limits.

    `topics` and `partitions` are the log's own, live; `write` is the transaction of its single writer. One thread at a
    time.
    """

    def __init__(
        self,
        file: BlockFile,
        topics: Mapping[str, Topic],
        partitions: Mapping[TopicPartition, Partition],
        write: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._file = file
        self._topics = topics
        self._partitions = partitions
        self._write = write
        self._order: deque[TopicPartition] = deque()
        self._passes: dict[TopicPartition, _Pass] = {}

    def steps(self, now_ms: int, everything: bool) -> Iterator[None]:
        """Does what is due, yielding after every step; ends when nothing is.

        A partition is finished before the next one's turn, and the turns go on where the last call stopped, so that a
        busy partition starves none. `everything`: compacts also what is hardly dirty.
        """
        if len(self._order) < len(self._partitions):
            self._order.extend([where for where in self._partitions if where not in self._order])
        for _ in range(len(self._order)):
            while self._step(self._order[0], now_ms, everything):
                yield
            self._order.rotate(-1)

    def forget(self, topic: str) -> None:
        """The topic is gone; nobody is inside `steps`."""
        self._order = deque(where for where in self._order if where[0] != topic)
        self._passes = {where: under_way for where, under_way in self._passes.items() if where[0] != topic}

    def _step(self, where: TopicPartition, now_ms: int, everything: bool) -> bool:
        """One step on one partition; False when nothing is due there."""
        topic, partition = self._topics[where[0]], self._partitions[where]
        if topic.cleanup == "delete":
            return self._expire(topic, partition, now_ms)
        under_way = self._passes.get(where)
        if under_way is None:
            if not _dirty(partition, now_ms, everything):
                return False
            compaction = Compaction(partition.cleaned, partition.end - 1, now_ms, topic.delete_retention_ms)
            under_way = self._passes[where] = _Pass(compaction, partition.cleaned)
        try:
            if under_way.learning:
                self._learn(where, partition, under_way)
            elif not self._rewrite(where, partition, under_way):
                del self._passes[where]
        except BaseException:  # a pass that missed a block must not be taken for a whole one
            del self._passes[where]
            raise
        return True

    def _expire(self, topic: Topic, partition: Partition, now_ms: int) -> bool:
        """Removes the oldest blocks that are beyond the topic's age or size. The age is that since the append: record
        timestamps are the producers' and may lie anywhere.
        """
        excess = self._file.stored_bytes(partition.id) - topic.retention_bytes if topic.retention_bytes >= 0 else 0
        start = partition.start
        for last, block_bytes, created_ms in self._file.oldest(partition.id, RETENTION_BLOCKS):
            too_old = topic.retention_ms >= 0 and created_ms < now_ms - topic.retention_ms
            if not too_old and excess < block_bytes:
                break
            excess -= block_bytes
            start = last + 1
        if start == partition.start:
            return False
        with self._write():
            self._file.drop_blocks(partition.id, 0, start - 1)
            self._file.put_upkeep(replace(partition, start=start))
        partition.start = start
        return True

    def _learn(self, where: TopicPartition, partition: Partition, under_way: _Pass) -> None:
        """Learns the keys of the next blocks of the dirty part."""
        compaction = under_way.compaction
        seen = 0
        with closing(self._file.blocks(partition.id, under_way.cursor)) as blocks:
            for block in blocks:
                more = block.last <= compaction.newest and compaction.learn(decoded(self._file, where, block))
                under_way.cursor = compaction.target
                seen += block.records
                if not more:
                    break
                if seen >= BLOCK_RECORDS_MAX:
                    return
        under_way.learning = False
        under_way.cursor = 0

    def _rewrite(self, where: TopicPartition, partition: Partition, under_way: _Pass) -> bool:
        """Filters the next run of blocks, small neighbours into one; False after the last."""
        compaction = under_way.compaction
        run, kept, came = self._filtered(where, partition, under_way)
        if not run:
            done = replace(
                partition,
                cleaned=compaction.target,
                clean_records=compaction.kept,
                tombstones_due_ms=compaction.tombstones_due_ms,
            )
            with self._write():
                self._file.put_upkeep(done)
            partition.cleaned, partition.clean_records = done.cleaned, done.clean_records
            partition.tombstones_due_ms = done.tombstones_due_ms
            return False
        under_way.cursor = run[-1].last + 1
        if len(kept) < came or (len(run) > 1 and came <= MERGE_RECORDS_MAX * len(run)):
            with self._write():
                self._file.drop_blocks(partition.id, run[0].last, run[-1].last)
                if len(kept):
                    created_ms = max(block.created_ms for block in run)
                    self._file.put_block(partition.id, encoded(self._file, kept, created_ms))
        return True

    def _filtered(
        self, where: TopicPartition, partition: Partition, under_way: _Pass
    ) -> tuple[list[Block], Records, int]:
        """The next blocks that fit one block together, what stays of their records, and how many there were."""
        run: list[Block] = []
        kept = Records()
        came = came_bytes = 0
        with closing(self._file.blocks(partition.id, under_way.cursor)) as blocks:
            for block in blocks:
                if block.last >= under_way.compaction.target:
                    break
                if run and came + block.records > BLOCK_RECORDS_MAX:
                    break
                records = decoded(self._file, where, block)
                came_bytes += records.nbytes
                if run and came_bytes > BLOCK_BYTES_MAX:
                    break
                run.append(block)
                came += block.records
                stay = under_way.compaction.keep(records, block.created_ms)
                if len(stay):
                    kept.extend(stay)
        return run, kept, came


def _dirty(partition: Partition, now_ms: int, everything: bool) -> bool:
    """Whether a pass over the partition is due."""
    if partition.tombstones_due_ms is not None and partition.tombstones_due_ms <= now_ms:
        return True
    least = 1 if everything else max(DIRTY_RECORDS_MIN, int(DIRTY_RATIO * partition.clean_records))
    return partition.end - partition.cleaned >= least
