"""FastStream over confluent-kafka: a batch subscriber that awaits delivery before it acknowledges. At least once.

FastStream has no state: a dict and a changelog topic, as in the hand-written loop, but written with every batch.
"""

from __future__ import annotations

import asyncio
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from faststream import AckPolicy, FastStream, NoCast
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaPublishMessage

from benchmarks.compare.peers.difference import make_patch, pack, read, unpack
from benchmarks.compare.peers.task import PARTITIONS, given, say_done, say_first
from streams.demo.v1.device_pb2 import DeviceState

BATCH_RECORDS = 1000

task = given()
changelog = f"{task.group}-changelog"
broker = KafkaBroker(task.bootstrap, compression_type="zstd", enable_idempotence=True, acks="all", logger=None)
app = FastStream(broker, logger=None)
state: dict[str, tuple[int, DeviceState]] = {}
seen = {"events": 0}


@app.on_startup
async def restore() -> None:
    """Makes the changelog topic, or reads the states from it."""
    admin = AdminClient({"bootstrap.servers": task.bootstrap})
    if changelog not in admin.list_topics(timeout=10).topics:
        topic = NewTopic(changelog, PARTITIONS, 1, config={"cleanup.policy": "compact"})
        for made in admin.create_topics([topic]).values():
            made.result()
        return
    reader = Consumer({
        "bootstrap.servers": task.bootstrap, "group.id": f"{task.group}-restore", "enable.auto.commit": False,
        "enable.partition.eof": True,
    })  # fmt: skip
    left = set(range(PARTITIONS))
    reader.assign([TopicPartition(changelog, partition, OFFSET_BEGINNING) for partition in left])
    while left:
        for message in reader.consume(BATCH_RECORDS, 1.0):
            if message.error() is None:
                sequence, device = unpack(message.value())
                state[message.key().decode()] = sequence, DeviceState.FromString(device)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            else:
                raise KafkaException(message.error())
    reader.close()


async def decode(message: KafkaMessage) -> list[tuple[str, int, bytes]]:
    """The batch, read."""
    return [read(record.value()) for record in message.raw_message]


@broker.subscriber(
    task.source,
    group_id=task.group,
    batch=True,
    max_records=BATCH_RECORDS,
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
    decoder=decode,
)
async def follow(events: NoCast[list[Any]]) -> None:
    """Publishes the patches of a batch and the states they lead to; the batch is acknowledged after both."""
    if not seen["events"]:
        say_first()
    patches, changed = [], {}
    for key, sequence, data in events:
        base, old = state.get(key, (0, None))
        if sequence <= base:
            continue
        new = DeviceState.FromString(data)
        patch = make_patch(key, sequence, base, old, new)
        patches.append(KafkaPublishMessage(patch.SerializeToString(), key=patch.key))
        state[key] = sequence, new
        changed[patch.key] = pack(sequence, data)
    if patches:
        await broker.publish_batch(*patches, topic=task.output)
        rows = [KafkaPublishMessage(row, key=key) for key, row in changed.items()]
        await broker.publish_batch(*rows, topic=changelog)
    seen["events"] += len(events)
    if seen["events"] >= task.events:
        app.exit()


async def main() -> None:
    """Runs until the last batch is acknowledged."""
    await app.run()
    say_done()


if __name__ == "__main__":
    asyncio.run(main())
