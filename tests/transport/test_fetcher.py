"""What the consumer's thread makes of aiokafka's client."""

from __future__ import annotations

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import NodeNotReadyError

from streams.transport.fetcher import look_up_later


async def test_a_cluster_that_names_no_broker_is_asked_again() -> None:
    """Found under load: a broker gave itself up, and aiokafka's assertion about it ended the worker."""
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    look_up_later(client)

    with pytest.raises(NodeNotReadyError) as error:
        await client.coordinator_lookup(CoordinationType.GROUP, "fleet")

    assert error.value.retriable
