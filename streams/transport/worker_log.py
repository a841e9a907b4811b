"""The embedded log as a worker uses it: topics made when they are needed, partitions by key, a full disk waited for."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from streams._native import Records, murmur2_partition
from streams.clock import SYSTEM_CLOCK
from streams.errors import LogFullError, TransportError
from streams.options import Settings
from streams.transport.blocks import Position
from streams.transport.chunk import Output
from streams.transport.log import Log
from streams.transport.pipeline import Unit
from streams.transport.tail import Positions, Progress, Sink

__all__ = ["FULL_PAUSE_S", "EmbeddedLedger", "WorkerLog"]

log = logging.getLogger(__name__)

FULL_PAUSE_S = 1.0
"""How often a full disk is tried again: somebody has to make room, which takes longer."""
UPKEEP_BUDGET_MS = 200
"""Retention and compaction take a thread for so long at a time."""
RESTORE_RECORDS_MAX = 50_000
RESTORE_BYTES_MAX = 32 << 20
"""A batch of restored rows: large enough that the call costs nothing, small enough to stop between two."""

Batch = tuple[str, int, Records]

TOPIC_SETTINGS = {
    "retention.ms": "retention_ms",
    "retention.bytes": "retention_bytes",
    "delete.retention.ms": "delete_retention_ms",
    "max.message.bytes": "record_bytes_max",
}
"""Kafka's names of what the log knows as well; others mean nothing here."""


class WorkerLog:
    """One worker's hold on the log of a directory, shared with clients in the same process. Thread-safe.

    `reasons` gets an entry while the disk is full; `stopping` ends that wait. Raises LogBusyError where another process
    holds the directory.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: Settings,
        reasons: MutableMapping[str, str],
        stopping: Callable[[], bool],
    ) -> None:
        self.log = Log.shared(directory, "full" if settings.embedded.fsync == "full" else "normal")
        if self.log.upgrade.is_due:
            log.info(
                "embedded log %s is of an older release, and stays so until `streams state upgrade`: without checksums",
                directory,
            )
        self._settings = settings
        self._reasons = reasons
        self._stopping = stopping
        self._turns: dict[str, count[int]] = {}

    # -- topics -----------------------------------------------------------------------------------------------

    def topics(self, timeout_ms: int = 0) -> dict[str, int]:
        """Every topic with its partition count; the time-out is for Kafka's sake."""
        return {name: topic.partitions for name, topic in self.log.topics().items()}

    def create_topics(
        self, topics: Sequence[tuple[str, int, int, Mapping[str, str]]], timeout_ms: int
    ) -> list[tuple[str, str | None]]:
        """As `KafkaAdmin.create_topics`: name and error or None of each. One that exists stays as it is."""
        made: list[tuple[str, str | None]] = []
        for name, partitions, _, config in topics:
            try:
                self.declare(name, partitions, config)
            except (TransportError, ValueError) as error:
                made.append((name, str(error)))
            else:
                made.append((name, None))
        return made

    def declare(self, name: str, partitions: int = 0, config: Mapping[str, str] | None = None) -> int:
        """A topic's partition count; makes the topic where there is none. 0 partitions: as `embedded.partitions` says.

        There is no broker operator here to make a source topic, so nobody has to wait for one.
        """
        known = self.log.partitions(name)
        if known is not None:
            return known
        room = max(1 << 20, self._settings.limits.record_bytes_max)
        options: dict[str, Any] = {"retention_ms": self._settings.embedded.retention_ms, "record_bytes_max": room}
        given = dict(config or {})
        options |= {ours: int(given[theirs]) for theirs, ours in TOPIC_SETTINGS.items() if theirs in given}
        compact = "compact" in given.get("cleanup.policy", "delete")
        wanted = partitions or self._settings.embedded.partitions
        try:
            self.log.create_topic(name, wanted, cleanup="compact" if compact else "delete", **options)
        except TransportError:
            known = self.log.partitions(name)  # another thread may have made it meanwhile
            if known is None:
                raise
            return known
        return wanted

    def partition(self, topic: str, key: bytes | None) -> int:
        """Where a record goes: murmur2 of its key, as the Java client does; without a key in turns."""
        partitions = self.declare(topic)
        if key is not None:
            return murmur2_partition(key, partitions)
        return next(self._turns.setdefault(topic, count())) % partitions

    # -- writing ----------------------------------------------------------------------------------------------

    def spread(self, outputs: Iterable[Output]) -> list[Batch]:
        """Outputs in one batch per partition, in their order; partition -1 is decided here."""
        runs: defaultdict[tuple[str, int], list[Records]] = defaultdict(list)
        growing: dict[tuple[str, int], Records] = {}  # the last run of a partition, where it was made here
        for topic, partition, records in outputs:
            self.declare(topic)
            if partition >= 0:
                runs[topic, partition].append(records)
                growing.pop((topic, partition), None)
                continue
            for index in range(len(records)):
                key = records.key(index)
                where = (topic, self.partition(topic, key))
                if where not in growing:
                    growing[where] = Records()
                    runs[where].append(growing[where])
                growing[where].append(key, records.value(index), records.headers(index), records.timestamp_ms(index))
        return [(topic, partition, _joined(several)) for (topic, partition), several in runs.items()]

    def append(self, batches: Sequence[Batch], group: str | None = None, offsets: Sequence[Position] = ()) -> list[int]:
        """As `Log.append`, but a full disk is waited for, with the reason declared, while the worker runs."""
        while True:
            try:
                last = self.log.append(batches, group, offsets)
            except LogFullError as error:
                self._reasons["disk"] = str(error)
                if self._stopping():
                    raise
                time.sleep(FULL_PAUSE_S)
            else:
                self._reasons.pop("disk", None)
                return last

    def maintain(self) -> bool:
        """A piece of retention and compaction. True: there is more to do."""
        try:
            return self.log.maintain(SYSTEM_CLOCK.now_ms(), UPKEEP_BUDGET_MS)
        except LogFullError as error:
            self._reasons["disk"] = str(error)
            return False

    # -- reading ----------------------------------------------------------------------------------------------

    def read_to_end(
        self, start: Positions, sink: Sink, keep_going: Callable[[], bool], progress: Progress | None = None
    ) -> dict[tuple[str, int], int]:
        """Reads each partition from `start` to its end as of now; next offsets. Stops early if `keep_going` says so."""
        ends = {where: self.log.end(*where) for where in start}
        positions = {where: max(offset, self.log.start(*where)) for where, offset in start.items()}
        total = sum(max(ends[where] - positions[where], 0) for where in positions)
        for where, end in ends.items():
            while positions[where] < end and keep_going():
                records = self.log.read(*where, positions[where], RESTORE_RECORDS_MAX, RESTORE_BYTES_MAX)
                if len(records):
                    sink(*where, records)
                positions[where] = records.last_offset + 1 if len(records) else end
                if progress is not None:
                    progress(total - sum(max(ends[at] - positions[at], 0) for at in positions), total)
        return positions

    def close(self) -> None:
        """Lets go of the log; the last one of this process closes it."""
        self.log.close()


def _joined(runs: list[Records]) -> Records:
    """One batch of several; none of them is changed."""
    if len(runs) == 1:
        return runs[0]
    batch = Records()
    for run in runs:
        batch.extend(run)
    return batch


class EmbeddedLedger:
    """Commits units to the log: outputs, changelogs and offsets in one append. Called in the pipeline's thread."""

    def __init__(self, log: Callable[[], WorkerLog], group: str, beside: Callable[[str, int], str]) -> None:
        """`beside`: what to keep beside the offset of a topic's partition."""
        self._log = log
        self._group = group
        self._beside = beside
        self.seconds: dict[str, float] = {"changelog": 0.0, "produce": 0.0, "flush": 0.0, "commit": 0.0, "fold": 0.0}
        """Time spent per step since the start; the benchmark's split. An append is one step: there is no flush."""
        self.transactions = 0

    def commit(self, unit: Unit) -> None:
        """See `pipeline.Ledger`."""
        log = self._log()
        began = time.perf_counter()
        changed = [participant.changelog(participant.committed_mark, mark) for participant, mark in unit.marks.items()]
        began = self._count("changelog", began)
        batches = log.spread([*unit.outputs, *(rows for rows in changed if rows is not None)])
        began = self._count("produce", began)
        offsets = [(*where, offset, self._beside(*where)) for where, offset in unit.positions.items()]
        log.append(batches, self._group, offsets)
        began = self._count("commit", began)
        for participant, mark in unit.marks.items():
            participant.commit(mark)
        self._count("fold", began)
        self.transactions += 1

    def _count(self, step: str, began: float) -> float:
        now = time.perf_counter()
        self.seconds[step] += now - began
        return now
