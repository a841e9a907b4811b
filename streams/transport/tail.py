"""Reading partitions to their end outside of the consumer group: restores, look-ups of state, checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from streams._native import KafkaConsumer, KafkaError, Records
from streams.transport.ledger import named

__all__ = ["Positions", "Progress", "Sink", "read_to_end", "tail_config"]

FETCH_RECORDS_MAX = 50_000
FETCH_BYTES_MAX = 32 << 20
"""A batch of restored rows: large enough that the call costs nothing, small enough to stop between two."""
FETCH_WAIT_MS = 200
METADATA_TIMEOUT_MS = 10_000
SETTLE_TIMEOUT_S = 30.0
"""A topic made a moment ago, or a broker that restarts, has no leader for its partitions; an election takes seconds."""
SETTLE_PAUSE_S = 0.2

Positions = Mapping[tuple[str, int], int]
Sink = Callable[[str, int, Records], None]
Progress = Callable[[int, int], None]
"""Called with the offsets passed and the offsets to pass; compaction makes the rows fewer."""
OpenConsumer = Callable[[dict[str, str]], KafkaConsumer]


def tail_config(config: Mapping[str, str], group: str) -> dict[str, str]:
    """Settings of a consumer that reads committed records outside of any group's assignment."""
    return {
        **config,
        "group.id": group,
        "enable.auto.commit": "false",
        "enable.partition.eof": "true",
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "fetch.queue.backoff.ms": "2",
        "queued.min.messages": "200000",
        "fetch.message.max.bytes": "8388608",
    }


def read_to_end(
    config: Mapping[str, str],
    start: Positions,
    sink: Sink,
    keep_going: Callable[[], bool],
    group: str,
    progress: Progress | None = None,
    *,
    open_consumer: OpenConsumer = KafkaConsumer,
) -> dict[tuple[str, int], int]:
    """Reads committed records of each partition from `start` to its end as of now; blocks.

    `open_consumer`: makes a consumer of its settings, logged in where that needs more than they say.

    The end is the end of the log, not the last stable offset: a predecessor's commit marker may still be on its way,
    and what it commits must be read. Returns the next offset of each partition; stops early when `keep_going` says so.
    """
    try:
        return _read(config, start, sink, keep_going, group, progress, open_consumer)
    except KafkaError as error:
        raise named(error, "changelog") from error


def _read(
    config: Mapping[str, str],
    start: Positions,
    sink: Sink,
    keep_going: Callable[[], bool],
    group: str,
    progress: Progress | None,
    open_consumer: OpenConsumer,
) -> dict[tuple[str, int], int]:
    ends, positions = _ends(config, start, group, open_consumer)
    left = {where for where, offset in positions.items() if offset < ends[where]}
    if not left:
        return positions
    total = sum(ends[where] - positions[where] for where in left)
    consumer = open_consumer(tail_config(config, group))
    try:
        consumer.assign([(topic, partition, positions[topic, partition]) for topic, partition in left])
        while left and keep_going():
            for topic, partition, records, end in consumer.fetch(FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_MS):
                where = (topic, partition)
                if len(records):
                    sink(topic, partition, records)
                    positions[where] = records.last_offset + 1
                positions[where] = max(positions[where], end)
                if positions[where] >= ends[where]:
                    left.discard(where)
            if progress is not None:
                progress(total - sum(ends[where] - positions[where] for where in left), total)
    finally:
        consumer.close()
    return positions


def _ends(
    config: Mapping[str, str], start: Positions, group: str, open_consumer: OpenConsumer
) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
    """End of the log of each partition, and where to begin: compaction may have moved the first offset."""
    consumer = open_consumer(
        {**config, "group.id": group, "enable.auto.commit": "false", "isolation.level": "read_uncommitted"}
    )
    ends: dict[tuple[str, int], int] = {}
    positions: dict[tuple[str, int], int] = {}
    try:
        for topic, partition in start:
            low, high = _watermarks(consumer, topic, partition)
            ends[topic, partition] = high
            positions[topic, partition] = max(low, start[topic, partition])
    finally:
        consumer.close()
    return ends, positions


def _watermarks(consumer: KafkaConsumer, topic: str, partition: int) -> tuple[int, int]:
    """First and next offset; waits for a partition that has no leader at the moment."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        try:
            return consumer.watermarks(topic, partition, METADATA_TIMEOUT_MS)
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline_s:
                raise
        time.sleep(SETTLE_PAUSE_S)
