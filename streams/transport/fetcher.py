"""The consumer's thread: aiokafka's group member, and beside it the native consumer that fetches.

aiokafka joins the group, heartbeats and hears of rebalances; it is paused on everything it is given. The native
consumer is assigned by hand what Faust wants to read, at positions that are forgotten at every rebalance.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiokafka.errors import CommitFailedError, ConsumerStoppedError
from aiokafka.errors import KafkaError as ProtocolError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from typing_extensions import override

from streams._native import KafkaConsumer, KafkaError, Records
from streams.clock import SYSTEM_CLOCK
from streams.errors import TransportError
from streams.transport.consumer import begin_anew
from streams.transport.coordinator import look_up_later
from streams.transport.ledger import Member, named
from streams.transport.pace import pause_after

__all__ = ["ConsumerThread"]

FETCH_WAIT_MS = 1_000
"""A fetch returns with the first record, when it is woken, or empty after this: each return costs an idle worker."""
METADATA_TIMEOUT_MS = 10_000
COMMITTED_TIMEOUT_MS = 30_000
"""Stable committed offsets wait for a predecessor's open transaction: it lasts 15 s, and the broker looks for those
that are over each 10 s. Then it is said why nothing goes on, and asked again."""
COMMITTED_STEP_MS = 5_000
"""One question for them: a worker that is to stop does not wait for the answer to a longer one."""
REFUSED_PAUSE_S = 0.1
"""After a position that a broker refused: asking again without one would keep both busy."""
BEGINNING, END = -2, -1
"""librdkafka's names for the two ends of a partition."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka's group member, and beside it the native consumer. Native calls run in one thread of their own."""

    transport: Any  # ours; Faust's types lack what they add
    consumer: Any

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._native: KafkaConsumer | None = None
        self._lock = threading.Lock()
        self._next_fetch_s = 0.0
        self._positions: dict[TP, int] = {}  # next offset to fetch
        self._turns: dict[TP, int] = {}  # of a stopped partition that goes on, when its position was set
        self._held: set[TP] = set()  # what the native consumer is assigned
        self._stale: set[TP] = set()  # moved since: assigned anew before the next fetch
        self._sought: set[TP] = set()  # nothing was fetched since they were placed
        self._remembered: dict[TP, int | None] = {}  # committed offsets for the next seek
        self.ends: dict[TP, int] = {}  # where the end of a partition was last reported
        self._told: dict[TP, int] = {}  # the same since the last seek: everything below was handed over

    @override
    async def on_start(self) -> None:
        await super().on_start()
        conf, settings = self.app.conf, self.transport.settings
        self._native = self.transport.clients.open(
            KafkaConsumer,
            {
                "group.id": conf.id,
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "enable.partition.eof": "true",
                "auto.offset.reset": "error",  # a position that is gone is a loss, and no loss is silent
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": "2",  # librdkafka's 1000 costs three quarters of the throughput
                "queued.min.messages": "100000",
                "queued.max.messages.kbytes": str(settings.chunk.prefetch_bytes_max // 1024),
            },
        )

    @override
    async def on_thread_stop(self) -> None:
        if self._consumer is not None:
            # A static member is missed only after its session: one that ends cleanly says so, and others take over.
            coordinator: Any = self._consumer._coordinator
            coordinator._group_instance_id = None
        await super().on_thread_stop()
        if self._native is not None:
            await self._run(self._native.close)
            self._pool.shutdown(wait=False)

    @override
    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Runs `fun` in this thread's loop. TransportError when the thread ends before it is done.

        Mode answers with CancelledError then, and whoever asked would believe that it was cancelled itself.
        """
        try:
            return await super().call_thread(fun, *args, **kwargs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise TransportError("the consumer's thread has ended") from None

    async def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work, *args)
        if work != self._fetch:
            self.wake()  # the thread may be waiting for records
        return await running

    def wake(self) -> None:
        """Ends the wait for records: positions or what is read of them changed."""
        if self._native is not None:
            self._native.wake()

    @override
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Without Faust tables Faust falls back to round robin, which parts a sync's topics: one partition number of
        # source and resync must meet in one worker. aiokafka reads the strategy when it starts.
        self._assignor = self.app.assignor
        consumer._partition_assignment_strategy = (self.app.assignor,)
        look_up_later(consumer._client)
        return consumer

    @property
    def native(self) -> KafkaConsumer:
        """The consumer that fetches. TransportError before the start."""
        if self._native is None:
            raise TransportError("consumer is not started")
        return self._native

    # -- assignment -------------------------------------------------------------------------------------------

    @override
    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        group: Any = self._ensure_consumer()
        group.pause(*[driver.ensure_aiokafka_TP(tp) for tp in assigned])
        # Faust resumes partitions before it seeks them, kept ones too: whatever position was known must go first.
        with self._lock:
            self._positions.clear()
            self._stale |= self._held
        self.wake()
        await super().on_partitions_assigned(assigned, generation_id)

    def _place(self, wanted: set[TP]) -> None:
        """Brings the native assignment in line with the positions."""
        with self._lock:
            stale, self._stale = self._stale, set()
            positions = {tp: offset for tp, offset in self._positions.items() if tp in wanted}
        leaving = (self._held - positions.keys()) | (stale & self._held)
        if leaving:
            self.native.unassign([(tp.topic, tp.partition) for tp in leaving])
            self._held -= leaving
        joining = positions.keys() - self._held
        if joining:
            self.native.assign([(tp.topic, tp.partition, positions[tp]) for tp in joining])
            self._held |= joining

    # -- fetching ---------------------------------------------------------------------------------------------

    @override
    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:
        return await self.call_thread(self._getmany, active_partitions)  # type: ignore[no-any-return]

    async def _getmany(self, active: set[TP] | None) -> Mapping[TP, list[Any]]:
        consumer: Any = self._ensure_consumer()
        if consumer._closed:
            raise ConsumerStoppedError
        if not self.consumer.flow_active:
            return {}
        held = {*self.consumer.held_back, *(tp for tp, _ in self.consumer.stops)}
        wanted = set(self.assignment() if active is None else active) - held
        epoch, generation = self.consumer.epoch, self.app.consumer_generation_id
        # aiokafka believes that nobody reads and leaves the group after max_poll_interval, unless told of each fetch.
        with consumer._fetcher._subscriptions.fetch_context():
            runs = await self._run(self._fetch, wanted)
        out: dict[TP, list[Any]] = {}
        for tp, begin, records, turn in self._accept(runs):
            out.setdefault(tp, []).extend(self.consumer.split(tp, begin, records, generation, epoch, turn))
        return out

    def _fetch(self, wanted: set[TP]) -> list[tuple[str, int, Records, int]]:
        self._place(wanted)
        settings = self.transport.settings
        chunk, allowed = settings.chunk, self.consumer.pipeline.allowed
        records_max, bytes_max = min(chunk.records_max, allowed.records), min(chunk.bytes_max, allowed.chunk_bytes)
        time.sleep(max(0.0, self._next_fetch_s - SYSTEM_CLOCK.monotonic_s()))
        try:
            runs = self.native.fetch(records_max, bytes_max, FETCH_WAIT_MS)
            fetched = sum(len(records) for _, _, records, _ in runs)
            size = sum(records.nbytes for _, _, records, _ in runs)
            self.consumer.pipeline.behind = fetched >= records_max or size >= bytes_max
            pause_s = pause_after(fetched, records_max, settings.transaction.interval_ms / 1000)
            self._next_fetch_s = SYSTEM_CLOCK.monotonic_s() + pause_s
            return runs
        except KafkaError as error:
            if error.code != "_AUTO_OFFSET_RESET" or error.place is None:
                raise named(error, "fetch") from error
            self._next_fetch_s = SYSTEM_CLOCK.monotonic_s() + REFUSED_PAUSE_S
            refused = TP(*error.place[:2])
        try:
            is_placed = self._go_on(refused)
        except (KafkaError, TransportError) as error:
            if not error.retriable:
                raise
            is_placed = False
        if not is_placed:
            with self._lock:
                self._stale.add(refused)  # nobody answered, or the log is on its way: it is asked for once more
        return []

    def _go_on(self, tp: TP) -> bool:
        """The position is outside of its partition: goes on at the first offset that is left, where that is right, also
        in a changelog, which Faust begins one below. False: the log is away, or another one by now.
        """
        with self._lock:
            position = self._positions.get(tp)
            if position is None or tp not in self._held or tp in self._stale or not self.consumer.flow_active:
                return True  # it is elsewhere by now, or will be before anything goes on
            sought = tp in self._sought
        logs, is_changelog = self.consumer.logs, self.consumer.is_changelog(tp)
        found = self.transport.log_ids([tp.topic])
        if not is_changelog and (tp.topic not in found or logs.replaced(found)):
            logs.doubt()
            return False  # nothing comes from there until everything begins over
        low, high = self.native.watermarks(tp.topic, tp.partition, METADATA_TIMEOUT_MS)
        at = position if low <= position <= high else low  # inside: a broker refused it that had no such log yet
        if at != position and not is_changelog:
            self.transport.expiry.go_on(self.app.conf.id, *tp, position, low, high, sought=sought)
            if position > high:
                begin_anew(self.consumer, tp)
        with self._lock:
            # A chunk begins where the last one ended, whatever has expired in between.
            if self._positions.get(tp) == position and (position > high or is_changelog):
                self._positions[tp] = at
                self._told.pop(tp, None)  # it may be that of the log before
        self.native.unassign([(tp.topic, tp.partition)])
        self.native.assign([(tp.topic, tp.partition, at)])
        return True

    def _accept(self, runs: Iterable[tuple[str, int, Records, int]]) -> Iterable[tuple[TP, int, Records, int]]:
        """Drops what a seek or a rebalance overtook, and moves the positions.

        The turn is that of the position: a partition that goes on has its next turn first and is sought then, and what
        was fetched behind the stop until it is sought is of the turn before.
        """
        accepted = []
        with self._lock:
            for topic, partition, records, end in runs:
                tp = TP(topic, partition)
                if tp in self._stale or tp not in self._positions:
                    continue
                if end >= 0:
                    self.ends[tp] = self._told[tp] = end
                if len(records):
                    accepted.append((tp, self._positions[tp], records, self._turns.get(tp, 0)))
                    self._sought.discard(tp)
                    self._positions[tp] = records.last_offset + 1
        return accepted

    # -- positions --------------------------------------------------------------------------------------------

    @override
    async def seek_to_committed(self) -> Mapping[TP, int]:
        return await self.call_thread(self._seek_to_committed)  # type: ignore[no-any-return]

    async def _seek_to_committed(self) -> Mapping[TP, int | None]:
        tps = [tp for tp in self.assignment() if not self.consumer.is_changelog(tp)]
        if not all(tp in self._remembered for tp in tps):
            await self._remember(tps)
        remembered = {tp: self._remembered.pop(tp) for tp in tps}
        committed = {tp: None if tp in self.consumer.logs.anew else offset for tp, offset in remembered.items()}
        first = await self._first_positions([tp for tp, offset in committed.items() if offset is None])
        for tp in committed.keys() & self.consumer.logs.anew:
            begin_anew(self.consumer, tp)
        with self._lock:
            for tp, offset in committed.items():
                self._set_position(tp, first[tp] if offset is None else offset)
                self.ends.pop(tp, None)
        self.wake()
        return committed

    async def _first_positions(self, tps: list[TP]) -> dict[TP, int]:
        """Where partitions without a committed offset begin, as numbers: librdkafka's own question for an end of a
        partition waits half a second, thrice, for a leader that it does not know yet.
        """
        latest = self.app.conf.consumer_auto_offset_reset == "latest"
        try:
            return await self._watermarks(tps, 1 if latest else 0)
        except KafkaError:
            return dict.fromkeys(tps, END if latest else BEGINNING)

    async def remember_committed(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """Reads committed offsets for the seek that follows: before the ends of changelogs are, never after."""
        await self.call_thread(self._remember, [tp for tp in tps if not self.consumer.is_changelog(tp)])
        return dict(self._remembered)

    async def _remember(self, tps: Iterable[TP]) -> None:
        self._remembered = await self.committed(tps)

    async def committed(self, tps: Iterable[TP]) -> dict[TP, int | None]:
        """Stable committed offsets: a predecessor's transaction that is still ending is waited for."""
        if not (wanted := [(tp.topic, tp.partition) for tp in tps]):
            return {}
        for left_ms in range(COMMITTED_TIMEOUT_MS - COMMITTED_STEP_MS, -1, -COMMITTED_STEP_MS):
            try:
                found = await self._run(self.native.kept, wanted, COMMITTED_STEP_MS)
                break
            except KafkaError as error:
                if error.code != "_TIMED_OUT" or not left_ms or self.should_stop:
                    raise named(error, "committed offsets") from error
        stable = [(*where, offset if offset >= 0 else None, beside) for *where, offset, beside in found]
        self.consumer.logs.found(stable)
        return {TP(topic, partition): offset for topic, partition, offset, _ in stable}

    @override
    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """As the driver does, with what is to be kept beside each offset."""
        held, beside = self.assignment(), self.consumer.logs.metadata
        kept = {tp: OffsetAndMetadata(offset, beside(*tp)) for tp, offset in offsets.items() if tp in held}
        wanted = {driver.ensure_aiokafka_TP(tp): offset for tp, offset in kept.items()}
        if not wanted:
            return True
        group: Any = self._ensure_consumer()
        try:
            await group.commit(wanted)
        except ProtocolError as error:
            if not isinstance(error, CommitFailedError) or "already rebalanced" not in str(error):
                await self.crash(error)
            return False
        return True

    @override
    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            self.seek(tp, offset)
            self.consumer._read_offset[ensure_TP(tp)] = offset or None

    @override
    def seek(self, partition: TP, offset: int) -> None:
        tp = ensure_TP(partition)
        with self._lock:
            self._set_position(tp, offset)
        self.wake()

    def _set_position(self, tp: TP, offset: int) -> None:
        """With the lock."""
        self._positions[tp], self._turns[tp] = offset, self.consumer.stops.turn(tp)
        self._stale.add(tp)
        self._sought.add(tp)
        self._told.pop(tp, None)

    @override
    async def position(self, tp: TP) -> int | None:
        return self._positions.get(tp)

    def behind_markers(self) -> dict[TP, tuple[int, int, bool]]:
        """Partitions that end behind their last record, as markers of transactions make them: the next offset of what
        was handed over, the end, and whether nothing was handed over since the last seek.
        """
        with self._lock:
            return {
                tp: (at, end, tp in self._sought)
                for tp, end in self._told.items()
                if tp not in self._stale and (at := self._positions.get(tp, end)) < end
            }

    @override
    def highwater(self, tp: TP) -> int:
        return max(self.ends.get(tp, 0), self._positions.get(tp, 0))

    async def _watermarks(self, tps: Iterable[TP], which: int) -> dict[TP, int]:
        ask = self.native.watermarks
        return await self._run(lambda: {tp: ask(*tp, METADATA_TIMEOUT_MS)[which] for tp in tps})  # type: ignore[no-any-return]

    @override
    async def earliest_offsets(self, *tps: TP) -> Mapping[TP, int]:
        return await self.call_thread(self._watermarks, tps, 0)  # type: ignore[no-any-return]

    @override
    async def highwaters(self, *tps: TP) -> Mapping[TP, int]:
        return await self.call_thread(self._watermarks, tps, 1)  # type: ignore[no-any-return]

    @override
    def verify_event_path(self, now: float, tp: TP) -> None:
        """aiokafka's own fetch bookkeeping says nothing here; progress is watched by the worker."""

    verify_recovery_event_path = verify_event_path

    async def group_error(self) -> Exception | None:
        """What went wrong in the group since the last call."""
        return await self.call_thread(self._group_error)  # type: ignore[no-any-return]

    async def _group_error(self) -> Exception | None:
        coordinator: Any = self._ensure_consumer()._coordinator
        try:
            coordinator.check_errors()
        except Exception as error:  # noqa: BLE001 - aiokafka hands over whatever ended its work
            return error
        return None

    def is_member(self) -> bool:
        """Whether the group has this worker, as far as it knows: its coordinator answers and has given it a place."""
        coordinator: Any = self._ensure_consumer()._coordinator
        return coordinator.coordinator_id is not None and coordinator.generation > 0

    def member(self) -> Member:
        """This worker in its group, as aiokafka knows it."""
        conf = self.app.conf
        group: Any = self._ensure_consumer()
        return Member(conf.id, group._coordinator.member_id or "", conf.consumer_group_instance_id)
