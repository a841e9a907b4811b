"""Pathway: group by key, a stateful reducer over the updates of a minibatch, a stream of patches out.

At least once, snapshots on disk every 5 s. It never ends by itself and cannot tell what was acknowledged: it is timed
until its last output is in the topic.
"""

from __future__ import annotations

import pathway as pw

from benchmarks.compare.peers.difference import make_patch, read
from benchmarks.compare.peers.task import given, say_first
from streams.demo.v1.device_pb2 import DeviceState

SNAPSHOT_MS = 5000

State = tuple[int, bytes, list[tuple[int, bytes]]]

task = given()
settings = {
    "bootstrap.servers": task.bootstrap,
    "group.id": task.group,
    "auto.offset.reset": "earliest",
    "compression.type": "zstd",
}
seen = {"events": 0}


@pw.udf(deterministic=True)
def key_of(value: bytes) -> str:
    """The key to group by."""
    if not seen["events"]:
        say_first()
    seen["events"] += 1
    return read(value)[0]


@pw.reducers.stateful_many
def follow(held: State | None, updates: list[tuple[list[bytes], int]]) -> State:
    """The new state of a key, and the patches of this minibatch."""
    base, before, _ = held or (0, None, [])
    old = DeviceState.FromString(before) if before is not None else None
    patches = []
    # Events of a minibatch come in no order.
    for key, sequence, data in sorted((read(row[0]) for row, count in updates if count > 0), key=lambda each: each[1]):
        if sequence <= base:
            continue
        new = DeviceState.FromString(data)
        patches.append((sequence, make_patch(key, sequence, base, old, new).SerializeToString()))
        base, before, old = sequence, data, new
    return base, before or b"", patches


events = pw.io.kafka.read(settings, task.source, format="raw", autogenerate_key=True)
keyed = events.select(key=key_of(pw.this.data), data=pw.this.data)
states = keyed.groupby(pw.this.key).reduce(pw.this.key, state=follow(pw.this.data))
changed = states.to_stream().filter(pw.this.is_upsert)
patches = changed.select(pw.this.key, patch=pw.this.state[2]).flatten(pw.this.patch)
rows = patches.select(pw.this.key, revision=pw.this.patch[0], value=pw.this.patch[1])
# Without an order of their own the patches of a key leave a minibatch in any; the column has to be in the record too.
pw.io.kafka.write(
    rows, settings, task.output, format="raw",
    key=rows.key, value=rows.value, headers=[rows.revision], sort_by=[rows.revision],
)  # fmt: skip

if __name__ == "__main__":
    kept = pw.persistence.Config(pw.persistence.Backend.filesystem(task.directory), snapshot_interval_ms=SNAPSHOT_MS)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE, persistence_config=kept)
