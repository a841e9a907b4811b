"""Faust as its documentation has it: an agent, event after event, a table in memory, its changelog. At least once."""

from __future__ import annotations

import sys

import faust

from benchmarks.compare.peers.difference import make_patch, pack, read, unpack
from benchmarks.compare.peers.task import PARTITIONS, given, say_done, say_first
from streams.demo.v1.device_pb2 import DeviceState

task = given()
app = faust.App(
    task.group,
    broker=f"kafka://{task.bootstrap}",
    datadir=task.directory,
    store="memory://",
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    producer_compression_type="zstd",
    topic_disable_leader=True,
    web_enabled=False,
)
RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
source = app.topic(task.source, **RAW)
output = app.topic(task.output, partitions=PARTITIONS, **RAW)
devices = app.Table("devices", key_type=bytes, value_type=bytes, partitions=PARTITIONS)


@app.agent(source)
async def follow(stream: faust.StreamT) -> None:
    """Sends a patch for every event that is news."""
    events = 0
    async for event in stream.events():
        if not events:
            say_first()
        events += 1
        key, sequence, data = read(event.value)
        stored = devices.get(event.key)
        base, before = unpack(stored) if stored is not None else (0, None)
        if sequence > base:
            old = DeviceState.FromString(before) if before is not None else None
            patch = make_patch(key, sequence, base, old, DeviceState.FromString(data))
            devices[event.key] = pack(sequence, data)
            await output.send(key=event.key, value=patch.SerializeToString())
        if events == task.events:
            await app.producer.flush()
            await app.consumer.commit()
            say_done()


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--loglevel", "warn"]
    app.main()
