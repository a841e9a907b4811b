"""How fast does a worker come back, and what does its state weigh? One million keys, restored from a real changelog.

    streams bench restore                                     # on a Kafka of its own
    streams bench restore --broker kafka://127.0.0.1:9092 --json
    streams bench restore --small

Writes one row per key of the canonical workload's devices (24 fields, about 290 bytes) to a changelog topic through the
kernel, then starts fresh worker processes on it: from the first changelog record asked for to the last row in place,
and the process' resident memory at its peak, interpreter and clients included.

What the figures do not show: a broker that is far away, or a changelog that was not compacted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import measure
from benchmarks.measure import ADMIN_TIMEOUT_MS, Figures, machine, servers
from benchmarks.pipeline import PARTITIONS, WORKER_TIMEOUT_S
from benchmarks.workload import Workload, events
from streams._native import KafkaAdmin, KafkaProducer, Records, Table, keep_freed_memory, murmur2_partition
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.sync.agent import make_job

KEYS = 1_000_000
SMALL_KEYS = 20_000
BATCH = 20_000


def states(keys: int) -> Iterator[tuple[bytes, bytes]]:
    """`keys` entities as (key, CloudEvent): a thousand devices of the canonical workload, again and again under keys of
    their own, so that making them takes no longer than restoring them.
    """
    devices = {key: value for key, value, _ in events(Workload(20_000, 1_000))}
    for number, (key, value) in zip(range(keys), itertools.cycle(devices.items()), strict=False):
        yield b"%07d-%s" % (number, key), value


def fill(broker: str, topic: str, changelog: str, keys: int) -> int:
    """Creates both topics and writes the rows; answers their bytes."""
    config = {"bootstrap.servers": servers(broker)}
    room = {"cleanup.policy": "compact"}
    KafkaAdmin(config).create_topics([(topic, PARTITIONS, 1, {}), (changelog, PARTITIONS, 1, room)], ADMIN_TIMEOUT_MS)
    schema = MessageSchema(DeviceState)
    job = make_job(schema, SyncSettings(source=topic), topic, partitions=0, record_bytes_max=1 << 20)
    producer = KafkaProducer({**config, "compression.type": "lz4", "linger.ms": "20", "batch.size": "1000000"})
    batches = [Records() for _ in range(PARTITIONS)]
    written = 0

    def write(partition: int) -> int:
        table = Table(job, partition)
        step = table.process(batches[partition], int(time.time() * 1000))
        rows = table.changelog(0, step.mark)
        producer.produce(changelog, partition, rows)
        batches[partition] = Records()
        return rows.nbytes

    headers = [("content-type", b"application/cloudevents+protobuf")]
    for offset, (key, value) in enumerate(states(keys)):
        partition = murmur2_partition(key, PARTITIONS)
        batches[partition].append(key, value, headers, -1, offset)
        if len(batches[partition]) == BATCH:
            written += write(partition)
    written += sum(write(partition) for partition in range(PARTITIONS) if len(batches[partition]))
    producer.flush(ADMIN_TIMEOUT_MS)
    return written


def worker(broker: str, topic: str, app_id: str) -> Figures:
    """Runs in a process of its own: starts, restores, and says what it took."""
    from streams.app import App

    keep_freed_memory()  # as `streams worker` does
    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, broker=broker, datadir=datadir, web_enabled=False)
        sync = app.sync(topic, DeviceState)

        async def measured() -> Figures:
            ready = asyncio.Event()
            before, cpu = measure.peak_mb(), time.process_time()
            serving = asyncio.create_task(app.serve(ready.set))
            await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            keys, seconds = sync.states.keys, sync.states.restore_seconds
            figures = {
                "keys": keys,
                "restore_seconds": round(seconds, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "keys_per_second": round(keys / seconds) if seconds else 0,
                "resident_mb": measure.peak_mb(),
                "resident_before_mb": before,
            }
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            return figures

        return asyncio.run(measured())


def run(broker: str, keys: int, times: int = 1, *, small: bool = False) -> Figures:
    """So many restores of one changelog; its topics are deleted after."""
    place = machine()
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    arguments = ["--child", "--broker", broker, "--topic", topic, "--app", app_id]
    with measure.progress("restore", 1 + times) as step:
        row_bytes = fill(broker, topic, f"{app_id}-{topic}-changelog", keys)
        step()
        found = []
        for _ in range(times):
            found.append(measure.child("benchmarks.restore", arguments, WORKER_TIMEOUT_S))
            step()
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    admin.delete_topics([name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)], ADMIN_TIMEOUT_MS)
    return {
        "benchmark": "restore",
        "small": small,
        "verified": all(figures["keys"] == keys for figures in found),
        "repetitions": times,
        "keys": keys,
        "restore_seconds": round(statistics.median(figures["restore_seconds"] for figures in found), 2),
        "keys_per_second": round(statistics.median(figures["keys_per_second"] for figures in found)),
        "resident_mb": max(figures["resident_mb"] for figures in found),
        "resident_before_mb": max(figures["resident_before_mb"] for figures in found),
        "row_bytes": round(row_bytes / keys),
        "cases": [
            {
                "case": f"{keys:,} keys from a changelog on Kafka, state in memory",
                "seconds": measure.spread((figures["restore_seconds"] for figures in found), 2),
                "cpu_seconds": measure.spread((figures["cpu_seconds"] for figures in found), 2),
                "keys_per_second": measure.spread((figures["keys_per_second"] for figures in found), 0),
                "resident_mb": measure.spread((figures["resident_mb"] for figures in found), 0),
                "hash": measure.hash_of(sorted({figures["keys"] for figures in found})),
            }
        ],
        "machine": place,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    parser.add_argument("--app", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app)))
        return 0
    with measure.kafka(given.broker) as broker:
        keys = SMALL_KEYS if given.small else KEYS
        figures = run(broker, keys, measure.repetitions(given), small=given.small)
    return measure.finish(figures, given)


if __name__ == "__main__":
    sys.exit(main())
