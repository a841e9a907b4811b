"""Whether a worker gets on with its work: decided from facts about its partitions, without a clock of its own.

The pace is a topic's, not a partition's: one agent works on the partitions of its topic in turn, and while it is busy
with one the others rightly wait.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

__all__ = ["Held", "Holds", "Place", "Progressing", "Stalled", "Verdict", "Waiting", "Watch"]


class Place(NamedTuple):
    """One assigned partition as it is now. Offsets are those of the next record."""

    topic: str
    partition: int
    done: int | None
    """What is committed, or acknowledged by agents; None: nothing was fetched yet."""
    fetched: int | None
    """Where the next fetch begins; None or negative: not known yet."""
    reported_end: int
    """Where the end of the partition was reported last; 0: never."""
    end: int
    """The last stable offset: what lies behind it belongs to open transactions, and to nobody yet."""

    @property
    def lag(self) -> int:
        """Records to work on, at most; zero once the end was reported and everything fetched is done.

        Transaction markers and what compaction removed count as records until then.
        """
        all_done = self.done is None or self.fetched is None or self.done >= self.fetched
        if all_done and self.reported_end >= self.end:
            return 0
        return max(0, self.end - (self.done or 0))


class Progressing(NamedTuple):
    """Something moved lately, or there is nothing to do."""


class Waiting(NamedTuple):
    """Nothing may be expected to move: for these reasons, by their names."""

    reasons: Mapping[str, str]


class Stalled(NamedTuple):
    """A topic has work and nothing moved for too long; its partition with the most records waiting."""

    topic: str
    partition: int
    lag: int


Verdict = Progressing | Waiting | Stalled


class Watch:
    """Compares each observation with those before. `timeout_s`: how long a topic with work may stand still."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._moved: dict[str, tuple[Hashable, float]] = {}  # the last step of each topic that is behind, and when

    def observe(
        self, now_s: float, places: Iterable[Place], steps: Mapping[str, Hashable], reasons: Mapping[str, str]
    ) -> Verdict:
        """Judges the worker. `steps`: something per topic that changes with every bit of work done on it.

        A declared reason stops the time, and gives every topic the whole of it again when it ends.
        """
        if reasons:
            self._moved.clear()
            return Waiting(dict(reasons))
        behind: dict[str, Place] = {}
        for place in places:
            if place.lag > max(0, behind[place.topic].lag if place.topic in behind else 0):
                behind[place.topic] = place
        before, self._moved = self._moved, {}
        verdict: Verdict = Progressing()
        for topic, place in behind.items():
            step = steps.get(topic)
            seen, since_s = before.get(topic, (None, now_s))
            if topic not in before or seen != step:
                since_s = now_s
            self._moved[topic] = (step, since_s)
            if now_s - since_s >= self.timeout_s:
                verdict = Stalled(topic, place.partition, place.lag)
        return verdict


class Held(NamedTuple):
    """Records that nobody may read yet: from `offset` on they wait for an open transaction of another producer."""

    topic: str
    partition: int
    offset: int
    records: int
    for_s: float


class Holds:
    """Tells transactions that hang from those that are under way. `after_s`: how long one may take."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._since: dict[tuple[str, int], tuple[int, float]] = {}  # the last stable offset, and when it came there

    def observe(self, now_s: float, ends: Mapping[tuple[str, int], tuple[int, int]]) -> list[Held]:
        """`ends`: last stable offset and end of each partition. Where the former stands still before the latter."""
        before, self._since = self._since, {}
        held = []
        for (topic, partition), (stable, end) in ends.items():
            if stable >= end:
                continue
            offset, since_s = before.get((topic, partition), (stable, now_s))
            if offset != stable:
                since_s = now_s
            self._since[topic, partition] = (stable, since_s)
            if now_s - since_s >= self.after_s:
                held.append(Held(topic, partition, stable, end - stable, now_s - since_s))
        return held
