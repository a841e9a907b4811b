"""How fast is the main job? The canonical workload through one worker process on a real Kafka, exactly once, checked.

    python benchmarks/pipeline.py --broker kafka://127.0.0.1:9092 --json
    python benchmarks/pipeline.py --broker kafka://127.0.0.1:9092 --small

Fills the topic `bench-devices-...` once per broker (generating takes a minute the first time), then runs a fresh worker
process from the start of the topic: from READY to the last commit. Its outputs are read at read_committed and held
against a plain replay. `cpu_us_per_event` is user + system time of the worker process, all threads, in that span.

What the figures do not show: a network between worker and broker, replication, a broker with other work to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.workload import CANONICAL, SMALL, Check, Workload, expected, fill
from streams._native import KafkaAdmin, KafkaConsumer
from streams.transport.tail import read_to_end

PARTITIONS = 4
POLL_S = 0.02
WORKER_TIMEOUT_S = 600
ADMIN_TIMEOUT_MS = 30_000


def servers(broker: str) -> str:
    """The broker's address without our scheme."""
    return broker.removeprefix("kafka://")


def source_topic(workload: Workload) -> str:
    """One topic per workload, filled once and kept."""
    return f"bench-devices-{workload.events}-{workload.devices}"


def ensure_source(workload: Workload, broker: str) -> str:
    """The filled source topic."""
    topic = source_topic(workload)
    config = {"bootstrap.servers": servers(broker)}
    if topic in KafkaAdmin(config).topics(ADMIN_TIMEOUT_MS):
        reader = KafkaConsumer({**config, "group.id": "bench"})
        held = sum(reader.watermarks(topic, p, ADMIN_TIMEOUT_MS)[1] for p in range(PARTITIONS))
        reader.close()
        if held == workload.events:
            return topic
        KafkaAdmin(config).delete_topics([topic], ADMIN_TIMEOUT_MS)
        time.sleep(2)  # the broker removes it in the background
    fill(workload, servers(broker), topic, PARTITIONS)
    return topic


def worker(broker: str, topic: str, app_id: str, events: int, guarantee: str, state: str) -> dict[str, Any]:
    """Runs in a process of its own: one worker, from READY until every event is committed."""
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, broker=broker, datadir=datadir, guarantee=guarantee, web_enabled=False)
        sync = app.sync(topic, DeviceState, output=f"{app_id}.patches", state=state)

        async def measure() -> None:
            ready = asyncio.Event()
            began = time.perf_counter()
            serving = asyncio.create_task(app.serve(ready.set))
            await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
            start_s, cpu = time.perf_counter() - began, time.process_time()
            began = time.perf_counter()
            while not serving.done() and (sync.counts["events"] < events or not app.consumer.pipeline.idle):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            seconds = time.perf_counter() - began
            cpu = time.process_time() - cpu
            if serving.done():
                await serving
            ledger = app.consumer.ledger
            stages = {"kernel": sync.kernel_seconds, **ledger.seconds}
            figures.update(
                events=sync.counts["events"],
                seconds=round(seconds, 3),
                start_seconds=round(start_s, 2),
                events_per_second=round(sync.counts["events"] / seconds),
                cpu_us_per_event=round(cpu / max(sync.counts["events"], 1) * 1e6, 2),
                stages_us_per_event={
                    name: round(spent / max(sync.counts["events"], 1) * 1e6, 3) for name, spent in stages.items()
                },
                transactions=ledger.transactions,
                counts={name: count for name, count in sync.counts.items() if count},
                resident_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            )
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

        asyncio.run(measure())
    return figures


def verify(broker: str, topic: str, workload: Workload) -> list[str]:
    """Reads the committed patches and holds them against the plain replay."""
    check = Check(expected(workload))
    start = {(topic, partition): 0 for partition in range(PARTITIONS)}
    config = {"bootstrap.servers": servers(broker)}
    # To the end of the log, not to the last stable offset: commit markers may still be on their way.
    read_to_end(config, start, lambda _, partition, records: check.add(records), lambda: True, "bench")
    return check.findings()


def run(broker: str, workload: Workload, guarantee: str, state: str) -> dict[str, Any]:
    """One measured run; its topics are deleted after."""
    source = ensure_source(workload, broker)
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    command = [
        sys.executable, __file__, "--child", "--broker", broker, "--topic", source, "--app", app_id,
        "--events", str(workload.events), "--guarantee", guarantee, "--state", state,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=WORKER_TIMEOUT_S, check=False)
    if done.returncode:
        raise SystemExit(f"the worker ended with {done.returncode}:\n{done.stderr[-4000:]}")
    sys.stderr.write(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    findings = verify(broker, f"{app_id}.patches", workload)
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    ours = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)]
    admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
    return {
        "benchmark": "pipeline",
        "guarantee": guarantee,
        "state": state,
        "verified": not findings,
        **({"findings": findings} if findings else {}),
        **figures,
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="kafka://127.0.0.1:9092")
    parser.add_argument("--guarantee", default="exactly_once", choices=("exactly_once", "at_least_once"))
    parser.add_argument("--state", default="memory", choices=("memory", "rocksdb"))
    parser.add_argument("--small", action="store_true", help="50,000 events: a smoke test, no figure")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    for hidden in ("--child", "--topic", "--app", "--events"):
        kind = {"action": "store_true"} if hidden == "--child" else {}
        parser.add_argument(hidden, help=argparse.SUPPRESS, **kind)  # type: ignore[arg-type]
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app, int(given.events), given.guarantee, given.state)))
        return 0
    figures = run(given.broker, SMALL if given.small else CANONICAL, given.guarantee, given.state)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:22} {value}")
    return 0 if figures["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
