"""Ledger on Kafka: outputs, changelog and offsets of a unit in one transaction, or in the order that loses nothing.

exactly_once: one transactional producer per worker, fenced by the group generation that fetched the chunks (KIP-447).
Offsets are sent only after every record of the transaction is acknowledged, and nothing is produced after them.
at_least_once: outputs acknowledged, then the changelog, then (by the consumer) the offsets; a kill in between repeats
events, and the state that would drop them as duplicates is not there yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from streams._native import KafkaError, KafkaProducer
from streams.errors import TransportError
from streams.transport.allowance import TOO_LARGE
from streams.transport.clients import NativeClients, batch_bytes_max
from streams.transport.pipeline import Unit

__all__ = ["KafkaLedger", "Member", "named"]

FLUSH_TIMEOUT_MS = 30_000
"""The broker is given this long to acknowledge outputs; half of the time after which a worker without progress ends."""
FLUSH_ROOM_MS = 1_000
"""A transaction is aborted by the broker at its own timeout: longer than that its records are not waited for."""
END_TIMEOUT_MS = 30_000
"""For one attempt to send offsets or to end a transaction."""
BATCH_BYTES = 500_000
"""The broker checks one batch while the next is compressed; more is no smaller."""
COMMIT_ATTEMPTS = 3
"""A commit whose outcome is unknown is asked for again so often before everything is rebuilt."""


class Member(NamedTuple):
    """Who this worker is in its consumer group, as the group's own client knows it."""

    group: str
    member: str
    instance: str | None


def named(error: KafkaError, where: str) -> TransportError:
    """librdkafka's error as one of ours."""
    topic = error.place[0] if error.place is not None else ""
    return TransportError(
        f"{where}: {error}", retriable=error.retriable, fatal=error.fatal, code=error.code, topic=topic
    )


class KafkaLedger:
    """Commits units through one producer. All methods block and are called in the pipeline's thread."""

    def __init__(
        self,
        config: Mapping[str, str],
        *,
        topics: Mapping[str, Mapping[str, str]],
        transactional_id: str | None,
        transaction_timeout_ms: int,
        member: Callable[[], Member],
        clients: NativeClients,
        beside: Callable[[str, int], str],
    ) -> None:
        """`beside`: what to keep beside the offset of a topic's partition."""
        self._config = {
            **config,
            "enable.idempotence": "true",
            "linger.ms": "1",  # a unit's records come at once: longer only delays the first batch's compression
            "compression.type": "zstd",
            "compression.level": "1",  # a third less CPU than 3; patches of devices 1 % smaller, of flights 8 % larger
            "partitioner": "murmur2_random",  # the Java client's; librdkafka's own default is CRC32
            "queue.buffering.max.messages": "1000000",  # two transactions with their changelog, ten times over
            "queue.buffering.max.kbytes": "1048576",
            "delivery.report.only.error": "true",  # acknowledged in bulk by the flush; errors come one by one
        }
        if transactional_id is not None:
            self._config |= {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": str(transaction_timeout_ms),
            }
        self._flush_ms = FLUSH_TIMEOUT_MS if transactional_id is None else transaction_timeout_ms + FLUSH_ROOM_MS
        self._topics = {name: dict(settings) for name, settings in topics.items()}
        self.exactly_once = transactional_id is not None
        self._member = member
        self._clients = clients
        self._beside = beside
        self._producer: KafkaProducer | None = None
        self._batch_bytes = BATCH_BYTES
        self._refusing: set[str] = set()  # topics that refused a batch, and may take no usual one
        self.seconds: dict[str, float] = {"changelog": 0.0, "produce": 0.0, "flush": 0.0, "commit": 0.0, "fold": 0.0}
        """Time spent per step since the start; the benchmark's split."""
        self.transactions = 0

    def renew(self) -> None:
        """A fresh producer: what a predecessor with this transactional id left open is aborted, itself fenced."""
        self.close()
        self._fit_batches()
        config = {**self._config, "batch.size": str(self._batch_bytes)}
        try:
            producer = self._clients.open(lambda config: KafkaProducer(config, self._topics), config)
            if self.exactly_once:
                producer.init_transactions(END_TIMEOUT_MS)
        except KafkaError as error:
            raise named(error, "transactional producer") from error
        self._producer = producer

    def _fit_batches(self) -> None:
        """A topic's limit holds for a batch, which may have many records: batches get smaller than that.

        Where this user may not look at the topic, half as large each time, down to single records.
        """
        refusing, self._refusing = self._refusing, set()
        for topic in refusing:
            limit = batch_bytes_max(self._clients, topic) or self._batch_bytes // 2
            self._batch_bytes = max(1, min(self._batch_bytes, limit))

    def close(self) -> None:
        """Lets the producer go; records not acknowledged are lost with their transaction."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def commit(self, unit: Unit) -> None:
        """See `pipeline.Ledger`."""
        if self._producer is None:
            self.renew()
        assert self._producer is not None
        try:
            if self.exactly_once:
                self._commit_transaction(self._producer, unit)
            else:
                self._commit_in_order(self._producer, unit)
        except KafkaError as error:
            if error.code in TOO_LARGE and error.place is not None:
                self._refusing.add(error.place[0])
            raise named(error, "transaction" if self.exactly_once else "outputs") from error
        began = time.perf_counter()
        for participant, mark in unit.marks.items():
            participant.commit(mark)
        self.seconds["fold"] += time.perf_counter() - began
        self.transactions += 1

    def _commit_transaction(self, producer: KafkaProducer, unit: Unit) -> None:
        producer.begin()
        self._produce_outputs(producer, unit)
        self._produce_changelog(producer, unit)
        self._flush(producer)
        self._acknowledge(unit)
        began = time.perf_counter()
        group, member, instance = self._member()
        offsets = [(*where, offset, self._beside(*where)) for where, offset in unit.positions.items()]
        producer.send_offsets(offsets, group, unit.generation, member, instance, END_TIMEOUT_MS)
        for attempt in range(1, COMMIT_ATTEMPTS + 1):
            try:
                producer.commit(END_TIMEOUT_MS)
                break
            except KafkaError as error:
                if not error.retriable or error.abortable or attempt == COMMIT_ATTEMPTS:
                    raise
        self.seconds["commit"] += time.perf_counter() - began

    def _commit_in_order(self, producer: KafkaProducer, unit: Unit) -> None:
        self._produce_outputs(producer, unit)
        self._flush(producer)
        if unit.marks:
            self._produce_changelog(producer, unit)
            self._flush(producer)
            self._acknowledge(unit)

    def _produce_outputs(self, producer: KafkaProducer, unit: Unit) -> None:
        began = time.perf_counter()
        for topic, partition, records in unit.outputs:
            producer.produce(topic, partition, records, self._flush_ms)
        self.seconds["produce"] += time.perf_counter() - began

    def _produce_changelog(self, producer: KafkaProducer, unit: Unit) -> None:
        for participant, mark in unit.marks.items():
            began = time.perf_counter()
            rows = participant.changelog(participant.committed_mark, mark)
            middle = time.perf_counter()
            if rows is not None:
                producer.produce(rows.topic, rows.partition, rows.records, self._flush_ms)
            self.seconds["changelog"] += middle - began
            self.seconds["produce"] += time.perf_counter() - middle

    def _acknowledge(self, unit: Unit) -> None:
        for participant in unit.marks:
            participant.acknowledged()

    def _flush(self, producer: KafkaProducer) -> None:
        began = time.perf_counter()
        producer.flush(self._flush_ms)
        self.seconds["flush"] += time.perf_counter() - began
