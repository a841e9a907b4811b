"""Warm copies on a real changelog: they follow it, and a copy that is taken over stands where its owner goes on."""

from __future__ import annotations

import time
import uuid
from functools import partial

from streams._native import KafkaAdmin, KafkaConsumer, KafkaProducer, Records, Table
from streams.clock import ManualClock
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.state.standby import Standby
from streams.state.stores import BEHIND_MS_MAX
from streams.state.table import PartitionState
from streams.sync.agent import make_job
from streams.transport.tail import read_to_end, tail_config
from tests.broker import Broker

TIMEOUT_S = 20.0
ASK_MS = 10_000


class Log:
    """What a state could ask its transport for; a memory copy asks for nothing."""

    marker_offsets = 0

    def read_log(self, *_: object) -> dict[tuple[str, int], int]:
        raise AssertionError("a standby reads by itself")

    def log_end(self, topic: str, partition: int) -> int:
        raise AssertionError("only a store asks for the end")


def test_a_copy_follows_and_is_handed_over(kafka: Broker) -> None:
    """Rows written before and after it was taken are all there once the rest is read from where it stood."""
    config = {"bootstrap.servers": kafka.bootstrap}
    topic = f"changelog-{uuid.uuid4().hex[:8]}"
    KafkaAdmin(config).create_topics([(topic, 2, 1, {"cleanup.policy": "compact"})], ASK_MS)
    job = make_job(
        MessageSchema(DeviceState), SyncSettings(source="devices"), "devices", partitions=0, record_bytes_max=1 << 20
    )
    owner = Table(job, 1)
    producer = KafkaProducer(config)
    done = 0

    def write(first: int, count: int) -> None:
        nonlocal done
        events = Records()
        for number in range(first, first + count):
            key = f"d-{number}"
            events.append(key.encode(), DeviceState(device_id=key).SerializeToString(), [], -1, number)
        step = owner.process(events, 1_000)
        producer.produce(topic, 1, owner.changelog(done, step.mark))
        owner.commit(step.mark)
        producer.flush(ASK_MS)
        done = step.mark

    copies: list[PartitionState] = []

    def open_copy(partition: int) -> PartitionState:
        copies.append(PartitionState(job, partition, topic, None, Log()))
        return copies[-1]

    standby = Standby(topic, open_copy, lambda: KafkaConsumer(tail_config(config, "standby")))
    write(0, 300)
    standby.follow({1})
    deadline_s = time.monotonic() + TIMEOUT_S
    while not copies or len(copies[0].table) < 300:
        assert time.monotonic() < deadline_s, "the copy does not follow"
        time.sleep(0.05)

    taken = standby.take(1)
    write(300, 100)

    assert taken is not None
    state, position = taken
    assert standby.partitions == set()
    assert len(state.table) == 300
    read_to_end(config, {(topic, 1): position}, lambda _, __, rows: state.restore(rows), lambda: True, "owner")
    assert len(state.table) == 400
    assert state.table.get(b"d-399") == owner.get(b"d-399")
    assert standby.take(1) is None

    standby.stop()


class Followed:
    """A changelog with a hundred rows, and its copies."""

    def __init__(self, kafka: Broker) -> None:
        config = {"bootstrap.servers": kafka.bootstrap}
        self.topic = f"changelog-{uuid.uuid4().hex[:8]}"
        KafkaAdmin(config).create_topics([(self.topic, 1, 1, {"cleanup.policy": "compact"})], ASK_MS)
        spec = SyncSettings(source="devices")
        self.job = make_job(MessageSchema(DeviceState), spec, "devices", partitions=0, record_bytes_max=1 << 20)
        owner, events = Table(self.job, 0), Records()
        for number in range(100):
            key = f"d-{number}"
            events.append(key.encode(), DeviceState(device_id=key).SerializeToString(), [], -1, number)
        step = owner.process(events, 1_000)
        producer = KafkaProducer(config)
        producer.produce(self.topic, 0, owner.changelog(0, step.mark))
        producer.flush(ASK_MS)
        self.clock = ManualClock()
        self.copies: list[PartitionState] = []
        open_consumer = partial(KafkaConsumer, tail_config(config, "standby"))
        self.standby = Standby(self.topic, self._open, open_consumer, self.clock)

    def _open(self, partition: int) -> PartitionState:
        self.copies.append(PartitionState(self.job, partition, self.topic, None, Log()))
        return self.copies[-1]

    def wait(self, made: int) -> None:
        """Until so many copies were made, and the last one has all rows."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(self.copies) < made or len(self.copies[-1].table) < 100:
            assert time.monotonic() < deadline_s, "the copy does not follow"
            time.sleep(0.05)


def test_a_copy_that_is_made_anew_at_once_has_all_rows(kafka: Broker) -> None:
    """Found: handed over and wanted again within one fetch, it had only the rows that came from then on."""
    followed = Followed(kafka)
    for made in (1, 2):
        followed.standby.follow({0})
        followed.wait(made)
        assert followed.standby.take(0) is not None
    followed.standby.stop()


def test_a_copy_that_slept_for_longer_than_removals_are_told_is_not_taken_over(kafka: Broker) -> None:
    """Its process was stopped, or its machine: a key that was deleted and forgotten meanwhile would live on in it."""
    followed = Followed(kafka)
    followed.standby.follow({0})
    followed.wait(1)
    followed.clock.advance(BEHIND_MS_MAX + 1)
    followed.wait(2)
    followed.clock.advance(BEHIND_MS_MAX + 1)
    taken = followed.standby.take(0)
    followed.standby.stop()

    assert taken is None or taken[0] not in followed.copies[:2]
