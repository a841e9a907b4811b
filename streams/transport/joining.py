"""Sends from an agent that works on a chunk: they join the chunk's transaction instead of going out by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from faust.types import TP, RecordMetadata

from streams.errors import ChunkClosed
from streams.transport.chunk import Chunk

__all__ = ["Sends", "header_list", "join_chunk", "joins", "working_on"]


class Sends:
    """Where the sends of an agent for its share of a chunk go, for as long as it works on it.

    Tasks that the agent starts inherit it and may outlive the chunk: they hold this, not the records.
    """

    __slots__ = ("_agent", "_chunk", "_place")

    def __init__(self, share: Chunk) -> None:
        self._chunk: Chunk | None = share
        self._agent = share.agent
        self._place = (share.topic, share.partition, share.last)

    @property
    def chunk(self) -> Chunk:
        """The share. ChunkClosed once the agent is done with it."""
        if self._chunk is None:
            raise ChunkClosed(self._agent, *self._place)
        return self._chunk

    def close(self) -> None:
        """Nothing joins the share any more."""
        if self._chunk is not None:
            self._chunk.closed = True
        self._chunk = None


_SENDS: ContextVar[Sends | None] = ContextVar("streams_sends", default=None)


def working_on(sends: Sends | None) -> None:
    """What this task, and those that it starts from here on, send goes there; None: out by itself."""
    _SENDS.set(sends)


def joins() -> bool:
    """Whether a send here joins a chunk. ChunkClosed where it would and the agent is done with it."""
    sends = _SENDS.get()
    return sends is not None and sends.chunk is not None


def header_list(headers: Any) -> list[tuple[str, bytes | None]]:
    """Faust takes headers as a mapping, as pairs, or not at all."""
    return list(headers.items() if isinstance(headers, Mapping) else headers or ())


def join_chunk(
    topic: str, key: bytes | None, value: bytes | None, partition: int | None, timestamp: float | None, headers: Any
) -> asyncio.Future[RecordMetadata] | None:
    """Adds a send to the chunk that the current agent works on; None outside of chunk agents. ChunkClosed: too late.

    The future is done: the offset is known only after the chunk's transaction, -1 says so.
    """
    sends = _SENDS.get()
    if sends is None:
        return None
    sends.chunk.send(
        topic,
        key=key,
        value=value,
        headers=header_list(headers),
        partition=-1 if partition is None else partition,
        timestamp_ms=int(timestamp * 1000) if timestamp else -1,
    )
    joined: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
    joined.set_result(RecordMetadata(topic, partition or 0, TP(topic, partition or 0), -1))
    return joined
