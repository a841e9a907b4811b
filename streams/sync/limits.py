"""When bad input stops a partition of a sync, by what its chunks gave, and what is told of dead letters before."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from streams.clock import Clock
from streams.dead_letters.limit import Limit
from streams.options import LimitSettings
from streams.sync.topics import SyncTopics

__all__ = ["Limits", "Stopping", "told"]

log = logging.getLogger(__name__)

TELL_EVERY_S = 60.0
"""A line per partition and reason each minute at most: a flood of bad records is not also one of lines."""
REASONS_MAX = 1_000
"""Partitions and reasons that are remembered for it; the kernel has some dozen reasons."""

RULES = {"ratio": "limits.dead_letter_ratio", "consecutive": "limits.dead_letter_consecutive"}


class Stopping(NamedTuple):
    """Why a partition stops: a short code for its record and metrics, and how many records were bad."""

    code: str
    dead: int


def told(topic: str, partition: int, code: str, count: int, offset: int, since_ms: int, topics: SyncTopics) -> str:
    """What a person reads of a stop: what came, where it is, and the cure. `code` is that of the stop's record."""
    rule, _, reason = code.partition(":")
    since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="seconds")
    return (
        f"{topic} partition {partition} is stopped at offset {offset} since {since}: {count} records became dead "
        f"letters lately (mostly {reason}), as many as {RULES.get(rule, rule)} allows; they are in "
        f"{topics.dead_letters} (`streams dlq list {topics.source}`): mend the producer or the [[sync]], then `streams "
        f"resume {topics.source}`"
    )


class Limits:
    """The dead-letter limits of a topic's partitions. `letters`: the topic where the letters are."""

    def __init__(self, topic: str, letters: str, settings: LimitSettings, clock: Clock) -> None:
        self._topic = topic
        self._letters = letters
        self._settings = settings
        self._clock = clock
        self._limits: dict[int, Limit] = {}
        self._told_s: dict[tuple[int, str], float] = {}
        self._untold: Counter[tuple[int, str]] = Counter()

    def observe(self, partition: int, records: int, counts: Mapping[str, int]) -> Stopping | None:
        """Takes a chunk's counts in. Not None: nearly everything lately is bad, and the partition is to stop."""
        reasons = {name.removeprefix("dead."): count for name, count in counts.items() if name.startswith("dead.")}
        self._tell(partition, reasons)
        limit = self._limits.get(partition)
        if limit is None:
            settings = self._settings
            limit = self._limits[partition] = Limit(
                settings.dead_letter_ratio, settings.dead_letter_window_records, settings.dead_letter_consecutive
            )
        verdict = limit.observe(records, sum(reasons.values()))
        if not verdict.stop:
            return None
        reason = max(reasons, key=lambda name: reasons[name], default="none")
        return Stopping(f"{verdict.rule}:{reason}", verdict.dead)

    def clear(self, partition: int | None = None) -> None:
        """Chunks are about to be read again, or somebody lets a partition go on: it begins as on the first day."""
        if partition is None:
            self._limits.clear()
        else:
            self._limits.pop(partition, None)

    def _tell(self, partition: int, reasons: Mapping[str, int]) -> None:
        """A counted warning, without key or value; what comes within the next minute is in the line after it."""
        now_s = self._clock.monotonic_s()
        for reason, count in reasons.items():
            place = (partition, reason)
            self._untold[place] += count
            last_s = self._told_s.get(place)
            if last_s is not None and now_s - last_s < TELL_EVERY_S:
                continue
            if len(self._told_s) >= REASONS_MAX:
                self._told_s.clear()
            self._told_s[place] = now_s
            log.warning(
                "%s partition %d: %d records became dead letters (%s); they are in %s, `streams dlq list` shows them",
                self._topic, partition, self._untold.pop(place), reason, self._letters,
            )  # fmt: skip
