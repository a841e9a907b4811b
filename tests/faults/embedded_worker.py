"""A worker on the embedded log with its own load, for tests that kill it: there is no other process to send events.

    python -m tests.faults.embedded_worker directory source seed events state [point:count]

Sends the events of `history(seed, events)` from where the log ends, a batch at a time; says READY when it has its
partitions, DONE when everything is sent and committed. At `point` (append: a transaction is durable and nobody here
knows it; write: the local store has taken the rows) it kills itself for the count-th time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.app import App
from streams.client.event import Event
from streams.client.producer import Producer
from streams.demo.v1.device_pb2 import DeviceState
from streams.state.rocks import Store
from streams.transport.log import Log
from streams.transport.worker_log import WorkerLog
from tests.contract.site import Site, history

BATCH = 25
PAUSE_S = 0.02
PARTITIONS = 3


def dying(call: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The call, after which this process dies without a word for the count-th time."""
    passed: Counter[str] = Counter()

    def called(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        passed["calls"] += 1
        if passed["calls"] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


async def load(log: Log, site: Site, states: list[DeviceState]) -> None:
    """Sends what is not in the log yet. A batch is there whole or not at all, and in this order."""
    begin = sum(log.end(site.source, partition) for partition in range(PARTITIONS))
    async with Producer(site.url, source="/test") as producer:
        for first in range(begin, len(states), BATCH):
            batch = [Event(state, state.device_id) for state in states[first : first + BATCH]]
            await producer.send_many(site.source, batch)
            await asyncio.sleep(PAUSE_S)


def behind(log: Log, app: App, site: Site) -> bool:
    """Whether there are events that are not committed."""
    done = log.committed(app.conf.id)
    return any(done.get((site.source, number), 0) < log.end(site.source, number) for number in range(PARTITIONS))


async def main(directory: str, source: str, seed: str, events: str, state: str, at: str = "") -> None:
    """Runs until everything is done, or until it is killed."""
    site = Site(f"embedded://{directory}/log", Path(directory))
    site.source = source
    point, _, count = at.partition(":")
    if point == "append":
        WorkerLog.append = dying(WorkerLog.append, int(count))  # type: ignore[method-assign]
    elif point == "write":
        Store.write = dying(Store.write, int(count))  # type: ignore[method-assign]
    app = site.app()
    app.sync(source, DeviceState, state=state)
    with Log.shared(Path(directory) / "log") as log:
        log.create_topic(source, PARTITIONS)
        async with site.running(app) as worker:
            print("READY", flush=True)
            sending = asyncio.create_task(load(log, site, history(int(seed), int(events), devices=40)))
            await site.until(sending.done, worker)
            await sending
            await site.until(lambda: not behind(log, app, site), worker)
    print("DONE", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
