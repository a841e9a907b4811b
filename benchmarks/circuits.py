"""How soon does every worker know that a target is sick, and what does a long outage of a quiet target cost?

    streams bench circuits                                     # both: twenty minutes, on a Kafka of its own
    streams bench circuits --only trip
    streams bench circuits --small --json

Trip: three workers deliver to one target, which then refuses nine of ten requests. The crossing is the first of two
moments. One is computed from the target's account of its answers since the circuit was last closed: the calls are
enough, their failure rate is at its threshold, and that of two workers is too. The other is the one at which the last
worker has closed the target off for itself. Counted is the time from then until each worker has the fleet's open
circuit. All settings are the defaults, but that the open time does not grow.

Trickle: a target gets three patches a minute and is away for ten, its connections refused. All settings are the
defaults. In the end it holds the state of a plain replay, and nothing is a dead letter.

What the figures do not show: a network. Workers, target and broker share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from benchmarks import measure
from benchmarks.measure import ADMIN_TIMEOUT_MS, ROOT, Figures, servers
from benchmarks.workload import Workload, events
from streams._native import KafkaAdmin, KafkaProducer, Records
from streams.client.broker import ReaderOptions, WriterOptions
from streams.client.connect import open_reader, open_writer
from streams.demo.v1.device_pb2 import DeviceState
from streams.options import CircuitSettings

TARGET = "bench"
PARTITIONS = 6
WORKERS, SMALL_WORKERS = 3, 2
EVENTS_PER_SECOND = 1_500
DEVICES = 2_000
TICK_S = 0.05
POLL_S = 0.05
SICK_SHARE = 90
"""Of a hundred requests: what goes through keeps attempts from running out, which opens a circuit by itself."""
WELL_S, SMALL_WELL_S = 5.0, 1.0
WAIT_S = 120
QUORUM = 2


class Trickle(NamedTuple):
    """How a quiet target's outage goes."""

    gap_s: float
    before_s: float
    away_s: float
    settings: dict[str, object]


TRICKLE = Trickle(20.0, 60.0, 600.0, {})
SMALL_TRICKLE = Trickle(
    0.1, 0.5, 2.0, {"circuit.open_ms": 200, "circuit.open_ms_max": 400, "delivery.backoff_ms_max": 100}
)
TRICKLE_KEYS = 3
LEVEL_TIMEOUT_S = 600
"""An open circuit is tried again after five minutes at most."""


# -- the target's account ---------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One answer of the target: when, to which worker, and whether it refused."""

    at_s: float
    worker: str
    failed: bool


def crossing(answers: Sequence[Answer], settings: CircuitSettings) -> float | None:
    """When the answers gave reason to open the circuit, on their clock; None: they never did. Pure."""
    calls: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for answer in answers:
        calls[answer.worker] += 1
        failed[answer.worker] += answer.failed
        if failed.total() < settings.failure_rate * calls.total() or calls.total() < settings.calls_min:
            continue
        over = [name for name in calls if failed[name] >= settings.failure_rate * calls[name]]
        if len(over) >= min(QUORUM, len(calls)):
            return answer.at_s
    return None


# -- workers ----------------------------------------------------------------------------------------------------------


def worker(broker: str, topic: str, app_id: str, url: str) -> None:
    """Runs in a process of its own until its standard input ends; says `ready`, and every state of the circuit."""
    from streams import settings
    from streams.app import App

    def changed(target: str, _before: str, state: str, reason: str) -> None:
        if target == TARGET:
            print(json.dumps({"state": state, "at_s": time.monotonic(), "reason": reason}), flush=True)

    longest = {"circuit.open_ms_max": CircuitSettings().open_ms}
    given = {"app.id": app_id, "app.broker": broker, "app.instance": uuid.uuid4().hex[:8], **longest}
    with tempfile.TemporaryDirectory() as datadir:
        app = App(app_id, settings=settings.read(flags={**given, "app.datadir": datadir}), web_enabled=False)
        app.sync(topic, DeviceState)
        app.target(TARGET, source=topic, url=url, allow_private=True)
        assert app.guarded is not None
        app.guarded.board.on_change.append(changed)
        asyncio.run(measure.serve_until_told(app))


class Member:
    """A worker process, and what it said of the circuit."""

    def __init__(self, broker: str, topic: str, app_id: str, url: str) -> None:
        self.moves: list[dict[str, Any]] = []
        self._ready = threading.Event()
        command = [
            sys.executable, "-m", "benchmarks.circuits", "--child", "--broker", broker, "--topic", topic,
            "--app", app_id, "--url", url,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, said: IO[str]) -> None:
        for line in said:
            if line.startswith("{"):
                self.moves.append(json.loads(line))
            elif line.strip() == "ready":
                self._ready.set()

    def wait_ready(self) -> None:
        """SystemExit where it does not come up."""
        if not self._ready.wait(WAIT_S):
            raise SystemExit(f"a worker was not ready after {WAIT_S} s")

    def since(self, moment_s: float, state: str) -> float | None:
        """When the circuit came to be so here, after a moment."""
        return next((each["at_s"] for each in self.moves if each["at_s"] > moment_s and each["state"] == state), None)

    def stop(self) -> None:
        """Ends it, by force where it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def loading(broker: str, topic: str) -> Iterator[None]:
    """Sends events at an even rate for as long as the block runs."""
    ending = threading.Event()
    producer = KafkaProducer({"bootstrap.servers": servers(broker), "linger.ms": "5"})
    source = events(Workload(1 << 40, DEVICES))

    def send() -> None:
        while not ending.wait(TICK_S):
            records = Records()
            for key, value, headers in itertools.islice(source, int(EVENTS_PER_SECOND * TICK_S)):
                records.append(key, value, headers)
            producer.produce(topic, -1, records)
        producer.flush(ADMIN_TIMEOUT_MS)

    thread = threading.Thread(target=send, name="load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        producer.close()


# -- the trip ---------------------------------------------------------------------------------------------------------


def wait(members: Sequence[Member], since_s: float, state: str) -> list[float]:
    """When each of them had the circuit so. SystemExit where one does not come to it."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        moments = [each.since(since_s, state) for each in members]
        found = [moment for moment in moments if moment is not None]
        if len(found) == len(members):
            return found
        if time.monotonic() > deadline_s:
            raise SystemExit(f"after {WAIT_S} s {len(found)} of {len(members)} workers had the circuit {state}")
        time.sleep(0.01)


def trip(broker: str, times: int, workers: int, well_s: float, step: measure.Step) -> Figures:
    """Seconds from the crossing to each worker, of so many trips of one fleet."""
    from tests.faults.receiving import Receivers
    from tests.zoo import Delivery, Refusal, failing

    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    admin.create_topics([(topic, PARTITIONS, 1, {})], ADMIN_TIMEOUT_MS)
    answers: list[Answer] = []
    sick = failing(0)

    def refuse(delivery: Delivery) -> Refusal | None:
        refusal = sick(delivery)
        answers.append(Answer(time.monotonic(), delivery.path, refusal is not None))
        return refusal

    first, last = [], []
    with Receivers(TARGET) as receivers:
        target = receivers.by_name[TARGET]
        receivers.ask(lambda: setattr(target, "refuse", refuse))
        members = [Member(broker, topic, app_id, f"{target.url}/{number}") for number in range(workers)]
        try:
            for each in members:
                each.wait_ready()
            with loading(broker, topic):
                # The first trip is of workers that have just begun to work together, which is another question: one may
                # open the circuit before the other has made a call, and the target's account has calls of both.
                for round_ in range(times + 1):
                    time.sleep(well_s)
                    began_s = time.monotonic()
                    sick = failing(SICK_SHARE, 503)
                    opened = wait(members, began_s, "open")
                    sick = failing(0)
                    seen = receivers.ask(lambda: list(answers))
                    own = [each.since(began_s, "local-open") for each in members]
                    reasons = [crossing(seen, CircuitSettings()), None if None in own else max(filter(None, own))]
                    crossed_s = min(filter(None, reasons), default=None)
                    if round_:
                        if crossed_s is None:
                            raise SystemExit("the circuit opened, and neither target nor workers know why")
                        first.append(min(opened) - crossed_s)
                        last.append(max(opened) - crossed_s)
                    wait(members, max(opened), "closed")
                    receivers.ask(answers.clear)
                    step()
        finally:
            for each in members:
                each.stop()
            ours = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if name.startswith(app_id)]
            admin.delete_topics(ours, ADMIN_TIMEOUT_MS)
    return {
        "case": f"trip of {workers} workers",
        "seconds_to_first": measure.spread(first),
        "seconds_to_last": measure.spread(last),
        "verified": min(first) >= 0,
    }


# -- the trickle ------------------------------------------------------------------------------------------------------


def trickle(broker: str, plan: Trickle) -> Figures:
    """A quiet target that is away for long."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_trickle(broker or f"embedded://{folder}/log", plan, f"{folder}/data"))


async def _trickle(broker: str, plan: Trickle, datadir: str) -> Figures:
    from streams import settings
    from streams.app import App
    from tests.zoo import Receiver

    app_id = f"bench-{uuid.uuid4().hex[:8]}"
    topic = f"{app_id}-devices"
    writer = open_writer(broker, WriterOptions())
    writer.create_topic(topic, 1)
    given = {"app.id": app_id, "app.broker": broker, "app.datadir": datadir, **plan.settings}
    app = App(app_id, settings=settings.read(flags=given), web_enabled=False)
    app.sync(topic, DeviceState, format="plain", sequence="none")
    last: dict[bytes, DeviceState] = {}

    def send(number: int) -> None:
        state = DeviceState(device_id=f"dev-{number % TRICKLE_KEYS}", status=f"status {number}")
        last[state.device_id.encode()] = state
        records = Records()
        records.append(state.device_id.encode(), state.SerializeToString())
        writer.write(topic, records)

    async with Receiver(DeviceState) as receiver:
        app.target(TARGET, source=topic, url=receiver.url, allow_private=True)
        ready = asyncio.Event()
        serving = asyncio.create_task(app.serve(ready.set))
        await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        began, away, sent = time.monotonic(), False, 0
        while (now := time.monotonic() - began) < plan.before_s + plan.away_s:
            if now >= plan.before_s and not away:
                await receiver.vanish()
                away = True
            await asyncio.to_thread(send, sent)
            sent += 1
            await asyncio.sleep(plan.gap_s)
        missing = sum(dict(receiver.held.states()).get(key) != state for key, state in last.items())
        await receiver.listen()
        back = time.monotonic()
        while not (level := dict(receiver.held.states()) == last) and not serving.done():
            await asyncio.sleep(POLL_S)
            if time.monotonic() - back > LEVEL_TIMEOUT_S:
                break
        seconds = time.monotonic() - back
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    writer.close()
    letters = await asyncio.to_thread(_records, broker, f"{topic}.dlq")
    return {
        "case": "trickle",
        "events": sent,
        "away_seconds": plan.away_s,
        "keys_behind_when_back": missing,
        "seconds_from_back_to_level": round(seconds, 2),
        "dead_letters": letters,
        "verified": level and not letters,
    }


def _records(broker: str, topic: str) -> int:
    reader = open_reader(broker, topic, ReaderOptions(start="earliest"))
    try:
        return sum(reader.ends().values())
    finally:
        reader.close()


# -- command line -----------------------------------------------------------------------------------------------------


def run(broker: str, times: int, only: str | None, *, small: bool = False) -> Figures:
    """Both cases, or one."""
    machine = measure.machine()
    cases = []
    with measure.progress("circuits", (times + 1) * (only != "trickle") + (only != "trip")) as step:
        if only != "trickle":
            sizes = (SMALL_WORKERS, SMALL_WELL_S) if small else (WORKERS, WELL_S)
            cases.append(trip(broker, times, *sizes, step))
        if only != "trip":
            cases.append(trickle(broker, SMALL_TRICKLE if small else TRICKLE))
            step()
    return {
        "benchmark": "circuits",
        "small": small,
        "verified": all(case["verified"] for case in cases),
        "repetitions": times,
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "", broker=True)
    parser.add_argument("--only", choices=("trip", "trickle"), help="this case alone")
    for hidden in ("--topic", "--app", "--url"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        worker(given.broker, given.topic, given.app, given.url)
        return 0
    with measure.kafka(given.broker) as broker:
        found = run(broker, measure.repetitions(given), given.only, small=given.small)
    return measure.finish(found, given)


if __name__ == "__main__":
    sys.exit(main())
