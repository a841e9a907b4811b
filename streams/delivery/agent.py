"""Delivery: patches leave Kafka for HTTP receivers, one route per target, one feed per patches topic.

The partitions are the consumer group's; what is done per target and partition is a record in `{app}.progress`. Progress
may be behind what a receiver has, never ahead of it: after a crash the requests that were on their way are repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from streams._native import RESERVED_PREFIX, Records
from streams.delivery.feed import Feed
from streams.delivery.outbox import Outbox
from streams.delivery.route import Route
from streams.delivery.stale import StaleKeys
from streams.errors import TransportError
from streams.transport.identity import is_other
from streams.v1.delivery_pb2 import Progress

__all__ = ["Deliveries", "Delivering"]

log = logging.getLogger(__name__)

FLUSH_TIMEOUT_S = 2.0
"""Progress is written once more when partitions go or the worker ends; what is missed is sent again."""


class Place(NamedTuple):
    """One target's share of one partition."""

    target: str
    topic: str
    partition: int

    @property
    def key(self) -> bytes:
        """The key of its progress record."""
        return b"\0".join((self.target.encode(), self.topic.encode(), str(self.partition).encode()))


@dataclass(frozen=True, slots=True)
class Delivering:
    """One target with its parts."""

    route: Route
    stale: StaleKeys
    feed: Feed
    changelog: str
    """`{app}-{source}-changelog`: names the keys that a target without progress needs snapshots of."""


class Deliveries:
    """All targets of one worker."""

    def __init__(self, app: Any, delivering: Sequence[Delivering], outbox: Outbox, progress_topic: str) -> None:
        self._app = app
        self._delivering = tuple(delivering)
        self.routes: tuple[Route, ...] = tuple(each.route for each in delivering)
        self.feeds: dict[str, Feed] = {each.feed.topic: each.feed for each in delivering}
        self._outbox = outbox
        self._progress_topic = progress_topic
        self._written: dict[Place, int] = {}
        self._generations: dict[Place, int] = {}  # highest that progress was ever written with
        self._asking: set[Place] = set()  # snapshots are being asked for: progress waits for that
        self._counts: dict[str, int] = {}  # partitions of the topics, since the start
        self._logs: dict[str, bytes] = {}  # ids of the topics of patches that targets stand in, where there are ids
        self._tasks: list[asyncio.Task[None]] = []
        self.damaged = 0
        """Records of the progress topic that are none."""
        for feed in self.feeds.values():
            feed.lost.append(self._lost)

    # -- joining the worker -----------------------------------------------------------------------------------

    def declare(self, existing: Mapping[str, int]) -> tuple[list[tuple[str, int, dict[str, str]]], list[str]]:
        """Topics to make (name, partitions, configuration), and those that somebody else has to make first."""
        waiting = [topic for topic in self.feeds if topic not in existing]
        if waiting or not self.feeds:
            return [], waiting
        partitions = existing.get(self._progress_topic) or max(existing[topic] for topic in self.feeds)
        self._counts = {**existing, self._progress_topic: partitions}
        plans: list[tuple[str, int, dict[str, str]]] = []
        if self._progress_topic not in existing:
            plans.append((self._progress_topic, partitions, {"cleanup.policy": "compact"}))
        for each in self._delivering:
            target, count = each.route.target, existing[each.feed.topic]
            kept = {"message.timestamp.type": "LogAppendTime"}
            plans += [(topic, count, kept) for topic in (target.dead_letters, target.resync) if topic not in existing]
        return plans, []

    def start(self, progress_ms: int) -> None:
        """Starts the routes and the readers of their own; inside the event loop."""
        create = asyncio.get_running_loop().create_task
        for each in self._delivering:
            name = each.route.name
            self._tasks.append(create(each.route.run(), name=f"route {name}"))
            self._tasks.append(create(each.stale.run(), name=f"snapshots for {name}"))
            self._tasks.append(create(each.feed.catch_up(each.route), name=f"reader of {name}"))
        self._tasks.append(create(self._keep_progress(progress_ms / 1000), name="progress"))
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task of ours ends only with the worker; one that raised ends the worker."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s ended with %s", task.get_name(), type(error).__name__)
            self._app.loop.create_task(self._app.crash(error))

    @property
    def topics(self) -> set[str]:
        """All that it reads and writes."""
        targets = (each.route.target for each in self._delivering)
        return {
            self._progress_topic,
            *self.feeds,
            *(name for each in targets for name in (each.dead_letters, each.resync)),
        }

    @property
    def pending(self) -> int:
        """Patches that wait in the lanes of all targets."""
        return sum(route.lanes.pending_records for route in self.routes)

    async def stop(self) -> None:
        """Gives up what is on its way, and writes down what is done."""
        for feed in self.feeds.values():
            feed.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.flush()
        await self._outbox.close()

    # -- assignment -------------------------------------------------------------------------------------------

    async def assign(
        self,
        assigned: Mapping[str, set[int]],
        committed: Mapping[tuple[str, int], int | None],
        keep_going: Callable[[], bool],
    ) -> None:
        """Takes on partitions per topic, and lets go of those that are not in it, or are of a log that is gone. Raises
        TransportError.

        `committed`: the group's offsets, where its own reading begins; None: at the beginning of the partition.
        """
        for topic, feed in self.feeds.items():
            before = self._logs.get(topic, b"")
            self._logs[topic] = self._app.consumer.logs.ids.get(topic) or before
            is_anew = is_other(before, self._logs[topic])
            wanted = assigned.get(topic, set())
            for partition in feed.partitions if is_anew else feed.partitions - wanted:
                self._release(feed, partition)
            new = sorted(wanted - feed.partitions)
            known = await asyncio.to_thread(self._load, new, keep_going)
            for partition in wanted:
                begin = committed.get((topic, partition))
                if begin is None:
                    begin = int(await asyncio.to_thread(self._app.transport.log_start, topic, partition))
                feed.begin(partition, begin)
            for partition in new:
                for each in self._of(feed):
                    found = known.get(Place(each.route.name, topic, partition))
                    await self._begin(each, partition, found, is_anew=is_anew)

    def _of(self, feed: Feed) -> Iterable[Delivering]:
        return (each for each in self._delivering if each.feed is feed)

    def _release(self, feed: Feed, partition: int) -> None:
        feed.release(partition)
        for each in self._of(feed):
            each.route.release(partition)
            place = Place(each.route.name, feed.topic, partition)
            self._written.pop(place, None)
            self._asking.discard(place)

    async def _begin(self, each: Delivering, partition: int, known: Progress | None, *, is_anew: bool) -> None:
        """Where a target starts on a partition: at its progress, or, where the log has lost that, with snapshots."""
        topic = each.feed.topic
        place = Place(each.route.name, topic, partition)
        first = await asyncio.to_thread(self._app.transport.log_start, topic, partition)
        self._generations[place] = known.generation if known is not None else 0
        end = await asyncio.to_thread(self._app.transport.log_end, topic, partition)
        is_anew = is_anew or (known is not None and is_other(known.topic_id, self._logs[topic]))
        if known is not None and not is_anew and first <= known.offset <= end:
            position = known.offset
            self._written[place] = known.offset
        elif known is None and not is_anew and first == 0:
            position = 0  # every patch there ever was: each key begins with its snapshot
        else:
            position = end
            self._ask_for_all(each, place)
        each.route.assign(partition, position)
        each.feed.start(each.route.name, partition, position)

    def _lost(self, name: str, partition: int) -> None:
        """Patches that a lagging target had not read are gone: what is left of them does not lead anywhere alone."""
        for each in self._delivering:
            if each.route.name == name:
                self._ask_for_all(each, Place(name, each.feed.topic, partition))

    def _ask_for_all(self, each: Delivering, place: Place) -> None:
        if place not in self._asking:
            self._asking.add(place)
            asking = self._app.loop.create_task(self._ask_all(each, place), name=f"start of {place.target}")
            self._tasks.append(asking)
            asking.add_done_callback(self._ended)

    async def _ask_all(self, each: Delivering, place: Place) -> None:
        """Asks for a snapshot of every key of the partition, for this target alone; then its progress counts."""
        keys = await asyncio.to_thread(self._keys, each, place.partition)
        log.warning("target %s lacks patches of %s/%d: %d snapshots are asked for", *place, len(keys))
        await each.stale.ask_all(keys, place.partition)
        self._asking.discard(place)

    def _keys(self, each: Delivering, partition: int) -> set[bytes]:
        """The keys of a partition: those of the state, or those of the patches where the state is another app's."""
        topic = each.changelog if self._counts.get(each.changelog) else each.feed.topic
        keys: set[bytes] = set()

        def note(_topic: str, _partition: int, records: Records) -> None:
            found = (key for index in range(len(records)) if (key := records.key(index)))
            keys.update(key for key in found if not key.startswith(RESERVED_PREFIX))

        self._app.transport.read_log({(topic, partition): 0}, note, lambda: not self._app.should_stop)
        return keys

    # -- progress ---------------------------------------------------------------------------------------------

    def _load(self, partitions: Iterable[int], keep_going: Callable[[], bool]) -> dict[Place, Progress]:
        """What the progress topic holds of these partitions; a lower generation's word is ignored. Blocks."""
        count = self._counts.get(self._progress_topic, 0)
        start = {(self._progress_topic, partition % count): 0 for partition in partitions} if count else {}
        known: dict[Place, Progress] = {}

        def take(_topic: str, _partition: int, records: Records) -> None:
            for index in range(len(records)):
                read = self._read(records.value(index))
                if read is None:
                    continue
                place = Place(read.target, read.topic, read.partition)
                if place not in known or read.generation >= known[place].generation:
                    known[place] = read

        if start:
            self._app.transport.read_log(start, take, keep_going)
        return known

    def _read(self, value: bytes | None) -> Progress | None:
        """The progress in a record; None where it is none, which costs the target of that record alone."""
        try:
            read = Progress.FromString(value or b"")
        except DecodeError:
            read = Progress()
        if read.target:
            return read
        if value is not None:
            self.damaged += 1
            log.warning("%s: a record is no progress, and is ignored", self._progress_topic)
        return None

    async def _keep_progress(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._write_progress()
            except TransportError as error:
                log.warning("%s: progress not written, tried again: %s", self._progress_topic, error)

    async def flush(self) -> None:
        """Writes progress now, as far as that is quick."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._write_progress()
        except (TransportError, TimeoutError) as error:
            log.warning("%s: progress not written, some patches are sent again: %s", self._progress_topic, error)

    async def _write_progress(self) -> None:
        moved: dict[Place, int] = {}
        for each in self._delivering:
            for name, partition in list(each.feed.positions):
                if name != each.route.name:
                    continue
                place = Place(name, each.feed.topic, partition)
                offset = each.route.lanes.progress(partition)
                if place not in self._asking and offset != self._written.get(place):
                    moved[place] = offset
        by_partition: defaultdict[int, Records] = defaultdict(Records)
        count = self._counts.get(self._progress_topic, 1)
        for place, offset in moved.items():
            generation = max(self._app.consumer_generation_id, self._generations.get(place, 0))
            self._generations[place] = generation
            record = Progress(
                target=place.target, topic=place.topic, partition=place.partition, offset=offset, generation=generation,
                topic_id=self._logs[place.topic],
            )  # fmt: skip
            by_partition[place.partition % count].append(place.key, record.SerializeToString())
        for partition, records in by_partition.items():
            await self._outbox.write(self._progress_topic, records, partition)
        self._written.update(moved)
