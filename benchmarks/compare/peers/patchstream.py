"""Ours: one line for the job, and around it what times it. Last argument: `exactly_once` or `at_least_once`.

Time begins when the worker is ready, before the first record is fetched, which counts against us.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.compare.peers.task import given, say_done, say_first
from streams._native import keep_freed_memory
from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState

POLL_S = 0.005


async def run() -> None:
    """Serves until every event is applied and committed."""
    task = given()
    app = App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        datadir=task.directory,
        guarantee=sys.argv[7],
        web_enabled=False,
    )
    devices = app.sync(task.source, DeviceState, output=task.output)
    ready = asyncio.Event()
    serving = asyncio.create_task(app.serve(ready.set))
    await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    say_first()
    while not serving.done() and (devices.counts["events"] < task.events or not app.consumer.pipeline.idle):  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    if serving.done():
        await serving
    say_done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    keep_freed_memory()  # as `streams worker` does
    asyncio.run(run())
