"""What the consumer's thread makes of aiokafka's client."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import NodeNotReadyError

from streams._native import KafkaAdmin, KafkaConsumer, KafkaError, KafkaProducer, Records
from streams.transport.coordinator import look_up_later
from streams.transport.pace import pause_after
from tests.broker import Broker

ASK_MS = 10_000
HOUR_MS = 3_600_000


async def test_a_cluster_that_names_no_broker_is_asked_again() -> None:
    """Found under load: a broker gave itself up, and aiokafka's assertion about it ended the worker."""
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    look_up_later(client)

    with pytest.raises(NodeNotReadyError) as error:
        await client.coordinator_lookup(CoordinationType.GROUP, "fleet")

    assert error.value.retriable


@pytest.mark.parametrize(
    ("fetched", "pause_s"),
    [(0, 0.0), (1, 0.01), (999, 0.01), (1_000, 0.0), (4_000, 0.0)],
)
def test_a_thin_fetch_is_followed_by_a_pause(fetched: int, pause_s: float) -> None:
    """Not after an empty one, which has waited, nor after one of a quarter of a chunk."""
    assert pause_s == pause_after(fetched, 4_000, 0.1)
    assert pause_s / 10 == pytest.approx(pause_after(fetched, 4_000, 0.01))
    assert pause_s == pause_after(fetched, 4_000, 60.0)


def test_a_wait_for_records_ends_when_it_is_woken(kafka: Broker) -> None:
    """An idle worker waits long in a fetch; a seek, a pause or the end of the worker must not wait with it."""
    name, config = f"wake-{uuid.uuid4().hex[:8]}", {"bootstrap.servers": kafka.bootstrap}
    KafkaAdmin(config).create_topics([(name, 1, 1, {})], ASK_MS)
    consumer = KafkaConsumer({**config, "group.id": name})
    consumer.assign([(name, 0, 0)])
    fetched: list[object] = []
    waiting = threading.Thread(target=lambda: fetched.append(consumer.fetch(10, 1_024, HOUR_MS)))
    waiting.start()
    waiting.join(0.5)

    assert waiting.is_alive(), "a fetch without records returned by itself"

    consumer.wake()
    waiting.join(ASK_MS / 1000)

    assert fetched == [[]]


def test_one_that_is_woken_before_it_waits_returns_too(kafka: Broker) -> None:
    """Whoever moves a position does not know whether the thread waits already."""
    consumer = KafkaConsumer({"bootstrap.servers": kafka.bootstrap, "group.id": "wake"})
    consumer.wake()

    assert consumer.fetch(10, 1_024, HOUR_MS) == []

    consumer.close()
    consumer.wake()


def two_partitions(kafka: Broker, records: int) -> KafkaConsumer:
    """A consumer at the start of a partition that has so many records, and behind the end of one that has none."""
    name, config = f"drop-{uuid.uuid4().hex[:8]}", {"bootstrap.servers": kafka.bootstrap}
    KafkaAdmin(config).create_topics([(name, 2, 1, {})], ASK_MS)
    written = Records()
    for number in range(records):
        written.append(str(number).encode(), b"v")
    producer = KafkaProducer(config)
    producer.produce_wait(name, 0, written)
    producer.close()
    consumer = KafkaConsumer({**config, "group.id": name, "auto.offset.reset": "error"})
    consumer.assign([(name, 0, 0), (name, 1, 500)])
    return consumer


def fetched_until(consumer: KafkaConsumer, records: int) -> tuple[list[int], list[KafkaError]]:
    """Offsets of so many records, and the errors that came with them."""
    offsets: list[int] = []
    errors: list[KafkaError] = []
    until_s = time.monotonic() + ASK_MS / 1000
    while (len(offsets) < records or not errors) and time.monotonic() < until_s:
        try:
            runs = consumer.fetch(1_000, 1 << 20, 500)
        except KafkaError as error:
            errors.append(error)
            continue
        offsets += [run.offset(at) for _, _, run, _ in runs for at in range(len(run))]
    return offsets, errors


def test_an_error_does_not_take_the_records_of_its_fetch_with_it(kafka: Broker) -> None:
    """Both lie ready when the first fetch is made: the records come first, the error with the next call, and named."""
    consumer = two_partitions(kafka, 100)
    time.sleep(1.5)

    offsets, errors = fetched_until(consumer, 100)
    consumer.close()

    assert list(range(100)) == offsets
    assert ["_AUTO_OFFSET_RESET"] == [error.code for error in errors]  # type: ignore[attr-defined]
    assert " partition 1: " in str(errors[0])


def test_an_error_is_not_said_of_a_partition_that_went_meanwhile(kafka: Broker) -> None:
    """It was fetched beside records of another, and given up before anybody had asked again."""
    consumer = two_partitions(kafka, 100)
    time.sleep(1.5)
    (run,) = [run for run in consumer.fetch(1_000, 1 << 20, ASK_MS) if len(run[2])]
    consumer.unassign([(run[0], 1)])

    assert (0, 100) == (run[1], len(run[2]))
    assert [] == [len(later[2]) for later in consumer.fetch(1_000, 1 << 20, 500) if len(later[2])]

    consumer.close()
