"""How fast do patches reach a receiver, and what does an outage cost? The canonical workload's patches over HTTP.

    python benchmarks/delivery.py --broker kafka://127.0.0.1:9092 --json
    python benchmarks/delivery.py --outage --json                     # a target gone for a minute beside a healthy one
    python benchmarks/delivery.py --small                             # a smoke test on the embedded log, no figure

Throughput: the patches are in their topic before the clock starts; one worker process delivers them from the beginning,
signed and zstd-compressed in batches, to a receiver in a process of its own (aiohttp) that unpacks and parses every
batch. Its patches are held against the topic's by count and by an order-independent hash.

Outage: a producer changes 20,000 keys at an even rate; of two targets one answers 503 for a while. Counted: patches
that the sick target got after it came back, how long it took to be level, the worker's memory, the other one's rate.

What the figures do not show: a network between worker and receiver, TLS, a receiver that does something with patches.
Worker, receiver and broker share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.pipeline import WORKER_TIMEOUT_S, machine
from benchmarks.workload import CANONICAL, SMALL, Workload, blocks
from streams._native import xxh3_64
from streams.client.broker import ReaderOptions, WriterOptions
from streams.client.connect import open_reader, open_writer

PARTITIONS = 4
POLL_S = 0.02
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY_BYTES_MAX = 64 << 20
MASK = (1 << 64) - 1


# -- the receiver, a process of its own -------------------------------------------------------------------------------


def receiver(pipe: Connection) -> None:
    """Serves until told to stop. Answers `counts` with what it took, and `sick` and `well` by changing its mind."""
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    from aiohttp import web

    from streams.kernel.compression import decompress
    from streams.v1.patch_pb2 import PatchBatch

    took = {"patches": 0, "requests": 0, "bytes": 0, "refused": 0, "hash": 0}
    sick = False

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if sick:
            took["refused"] += 1
            return web.Response(status=503)
        batch = PatchBatch.FromString(decompress(body, BODY_BYTES_MAX))
        for patch in batch.patches:
            took["hash"] = (took["hash"] + xxh3_64(patch.SerializeToString())) & MASK
        took["patches"] += len(batch.patches)
        took["requests"] += 1
        took["bytes"] += len(body)
        return web.Response()

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/patches", take)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)  # it knows zstd on Python 3.14 alone
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pipe.send(runner.addresses[0][1])
    loop = asyncio.get_running_loop()
    while True:
        asked = await loop.run_in_executor(None, pipe.recv)
        if asked == "stop":
            break
        if asked in ("sick", "well"):
            sick = asked == "sick"
        pipe.send(dict(took))
    await runner.cleanup()


class Receiver:
    """The receiver's process as the benchmark sees it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=receiver, args=(theirs,), daemon=True)
        self._process.start()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}/patches"

    def ask(self, what: str = "counts") -> dict[str, int]:
        """What it took so far, after doing what was asked."""
        self._pipe.send(what)
        counts: dict[str, int] = self._pipe.recv()
        return counts

    def stop(self) -> None:
        """Ends the process."""
        self._pipe.send("stop")
        self._process.join(10)


@contextmanager
def receivers(count: int) -> Iterator[list[Receiver]]:
    """So many receivers, each a process."""
    made = [Receiver() for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.stop()


# -- throughput -------------------------------------------------------------------------------------------------------


def fill(broker: str, workload: Workload, source: str, datadir: str) -> tuple[int, int]:
    """Makes the patches topic by the real sync; answers its patches and their hash."""
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    writer = open_writer(broker, WriterOptions())
    writer.create_topic(source, PARTITIONS)
    events = 0
    for records in blocks(workload):
        writer.write(source, records)
        events += len(records)
    app = App(f"{source}-fill", broker=broker, datadir=datadir, web_enabled=False)
    sync = app.sync(source, DeviceState)

    async def work() -> None:
        serving = asyncio.create_task(app.serve())
        while not serving.done() and (sync.counts["events"] < events or not app.consumer.pipeline.idle):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(work())
    writer.close()
    return _topic_hash(broker, f"{source}.patches")


def _topic_hash(broker: str, topic: str) -> tuple[int, int]:
    reader = open_reader(broker, topic, ReaderOptions(start="earliest"))
    patches = total = 0
    ends = {partition: end for partition, end in reader.ends().items() if end}
    while ends:
        for run in reader.fetch(20_000, 1_000):
            for index in range(len(run.records)):
                total = (total + xxh3_64(run.records.value(index) or b"")) & MASK
            patches += len(run.records)
            if max(run.records.last_offset + 1, run.end) >= ends.get(run.partition, 0):
                ends.pop(run.partition, None)
    reader.close()
    return patches, total


def deliver(broker: str, source: str, url: str, patches: int, datadir: str) -> dict[str, Any]:
    """Runs in a process of its own: one worker with one target, from READY until everything is delivered."""
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    app = App(f"{source}-deliver", broker=broker, datadir=datadir, web_enabled=False)
    app.target("bench", source=source, message=DeviceState, url=url, signing_secret=SECRET, allow_private=True)

    async def measure() -> dict[str, Any]:
        ready = asyncio.Event()
        serving = asyncio.create_task(app.serve(ready.set))
        await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert app.guarded is not None
        assert app.guarded.deliveries is not None
        route = app.guarded.deliveries.routes[0]
        counts = route.counts
        began, cpu = time.perf_counter(), time.process_time()
        while not serving.done() and counts["patches"] < patches:
            await asyncio.sleep(POLL_S)
            if route.held:
                raise SystemExit(f"the target refuses: {dict(counts)}")
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if serving.done():
            await serving
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return {
            "patches": counts["patches"],
            "requests": counts["requests"],
            "seconds": round(seconds, 3),
            "patches_per_second": round(counts["patches"] / seconds),
            "cpu_us_per_patch": round(cpu / max(counts["patches"], 1) * 1e6, 2),
            "bytes_per_patch": round(counts["bytes"] / max(counts["patches"], 1), 1),
            "resident_mb": measure.peak_mb(),
        }

    return asyncio.run(measure())


def throughput(broker: str, workload: Workload) -> dict[str, Any]:
    """One measured run."""
    source = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder, receivers(1) as (target,):
        address = broker or f"embedded://{folder}/log"
        patches, total = fill(address, workload, source, f"{folder}/fill")
        figures = _child("deliver", address, source, target.url, str(patches), f"{folder}/deliver")
        took = target.ask()
    return {
        "benchmark": "delivery",
        "broker": address.partition("://")[0],
        "verified": (took["patches"], took["hash"]) == (patches, total),
        **figures,
        "machine": machine(),
    }


# -- an outage --------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """An even load, and when one of two targets is away."""

    devices: int
    events_per_second: int
    before_s: int
    away_s: int
    after_s: int

    @property
    def workload(self) -> Workload:
        """Enough events for the whole time."""
        seconds = self.before_s + self.away_s + self.after_s
        return Workload(self.events_per_second * seconds, self.devices)


OUTAGE = Plan(20_000, 20_000, 5, 60, 30)
SMALL_OUTAGE = Plan(500, 1_000, 2, 3, 5)
STEP_S = 0.1


def endure(broker: str, source: str, urls: str, plan: Plan, datadir: str) -> dict[str, Any]:
    """Runs in a process of its own: a sync and two targets under an even load; the parent makes one of them sick.

    It says `begun`, `away` and `back` on standard output when the time has come.
    """
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    app = App(f"{source}-outage", broker=broker, datadir=datadir, web_enabled=False)
    app.sync(source, DeviceState)
    for name, url in zip(("well", "sick"), urls.split(","), strict=True):
        app.target(name, source=source, url=url, signing_secret=SECRET, allow_private=True)
    return asyncio.run(_endure(app, broker, source, plan))


async def _endure(app: Any, broker: str, source: str, plan: Plan) -> dict[str, Any]:
    ready = asyncio.Event()
    serving = asyncio.create_task(app.serve(ready.set))
    await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    routes = {route.name: route for route in app.guarded.deliveries.routes}
    board, feed = app.guarded.board, app.guarded.deliveries.feeds[f"{source}.patches"]
    well, sick = routes["well"], routes["sick"]
    loading = asyncio.create_task(asyncio.to_thread(load, broker, source, plan))
    memory_mb: list[int] = []
    pending: list[int] = []
    counts = [well.counts["patches"]]
    marks: dict[str, float] = {}
    print("begun", flush=True)
    began = time.perf_counter()
    while not (loading.done() and "level" in marks) and not serving.done():
        await asyncio.sleep(STEP_S)
        now = time.perf_counter() - began
        if now >= len(counts):
            counts.append(well.counts["patches"])
            memory_mb.append(_resident_mb())
            pending.append(sick.lanes.pending_records)
        if now >= plan.before_s and "away" not in marks:
            marks["away"] = now
            print("away", flush=True)
        if now >= plan.before_s + plan.away_s and "back" not in marks:
            marks["back"], marks["before"] = now, sick.counts["patches"]
            print("back", flush=True)
        if "back" in marks and "closed" not in marks and board.state("sick") == "closed":
            marks["closed"], marks["probes"] = now, sick.counts["patches"] - marks["before"]
            marks["waited"] = sick.lanes.pending_records
        level = sick.lanes.pending_records <= 2 * well.lanes.pending_records + plan.events_per_second * STEP_S
        if "closed" in marks and "level" not in marks and level and not feed.lag("sick"):
            marks["level"] = now
    if serving.done():
        await serving
    serving.cancel()
    await asyncio.gather(serving, loading, return_exceptions=True)
    before, away = plan.before_s, plan.before_s + plan.away_s
    rates = [after - earlier for earlier, after in itertools.pairwise(counts)]
    healthy, during = rates[1:before], rates[before + 1 : away]
    return {
        "keys": plan.devices,
        "patches_waiting_when_back": int(marks["waited"]),
        "patches_of_probes": int(marks["probes"]),
        "seconds_from_back_to_closed": round(marks["closed"] - marks["back"], 2),
        "seconds_from_closed_to_level": round(marks["level"] - marks["closed"], 2),
        "healthy_rate_before": round(statistics.mean(healthy)),
        "healthy_rate_during": round(statistics.mean(during)),
        "pending_patches_max": max(pending),
        "resident_mb_before": memory_mb[before - 1],
        "resident_mb_max": max(memory_mb),
    }


def load(broker: str, source: str, plan: Plan) -> None:
    """Writes the events at an even rate, a tenth of a second's worth at a time."""
    writer = open_writer(broker, WriterOptions())
    step = max(1, int(plan.events_per_second * STEP_S))
    began, written = time.perf_counter(), 0
    for block in blocks(plan.workload):
        for first in range(0, len(block), step):
            part = block.slice(first, first + step)
            writer.write(source, part)
            written += len(part)
            time.sleep(max(0.0, began + written / plan.events_per_second - time.perf_counter()))
    writer.close()


def _resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() >> 20


def outage(broker: str, plan: Plan) -> dict[str, Any]:
    """One measured outage."""
    source = f"bench-{uuid.uuid4().hex[:8]}"
    for _ in blocks(plan.workload):
        break  # made beforehand, if it was not made another time
    with tempfile.TemporaryDirectory() as folder, receivers(2) as (well, sick):
        address = broker or f"embedded://{folder}/log"
        writer = open_writer(address, WriterOptions())
        writer.create_topic(source, PARTITIONS)
        writer.close()
        numbers = ",".join(map(str, plan))
        command = _command("endure", address, source, f"{well.url},{sick.url}", numbers, f"{folder}/data")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            figures = {}
            for line in process.stdout:
                said = line.strip()
                if said in ("away", "back"):
                    sick.ask("sick" if said == "away" else "well")
                elif said.startswith("{"):
                    figures = json.loads(said)
        if process.returncode:
            raise SystemExit(f"the worker ended with {process.returncode}")
        got, refused = sick.ask(), sick.ask()["refused"]
    extra = figures["patches_waiting_when_back"] + figures["patches_of_probes"] - plan.devices
    return {
        "benchmark": "delivery-outage",
        "broker": address.partition("://")[0],
        "away_seconds": plan.away_s,
        "events_per_second": plan.events_per_second,
        **figures,
        "patches_above_one_per_key": max(0, extra),
        "requests_refused": refused,
        "patches_taken_by_sick": got["patches"],
        "verified": figures["patches_waiting_when_back"] <= plan.devices,
        "machine": machine(),
    }


# -- command line -----------------------------------------------------------------------------------------------------


def decision(calls: int = 200_000) -> dict[str, Any]:
    """What asking the board and telling it the outcome costs, with traffic flowing; nanoseconds per call."""
    from streams.circuit.board import Board, Pass
    from streams.options import CircuitSettings

    board = Board(CircuitSettings(), "bench")
    began = time.perf_counter()
    for _ in range(calls):
        answer = board.ask("target")
        if isinstance(answer, Pass):
            board.outcome(answer, "ok", 1_000)
    spent = time.perf_counter() - began
    return {"benchmark": "breaker", "calls": calls, "ns_per_request": round(spent / calls * 1e9), "machine": machine()}


def _command(what: str, *given: str) -> list[str]:
    return [sys.executable, __file__, "--child", what, *given]


def _child(what: str, *given: str) -> dict[str, Any]:
    done = subprocess.run(_command(what, *given), capture_output=True, text=True, timeout=WORKER_TIMEOUT_S, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(f"the worker ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--child"]:
        _, what, broker, source, urls, number, datadir = given
        if what == "deliver":
            print(json.dumps(deliver(broker, source, urls, int(number), datadir)))
        else:
            print(json.dumps(endure(broker, source, urls, Plan(*map(int, number.split(","))), datadir)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="", help="kafka://host:port; default: the embedded log")
    parser.add_argument("--outage", action="store_true", help="a target that is away beside a healthy one")
    parser.add_argument("--decision", action="store_true", help="what a breaker's decision costs")
    parser.add_argument("--small", action="store_true", help="a smoke test, no figure")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    asked = parser.parse_args(given)
    if asked.decision:
        figures = decision(2_000 if asked.small else 200_000)
    elif asked.outage:
        figures = outage(asked.broker, SMALL_OUTAGE if asked.small else OUTAGE)
    else:
        figures = throughput(asked.broker, SMALL if asked.small else CANONICAL)
    if asked.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:30} {value}")
    return 0 if figures.get("verified", True) else 1


if __name__ == "__main__":
    sys.exit(main())
