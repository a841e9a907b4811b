"""Bytewax: Kafka in, a stateful step with recovery in SQLite (a snapshot every 10 s, its default), Kafka out.

At least once, one worker.
"""

from __future__ import annotations

from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kafka
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.compare.peers.difference import make_patch, read
from benchmarks.compare.peers.task import given, say_done, say_first
from streams.demo.v1.device_pb2 import DeviceState

BATCH_RECORDS = 1000

task = given()
brokers = [task.bootstrap]
seen = {"events": 0}

State = tuple[int, bytes]


def keyed(message: KafkaSourceMessage) -> tuple[str, State]:
    """An event under its key."""
    if not seen["events"]:
        say_first()
    seen["events"] += 1
    key, sequence, data = read(message.value)
    return key, (sequence, data)


def follow(held: State | None, event: State) -> tuple[State, list[tuple[int, State, bytes | None]]]:
    """The new state, and what the patch is made from where the event is news."""
    base, before = held if held is not None else (0, None)
    if event[0] <= base:
        return held or event, []
    return event, [(base, event, before)]


def patched(item: tuple[str, tuple[int, State, bytes | None]]) -> KafkaSinkMessage:
    """The patch as a record."""
    key, (base, (sequence, data), before) = item
    old = DeviceState.FromString(before) if before is not None else None
    patch = make_patch(key, sequence, base, old, DeviceState.FromString(data))
    return KafkaSinkMessage(patch.key, patch.SerializeToString())


flow = Dataflow("patches")
source = kafka.input("source", flow, brokers=brokers, topics=[task.source], tail=False, batch_size=BATCH_RECORDS)
changes = op.stateful_flat_map("follow", op.map("keyed", source.oks, keyed), follow)
settings = {"compression.type": "zstd", "enable.idempotence": "true"}
kafka.output("output", op.map("patched", changes, patched), brokers=brokers, topic=task.output, add_config=settings)

if __name__ == "__main__":
    recovery = Path(task.directory)
    init_db_dir(recovery, 1)
    cli_main(flow, recovery_config=RecoveryConfig(recovery))
    say_done()
