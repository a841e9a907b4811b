"""What both transports' consumers share: chunks instead of messages, and offsets that move with transactions.

Faust's consumer tracks single messages, acknowledges them one by one and computes which offset is safe from the gaps.
For chunk topics none of that applies: a chunk's offset is committed by the pipeline, together with everything the chunk
caused. For ordinary topics the order of delivery replaces Faust's gap trees, since compaction and transaction markers
leave gaps that mean nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from faust.transport import base
from faust.types import TP, ConsumerMessage
from mode import Service
from typing_extensions import override

from streams.errors import StateError, TransportError
from streams.transport.allowance import Allowance, Fault
from streams.transport.chunk import Chunk, ChunkSchema, parts, record_bytes
from streams.transport.failing import Failing
from streams.transport.pace import Pace
from streams.transport.pipeline import Ledger, Pipeline, Unit
from streams.transport.stopped import Stops
from streams.transport.turns import Turns
from streams.transport.waits import Waits

if TYPE_CHECKING:
    from streams._native import Records
    from streams.options import TransactionSettings
    from streams.transport.logs import Logs

__all__ = ["ChunkConductor", "ChunkConsumer", "OrdinaryRecord"]

Rewind = Callable[[bool], Awaitable[None]]
OrdinaryRecord = tuple["Records", int]
"""One record of an ordinary topic: its batch and its place there."""


class ChunkConductor(base.Conductor):
    """Knows which topics are delivered in chunks."""

    _resubscribe_sleep_lock_seconds = 4.0
    """Faust collects new topics for 45 s before it subscribes to them: the first answer of an `ask` would wait so long.
    Not below 3 s: Faust declares the topic of answers first and opens the stream that reads it 3 s later."""

    def is_chunked(self, topic: str) -> bool:
        """Whether any reader of the topic wants chunks. All readers of a topic must want the same."""
        return any(isinstance(channel.schema, ChunkSchema) for channel in self._topic_name_index.get(topic, ()))

    def asks(self, topic: str) -> bool:
        """Whether its records are requests, each of which may be answered with a whole state."""
        schemas = (channel.schema for channel in self._topic_name_index.get(topic, ()))
        return any(isinstance(schema, ChunkSchema) and topic in schema.requests for schema in schemas)

    def read_here(self) -> set[str]:
        """The topics that somebody reads here."""
        return {topic for topic, channels in self._topic_name_index.items() if channels}

    def readers(self, topic: str) -> int:
        """How many agents read the topic here."""
        return len(self._topic_name_index.get(topic, ()))

    @override
    def _update_tp_index(self, assigned: set[TP]) -> None:
        """Leaves out topics that nobody iterates over where somebody does.

        Faust subscribes to the topic of answers by one object and reads it by another: the first counted as a reader
        that acknowledged nothing, and its queue would have stopped everything once it was full.
        """
        super()._update_tp_index(assigned)
        for tp, topics in self._tp_index.items():
            read = {topic for topic in topics if getattr(topic, "is_iterator", True)}
            self._tp_index[tp] = read or topics


class ChunkConsumer:
    """Mixin in front of a Faust consumer class."""

    app: Any
    transport: Any
    epoch: int
    pipeline: Pipeline
    ledger: Ledger
    logs: Logs

    def begin_chunks(self, settings: TransactionSettings) -> None:
        """Sets up the pipeline; called once, before the consumer starts."""
        self.epoch = 1
        self._order: defaultdict[TP, deque[int]] = defaultdict(deque)
        self._next: dict[tuple[str, int], int] = {}  # where the next chunk of a partition begins, in this epoch
        self.turns = Turns()
        self._handing_over = asyncio.Lock()
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._rewinds: list[Rewind] = []
        self.outcomes: list[Callable[[bool], None]] = []
        """Told of every unit whether the broker took it."""
        self.quiet: list[Callable[[str, int, int, int], None]] = []
        """Told now and then of partitions that end behind their last record, as markers of transactions make them:
        topic, partition, the next offset of what was handed over, and the end."""
        self.held_back: set[TP] = set()
        """Partitions that nothing more is fetched of for now. Faust's pause would drop what is on its way as well."""
        self.pace = Pace()
        self.stops = Stops()
        self.waits = Waits(self.transport.reasons)
        self.failing = Failing(self.transport.reasons)
        self.pipeline = Pipeline(
            self.ledger,
            interval_s=settings.interval_ms / 1000,
            backlog_s=settings.backlog_interval_ms / 1000,
            most=Allowance(settings.records_max, settings.bytes_max),
            timeout_s=settings.timeout_ms / 1000,
            on_committed=self._unit_committed,
            on_failed=self._unit_failed,
        )

    def on_rewind(self, callback: Rewind) -> None:
        """Registers keyed state: called when uncommitted rows must go; lost=True: committed ones are in doubt."""
        self._rewinds.append(callback)

    async def rewind(self, *, lost: bool) -> None:
        """Drops everything uncommitted. Chunks in agents' hands or queues belong to an older epoch from here on."""
        self.epoch += 1
        self.stops.forget()
        if not lost:
            self.failing.forget_reason()
        self._next.clear()
        self.turns.clear()
        self.pipeline.discard()  # before anything is waited for: none of it may begin to commit meanwhile
        await self._idle.wait()
        await self.pipeline.settled()  # what is being committed folds into the state that goes
        for callback in self._rewinds:
            await callback(lost)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Held while native code changes keyed state, so that a rewind never runs beside it."""
        self._working += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._idle.set()

    def is_current(self, chunk: Chunk) -> bool:
        """Whether the chunk may be worked on and committed.

        Not one of an older epoch: a rewind has happened, and its records are read again. Not one behind the offset at
        which its partition is stopped, or was: they are read again when it goes on.
        """
        tp = TP(chunk.topic, chunk.partition)
        return chunk.epoch == self.epoch and self.stops.admits(tp, chunk.begin, chunk.turn)

    async def chunk_done(self, share: Chunk, readers: int) -> None:
        """An agent has finished its share of a chunk; the last of its `readers` hands the chunk to the pipeline."""
        chunk = share.whole or share
        chunk.finished += 1
        if not self.is_current(chunk):
            return
        if chunk is not share:
            chunk.take_in(share)
        self.turns.enter(chunk)
        if chunk.finished < readers:
            return
        where = (chunk.topic, chunk.partition)
        expected = self._next.get(where, chunk.begin)
        if chunk.begin != expected:
            raise StateError(
                f"{chunk.topic} partition {chunk.partition}: a chunk that begins at {chunk.begin} was finished after "
                f"one that ends at {expected}; chunks are finished in order, by agents with concurrency 1"
            )
        self._next[where] = chunk.last + 1
        chunk.complete = True
        # One after the other: a small chunk that finds room while a large one waits for it would have the latter's rows
        # in its own transaction, since a mark contains the lower ones.
        async with self._handing_over:
            for ready in self.turns.ready(chunk):
                if self.is_current(ready):
                    await self.pipeline.submit(ready)

    def give_up_waiting(self) -> None:
        """Ordinary events in agents' hands are not waited for any more; they are not committed either."""
        self._unacked_messages.clear()  # type: ignore[attr-defined]

    async def _unit_committed(self, unit: Unit) -> None:
        for told in self.outcomes:
            told(True)
        self.failing.committed(unit)
        await self.on_unit_committed(unit)

    async def _unit_failed(self, error: Exception, unit: Unit, fault: Fault) -> None:
        for told in self.outcomes:
            told(False)
        self.failing.failed(error, unit, fault)
        try:
            await self.on_unit_failed(error)
        except Exception as trouble:  # noqa: BLE001 - nobody waits for the task that commits: it would just be gone
            await self.app.crash(trouble)

    async def on_unit_committed(self, unit: Unit) -> None:
        """Offsets of the unit are durable, or must be committed now, by guarantee."""
        raise NotImplementedError

    async def on_unit_failed(self, error: Exception) -> None:
        """The unit is not durable, or nobody knows: rewind and read again from the committed offsets."""
        raise NotImplementedError

    # -- Faust's consumer -------------------------------------------------------------------------------------

    def _to_message(self, tp: TP, record: Chunk | OrdinaryRecord) -> ConsumerMessage:
        made: Any = ConsumerMessage  # takes what Faust's types do not know: a chunk as value, headers without one
        message: ConsumerMessage
        if isinstance(record, Chunk):
            size = record.records.nbytes
            message = made(
                record.topic, record.partition, record.last, 0.0, 0, [], None, record, None, 0, size, tp,
                generation_id=record.generation,
            )  # fmt: skip
            return message
        records, index = record
        key, value, headers = records.key(index), records.value(index), records.headers(index)
        offset = records.offset(index)
        if self.app.topics.acks_enabled_for(tp.topic):
            self._order[tp].append(offset)
        message = made(
            tp.topic, tp.partition, offset, records.timestamp_ms(index) / 1000.0, 0, headers, key, value,
            None, len(key or b""), record_bytes(None, value, headers), tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip
        return message

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:
        """What a stop of the flow overtook is dropped: whoever stops it seeks before it goes on.

        Faust would seek back to the committed offsets here, and forget what agents have finished but not committed: a
        clean stop then left it to be read again.
        """
        records, active = await super()._wait_next_records(timeout)  # type: ignore[misc]
        return (records if self.flow_active else None), active  # type: ignore[attr-defined]

    @Service.task
    async def _commit_handler(self) -> None:
        """Faust's own waits for two intervals before the first commit: a worker killed until then repeated both."""
        async for _ in self.itertimer(self.commit_interval, name="commit"):  # type: ignore[attr-defined]
            await self.commit()  # type: ignore[attr-defined]

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps carry no meaning here: the order of delivery decides what may be committed."""

    def _new_offset(self, tp: TP) -> int | None:
        order, acked = self._order[tp], self._acked_index[tp]  # type: ignore[attr-defined]
        new = None
        while order and order[0] in acked:
            new = order.popleft()
            acked.discard(new)
        if new is None:
            return None
        self.pace.finished({tp: new + 1})
        self._acked[tp] = [offset for offset in self._acked[tp] if offset > new]  # type: ignore[attr-defined]
        return new + 1

    def forget_deliveries(self, tps: Iterable[TP] | None = None) -> None:
        """Positions are about to change: what was delivered before does not count any more."""
        self.pace.forget(tps)
        self.held_back.difference_update(list(self.held_back) if tps is None else tps)
        if tps is None:
            self._order.clear()
            self._acked.clear()  # type: ignore[attr-defined]
            self._acked_index.clear()  # type: ignore[attr-defined]
        else:
            for tp in tps:
                self._order.pop(tp, None)

    async def give_back(self, revoked: set[TP], wait_for_agents: Callable[[set[TP]], Awaitable[None]]) -> None:
        """Ordinary agents finish what they have in hand, and all they finished is committed before the partitions go.

        Faust forgets the acknowledgements of revoked partitions first, and has nothing to commit after it has waited.
        """
        self.pipeline.forget_suspects()
        await self.commit()  # type: ignore[attr-defined]
        await wait_for_agents(revoked)
        self.forget_deliveries(revoked)

    def on_buffer_full(self, tp: TP) -> None:
        """The bounded queue of the stream is the back-pressure; pausing a partition would drop what was prefetched."""

    on_buffer_drop = on_buffer_full

    def split(self, tp: TP, begin: int, records: Records, generation: int, epoch: int, turn: int) -> list[Any]:
        """A run fetched at position `begin` in the form its topic's readers want: one chunk, or single records.

        `turn`: of its partition (see `Stops`) when that position was set.
        """
        self.pace.fetched(tp, begin)
        if self.app.topics.is_chunked(tp.topic):
            each_max, requests = self.transport.settings.limits.record_bytes_max, self.app.topics.asks(tp.topic)
            chunks = []
            for part in parts(records, each_max, requests=requests):
                chunk = Chunk(tp.topic, tp.partition, begin, part, generation=generation, epoch=epoch)
                chunk.turn = turn
                if len(part) == 1:
                    chunk.refused = self.failing.refused(tp.topic, tp.partition, chunk.last)
                chunks.append(chunk)
                begin = chunk.last + 1
            return chunks
        return [(records, index) for index in range(len(records))]


def missing_topics(wanted: Iterable[str], existing: Iterable[str]) -> list[str]:
    """Topics a worker still has to wait for."""
    return sorted(set(wanted) - set(existing))


def refuse_topic(name: str, reason: str) -> TransportError:
    """The error for a topic that could not be created."""
    return TransportError(f"topic {name}: {reason}; create it by hand or give this user the right to create topics")


def begin_anew(consumer: Any, tp: TP) -> None:
    """The partition is another one under the old name: Faust's consumer takes low offsets for new, not for repeated."""
    consumer._read_offset[tp] = None
    consumer._committed_offset[tp] = None
