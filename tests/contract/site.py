"""A worker and its broker as a test sees them: the same on the embedded log and on a real Kafka."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NonEmptyGroup
from aiokafka.protocol.admin import DeleteGroupsRequest

from streams import settings
from streams._native import KafkaAdmin, Records
from streams.app import App
from streams.client.broker import Ack, ReaderOptions, WriterOptions
from streams.client.connect import open_reader, open_writer
from streams.client.event import Event
from streams.client.producer import Producer
from streams.client.receiver import Receiver
from streams.clock import SYSTEM_CLOCK
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.log import Log
from streams.v1.patch_pb2 import Patch

READY_TIMEOUT_S = 60
WORK_TIMEOUT_S = 30
POLL_S = 0.02
READ_TIMEOUT_MS = 200
ADMIN_TIMEOUT_MS = 30_000
DAY_MS = 86_400_000


class Found(NamedTuple):
    """One committed record."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]


class Site:
    """One broker; `source` and every topic named after it are this test's own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.source = f"devices-{uuid.uuid4().hex[:8]}"
        self.patches = f"{self.source}.patches"
        self.dead_letters = f"{self.source}.dlq"
        self.resync = f"{self.source}.resync"

    @property
    def embedded(self) -> bool:
        """Whether there is no broker."""
        return self.url.startswith("embedded")

    def app(self, options: dict[str, object] | None = None, **faust_options: Any) -> App:
        """A worker's app; `options` are settings by their dotted names."""
        flags = {
            "app.id": f"fleet-{self.source}",
            "app.broker": self.url,
            "app.datadir": str(self.folder / "data"),
            "transaction.interval_ms": 20,
            **(options or {}),
        }
        made = settings.read(flags=flags)
        return App(made.app.id, settings=made, web_enabled=False, **faust_options)

    @asynccontextmanager
    async def running(self, app: App, *, ready: bool = True) -> AsyncIterator[asyncio.Task[None]]:
        """The worker at work, from its first assignment on; at the end of the block it is stopped as by a signal."""
        assigned = asyncio.Event()
        worker = asyncio.create_task(app.serve(assigned.set))
        waiting = asyncio.create_task(assigned.wait())
        try:
            if ready:
                await asyncio.wait({worker, waiting}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
                if worker.done():
                    await worker
                assert assigned.is_set(), "no assignment in time"
            yield worker
        finally:
            waiting.cancel()
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    async def until(self, condition: Callable[[], object], worker: asyncio.Task[None] | None = None) -> None:
        """Waits for something that the worker brings about; what ends the worker is raised."""
        deadline_s = asyncio.get_running_loop().time() + WORK_TIMEOUT_S
        while not condition():
            if worker is not None and worker.done():
                await worker
            assert asyncio.get_running_loop().time() < deadline_s, "not in time"
            await asyncio.sleep(POLL_S)

    async def create(self, *topics: str, partitions: int = 3) -> None:
        """Makes topics; the source without names."""
        await asyncio.to_thread(self._create, topics or (self.source,), partitions)

    def _create(self, topics: Sequence[str], partitions: int) -> None:
        writer = open_writer(self.url, WriterOptions())
        try:
            for topic in topics:
                writer.create_topic(topic, partitions)
        finally:
            writer.close()

    async def delete(self, *topics: str) -> None:
        """Deletes topics, as an operator does; returns when nothing of them is left."""
        await asyncio.to_thread(self._delete, topics)

    def _delete(self, topics: Sequence[str]) -> None:
        if self.embedded:
            with Log.shared(self.url.partition("://")[2]) as log:
                for topic in topics:
                    log.delete_topic(topic)
            return
        admin = KafkaAdmin({"bootstrap.servers": self.url.partition("://")[2]})
        assert [(topic, None) for topic in topics] == admin.delete_topics(list(topics), ADMIN_TIMEOUT_MS)
        while admin.topic_ids(list(topics), ADMIN_TIMEOUT_MS):
            time.sleep(POLL_S)

    async def send(self, states: Iterable[DeviceState], topic: str = "") -> None:
        """Sends full states as CloudEvents, each under its device's id."""
        async with Producer(self.url, source="/test") as producer:
            await producer.send_many(topic or self.source, [Event(state, state.device_id) for state in states])

    async def write(
        self, topic: str, *values: bytes | None, key: bytes | None = None, partition: int = -1
    ) -> list[Ack]:
        """Writes plain records."""
        records = Records()
        for value in values:
            records.append(key, value)
        return await asyncio.to_thread(self._write, topic, records, partition)

    def _write(self, topic: str, records: Records, partition: int) -> list[Ack]:
        writer = open_writer(self.url, WriterOptions())
        try:
            acks = [outcome for outcome in writer.write(topic, records, partition) if isinstance(outcome, Ack)]
        finally:
            writer.close()
        assert len(acks) == len(records)
        return acks

    async def forget_group(self, group: str) -> None:
        """Kafka forgets a group: its offsets, and how often it has rebalanced."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.url.partition("://")[2])
        await admin.start()
        try:
            coordinator = await admin.find_coordinator(group)
            code = NonEmptyGroup.errno
            async with asyncio.timeout(READY_TIMEOUT_S):
                while code == NonEmptyGroup.errno:
                    await asyncio.sleep(POLL_S)
                    answer = await admin._send_request(DeleteGroupsRequest([group]), coordinator)
                    code = answer.results[0][1]
            assert code == 0
        finally:
            await admin.close()

    async def expire(self, topic: str, left: int = 0) -> None:
        """Removes every record that a topic has now but for the last ones, as retention does; embedded: blocks."""
        if self.embedded:
            await asyncio.to_thread(self._expire, topic)
            return
        admin = AIOKafkaAdminClient(bootstrap_servers=self.url.partition("://")[2])
        await admin.start()
        try:
            counts = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics([topic])}
            ends = await asyncio.to_thread(self._ends, topic)
            partitions = (TopicPartition(topic, number) for number in range(counts[topic]))
            await admin.delete_records(
                {each: RecordsToDelete(max(0, ends.get(each.partition, 0) - left)) for each in partitions}
            )
        finally:
            await admin.close()

    def _ends(self, topic: str) -> dict[int, int]:
        reader = open_reader(self.url, topic, ReaderOptions(start="earliest"))
        try:
            return reader.ends()
        finally:
            reader.close()

    async def limit(self, topic: str, record_bytes_max: int) -> None:
        """Larger records are refused from here on."""
        if self.embedded:
            with Log.shared(self.url.partition("://")[2]) as log:
                log.create_topic(topic, log.partitions(topic) or 1, record_bytes_max=record_bytes_max)
            return
        admin = AIOKafkaAdminClient(bootstrap_servers=self.url.partition("://")[2])
        await admin.start()
        try:
            wanted = {"max.message.bytes": str(record_bytes_max)}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
        finally:
            await admin.close()

    async def empty(self, topic: str) -> None:
        """As `expire`, of a compacted topic: somebody changed its policy for a moment."""
        for policy in ("delete", "compact"):
            if not self.embedded:
                admin = AIOKafkaAdminClient(bootstrap_servers=self.url.partition("://")[2])
                await admin.start()
                try:
                    wanted = {"cleanup.policy": policy, "max.message.bytes": str(2 << 20)}
                    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
                finally:
                    await admin.close()
            if policy == "delete":
                await self.expire(topic)

    def _expire(self, topic: str) -> None:
        log = Log.shared(self.url.removeprefix("embedded://"))
        try:
            log.create_topic(topic, log.partitions(topic) or 1, retention_ms=1, cleanup="delete")
            while log.maintain(SYSTEM_CLOCK.now_ms() + 1_000, 1_000):
                pass
            log.create_topic(topic, log.partitions(topic) or 1, retention_ms=DAY_MS)
        finally:
            log.close()

    async def read(self, topic: str) -> list[Found]:
        """Every committed record of a topic, by partition."""
        return await asyncio.to_thread(self._read, topic)

    async def records(self, topic: str, count: int, worker: asyncio.Task[None]) -> list[Found]:
        """As `read`, once there are so many."""
        found: list[Found] = []
        deadline_s = asyncio.get_running_loop().time() + WORK_TIMEOUT_S
        while len(found) < count:
            if worker.done():
                await worker
            assert asyncio.get_running_loop().time() < deadline_s, f"{len(found)} of {count} records in time"
            await asyncio.sleep(POLL_S)
            found = await self.read(topic)
        return found

    def _read(self, topic: str) -> list[Found]:
        found: list[Found] = []
        for partition, records in self._runs(topic):
            for index in range(len(records)):
                headers = dict(records.headers(index))
                key, value = records.key(index), records.value(index)
                found.append(Found(partition, records.offset(index), key, value, headers))
        return sorted(found, key=lambda one: (one.partition, one.offset))

    def batches(self, topic: str) -> list[Records]:
        """As `read`, as batches. Blocks."""
        return [records for _, records in self._runs(topic)]

    def _runs(self, topic: str) -> Iterator[tuple[int, Records]]:
        reader = open_reader(self.url, topic, ReaderOptions(start="earliest"))
        try:
            ends = {partition: end for partition, end in reader.ends().items() if end}
            while ends:
                for run in reader.fetch(10_000, READ_TIMEOUT_MS):
                    yield run.partition, run.records
                    if max(run.records.last_offset + 1, run.end) >= ends.get(run.partition, 0):
                        ends.pop(run.partition, None)
        finally:
            reader.close()

    async def revisions(self, patches: str = "") -> dict[bytes, list[int]]:
        """Revisions of every key in the order of the topic; each key has one epoch."""
        found: defaultdict[bytes, list[int]] = defaultdict(list)
        epochs: defaultdict[bytes, set[int]] = defaultdict(set)
        for record in await self.read(patches or self.patches):
            patch = Patch.FromString(record.value or b"")
            if "resync-for" not in record.headers:
                found[patch.key].append(patch.revision)
                epochs[patch.key].add(patch.epoch)
        assert all(len(each) == 1 for each in epochs.values())
        return dict(found)

    async def held(self, patches: str = "") -> dict[bytes, DeviceState]:
        """What a receiver holds that applied every patch; its keys prove themselves by their digests."""
        topic = patches or self.patches
        async with Receiver(self.url, topic, DeviceState, start="earliest") as receiver:
            await receiver.catch_up()
            assert 0 == receiver.stale_keys
            return dict(receiver.states())

    async def verify(self, states: Sequence[DeviceState], patches: str = "") -> None:
        """Every change of every key is there once and in order, and leads to the state of a plain replay."""
        expected = {key: list(range(1, count + 1)) for key, count in changes(states).items()}
        assert expected == await self.revisions(patches)
        assert {state.device_id.encode(): state for state in states} == await self.held(patches)


def changes(states: Iterable[DeviceState]) -> Counter[bytes]:
    """How often the state of each key changed, the first time included."""
    last: dict[bytes, DeviceState] = {}
    counts: Counter[bytes] = Counter()
    for state in states:
        key = state.device_id.encode()
        counts[key] += last.get(key) != state
        last[key] = state
    return counts


def history(seed: int, events: int = 300, devices: int = 12) -> list[DeviceState]:
    """Full states of some devices with random changes, now and then none; the first of each device comes first."""
    chance = random.Random(seed)
    now = [DeviceState(device_id=f"d-{number}", status="new") for number in range(devices)]
    states = [DeviceState.FromString(state.SerializeToString()) for state in now]
    while len(states) < events:
        state = chance.choice(now)
        for _ in range(chance.randrange(3)):
            _change(state, chance)
        states.append(DeviceState.FromString(state.SerializeToString()))
    return states


def _change(state: DeviceState, chance: random.Random) -> None:
    match chance.randrange(6):
        case 0:
            state.battery = chance.random()
        case 1:
            state.status = chance.choice(["", "ok", "lost"])
        case 2:
            state.labels[chance.choice("abc")] = str(chance.randrange(3))
        case 3:
            state.labels.pop(chance.choice("abc"), None)
        case 4:
            state.slots.append(chance.randrange(-5, 5))
        case _:
            if state.HasField("geo") and chance.random() < 0.3:
                state.ClearField("geo")
            else:
                state.geo.lat = chance.uniform(-90, 90)
