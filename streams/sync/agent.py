"""The sync agent: each chunk of events goes through the kernel, over the state of its partition, into patches.

The kernel call runs in a thread without the interpreter's lock. What it produced (patches, dead letters, changed rows)
belongs to the chunk and is committed with the chunk's offset, or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from streams._native import Job, Records, Step
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, RecordTooLargeError, SettingsError
from streams.kernel.confluent import message_index, readings
from streams.kernel.messages import descriptor_of, known_names
from streams.kernel.schema import MessageSchema
from streams.options import LimitSettings, SyncSettings
from streams.state.table import PartitionState, States
from streams.sync.burial import buried, refusing, send_letters
from streams.sync.halting import Halting
from streams.sync.rekey import Rekey
from streams.sync.topics import HEADER_ROOM_BYTES, SyncTopics
from streams.transport.chunk import Chunk
from streams.transport.clients import batch_bytes_max

__all__ = ["Sync", "make_job"]

log = logging.getLogger(__name__)

FLOATING = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def make_job(
    schema: MessageSchema,
    spec: SyncSettings,
    source: str,
    *,
    partitions: int,
    record_bytes_max: int,
    rekeyed: bool = False,
) -> Job:
    """The kernel's configuration of one sync. SettingsError: a key or sequence field that the message lacks, or that is
    a floating-point number, which is nobody's identity. `rekeyed`: the source is the copy under entity keys.
    """
    descriptor = descriptor_of(schema.message_class)
    also_indexes, other_indexes = readings(descriptor)
    for setting, rule in (("key", spec.key), ("sequence", spec.sequence)):
        field = descriptor.fields_by_name.get(rule.removeprefix("field:"))
        if rule.startswith("field:") and field is not None and field.cpp_type in FLOATING:
            raise SettingsError(
                Finding(f"sync {spec.source}, {setting}", f"{rule}, a floating-point field", "a string or an integer")
            )
    try:
        return Job(
            schema.native,
            type=schema.full_name,
            fingerprint=schema.fingerprint,
            field_table=schema.field_table_bytes,
            source=source,
            key=spec.key,
            sequence=spec.sequence,
            format=spec.format,
            partitions=partitions,
            record_bytes_max=record_bytes_max,
            output_bytes_max=record_bytes_max + HEADER_ROOM_BYTES,
            tombstone_retention_ms=spec.tombstone_retention_ms,
            schema_ids=list(spec.schema_ids),
            message_index=message_index(descriptor),
            sealed=False,
            canonicalise=schema.through_upb,
            ids_per_key=spec.ids_per_key,
            tombstones_max=spec.tombstones_max,
            rekeyed=rekeyed,
            names=known_names(descriptor),
            event_types=list(spec.event_types),
            other_types=spec.other_types,
            schema_indexes=spec.schema_indexes,
            also_indexes=also_indexes,
            other_indexes=other_indexes,
        )
    except ValueError as error:
        raise SettingsError(
            Finding(f"sync {spec.source}", str(error), "key and sequence that the message has")
        ) from None


class Sync:
    """One `app.sync(...)`: its topics, its state, its counters."""

    def __init__(
        self,
        app: Any,
        spec: SyncSettings,
        message_class: type[Message],
        topics: SyncTopics,
        limits: LimitSettings,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.app = app
        self.spec = spec
        self.topics = topics
        self.schema = MessageSchema(message_class, spec.ignore)
        self.counts: Counter[str] = Counter()
        """Everything counted since the start, by the kernel's names."""
        self.kernel_seconds = 0.0
        self.epoch_above = 0
        """Epochs begin above this one: the highest in an output that was taken over."""
        self.halting = Halting(app, topics, limits, clock, lambda: self.states)
        self.rekey: Rekey | None = None
        """In front of this sync, where the source is repartitioned."""
        if topics.rekey:
            self.rekey = Rekey(app, topics, self.halting, self.counts, limits.record_bytes_max)
        self._record_bytes_max = limits.record_bytes_max
        self._letter_bytes_max = limits.record_bytes_max + HEADER_ROOM_BYTES
        self._job(spec, topics.source, 0)  # a key that the message lacks is said now, not when the topic appears
        self._clock = clock
        self._states: States | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sync-{topics.source}")

    @property
    def has_states(self) -> bool:
        """Whether the source's partition count is known, and `states` with it."""
        return self._states is not None

    @property
    def states(self) -> States:
        """State of the partitions this worker owns; set up once the source's partition count is known."""
        if self._states is None:
            raise RuntimeError(f"sync {self.topics.source} has no partitions yet")
        return self._states

    def set_up(self, partitions: int, open_states: Callable[[Job, bytes], States]) -> None:
        """Called when the source topic exists; a second call changes nothing."""
        if self._states is not None:
            return
        spec, checked = self.spec, partitions if self.spec.partitioning == "murmur2" else 0
        if self.rekey is not None:
            self.rekey.set_up(self._job(spec, self.topics.source, 0))
            spec, checked = replace(spec, key="record"), partitions
        self._states = open_states(self._job(spec, self.topics.input, checked), self.schema.field_table_bytes)

    def _job(self, spec: SyncSettings, source: str, partitions: int) -> Job:
        """The job of the source, or of its copies under their entity keys."""
        rekeyed = self.rekey is not None and source == self.topics.input
        return make_job(
            self.schema,
            spec,
            source,
            partitions=partitions,
            record_bytes_max=self._record_bytes_max,
            rekeyed=rekeyed,
        )

    async def rewind(self, lost: bool) -> None:
        """Uncommitted rows go; with `lost` the committed ones too, to be read from the changelog again."""
        self.halting.clear()
        if self.rekey is not None:
            await self.rekey.rewind(lost)
        if self._states is not None:
            await asyncio.to_thread(self._states.forget if lost else self._states.drop_pending)

    def close(self) -> None:
        """The worker has stopped: stores and standby copies go."""
        self._thread.shutdown(wait=True)
        if self._states is not None:
            self._states.close()

    async def run(self, stream: AsyncIterable[Chunk]) -> None:
        """The agent's body."""
        async for chunk in stream:
            await self._work(chunk)

    async def _work(self, chunk: Chunk) -> None:
        if refuser := refusing(chunk, (self.topics.output, self.topics.changelog)):
            await self._bury(chunk, refuser)
            return
        records = chunk.records
        while len(records):
            step = await self._step(chunk, records)
            if step is None:
                return
            # As a rule that was all. Compressed events and answers may come to many times the chunk's own bytes.
            records = records.slice(step.taken, len(records))

    async def _step(self, chunk: Chunk, records: Records) -> Step | None:
        """Has the kernel work on records of the chunk; None: they will be read again."""
        requests = chunk.topic == self.topics.resync
        step = await self._call(chunk, lambda state, now_ms: state.process(records, now_ms, requests=requests))
        if step is None:
            return None
        chunk.send_records(self.topics.output, chunk.partition, step.patches)
        self._send_letters(chunk, step.dead_letters)
        for hashed, offset in step.stuck:
            log.warning(
                "%s partition %d: the key of offset %d (%016x in this process) has dropped 100 events in a row; if its "
                "source counts anew, see `streams state reset-sequence`",
                self.topics.input, chunk.partition, offset, hashed,
            )  # fmt: skip
        await self._account(chunk, step.taken, step.counts)
        return step

    async def _call(self, chunk: Chunk, work: Callable[[PartitionState, int], Step]) -> Step | None:
        """Has the kernel work for a chunk: what it changed belongs to that. None: it will be read again."""
        loop = asyncio.get_running_loop()
        async with self.app.consumer.working(), self.halting.order(chunk.partition):
            if not self.app.consumer.is_current(chunk):
                return None
            state = self.states[chunk.partition]
            began = self._clock.monotonic_s()
            step = await loop.run_in_executor(self._thread, work, state, self._clock.now_ms())
            self.kernel_seconds += self._clock.monotonic_s() - began
            if not self.app.consumer.is_current(chunk):
                return None  # a rewind waits for this to end; it takes the rows back
            if step.fatal is not None:
                raise SettingsError(Finding(f"sync {self.topics.source}", step.fatal, "records that fit its settings"))
            if step.mark:
                chunk.changed(state, step.mark, step.counts["row_bytes"])
                self.app.consumer.turns.took(state, step.mark)
        return step

    async def _take_back(self, chunk: Chunk) -> bool:
        """Its patches may be out without its row: receivers get what the row says, above them. False: as `_call`."""
        limit = await asyncio.to_thread(batch_bytes_max, self.app.transport.clients, self.topics.changelog)
        step = await self._call(chunk, lambda state, now_ms: state.take_back(chunk.records, now_ms, limit or 0))
        if step is None:
            return False
        self.counts["repaired"] += step.counts["repaired"]
        with suppress(RecordTooLargeError):  # the row is right: who lacks this sees a gap at the key's next patch
            chunk.send_records(self.topics.output, chunk.partition, step.patches)
        return True

    def _send_letters(self, chunk: Chunk, letters: Records) -> None:
        unwritable = send_letters(chunk, self.topics.dead_letters, letters, self._letter_bytes_max)
        self.counts["letters.unwritable"] += unwritable

    async def _bury(self, chunk: Chunk, refuser: str) -> None:
        """What comes of the chunk's one record does not fit a topic: a letter; a request is passed, and counted."""
        if chunk.topic == self.topics.resync:
            log.warning(
                "%s partition %d offset %d: the answer is larger than topic %s takes; raise max.message.bytes there",
                chunk.topic, chunk.partition, chunk.last, refuser,
            )  # fmt: skip
            self.counts["requests.unanswerable"] += 1
            return
        if not self.app.consumer.is_fenced and not await self._take_back(chunk):
            return
        letters, counts = await asyncio.to_thread(buried, chunk, refuser, self.app.transport.log_ids)
        self._send_letters(chunk, letters)
        await self._account(chunk, len(chunk), counts)

    async def _account(self, chunk: Chunk, records: int, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)
        if chunk.topic != self.topics.resync:  # requests among bad events do not make these better
            await self.halting.count(chunk, records, counts)
        elif counts.get("resumes"):
            await self.halting.resume(chunk.partition)
