"""Faust's own documented examples, word for word where it counts, in our App on both transports.

Sources: the quick start and the user guide's chapters on agents, tables, streams, tasks and web views.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import faust
import pytest

from streams import settings
from streams._native import KafkaAdmin, KafkaConsumer
from streams.app import App
from streams.errors import UserCodeError
from tests.broker import Broker, free_port

TIMEOUT_S = 30.0
PARTITIONS = 4
"""As embedded topics are made; tables must have as many as what they are filled from."""


@pytest.fixture(params=["embedded", "kafka"])
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., App]:
    """Makes an App with an id of its own on the transport of this turn."""
    if request.param == "embedded":
        broker = f"embedded://{tmp_path / 'log'}"
    else:
        kafka: Broker = request.getfixturevalue("kafka")
        broker = kafka.url

    def make(**options: Any) -> App:
        app = App(
            f"faust-{uuid.uuid4().hex[:8]}",
            broker=broker,
            datadir=tmp_path / "data",
            topic_partitions=PARTITIONS,
            topic_replication_factor=1,
            **options,
        )
        app.conf.web_port = free_port()  # other tests run meanwhile
        return app

    return make


@contextlib.asynccontextmanager
async def running(app: App, *topics: str) -> AsyncIterator[asyncio.Task[None]]:
    """The worker, ready, until the block ends; what ended it early is raised. Nothing of it runs on afterwards."""
    others = asyncio.all_tasks()
    if topics and app.settings.app.broker.startswith("kafka://"):
        admin = KafkaAdmin({"bootstrap.servers": app.settings.app.broker.removeprefix("kafka://")})
        admin.create_topics([(topic, PARTITIONS, 1, {}) for topic in topics], 10_000)
    ready = asyncio.Event()
    serving = asyncio.create_task(app.serve(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([serving, waiting], timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        await serving
    assert ready.is_set(), "the worker was not ready in time"
    try:
        yield serving
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([serving])
        # Once, an agent that had raised was started again meanwhile, and the event loop could not be closed.
        left = asyncio.all_tasks() - others - {serving}
        if left:  # those that were cancelled take a turn to end; Faust leaves one wait for an event behind
            _, left = await asyncio.wait(left, timeout=0.1)
        assert [task for task in left if task.get_coro().__qualname__ != "Event.wait"] == []
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Waits for what an agent does in its own time."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            answer = condition()
            if await answer if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.05)


async def test_quick_start_greets(make_app: Callable[..., App]) -> None:
    """The quick start: an agent over a topic of text, and a send from a timer."""
    app = make_app()
    name = f"{app.conf.id}-greetings"
    greetings_topic = app.topic(name, value_type=str)
    greeted: list[str] = []

    @app.agent(greetings_topic)
    async def greet(greetings: Any) -> None:
        async for greeting in greetings:
            greeted.append(f"Hello {greeting}")

    @app.timer(interval=0.2)
    async def say() -> None:
        await greet.send(value="Faust")

    async with running(app, name):
        await until(lambda: "Hello Faust" in greeted)


async def test_word_count_keeps_a_table(make_app: Callable[..., App]) -> None:
    """The table chapter: group_by, a table with a default, counts that add up and outlive the worker."""
    counts: dict[str, int] = {}

    def build(app_id: str | None = None) -> tuple[App, Any, Any]:
        app = make_app()
        posts_topic = app.topic(f"{topic}-posts", value_type=str)
        word_counts = app.Table("word_counts", default=int, partitions=PARTITIONS)

        @app.agent(posts_topic)
        async def shuffle_words(posts: Any) -> None:
            async for post in posts:
                for word in post.split():
                    await count_words.send(key=word, value=word)

        count_topic = app.topic(f"{topic}-counts", key_type=str, value_type=str)

        @app.agent(count_topic)
        async def count_words(words: Any) -> None:
            async for word in words.group_by(lambda word: word, name="word", partitions=PARTITIONS):
                word_counts[word] += 1
                counts[word] = word_counts[word]

        return app, shuffle_words, word_counts

    topic = f"words-{uuid.uuid4().hex[:8]}"
    app, shuffle_words, _ = build()
    async with running(app, f"{topic}-posts", f"{topic}-counts"):
        for post in ("a b a", "b a", "c"):
            await shuffle_words.send(value=post)
        await until(lambda: counts == {"a": 3, "b": 2, "c": 1})


async def test_tumbling_windows_count_page_views(make_app: Callable[..., App]) -> None:
    """The window chapter: a tumbling table, read relative to the current event."""

    class PageView(faust.Record):
        id: str
        user: str

    app = make_app()
    name = f"{app.conf.id}-views"
    page_view_topic = app.topic(name, value_type=PageView)
    page_views = app.Table("page_views", default=int, partitions=PARTITIONS).tumbling(60.0, expires=3600.0)
    seen: dict[str, int] = {}

    @app.agent(page_view_topic)
    async def count_page_views(views: Any) -> None:
        async for view in views.group_by(PageView.id, partitions=PARTITIONS):
            page_views[view.id] += 1
            seen[view.id] = page_views[view.id].current()

    async with running(app, name):
        for page, user in (("home", "a"), ("home", "b"), ("cart", "a")):
            await count_page_views.send(value=PageView(id=page, user=user))
        await until(lambda: seen == {"home": 2, "cart": 1})


async def test_take_collects_events(make_app: Callable[..., App]) -> None:
    """The stream chapter: take(n, within) hands out lists, and every event once."""
    app = make_app()
    name = f"{app.conf.id}-numbers"
    batches: list[list[int]] = []

    @app.agent(app.topic(name, value_type=int))
    async def collect(stream: Any) -> None:
        async for batch in stream.take(3, within=0.5):
            batches.append(list(batch))

    async with running(app, name):
        for number in range(7):
            await collect.send(value=number)
        await until(lambda: sum(len(batch) for batch in batches) >= 7)

    assert sorted(number for batch in batches for number in batch) == list(range(7))
    assert max(len(batch) for batch in batches) <= 3


async def test_tasks_run_and_pages_are_served(make_app: Callable[..., App]) -> None:
    """A task at start, a table that an agent fills, and a web view that reads it."""
    app = make_app()
    port = app.conf.web_port
    name = f"{app.conf.id}-math"
    started: list[str] = []
    totals = app.Table("totals", default=int, partitions=PARTITIONS)

    @app.agent(app.topic(name, key_type=str, value_type=int))
    async def add(stream: Any) -> None:
        async for number in stream:
            totals["all"] += number

    @app.task
    async def on_started() -> None:
        started.append(app.conf.id)

    @app.page("/total/")
    async def total(web: Any, request: Any) -> Any:
        return web.json({"total": totals["all"]})

    async def page() -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/total/") as response:
            return json.loads(await response.text())

    async def counted() -> bool:
        return bool(await page() == {"total": 21})

    async with running(app, name):
        await add.send(value=21, key="k")
        await until(counted)

    assert started == [app.conf.id]


async def test_an_event_whose_agent_raised_is_read_again(make_app: Callable[..., App], tmp_path: Path) -> None:
    """Faust acknowledges it and goes on: with on_error = stop the worker ends, and the next one reads it again."""
    topic = f"raise-{uuid.uuid4().hex[:8]}"
    app_id = f"raising-{uuid.uuid4().hex[:8]}"
    broker = make_app().settings.app.broker
    handled: list[int] = []

    def build(fails: bool) -> tuple[App, Any]:
        place = {"app.id": app_id, "app.broker": broker, "app.datadir": str(tmp_path / "again")}
        made = settings.read(flags={**place, "app.on_error": "stop"})
        app = App(app_id, settings=made, topic_replication_factor=1)

        @app.agent(app.topic(topic, value_type=int))
        async def handle(stream: Any) -> None:
            async for number in stream:
                if fails and number == 3:
                    raise RuntimeError("a bug of the user's")
                handled.append(number)

        return app, handle

    app, handle = build(fails=True)

    async def until_it_raises() -> None:
        async with running(app, topic) as serving:
            for number in range(5):
                await handle.send(key="same", value=number)
            await asyncio.wait([serving], timeout=TIMEOUT_S)

    with pytest.raises(UserCodeError, match=r"raised RuntimeError .*handle"):
        await until_it_raises()
    assert 3 not in handled

    if broker.startswith("kafka://"):
        # The next worker begins where the group's offsets are: not after the event that was not finished.
        reader = KafkaConsumer({"bootstrap.servers": broker.removeprefix("kafka://"), "group.id": app_id})
        committed = reader.committed([(topic, partition) for partition in range(PARTITIONS)], 10_000)
        reader.close()
        assert all(offset <= 3 for _, _, offset in committed)
        return
    again, _ = build(fails=False)
    async with running(again):
        await until(lambda: {3, 4} <= set(handled))
