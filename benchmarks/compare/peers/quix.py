"""Quix Streams: a StreamingDataFrame with state in RocksDB and a changelog topic. At least once, commits every 5 s."""

from __future__ import annotations

from quixstreams import Application, State

from benchmarks.compare.peers.difference import make_patch, pack, read, unpack
from benchmarks.compare.peers.task import given, say_done, say_first
from streams.demo.v1.device_pb2 import DeviceState

task = given()
app = Application(
    broker_address=task.bootstrap,
    consumer_group=task.group,
    auto_offset_reset="earliest",
    state_dir=task.directory,
    producer_extra_config={"compression.type": "zstd"},
)
source = app.topic(task.source, key_deserializer="str", value_deserializer="bytes")
output = app.topic(task.output, key_serializer="str", value_serializer="bytes")
seen = {"events": 0}


def follow(value: bytes, state: State) -> bytes | None:
    """The patch of an event that is news."""
    if not seen["events"]:
        say_first()
    seen["events"] += 1
    if seen["events"] == task.events:
        app.stop()  # after this event and its checkpoint
    key, sequence, data = read(value)
    stored = state.get_bytes("device")
    base, before = unpack(stored) if stored is not None else (0, None)
    if sequence <= base:
        return None
    old = DeviceState.FromString(before) if before is not None else None
    state.set_bytes("device", pack(sequence, data))
    return make_patch(key, sequence, base, old, DeviceState.FromString(data)).SerializeToString()


if __name__ == "__main__":
    patches = app.dataframe(source).apply(follow, stateful=True).filter(lambda patch: patch is not None)
    patches.to_topic(output)
    app.run()
    say_done()
