"""Keys whose receiver cannot go on with patches alone: asking for their snapshots.

A receiver says so with 409; a dead letter, a dropped patch and one that is lost on the way leave the same behind. One
request is outstanding per key, at an even rate. A record counts as done only when the request for its key's snapshot is
durable: a crash before repeats the record, and the receiver says 409 again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from streams._native import Records
from streams.client.resync import Ask, Asks
from streams.clock import Clock
from streams.delivery.lane import Entry, Lanes
from streams.delivery.outbox import Outbox
from streams.delivery.target import Target
from streams.errors import TransportError
from streams.v1.resync_pb2 import Resync

__all__ = ["StaleKeys"]

PAUSE_S = 0.1
"""Between two looks at what is due: requests travel together, and nobody notices the wait."""
RETRY_PAUSE_S = 1.0
KEYS_MAX = 1_000
"""Keys looked at each time; more wait in the lanes."""
ANY = (0, 1)
"""What is needed where nobody knows what the receiver has seen: any snapshot."""

log = logging.getLogger(__name__)


class StaleKeys:
    """The requests of one target for snapshots."""

    def __init__(
        self,
        target: Target,
        lanes: Lanes,
        outbox: Outbox,
        state: Callable[[], str],
        log_id: Callable[[], bytes],
        clock: Clock,
    ) -> None:
        """`state`: of the target's circuit; snapshots that it could not take are not asked for yet.

        `log_id`: of the topic of patches as of now; blocks.
        """
        self._log_id = log_id
        self._lanes = lanes
        self._requester = target.requester
        self._per_second_max = target.snapshots_per_second_max
        self._asks = Asks(per_second_max=self._per_second_max)
        self._outbox = outbox
        self._topic = target.resync
        self._state = state
        self._clock = clock
        self._failed: dict[bytes, int] = {}  # keys of dead letters while the circuit was open, with their partitions
        self._asked: set[bytes] = set()
        self._wake = asyncio.Event()

    def want(self, entries: Iterable[Entry]) -> None:
        """The keys of these entries, which are in flight, need snapshots; with the requests the entries are done."""
        self._lanes.drop(entries)
        self._wake.set()

    def want_later(self, keys: Mapping[bytes, int]) -> None:
        """Patches of these keys became dead letters because the target was away: their snapshots when it is back."""
        self._failed.update(keys)
        self._wake.set()

    async def ask_all(self, keys: Iterable[bytes], partition: int) -> None:
        """For a target that starts without anything, or whose patches are gone from the log; returns when all of the
        requests are durable. Nothing waits for the answers: they are patches like others.
        """
        rest = sorted(keys)
        while rest:
            now, rest = rest[: self._per_second_max], rest[self._per_second_max :]
            requests = await self._requests(now, partition, Resync.LATE_JOINER)
            await self._outbox.write_until_acked(self._topic, requests, partition)
            if rest:
                await asyncio.sleep(1.0)

    def look(self) -> None:
        """Notes which snapshots have come, and that the lanes have lost patches."""
        for key, reached in self._lanes.take_arrived():
            self._asks.answered(key, reached)
            self._asked.discard(key)
        if self._lanes.waiting_keys:
            self._wake.set()

    def release(self, partition: int) -> None:
        """The partition is another worker's now."""
        self._asks.drop(partition)
        self._failed = {key: where for key, where in self._failed.items() if where != partition}

    @property
    def wanted(self) -> bool:
        """Whether the target's return is waited for to ask for something: traffic, though no patch is pending."""
        return bool(self._failed) or next(self._lanes.wanted(), None) is not None

    def __len__(self) -> int:
        """Keys that a request is wanted or under way for, beside those that the lanes hold."""
        return len(self._asks) + len(self._failed)

    async def run(self) -> None:
        """Writes the requests that are due; never returns."""
        while True:
            if not len(self) and not self._lanes.waiting_keys:
                self._wake.clear()
                await self._wake.wait()
            self._collect()
            try:
                await self._ask(self._asks.due(int(self._clock.monotonic_s() * 1000)))
            except TransportError as error:
                log.warning("%s: snapshots could not be asked for, tried again: %s", self._topic, error)
                await asyncio.sleep(RETRY_PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    def _collect(self) -> None:
        """Wants snapshots of what the lanes dropped and of dead letters, as the circuit lets their answers through."""
        state = self._state()
        if state == "open":
            return
        # A single snapshot is enough for a trial, where nothing else waits to be tried.
        keys_max = KEYS_MAX if state == "closed" else int(not self._lanes.pending_records)
        for key, partition in list(islice(self._lanes.wanted(), keys_max)):
            if key in self._asked:
                self._lanes.await_snapshot([key])  # its answer is on the way
            else:
                self._want(key, partition)
        for key in list(islice(self._failed, keys_max)):
            self._want(key, self._failed.pop(key))

    async def _ask(self, due: list[Ask]) -> None:
        by_partition: dict[int, list[Ask]] = {}
        for ask in due:
            by_partition.setdefault(ask.partition, []).append(ask)
        for partition, asks in by_partition.items():
            keys = [ask.key for ask in asks]
            await self._outbox.write(self._topic, await self._requests(keys, partition, Resync.GAP), partition)
            self._asks.asked(asks, int(self._clock.monotonic_s() * 1000))
            self._asked.update(keys)
            self._lanes.await_snapshot(keys)

    async def _requests(self, keys: Iterable[bytes], partition: int, reason: Resync.Reason) -> Records:
        """Patches of these keys are in this partition: its owner says of one that has no row there that it is gone."""
        log_id = await asyncio.to_thread(self._log_id)
        request = Resync(requester=self._requester, reason=reason, topic_id=log_id, partition=partition)
        records = Records()
        for key in keys:
            records.append(key, request.SerializeToString())
        return records

    def _want(self, key: bytes, partition: int) -> None:
        self._asks.want(Ask(key, partition, 0, Resync.GAP, 0, 0, ANY))
