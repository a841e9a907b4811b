"""Appends to the durable local log: offsets, blocks and group offsets in one transaction, shared by waiting threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streams._native import Records
from streams.clock import Clock
from streams.errors import RecordTooLargeError, TransportError
from streams.transport.blocks import BlockFile, Partition, Position, Topic, TopicPartition
from streams.transport.upkeep import BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX, encoded

__all__ = ["Appender"]

GROUP_BYTES_MAX = 16 << 20
"""Appends that wait at the same time share a transaction, and its fsync, up to about this size: a few chunks."""


@dataclass(slots=True, eq=False)
class _Request:
    """One caller's append, waiting for its transaction: then it has its last offsets or its error."""

    batches: Sequence[tuple[str, int, Records]]
    group: str | None
    offsets: Sequence[Position]
    nbytes: int
    last: list[int] | None = None
    error: TransportError | None = None


class Appender:
    """The log's one writer of records.

    `topics` and `partitions` are the log's own, live. `write_lock` is held while writing; `appended` is notified once
    the partitions' ends have moved.
    """

    def __init__(
        self,
        file: BlockFile,
        topics: Mapping[str, Topic],
        partitions: Mapping[TopicPartition, Partition],
        write_lock: threading.Lock,
        appended: threading.Condition,
        clock: Clock,
    ) -> None:
        self._file = file
        self._topics = topics
        self._partitions = partitions
        self._write_lock = write_lock
        self._appended = appended
        self._clock = clock
        self._queue: deque[_Request] = deque()

    def append(
        self,
        batches: Sequence[tuple[str, int, Records]],
        group: str | None,
        offsets: Sequence[Position],
    ) -> list[int]:
        """See `Log.append`. Whichever waiting thread gets the lock writes for all of them."""
        for topic, _, records in batches:
            if topic in self._topics:  # one that was deleted this moment is refused under the lock
                _check_sizes(self._topics[topic], records)
        request = _Request(batches, group, offsets, sum(records.nbytes for _, _, records in batches))
        self._queue.append(request)
        with self._write_lock:
            while request.last is None and request.error is None:
                self._commit_queued()
        if request.last is None:
            raise request.error or AssertionError("a request ends with its offsets or its error")
        return request.last

    def _commit_queued(self) -> None:
        """Writes what is queued, oldest first, in one transaction; when that fails, each request in its own, so that
        no append fails for another's sake.
        """
        group = [self._queue.popleft()]
        nbytes = group[0].nbytes
        while self._queue and nbytes + self._queue[0].nbytes <= GROUP_BYTES_MAX:
            group.append(self._queue.popleft())
            nbytes += group[-1].nbytes
        try:
            try:
                self._write(group)
            except TransportError as error:
                if len(group) == 1:
                    group[0].error = error
                    return
                for request in group:
                    self._write_alone(request)
        finally:
            for request in group:
                if request.last is None and request.error is None:
                    request.error = TransportError(
                        "append interrupted: look at the partition's end before repeating it"
                    )

    def _write_alone(self, request: _Request) -> None:
        try:
            self._write([request])
        except TransportError as error:
            request.error = error

    def _write(self, group: Sequence[_Request]) -> None:
        """One transaction, durable when this returns."""
        now_ms = self._clock.now_ms()
        ends: dict[TopicPartition, int] = {}
        last: list[list[int]] = []
        with self._file.transaction():
            for request in group:
                last.append([])
                for topic, partition, records in request.batches:
                    standing = self._partitions.get((topic, partition))
                    if standing is None:
                        raise TransportError(f"topic {topic} was deleted before this append, expected one to append to")
                    end = ends.get((topic, partition), standing.end)
                    records.assign(end, now_ms)
                    for piece in _pieces(records):
                        self._file.put_block(standing.id, encoded(self._file, piece, now_ms))
                    ends[topic, partition] = end + len(records)
                    last[-1].append(end + len(records) - 1)
                if request.group is not None:
                    self._file.put_offsets(request.group, request.offsets)
            for where, end in ends.items():
                self._file.put_end(self._partitions[where].id, end)
        for request, offsets in zip(group, last, strict=True):
            request.last = offsets
        with self._appended:
            for where, end in ends.items():
                self._partitions[where].end = end
            self._appended.notify_all()


def _pieces(records: Records) -> Iterator[Records]:
    """A batch in blocks of bounded size; nearly always the batch itself."""
    if len(records) <= 1 or (len(records) <= BLOCK_RECORDS_MAX and records.nbytes <= BLOCK_BYTES_MAX):
        if len(records):
            yield records
        return
    half = len(records) // 2
    yield from _pieces(records.slice(0, half))
    yield from _pieces(records.slice(half, len(records)))


def _check_sizes(topic: Topic, records: Records, index: int = 0) -> None:
    """Looks for a record over the topic's maximum by halving: a batch below it needs no look at its records."""
    if topic.record_bytes_max < 0 or records.nbytes <= topic.record_bytes_max:
        return
    if len(records) == 1:
        raise RecordTooLargeError(topic.name, records.nbytes, topic.record_bytes_max, index=index)
    half = len(records) // 2
    _check_sizes(topic, records.slice(0, half), index)
    _check_sizes(topic, records.slice(half, len(records)), index + half)
