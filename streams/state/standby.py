"""Standby: warm copies of partitions that another worker owns, so that taking one over needs only its newest rows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from streams._native import KafkaConsumer, KafkaError, Records
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import StreamsError
from streams.state.stores import BEHIND_MS_MAX

__all__ = ["Copy", "Standby"]

log = logging.getLogger(__name__)

FETCH_RECORDS_MAX = 20_000
FETCH_BYTES_MAX = 16 << 20
FETCH_WAIT_MS = 500
"""A copy may lag by this much: the owner restores the rest when it takes the partition over."""
PAUSE_S = 1.0


class Copy(Protocol):
    """State of one partition that rows of the changelog are put into."""

    def restore_from(self) -> int:
        """Changelog offset that it already contains."""
        ...

    def restore(self, rows: Records) -> None:
        """Takes rows in."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


C = TypeVar("C", bound=Copy)


class Standby(Generic[C]):
    """Follows changelog partitions in a thread of its own. All methods may be called from any thread."""

    def __init__(
        self,
        topic: str,
        open_copy: Callable[[int], C],
        open_consumer: Callable[[], KafkaConsumer],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._topic = topic
        self._clock = clock
        self._followed_ms = clock.now_ms()
        self._open_copy = open_copy
        self._open_consumer = open_consumer
        self._lock = threading.Lock()
        self._wanted: set[int] = set()
        self._copies: dict[int, tuple[C, int]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def partitions(self) -> set[int]:
        """Partitions that are followed now."""
        with self._lock:
            return set(self._copies)

    def follow(self, partitions: set[int]) -> None:
        """Follows these partitions from now on, and no others."""
        with self._lock:
            self._wanted = set(partitions)
        if partitions and self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"standby-{self._topic}", daemon=True)
            self._thread.start()

    def take(self, partition: int) -> tuple[C, int] | None:
        """Hands a copy over with the changelog offset to go on at; None where there is none."""
        with self._lock:
            self._wanted.discard(partition)
            self._drop_old()
            return self._copies.pop(partition, None)

    def _drop_old(self) -> None:
        """Copies of a process that slept for so long may lack removals, as old stores do. With the lock."""
        if self._clock.now_ms() - self._followed_ms > BEHIND_MS_MAX:
            log.warning("standby of %s was not followed for half a day: its copies are made anew", self._topic)
            for copy, _ in self._copies.values():
                copy.close()
            self._copies.clear()

    def stop(self) -> None:
        """Ends the thread; copies go."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for copy, _ in self._copies.values():
            copy.close()
        self._copies.clear()

    def _run(self) -> None:
        held: set[int] = set()
        consumer: KafkaConsumer | None = None
        while not self._stopping.is_set():
            try:
                if consumer is None:
                    consumer, held = self._open_consumer(), set()
                self._place(consumer, held)
                runs = consumer.fetch(FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS)
                with self._lock:
                    self._drop_old()
                    self._followed_ms = self._clock.now_ms()
                for _, partition, rows, _ in runs:
                    self._absorb(partition, rows)
            except (KafkaError, StreamsError) as error:
                log.warning("standby of %s pauses: %s", self._topic, error)
                if consumer is not None:
                    consumer.close()
                consumer = None
                self._stopping.wait(PAUSE_S)
        if consumer is not None:
            consumer.close()

    def _place(self, consumer: KafkaConsumer, held: set[int]) -> None:
        with self._lock:
            for partition in self._copies.keys() - self._wanted:
                self._copies.pop(partition)[0].close()
            opened = self._wanted - self._copies.keys()
            for partition in opened:
                copy = self._open_copy(partition)
                self._copies[partition] = copy, copy.restore_from()
            positions = {partition: position for partition, (_, position) in self._copies.items()}
        # One that was handed over and made anew since the last time is read from where the new one stands.
        if gone := held & opened | held - positions.keys():
            consumer.unassign([(self._topic, partition) for partition in gone])
            held -= gone
        if new := positions.keys() - held:
            consumer.assign([(self._topic, partition, positions[partition]) for partition in new])
            held |= new

    def _absorb(self, partition: int, rows: Records) -> None:
        if not len(rows):
            return
        with self._lock:
            # A copy that was handed over meanwhile, and perhaps made anew, stands elsewhere: these rows are not its.
            copy, position = self._copies.get(partition, (None, -1))
            if copy is not None and rows.first_offset >= position:
                copy.restore(rows)
                self._copies[partition] = copy, rows.last_offset + 1
