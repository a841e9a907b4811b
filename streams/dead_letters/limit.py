"""When to stop a partition rather than dead-letter all of it. Pure: counts in, verdicts out.

Some bad records among good ones are what dead letters are for. When most are bad, the mistake is ours (a wrong message
type, a wrong format) or a producer's release, and moving the topic over to the dead letters helps nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

__all__ = ["CONSECUTIVE_MAX", "RATIO_MAX", "WINDOW_RECORDS", "Limit", "Verdict"]

RATIO_MAX = 0.1
"""One record in ten: above it somebody has to look, whoever is at fault; below it letters do. Sentry Arroyo's limit."""
WINDOW_RECORDS = 1_000
"""Recent records that the ratio looks at: a hundred bad ones decide, so that chance does not."""
CONSECUTIVE_MAX = 50
"""Bad records in a row that stop a quiet partition long before it has filled its window."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the counts say: go on, or stop for `rule`. `dead` of the last `seen` records were bad."""

    stop: bool
    rule: Literal["", "ratio", "consecutive"]
    dead: int
    seen: int


class Limit:
    """The limit of one partition. Forgets everything with `reset`: after an abort, and when the partition is new here.

    The window holds the last whole chunks that make up at least `window_records` records; the ratio says nothing before
    it is full. A ratio of 1 leaves the rule of rows alone, `consecutive_max` 0 the ratio.
    """

    def __init__(
        self,
        ratio_max: float = RATIO_MAX,
        window_records: int = WINDOW_RECORDS,
        consecutive_max: int = CONSECUTIVE_MAX,
    ) -> None:
        self._ratio_max = ratio_max
        self._window_records = window_records
        self._consecutive_max = consecutive_max
        self._chunks: deque[tuple[int, int]] = deque()
        self._seen = 0
        self._dead = 0
        self._consecutive = 0

    def observe(self, events: int, dead: int) -> Verdict:
        """Takes in a chunk: `dead` of its `events` records are dead letters. On `stop` it is the last one.

        A row of bad records is counted over chunks without a single good one; a mixed chunk begins it anew.
        """
        if not 0 <= dead <= events:
            raise ValueError(f"dead letter limit: got {dead} dead of {events} records, expected at most all of them")
        if events:
            self._chunks.append((events, dead))
        self._seen += events
        self._dead += dead
        while self._chunks and self._seen - self._chunks[0][0] >= self._window_records:
            old_events, old_dead = self._chunks.popleft()
            self._seen -= old_events
            self._dead -= old_dead
        self._consecutive = self._consecutive + dead if dead == events else 0
        if 0 < self._consecutive_max <= self._consecutive:
            return Verdict(True, "consecutive", self._consecutive, self._consecutive)
        if self._seen >= self._window_records and self._dead > self._ratio_max * self._seen:
            return Verdict(True, "ratio", self._dead, self._seen)
        return Verdict(False, "", self._dead, self._seen)

    def reset(self) -> None:
        """Starts as on the first day."""
        self._chunks.clear()
        self._seen = self._dead = self._consecutive = 0
