"""How long from an event to its patch, at which load, and at which load does it break?

    streams bench latency                                     # on a Kafka of its own
    streams bench latency --guarantee at_least_once --interval-ms 5
    streams bench latency --small --json

Open loop: events are due at even intervals whatever comes back, and latency counts from when an event was due, not from
when the sender got around to it: nothing is omitted that a stalled worker would hold up. The end is the moment at which
a reader at read_committed has the patch. Load is raised step by step until a step breaks: the median of its windows'
p99 is over a second, or not all of its patches come. Then half of the highest load that held is measured once more.
Each step is cut into five windows, which are its repetitions; its first second is left out.

Sender and reader are one process beside worker and broker, and take their part of the machine. Events are plain device
states, a workload again and again: which event a patch is for shows in its id, made of partition and offset.

What the figures do not show: a network; a producer that waits for larger batches (this one lingers 5 ms, as the Java
client does).
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks import measure
from benchmarks.measure import ADMIN_TIMEOUT_MS, ROOT, Figures, servers
from benchmarks.workload import CANONICAL, SMALL, Workload, blocks
from streams._native import KafkaAdmin, KafkaConsumer, KafkaProducer, Records, decode_patch, murmur2_partition
from streams.transport.tail import tail_config
from streams.v1.cloudevents_pb2 import CloudEvent

PARTITIONS = 4
LOADS = (1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 125_000, 150_000, 175_000, 200_000, 250_000,
         300_000, 400_000)  # fmt: skip
SMALL_LOADS = (2_000,)
STEP_S, SMALL_STEP_S = 11.0, 1.5
WARM_S = 1.0
WINDOWS = 5
CYCLE, SMALL_CYCLE = 100_000, 5_000
"""Events that are sent again and again; five times as many as there are devices, so that each is a change."""
TICK_S = 0.002
"""The sender wakes up so often; an event is at most so much late for it, which counts as latency."""
BROKEN_MS = 1_000.0
DRAIN_S = 15.0
"""After a step, for what is still under way; a step whose patches do not come by then is broken."""
SAMPLES_PER_SECOND = 3_000
"""Patches looked into: p99.9 of a window of two seconds rests on its six highest. Decoding all would take a core."""
READY_TIMEOUT_S = 60
TIMEOUT_MS = 60_000
CASES = (("exactly_once", 0), ("at_least_once", 0), ("at_least_once", 5))
"""Guarantee and transaction.interval_ms (0: the product's own), of the curves that are measured."""


class Cycle:
    """The events that are sent again and again, and where each of them goes."""

    def __init__(self, workload: Workload, events: int) -> None:
        states = list(_states(workload, events))
        self.events = len(states)
        self.records = Records()
        self.places: list[list[int]] = [[] for _ in range(PARTITIONS)]
        for number, (key, state) in enumerate(states):
            self.places[murmur2_partition(key, PARTITIONS)].append(number)
            self.records.append(key, state)
        held: dict[bytes, bytes] = {}
        self._first = _changes(states, held)
        self._later = _changes(states, held)

    def patches(self, events: int) -> int:
        """How many patches the first `events` events make."""
        rounds, rest = divmod(events, self.events)
        if not rounds:
            return self._first[rest]
        return self._first[-1] + (rounds - 1) * self._later[-1] + self._later[rest]

    def number(self, partition: int, offset: int) -> int:
        """Which event lies at this place of the source topic."""
        place = self.places[partition]
        return offset // len(place) * self.events + place[offset % len(place)]

    def slice(self, start: int, stop: int) -> Iterator[Records]:
        """The events [start, stop), rounds included."""
        while start < stop:
            at = start % self.events
            count = min(stop - start, self.events - at)
            yield self.records.slice(at, at + count)
            start += count


def _states(workload: Workload, events: int) -> Iterator[tuple[bytes, bytes]]:
    left = events
    for block in blocks(workload):
        for index in range(min(len(block), left)):
            yield block.key(index) or b"", CloudEvent.FromString(block.value(index) or b"").proto_data.value
        left -= len(block)
        if left <= 0:
            return


def _changes(states: Sequence[tuple[bytes, bytes]], held: dict[bytes, bytes]) -> list[int]:
    """How many of the first n states differ from what their key held before, for every n; `held` goes on."""
    sums = [0]
    for key, state in states:
        sums.append(sums[-1] + (held.get(key) != state))
        held[key] = state
    return sums


# -- the worker -------------------------------------------------------------------------------------------------------


def worker(broker: str, topic: str, app_id: str, guarantee: str, interval_ms: int) -> None:
    """Runs in a process of its own until its standard input ends; says `ready` when it is."""
    from streams import settings
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    given: dict[str, object] = {"app.id": app_id, "app.broker": broker, "app.guarantee": guarantee}
    if interval_ms:
        given["transaction.interval_ms"] = interval_ms

    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, settings=settings.read(flags={**given, "app.datadir": datadir}), web_enabled=False)
        app.sync(topic, DeviceState, output=f"{app_id}.patches", format="plain", sequence="none")
        asyncio.run(measure.serve_until_told(app))


@contextmanager
def running(broker: str, topic: str, app_id: str, guarantee: str, interval_ms: int) -> Iterator[None]:
    """A worker that is ready, for as long as the block runs."""
    command = [
        sys.executable, "-m", "benchmarks.latency", "--child", "--broker", broker, "--topic", topic, "--app", app_id,
        "--guarantee", guarantee, "--interval-ms", str(interval_ms),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the worker ended with {process.wait(READY_TIMEOUT_S)} before it was ready")
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(READY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- sender and reader ------------------------------------------------------------------------------------------------


class Sender:
    """Hands events over when they are due."""

    def __init__(self, broker: str, topic: str, cycle: Cycle) -> None:
        self._producer = KafkaProducer(
            {"bootstrap.servers": servers(broker), "enable.idempotence": "true", "linger.ms": "5",
             "compression.type": "lz4", "queue.buffering.max.messages": "2000000",
             "queue.buffering.max.kbytes": "2000000"}
        )  # fmt: skip
        self._topic = topic
        self._cycle = cycle
        self.sent = 0
        self.late_ms = 0.0

    def send(self, rate: int, seconds: float) -> float:
        """Sends at `rate` for so long; answers when its first event was due, on the monotonic clock."""
        began, first = time.monotonic(), self.sent
        count, self.late_ms = int(rate * seconds), 0.0
        while self.sent < first + count:
            due = min(int((time.monotonic() - began) * rate), count)
            if due + first > self.sent:
                late_s = time.monotonic() - began - (self.sent - first) / rate
                self.late_ms = max(self.late_ms, late_s * 1000)
                for records in self._cycle.slice(self.sent, first + due):
                    self._producer.produce(self._topic, -1, records, TIMEOUT_MS)
                self.sent = first + due
            time.sleep(TICK_S)
        return began

    def close(self) -> None:
        """Waits for what is under way."""
        self._producer.flush(TIMEOUT_MS)
        self._producer.close()


@dataclass(slots=True)
class Arrivals:
    """What the reader saw: how many patches, and when a sample of them came."""

    patches: int = 0
    every: int = 1
    """Of so many patches one is looked into."""
    came: list[tuple[int, float]] = field(default_factory=list)
    """Number of the event, and the moment on the monotonic clock."""


class Reader(threading.Thread):
    """Reads committed patches as they come."""

    def __init__(self, broker: str, topic: str, cycle: Cycle) -> None:
        super().__init__(name="reader", daemon=True)
        config = {"bootstrap.servers": servers(broker), "fetch.wait.max.ms": "500"}
        self._consumer = KafkaConsumer({**tail_config(config, "bench"), "fetch.min.bytes": "1"})
        self._consumer.assign([(topic, partition, 0) for partition in range(PARTITIONS)])
        self._cycle = cycle
        self._ending = False
        self.arrivals = Arrivals()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Until `end`; what went wrong is kept for whoever waits."""
        try:
            while not self._ending:
                for _, _, records, _ in self._consumer.fetch(50_000, 8 << 20, 50):
                    self._take(records, time.monotonic())
            self._consumer.close()
        except Exception as error:  # noqa: BLE001 - told by who waits for the patches
            self.failure = error

    def _take(self, records: Records, now: float) -> None:
        arrivals = self.arrivals
        for index in range(-arrivals.patches % arrivals.every, len(records), arrivals.every):
            partition, _, offset = decode_patch(records.value(index) or b"")["event_id"].partition("/")
            arrivals.came.append((self._cycle.number(int(partition), int(offset)), now))
        arrivals.patches += len(records)

    def wait(self, patches: int, timeout_s: float) -> bool:
        """Whether so many patches have come, by then."""
        deadline = time.monotonic() + timeout_s
        while self.arrivals.patches < patches:
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def end(self) -> None:
        """Stops and waits."""
        self._ending = True
        self.join()


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; they are in ascending order."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def windows(latencies: Sequence[tuple[float, float]], seconds: float) -> Figures:
    """p50, p99 and p99.9 of each window of a step; `latencies`: due after so many seconds, took so many ms."""
    width = (seconds - WARM_S) / WINDOWS
    parts: list[list[float]] = [[] for _ in range(WINDOWS)]
    for due_s, ms in latencies:
        if due_s >= WARM_S:
            parts[min(int((due_s - WARM_S) / width), WINDOWS - 1)].append(ms)
    parts = [sorted(part) for part in parts if part]
    if not parts:
        return {}
    names = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
    return {name: measure.spread((percentile(part, share) for part in parts), 2) for name, share in names.items()}


class Bench:
    """One worker, one sender, one reader; load after load."""

    def __init__(self, sender: Sender, reader: Reader, cycle: Cycle) -> None:
        self._sender = sender
        self._reader = reader
        self._cycle = cycle

    def warm_up(self, rate: int) -> bool:
        """Every device once, at an easy load: rows exist, code and connections are warm."""
        self._sender.send(rate, self._cycle.events / rate)
        return self._reader.wait(self._cycle.patches(self._sender.sent), 4 * DRAIN_S)

    def step(self, rate: int, seconds: float) -> Figures:
        """One load; `held` says whether it was borne."""
        first = self._sender.sent
        self._reader.arrivals.every = max(rate // SAMPLES_PER_SECOND, 1)
        self._reader.arrivals.came.clear()
        began = self._sender.send(rate, seconds)
        sent_s = time.monotonic() - began
        complete = self._reader.wait(self._cycle.patches(self._sender.sent), DRAIN_S)
        drained_ms = (time.monotonic() - began - sent_s) * 1000
        came = [(number - first, moment) for number, moment in self._reader.arrivals.came if number >= first]
        latencies = [(number / rate, (moment - began - number / rate) * 1000) for number, moment in came]
        figures = windows(latencies, seconds)
        return {
            "case": f"{rate:,} events/s",
            "load": rate,
            "held": complete and bool(figures) and figures["p99_ms"]["median"] <= BROKEN_MS,
            "complete": complete,
            "samples": len(latencies),
            **figures,
            "drained_ms": round(drained_ms, 1),
            "sender_late_ms": round(self._sender.late_ms, 1),
        }


def curve(
    broker: str, cycle: Cycle, guarantee: str, interval_ms: int, loads: Sequence[int], seconds: float,
    step: measure.Step,
) -> Figures:  # fmt: skip
    """Load after load until one breaks, then half of the highest that held. Topics are deleted after."""
    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    admin.create_topics([(topic, PARTITIONS, 1, {})], ADMIN_TIMEOUT_MS)
    steps: list[Figures] = []
    half: Figures | None = None
    try:
        with running(broker, topic, app_id, guarantee, interval_ms):
            sender, reader = Sender(broker, topic, cycle), Reader(broker, f"{app_id}.patches", cycle)
            reader.start()
            bench = Bench(sender, reader, cycle)
            whole = bench.warm_up(loads[0] * 2 if len(loads) == 1 else max(loads[0], cycle.events // 10))
            for load in loads:
                steps.append(bench.step(load, seconds))
                step()
                if not steps[-1]["held"]:
                    break
            held = [each["load"] for each in steps if each["held"]]
            # What a broken step left behind is worked off first; where that never comes, there is no half to measure.
            if held and reader.wait(cycle.patches(sender.sent), 4 * DRAIN_S):
                half = bench.step(held[-1] // 2, seconds)
            whole = whole and reader.wait(cycle.patches(sender.sent), 4 * DRAIN_S)
            wanted, came = cycle.patches(sender.sent), reader.arrivals.patches
            sender.close()
            reader.end()
    finally:
        ours = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)]
        admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
    return {
        "guarantee": guarantee,
        "interval_ms": interval_ms or "default",
        "verified": whole and came == wanted,
        "patches": came,
        "peak": held[-1] if held else 0,
        "half_of_peak": half,
        "cases": steps,
        "hash": measure.hash_of([came, wanted]),
    }


def run(broker: str, cases: Sequence[tuple[str, int]], loads: Sequence[int], *, small: bool = False) -> Figures:
    """A curve for each guarantee and interval."""
    machine = measure.machine()
    workload, events = (SMALL, SMALL_CYCLE) if small else (CANONICAL, CYCLE)
    cycle = Cycle(workload, events)
    with measure.progress("latency", len(cases) * len(loads)) as step:
        seconds = SMALL_STEP_S if small else STEP_S
        curves = [curve(broker, cycle, guarantee, ms, loads, seconds, step) for guarantee, ms in cases]
    return {
        "benchmark": "latency",
        "small": small,
        "verified": all(each["verified"] for each in curves),
        "repetitions": WINDOWS,
        "seed": workload.seed,
        "curves": curves,
        "machine": machine,
    }


def show(run: Figures) -> None:
    """A table per curve."""
    print(measure.described(run["machine"]))
    for each in run["curves"]:
        print(f"\n{each['guarantee']}, transaction.interval_ms {each['interval_ms']}: holds {each['peak']:,} events/s")
        print(f"{'events/s':>10} {'p50 ms':>24} {'p99 ms':>24} {'p99.9 ms':>24}   (minimum / median / maximum)")
        half = [each["half_of_peak"]] if each["half_of_peak"] else []
        for case in (*each["cases"], *half):
            parts = ""
            for name in ("p50_ms", "p99_ms", "p999_ms"):
                found = " / ".join(f"{value:.1f}" for value in case.get(name, {}).values()) or "none came"
                parts += f" {found:>24}"
            mark = "" if case["held"] else "  broken"
            print(f"{case['load']:>10,}{parts}{mark}{'  (half of the peak)' if case in half else ''}")
    print(f"\nevery patch came, none twice: {run['verified']}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    parser.add_argument("--guarantee", choices=("exactly_once", "at_least_once"), help="this curve alone")
    parser.add_argument("--interval-ms", type=int, default=0, help="with --guarantee: transaction.interval_ms")
    parser.add_argument("--loads", help="events/s, with commas between, instead of the usual ones")
    for hidden in ("--topic", "--app"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        worker(given.broker, given.topic, given.app, given.guarantee, given.interval_ms)
        return 0
    loads: Sequence[int] = SMALL_LOADS if given.small else LOADS
    if given.loads:
        loads = tuple(int(load) for load in given.loads.split(","))
    cases = [(given.guarantee, given.interval_ms)] if given.guarantee else (CASES[:1] if given.small else CASES)
    with measure.kafka(given.broker) as broker:
        found = run(broker, cases, loads, small=given.small)
    return measure.finish(found, given, show=show)


if __name__ == "__main__":
    sys.exit(main())
