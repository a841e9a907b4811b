"""One run with faults: a topic under load, workers as real processes, and the check at the end."""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from benchmarks.workload import Workload, events
from streams._native import KafkaAdmin, KafkaConsumer, KafkaError, KafkaProducer, Records
from tests.broker import Broker
from tests.faults.check import Result, check, read
from tests.faults.receiving import Receivers
from tests.journeys.process import Worker

PARTITIONS = 4
DEVICES = 300
EVENTS_PER_SECOND = 1_500
"""Enough that every transaction has some, few enough that two shared cores generate and replay them beside the rest."""
BATCH_S = 0.05
SESSION_MS = 6_000
"""Short, so that a killed worker's partitions move within a test; long enough for a busy machine's heartbeats."""
SETTLE_TIMEOUT_S = 120
ASK_MS = 5_000


Case = TypeVar("Case")


def cases(always: Sequence[Case], full: Sequence[Case]) -> list[Case]:
    """The cases of a test: some in every run, the others with STREAMS_TEST_FAULTS=full."""
    return [*always, *(full if os.environ.get("STREAMS_TEST_FAULTS") == "full" else ())]


class Load(threading.Thread):
    """Sends the workload's events at a steady rate until it is stopped; everything sent is acknowledged then."""

    def __init__(self, bootstrap: str, topic: str, seed: int) -> None:
        super().__init__(name="load", daemon=True)
        self._producer = KafkaProducer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": "true", "message.timeout.ms": "120000"}
        )
        self._topic = topic
        self._events = events(Workload(1 << 40, DEVICES, seed))
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self.sent = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        """The thread's body."""
        try:
            while not self._stopping.wait(BATCH_S):
                self._going.wait()
                self._send(int(EVENTS_PER_SECOND * BATCH_S))
            self._producer.flush(120_000)
        except KafkaError as error:
            self.failure = error

    def _send(self, count: int) -> None:
        records = Records()
        for key, value, headers in itertools.islice(self._events, count):
            records.append(key, value, headers)
        self._producer.produce(self._topic, -1, records)
        self.sent += count

    def hold(self) -> None:
        """Sends nothing until `go_on`."""
        self._going.clear()

    def go_on(self) -> None:
        """Sends again."""
        self._going.set()

    def ask_for_snapshots(self, count: int) -> None:
        """Sends requests for the first so many devices."""
        records = Records()
        for number in range(count):
            records.append(f"dev-{number:06d}".encode(), b"faults")
        self._producer.produce(f"{self._topic}.resync", -1, records)

    def stop(self) -> None:
        """Ends the load; every event is in the topic."""
        self._stopping.set()
        self.join()
        assert self.failure is None, self.failure
        self._producer.close()


class Run:
    """Topics, an application id and directories of its own; ends its workers with the block."""

    def __init__(
        self, broker: Broker, folder: Path, seed: int, *, state: str = "memory", guarantee: str = "exactly_once"
    ):
        self.broker = broker
        self.folder = folder
        self.strict = guarantee == "exactly_once"
        self.source = f"faults-{uuid.uuid4().hex[:8]}"
        self.app_id = f"app-{self.source}"
        self._given = (
            f"--set=app.id={self.app_id}",
            f"--set=app.guarantee={guarantee}",
            f"--set=app.broker_session_timeout_ms={SESSION_MS}",
            "--set=app.rebalance_timeout_ms=10000",
            "--set=transaction.interval_ms=50",
            "--set=chunk.records_max=200",
        )
        self._environment = {"FAULT_SOURCE": self.source, "FAULT_STATE": state}
        broker.create_topics(self.source, partitions=PARTITIONS)
        self.earlier: dict[int, list[Records]] = {}
        self.load = Load(broker.bootstrap, self.source, seed)
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        self.load.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.__exit__(kind, error, trace)

    def start(self, instance: str = "a", *, ready: bool = True, **environment: str) -> Worker:
        """A worker process; its directory and its place in the group are those of the last one with this name."""
        worker = Worker(
            "-A", "tests.faults.worker:app", "--broker", self.broker.url, *self._given,
            f"--set=app.instance={instance}", f"--set=app.datadir={self.folder / instance}",
            cwd=self.folder, **self._environment, **environment,
        )  # fmt: skip
        worker.__enter__()
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    def kill(self, worker: Worker) -> None:
        """SIGKILL, and its corpse."""
        worker.process.kill()
        worker.process.wait()

    def lag(self) -> int:
        """Events in the source that are not committed yet."""
        consumer = KafkaConsumer(
            {"bootstrap.servers": self.broker.bootstrap, "group.id": self.app_id, "isolation.level": "read_uncommitted"}
        )
        try:
            where = [(self.source, number) for number in range(PARTITIONS)]
            ends = [consumer.watermarks(topic, number, ASK_MS)[1] for topic, number in where]
            done = [max(0, offset) for _, _, offset in consumer.committed(where, ASK_MS)]
        finally:
            consumer.close()
        return sum(ends) - sum(done)

    def replace_source(self) -> None:
        """Deletes the source and makes it anew, under whatever worker there is, once its events are committed."""
        self.load.hold()
        self.catch_up()
        for partition, batches in read(self.broker.bootstrap, self.source).items():
            self.earlier.setdefault(partition, []).extend(batches)
        admin = KafkaAdmin({"bootstrap.servers": self.broker.bootstrap})
        admin.delete_topics([self.source], ASK_MS)
        while admin.topic_ids([self.source], ASK_MS):
            time.sleep(0.05)
        self.broker.create_topics(self.source, partitions=PARTITIONS)
        self.load.go_on()

    def settle(self) -> None:
        """Stops the load and waits until every event is committed by whoever is at work."""
        self.load.stop()
        self.catch_up()

    def catch_up(self) -> None:
        """Waits until every event that was sent is committed."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        left = -1
        while left != 0:
            assert time.monotonic() < deadline_s, f"{left} of {self.load.sent} events are still not committed"
            running = [worker for worker in self.workers if worker.process.poll() is None]
            assert running, "no worker is left"
            time.sleep(0.2)
            try:
                left = self.lag()
            except KafkaError as error:
                # A broker that has just come back may not know its partitions for a moment.
                if error.fatal:
                    raise

    def _check(self) -> Result:
        return check(self.broker.bootstrap, self.app_id, self.source, strict=self.strict, earlier=self.earlier)

    def finish(self, receivers: Receivers | None = None) -> Result:
        """Settles, ends every worker cleanly, and holds what they left against the replay; receivers must be level."""
        self.settle()
        if receivers is not None:
            receivers.wait_level(self._check())
        running = [worker for worker in self.workers if worker.process.poll() is None]
        codes = [worker.stop() for worker in running]
        result = self._check()
        print(result)
        assert not result.findings.counts, str(result)
        assert result.expected.events == self.load.sent, f"{self.load.sent} sent, {result.expected.events} in the topic"
        assert result.expected.patches > 0
        assert codes == [0] * len(codes), f"exit codes {codes}"
        return result
