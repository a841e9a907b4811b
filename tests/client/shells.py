"""Both shells of the clients behind one face, so that one suite tests them all."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from streams.client import BlockingProducer, BlockingReceiver, Producer, Receiver

WAITING = {"send", "send_many", "create_topic", "close", "next_change", "catch_up", "commit"}
"""What an async client awaits and a blocking one waits for."""


class Awaited:
    """A blocking client with the async one's face."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        self._client.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._client)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in WAITING:
            return found

        async def call(*args: Any, **named: Any) -> Any:
            return found(*args, **named)

        return call


class Shell:
    """Makes the clients of one shell."""

    def __init__(self, name: str) -> None:
        self.name = name

    def producer(self, broker: str, source: str = "/test", **more: Any) -> Any:
        """A producer, not open yet."""
        if self.name == "async":
            return Producer(broker, source, **more)
        return Awaited(BlockingProducer(broker, source, **more))

    def receiver(self, broker: str, topic: str, message_class: Any, **more: Any) -> Any:
        """A receiver, not open yet."""
        if self.name == "async":
            return Receiver(broker, topic, message_class, **more)
        return Awaited(BlockingReceiver(broker, topic, message_class, **more))
