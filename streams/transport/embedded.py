"""Faust transport on the durable local log: one process, no broker, the same code and the same promises.

URL scheme `embedded://directory`, found by entry point. There is no group to join: this worker has every partition of
what it subscribes to, and Faust is told so in the form its consumer group would tell it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from faust.transport import base
from mode import want_seconds

from streams.errors import TransportError
from streams.options import Settings
from streams.transport.consumer import ChunkConductor
from streams.transport.embedded_consumer import Consumer
from streams.transport.embedded_producer import Producer
from streams.transport.expiry import Expiry
from streams.transport.tail import Positions, Progress, Sink
from streams.transport.worker_log import FULL_PAUSE_S, WorkerLog

__all__ = ["Consumer", "Producer", "Transport"]


class Transport(base.Transport):
    """Entry point `embedded` of Faust's transports."""

    Consumer = Consumer
    Producer = Producer
    Conductor = ChunkConductor
    driver_version = "embedded (durable local log)"
    open_tail: None = None
    """Standby copies are other workers' business, and there are none."""
    marker_offsets = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: Any = self.app
        self.settings: Settings = getattr(app, "settings", None) or Settings()
        broker = self.settings.app.broker if hasattr(app, "settings") else str(self.url[0])
        self.directory = broker.removeprefix("embedded:").removeprefix("//")
        self.topic_configs: dict[str, dict[str, str]] = {}
        """Producer settings of single topics; the log has none."""
        self.before_subscribe: list[Callable[[WorkerLog, Mapping[str, int]], Iterable[str]]] = []
        """Called with the topics that exist until each returns nothing more to wait for; they create their own."""
        self.reasons: dict[str, str] = {}
        """Why there is no progress, where there is a reason; shown by readiness, metrics and doctor."""
        self.expiry = Expiry(app)
        """What becomes of positions that their topic does not have any more."""
        self._log: WorkerLog | None = None
        self._users = 0

    @property
    def log(self) -> WorkerLog:
        """The log; TransportError before the start and after the end."""
        if self._log is None:
            raise TransportError(f"embedded log {self.directory} is not open: the worker has not started, or has ended")
        return self._log

    @property
    def is_open(self) -> bool:
        """Between the first `open` and the last `close`."""
        return self._log is not None

    async def open(self) -> None:
        """Opens the log for one more user. LogBusyError where another process has it."""
        if self._log is None:
            self._log = await asyncio.to_thread(
                WorkerLog, self.directory, self.settings, self.reasons, lambda: bool(self.app.should_stop)
            )
        self._users += 1

    async def close(self) -> None:
        """Lets go of the log when the last user has."""
        self._users -= 1
        if self._users <= 0 and self._log is not None:
            log, self._log = self._log, None
            await asyncio.to_thread(log.close)

    async def declare(
        self,
        topic: str,
        partitions: int,
        *,
        config: Mapping[str, Any] | None = None,
        retention: Any = None,
        compacting: bool | None = None,
        **_: Any,
    ) -> None:
        """Makes a topic as Faust asks for it; one that exists stays as it is."""
        wanted = {name: str(value) for name, value in (config or {}).items()}
        if retention:
            wanted["retention.ms"] = str(int(want_seconds(retention) * 1000))
        if compacting:
            wanted["cleanup.policy"] = "compact"
        await asyncio.to_thread(self.log.declare, topic, partitions, wanted)

    def make_topic(self, name: str, like: str, config: Mapping[str, str], replication: int) -> None:
        """Makes a topic with the partitions of another where it is missing; there is nothing to replicate. Blocks."""
        self.log.declare(name, self.log.log.partitions(like) or 0, config)

    async def wait_for_topics(self, wanted: set[str], stopping: Callable[[], bool]) -> None:
        """Returns when every topic exists: those that do not are made here. A full disk is waited for."""

        def declare() -> None:
            waiting = [""]
            while waiting and not stopping():
                existing = self.log.topics()
                waiting = [topic for each in self.before_subscribe for topic in each(self.log, existing)]
                for topic in waiting:
                    self.log.declare(topic)
            for topic in wanted:
                self.log.declare(topic)

        while not stopping():
            try:
                await asyncio.to_thread(declare)
                break
            except TransportError as error:
                if not error.retriable:
                    raise
                self.reasons["topics"] = str(error)
            await asyncio.sleep(FULL_PAUSE_S)
        self.reasons.pop("topics", None)

    def tend_clients(self) -> None:
        """There are none."""

    def read_log(
        self, start: Positions, sink: Sink, keep_going: Callable[[], bool], progress: Progress | None = None
    ) -> dict[tuple[str, int], int]:
        """Reads records to the end as of now. Blocks."""
        return self.log.read_to_end(start, sink, keep_going, progress)

    def open_end(self, topic: str, partition: int) -> int:
        """As `log_end`: what is not committed is not in the log."""
        return self.log_end(topic, partition)

    def log_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        """The id of each topic that exists: one made anew under a name has another. Blocks."""
        there = self.log.log.topics()
        return {topic: there[topic].id for topic in topics if topic in there}

    def log_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """The partition count of each topic that exists. Blocks."""
        there = self.log.log.topics()
        return {topic: there[topic].partitions for topic in topics if topic in there}

    def log_start(self, topic: str, partition: int) -> int:
        """First offset of a partition that is still there. Blocks."""
        return self.log.log.start(topic, partition)

    def log_end(self, topic: str, partition: int) -> int:
        """Next offset of a partition. Blocks."""
        return self.log.log.end(topic, partition)
