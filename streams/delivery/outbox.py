"""What delivery writes to the log: progress, dead letters, requests for snapshots. Acknowledged before it counts."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from streams._native import Records
from streams.client.broker import Writer, WriterOptions
from streams.client.connect import open_writer
from streams.errors import TransportError
from streams.options import SecuritySettings

__all__ = ["Outbox"]

DELIVERY_TIMEOUT_MS = 10_000
"""One write is given up after this and tried again by whoever needs it: a broker's restart takes seconds."""
RETRY_PAUSE_S = 1.0
"""Between two tries of a write that must succeed; as the worker's own producer pauses."""

log = logging.getLogger(__name__)


class Outbox:
    """One writer in a thread of its own; opened with the first write."""

    def __init__(self, broker: str, security: SecuritySettings, record_bytes_max: int) -> None:
        self._broker = broker
        self._options = WriterOptions(security, DELIVERY_TIMEOUT_MS, record_bytes_max)
        self._writer: Writer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")

    async def write(self, topic: str, records: Records, partition: int = -1) -> None:
        """Returns when every record is acknowledged; raises the first one's TransportError otherwise.

        Records of the batch before and after one that failed may be in the log: what is written here may be repeated.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, topic, records, partition)

    async def write_until_acked(self, topic: str, records: Records, partition: int = -1) -> None:
        """As `write`, for as long as it takes."""
        while True:
            try:
                await self.write(topic, records, partition)
            except TransportError as error:
                log.warning("%s partition %d: not written, tried again: %s", topic, partition, error)
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                return

    async def close(self) -> None:
        """Lets go of the broker, after the write under way."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _write(self, topic: str, records: Records, partition: int) -> None:
        if self._writer is None:
            self._writer = open_writer(self._broker, self._options)
        for outcome in self._writer.write(topic, records, partition):
            if isinstance(outcome, TransportError):
                raise outcome

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
