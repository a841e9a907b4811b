"""The systems, each with what it promises, what it keeps its state in, and how it is started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.compare import environment

PEERS = "benchmarks.compare.peers"


@dataclass(frozen=True)
class System:
    """One row of the table."""

    # On the command line and in results.
    id: str
    # In the table.
    title: str
    guarantee: str
    # Where the state is and when it is durable.
    state: str
    # The command line without the task; makes the environment first. Raises UnavailableError.
    command: Callable[[], list[str]]
    # What follows the task on the command line.
    extra: tuple[str, ...] = ()
    # Its patches are held against the replay of the main job, ours; all others against that of the plain job.
    ours: bool = False
    # It never ends by itself and does not know what was acknowledged: it is done when its last output is in the topic.
    endless: bool = False
    # It gets the whole workload whatever its trial says: a JVM compiles itself in its first seconds, and the quickest
    # are through the trial before they are at full speed.
    whole: bool = False


def _peer(module: str, *packages: str) -> Callable[[], list[str]]:
    return lambda: [*environment.python(module.replace("_", "-"), packages), "-m", f"{PEERS}.{module}"]


def _ours() -> list[str]:
    return [sys.executable, "-m", f"{PEERS}.patchstream"]


SYSTEMS = (
    System(
        "patchstream", "patchstream, exactly once", "exactly once",
        "memory, changelog of rows; a transaction each 100 ms, while behind each 400 ms or 60,000 events", _ours,
        ("exactly_once",), ours=True, whole=True,
    ),
    System(
        "patchstream-alo", "patchstream, at least once", "at least once",
        "memory, changelog of rows", _ours, ("at_least_once",), ours=True, whole=True,
    ),
    System(
        "rust-loop", "the job in pure Rust over librdkafka, exactly once, changelog of whole events", "exactly once",
        "memory, changelog of every event, lz4; a transaction each 100 ms or 20,000 events", environment.rust_loop,
        whole=True,
    ),
    System(
        "handwritten", "hand-written confluent-kafka loop, at least once, changelog each 5 s", "at least once",
        "dict, changelog of changed keys each 5 s", _peer("handwritten", "confluent-kafka==2.16.1"),
    ),
    System(
        "kafka-streams-eos", "Kafka Streams 4.1, exactly_once_v2", "exactly once",
        "RocksDB with cache, changelog; a transaction each 100 ms", environment.kafka_streams, ("exactly_once_v2",),
        whole=True,
    ),
    System(
        "kafka-streams-alo", "Kafka Streams 4.1, at least once", "at least once",
        "RocksDB with cache, changelog; a commit each 30 s", environment.kafka_streams, ("at_least_once",),
        whole=True,
    ),
    System(
        "bytewax", "Bytewax 0.21.1, SQLite recovery", "at least once",
        "memory, snapshots in SQLite each 10 s", _peer("bytewax", "bytewax[kafka]==0.21.1", "confluent-kafka==2.16.1"),
    ),
    System(
        "quix", "Quix Streams 3.28.1, at least once", "at least once",
        "RocksDB, changelog; a commit each 5 s", _peer("quix", "quixstreams==3.28.1"),
    ),
    System(
        "pathway", "Pathway 0.33.0", "at least once",
        "memory, snapshots on disk each 5 s", _peer("pathway", "pathway==0.33.0"), endless=True,
    ),
    System(
        "faststream", "FastStream 0.7.8 (confluent), awaits delivery", "at least once",
        "dict, changelog of changed keys per batch",
        _peer("fast_stream", "faststream[confluent]==0.7.8", "confluent-kafka==2.16.1"),
    ),
    System(
        "faust", "vanilla Faust 0.15.3, event at a time", "at least once",
        "memory, changelog of every change; a commit each 2.8 s",
        _peer("vanilla_faust", "faust-streaming==0.15.3", "aiokafka[zstd]"),
    ),
)  # fmt: skip
SMALL = ("patchstream", "handwritten")
