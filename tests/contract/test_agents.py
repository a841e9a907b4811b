"""Agents that raise, on every transport: their own record costs what it costs, and nothing else stands still."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from streams.app import App
from streams.errors import ChunkAskError, ChunkClosed, UnknownTopicError, UserCodeError
from tests.contract.site import Found, Site

QUICK = {"app.error_retries": 2, "app.error_backoff_ms": 20, "app.error_backoff_max_ms": 200}
SECRET = "somebody@example.com"


class DatabaseAwayError(Exception):
    """What a driver would raise; its text holds what the record holds."""


def numbers(count: int) -> list[bytes]:
    """Values of so many records."""
    return [str(number).encode() for number in range(count)]


def doubling(app: App, source: str, out: str, on: Callable[[int], None]) -> Counter[int]:
    """A chunk agent that sends twice each number, after `on` had its chance to raise; how often it saw each."""
    topic, seen = app.topic(out, value_type=bytes, value_serializer="raw"), Counter[int]()

    @app.agent(app.chunks(source), name=f"double-{out}")
    async def double(stream: Any) -> None:
        async for chunk in stream:
            for record in chunk:
                number = int(record.value)
                seen[number] += 1
                await topic.send(value=str(2 * number).encode(), partition=0)
                on(number)

    return seen


def raising(*bad: int) -> Callable[[int], None]:
    """Raises on these numbers, always."""

    def on(number: int) -> None:
        if number in bad:
            raise DatabaseAwayError(SECRET)

    return on


def doubles(count: int, *without: int) -> list[bytes]:
    """What comes of so many numbers."""
    return [str(2 * number).encode() for number in range(count) if number not in without]


def values(found: list[Found]) -> list[bytes | None]:
    """What is in records."""
    return [one.value for one in found]


def place(letter: Found) -> tuple[bytes | None, ...]:
    """Where a letter's record came from."""
    return tuple(letter.headers[f"dlq-origin-{part}"] for part in ("topic", "partition", "offset"))


async def test_a_record_that_an_agent_raises_on_is_a_letter(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Its chunk's other records come out once and in order; the other agent of the topic sees each of them once."""
    bad, good = f"{site.source}-bad", f"{site.source}-good"
    await site.create(site.source, partitions=2)
    await site.create(bad, good, partitions=1)
    await site.write(site.source, *numbers(40), key=b"k", partition=1)
    app = site.app(QUICK)
    doubling(app, site.source, bad, raising(7, 8, 39))
    seen = doubling(app, site.source, good, raising())
    with caplog.at_level(logging.DEBUG):
        async with site.running(app) as worker:
            found = await site.records(bad, 37, worker)
            other = await site.records(good, 40, worker)
            letters = await site.records(site.dead_letters, 3, worker)
            assert app.rescue.counts[site.source]["dead.agent-raised"] == 3
            assert not app.transport.reasons

    name = f"double-{bad}".encode()
    assert doubles(40, 7, 8, 39) == values(found)
    assert doubles(40) == values(other)
    assert {1} == set(seen.values())
    assert {b"7", b"8", b"39"} == set(values(letters))
    assert {(site.source.encode(), b"1", str(n).encode()) for n in (7, 8, 39)} == {place(one) for one in letters}
    assert all(b"agent-raised" == one.headers["dlq-reason"] and b"k" == one.key for one in letters)
    assert {32} == {len(one.headers["dlq-origin-topic-id"] or b"") for one in letters}
    assert all(name in (said := one.headers["dlq-error"] or b"") and b"DatabaseAwayError" in said for one in letters)
    assert SECRET not in caplog.text
    assert SECRET.encode() not in b"".join(value or b"" for one in letters for value in one.headers.values())


async def test_an_agent_whose_database_is_away_waits(site: Site) -> None:
    """No letter, a declared reason, nothing lost or doubled; agents of other topics and restarts go on meanwhile."""
    out, other = f"{site.source}-out", f"{site.source}-other"
    await site.create(site.source, f"{other}-in", partitions=2)
    await site.create(out, other, partitions=1)
    away = True

    def on(_: int) -> None:
        if away:
            raise DatabaseAwayError(SECRET)

    for begin in (0, 20):
        away = True
        app = site.app(QUICK)
        doubling(app, site.source, out, on)
        doubling(app, f"{other}-in", other, raising())
        async with site.running(app) as worker:
            for topic in (site.source, f"{other}-in"):
                for partition in (0, 1):
                    await site.write(topic, *numbers(begin + 20)[begin + partition :: 2], partition=partition)
            await site.records(other, begin + 20, worker)
            await site.until(lambda app=app: len(_waiting(app)) == 2, worker)  # type: ignore[misc]
            assert not app.health.reasons().keys() - set(_waiting(app))
            assert all("DatabaseAwayError" in said and SECRET not in said for said in _waiting(app).values())
            if begin:
                away = False
                await site.records(out, 40, worker)
                await site.until(lambda app=app: not app.transport.reasons, worker)  # type: ignore[misc]

    assert sorted(doubles(40)) == sorted(filter(None, values(await site.read(out))))
    assert sorted(doubles(40)) == sorted(filter(None, values(await site.read(other))))


def _waiting(app: App) -> dict[str, str]:
    return {name: said for name, said in app.transport.reasons.items() if name.startswith("agent ")}


async def test_an_agent_that_raises_can_end_the_worker(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """app.on_error = stop: one sentence with the place and the type, nothing of the chunk; the next worker has it."""
    out = f"{site.source}-out"
    await site.create(site.source, out)
    await site.write(site.source, *numbers(40), partition=1)
    app = site.app({"app.on_error": "stop"})
    doubling(app, site.source, out, raising(30))
    with caplog.at_level(logging.DEBUG), pytest.raises(UserCodeError) as caught:
        async with site.running(app) as worker:
            await asyncio.wait_for(worker, 30)
    after_failure = await site.read(out)
    app = site.app()
    doubling(app, site.source, out, raising())
    async with site.running(app) as worker:
        after_success = await site.records(out, 40, worker)

    error = caught.value
    assert (site.source, 1, 30) == (error.topic, error.partition, error.offset)
    assert f"double-{out} raised tests.contract.test_agents.DatabaseAwayError" in str(error)
    assert SECRET not in f"{error} {error.__cause__} {caplog.text}"
    assert [] == after_failure
    assert doubles(40) == values(after_success)


async def test_ordinary_agents_give_up_one_event(site: Site) -> None:
    """It is tried again, then a letter; those behind it follow in order, and a table counts each that was taken."""
    await site.create(site.source, partitions=2)
    tries, done = Counter[int](), list[int]()
    for begin, end in ((0, 10), (10, 20)):
        app = site.app(QUICK)
        table = app.Table("sums", default=int, partitions=2)

        @app.agent(app.topic(site.source, value_type=bytes, value_serializer="raw"), name="adds")
        async def add(stream: Any, table: Any = table) -> None:
            async for value in stream:
                tries[int(value)] += 1
                if int(value) in (3, 14):
                    raise DatabaseAwayError(SECRET)
                table["all"] += int(value)
                done.append(int(value))

        async with site.running(app) as worker:
            await site.write(site.source, *numbers(end)[begin:], key=b"k", partition=1)
            await site.until(lambda end=end: end - 1 in done, worker)  # type: ignore[misc]
            await site.records(site.dead_letters, end // 10, worker)
            assert not app.transport.reasons

    letters = await site.read(site.dead_letters)
    assert {b"3", b"14"} == set(values(letters))
    assert {(site.source.encode(), b"1", b"3"), (site.source.encode(), b"1", b"14")} == set(map(place, letters))
    assert [number for number in done if done.count(number) == 1] == [n for n in range(20) if n not in (3, 4, 14, 15)]
    assert {3: 4, 14: 4} == {number: count for number, count in tries.items() if number in (3, 14)}


async def test_what_take_gathered_is_not_lost_with_a_raise(site: Site) -> None:
    """Faust acknowledges all of it, whether the body came to its end or not."""
    await site.create(site.source, partitions=1)
    await site.write(site.source, *numbers(20))
    app = site.app(QUICK)
    done: list[int] = []

    @app.agent(app.topic(site.source, value_type=bytes, value_serializer="raw"), name="gathers")
    async def gather(stream: Any) -> None:
        async for several in stream.take(6, within=0.2):
            if b"7" in several:
                raise DatabaseAwayError(SECRET)
            done.extend(map(int, several))

    async with site.running(app) as worker:
        await site.until(lambda: 19 in done, worker)
        letters = await site.records(site.dead_letters, 1, worker)

    assert [b"7"] == values(letters)
    assert [n for n in range(20) if n != 7] == [n for at, n in enumerate(done) if n not in done[:at]]


async def test_an_agent_that_raises_before_its_first_record_is_run_again(site: Site) -> None:
    """A connection that cannot be made is a reason to wait, said with the error's type."""
    out = f"{site.source}-out"
    await site.create(site.source, out, partitions=1)
    await site.write(site.source, *numbers(3))
    app = site.app(QUICK)
    topic, away = app.topic(out, value_type=bytes, value_serializer="raw"), True

    @app.agent(app.chunks(site.source), name="connects")
    async def connect(stream: Any) -> None:
        if away:
            raise DatabaseAwayError(SECRET)
        async for chunk in stream:
            for record in chunk:
                await topic.send(value=record.value)

    async with site.running(app) as worker:
        await site.until(lambda: "DatabaseAwayError" in app.transport.reasons.get("agent connects", ""), worker)
        away = False
        found = await site.records(out, 3, worker)
        await site.until(lambda: not app.transport.reasons, worker)

    assert numbers(3) == values(found)


async def test_a_send_after_the_chunk_is_refused(site: Site) -> None:
    """It vanished, acknowledged. Tasks that send while it is open join it; one in a context of its own does not."""
    out = f"{site.source}-out"
    await site.create(site.source, out, partitions=1)
    app = site.app()
    topic = app.topic(out, value_type=bytes, value_serializer="raw")
    gate, late, free = asyncio.Event(), list[BaseException | None](), list[Any]()

    async def later(what: bytes) -> None:
        await gate.wait()
        try:
            await topic.send(value=what)
        except ChunkClosed as error:
            late.append(error)

    @app.agent(app.chunks(site.source), name="watches")
    async def watch(stream: Any) -> None:
        async for chunk in stream:
            asyncio.create_task(later(b"late"))  # noqa: RUF006
            free.append(asyncio.create_task(later(b"free"), context=contextvars.Context()))
            await asyncio.gather(*[topic.send(value=record.value) for record in chunk])

    async with site.running(app) as worker:
        await site.write(site.source, b"in time")
        await site.records(out, 1, worker)
        gate.set()
        await site.until(lambda: late and free[0].done(), worker)
        found = await site.records(out, 2, worker)

    assert [b"in time", b"free"] == values(found)
    assert "watches" in str(late[0])
    assert f"{site.source} partition 0 up to offset 0" in str(late[0])


@pytest.mark.kafka
async def test_a_send_to_a_topic_that_does_not_exist_is_refused_by_name(kafka_site: Site) -> None:
    """From a chunk, from an ordinary agent, from a timer: the first stood still for ever. Once it exists all go on.

    The embedded log makes topics when they are needed: there is nobody else to make them.
    """
    site = kafka_site
    await site.create(site.source, f"{site.source}-words", partitions=1)
    app = site.app(QUICK)
    missing, told = app.topic(f"{site.source}-missing", value_type=bytes, value_serializer="raw"), list[str]()

    @app.agent(app.chunks(site.source), name="chunks")
    async def chunks(stream: Any) -> None:
        async for chunk in stream:
            for record in chunk:
                await missing.send(value=record.value)

    @app.agent(app.topic(f"{site.source}-words", value_type=bytes, value_serializer="raw"), name="words")
    async def words(stream: Any) -> None:
        async for word in stream:
            await missing.send(value=word)

    async with site.running(app) as worker:
        with pytest.raises(UnknownTopicError, match=f"topic {site.source}-missing does not exist"):
            await missing.send(value=b"mine")
        await site.write(site.source, b"chunk")
        await site.write(f"{site.source}-words", b"word")
        for name in ("chunks", "words"):
            await site.until(lambda name=name: any(name in reason for reason in _waiting(app)), worker)  # type: ignore[misc]
        told += _waiting(app).values()
        await site.create(f"{site.source}-missing", partitions=1)
        found = await site.records(f"{site.source}-missing", 2, worker)

    assert all(f"topic {site.source}-missing does not exist" in said for said in told)
    assert {b"chunk", b"word"} == set(values(found))


async def test_topics_that_the_app_declares_are_made_at_its_start(site: Site) -> None:
    """Those with a partition count, where they are missing."""
    await site.create(partitions=1)
    app = site.app()
    topic = app.topic(f"{site.source}-made", value_type=bytes, value_serializer="raw", partitions=3)
    app.topic(site.source, partitions=5)
    app.agent(app.chunks(site.source), name="nothing")(_nothing)
    async with site.running(app) as worker:
        await topic.send(value=b"1", partition=2)
        found = await site.records(f"{site.source}-made", 1, worker)

    assert [(2, b"1")] == [(one.partition, one.value) for one in found]


async def _nothing(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_asking_inside_a_chunk_is_refused_and_answered_elsewhere(site: Site) -> None:
    """One question ended the worker a minute later: its answer was work that nobody had done, for ever."""
    await site.create(site.source, f"{site.source}-sums", partitions=1)
    app = site.app(QUICK)
    told: list[str] = []

    @app.agent(app.topic(f"{site.source}-sums", value_type=str), name="doubles")
    async def double(stream: Any) -> Any:
        async for value in stream:
            yield value + value

    @app.agent(app.chunks(site.source), name="asks")
    async def ask(stream: Any) -> None:
        async for _ in stream:
            try:
                await double.ask("x")
            except ChunkAskError as error:
                told.append(str(error))

    async with site.running(app) as worker:
        await site.write(site.source, b"1")
        await site.until(lambda: told, worker)
        for _ in range(2):
            assert "tt" == await asyncio.wait_for(double.ask("t"), 30)
        while not app.health.places or any(one.lag for one in app.health.places):
            await app.health.look()
            await asyncio.sleep(0.1)
            assert not worker.done()

    assert "agent asks works on a chunk and asks agent doubles" in told[0]
