"""Sends of agents that cannot arrive, and those of functions that cannot wait: each costs its own record."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.app import App
from streams.errors import UnknownTopicError
from streams.transport.joining import SIFT_AT, Departing
from tests.contract.site import Found, Site

QUICK = {"app.error_retries": 1, "app.error_backoff_ms": 20, "app.error_backoff_max_ms": 200}
COUNT = 20
BAD = b"7"
FOUND_S = 5.0
"""What is promised for a topic that does not exist."""
NO_PARTITION = 99
EMBEDDED, KAFKA = "embedded", pytest.mark.kafka
ODD_PLACES = [(EMBEDDED, "partition"), *(pytest.param("kafka", where, marks=KAFKA) for where in ("topic", "partition"))]
BAD_CHUNKS = [(EMBEDDED, "raises"), *(pytest.param("kafka", bad, marks=KAFKA) for bad in ("raises", "missing"))]
"""The embedded log makes topics when they are needed: none is missing there."""
COUNTLESS = 3_000


def _raw(app: App, name: str, **options: Any) -> Any:
    return app.topic(name, value_type=bytes, value_serializer="raw", **options)


def _numbers() -> list[bytes]:
    return [str(number).encode() for number in range(COUNT)]


async def _site(site: Site) -> str:
    """Makes the source with its records, and a topic for what comes out."""
    out = f"{site.source}-out"
    await site.create(site.source, out, partitions=1)
    await site.write(site.source, *_numbers())
    return out


async def _but_the_bad_one(site: Site, app: App, out: str) -> tuple[list[bytes | None], list[Found]]:
    """Runs until the bad record is a letter and all the others came out: these, and the letters."""
    async with site.running(app) as worker:
        await site.until(lambda: app.rescue.counts[site.source]["dead.agent-raised"] == 1, worker)
        letters = await site.records(site.dead_letters, 1, worker)
        await site.records(out, COUNT - 1, worker)
        while not app.health.places or any(place.lag for place in app.health.places):
            await app.health.look()
            assert not worker.done()
    assert [BAD] == [letter.value for letter in letters]
    return [one.value for one in await site.read(out)], letters


@pytest.mark.parametrize("actors", [1, 3])
async def test_the_actor_whose_send_is_refused_hears_of_it(tmp_path: Path, actors: int) -> None:
    """Actors of an agent empty one queue: what was to wake one of them woke another, and its event waited for ever."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    out = await _site(site)
    app = site.app(QUICK)
    kept = _raw(app, out)

    @app.agent(_raw(app, site.source), name="refused", concurrency=actors)
    async def refused(stream: Any) -> None:
        async for value in stream:
            await kept.send(value=value, partition=NO_PARTITION if value == BAD else None)

    found, _ = await _but_the_bad_one(site, app, out)

    assert {*_numbers()} - {BAD} == {*found}


async def test_sends_that_have_arrived_are_not_kept(tmp_path: Path) -> None:
    """An event that makes many of them held each until the agent was done with it."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    await site.create(site.source, f"{site.source}-out", partitions=1)
    await site.write(site.source, b"0")
    app = site.app()
    kept, held = _raw(app, f"{site.source}-out"), list[int]()

    @app.agent(_raw(app, site.source), name="many")
    async def many(stream: Any) -> None:
        async for value in stream:
            for _ in range(3 * SIFT_AT):
                await (await kept.send(value=value))
            held.append(sum(isinstance(one, Departing) for one in gc.get_objects()))

    async with site.running(app) as worker:
        await site.until(lambda: bool(held), worker)

    assert held[0] < 2 * SIFT_AT


@pytest.mark.parametrize(("site", "where"), ODD_PLACES, indirect=["site"])
async def test_a_send_soon_that_cannot_go_out_costs_its_record(site: Site, where: str) -> None:
    """What publishing raised ended Faust's queue of sends, and the worker; nobody was told what became of the send."""
    out = await _site(site)
    app = site.app(QUICK)
    missing, kept = _raw(app, f"{site.source}-missing"), _raw(app, out)

    @app.agent(_raw(app, site.source), name="soon")
    async def soon(stream: Any) -> None:
        async for value in stream:
            if value != BAD:
                kept.send_soon(value=value)
            elif where == "topic":
                missing.send_soon(value=value)
            else:
                kept.send_soon(value=value, partition=NO_PARTITION)

    found, letters = await _but_the_bad_one(site, app, out)

    assert {*_numbers()} - {BAD} == {*found}
    if where == "topic":
        assert f"topic {site.source}-missing does not exist".encode() in (letters[0].headers["dlq-error"] or b"")


@pytest.mark.kafka
async def test_a_send_soon_to_a_missing_topic_is_told_in_time_and_holds_up_no_other(kafka_site: Site) -> None:
    """However many there are, whoever sends them; once the topic is there they go out in their order."""
    site = kafka_site
    out = await _site(site)
    app = site.app(QUICK)
    missing, kept = _raw(app, f"{site.source}-missing"), _raw(app, out)
    app.agent(_raw(app, site.source), name="nothing")(_nothing)
    loop = asyncio.get_running_loop()

    async with site.running(app) as worker:
        began_s = loop.time()
        futures = [missing.send_soon(value=value) for value in _numbers()]
        behind = kept.send_soon(value=b"behind")
        await asyncio.wait_for(asyncio.shield(behind), FOUND_S)
        assert not any(one.done() for one in futures)
        ends = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), FOUND_S)
        assert loop.time() - began_s < FOUND_S
        await site.create(f"{site.source}-missing", partitions=1)
        for value in _numbers():
            missing.send_soon(value=value)
        found = await site.records(f"{site.source}-missing", COUNT, worker)

    assert all(isinstance(end, UnknownTopicError) and f"{site.source}-missing" in str(end) for end in ends)
    assert _numbers() == [one.value for one in found]


async def _nothing(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize(("site", "bad"), BAD_CHUNKS, indirect=["site"])
@pytest.mark.parametrize("soon", [True, False])
async def test_sends_of_a_chunk_that_nobody_awaits_are_in_its_transaction(site: Site, soon: bool, bad: str) -> None:
    """`send_soon` went out by itself, once more with each try. A topic that does not exist was found by the
    transaction, which failed for all that was in it, for ever.
    """
    out = await _site(site)
    app = site.app(QUICK)
    missing, told = f"{site.source}-missing", list[Any]()

    def send(chunk: Any, topic: str, value: bytes) -> None:
        if soon:
            told.append(_raw(app, topic).send_soon(value=value))
        else:
            chunk.send(topic, key=None, value=value)

    @app.agent(app.chunks(site.source), name="chunks")
    async def chunks(stream: Any) -> None:
        async for chunk in stream:
            for record in chunk:
                if record.value != BAD:
                    send(chunk, out, record.value)
                elif bad == "missing":
                    send(chunk, missing, record.value)
                else:
                    raise ValueError

    found, letters = await _but_the_bad_one(site, app, out)

    assert [number for number in _numbers() if number != BAD] == found
    assert all(one.done() for one in told)
    if bad == "missing":
        assert f"topic {missing} does not exist".encode() in (letters[0].headers["dlq-error"] or b"")


async def test_an_answer_goes_to_reply_topics_alone(site: Site) -> None:
    """Whoever wrote to an agent's topic chose, in a header, which topic the agent wrote to. Where that did not exist
    the question was tried again, while others waited, and became a dead letter. The embedded log makes topics.
    """
    gone = f"f-reply-gone-{site.source}"
    foreign = f"f-reply-{site.source}"
    await site.create(site.source, f"{site.source}-victim", foreign, partitions=1)
    app = site.app(QUICK)
    questions = app.topic(site.source, value_type=str)

    @app.agent(questions, name="doubles")
    async def double(stream: Any) -> Any:
        async for value in stream:
            yield value + value

    async with site.running(app) as worker:
        for reply_to in (f"{site.source}-victim", site.source, gone, foreign):
            await questions.send(value="x", headers={"Faust-Ag-ReplyTo": reply_to.encode()})
        assert "tt" == await asyncio.wait_for(double.ask("t"), 30)
        await site.until(lambda: app.rescue.counts[site.source]["answers.refused"] == 3 - site.embedded, worker)
        answers = await site.records(foreign, 1, worker)

    assert b'"xx"' in (answers[0].value or b"")
    assert 5 == len(await site.read(site.source))
    assert not app.rescue.counts[site.source]["failures"]
    assert [] == await site.read(f"{site.source}-victim")


ODD: list[Callable[[App, str], Any]] = [
    lambda app, topic: _raw(app, topic).send(value=b"1", partition=1 << 70),
    lambda app, topic: _raw(app, topic).send(value=b"1", partition=NO_PARTITION),
]


@pytest.mark.parametrize("odd", ODD)
async def test_every_send_on_the_embedded_log_has_an_end(tmp_path: Any, odd: Callable[[App, str], Any]) -> None:
    """What was no error of the log ended the task that appends: the sends in its hands waited for ever."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    out = await _site(site)
    app = site.app()
    app.agent(_raw(app, site.source), name="nothing")(_nothing)

    async with site.running(app):
        sends = [await odd(app, out), await _raw(app, out).send(value=b"2")]
        ends = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), FOUND_S)
        await asyncio.wait_for(await _raw(app, out).send(value=b"3"), FOUND_S)

    assert isinstance(ends[0], Exception)
    assert [b"2", b"3"] == [one.value for one in await site.read(out)]


async def test_one_bad_send_among_many_costs_no_append_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that came with it were appended one by one, each of them durable before the next."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    out = await _site(site)
    app = site.app()
    app.agent(_raw(app, site.source), name="nothing")(_nothing)
    kept, bad = _raw(app, out), COUNTLESS // 3

    async with site.running(app):
        before, appends = app.transport.log.append, list[int]()

        def append(batches: Any, *more: Any) -> Any:
            appends.append(len(batches))
            return before(batches, *more)

        monkeypatch.setattr(app.transport.log, "append", append)
        sends = [
            await kept.send(value=str(number).encode(), partition=NO_PARTITION if number == bad else None)
            for number in range(COUNTLESS)
        ]
        ends = await asyncio.gather(*sends, return_exceptions=True)

    assert [bad] == [number for number, end in enumerate(ends) if isinstance(end, Exception)]
    assert [str(n).encode() for n in range(COUNTLESS) if n != bad] == [one.value for one in await site.read(out)]
    assert len(appends) < COUNTLESS / 10
