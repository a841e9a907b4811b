"""Sends from an agent that works on a chunk: they join the chunk's transaction instead of going out by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from faust.streams import current_event
from faust.types import TP, RecordMetadata

from streams.transport.chunk import Chunk

__all__ = ["header_list", "join_chunk"]


def header_list(headers: Any) -> list[tuple[str, bytes | None]]:
    """Faust takes headers as a mapping, as pairs, or not at all."""
    return list(headers.items() if isinstance(headers, Mapping) else headers or ())


def join_chunk(
    topic: str, key: bytes | None, value: bytes | None, partition: int | None, timestamp: float | None, headers: Any
) -> asyncio.Future[RecordMetadata] | None:
    """Adds a send to the chunk that the current agent works on; None outside of chunk agents.

    The future is done: the offset is known only after the chunk's transaction, -1 says so.
    """
    chunk = getattr(current_event(), "value", None)
    if not isinstance(chunk, Chunk):
        return None
    chunk.send(
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
