"""A worker on the embedded log whose agents raise on some records, for tests that kill it amid retries and trials.

    python -m tests.faults.embedded_agents directory source records

Says READY when it has its partitions, DONE when everything that was sent is committed. Every tenth record is bad for
the one agent, every record is good for the other.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from streams._native import Records
from streams.app import App
from streams.transport.log import Log
from tests.contract.site import Site

SETTINGS = {"app.error_retries": 2, "app.error_backoff_ms": 15, "app.error_backoff_max_ms": 60}
BATCH = 20
PAUSE_S = 0.03
PARTITIONS = 2


class BadRecordError(Exception):
    """What an agent raises."""


def is_bad(number: int) -> bool:
    """Whether the agent raises on this record, each time."""
    return number % 10 == 7


def agents(app: App, site: Site) -> None:
    """Two agents of one topic, each with an output of its own."""
    for name in ("bad", "good"):
        topic = app.topic(f"{site.source}.{name}", value_type=bytes, value_serializer="raw")

        async def copy(stream: Any, name: str = name, topic: Any = topic) -> None:
            async for chunk in stream:
                for record in chunk:
                    await topic.send(value=record.value, partition=chunk.partition)
                    if name == "bad" and is_bad(int(record.value)):
                        raise BadRecordError

        app.agent(app.chunks(site.source), name=name)(copy)


async def load(log: Log, source: str, records: int) -> None:
    """Sends what is not in the log yet, each number to the partition of its parity."""
    begin = sum(log.end(source, partition) for partition in range(PARTITIONS))
    for first in range(begin, records, BATCH):
        runs = [Records() for _ in range(PARTITIONS)]
        for number in range(first, min(first + BATCH, records)):
            runs[number % PARTITIONS].append(None, str(number).encode())
        await asyncio.to_thread(log.append, [(source, at, run) for at, run in enumerate(runs)])
        await asyncio.sleep(PAUSE_S)


async def main(directory: str, source: str, records: str) -> None:
    """Runs until everything is done, or until it is killed."""
    site = Site(f"embedded://{directory}/log", Path(directory))
    site.source = source
    app = site.app(SETTINGS)
    agents(app, site)

    def is_behind(log: Log) -> bool:
        done = log.committed(app.conf.id)
        return any(done.get((source, at), 0) < log.end(source, at) for at in range(PARTITIONS))

    with Log.shared(Path(directory) / "log") as log:
        for topic in (source, f"{source}.bad", f"{source}.good"):
            log.create_topic(topic, PARTITIONS)
        async with site.running(app) as worker:
            print("READY", flush=True)
            sending = asyncio.create_task(load(log, source, int(records)))
            await site.until(sending.done, worker)
            await sending
            await site.until(lambda: not is_behind(log), worker)
    print("DONE", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
