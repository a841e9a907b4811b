"""Faust's consumer on the durable local log: every partition is this worker's, and chunks are read in a thread.

There is no group to join: Faust is told what its consumer group would tell it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.transport import base
from faust.transport.consumer import ensure_TP
from faust.types import TP
from mode import Service
from typing_extensions import override

from streams._native import Records
from streams.errors import LogFullError, TransportError
from streams.options import Settings
from streams.transport.consumer import ChunkConsumer, begin_anew
from streams.transport.logs import Logs
from streams.transport.pipeline import Unit
from streams.transport.worker_log import EmbeddedLedger

__all__ = ["Consumer"]

FETCH_WAIT_MS = 200
"""A fetch ends with the first record, or empty after this; positions changed meanwhile take effect then."""
UNPLACED_PAUSE_S = 0.05
"""Before a first position is known there is nothing to wait for but Faust's own restoring."""
PARTITIONS_PER_FETCH = 4
"""Partitions read in one go: chunks enough for the agents' queues, without holding one of each partition."""
RETRY_PAUSE_S = 1.0
UPKEEP_PAUSE_S = 5.0
"""Between two looks whether retention or compaction is due; both go by minutes."""


class Consumer(ChunkConsumer, base.Consumer):
    """Faust's consumer over the log."""

    transport: Any  # ours; Faust's type lacks what it adds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings: Settings = self.transport.settings
        self.logs = Logs()
        self.ledger: EmbeddedLedger = EmbeddedLedger(
            lambda: self.transport.log,
            self.app.conf.id,
            self.logs.metadata,
        )
        self._assigned: set[TP] = set()
        self._positions: dict[TP, int] = {}  # next offset to fetch
        self._moved: set[TP] = set()  # since the fetch under way began
        self._turn = 0
        self._rebalancing = asyncio.Lock()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self.begin_chunks(settings.transaction)

    @override
    async def on_start(self) -> None:
        await self.transport.open()
        await super().on_start()
        self.pipeline.start()

    @override
    async def on_stop(self) -> None:
        if not self.crashed:  # the event whose agent raised is never acknowledged: nobody waits for it
            await self.pipeline.drain(self.transport.settings.app.drain_timeout_ms / 2000)
            self.epoch += 1
            if self.transport.is_open:
                await super().on_stop()
        await self.pipeline.stop()
        await asyncio.to_thread(self._reading.shutdown)
        await self.transport.close()

    @Service.task
    async def _upkeep(self) -> None:
        more = False
        while not self.should_stop:
            await self.sleep(0.0 if more else UPKEEP_PAUSE_S)
            more = await asyncio.to_thread(self.transport.log.maintain)

    # -- assignment -------------------------------------------------------------------------------------------

    @override
    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        await self.transport.wait_for_topics(wanted, lambda: bool(self.should_stop))
        # Not awaited: Faust's part of a rebalance waits until this has returned.
        self.add_future(self._rebalance(wanted))

    async def _rebalance(self, topics: set[str]) -> None:
        async with self._rebalancing:
            self.app.on_rebalance_start()
            await self.on_partitions_revoked(set(self._assigned))
            counts = self.transport.log.topics()
            self._assigned = {TP(topic, partition) for topic in topics for partition in range(counts[topic])}
            self._positions.clear()
            self._moved |= self._assigned
            self.app.consumer_generation_id += 1
            self._tell_assignor(topics)
            await self.on_partitions_assigned(set(self._assigned), self.app.consumer_generation_id)

    def _tell_assignor(self, topics: set[str]) -> None:
        """What Faust's assignor would learn from its group: everything is this worker's."""
        actives: defaultdict[str, list[int]] = defaultdict(list)
        for tp in sorted(self._assigned):
            actives[tp.topic].append(tp.partition)
        assignor, here = self.app.assignor, str(self.app.conf.canonical_url)
        assignor._assignment = ClientAssignment(actives=dict(actives), standbys={})
        assignor._active_tps = set(self._assigned)
        assignor._topic_groups = dict.fromkeys(topics, 0)
        changelogs = self.app.tables.changelog_topics
        assignor.changelog_distribution = {
            here: {topic: partitions for topic, partitions in actives.items() if topic in changelogs}
        }
        assignor.external_topic_distribution = {
            here: {topic: partitions for topic, partitions in actives.items() if topic not in changelogs}
        }

    @override
    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.give_back(revoked, super().on_partitions_revoked)
        # Nobody else waits for these partitions, so there is no limit but the end of this worker.
        while not await self.pipeline.drain(RETRY_PAUSE_S) and not self.should_stop:
            self.log.info("waiting for the open transaction")
        await self.rewind(lost=False)

    def is_member(self) -> bool:
        """There is no group that could lose this worker."""
        return True

    @override
    def assignment(self) -> set[TP]:
        return set(self._assigned)

    # -- fetching ---------------------------------------------------------------------------------------------

    @override
    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Any]]:
        if not self.flow_active:
            return {}
        wanted = self._assigned if active_partitions is None else active_partitions
        held = {*self.held_back, *(tp for tp, _ in self.stops)}
        positions = {tp: self._positions[tp] for tp in sorted(wanted - held) if tp in self._positions}
        if not positions:
            await self.sleep(UNPLACED_PAUSE_S)
            return {}
        epoch, generation = self.epoch, self.app.consumer_generation_id
        self._moved.clear()
        runs = await asyncio.get_running_loop().run_in_executor(self._reading, self._fetch, positions)
        out: dict[TP, list[Any]] = {}
        for tp, records in runs:
            if tp not in self._moved and tp in self._positions:
                self._positions[tp] = records.last_offset + 1
                out[tp] = self.split(tp, positions[tp], records, generation, epoch, self.stops.turn(tp))
        return out

    def release(self, tps: Iterable[TP]) -> None:
        """These partitions are fetched again."""
        self.held_back.difference_update(tps)

    def _fetch(self, positions: Mapping[TP, int]) -> list[tuple[TP, Records]]:
        """Waits for records and reads some; partitions take turns. Runs in the reading thread."""
        log, chunk, allowed = self.transport.log.log, self.transport.settings.chunk, self.pipeline.allowed
        records_max, bytes_max = min(chunk.records_max, allowed.records), min(chunk.bytes_max, allowed.chunk_bytes)
        there = self._still_there(positions)
        ready = log.wait(there, FETCH_WAIT_MS)
        self._turn += PARTITIONS_PER_FETCH
        first = self._turn % len(ready) if ready else 0
        runs = []
        for topic, partition in [*ready[first:], *ready[:first]][:PARTITIONS_PER_FETCH]:
            tp = TP(topic, partition)
            if positions[tp] < log.start(topic, partition) and not self._is_changelog_tp(tp):
                self._go_on(tp, positions[tp])
            records = log.read(topic, partition, positions[tp], records_max, bytes_max)
            if len(records):
                runs.append((tp, records))
        self.pipeline.behind = any(len(records) >= records_max for _, records in runs)
        return runs

    def _still_there(self, positions: Mapping[TP, int]) -> dict[tuple[str, int], int]:
        """The positions in topics that are what they were when they were assigned."""
        topics = self.transport.log.log.topics()
        gone = {tp.topic for tp in positions} - topics.keys()
        if gone:
            self.transport.reasons["topics"] = f"waiting for topics {', '.join(sorted(gone))}: they were deleted"
        else:
            self.transport.reasons.pop("topics", None)
        replaced = self.logs.replaced({name: topic.id for name, topic in topics.items()})
        if replaced:
            self.logs.doubt()
        gone |= replaced
        return {(tp.topic, tp.partition): at for tp, at in positions.items() if tp.topic not in gone}

    def _go_on(self, tp: TP, offset: int) -> None:
        """The position is outside of its partition. TransportError where that is a loss; else reading goes on."""
        log = self.transport.log.log
        self.transport.expiry.go_on(self.app.conf.id, tp.topic, tp.partition, offset, log.start(*tp), log.end(*tp))

    def _move(self, tp: TP, offset: int) -> None:
        self._positions[tp] = offset
        self._moved.add(tp)

    async def remember_committed(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Committed offsets, None where there is none; this worker is the only writer, so nothing has to be kept."""
        wanted = list(tps)
        found = await asyncio.to_thread(self.transport.log.log.kept, self.app.conf.id)
        committed = {tp: found.get((tp.topic, tp.partition), (None, "")) for tp in wanted}
        self.logs.found((*tp, *each) for tp, each in committed.items())
        return {tp: offset for tp, (offset, _) in committed.items()}

    @override
    async def seek_to_committed(self) -> Mapping[TP, int]:
        log = self.transport.log.log
        latest = self.app.conf.consumer_auto_offset_reset == "latest"
        found = await asyncio.to_thread(log.committed, self.app.conf.id)
        committed: dict[TP, Any] = {}
        for tp in self._assigned:
            if self._is_changelog_tp(tp):
                continue
            offset = committed[tp] = None if tp in self.logs.anew else found.get((tp.topic, tp.partition))
            if tp in self.logs.anew:
                begin_anew(self, tp)
            if offset is None:
                offset = log.end(*tp) if latest else log.start(*tp)
            elif not log.start(*tp) <= offset <= log.end(*tp):
                self._go_on(tp, offset)
                offset, committed[tp] = log.start(*tp), None
                begin_anew(self, tp)
            self._move(tp, offset)
        return committed

    @override
    async def perform_seek(self) -> None:
        self.forget_deliveries()
        await super().perform_seek()

    @override
    async def _seek(self, partition: TP, offset: int) -> None:
        self._move(ensure_TP(partition), offset)

    @override
    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            await self.seek(tp, offset)

    @override
    async def position(self, tp: TP) -> int | None:
        return self._positions.get(tp)

    @override
    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self.transport.log.log.start(*tp) for tp in partitions}

    @override
    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self.transport.log_end(*tp) for tp in partitions}

    @override
    def highwater(self, tp: TP) -> int:
        """How far the end was seen: what lies behind it was not looked at yet, and counts as work to do."""
        end: int = self.transport.log_end(*tp)
        return min(self._positions.get(tp, 0), end)

    # -- committing -------------------------------------------------------------------------------------------

    @override
    async def on_unit_committed(self, unit: Unit) -> None:
        self.pace.finished(unit.positions)

    @override
    async def on_unit_failed(self, error: Exception) -> None:
        if not isinstance(error, TransportError) or error.fatal:
            await self.app.crash(error)
            return
        self.logs.doubt()  # a topic may have been deleted: whoever finds that says so
        self.log.warning("transaction failed, going back to the committed offsets: %s", error)
        self.stop_flow()
        await self.rewind(lost=True)
        await self.failing.wait(error, self.pipeline.failures, lambda: self.app.rebalancing or self.app.should_stop)
        await self._restore_and_go_on()

    async def _restore_and_go_on(self) -> None:
        if self.app.rebalancing or self.should_stop:
            return  # the assignment that follows restores and seeks
        await self.app.on_rebalance_complete.send()
        await self.perform_seek()
        self.resume_flow()

    is_fenced = True
    """Nobody else can write to the log."""

    async def begin_over(self, starts: Mapping[TP, int], ids: Mapping[str, bytes]) -> None:
        """Logs are other ones under their old names: all that is uncommitted goes, these are the group's positions."""
        self.stop_flow()  # before the ids: an old position says something about the old log alone
        await self.rewind(lost=True)  # and after the commit that may be under way: it has old positions, too
        self.logs.speak_for({})
        self.logs.ids = {**self.logs.ids, **ids}
        await self._commit(starts)
        await self._restore_and_go_on()

    @override
    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        wanted = [(*tp, offset, self.logs.metadata(*tp)) for tp, offset in offsets.items()]
        try:
            await asyncio.to_thread(self.transport.log.log.append, [], self.app.conf.id, wanted)
        except LogFullError as error:
            self.transport.reasons["disk"] = str(error)  # the next commit has these offsets too
            return False
        return True

    # -- topics -----------------------------------------------------------------------------------------------

    @override
    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        await self.transport.declare(topic, partitions, **options)

    @override
    def topic_partitions(self, topic: str) -> int | None:
        count: int | None = self.transport.log.log.partitions(topic)
        return count

    @override
    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        where: int = self.transport.log.partition(topic, key) if partition is None else partition
        return where

    @override
    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)
