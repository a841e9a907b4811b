"""Which topics exist, as far as was asked lately: a send to one that does not is refused, by name and soon.

aiokafka waits for a topic for as long as a request may take, twenty minutes with Faust's settings; a transaction that
holds a record for one fails for all that is in it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from streams.errors import TransportError, UnknownTopicError

__all__ = ["KnownTopics"]

PATIENCE_S = 3.0
"""A topic just made, or made by the broker because it was asked for, is known everywhere within a second or two."""
POLL_S = 0.25
KNOWN_S = 30.0
"""How long a topic that exists is not asked for again: one that is deleted is missed soon, and the question is rare."""


class KnownTopics:
    """Asks through aiokafka's client, so that a broker that makes topics by itself makes them."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._known: dict[str, float] = {}

    async def require(self, topic: str, client: Any) -> None:
        """Returns once the topic exists; UnknownTopicError: it does not. While no broker answers nobody can tell."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if self._known.get(topic, now_s) > now_s:
            return
        client.add_topic(topic)
        until_s: float | None = None
        while True:
            answered = await client.force_metadata_update()
            now_s = loop.time()
            if answered and topic in client.cluster.unauthorized_topics:
                raise TransportError(f"topic {topic}: this user may not look at it; give it the right to write there")
            if answered and topic in client.cluster.topics():
                self._known[topic] = now_s + KNOWN_S
                return
            until_s = (until_s or now_s + PATIENCE_S) if answered else None
            if until_s is not None and now_s >= until_s:
                raise UnknownTopicError(topic, self._broker)
            await asyncio.sleep(POLL_S)
