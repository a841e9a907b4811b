"""Faust's producer on Kafka: aiokafka's, but for sends that belong to a chunk, and for topics that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiokafka.errors import KafkaError as ProtocolError
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from faust.exceptions import ProducerSendError
from faust.transport.drivers import aiokafka as driver
from typing_extensions import override

from streams.errors import RecordTooLargeError, TransportError
from streams.transport.chunk import record_bytes
from streams.transport.joining import going_out, header_list, join_chunk, soon
from streams.transport.known import KnownTopics
from streams.transport.soon import SoonBuffer

__all__ = ["Producer", "bootstrap"]


def bootstrap(transport: Any) -> str:
    """The brokers of a Faust transport URL in librdkafka's form."""
    return ",".join(driver.server_list(transport.url, transport.default_port))


class Producer(driver.Producer):
    """Faust's producer; a send from an agent that works on a chunk joins the chunk's transaction."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._topics = KnownTopics(bootstrap(self.transport))
        self._record_bytes_max: int = self.app.conf.producer_max_request_size
        self.buffer = SoonBuffer(self.app, self._topics.knows, self._require, loop=self.loop, beacon=self.beacon)

    @override
    async def on_start(self) -> None:
        try:
            await super().on_start()
        except ProtocolError as error:  # of all clients this one is started first
            raise TransportError(
                f"{bootstrap(self.transport)} cannot be reached or refuses the login ({type(error).__name__}); check "
                "app.broker, the network and [security], and that the broker runs; a supervisor may start the worker "
                "again until it does",
                retriable=True,
            ) from None

    @override
    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Any:
        await self._require(topic)
        self._check_size(topic, key, value, headers)
        joined = join_chunk(topic, key, value, partition, timestamp, headers)
        if joined is not None:
            return joined
        return going_out(
            await super().send(topic, key, value, partition, timestamp, headers, transactional_id=transactional_id)
        )

    @override
    def send_soon(self, fut: Any) -> None:
        message = fut.message
        self._check_size(message.channel.get_topic_name(), message.key, message.value, message.headers)
        if not soon(fut):
            super().send_soon(fut)

    def _check_size(self, topic: str, key: bytes | None, value: bytes | None, headers: Any) -> None:
        size = record_bytes(key, value, header_list(headers))
        if size > self._record_bytes_max:
            raise RecordTooLargeError(topic, size, self._record_bytes_max)

    async def _require(self, topic: str) -> None:
        await self._topics.require(topic, self._ensure_producer().client)

    async def unsendable(self, topics: Iterable[str]) -> TransportError | None:
        """Why nothing can be sent to one of these topics; None: they exist."""
        return await self._topics.unsendable(topics, self._ensure_producer().client)

    @override
    async def send_and_wait(self, topic: str, key: bytes | None, value: bytes | None, *args: Any, **kwargs: Any) -> Any:
        try:
            return await (await self.send(topic, key, value, *args, **kwargs))
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            size = record_bytes(key, value, ())
            raise RecordTooLargeError(topic, size, size - 1) from error
        except ProtocolError as error:
            raise ProducerSendError(f"Error while sending: {error!r}") from error
