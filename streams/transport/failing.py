"""What a consumer remembers of transactions that failed: which record a topic refuses, and why nothing goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, MutableMapping

from streams.errors import TransportError
from streams.transport.allowance import Fault, pause_s
from streams.transport.chunk import NONE_REFUSED, sizes
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
        self._refused: dict[tuple[str, int, int], dict[str, int]] = {}  # by a record's place: see `refused`

    def committed(self, unit: Unit) -> None:
        """A transaction succeeded: records that were refused before are passed with it."""
        self._reasons.pop(TRANSACTION, None)
        for topic, partition, offset in list(self._refused):
            if unit.positions.get((topic, partition), 0) > offset:
                del self._refused[topic, partition, offset]

    def failed(self, error: Exception, unit: Unit, fault: Fault) -> None:
        """A transaction failed. Of one record alone it is known then that a topic refuses what comes of it.

        Of several records for that topic it is the largest one.
        """
        if fault != "size" or unit.records != 1 or not isinstance(error, TransportError):
            return
        if len(self._refused) >= REFUSED_MAX:
            self._refused.clear()
        sent = (size for topic, _, records in unit.outputs if topic == error.topic for size in sizes(records))
        largest = max(sent, default=0)
        for (topic, partition), after in unit.positions.items():
            # A new mapping: the chunk that failed has the one before.
            place = (topic, partition, after - 1)
            self._refused[place] = {**self._refused.get(place, NONE_REFUSED), error.topic: largest}

    def refused(self, topic: str, partition: int, offset: int) -> Mapping[str, int]:
        """The topics that refuse what comes of this record, and the bytes of the least record that each refused; 0: of
        its state, which nobody can make smaller.
        """
        return self._refused.get((topic, partition, offset), NONE_REFUSED)

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
