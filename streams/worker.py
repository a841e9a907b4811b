"""What a worker has when it talks to targets: their circuits, deliveries to them and look-ups at them, joined here."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from streams._native import Job, Records
from streams.circuit.agent import Circuits
from streams.circuit.board import Board
from streams.clock import SYSTEM_CLOCK
from streams.delivery.agent import Deliveries
from streams.delivery.assembly import Order, Workshop
from streams.delivery.attempt import Means
from streams.delivery.dictionary import Dictionaries
from streams.delivery.feed import Feed
from streams.delivery.outbox import Outbox
from streams.delivery.retry import Budget
from streams.errors import Finding, SettingsError, StreamsError, TransportError
from streams.http import HttpClient
from streams.identity.credential import Credential, Credentials
from streams.identity.mtls import tls_files
from streams.kernel.messages import load_message
from streams.lookup.lookups import Found, Lookups
from streams.options import Settings, SyncSettings, TargetSettings
from streams.state.changelog import RestoreReport
from streams.state.table import States
from streams.sync.agent import Sync
from streams.transport.follow import Follower, open_follower, opened
from streams.transport.tail import Positions

__all__ = ["Guarded", "by_topic", "create_topics", "drain", "message_of", "opener", "restore", "transport_url"]

log = logging.getLogger(__name__)

BROKER = "broker"
"""The target that failed produces count for; nothing asks its circuit, which shows what every worker sees of it."""
ROOM_BYTES = 64 * 1024
"""What dead letters add to a record: their headers."""
FOLLOW_RECORDS_MAX = 100
FOLLOW_BYTES_MAX = 4 << 20
FOLLOW_WAIT_MS = 1_000
"""Dictionaries are few and small; a new one is known within a second."""
TEND_PAUSE_S = 10.0
"""How often it is looked at whether a dictionary is due: it is once a day."""
RETRY_PAUSE_S = 1.0
CREATE_TIMEOUT_MS = 30_000


class Guarded:
    """Targets of one app. Made with the first target; nothing of it runs in a worker without any."""

    def __init__(self, app: Any) -> None:
        settings: Settings = app.settings
        self._app = app
        self._settings = settings
        self._orders: dict[str, Order] = {}
        self._targets: dict[str, TargetSettings] = {}
        self.board = Board(settings.circuit, f"{settings.app.instance}-{uuid.uuid4().hex[:8]}")
        self.circuits = Circuits(app, self.board)
        self.circuits.mount()
        own = settings.app
        self._outbox = Outbox(own.broker, settings.security, settings.limits.record_bytes_max + ROOM_BYTES)
        self._dictionary_topic = f"{own.id}.dictionaries"
        self.dictionaries = Dictionaries(self._publish)
        self.dictionaries.mount(app)
        self.deliveries: Deliveries | None = None
        self.lookups: Lookups | None = None
        self._workshop: Workshop | None = None
        self._following: list[asyncio.Task[None]] = []
        self._started = False

    def add(self, target: TargetSettings, message: type[Message] | None) -> None:
        """One more target; `message` None: it is only looked up. SettingsError for a name that is taken."""
        if target.name in self._targets or target.name == BROKER:
            raise SettingsError(Finding(f"target {target.name}", "a second one of this name", "a name of its own"))
        self._targets[target.name] = target
        self.board.expect(target.name)
        if message is not None:
            topic = target.topic
            if all(order.settings.topic != topic for order in self._orders.values()):
                self._app.agent(self._app.chunks(topic), name=f"delivery-{topic}", vital=True)(self._agent(topic))
            self._orders[target.name] = Order(target, message)

    def _agent(self, topic: str) -> Callable[[Any], Any]:
        async def deliver(stream: Any) -> None:
            assert self.deliveries is not None  # the worker has started
            await self.deliveries.feeds[topic].run(stream)

        return deliver

    async def lookup(self, target: str, path: str) -> Found:
        """See `App.lookup`."""
        if self.lookups is None:
            self.lookups = Lookups(
                self.board, self._settings.lookup, self._targets.values(), self._connect(), namespace=self._app.conf.id
            )
        return await self.lookups.get(target, path)

    def _connect(self) -> Callable[[TargetSettings], tuple[HttpClient, Credential | None]]:
        credentials = Credentials()

        def connect(target: TargetSettings) -> tuple[HttpClient, Credential | None]:
            client = HttpClient(
                connections_max=target.concurrency, allow_private=target.allow_private, tls=tls_files(target)
            )
            return client, credentials.of(target, client)

        return connect

    # -- the worker's life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Before the worker subscribes: every target's parts. SettingsError for a secret or file that is none."""
        settings, transport = self._settings, self._app.transport
        means = Means(
            self.board,
            self._outbox,
            Budget(settings.delivery.retry_budget, settings.delivery.retry_budget_ratio),
            settings.delivery,
            SYSTEM_CLOCK,
            random.Random(),
            settings.limits.record_bytes_max + ROOM_BYTES,
        )
        self._workshop = Workshop(
            self._app.conf.id,
            means,
            settings.circuit,
            self.dictionaries,
            self._open_follower,
            transport.log_start,
            transport.log_ids,
        )
        self.deliveries = self._workshop.deliveries(
            self._app, list(self._orders.values()), f"{self._app.conf.id}.progress"
        )
        await self._workshop.prepare()
        expiry = self._app.transport.expiry
        expiry.expect(self.circuits.topic)
        for topic, feed in self.deliveries.feeds.items():
            expiry.expect(topic, partial(self._skipped, feed))
        self._app.consumer.quiet.append(self._quiet)
        self._app.consumer.outcomes.append(self._produced)
        self._app.consumer.on_rewind(self._rewind)

    def declare(self, existing: Mapping[str, int]) -> tuple[list[tuple[str, int, dict[str, str]]], list[str]]:
        """Topics to make (name, partitions, configuration), and those that others have to make first."""
        assert self.deliveries is not None  # `open` comes first
        plans, waiting = self.deliveries.declare(existing)
        plans += self.circuits.plans(existing)
        if self._dictionary_topic not in existing:
            plans.append((self._dictionary_topic, 1, {"cleanup.policy": "compact"}))
        return plans, waiting

    async def assign(
        self,
        assigned: Mapping[str, set[int]],
        committed: Mapping[tuple[str, int], int | None],
        keep_going: Callable[[], bool],
    ) -> None:
        """The topics exist and partitions are this worker's: circuits are read, routes and readers begin or go on."""
        assert self.deliveries is not None  # `open` came first
        if not self._started:
            await self.circuits.start()
            self._started = True  # not before: a broker that is away is asked again
            self.deliveries.start(self._settings.delivery.progress_ms)
            if self._wants_dictionaries:
                loop = asyncio.get_running_loop()
                self._following = [loop.create_task(self._follow(), name="dictionaries")]
        self.circuits.assign(assigned.get(self.circuits.topic, set()))
        await self.deliveries.assign(assigned, committed, keep_going)

    async def close(self) -> None:
        """The worker stops: what is done is written down, connections are closed."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        if self.deliveries is not None:
            await self.deliveries.stop()
        await self.circuits.stop()
        if self.lookups is not None:
            await self.lookups.close()
        for client in self._workshop.clients if self._workshop is not None else ():
            await client.close()

    async def _rewind(self, lost: bool) -> None:
        """Partitions are about to go: the next worker goes on from what is written here."""
        if self.deliveries is not None and not lost:
            await self.deliveries.flush()

    @property
    def damaged(self) -> dict[str, int]:
        """Records in topics of our own that are none, by topic."""
        progress = self.deliveries.damaged if self.deliveries is not None else 0
        owner, own = self.circuits.owner, self._settings.app.id
        return {
            **self.circuits.damaged,
            self.circuits.topic: owner.ignored,
            f"{own}-circuits-changelog": owner.damaged,
            self._dictionary_topic: self.dictionaries.damaged,
            f"{own}.progress": progress,
        }

    def _produced(self, ok: bool) -> None:
        self.board.count(BROKER, "ok" if ok else "failed", 0)

    def _skipped(self, feed: Feed, partition: int, position: int, first: int) -> None:
        """Patches that the shared reader had not read are gone. Called in the thread that fetches."""
        self._app.loop.call_soon_threadsafe(feed.skip, partition, first)

    def _quiet(self, topic: str, partition: int, position: int, end: int) -> None:
        """Nothing but markers of transactions is between the two."""
        feed = self.deliveries.feeds.get(topic) if self.deliveries is not None else None
        if feed is not None:
            feed.pass_over(partition, position, end)

    def _open_follower(self, positions: Positions) -> Follower:
        return open_follower(self._app.transport, positions)

    # -- dictionaries -----------------------------------------------------------------------------------------

    @property
    def _wants_dictionaries(self) -> bool:
        return any(order.settings.compression == "dictionary" for order in self._orders.values())

    async def _publish(self, records: Records) -> None:
        await self._outbox.write(self._dictionary_topic, records)

    async def _follow(self) -> None:
        """Reads the dictionaries' topic for ever, and learns new ones once it was read to its end."""
        read_to_end, tended_s = False, 0.0
        while True:
            follower: Follower | None = None
            try:
                follower = await opened(partial(self._open_follower, {(self._dictionary_topic, 0): 0}))
                while True:
                    runs = await asyncio.to_thread(follower.fetch, FOLLOW_RECORDS_MAX, FOLLOW_BYTES_MAX, FOLLOW_WAIT_MS)
                    for _, _, records, end in runs:
                        read_to_end |= end >= 0
                        for index in range(len(records)):
                            self.dictionaries.take(records.key(index) or b"", records.value(index))
                    now_s = SYSTEM_CLOCK.monotonic_s()
                    if read_to_end and now_s - tended_s >= TEND_PAUSE_S:
                        tended_s = now_s
                        await self.dictionaries.tend()
            except TransportError:
                await asyncio.sleep(RETRY_PAUSE_S)
            finally:
                if follower is not None:
                    await asyncio.to_thread(follower.close)


def transport_url(broker: str) -> str:
    """Faust's URL for a broker of ours: kafka://a:1,b:2 and embedded://dir become our transports' schemes."""
    scheme, _, rest = broker.partition("://")
    if scheme == "kafka":
        return ";".join(f"streams+kafka://{host}" for host in rest.split(","))
    return broker


def message_of(spec: SyncSettings | TargetSettings) -> type[Message]:
    """The message class that settings name."""
    return load_message(spec.message, descriptors=spec.descriptors or None, module=spec.module or None)


def by_topic(assignment: Iterable[Any]) -> dict[str, set[int]]:
    """Partitions by their topic."""
    found: dict[str, set[int]] = {}
    for tp in assignment:
        found.setdefault(tp.topic, set()).add(tp.partition)
    return found


def create_topics(admin: Any, topics: Sequence[tuple[str, int, dict[str, str]]], replication: int) -> None:
    """Makes topics: name, partitions, configuration. One that exists stays as it is. TransportError. Blocks."""
    wanted = [(name, partitions, replication, config) for name, partitions, config in topics]
    for name, error in admin.create_topics(wanted, CREATE_TIMEOUT_MS) if wanted else ():
        if error is not None:
            raise TransportError(f"topic {name} could not be created: {error}; create it, or allow it here")


def opener(app: Any, sync: Sync) -> Callable[[Job, bytes], States]:
    """What makes a sync's state, once its source is known."""

    def open_states(job: Job, field_table: bytes) -> States:
        on_disk = sync.spec.state == "rocksdb"
        return States(
            job,
            owner=app.conf.id,
            changelog_topic=sync.topics.changelog,
            field_table=field_table,
            directory=Path(app.settings.app.datadir) / "state" / sync.topics.source if on_disk else None,
            log=app.transport,
            fenced=app.consumer.is_fenced,
            open_tail=app.transport.open_tail if app.settings.app.standby_replicas else None,
        )

    return open_states


async def restore(app: Any, sync: Sync, assignment: Iterable[Any], keep_going: Callable[[], bool]) -> None:
    """Brings a sync's state in line with its partitions, and its standby copies with those of other workers."""
    partitions = {tp.partition for tp in assignment if tp.topic == sync.topics.input}
    reasons: dict[str, str] = app.transport.reasons
    reason = f"restore {sync.topics.source}"
    reasons[reason] = "restoring state"
    report = RestoreReport(sync.topics.source, partial(reasons.__setitem__, reason))
    try:
        await asyncio.to_thread(sync.states.assign, partitions, keep_going, report)
        await asyncio.to_thread(sync.states.raise_epoch, sync.epoch_above)
        sync.halting.hold()
    finally:
        reasons.pop(reason, None)
    copies = {tp.partition for tp in app.assignor.assigned_standbys() if tp.topic == sync.topics.input}
    await asyncio.to_thread(sync.states.follow, copies - partitions)


async def drain(app: Any, timeout_s: float) -> bool:
    """Stops every part; an agent that is not done with its event after half of the time is left. False: not all did."""
    stopping = asyncio.create_task(app.stop())
    done, _ = await asyncio.wait([stopping], timeout=timeout_s / 2)
    if not done:
        log.warning(
            "agents have not finished within %.1f s: their events are read again after a restart", timeout_s / 2
        )
        app.consumer.give_up_waiting()
        done, _ = await asyncio.wait([stopping], timeout=timeout_s / 2)
    if not done:
        stopping.cancel()
        log.warning("the worker has not stopped in time; what was not committed is read again after a restart")
        return False
    if stopping.cancelled() or stopping.exception() is not None:
        error = None if stopping.cancelled() else stopping.exception()
        said = str(error) if isinstance(error, StreamsError) else type(error).__name__
        reason = "it was cancelled" if error is None else said
        log.error("a part could not be stopped: %s; what was not committed is read again after a restart", reason)
        return False
    return True
