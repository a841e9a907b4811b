"""Counts of calls over a rolling window. Pure: time is an argument, in milliseconds of any clock that runs forwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Counts", "Window"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Calls by how they ended, and the time of all of them together."""

    ok: int = 0
    failed: int = 0
    slow: int = 0
    throttled: int = 0
    latency_us: int = 0

    @property
    def calls(self) -> int:
        """What rates are of; being told to come later says nothing about a target's health."""
        return self.ok + self.failed + self.slow

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0 to 1; 0 where there were none."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 to 1; 0 where there were none."""
        return self.slow / self.calls if self.calls else 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.ok + other.ok,
            self.failed + other.failed,
            self.slow + other.slow,
            self.throttled + other.throttled,
            self.latency_us + other.latency_us,
        )


class Window:
    """The counts of the last `window_ms`, in steps of `bucket_ms`.

    A running total goes with the buckets and a bucket that leaves is subtracted from it, so that asking costs the same
    however much there was. Memory is bounded by the number of buckets. A time before the newest counts as the newest.
    """

    __slots__ = ("_bucket_ms", "_buckets", "_newest", "_size", "_total")

    def __init__(self, window_ms: int, bucket_ms: int) -> None:
        if not 0 < bucket_ms <= window_ms:
            raise ValueError(f"window: got buckets of {bucket_ms} ms in {window_ms} ms, expected at least one of them")
        self._bucket_ms = bucket_ms
        self._size = -(-window_ms // bucket_ms)
        self._buckets: deque[tuple[int, list[int]]] = deque()  # number and counts, ascending, empty ones left out
        self._total = [0, 0, 0, 0, 0]
        self._newest = 0

    def add(self, now_ms: int, counts: Counts) -> None:
        """Adds what ended now."""
        self.add_numbers(now_ms, (counts.ok, counts.failed, counts.slow, counts.throttled, counts.latency_us))

    def add_numbers(self, now_ms: int, numbers: Sequence[int]) -> None:
        """As `add`, the five numbers in the order of `Counts`: for a call each, without an object each."""
        self._roll(now_ms)
        buckets, total = self._buckets, self._total
        if not buckets or buckets[-1][0] != self._newest:
            buckets.append((self._newest, [0, 0, 0, 0, 0]))
        bucket = buckets[-1][1]
        for index, number in enumerate(numbers):
            bucket[index] += number
            total[index] += number

    def totals(self, now_ms: int) -> Counts:
        """The counts of the window that ends now."""
        self._roll(now_ms)
        return Counts(*self._total)

    def clear(self) -> None:
        """Forgets everything."""
        self._buckets.clear()
        self._total = [0, 0, 0, 0, 0]

    def rows(self, now_ms: int) -> list[list[int]]:
        """A compact form: age in milliseconds and counts of each bucket that is not empty, the oldest first."""
        self._roll(now_ms)
        return [[(self._newest - number) * self._bucket_ms, *counts] for number, counts in self._buckets]

    def restore(self, now_ms: int, rows: Iterable[Sequence[int]]) -> None:
        """Takes the place of everything here: rows as `rows` gave them, their ages as of now. Too old ones are left
        out; buckets of another width are fine.
        """
        self.clear()
        self._roll(now_ms)
        for age_ms, *counts in sorted((list(row) for row in rows), reverse=True):
            number = self._newest - max(age_ms, 0) // self._bucket_ms
            if number <= self._newest - self._size:
                continue
            if not self._buckets or self._buckets[-1][0] != number:
                self._buckets.append((number, [0, 0, 0, 0, 0]))
            for index, count in enumerate(counts):
                self._buckets[-1][1][index] += count
                self._total[index] += count

    def _roll(self, now_ms: int) -> None:
        self._newest = max(now_ms // self._bucket_ms, self._newest)
        oldest = self._newest - self._size
        while self._buckets and self._buckets[0][0] <= oldest:
            for index, count in enumerate(self._buckets.popleft()[1]):
                self._total[index] -= count
