"""Many events at a time: cutting them into runs that are worth a hand-over, and counting what became of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from streams.client.broker import Ack, Outcome
from streams.client.event import Encoder, Event, Record, size_of

__all__ = ["Parcels", "Tally"]

PARCEL_RECORDS_MAX = 1_000
"""Enough to pay for a hand-over many times, few enough to be encoded in some milliseconds."""
PARCEL_BYTES_MAX = 1 << 20
"""A batch of Kafka's default size."""


class Parcels:
    """Gathers encoded events."""

    def __init__(self, encoder: Encoder, topic: str) -> None:
        self._encoder = encoder
        self._topic = topic
        self._records: list[Record] = []
        self._size = 0

    def add(self, event: Event) -> tuple[list[Record], int] | None:
        """Takes one more event; returns records and their bytes once they are worth a hand-over."""
        record = self._encoder.encode(self._topic, event)
        self._records.append(record)
        self._size += size_of(record)
        if len(self._records) >= PARCEL_RECORDS_MAX or self._size >= PARCEL_BYTES_MAX:
            return self.rest()
        return None

    def rest(self) -> tuple[list[Record], int] | None:
        """What is gathered, if anything."""
        if not self._records:
            return None
        parcel = self._records, self._size
        self._records, self._size = [], 0
        return parcel


class Tally:
    """How many events were acknowledged, and the first failure."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.failure: Exception | None = None

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Takes in what became of some events."""
        for outcome in outcomes:
            if isinstance(outcome, Ack):
                self.acknowledged += 1
            elif self.failure is None:
                self.failure = outcome

    def result(self) -> int:
        """The number of acknowledged events; raises the first failure, with that number in a note."""
        if self.failure is not None:
            self.failure.add_note(f"{self.acknowledged} events before or beside it were acknowledged")
            raise self.failure
        return self.acknowledged
