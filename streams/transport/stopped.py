"""Partitions that stand still until a person lets them go on: each by itself, for a reason that was declared.

A stopped partition is not fetched, and what was fetched of it before is not handed to agents: only what lies before the
offset where it stopped is still finished. Everything else in the worker goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from faust.types import TP

from streams.transport.chunk import Chunk

__all__ = ["Stop", "Stops", "go_on", "hold", "hold_back", "stop_after"]

NOT_FETCHED = -1


class Stop(NamedTuple):
    """Why a partition stands still, the offset at which it goes on, and since when."""

    code: str
    """A word for metrics."""
    reason: str
    """For people: what was counted, and the cure."""
    offset: int
    """Below 0: where the committed offset is, from which nothing was fetched here."""
    since_ms: int


class Stops:
    """The stopped partitions of one worker, and which fetched records are from before a stop that is over."""

    def __init__(self) -> None:
        self._stops: dict[TP, Stop] = {}
        self._turns: dict[TP, tuple[int, int]] = {}  # how often it went on, and from where

    def __contains__(self, tp: TP) -> bool:
        return tp in self._stops

    def __iter__(self) -> Iterator[tuple[TP, Stop]]:
        return iter(list(self._stops.items()))

    def stop(self, tp: TP, stop: Stop) -> None:
        """Holds a partition from the stop's offset on."""
        self._stops[tp] = stop

    def resume(self, tp: TP) -> Stop | None:
        """Lets it go on; the stop that is over, or None. What was fetched behind the stop is never handed out."""
        stop = self._stops.pop(tp, None)
        if stop is not None and stop.offset != NOT_FETCHED:
            self._turns[tp] = (self.turn(tp) + 1, stop.offset)
        return stop

    def forget(self) -> None:
        """Everything is read again from the committed offsets: the changelogs say what is still stopped."""
        self._stops.clear()
        self._turns.clear()

    def turn(self, tp: TP) -> int:
        """Goes up each time the partition goes on."""
        return self._turns.get(tp, (0, 0))[0]

    def admits(self, tp: TP, begin: int, turn: int) -> bool:
        """Whether records fetched at `begin` in this turn may be worked on."""
        stop = self._stops.get(tp)
        if stop is not None and begin >= stop.offset:
            return False
        now, resumed_at = self._turns.get(tp, (0, 0))
        return turn == now or begin < resumed_at


def stop_after(consumer: Any, chunk: Chunk, code: str, reason: str, now_ms: int) -> None:
    """This chunk is the last one of its partition until somebody lets it go on; it is still committed."""
    consumer.stops.stop(TP(chunk.topic, chunk.partition), Stop(code, reason, (chunk.whole or chunk).last + 1, now_ms))
    consumer.pipeline.forget_suspects((chunk.topic, chunk.partition))


def hold_back(consumer: Any, tp: TP) -> None:
    """Nothing more is fetched of this partition for now, and nobody waits for what is in it."""
    consumer.held_back.add(tp)
    consumer.pipeline.forget_suspects(tp)


def hold(consumer: Any, topic: str, partition: int, code: str, reason: str, since_ms: int) -> None:
    """This partition came here stopped; nothing of it was fetched yet."""
    consumer.stops.stop(TP(topic, partition), Stop(code, reason, NOT_FETCHED, since_ms))
    consumer.pipeline.forget_suspects((topic, partition))


async def go_on(consumer: Any, topic: str, partition: int) -> bool:
    """Lets a stopped partition go on where it stopped; False: it was not stopped."""
    tp = TP(topic, partition)
    stop = consumer.stops.resume(tp)
    if stop is None:
        return False
    consumer.pace.forget([tp])
    if stop.offset != NOT_FETCHED and await consumer.position(tp) is not None:
        await consumer.seek(tp, stop.offset)
    return True
