"""Faust's own tables and windows whose changelog retention has cut: a restart reads what is left, from its start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streams.app import App
from streams.transport.soon import SoonBuffer
from tests.contract.site import Site

DAY_S = 86_400.0
"""Of a window that the test is in from its beginning to its end."""


class Counting:
    """An app with a plain table and a window that counts the same events; no sync."""

    def __init__(self, site: Site) -> None:
        self.app: App = site.app()
        types: Any = {"key_type": str, "value_type": int, "partitions": 1, "default": int}
        self.hits = self.app.Table("hits", **types)
        self.lately = self.app.Table("lately", **types).tumbling(DAY_S, expires=2 * DAY_S, key_index=True)
        topic = self.app.topic(
            site.source, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        self.app.agent(topic)(self.count)
        self.seen = 0
        self.today = 0

    async def count(self, stream: Any) -> None:
        """The agent's body."""
        async for _ in stream:
            self.hits["all"] += 1
            self.lately["all"] += 1
            self.today = self.lately["all"].current()
            self.seen += 1


@pytest.mark.parametrize("left", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_a_window_whose_changelog_was_cut_restarts(site: Site, left: int) -> None:
    """Everything of the window's changelog has expired, or all but its last record; the plain table is whole."""
    await site.create(partitions=1)
    first = Counting(site)
    async with site.running(first.app) as worker:
        await site.write(site.source, b"1", b"2", b"3")
        await site.until(lambda: first.seen == 3, worker)
    await site.expire(f"{first.app.conf.id}-lately-changelog", left)
    again = Counting(site)
    async with site.running(again.app) as worker:
        await site.write(site.source, b"4")
        await site.until(lambda: again.seen == 1, worker)

    assert 4 == again.hits["all"]
    assert (1 if left == 0 or site.embedded else 4) == again.today  # embedded: whole blocks expire


@pytest.mark.parametrize("chunked", [True, False])
async def test_offsets_move_behind_the_rows_of_tables(
    site: Site, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    """Rows go out by themselves, a chunk agent's too: its transaction did not wait for them, and a kill lost them."""
    await site.create(partitions=1)
    app = site.app()
    types: Any = {"key_type": str, "value_type": int, "partitions": 1, "default": int}
    hits = app.Table("hits", **types)
    read = app.chunks(site.source) if chunked else app.topic(site.source, value_type=bytes, value_serializer="raw")
    seen, go_on = list[int](), asyncio.Event()

    @app.agent(read)
    async def count(stream: Any) -> None:
        async for value in stream:
            hits["all"] += len(value) if chunked else 1
            seen.append(hits["all"])

    async def lag() -> int:
        await app.health.look()
        return sum(place.lag or 0 for place in app.health.places if place.topic == site.source)

    publish = SoonBuffer._send_pending

    async def held(buffer: SoonBuffer, fut: Any) -> None:
        await go_on.wait()
        await publish(buffer, fut)

    monkeypatch.setattr(SoonBuffer, "_send_pending", held)
    async with site.running(app) as worker:
        await site.write(site.source, b"1", b"2", b"3")
        await site.until(lambda: seen, worker)
        await asyncio.sleep(3 * app.settings.transaction.interval_ms / 1_000 + 1)
        waiting = await lag()
        go_on.set()
        while await lag():
            await asyncio.sleep(0.05)
            assert not worker.done()

    assert waiting == 3
    assert 3 == hits["all"]
