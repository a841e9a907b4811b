"""What does a worker with nothing to do cost? CPU as a share of one core, and resident memory.

    streams bench idle                                        # on the embedded log, and on a Kafka of its own
    streams bench idle --broker embedded --small

A fresh worker process with one sync over an empty topic and its web port open: the span begins some seconds after it is
ready, when what starting left behind is done. Each repetition is a worker of its own.

What the figures do not show: a worker that idles with a large state (`streams bench restore` has its memory).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import ADMIN_TIMEOUT_MS, Figures, servers
from benchmarks.pipeline import EMBEDDED, PARTITIONS
from streams._native import KafkaAdmin, keep_freed_memory
from streams.transport.log import Log

SETTLE_S, SMALL_SETTLE_S = 5.0, 0.2
SPAN_S, SMALL_SPAN_S = 20.0, 0.5
TIMEOUT_S = 120


def worker(broker: str, topic: str, app_id: str, settle_s: float, span_s: float) -> Figures:
    """Runs in a process of its own: ready, settled, then watched for a while."""
    from streams import settings
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    async def watched() -> Figures:
        ready = asyncio.Event()
        serving = asyncio.create_task(app.serve(ready.set))
        await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(settle_s)
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.sleep(span_s)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        figures = {"core_percent": round(share * 100, 2), "resident_mb": _resident_mb(), "idle": not serving.done()}
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return figures

    keep_freed_memory()  # as `streams worker` does
    with tempfile.TemporaryDirectory() as datadir:
        given = {"app.id": app_id, "app.broker": broker, "app.datadir": datadir, "app.web_port": _free_port()}
        app = App(app_id, settings=settings.read(flags=given))
        app.sync(topic, DeviceState)
        return asyncio.run(watched())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _resident_mb() -> float:
    """What the process holds now, not its peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(line.split()[1] for line in status if line.startswith("VmRSS"))) / 1024, 1)


def measured(broker: str, times: int, step: measure.Step, *, small: bool) -> Figures:
    """So many workers, one after the other, on an empty topic that is deleted after."""
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    embedded = broker.startswith(EMBEDDED)
    if embedded:
        with Log(broker.removeprefix("embedded://"), "normal") as log:
            log.create_topic(topic, PARTITIONS)
    else:
        admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
        admin.create_topics([(topic, PARTITIONS, 1, {})], ADMIN_TIMEOUT_MS)
    spans = (SMALL_SETTLE_S, SMALL_SPAN_S) if small else (SETTLE_S, SPAN_S)
    arguments = ["--child", "--broker", broker, "--topic", topic, "--app", app_id, "--spans", *map(str, spans)]
    found = []
    for _ in range(times):
        found.append(measure.child("benchmarks.idle", arguments, TIMEOUT_S))
        step()
    if not embedded:
        ours = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)]
        admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
    return {
        "case": broker.partition("://")[0],
        "core_percent": measure.spread((figures["core_percent"] for figures in found), 2),
        "resident_mb": measure.spread((figures["resident_mb"] for figures in found), 1),
        "idle": all(figures["idle"] for figures in found),
    }


def run(broker: str | None, times: int, *, small: bool = False) -> Figures:
    """Embedded, and Kafka unless `broker` is "embedded"."""
    place = measure.machine()
    with_kafka = broker != EMBEDDED
    with measure.progress("idle", times * (1 + with_kafka)) as step:
        with tempfile.TemporaryDirectory(prefix="streams-bench-") as directory:
            cases = [measured(f"embedded://{directory}/log", times, step, small=small)]
        if with_kafka:
            with measure.kafka(broker) as address:
                cases.append(measured(address, times, step, small=small))
    return {
        "benchmark": "idle",
        "small": small,
        "verified": all(case["idle"] for case in cases),
        "repetitions": times,
        "cases": cases,
        "machine": place,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    parser.add_argument("--app", help=argparse.SUPPRESS)
    parser.add_argument("--spans", nargs=2, type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app, *given.spans)))
        return 0
    return measure.finish(run(given.broker, measure.repetitions(given), small=given.small), given)


if __name__ == "__main__":
    sys.exit(main())
