"""What does an event cost as keys, messages, changes, duplicates, partitions and workers grow?

    streams bench scaling                                     # on a Kafka of its own
    streams bench scaling --only keys --only workers
    streams bench scaling --small --json

One thing is varied at a time, the others stay as they are. Worker processes start on a filled topic, exactly once; the
cost is counted from when every key exists (and every worker has begun) to the last commit: CPU of all worker processes,
and wall time. RocksDB finds its keys in place: the stores are filled before. Each point takes at most 1 GB of input and
60 s, repetitions included: there are as many as fit, five at most. Its topics are deleted after. The patches that were
committed are counted and must be what the events make.

What the figures do not show: more than one machine. Two workers and their broker share the cores of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure, wide
from benchmarks.measure import ADMIN_TIMEOUT_MS, ROOT, Figures, servers
from benchmarks.wide import Load
from streams._native import (
    KafkaAdmin,
    KafkaConsumer,
    KafkaProducer,
    Records,
    Table,
    keep_freed_memory,
    murmur2_partition,
)
from streams.kernel.schema import MessageSchema
from streams.options import SyncSettings
from streams.state.rocks import Memory, Store, StoreName
from streams.sync.agent import make_job
from streams.sync.topics import SyncTopics
from streams.transport.tail import read_to_end

INPUT_BYTES_MAX = 10**9
POINT_S_MAX = 60.0
EVENTS, SMALL_EVENTS = 400_000, 2_000
KEYS = 20_000
DISK_BYTES = 80
"""Of the messages whose keys are counted up to ten millions on disk: a gigabyte of input holds no larger ones."""
SAMPLE_S = 0.05
POLL_S = 0.1
TIMEOUT_MS = 60_000
READY_TIMEOUT_S = 120
STORE_ROWS = 20_000
NOW_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """One place on one curve."""

    dimension: str
    value: float
    load: Load
    state: str = "memory"
    partitions: int = 4
    workers: int = 1


def _load(keys: int = KEYS, **given: Any) -> Load:
    """As many events as are usual, or as a gigabyte has room for."""
    load = Load(keys, EVENTS, **given)
    room = INPUT_BYTES_MAX // load.record_bytes - (load.total - load.events)
    return Load(keys, min(EVENTS, room), **given)


def points() -> list[Point]:
    """Every point of every curve."""
    return [
        *(Point("keys", keys, _load(keys)) for keys in (1_000, 10_000, 100_000, 1_000_000)),
        *(
            Point("keys on disk", keys, _load(keys, message_bytes=DISK_BYTES, already=True), "rocksdb")
            for keys in (10_000, 100_000, 1_000_000, 10_000_000)
        ),
        *(Point("message bytes", size, _load(1_000, message_bytes=size)) for size in (100, 1_000, 10_000, 100_000)),
        *(Point("changed", share, _load(changed=share)) for share in (0.0, 0.1, 0.5, 1.0)),
        *(Point("duplicates", share, _load(duplicates=share)) for share in (0.0, 0.3, 0.6, 0.9)),
        *(Point("partitions", count, _load(), partitions=count) for count in (1, 4, 16)),
        *(Point("workers", count, _load(), workers=count) for count in (1, 2)),
    ]


def small_points() -> list[Point]:
    """All code paths in one: filled stores, repeated events, two workers."""
    load = Load(500, SMALL_EVENTS, duplicates=0.5, already=True)
    return [Point("duplicates", 0.5, load, "rocksdb", partitions=2, workers=2)]


# -- the workers ------------------------------------------------------------------------------------------------------


def worker(broker: str, topic: str, app_id: str, state: str, datadir: str, number: int) -> Figures:
    """Runs in a process of its own until its standard input ends; says `ready` when it is, its samples at the end."""
    from streams import settings
    from streams.app import App

    given = {"app.id": app_id, "app.broker": broker, "app.datadir": datadir, "app.instance": f"worker-{number}"}
    samples: list[tuple[float, int, float]] = []

    async def serve() -> None:
        serving = asyncio.create_task(app.serve(lambda: print("ready", flush=True)))
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not (serving.done() or ended.done()):
            samples.append((time.monotonic(), sync.counts["events"], time.process_time()))
            await asyncio.sleep(SAMPLE_S)
        if serving.done():
            await serving
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    keep_freed_memory()  # as `streams worker` does
    app = App(app_id, settings=settings.read(flags=given), web_enabled=False)
    spec = SyncSettings(source=topic, message="benchmarks.Wide", output=f"{app_id}.patches", state=state)
    sync = app.add_sync(spec, wide.message_class())
    asyncio.run(serve())
    return {"samples": samples, "counts": {name: count for name, count in sync.counts.items() if count}}


class Worker:
    """A worker process: what it says is read as it comes."""

    def __init__(self, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.scaling", "--child", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
        )
        self.ready = threading.Event()
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=each) for each in (self._read, self._drain)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            self.ready.set()
        self.ready.set()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        self._errors += self._process.stderr

    def check(self) -> None:
        """SystemExit when it has ended by itself."""
        if self._process.poll() is not None:
            self._threads[1].join()
            raise SystemExit(f"a worker ended with {self._process.returncode}:\n{''.join(self._errors)[-4000:]}")

    def end(self) -> Figures:
        """Stops it; what it sampled."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(READY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        if self._process.returncode:
            raise SystemExit(f"a worker ended with {self._process.returncode}:\n{''.join(self._errors)[-4000:]}")
        figures: Figures = json.loads(self._lines[-1])
        return figures

    def kill(self) -> None:
        """At once, where the bench itself has failed."""
        if self._process.poll() is None:
            self._process.kill()


def between(found: Sequence[Figures], created: int) -> tuple[int, float, float]:
    """Events, wall and CPU seconds from when every key exists and every worker has begun, to the last event."""
    moments = sorted({sample[0] for figures in found for sample in figures["samples"]})

    def at(figures: Figures, moment: float) -> tuple[int, float]:
        last = [sample for sample in figures["samples"] if sample[0] <= moment]
        return (last[-1][1], last[-1][2]) if last else (0, 0.0)

    whole = [at(figures, moments[-1])[0] for figures in found]

    def has_begun(moment: float) -> bool:
        counts = [at(figures, moment)[0] for figures in found]
        return sum(counts) >= created and all(count > 0 for count, total in zip(counts, whole, strict=True) if total)

    # One sample earlier, so that what came between the two is counted with its time.
    began = moments[max(next((at for at, moment in enumerate(moments) if has_begun(moment)), 0) - 1, 0)]
    ended = next(
        moment for moment in moments
        if all(at(figures, moment)[0] == total for figures, total in zip(found, whole, strict=True))
    )  # fmt: skip
    pairs = [(at(figures, began), at(figures, ended)) for figures in found]
    events = sum(last[0] - first[0] for first, last in pairs)
    return events, max(ended - began, SAMPLE_S), sum(last[1] - first[1] for first, last in pairs)


# -- one point --------------------------------------------------------------------------------------------------------


class Bench:
    """One point on one broker: topic, stores, workers, verdict."""

    def __init__(self, broker: str, point: Point, directory: Path) -> None:
        self._broker = broker
        self._point = point
        self._directory = directory
        self._name = f"bench-{uuid.uuid4().hex[:8]}"
        self._topic = f"{self._name}-wide"
        self._admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
        self._rounds = 0

    def __enter__(self) -> Bench:
        self._admin.create_topics([(self._topic, self._point.partitions, 1, {})], ADMIN_TIMEOUT_MS)
        return self

    def __exit__(self, *_: object) -> None:
        ours = [name for name in self._admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(self._name)]
        self._admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
        shutil.rmtree(self._directory, ignore_errors=True)

    def prepare(self) -> None:
        """Fills the topic, and the stores."""
        config = {"bootstrap.servers": servers(self._broker), "compression.type": "lz4", "linger.ms": "20"}
        producer = KafkaProducer({**config, "message.max.bytes": "2000000", "enable.idempotence": "true"})
        for batch in wide.batches(wide.events(self._point.load)):
            producer.produce(self._topic, -1, batch, TIMEOUT_MS)
        producer.flush(TIMEOUT_MS)
        producer.close()
        if self._point.load.already:
            self._fill_stores()

    def _fill_stores(self) -> None:
        """The rows of all keys as a worker would have left them, behind a changelog that is empty."""
        point, memory = self._point, Memory()
        schema = MessageSchema(wide.message_class())
        job = make_job(schema, SyncSettings(source=self._topic), self._topic, partitions=0, record_bytes_max=1 << 20)
        place = self._directory / "filled" / "state" / self._topic
        stores = [Store(place / str(partition), memory) for partition in range(point.partitions)]
        parts = [Records() for _ in stores]

        def write(partition: int) -> None:
            table = Table(job, partition)
            step = table.process(parts[partition], NOW_MS)
            stores[partition].write(table.changelog(0, step.mark), 0)
            parts[partition] = Records()

        for name, value, headers in wide.created(point.load):
            partition = murmur2_partition(name, point.partitions)
            parts[partition].append(name, value, headers, NOW_MS, -1)
            if len(parts[partition]) == STORE_ROWS:
                write(partition)
        for partition, store in enumerate(stores):
            if len(parts[partition]):
                write(partition)
            store.close()

    def _changelog(self, app_id: str) -> bytes:
        """Makes the changelog that the stores stand for; its id."""
        name = SyncTopics.of(app_id, self._topic, "").changelog
        config = {"cleanup.policy": "compact"}
        self._admin.create_topics([(name, self._point.partitions, 1, config)], ADMIN_TIMEOUT_MS)
        while not (found := self._admin.topic_ids([name], ADMIN_TIMEOUT_MS)):
            time.sleep(POLL_S)
        return found[name]

    def _give_stores(self, own: Path, app_id: str, changelog: bytes) -> None:
        """A worker's copy of the stores, which are its application's."""
        shutil.copytree(self._directory / "filled", own, copy_function=_link)
        for partition in range(self._point.partitions):
            store = Store(own / "state" / self._topic / str(partition))
            store.take_name(StoreName(app_id, partition, changelog))
            store.close()

    def measured(self, deadline_s: float) -> Figures:
        """One repetition: cost per event, and whether the patches are as many as they must be."""
        self._rounds += 1
        app_id = f"{self._name}-{self._rounds}"
        datadir = self._directory / f"round-{self._rounds}"
        with ExitStack() as stack:
            workers = []
            changelog = self._changelog(app_id) if self._point.load.already else b""
            for number in range(self._point.workers):
                own = datadir / str(number)
                if self._point.load.already:
                    self._give_stores(own, app_id, changelog)
                own.mkdir(parents=True, exist_ok=True)
                arguments = [
                    "--broker", self._broker, "--topic", self._topic, "--app", app_id, "--state", self._point.state,
                    "--datadir", str(own), "--number", str(number),
                ]  # fmt: skip
                workers.append(Worker(arguments))
                stack.callback(workers[-1].kill)
            complete = self._wait(app_id, workers, deadline_s)
            found = [each.end() for each in workers]
        events, wall, cpu = between(found, self._point.load.total - self._point.load.events)
        patches = self._patches(app_id)
        wanted = wide.patches(self._point.load)
        shutil.rmtree(datadir, ignore_errors=True)
        return {
            "events": events,
            "wall": wall,
            "cpu": cpu,
            "complete": complete,
            "patches": patches,
            "verified": patches == wanted if complete else patches <= wanted,
        }

    def _wait(self, app_id: str, workers: Sequence[Worker], deadline_s: float) -> bool:
        """Until everything is committed; False: the time was up."""
        for each in workers:
            each.ready.wait(READY_TIMEOUT_S)
            each.check()
        reader = KafkaConsumer({"bootstrap.servers": servers(self._broker), "group.id": app_id})
        partitions = [(self._topic, partition) for partition in range(self._point.partitions)]
        ends = {where: reader.watermarks(*where, ADMIN_TIMEOUT_MS)[1] for where in partitions}
        try:
            while time.monotonic() < deadline_s:
                for each in workers:
                    each.check()
                done = reader.committed(partitions, ADMIN_TIMEOUT_MS)
                if all(offset >= ends[topic, partition] for topic, partition, offset in done if ends[topic, partition]):
                    return True
                time.sleep(POLL_S)
        finally:
            reader.close()
        return False

    def _patches(self, app_id: str) -> int:
        """Committed patches, counted."""
        count = 0

        def add(_topic: str, _partition: int, records: Records) -> None:
            nonlocal count
            count += len(records)

        start = {(f"{app_id}.patches", partition): 0 for partition in range(self._point.partitions)}
        read_to_end({"bootstrap.servers": servers(self._broker)}, start, add, lambda: True, "bench")
        return count


def _link(source: str, target: str) -> None:
    """Files of rows never change and are shared; RocksDB writes on in the others."""
    if source.endswith(".sst"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def measured(broker: str, point: Point, times: int) -> Figures:
    """All repetitions of one point that its time has room for."""
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as directory, \
            Bench(broker, point, Path(directory) / "data") as bench:  # fmt: skip
        bench.prepare()
        began, found = time.monotonic(), []
        while len(found) < times and (
            not found or time.monotonic() - began < POINT_S_MAX * len(found) / (len(found) + 1)
        ):
            found.append(bench.measured(began + POINT_S_MAX))
    return {
        "case": f"{point.dimension} {measure.number(point.value)}",
        "dimension": point.dimension,
        "value": point.value,
        "state": point.state,
        "keys": point.load.keys,
        "message_bytes": point.load.message_bytes,
        "input_bytes": point.load.total * point.load.record_bytes,
        "repetitions": len(found),
        "complete": all(each["complete"] for each in found),
        "verified": all(each["verified"] for each in found),
        "cpu_us_per_event": measure.spread((each["cpu"] / max(each["events"], 1) * 1e6 for each in found), 2),
        "us_per_event": measure.spread((each["wall"] / max(each["events"], 1) * 1e6 for each in found), 2),
        "events_per_second": measure.spread((each["events"] / each["wall"] for each in found), 0),
        "hash": measure.hash_of(sorted({each["patches"] for each in found})),
    }


def run(broker: str, chosen: Sequence[Point], times: int, *, small: bool = False) -> Figures:
    """Point after point."""
    machine = measure.machine()
    with measure.progress("scaling", len(chosen)) as step:
        cases = []
        for point in chosen:
            cases.append(measured(broker, point, times))
            step()
    return {
        "benchmark": "scaling",
        "small": small,
        "verified": all(case["verified"] for case in cases),
        "repetitions": times,
        "seed": wide.SEED,
        "cases": cases,
        "machine": machine,
    }


def show(run: Figures) -> None:
    """A line per point."""
    print(f"{measure.described(run['machine'])}\n")
    print(f"{'':24} {'CPU µs per event':>24} {'wall µs per event':>24} {'events/s':>10}   (minimum / median / maximum)")
    for case in run["cases"]:
        parts = (" / ".join(f"{value:.2f}" for value in case[name].values())
                 for name in ("cpu_us_per_event", "us_per_event"))  # fmt: skip
        cut = "" if case["complete"] else "  cut at 60 s"
        rate = case["events_per_second"]["median"]
        print(f"{case['case']:24} " + " ".join(f"{part:>24}" for part in parts) + f" {rate:>10,.0f}{cut}")
    print(f"\nas many patches as the events make: {run['verified']}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    dimensions = list(dict.fromkeys(point.dimension for point in points()))
    parser.add_argument("--only", action="append", choices=dimensions, help="this curve; may be given several times")
    for hidden in ("--topic", "--app", "--state", "--datadir", "--number"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(worker(given.broker, given.topic, given.app, given.state, given.datadir, int(given.number))))
        return 0
    chosen = [
        point for point in (small_points() if given.small else points())
        if not given.only or point.dimension in given.only
    ]  # fmt: skip
    times = given.repetitions or (1 if given.small else measure.REPETITIONS)
    with measure.kafka(given.broker) as broker:
        found = run(broker, chosen, times, small=given.small)
    return measure.finish(found, given, show=show)


if __name__ == "__main__":
    sys.exit(main())
