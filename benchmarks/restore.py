"""How fast does a worker come back, and what does its state weigh? One million keys, restored from a real changelog.

    python benchmarks/restore.py --broker kafka://127.0.0.1:9092 --json
    python benchmarks/restore.py --broker kafka://127.0.0.1:9092 --small

Writes one row per key of the canonical workload's devices (24 fields, about 290 bytes) to a changelog topic through the
kernel, then starts a worker process on it: from the first changelog record asked for to the last row in place, and the
process' resident memory at its peak, interpreter and clients included.

What the figures do not show: a broker that is far away, or a changelog that was not compacted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.pipeline import ADMIN_TIMEOUT_MS, PARTITIONS, WORKER_TIMEOUT_S, machine, servers
from benchmarks.workload import Workload, events
from streams._native import KafkaAdmin, KafkaProducer, Records, Table, murmur2_partition
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


def worker(broker: str, topic: str, app_id: str) -> dict[str, Any]:
    """Runs in a process of its own: starts, restores, and says what it took."""
    from streams.app import App

    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, broker=broker, datadir=datadir, web_enabled=False)
        sync = app.sync(topic, DeviceState)

        async def measure() -> dict[str, Any]:
            ready = asyncio.Event()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            serving = asyncio.create_task(app.serve(ready.set))
            await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            keys, seconds = sync.states.keys, sync.states.restore_seconds
            figures = {
                "keys": keys,
                "restore_seconds": round(seconds, 2),
                "keys_per_second": round(keys / seconds) if seconds else 0,
                "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "resident_before_mb": round(before / 1024),
            }
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            return figures

        return asyncio.run(measure())


def run(broker: str, keys: int) -> dict[str, Any]:
    """One measured restore; its topics are deleted after."""
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    row_bytes = fill(broker, topic, f"{app_id}-{topic}-changelog", keys)
    command = [sys.executable, __file__, "--child", "--broker", broker, "--topic", topic, "--app", app_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WORKER_TIMEOUT_S, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(f"the worker ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    admin.delete_topics([name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)], ADMIN_TIMEOUT_MS)
    return {
        "benchmark": "restore",
        "verified": figures["keys"] == keys,
        **figures,
        "row_bytes": round(row_bytes / keys),
        "machine": machine(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="kafka://127.0.0.1:9092")
    parser.add_argument("--small", action="store_true", help="20,000 keys: a smoke test, no figure")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    parser.add_argument("--app", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app)))
        return 0
    figures = run(given.broker, SMALL_KEYS if given.small else KEYS)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:20} {value}")
    return 0 if figures["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
