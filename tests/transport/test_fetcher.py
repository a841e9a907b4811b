"""What the consumer's thread makes of aiokafka's client."""

from __future__ import annotations

import threading
import uuid

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import NodeNotReadyError

from streams._native import KafkaAdmin, KafkaConsumer
from streams.transport.fetcher import look_up_later, pause_after
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
