"""Positions that their partition does not have any more: in whose topics reading goes on, and where it stops, in words.

Topics of our own that carry requests and counts expire by design: whoever was away for longer has missed them, and
nothing is owed. Everywhere else a record that was not read is a loss, and no loss is silent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from streams.errors import TransportError

__all__ = ["Expiry", "Skipped"]

log = logging.getLogger(__name__)

Skipped = Callable[[int, int, int], None]
"""Told partition, position and the first offset that is left. Called in the thread that fetches."""


class Expiry:
    """The topics whose records expire. Entries are made before the worker subscribes."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._topics: dict[str, Skipped | None] = {}
        self.counts: Counter[str] = Counter()
        """Offsets that were passed over, by topic."""

    def expect(self, topic: str, told: Skipped | None = None) -> None:
        """Records of this topic may expire before they are read; `told` hears of it."""
        self._topics[topic] = told

    def expires(self, topic: str) -> bool:
        """Whether reading goes on where records of this topic are gone: a second agent that reads it is somebody's own,
        and must miss nothing.
        """
        return topic in self._topics and self._app.topics.readers(topic) <= 1

    def go_on(
        self, group: str, topic: str, partition: int, position: int, low: int, high: int, *, sought: bool = True
    ) -> int:
        """Where reading goes on after a position that is not in [low, high]: at the first offset that is left.

        TransportError, fatal: the topic is none whose records expire, or it is another one in the middle of reading
        (nothing was `sought`).
        """
        if not self.expires(topic):
            raise TransportError(
                f"{topic} partition {partition}: offset {position} is next, the log has {low} to {high}: retention "
                f"removed records before group {group} had processed them, or the topic is another one; look at what "
                f"is missing, then `streams state replaced {topic} --from beginning` goes on at {low}",
                fatal=True,
            )
        if position > high and not sought:
            raise TransportError(
                f"{topic} partition {partition}: offset {position} is next, the log has {low} to {high}: it was made "
                "anew; a restart reads it from its beginning",
                fatal=True,
            )
        self.counts[topic] += max(0, low - position)
        log.warning(
            "%s partition %d: offset %d is next, the log has %d to %d: what expired is passed over",
            topic, partition, position, low, high,
        )  # fmt: skip
        told = self._topics[topic]
        if told is not None:
            told(partition, position, low)
        return low
