"""What a consumer knows of its own progress: the facts that `transport.progress` judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from faust.types import TP

from streams.transport.chunk import Chunk

__all__ = ["Pace", "pause_after"]

THIN_SHARE = 0.25
PAUSE_SHARE = 0.1
PAUSE_S_MAX = 0.01
"""A chunk costs half a millisecond, however few records it has: after a fetch of less than a quarter of one, the next
waits for a tenth of the time in which a transaction is gathered, and never for longer than a reader would notice."""


def pause_after(fetched: int, records_max: int, interval_s: float) -> float:
    """Seconds until the next fetch, after one of so many records. Pure."""
    thin = 0 < fetched < records_max * THIN_SHARE
    return min(interval_s * PAUSE_SHARE, PAUSE_S_MAX) if thin else 0.0


class Pace:
    """Next offsets that are done, and the chunks in agents' hands. Written by the consumer, read by the watch."""

    def __init__(self) -> None:
        self.done: dict[TP, int] = {}
        """Next offset after what is committed, or acknowledged by ordinary agents."""
        self._finished: Counter[str] = Counter()
        self._at_work: dict[TP, Chunk] = {}

    def fetched(self, tp: TP, begin: int) -> None:
        """Records came, fetched at this position: what lies before it is done."""
        self.done.setdefault(tp, begin)

    def begun(self, chunk: Chunk) -> None:
        """An agent takes the chunk into its hands."""
        self._at_work[TP(chunk.topic, chunk.partition)] = chunk

    def tried(self, topic: str) -> None:
        """An agent was offered something again: that is work, though nothing moves."""
        self._finished[topic] += 1

    def finished(self, positions: Mapping[tuple[str, int], int]) -> None:
        """These next offsets are committed, or will be without anybody's doing."""
        for (topic, partition), offset in positions.items():
            self.done[TP(topic, partition)] = offset
            self._finished[topic] += 1

    def forget(self, tps: Iterable[TP] | None = None) -> None:
        """Positions are about to change: of these partitions, or of all."""
        for tp in list(self.done) if tps is None else tps:
            self.done.pop(tp, None)
            self._at_work.pop(tp, None)

    def steps(self) -> dict[str, tuple[int, int]]:
        """Per topic something that changes with every transaction, and with every record an agent looks at."""
        found: dict[str, tuple[int, int]] = {topic: (count, 0) for topic, count in self._finished.items()}
        for tp, chunk in list(self._at_work.items()):
            count, reached = found.get(tp.topic, (0, 0))
            found[tp.topic] = (count, reached + chunk.reached)
        return found

    def last_step(self, topic: str, partition: int, fetched: int | None) -> str:
        """In words, where the records of a partition are that does not move."""
        tp = TP(topic, partition)
        chunk, done = self._at_work.get(tp), self.done.get(tp)
        if chunk is not None and chunk.last >= (done or 0):
            return f"an agent, at record {chunk.reached + 1} of {len(chunk)} from offset {chunk.records.first_offset}"
        if done is not None and fetched is not None and fetched > done:
            return "an agent, or the commit after it"
        return "the fetch"
