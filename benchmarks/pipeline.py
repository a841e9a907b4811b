"""How fast is the main job? The canonical workload through one worker process, exactly once, outputs checked.

    streams bench pipeline                                    # on a Kafka of its own
    streams bench pipeline --broker kafka://127.0.0.1:9092 --json
    streams bench pipeline --broker embedded --small

Fills the topic `bench-devices-...` once per broker (generating takes two minutes the first time), then runs fresh
worker processes from the start of the topic: from READY to the last commit. Outputs are read at read_committed and held
against a plain replay. `cpu_us_per_event` is user + system time of the worker process, all threads, in that span;
`stages_us_per_event` is wall time, and stages of two threads overlap.

What the figures do not show: a network between worker and broker, replication, a broker with other work to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import measure
from benchmarks.measure import ADMIN_TIMEOUT_MS, Figures, machine, servers
from benchmarks.workload import CANONICAL, SMALL, Check, Workload, blocks, expected, fill
from streams._native import KafkaAdmin, KafkaConsumer, Records, keep_freed_memory, murmur2_partition
from streams.transport.log import Log
from streams.transport.tail import read_to_end

PARTITIONS = 4
POLL_S = 0.02
WORKER_TIMEOUT_S = 600
READ_RECORDS_MAX = 50_000
EMBEDDED = "embedded"


def source_topic(workload: Workload) -> str:
    """One topic per workload, filled once and kept."""
    return f"bench-devices-{workload.events}-{workload.devices}"


def ensure_source(workload: Workload, broker: str) -> str:
    """The filled source topic."""
    topic = source_topic(workload)
    if broker.startswith(EMBEDDED):
        _fill_embedded(workload, broker, topic)
        return topic
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


def _fill_embedded(workload: Workload, broker: str, topic: str) -> None:
    """Writes the workload to the log, unless it is there; keys lie where Kafka would have them."""
    with Log(_directory(broker), "normal") as log:
        if topic in log.topics():
            return
        log.create_topic(topic, PARTITIONS, retention_ms=-1)
        for block in blocks(workload):
            parts = [Records() for _ in range(PARTITIONS)]
            for index in range(len(block)):
                key = block.key(index) or b""
                parts[murmur2_partition(key, PARTITIONS)].append(key, block.value(index), block.headers(index))
            log.append([(topic, partition, part) for partition, part in enumerate(parts) if len(part)])


def _directory(broker: str) -> Path:
    return Path(broker.removeprefix("embedded://"))


def worker(broker: str, topic: str, app_id: str, events: int, guarantee: str, state: str) -> Figures:
    """Runs in a process of its own: one worker, from READY until every event is committed."""
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    keep_freed_memory()  # as `streams worker` does
    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, broker=broker, datadir=datadir, guarantee=guarantee, web_enabled=False)
        sync = app.sync(topic, DeviceState, output=f"{app_id}.patches", state=state)
        return asyncio.run(_measured(app, sync, events))


async def _measured(app: Any, sync: Any, events: int) -> Figures:
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
    done = max(sync.counts["events"], 1)
    stages = {"kernel": sync.kernel_seconds, **ledger.seconds}
    figures = {
        "events": sync.counts["events"],
        "seconds": round(seconds, 3),
        "start_seconds": round(start_s, 2),
        "events_per_second": round(sync.counts["events"] / seconds),
        "cpu_us_per_event": round(cpu / done * 1e6, 2),
        "stages_us_per_event": {name: round(spent / done * 1e6, 3) for name, spent in stages.items()},
        "transactions": ledger.transactions,
        "counts": {name: count for name, count in sync.counts.items() if count},
        "resident_mb": measure.peak_mb(),
    }
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return figures


def verify(broker: str, topic: str, workload: Workload) -> list[str]:
    """Reads the committed patches and holds them against the plain replay."""
    check = Check(expected(workload))
    if broker.startswith(EMBEDDED):
        with Log(_directory(broker), readonly=True) as log:
            for partition in range(PARTITIONS):
                offset = 0
                while len(records := log.read(topic, partition, offset, READ_RECORDS_MAX)):
                    check.add(records)
                    offset = records.last_offset + 1
        return check.findings()
    start = {(topic, partition): 0 for partition in range(PARTITIONS)}
    config = {"bootstrap.servers": servers(broker)}
    # To the end of the log, not to the last stable offset: commit markers may still be on their way.
    read_to_end(config, start, lambda _, partition, records: check.add(records), lambda: True, "bench")
    return check.findings()


def run(broker: str, workload: Workload, guarantee: str, state: str, *, checked: bool = True) -> Figures:
    """One measured run; its topics are deleted after. `checked`: its outputs are read and held against the replay."""
    source = ensure_source(workload, broker)
    place = machine()
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    arguments = [
        "--child", "--broker", broker, "--topic", source, "--app", app_id,
        "--events", str(workload.events), "--guarantee", guarantee, "--state", state,
    ]  # fmt: skip
    figures = measure.child("benchmarks.pipeline", arguments, WORKER_TIMEOUT_S)
    findings = verify(broker, f"{app_id}.patches", workload) if checked else _miscounted(figures, workload)
    if not broker.startswith(EMBEDDED):
        admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
        ours = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)]
        admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
    return {
        "benchmark": "pipeline",
        "broker": broker.partition("://")[0],
        "guarantee": guarantee,
        "state": state,
        "verified": not findings,
        **({"findings": findings} if findings else {}),
        "hash": f"{expected(workload).hash:016x}",
        **figures,
        "machine": place,
    }


def _miscounted(figures: Figures, workload: Workload) -> list[str]:
    """What the worker itself counted, where nobody read its outputs."""
    wanted, counts = expected(workload), figures["counts"]
    came = {"events": counts["events"], "patches": counts["patches"], "keys": counts["snapshots"]}
    return [f"{came[name]} {name}, the replay has {getattr(wanted, name)}" for name in came
            if came[name] != getattr(wanted, name)]  # fmt: skip


def summary(runs: Sequence[Figures]) -> Figures:
    """Runs of one kind as one object: the spread of what was measured, and each of them."""
    first = runs[0]
    findings = [found for run in runs for found in run.get("findings", ())]
    return {
        "benchmark": "pipeline",
        "verified": all(run["verified"] for run in runs),
        "repetitions": len(runs),
        "machine": first["machine"],
        "cases": [
            {
                "case": f"{first['broker']}, {first['guarantee']}, state in {first['state']}",
                "events": first["events"],
                "events_per_second": measure.spread((run["events_per_second"] for run in runs), 0),
                "cpu_us_per_event": measure.spread((run["cpu_us_per_event"] for run in runs), 2),
                "us_per_event": measure.spread((run["seconds"] / run["events"] * 1e6 for run in runs), 2),
                "stages_us_per_event": {
                    name: measure.spread(run["stages_us_per_event"][name] for run in runs)
                    for name in first["stages_us_per_event"]
                },
                "start_seconds": measure.spread(run["start_seconds"] for run in runs),
                "resident_mb": measure.spread((run["resident_mb"] for run in runs), 0),
                "hash": first["hash"],
                **({"findings": findings} if findings else {}),
            }
        ],
        "runs": list(runs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    parser.add_argument("--guarantee", default="exactly_once", choices=("exactly_once", "at_least_once"))
    parser.add_argument("--state", default="memory", choices=("memory", "rocksdb"))
    for hidden in ("--child", "--topic", "--app", "--events"):
        kind = {"action": "store_true"} if hidden == "--child" else {}
        parser.add_argument(hidden, help=argparse.SUPPRESS, **kind)  # type: ignore[arg-type]
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app, int(given.events), given.guarantee, given.state)))
        return 0
    workload, times = SMALL if given.small else CANONICAL, measure.repetitions(given)
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as directory:
        own = f"embedded://{directory}/log" if given.broker == EMBEDDED else None
        runs = []
        with measure.kafka(own or given.broker) as broker, measure.progress("pipeline", times) as step:
            for _ in range(times):
                runs.append(run(broker, workload, given.guarantee, given.state))
                step()
    if given.save:
        measure.keep(runs, given)  # a line for each worker that ran
        given.save = False
    return measure.finish(summary(runs), given)


if __name__ == "__main__":
    sys.exit(main())
