"""How aiokafka finds the coordinator of its group: also in a cluster that has no broker to name yet."""

from __future__ import annotations

from typing import Any

from aiokafka.errors import NodeNotReadyError

__all__ = ["look_up_later"]


def look_up_later(client: Any) -> None:
    """Has aiokafka's client wait for a cluster that names no broker, as one does that starts or is overloaded.

    It asserts that there is one, and its group routine would die of that; of an error that may pass it asks again.
    """
    look_up = client.coordinator_lookup

    async def coordinator_lookup(kind: int, key: str) -> Any:
        if client.get_random_node() is None:
            raise NodeNotReadyError("the cluster names no broker yet")
        return await look_up(kind, key)

    client.coordinator_lookup = coordinator_lookup
