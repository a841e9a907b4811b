"""Faust's producer on the durable local log."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from faust.transport import base
from faust.types import TP, RecordMetadata
from typing_extensions import override

from streams._native import Records
from streams.errors import TransportError
from streams.transport.chunk import Output
from streams.transport.joining import going_out, header_list, join_chunk, soon
from streams.transport.soon import SoonBuffer
from streams.transport.worker_log import WorkerLog

__all__ = ["Producer"]

SENDS_QUEUED_MAX = 10_000
"""Ordinary sends waiting for the log: as many as one append can take in a few milliseconds."""
SENDS_BYTES_MAX = 32 << 20
"""The same in bytes, as the client's producer has it."""


@dataclass(slots=True, eq=False)
class _Sending:
    """An ordinary send that waits for its append."""

    output: Output
    sent: asyncio.Future[RecordMetadata]


class Producer(base.Producer):
    """Faust's producer; a send from an agent that works on a chunk joins the chunk's transaction.

    Sends are appended in a thread, in their order, as many at once as came while the last append was under way.
    """

    transport: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._queue: deque[_Sending] = deque()
        self._queued_bytes = 0
        self._entering: set[asyncio.Future[None]] = set()  # one for each send that waits for room
        self._turnstile = asyncio.Lock()  # sends that find no room pass it one by one, first come first served
        self._room = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._opened = False
        self.buffer = SoonBuffer(self.app, lambda _: True, self._require, loop=self.loop, beacon=self.beacon)

    @override
    async def on_start(self) -> None:
        await self.transport.open()
        self._opened = True
        await super().on_start()

    @override
    async def on_stop(self) -> None:
        if self._opened:
            await self._written()
            await self.transport.close()

    @override
    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Any:
        joined = join_chunk(topic, key, value, partition, timestamp, headers)
        if joined is not None:
            return joined
        records = Records()
        records.append(key, value, header_list(headers), int(timestamp * 1000) if timestamp else -1)
        loop = asyncio.get_running_loop()
        sending = _Sending(Output(topic, -1 if partition is None else partition, records), loop.create_future())
        if self._turnstile.locked() or not self._has_room():
            entered: asyncio.Future[None] = loop.create_future()
            self._entering.add(entered)
            try:
                async with self._turnstile:
                    while not self._has_room():
                        self._room.clear()
                        await self._room.wait()
            finally:
                self._entering.discard(entered)
                entered.set_result(None)
        self._queue.append(sending)
        self._queued_bytes += records.nbytes
        if self._writing is None:
            self._writing = loop.create_task(self._write(), name="embedded-sends")
        return going_out(sending.sent)

    @override
    def send_soon(self, fut: Any) -> None:
        if not soon(fut):
            super().send_soon(fut)

    async def _require(self, topic: str) -> None:
        """The log makes topics when they are needed."""

    async def unsendable(self, topics: Iterable[str]) -> TransportError | None:
        """None: as with `_require`."""
        return None

    def _has_room(self) -> bool:
        return len(self._queue) < SENDS_QUEUED_MAX and self._queued_bytes < SENDS_BYTES_MAX

    async def _write(self) -> None:
        try:
            while self._queue:
                batch = list(self._queue)
                self._queue.clear()
                self._queued_bytes = 0
                outcomes: Sequence[RecordMetadata | Exception]
                try:
                    outcomes = await asyncio.to_thread(self._append, [sending.output for sending in batch])
                except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for each of them
                    outcomes = [error] * len(batch)
                for sending, outcome in zip(batch, outcomes, strict=True):
                    if sending.sent.done():
                        continue
                    if isinstance(outcome, Exception):
                        sending.sent.set_exception(outcome)
                    else:
                        sending.sent.set_result(outcome)
                self._room.set()
        finally:
            self._writing = None

    def _append(self, outputs: list[Output]) -> list[RecordMetadata | Exception]:
        """Appends single records; where that fails each half by itself, so that none fails for another's sake."""
        log: WorkerLog = self.transport.log
        try:
            placed = [
                Output(topic, log.partition(topic, records.key(0)) if partition < 0 else partition, records)
                for topic, partition, records in outputs
            ]
            batches = log.spread(placed)
            ends = log.append(batches)
        except Exception as error:  # noqa: BLE001 - a topic that is no name, a partition that is no number
            if len(outputs) == 1:
                return [error]
            ends = []
        if not ends:
            half = len(outputs) // 2
            return self._append(outputs[:half]) + self._append(outputs[half:])
        last = {(topic, partition): end for (topic, partition, _), end in zip(batches, ends, strict=True)}
        left = Counter((topic, partition) for topic, partition, _ in placed)
        outcomes: list[RecordMetadata | Exception] = []
        for topic, partition, _ in placed:
            left[topic, partition] -= 1
            offset = last[topic, partition] - left[topic, partition]
            outcomes.append(RecordMetadata(topic, partition, TP(topic, partition), offset))
        return outcomes

    @override
    async def send_and_wait(self, *args: Any, **kwargs: Any) -> Any:
        return await (await self.send(*args, **kwargs))

    async def _written(self) -> None:
        """Returns when what was sent before is written; sends that waited for room then were sent before, too."""
        if self._entering:
            await asyncio.wait(set(self._entering))
        if self._writing is not None:
            await asyncio.wait([self._writing])

    @override
    async def flush(self) -> None:
        await self.buffer.flush()
        await self._written()

    @override
    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        await self.transport.declare(topic, partitions, **options)

    @override
    def key_partition(self, topic: str, key: bytes) -> TP:
        return TP(topic, self.transport.log.partition(topic, key))

    @override
    def supports_headers(self) -> bool:
        return True
