"""Following topics beside the group: partitions assigned by hand, from offsets of the caller's choice, anywhere.

A follower belongs to one thread at a time, which it may block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from streams._native import KafkaConsumer, KafkaError, Records
from streams.errors import TransportError
from streams.transport.ledger import named
from streams.transport.log import Log
from streams.transport.tail import Positions

__all__ = ["Fetched", "Follower", "open_follower", "opened"]

Fetched = tuple[str, int, Records, int]
"""Topic, partition, records, and the end of the partition where it was reached there, else -1."""


class Follower(Protocol):
    """Reads committed records of partitions in their order.

    A position below the first offset that is left goes on there: the records' first offset shows the gap.
    """

    def assign(self, positions: Positions) -> None:
        """Adds partitions, from these offsets on; they exist. One that is followed already moves there."""
        ...

    def unassign(self, partitions: Collection[tuple[str, int]]) -> None:
        """Takes partitions away."""
        ...

    def fetch(self, records_max: int, bytes_max: int, wait_ms: int) -> list[Fetched]:
        """What is there, after waiting up to `wait_ms` for the first record. TransportError: not now, or never."""
        ...

    def close(self) -> None:
        """Lets go of the broker or the log."""
        ...


def open_follower(transport: Any, positions: Positions) -> Follower:
    """A follower of a worker's transport. TransportError where the broker or the log cannot be used now."""
    follower: Follower
    if transport.open_tail is None:
        follower = _LogFollower(Log.shared(transport.directory, transport.settings.embedded.fsync))
    else:
        try:
            follower = _KafkaFollower(transport)
        except KafkaError as error:
            raise named(error, "following") from error
    follower.assign(positions)
    return follower


async def opened(make: Callable[[], Follower]) -> Follower:
    """What `make` opens, in a thread. Whoever is cancelled meanwhile leaves none open: nobody else has heard of it."""
    loop = asyncio.get_running_loop()
    opening = loop.run_in_executor(None, make)

    def close(done: asyncio.Future[Follower]) -> None:
        if not done.cancelled() and done.exception() is None:
            loop.run_in_executor(None, done.result().close)

    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(close)
        raise


class _KafkaFollower:
    """A librdkafka consumer that no group knows of."""

    def __init__(self, transport: Any) -> None:
        self._consumer: KafkaConsumer = transport.open_tail()
        self._followed: set[tuple[str, int]] = set()

    def assign(self, positions: Positions) -> None:
        try:
            if again := self._followed & positions.keys():
                self._consumer.unassign(list(again))
            self._consumer.assign([(*where, offset) for where, offset in positions.items()])
        except KafkaError as error:
            raise named(error, "following") from error
        self._followed |= positions.keys()

    def unassign(self, partitions: Collection[tuple[str, int]]) -> None:
        gone = self._followed.intersection(partitions)
        self._followed -= gone
        try:
            self._consumer.unassign(list(gone))
        except KafkaError as error:
            raise named(error, "following") from error

    def fetch(self, records_max: int, bytes_max: int, wait_ms: int) -> list[Fetched]:
        try:
            return self._consumer.fetch(records_max, bytes_max, wait_ms)
        except KafkaError as error:
            raise named(error, "following") from error

    def close(self) -> None:
        self._consumer.close()


class _LogFollower:
    """Positions in the embedded log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._positions: dict[tuple[str, int], int] = {}
        self._at_end: set[tuple[str, int]] = set()  # partitions whose end was told at their position
        self._turn = 0

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        for topic, partition in positions:
            count = self._log.partitions(topic)
            if count is None or partition >= count:
                raise TransportError(f"following: no partition {partition} of {topic}; create the topic first")
        self._positions.update(positions)
        self._at_end -= positions.keys()

    def unassign(self, partitions: Collection[tuple[str, int]]) -> None:
        for where in partitions:
            self._positions.pop(where, None)

    def fetch(self, records_max: int, bytes_max: int, wait_ms: int) -> list[Fetched]:
        silent = self._ends()
        ready = self._log.wait(self._positions, 0 if silent else wait_ms)
        self._turn += 1
        first = self._turn % len(ready) if ready else 0
        out: list[Fetched] = []
        for where in [*ready[first:], *ready[:first]]:
            if records_max <= 0 or bytes_max <= 0:
                break
            # Others wait too: each gets its share of the first round, and what is left of it goes to the next.
            share = max(records_max // (len(ready) - len(out)), 1)
            end = self._log.end(*where)
            records = self._log.read(*where, self._positions[where], share, bytes_max)
            if not len(records):  # compaction has left nothing up to the end that was seen before
                self._positions[where] = end
                continue
            records_max -= len(records)
            bytes_max -= records.nbytes
            self._positions[where] = records.last_offset + 1
            self._at_end.discard(where)
            out.append((*where, records, -1))
        return [*out, *silent, *self._ends()]

    def close(self) -> None:
        self._log.close()

    def _ends(self) -> list[Fetched]:
        """Partitions that stand at their end, each told once."""
        told: list[Fetched] = []
        for where, position in self._positions.items():
            if where not in self._at_end and position >= self._log.end(*where):
                self._at_end.add(where)
                told.append((*where, Records(), self._log.end(*where)))
        return told
