"""What the consumer's thread makes of aiokafka's client."""

from __future__ import annotations

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import NodeNotReadyError

from streams.transport.fetcher import look_up_later, pause_after


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
