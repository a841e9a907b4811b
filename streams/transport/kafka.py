"""Faust transport on Kafka: aiokafka keeps the group, librdkafka moves the data in chunks.

URL scheme `streams+kafka://host:port[;host:port]`, found by entry point. Control plane, unchanged from Faust: group
membership, Faust's partition assignor with standbys, heartbeats, rebalance callbacks, ordinary sends. Data plane, ours:
aiokafka's consumer is paused on everything it is given; chunks are fetched natively, and committed by the pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiokafka
from aiokafka.errors import KafkaError as ProtocolError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from typing_extensions import override

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError
from streams.errors import SettingsError, StreamsError, TransportError
from streams.options import Settings
from streams.transport.allowance import PRODUCE_ROOM_BYTES
from streams.transport.clients import NativeClients
from streams.transport.consumer import ChunkConductor, ChunkConsumer, missing_topics, refuse_topic
from streams.transport.credentials import Credentials
from streams.transport.expiry import Expiry
from streams.transport.fetcher import ConsumerThread
from streams.transport.kafka_producer import Producer, bootstrap
from streams.transport.ledger import KafkaLedger, named
from streams.transport.logs import Logs
from streams.transport.markers import MARKERS_S, pass_markers
from streams.transport.pipeline import Unit
from streams.transport.tail import Positions, Progress, Sink, read_to_end, tail_config

__all__ = ["Consumer", "Producer", "Transport"]

METADATA_TIMEOUT_MS = 10_000
RECONNECT_MAX_MS = 1_000
"""Between two tries to reach a broker; librdkafka's 10 s would let the fetch stand still long after others found it."""
NO_IDS = ("_UNSUPPORTED_FEATURE", "UNSUPPORTED_VERSION")
"""What a broker before 2.8 says of topic ids."""
TOPIC_POLL_S = 0.25
RENEW_PAUSE_S = 1.0
GROUP_CHECK_S = 1.0
"""A heartbeat may wait for the last error to be looked at; well below any session's time-out."""


class Consumer(ChunkConsumer, driver.Consumer):
    """Faust's consumer over chunks."""

    _thread: ConsumerThread
    transport: Any  # ours; Faust's type lacks what it adds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings: Settings = self.transport.settings
        exactly_once = settings.app.guarantee == "exactly_once"
        slot = settings.app.instance or f"{settings.app.web_host}:{self.app.conf.web_port}"
        largest = str(settings.limits.record_bytes_max + PRODUCE_ROOM_BYTES)
        self.logs = Logs()
        self.ledger: KafkaLedger = KafkaLedger(
            {"message.max.bytes": largest},
            topics=self.transport.topic_configs,
            transactional_id=f"{self.app.conf.id}-{slot}" if exactly_once else None,
            transaction_timeout_ms=settings.transaction.timeout_ms,
            member=self._thread.member,
            clients=self.transport.clients,
            beside=self.logs.metadata,
        )
        self._place = ("", -1)  # member id and generation of the last assignment
        self.begin_chunks(settings.transaction)

    @override
    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def is_changelog(self, tp: TP) -> bool:
        """Whether Faust's table recovery moves this partition's position."""
        return tp.topic in self.app.tables.changelog_topics

    async def remember_committed(self, tps: Iterable[TP]) -> Mapping[TP, int | None]:
        """See `ConsumerThread.remember_committed`."""
        return await self._thread.remember_committed(tps)

    reads_nothing = False
    """No topic of it is read, yet: it has timers and pages alone."""

    def is_member(self) -> bool:
        """See `ConsumerThread.is_member`; a worker that reads nothing needs no group."""
        return self.reads_nothing or self._thread.is_member()

    @override
    async def on_start(self) -> None:
        await super().on_start()
        await self._renew_ledger()
        self.pipeline.start()

    @override
    async def on_stop(self) -> None:
        settings: Settings = self.transport.settings
        try:
            # Nothing is waited for once a part has crashed: the thread has left the group and answers nobody.
            if not self.crashed:
                if not await self.pipeline.drain(settings.app.drain_timeout_ms / 2000):
                    self.log.warning("a transaction has not ended in time: its records are read again after a restart")
                self.epoch += 1
                await super().on_stop()
        finally:
            await self.pipeline.stop(self.ledger.close)

    @override
    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = set(topics)
        await self.transport.wait_for_topics(wanted, lambda: bool(self.should_stop))
        self.reads_nothing = not wanted
        if wanted:
            await super().subscribe(wanted)
        else:  # timers and pages alone: aiokafka refuses that, and there is no group to wait for
            self.add_future(self._begin_without_topics())

    async def _begin_without_topics(self) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_assigned(set(), 0)

    @override
    def stop_flow(self) -> None:
        super().stop_flow()
        self._thread.wake()

    @override
    def resume_partitions(self, tps: Iterable[TP]) -> None:
        super().resume_partitions(tps)
        self._thread.wake()

    def release(self, tps: Iterable[TP]) -> None:
        """These partitions are fetched again."""
        self.held_back.difference_update(tps)
        self._thread.wake()

    @override
    async def perform_seek(self) -> None:
        self.forget_deliveries()
        await super().perform_seek()

    @override
    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.give_back(revoked, super().on_partitions_revoked)
        conf = self.app.conf
        written = await self.pipeline.drain(conf.broker_rebalance_timeout / 2)
        if not written:
            await self._renew_ledger()  # aborts the transaction that did not end in time
        await self.rewind(lost=not written)

    @override
    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        last, self._place = self._place, (self._thread.member().member, generation_id)
        if self._place != (last[0], last[1] + 1):
            # It was out of the group in between, if only for a moment: others may have worked on what it still holds.
            await self.rewind(lost=True)
        await super().on_partitions_assigned(assigned, generation_id)

    @Service.task
    async def _watch_group(self) -> None:
        """aiokafka keeps what went wrong in the group for whoever fetches through it, and stands still until then."""
        while not self.should_stop:
            await self.sleep(GROUP_CHECK_S)
            error = await self._thread.group_error()
            if error is None:
                continue
            if getattr(error, "retriable", False):
                self.log.warning("group member: %r", error)
                continue
            await self.app.crash(TransportError(f"group {self.app.conf.id}: {error!r}; a restart joins it anew"))
            return

    @Service.task
    async def _pass_markers(self) -> None:
        while not self.should_stop:
            await self.sleep(MARKERS_S)
            await pass_markers(self, self._thread.behind_markers())

    @override
    async def on_unit_committed(self, unit: Unit) -> None:
        self.pace.finished(unit.positions)
        if not self.ledger.exactly_once and unit.generation == self.app.consumer_generation_id:
            await self._commit({TP(*where): offset for where, offset in unit.positions.items()})

    @override
    async def on_unit_failed(self, error: Exception) -> None:
        if not isinstance(error, TransportError):
            await self.app.crash(error)
            return
        self.logs.doubt()  # a topic may have been deleted: whoever finds that says so
        self.log.warning("transaction failed, going back to the committed offsets: %s", error)
        self.stop_flow()
        await self.rewind(lost=True)
        await self.failing.wait(error, self.pipeline.failures, lambda: self.app.rebalancing or self.app.should_stop)
        await self._renew_ledger()
        await self._restore_and_go_on()

    async def _restore_and_go_on(self) -> None:
        if self.app.rebalancing:
            return  # the assignment that follows restores and seeks
        await self.app.on_rebalance_complete.send()
        await self.perform_seek()
        self.resume_flow()

    @property
    def is_fenced(self) -> bool:
        """Whether the broker refuses what a worker writes that is no owner any more."""
        return self.ledger.exactly_once

    async def begin_over(self, starts: Mapping[TP, int], ids: Mapping[str, bytes]) -> None:
        """Logs are other ones under their old names: all that is uncommitted goes, these are the group's positions."""
        self.stop_flow()  # before the ids: an old position says something about the old log alone
        await self.rewind(lost=True)  # and after the commit that may be under way: it has old positions, too
        self.logs.speak_for({})
        self.logs.ids = {**self.logs.ids, **ids}
        await self._renew_ledger()
        await self._commit({tp: offset for tp, offset in starts.items() if tp in self.assignment()})
        await self._restore_and_go_on()

    async def _renew_ledger(self) -> None:
        """Makes the producer anew, for as long as it takes: without a broker there is nothing else to do."""
        while not self.should_stop:
            try:
                await self.pipeline.run_in_thread(self.ledger.renew)
            except (SettingsError, TransportError) as error:  # the former: no token, as long as its file is not there
                if isinstance(error, TransportError) and error.fatal and not error.retriable:
                    await self.app.crash(error)
                    return
                self.transport.reasons["broker"] = str(error)
                await asyncio.sleep(RENEW_PAUSE_S)
            else:
                self.transport.reasons.pop("broker", None)
                return


class Transport(driver.Transport):
    """Entry point `streams+kafka` of Faust's transports."""

    app: Any  # its consumer is ours
    Consumer = Consumer
    ConsumerThread = ConsumerThread
    Producer = Producer
    Conductor = ChunkConductor
    default_port = 9092
    marker_offsets = 1
    driver_version = f"streams+kafka (aiokafka={aiokafka.__version__})"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings: Settings = getattr(self.app, "settings", None) or Settings()
        self.clients = self._clients()
        self.topic_configs: dict[str, dict[str, str]] = {}
        """Producer settings of single topics, filled by whoever declares them before the start."""
        self.before_subscribe: list[Callable[[KafkaAdmin, Mapping[str, int]], Iterable[str]]] = []
        """Called with the topics that exist until each returns nothing more to wait for; they create their own."""
        self.expiry = Expiry(self.app)
        """What becomes of positions that their topic does not have any more."""
        self._reader: KafkaConsumer | None = None
        self._open_reader: KafkaConsumer | None = None
        self._admin: KafkaAdmin | None = None
        self.reasons: dict[str, str] = {}
        """Why there is no progress, where there is a reason; shown by readiness, metrics and doctor."""

    def _clients(self) -> NativeClients:
        """What opens every librdkafka client of this worker."""
        credentials = Credentials(self.settings.security)
        config = {
            "bootstrap.servers": bootstrap(self),
            "client.id": self.app.conf.id,
            "reconnect.backoff.max.ms": str(RECONNECT_MAX_MS),
            **credentials.librdkafka(),
        }
        return NativeClients(config, credentials)

    def read_log(
        self, start: Positions, sink: Sink, keep_going: Callable[[], bool], progress: Progress | None = None
    ) -> dict[tuple[str, int], int]:
        """Reads committed records to the end as of now, beside the group. Blocks."""
        group = f"{self.app.conf.id}-restore"
        return read_to_end({}, start, sink, keep_going, group, progress, open_consumer=self._consumer)

    def open_tail(self) -> KafkaConsumer:
        """A consumer for standby copies: assigned by hand, beside the group."""
        return self._consumer(tail_config({}, f"{self.app.conf.id}-standby"))

    def _consumer(self, config: Mapping[str, str]) -> KafkaConsumer:
        return self.clients.open(KafkaConsumer, config)

    def open_end(self, topic: str, partition: int) -> int:
        """Next offset of a partition, records of open transactions included. Blocks."""
        if self._open_reader is None:
            config = {"group.id": f"{self.app.conf.id}-restore", "isolation.level": "read_uncommitted"}
            self._open_reader = self._consumer(config)
        try:
            return self._open_reader.watermarks(topic, partition, METADATA_TIMEOUT_MS)[1]
        except KafkaError as error:
            raise named(error, f"end of {topic}/{partition}") from error

    def log_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        """The id of each topic that exists: one made anew under a name has another; empty where the broker has none.

        Blocks.
        """
        wanted = list(topics)
        try:
            return self._administration().topic_ids(wanted, METADATA_TIMEOUT_MS)
        except KafkaError as error:
            if error.code in NO_IDS:
                return dict.fromkeys(wanted, b"")
            raise named(error, "ids of topics") from error

    def log_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """The partition count of each topic that exists. Blocks."""
        try:
            return self._administration().partitions(list(topics), METADATA_TIMEOUT_MS)
        except KafkaError as error:
            raise named(error, "partitions of topics") from error

    def _administration(self) -> KafkaAdmin:
        if self._admin is None:
            self._admin = self.clients.open(KafkaAdmin)
        self.clients.hand_token(self._admin)
        return self._admin

    def log_start(self, topic: str, partition: int) -> int:
        """First offset of a partition that is still there. Blocks."""
        return self._bounds(topic, partition)[0]

    def log_end(self, topic: str, partition: int) -> int:
        """Next offset of a partition. Blocks."""
        return self._bounds(topic, partition)[1]

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        if self._reader is None:
            self._reader = self._consumer({"group.id": f"{self.app.conf.id}-restore"})
        try:
            return self._reader.watermarks(topic, partition, METADATA_TIMEOUT_MS)
        except KafkaError as error:
            raise named(error, f"end of {topic}/{partition}") from error

    @override
    async def _create_topic(self, *args: Any, **kwargs: Any) -> None:
        """As Faust does for its own topics, but a broker that is not there yet is waited for: it ended the worker."""
        while True:
            try:
                return await super()._create_topic(*args, **kwargs)
            except ProtocolError as error:
                if not error.retriable or self.app.should_stop:
                    raise
                self.reasons["topics"] = f"broker unreachable: {error!r}"
            await asyncio.sleep(TOPIC_POLL_S)

    def tend_clients(self) -> None:
        """Gives every native client a current token, and says what they logged. Blocks."""
        try:
            self.clients.tend()
        except (StreamsError, KafkaError) as error:
            self.reasons["token"] = str(error)  # what writes it may mend it; brokers take the last one until it expires
        else:
            self.reasons.pop("token", None)

    def make_topic(self, name: str, like: str, config: Mapping[str, str], replication: int) -> None:
        """Makes a topic with the partitions of another where it is missing. TransportError: it is refused. Blocks."""
        try:
            admin = self.clients.open(KafkaAdmin)
            existing = admin.topics(METADATA_TIMEOUT_MS)
            if name in existing:
                return
            plan = (name, existing.get(like, 1), replication, dict(config))
            ((_, problem),) = admin.create_topics([plan], METADATA_TIMEOUT_MS)
        except KafkaError as error:
            raise named(error, f"topic {name}") from error
        if problem is not None:
            raise refuse_topic(name, problem)

    async def wait_for_topics(self, wanted: set[str], stopping: Callable[[], bool]) -> None:
        """Returns when every topic exists. Faust ignores one that does not, for five minutes, and says OK meanwhile."""
        loop = asyncio.get_running_loop()
        while not stopping():
            try:
                admin = await loop.run_in_executor(None, self._administration)
                existing = await loop.run_in_executor(None, admin.topics, METADATA_TIMEOUT_MS)
                waiting: list[str] = []
                for declare in self.before_subscribe:
                    waiting += await loop.run_in_executor(None, declare, admin, existing)
                existing = await loop.run_in_executor(None, admin.topics, METADATA_TIMEOUT_MS)
            except (KafkaError, TransportError) as error:
                self.reasons["topics"] = f"broker unreachable: {error}"
            else:
                absent = missing_topics({*wanted, *waiting}, existing)
                if not absent:
                    self.reasons.pop("topics", None)
                    return
                self.reasons["topics"] = f"waiting for topics {', '.join(absent)}: they do not exist"
            await asyncio.sleep(TOPIC_POLL_S)
