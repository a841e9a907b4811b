"""A worker that reads no topic, as one of timers and pages alone: on Kafka it ended at its start with a traceback."""

from __future__ import annotations

import asyncio

from tests.contract.site import Site


async def test_timers_run_and_a_topic_may_come_later(site: Site) -> None:
    """It is ready without a group; a stream that a task opens afterwards is read."""
    await site.create(site.source, partitions=1)
    app = site.app()
    ticks: list[int] = []
    seen: list[object] = []
    opens = asyncio.Event()

    @app.timer(0.05)
    async def tick() -> None:
        ticks.append(1)

    @app.task
    async def follow() -> None:
        await opens.wait()
        async for value in app.topic(site.source, value_type=str, value_serializer="raw").stream():
            seen.append(value)

    async with site.running(app) as worker:
        await site.until(lambda: ticks, worker)
        await app.health.look()
        assert {} == app.health.reasons()
        opens.set()
        await site.write(site.source, b"a")
        await site.until(lambda: seen, worker)
        await site.until(lambda: not app.health.reasons(), worker)

    assert ["a"] == seen
