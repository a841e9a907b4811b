"""App: the only place that joins rooms. A faust.App with chunk topics, syncs, and one set of settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faust
from faust.types import TP
from google.protobuf.message import Message
from typing_extensions import override

from streams import settings as settings_room
from streams._native import keep_freed_memory
from streams.agents import Rescue, named, told
from streams.declaring import Declaring
from streams.ending import Ending
from streams.errors import Finding, HeldError, SettingsError, TransportError
from streams.faust_options import faust_options, refuse_on_error
from streams.log_watch import LogWatch
from streams.lookup.lookups import Found
from streams.loop_watch import LoopWatch
from streams.observe.door import Web
from streams.observe.health import Health
from streams.observe.metrics import Metrics
from streams.options import Settings, SyncSettings, TargetSettings
from streams.sync.agent import Sync
from streams.sync.topics import SyncTopics
from streams.transport.agent import Agent
from streams.transport.allowance import PRODUCE_ROOM_BYTES
from streams.transport.assignor import Assignor
from streams.transport.chunk import ChunkSchema
from streams.transport.event_queue import EventQueue
from streams.transport.quiet import hush, say_without_text
from streams.transport.replies import Replies
from streams.transport.stopped import hold_back
from streams.transport.stream import ChunkStream
from streams.transport.topic import Topic
from streams.worker import Guarded, by_topic, drain, message_of, opener, restore

__all__ = ["App"]

log = logging.getLogger(__name__)
hush()
log.addFilter(lambda record: not str(record.msg).startswith("Crashed reason"))  # mode's; who runs the app says it

RESTORE_PAUSE_S = 1.0
"""Between two attempts to restore from a broker that is away."""
PARTS_SHARE = 0.9
"""Of the drain timeout; the rest is for the stores and for Python's own end."""
CLIENTS_CHECK_S = 5.0
"""How often the native clients are looked after; a token is read again only when most of its life is over."""


class App(faust.App):
    """A worker: syncs, chunk agents and ordinary Faust agents in one process.

    `broker`: kafka://host:port[,host:port] or embedded://directory. `settings`: a Settings made elsewhere; otherwise
    they are read from flags, environment and streams.toml; keyword arguments here rank below those. Options that are
    not ours go to Faust unchanged.
    """

    transport: Any  # ours have more to them than Faust's types say
    consumer: Any
    _ending: Ending | None = None

    def __init__(
        self,
        id: str,
        *,
        broker: str | None = None,
        datadir: str | Path | None = None,
        guarantee: str | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        code = {
            "app.id": id,
            "app.broker": broker,
            "app.datadir": str(datadir) if datadir is not None else None,
            "app.guarantee": guarantee,
        }
        given = {name: value for name, value in code.items() if value is not None}
        self.settings: Settings = settings or settings_room.read(code=given)
        self.syncs: dict[str, Sync] = {}
        self.guarded: Guarded | None = None
        self.declaring = Declaring(self, partial(opener, self))
        own = self.settings.app
        self.rescue = Rescue(self, self.settings)
        self.declared: dict[str, int] = {}
        """Topics that are made at the start where they are missing, by their partitions."""
        options.setdefault("Stream", ChunkStream)
        options.setdefault("Agent", Agent)
        options.setdefault("Topic", Topic)
        options.setdefault("PartitionAssignor", Assignor)
        options.setdefault("topic_disable_leader", True)
        options.setdefault("stream_buffer_maxsize", 4096)
        options.setdefault("topic_allow_declare", True)
        options.setdefault("producer_max_request_size", self.settings.limits.record_bytes_max + PRODUCE_ROOM_BYTES)
        super().__init__(own.id, **faust_options(self.settings, options))
        self.on_rebalance_complete.connect(self._restore)
        self._ready: Callable[[], None] | None = None
        self.log_watch = LogWatch(self)
        self.health = Health(self, own.progress_timeout_ms)
        self.health.mount()
        Metrics(self, self.health).mount()
        self.failure: BaseException | None = None
        """What ended the worker, where something did."""
        self.drained = False
        """Whether every part stopped in time."""
        self.interrupted = False
        """Whether Ctrl-C ended the worker."""

    @classmethod
    def from_settings(cls, settings: Settings) -> App:
        """An app with the syncs of a settings file and no code."""
        app = cls(settings.app.id, settings=settings)
        for spec in settings.sync:
            app.add_sync(spec, message_of(spec))
        for target in settings.target:
            app.add_target(target, message_of(target) if target.source else None)
        return app

    # -- the surface ------------------------------------------------------------------------------------------

    def chunks(self, *topics: str, requests: Collection[str] = (), **options: Any) -> Any:
        """A topic whose agents receive chunks; what they send joins the chunk's transaction.

        `requests`: those of the topics whose records are answered with whole states; their chunks are the smaller.
        """
        schema = ChunkSchema()
        schema.requests = requests
        return self.topic(*topics, schema=schema, acks=False, **options)

    @override
    def topic(self, *topics: str, partitions: int | None = None, **options: Any) -> Any:
        """Faust's; with `partitions` it is made at the start where it is missing. One without must exist."""
        if partitions and not options.get("internal"):
            self.declared.update(dict.fromkeys(topics, partitions))
        return super().topic(*topics, partitions=partitions, **options)

    if not TYPE_CHECKING:  # its types are Faust's

        def agent(self, *args: Any, **options: Any) -> Any:
            """Faust's. SettingsError for `on_error`: that is a setting, for all agents."""
            refuse_on_error(options)
            return super().agent(*args, **options)

    def sync(self, source: str, message: type[Message], **options: object) -> Sync:
        """Differential sync of `source`: full states of `message` in, patches to `{source}.patches` out.

        Options are those of `[[sync]]`: key, sequence, format, partitioning, ignore, output, state, ...
        SettingsError lists everything that is wrong with them.
        """
        spec = settings_room.sync_settings(
            source=source, message=message.DESCRIPTOR.full_name, module=message.__module__, **options
        )
        return self.add_sync(spec, message)

    def add_sync(self, spec: SyncSettings, message: type[Message]) -> Sync:
        """As `sync`, from settings that were checked before."""
        if spec.source in self.syncs:
            raise SettingsError(Finding(f"sync {spec.source}", "two syncs of one source", "one"))
        topics = SyncTopics.of(self.conf.id, spec.source, spec.output, spec.partitioning)
        sync = Sync(self, spec, message, topics, self.settings.limits)
        self.syncs[spec.source] = sync
        if sync.rekey is not None:
            self.agent(self.chunks(topics.source), name=f"rekey-{spec.source}", vital=True)(sync.rekey.run)
        read = self.chunks(topics.input, topics.resync, requests=(topics.resync,))
        self.agent(read, name=f"sync-{spec.source}", vital=True)(sync.run)
        return sync

    def target(
        self, name: str, *, url: str, source: str = "", message: type[Message] | None = None, **options: object
    ) -> None:
        """A receiver over HTTP: the patches of `source` are posted to `url`, guarded by a circuit of this name.

        `message`: default, that of this app's sync of `source`. Without `source` it is only looked up. Options are
        those of `[[target]]`. SettingsError lists everything that is wrong with them.
        """
        sync = self.syncs.get(source)
        kind = message or (sync.schema.message_class if sync is not None else None)
        if kind is not None:
            options |= {"message": kind.DESCRIPTOR.full_name, "module": kind.__module__}
        syncs = [each.spec for each in self.syncs.values()]
        spec = settings_room.target_settings(syncs, name=name, url=url, source=source, **options)
        self.add_target(spec, kind if source else None)

    def add_target(self, spec: TargetSettings, message: type[Message] | None) -> None:
        """As `target`, from settings that were checked before; `message` None: for look-ups alone."""
        self.guarded = self.guarded or Guarded(self)
        self.guarded.add(spec, message)

    async def lookup(self, target: str, path: str) -> Found:
        """What a target answers to a GET of `path` below its URL: static data to enrich events with, asked for rarely.

        Cached; while the target's circuit is open its last answer, marked stale with its age. LookupFailedError where
        there is none. SettingsError for a target that nobody named.
        """
        if self.guarded is None:
            raise SettingsError(
                Finding(f"target {target}", "no target", "a [[target]] or app.target(...) of this name")
            )
        return await self.guarded.lookup(target, path)

    def run_worker(self, ready: Callable[[], None] | None = None, ending: Callable[[], None] | None = None) -> None:
        """Runs until SIGTERM, SIGHUP or SIGINT (KeyboardInterrupt after the drain); raises what else ended it.

        A second SIGINT ends the process at once. `ready` is called once, when the first assignment has its state and
        its first fetch is on its way; `ending` once, when the worker begins to end, in any thread. A native call that
        waits for a broker can hold up the return for a minute.
        """
        keep_freed_memory()  # the process is the worker's own; inside another program this is not ours to decide
        try:
            asyncio.run(self.serve(ready, ending, handle_signals=True))
        finally:
            if self._ending is not None:
                self._ending.close()

    async def serve(
        self,
        ready: Callable[[], None] | None = None,
        ending: Callable[[], None] | None = None,
        *,
        handle_signals: bool = False,
    ) -> None:
        """As `run_worker`, inside a running event loop; cancel it to stop the worker."""
        loop = asyncio.get_running_loop()
        self.loop = loop
        self._ready = ready
        self._ending = begins = Ending(ending)
        if handle_signals:
            loop.set_exception_handler(say_without_text)
            begins.heed_signals()
        watch = LoopWatch(self.settings.app.progress_timeout_ms, self._held, lambda: self.health.assigned)
        # Starting ends when every part has started, and a part may wait for a topic: a signal must not wait for that.
        starting = loop.create_task(self.start())
        waits = [
            loop.create_task(begins.told.wait()),
            loop.create_task(self._ended(starting)),
            loop.create_task(self._tend_clients()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.interrupted = begins.interrupted
            begins.begin()
            for task in (*waits, starting):
                task.cancel()
            await asyncio.gather(*waits, starting, return_exceptions=True)
            self.drained = await drain(self, self.settings.app.drain_timeout_ms * PARTS_SHARE / 1000)
            for sync in self.syncs.values():
                await asyncio.to_thread(sync.close)
            watch.close()
        # A part that crashed takes its parents with it without asking them: mode keeps the reason in each of them.
        failure = self.failure or self._crash_reason
        if failure is not None:
            raise failure
        if self.interrupted:
            raise KeyboardInterrupt

    def _held(self, error: HeldError) -> None:
        """The loop does not turn, for longer than can be waited for. Called in another thread."""
        self.failure = self.failure or error
        if self._ending is not None:
            self._ending.begin()

    async def _tend_clients(self) -> None:
        """Hands the native clients a new token before the old one expires, and hears their logs; never returns."""
        while True:
            await asyncio.sleep(CLIENTS_CHECK_S)
            await asyncio.to_thread(self.transport.tend_clients)

    async def _ended(self, starting: asyncio.Task[None]) -> None:
        try:
            await starting
        except Exception as error:  # noqa: BLE001 - whatever keeps the worker from starting is what ended it
            self.failure = self.failure or named(error, self.settings.app)
            return
        await self.wait_until_stopped()

    @override
    def on_rebalance_start(self) -> None:
        """Faust's own hook: partitions are about to change hands."""
        self.health.assigned = False
        super().on_rebalance_start()

    @override
    def on_rebalance_end(self) -> None:
        """Faust's own hook: streams go on, state is restored."""
        super().on_rebalance_end()
        self.health.assigned = True
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()

    # -- joining ----------------------------------------------------------------------------------------------

    @override
    async def on_start(self) -> None:
        self.transport.topic_configs.update(
            {sync.topics.changelog: {"compression.type": "lz4"} for sync in self.syncs.values()}
        )
        self.transport.before_subscribe.append(self.declaring.declare)
        for sync in self.syncs.values():
            self.consumer.on_rewind(sync.rewind)
            self.transport.expiry.expect(sync.topics.resync)
        if self.guarded is not None:
            await self.guarded.open()
        self.add_future(self.health.watch())
        self.add_future(self.declaring.watch())
        self.add_future(self.log_watch.watch())
        await super().on_start()

    @override
    async def on_stop(self) -> None:
        await self.declaring.registry.stop()
        if self.guarded is not None:
            await self.guarded.close()
        await super().on_stop()

    @override
    async def _stop_consumer(self) -> None:
        if not self.crashed:  # threads end by themselves then, and answer nobody
            await super()._stop_consumer()

    async def _restore(self, sender: Any = None, /, *args: Any, **kwargs: Any) -> None:
        """After each assignment: state in line with the partitions, before the first event is read.

        A broker that is away is waited for.
        """
        generation = self.consumer_generation_id

        def keep_going() -> bool:
            return self.consumer_generation_id == generation and not self.should_stop

        try:
            while keep_going():
                try:
                    await self._restore_once(keep_going)
                    break
                except TransportError as error:
                    if not error.retriable:
                        raise
                    self.transport.reasons["restore"] = str(error)
                await asyncio.sleep(RESTORE_PAUSE_S)
        finally:
            self.transport.reasons.pop("restore", None)

    async def _restore_once(self, keep_going: Callable[[], bool]) -> None:
        """Committed offsets first (stable: a predecessor's transaction is over then), the changelog's end after."""
        self.declaring.follow()
        assignment: set[TP] = set(self.consumer.assignment())
        committed = await self.consumer.remember_committed(assignment)
        await asyncio.to_thread(self.log_watch.look, assignment)
        for sync in self.syncs.values():
            await restore(self, sync, assignment, keep_going)
            if keep_going():
                await asyncio.to_thread(self.log_watch.settle, sync, keep_going)
        self.log_watch.speak()
        if self.guarded is not None:
            anew = self.consumer.logs.anew
            positions = {tuple(tp): None if tp in anew else offset for tp, offset in committed.items()}
            await self.guarded.assign(by_topic(assignment), positions, keep_going)

    @override
    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> Any:
        return EventQueue(
            maxsize or 0,
            hold=lambda tp: hold_back(self.consumer, tp),
            release=lambda tps: self.consumer.release(tps),  # noqa: PLW0108 - it is not made yet
            flow_control=self.flow_control,
            clear_on_resume=clear_on_resume,
        )

    @override
    def _new_web(self) -> Any:
        return Web(self)

    @cached_property
    @override
    def _reply_consumer(self) -> Replies:
        return Replies(self, loop=self.loop, beacon=self.beacon)

    @override
    async def crash(self, reason: BaseException) -> None:
        reason = told(reason)
        self.failure = self.failure or reason
        # In a task of its own: mode logs the exception that is being handled here, with all that it says.
        await asyncio.create_task(super().crash(reason))
