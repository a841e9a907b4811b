"""What do the transports carry, with no kernel between? Chunks out of the log, chunks into it, and a commit.

    streams bench transport
    streams bench transport --broker kafka://127.0.0.1:9092 --json
    streams bench transport --broker embedded --small

Kafka: the workload fetched through the client that the worker fetches with, and written through the one it writes with,
per compression; then the end of a transaction with one record in it. Embedded: the same on the local log, appended in
transactions of the product's size, with a power cut survived (`full`) or a kill (`normal`). What was fetched is hashed
and must be what was written.

What the figures do not show: Faust and the event loop above, which move chunks and not records; a network.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.kernel import CHUNK, TRANSACTION, chunks
from benchmarks.measure import ADMIN_TIMEOUT_MS, Figures, Step, servers
from benchmarks.pipeline import EMBEDDED
from benchmarks.workload import CANONICAL, SMALL, Workload
from streams._native import KafkaAdmin, KafkaConsumer, KafkaProducer, Records, xxh3_64
from streams.options import ChunkSettings, Settings
from streams.transport.blocks import Fsync
from streams.transport.clients import NativeClients
from streams.transport.credentials import Credentials
from streams.transport.ledger import KafkaLedger, Member
from streams.transport.log import Log
from streams.transport.tail import tail_config

PARTITION = 0
"""One is enough: the clients, not the broker's partitions, are measured."""
COMPRESSIONS = ("zstd", "lz4", "none")
COMMITS, SMALL_COMMITS = 200, 10
TIMEOUT_MS = 60_000
SAMPLE = 1_000
"""Every record's length is summed up, and of every so many the content: hashing all would be most of the time."""


def fingerprint(parts: Iterator[Records]) -> str:
    """What was carried: records, bytes, and a sample of the contents in their order."""
    count = size = hashed = 0
    for records in parts:
        for index in range(-count % SAMPLE, len(records), SAMPLE):
            hashed = xxh3_64(hashed.to_bytes(8, "big") + (records.value(index) or b""))
        count += len(records)
        size += records.nbytes
    return f"{count} records, {size} bytes, {hashed:016x}"


# -- Kafka ------------------------------------------------------------------------------------------------------------


def producer_config(broker: str, compression: str) -> dict[str, str]:
    """What the worker's own producer is configured with, but for the compression."""
    ledger = KafkaLedger(
        {"bootstrap.servers": servers(broker)}, topics={}, transactional_id=None, transaction_timeout_ms=TIMEOUT_MS,
        member=lambda: Member("bench", "", None), clients=NativeClients({}, Credentials(Settings().security)),
        beside=lambda topic, partition: "",
    )  # fmt: skip
    config = {**ledger._config, "compression.type": compression}
    if compression != "zstd":
        del config["compression.level"]
    return config


def write(broker: str, topic: str, workload: Workload, compression: str) -> Callable[[], str]:
    """A producer that is connected, and the work of writing everything through it."""
    producer = KafkaProducer(producer_config(broker, compression))
    producer.partitions(topic, ADMIN_TIMEOUT_MS)
    parts = list(chunks(workload))

    def work() -> str:
        for records in parts:
            producer.produce(topic, PARTITION, records, TIMEOUT_MS)
        producer.flush(TIMEOUT_MS)
        producer.close()
        return fingerprint(iter(parts))

    return work


def fetch(broker: str, topic: str, workload: Workload) -> Callable[[], str]:
    """A consumer as the worker's, and the work of fetching everything."""
    consumer = KafkaConsumer(
        {**tail_config({"bootstrap.servers": servers(broker)}, "bench"), "queued.min.messages": "100000"}
    )
    consumer.watermarks(topic, PARTITION, ADMIN_TIMEOUT_MS)
    chunk = ChunkSettings()

    def parts() -> Iterator[Records]:
        left = workload.events
        consumer.assign([(topic, PARTITION, 0)])
        while left:
            runs = consumer.fetch(chunk.records_max, chunk.bytes_max, TIMEOUT_MS)
            if not runs:
                raise SystemExit(f"{topic}: {left:,} of {workload.events:,} records did not come in {TIMEOUT_MS} ms")
            for _, _, records, _ in runs:
                left -= len(records)
                yield records
        consumer.close()

    return lambda: fingerprint(parts())


def commit_ms(broker: str, topic: str, count: int) -> list[float]:
    """Milliseconds from a record handed over to its transaction ended, each time."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    producer = KafkaProducer({**producer_config(broker, "zstd"), "transactional.id": name})
    record = Records()
    record.append(b"key", b"value")
    found = []
    producer.init_transactions(TIMEOUT_MS)
    for _ in range(count):
        began = time.perf_counter()
        producer.begin()
        producer.produce(topic, PARTITION, record, TIMEOUT_MS)
        producer.flush(TIMEOUT_MS)
        producer.commit(TIMEOUT_MS)
        found.append((time.perf_counter() - began) * 1000)
    producer.close()
    return found


def kafka_cases(broker: str, workload: Workload, times: int, commits: int, step: Step) -> list[Figures]:
    """Write per compression, fetch, commit; every topic is deleted after."""
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    prefix = f"bench-transport-{uuid.uuid4().hex[:8]}"
    made: list[str] = []

    def topic() -> str:
        made.append(f"{prefix}-{len(made)}")
        # The devices' timestamps are of 2023: the broker's retention would remove what is to be fetched.
        admin.create_topics([(made[-1], 1, 1, {"retention.ms": "-1"})], ADMIN_TIMEOUT_MS)
        return made[-1]

    try:
        cases = []
        for compression in COMPRESSIONS:
            figures = measure.repeat(lambda c=compression: write(broker, topic(), workload, c),
                                     workload.events, times, step)  # fmt: skip
            cases.append({"case": f"kafka, write, {compression}", **figures})
        filled = made[0]  # the first of zstd, as the product's own topics are
        figures = measure.repeat(lambda: fetch(broker, filled, workload), workload.events, times, step)
        cases.append({"case": "kafka, fetch, zstd", **figures})
        ends = commit_ms(broker, topic(), commits)
        cases.append({"case": "kafka, a transaction of one record", "commits": commits, "ms": measure.spread(ends, 2)})
        step()
    finally:
        admin.delete_topics(made, ADMIN_TIMEOUT_MS)
    return cases


# -- embedded ---------------------------------------------------------------------------------------------------------


def append(directory: Path, fsync: Fsync, workload: Workload) -> Callable[[], str]:
    """A fresh log, and the work of appending everything in transactions of the product's size."""
    log = Log(directory / uuid.uuid4().hex, fsync)
    log.create_topic("bench", 1, retention_ms=-1)
    parts = list(chunks(workload))
    each = TRANSACTION // CHUNK

    def work() -> str:
        for first in range(0, len(parts), each):
            log.append([("bench", 0, records) for records in parts[first : first + each]])
        log.close()
        return fingerprint(iter(parts))

    return work


def read(log: Log) -> Callable[[], str]:
    """The work of reading everything, chunk by chunk."""

    def parts() -> Iterator[Records]:
        offset = 0
        while len(records := log.read("bench", 0, offset, CHUNK)):
            offset = records.last_offset + 1
            yield records

    return lambda: fingerprint(parts())


def embedded_cases(workload: Workload, times: int, commits: int, step: Step) -> list[Figures]:
    """Append with either durability, read, commit; everything lies in a directory that is gone after."""
    cases = []
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as name:
        directory = Path(name)
        for fsync in ("full", "normal"):
            figures = measure.repeat(lambda f=fsync: append(directory, f, workload), workload.events, times, step)
            cases.append({"case": f"embedded, append, fsync {fsync}", **figures})
        with Log(next(directory.iterdir()), "full") as log:
            figures = measure.repeat(lambda: read(log), workload.events, times, step)
            cases.append({"case": "embedded, read", **figures})
            record = Records()
            record.append(b"key", b"value")
            ends = []
            for _ in range(commits):
                began = time.perf_counter()
                log.append([("bench", 0, record.slice(0, 1))], "bench", [("bench", 0, 1)])
                ends.append((time.perf_counter() - began) * 1000)
        case = "embedded, a transaction of one record, fsync full"
        cases.append({"case": case, "commits": commits, "ms": measure.spread(ends, 2)})
        step()
    return cases


def run(broker: str | None, workload: Workload, times: int, *, small: bool = False) -> Figures:
    """Both transports; `broker` "embedded": that one alone, None: on a Kafka of its own."""
    machine, commits = measure.machine(), SMALL_COMMITS if small else COMMITS
    with_kafka = broker != EMBEDDED
    total = (3 * times + 1) + (len(COMPRESSIONS) * times + times + 1) * with_kafka
    with measure.progress("transport", total) as step:
        cases = embedded_cases(workload, times, commits, step)
        if with_kafka:
            with measure.kafka(broker) as address:
                cases += kafka_cases(address, workload, times, commits, step)
    carried = {case["hash"] for case in cases if "hash" in case}
    return {
        "benchmark": "transport",
        "small": small,
        "verified": len(carried) == 1,
        "repetitions": times,
        "seed": workload.seed,
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = measure.parser(__doc__ or "", broker=True).parse_args(arguments)
    workload = SMALL if given.small else CANONICAL
    return measure.finish(run(given.broker, workload, measure.repetitions(given), small=given.small), given)


if __name__ == "__main__":
    sys.exit(main())
