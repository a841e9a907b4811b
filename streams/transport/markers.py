"""A quiet partition's position goes behind the markers of its last transactions.

Before them it would be out of range once retention has removed records and markers, and look like a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from faust.types import TP

__all__ = ["MARKERS_S", "pass_markers"]

MARKERS_S = 5.0
"""Of a worker that is killed within so long of a partition's last record the position stays before the marker."""


async def pass_markers(consumer: Any, behind: Mapping[TP, tuple[int, int, bool]]) -> None:
    """Commits the ends of partitions of which all is done. `behind`: see `ConsumerThread.behind_markers`."""
    if consumer.app.rebalancing or not consumer.flow_active:
        return
    topics, generation, epoch = consumer.app.topics, consumer.app.consumer_generation_id, consumer.epoch
    for tp, (at, end, untouched) in behind.items():
        is_done = partial(_is_done, consumer, epoch, tp, at, end, untouched=untouched)
        if consumer.epoch != epoch:
            return  # a rewind, while one was committed: these may be the ends of other logs by now
        if consumer.is_changelog(tp) or tp in consumer.held_back or tp in consumer.stops:
            continue
        for told in consumer.quiet:
            told(*tp, at, end)
        if topics.is_chunked(tp.topic):
            await consumer.pipeline.pass_over((tp.topic, tp.partition), end, generation, is_done)
        elif topics.acks_enabled_for(tp.topic) and is_done():
            await consumer._commit({tp: end})
            consumer.pace.finished({tp: end})


def _is_done(consumer: Any, epoch: int, tp: TP, at: int, end: int, *, untouched: bool) -> bool:
    """Whether all that was handed over of a partition is committed, and the markers behind it are not."""
    done = consumer.pace.done.get(tp, at if untouched else -1)
    return consumer.epoch == epoch and at <= done < end and not consumer._order.get(tp)
