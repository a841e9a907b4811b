"""When bad input stops a partition of a sync, by what its chunks gave."""

from __future__ import annotations

from collections.abc import Mapping

from streams.dead_letters.limit import Limit
from streams.errors import DeadLetterLimitError
from streams.options import LimitSettings

__all__ = ["Limits"]


class Limits:
    """The dead-letter limits of a topic's partitions."""

    def __init__(self, topic: str, settings: LimitSettings) -> None:
        self._topic = topic
        self._settings = settings
        self._limits: dict[int, Limit] = {}

    def observe(self, partition: int, records: int, counts: Mapping[str, int]) -> None:
        """Takes a chunk's counts in. DeadLetterLimitError: nearly everything lately is bad."""
        reasons = {name.removeprefix("dead."): count for name, count in counts.items() if name.startswith("dead.")}
        limit = self._limits.get(partition)
        if limit is None:
            limit = self._limits[partition] = Limit(
                self._settings.dead_letter_ratio, self._settings.dead_letter_window_records
            )
        verdict = limit.observe(records, sum(reasons.values()))
        if verdict.stop:
            reason = max(reasons, key=lambda name: reasons[name], default="none")
            raise DeadLetterLimitError(self._topic, partition, verdict.dead, verdict.seen, reason)

    def clear(self) -> None:
        """Chunks are about to be read again."""
        self._limits.clear()
