"""What a consumer remembers of transactions that failed: which record a topic refuses, and why nothing goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, MutableMapping

from streams.errors import TransportError
from streams.transport.allowance import Fault, pause_s
from streams.transport.pipeline import Unit

__all__ = ["Failing"]

TRANSACTION = "transaction"
"""The declared reason of a worker whose transactions fail."""
PAUSE_STEP_S = 0.1
"""A rebalance is answered at once, however long the pause before the next transaction."""
REFUSED_MAX = 1_000
"""Records that are refused and not yet passed: one per partition, and those that went to other workers meanwhile."""


class Failing:
    """`reasons` are the worker's declared ones: while transactions fail theirs is among them."""

    def __init__(self, reasons: MutableMapping[str, str]) -> None:
        self._reasons = reasons
        self._refused: dict[tuple[str, int, int], str] = {}  # record by its place, and the topic that refuses it

    def committed(self, unit: Unit) -> None:
        """A transaction succeeded: records that were refused before are passed with it."""
        self._reasons.pop(TRANSACTION, None)
        for topic, partition, offset in list(self._refused):
            if unit.positions.get((topic, partition), 0) > offset:
                del self._refused[topic, partition, offset]

    def failed(self, error: Exception, unit: Unit, fault: Fault) -> None:
        """A transaction failed. Of one record alone it is known then that a topic refuses what comes of it."""
        if fault != "size" or unit.records != 1 or not isinstance(error, TransportError):
            return
        if len(self._refused) >= REFUSED_MAX:
            self._refused.clear()
        for (topic, partition), after in unit.positions.items():
            self._refused[topic, partition, after - 1] = error.topic

    def refused(self, topic: str, partition: int, offset: int) -> str:
        """The topic that refuses what comes of this record; empty where none is known to."""
        return self._refused.get((topic, partition, offset), "")

    def forget_reason(self) -> None:
        """Partitions move: what failed may be another worker's now."""
        self._reasons.pop(TRANSACTION, None)

    async def wait(self, error: TransportError, failures: int, interrupted: Callable[[], bool]) -> None:
        """Declares why nothing goes on, and waits the longer the more often in a row it failed."""
        again = f"failed {failures} times in a row, tried again" if failures > 1 else "failed, tried again"
        self._reasons[TRANSACTION] = f"{again}: {error}"
        for _ in range(round(pause_s(failures, random.random()) / PAUSE_STEP_S)):
            if interrupted():
                return
            await asyncio.sleep(PAUSE_STEP_S)
