"""What an experienced team writes itself: a loop over confluent-kafka, state in a dict, a compacted changelog topic.

At least once: every five seconds first the outputs, then the changed states, then the offsets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.compare.peers.difference import make_patch, pack, read, unpack
from benchmarks.compare.peers.task import PARTITIONS, Task, given, say_done, say_first
from streams.demo.v1.device_pb2 import DeviceState

COMMIT_S = 5.0
BATCH_RECORDS = 1000


class Loop:
    """The state of one worker and its way through Kafka."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.changelog = f"{task.group}-changelog"
        self.state: dict[str, tuple[int, DeviceState]] = {}
        # Keys that changed since the last commit, and their partitions.
        self.changed: dict[str, int] = {}
        self.failed: list[KafkaError] = []
        self.producer = Producer({
            "bootstrap.servers": task.bootstrap, "enable.idempotence": True, "compression.type": "zstd",
            "linger.ms": 50, "queue.buffering.max.messages": 500_000,
        })  # fmt: skip
        self.consumer = Consumer({
            "bootstrap.servers": task.bootstrap, "group.id": task.group, "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        })  # fmt: skip

    def run(self) -> None:
        """From the first event to the last commit."""
        self.make_changelog()
        self.consumer.subscribe([self.task.source], on_assign=lambda _, assigned: self.restore(assigned))
        events, committed_s = 0, time.monotonic()
        while events < self.task.events:
            batch = self.consumer.consume(BATCH_RECORDS, 0.5)
            if batch and not events:
                say_first()
            self.apply(batch)
            events += len(batch)
            self.producer.poll(0)
            if time.monotonic() - committed_s > COMMIT_S:
                self.commit()
                committed_s = time.monotonic()
        self.commit()
        say_done()
        self.consumer.close()

    def make_changelog(self) -> None:
        """The topic of states, where it is not there yet."""
        admin = AdminClient({"bootstrap.servers": self.task.bootstrap})
        if self.changelog in admin.list_topics(timeout=10).topics:
            return
        topic = NewTopic(self.changelog, PARTITIONS, 1, config={"cleanup.policy": "compact"})
        for made in admin.create_topics([topic]).values():
            made.result()

    def restore(self, assigned: Iterable[TopicPartition]) -> None:
        """Reads the states of partitions that came to this worker."""
        reader = Consumer({
            "bootstrap.servers": self.task.bootstrap, "group.id": f"{self.task.group}-restore",
            "enable.auto.commit": False, "enable.partition.eof": True,
        })  # fmt: skip
        left = {each.partition for each in assigned}
        reader.assign([TopicPartition(self.changelog, partition, OFFSET_BEGINNING) for partition in left])
        while left:
            for message in reader.consume(BATCH_RECORDS, 1.0):
                if message.error() is None:
                    sequence, device = unpack(message.value())
                    self.state[message.key().decode()] = sequence, DeviceState.FromString(device)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(message.error())
        reader.close()

    def apply(self, batch: list[Message]) -> None:
        """Compares each event with what is held and produces its patch."""
        for message in batch:
            if message.error() is not None:
                raise KafkaException(message.error())
            key, sequence, data = read(message.value())
            base, old = self.state.get(key, (0, None))
            if sequence <= base:
                continue
            new = DeviceState.FromString(data)
            self.produce(self.task.output, key, make_patch(key, sequence, base, old, new).SerializeToString())
            self.state[key] = sequence, new
            self.changed[key] = message.partition()

    def commit(self) -> None:
        """Outputs, then states, then offsets: whatever fails in between is done again."""
        self.producer.flush()
        for key, partition in self.changed.items():
            sequence, device = self.state[key]
            self.produce(self.changelog, key, pack(sequence, device.SerializeToString()), partition)
        self.changed.clear()
        self.producer.flush()
        if self.failed:
            raise KafkaException(self.failed[0])
        self.consumer.commit(asynchronous=False)

    def produce(self, topic: str, key: str, value: bytes, partition: int = -1) -> None:
        """Hands a record to the producer, waiting while its queue is full."""
        while True:
            try:
                self.producer.produce(topic, value, key, partition, on_delivery=self.delivered)
            except BufferError:
                self.producer.poll(0.1)
            else:
                return

    def delivered(self, error: KafkaError | None, _: Message) -> None:
        """Keeps what could not be delivered for the next commit to raise."""
        if error is not None:
            self.failed.append(error)


if __name__ == "__main__":
    Loop(given()).run()
