"""Reading a partition to its end: what a restore may and may not believe. Each test is a trap that lost records."""

from __future__ import annotations

import threading
import uuid

from streams._native import KafkaAdmin, KafkaConsumer, KafkaProducer, Records
from streams.transport.tail import read_to_end
from tests.broker import Broker

ASK_MS = 10_000
OPEN_S = 1.5
"""How long a reader is watched waiting: several fetches long."""


def topic_of(kafka: Broker, partitions: int = 1) -> str:
    """A topic of the test's own."""
    name = f"tail-{uuid.uuid4().hex[:8]}"
    config = {"bootstrap.servers": kafka.bootstrap}
    KafkaAdmin(config).create_topics([(name, partitions, 1, {})], ASK_MS)
    return name


def batch(*values: bytes) -> Records:
    """Records with one key."""
    records = Records()
    for value in values:
        records.append(b"k", value)
    return records


def values(records: Records) -> list[bytes | None]:
    """What is in a batch."""
    return [records.value(index) for index in range(len(records))]


def test_the_end_is_not_the_last_stable_offset(kafka: Broker) -> None:
    """A predecessor's commit marker may still be on its way: what it commits must be read before the restore ends."""
    topic, config = topic_of(kafka), {"bootstrap.servers": kafka.bootstrap}
    owner = KafkaProducer({**config, "transactional.id": topic})
    owner.init_transactions(ASK_MS)
    owner.begin()
    owner.produce(topic, 0, batch(b"1", b"2"))
    owner.flush(ASK_MS)
    read: list[bytes | None] = []

    def restore() -> None:
        read_to_end(config, {(topic, 0): 0}, lambda _, __, rows: read.extend(values(rows)), lambda: True, "restore")

    reader = threading.Thread(target=restore)
    reader.start()
    reader.join(OPEN_S)

    assert reader.is_alive(), "the restore ended although a transaction was open"
    assert read == []

    owner.commit(ASK_MS)
    reader.join(ASK_MS / 1000)

    assert not reader.is_alive()
    assert read == [b"1", b"2"]


def test_an_aborted_transaction_at_the_end_is_passed(kafka: Broker) -> None:
    """The last offsets may hold nothing to read: a restore that waits for a record there would never end."""
    topic, config = topic_of(kafka), {"bootstrap.servers": kafka.bootstrap}
    owner = KafkaProducer({**config, "transactional.id": topic})
    owner.init_transactions(ASK_MS)
    owner.begin()
    owner.produce(topic, 0, batch(b"kept"))
    owner.flush(ASK_MS)
    owner.commit(ASK_MS)
    owner.begin()
    owner.produce(topic, 0, batch(b"gone"))
    owner.flush(ASK_MS)
    owner.abort(ASK_MS)
    read: list[bytes | None] = []

    positions = read_to_end(
        config, {(topic, 0): 0}, lambda _, __, rows: read.extend(values(rows)), lambda: True, "restore"
    )

    assert read == [b"kept"]
    assert positions == {(topic, 0): 4}


def test_records_land_on_the_partition_they_were_given(kafka: Broker) -> None:
    """A client that ignores the partition puts rows where their owner never looks; one worker alone cannot show it."""
    topic, config = topic_of(kafka, partitions=4), {"bootstrap.servers": kafka.bootstrap}
    producer = KafkaProducer({**config, "linger.ms": "5"})
    for partition in range(4):
        producer.produce(topic, partition, batch(*[b"%d" % partition] * 3))
    producer.flush(ASK_MS)
    reader = KafkaConsumer({**config, "group.id": "tail"})

    assert [reader.watermarks(topic, partition, ASK_MS)[1] for partition in range(4)] == [3, 3, 3, 3]

    reader.close()
    read: dict[int, list[bytes | None]] = {partition: [] for partition in range(4)}
    start = {(topic, partition): 0 for partition in range(4)}
    read_to_end(config, start, lambda _, p, rows: read[p].extend(values(rows)), lambda: True, "tail")
    assert read == {partition: [b"%d" % partition] * 3 for partition in range(4)}


def test_committed_offsets_wait_for_a_transaction_that_is_ending(kafka: Broker) -> None:
    """An offset in an open transaction may become the committed one: to begin below it would repeat events."""
    topic, config = topic_of(kafka), {"bootstrap.servers": kafka.bootstrap}
    group = f"group-{topic}"
    owner = KafkaProducer({**config, "transactional.id": topic})
    owner.init_transactions(ASK_MS)
    owner.begin()
    owner.produce(topic, 0, batch(b"1"))
    owner.flush(ASK_MS)
    owner.send_offsets([(topic, 0, 1)], group, -1, "", None, ASK_MS)
    next_owner = KafkaConsumer({**config, "group.id": group, "isolation.level": "read_committed"})
    found: list[int] = []

    def ask() -> None:
        found.extend(offset for _, _, offset in next_owner.committed([(topic, 0)], 30_000))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(OPEN_S)

    assert asking.is_alive(), "an offset was answered while the transaction that sets it was open"

    owner.commit(ASK_MS)
    asking.join(30)

    assert found == [1]
    next_owner.close()
