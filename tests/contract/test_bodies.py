"""Agents' bodies that do what nobody expects: raise what is no Exception, return, read their stream in other ways."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from streams.app import App
from streams.errors import StallError
from tests.contract.site import Found, Site

QUICK = {"app.error_retries": 1, "app.error_backoff_ms": 20, "app.error_backoff_max_ms": 200}
COUNT = 20
BAD = b"7"
LIMIT = 20_000
LARGE = random.Random(1).randbytes(2 * LIMIT)


class OddError(BaseException):
    """What some libraries raise past every `except Exception`."""


def cancelled() -> BaseException:
    """What comes out of a task that was awaited and that somebody else cancelled."""
    return asyncio.CancelledError()


KINDS: list[Callable[[], BaseException]] = [OddError, cancelled, SystemExit]


def _numbers(begin: int = 0, end: int = COUNT) -> list[bytes]:
    return [str(number).encode() for number in range(begin, end)]


def _raw(app: App, name: str) -> Any:
    return app.topic(name, value_type=bytes, value_serializer="raw")


async def _site(site: Site) -> str:
    """Makes the source with its records, and a topic for what comes out."""
    out = f"{site.source}-out"
    await site.create(site.source, out, partitions=1)
    await site.write(site.source, *_numbers())
    return out


def _values(found: list[Found]) -> list[bytes]:
    return [one.value or b"" for one in found]


async def _all_but_the_bad_one(site: Site, app: App, out: str) -> None:
    """Everything but the bad record comes out, the bad one is a letter, and all of it is committed."""
    async with site.running(app) as worker:
        await site.until(lambda: app.rescue.counts[site.source]["dead.agent-raised"] == 1, worker)
        letters = await site.records(site.dead_letters, 1, worker)
        found = await site.records(out, COUNT - 1, worker)
        while not app.health.places or any(place.lag for place in app.health.places):
            await app.health.look()
            assert not worker.done()
        assert not app.transport.reasons
    again = site.app(QUICK)

    @again.agent(_raw(again, site.source), name="reads")
    async def read(stream: Any) -> None:
        async for value in stream:
            await _raw(again, out).send(value=value)

    async with site.running(again) as worker:
        await site.write(site.source, b"next")
        await site.until(lambda: again.consumer.pace.done.get((site.source, 0)) == COUNT + 1, worker)
        found = await site.read(out)

    assert [BAD] == _values(letters)
    assert {*_numbers(), b"next"} - {BAD} == {*_values(found)}
    assert [b"next"] == _values(found)[-1:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [True, False])
async def test_what_is_no_exception_costs_its_record_too(
    site: Site, kind: Callable[[], BaseException], chunks: bool
) -> None:
    """The record was lost without a letter, or the agent met it for ever; SystemExit ended the worker undrained."""
    out = await _site(site)
    app = site.app(QUICK)

    async def work(value: bytes) -> None:
        if value == BAD:
            raise kind()
        await _raw(app, out).send(value=value)

    @app.agent(app.chunks(site.source) if chunks else _raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        async for each in stream:
            for value in [record.value for record in each] if chunks else [each]:
                await work(value)

    await _all_but_the_bad_one(site, app, out)


@pytest.mark.parametrize("how", ["events", "noack"])
async def test_other_ways_to_read_a_stream_lose_nothing(site: Site, how: str) -> None:
    """`events()` showed the whole chunk where a part was offered: each of its records became a letter. A body that
    says `noack()` got another stream when it was run again, and the record it raised on was gone.
    """
    out = await _site(site)
    app = site.app(QUICK)

    @app.agent(app.chunks(site.source) if how == "events" else _raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        async for event in stream.events() if how == "events" else stream.noack().events():
            for value in [record.value for record in event.value] if how == "events" else [event.value]:
                if value == BAD:
                    raise ValueError
                await _raw(app, out).send(value=value)
            if how == "noack":
                event.ack()

    await _all_but_the_bad_one(site, app, out)


@pytest.mark.parametrize("chunks", [True, False])
async def test_a_body_that_returns_is_run_again(site: Site, chunks: bool) -> None:
    """Nobody took the events any more, until the worker ended itself a minute later; a restart had the same."""
    out = await _site(site)
    app = site.app(QUICK)
    runs: list[int] = []

    @app.agent(app.chunks(site.source) if chunks else _raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        runs.append(1)
        if len(runs) in (2, 3):
            return
        async for each in stream:
            for value in [record.value for record in each] if chunks else [each]:
                await _raw(app, out).send(value=value)
            return

    async with site.running(app) as worker:
        found = await site.records(out, COUNT, worker)
        for number in range(COUNT, 2 * COUNT):
            await site.write(site.source, *_numbers(number, number + 1))
        found = await site.records(out, 2 * COUNT, worker)
        assert len(runs) > 3
        await site.until(lambda: not app.transport.reasons, worker)

    assert _numbers(0, 2 * COUNT) == _values(found)


async def test_an_agent_that_waits_hides_no_other_that_stands_still(site: Site) -> None:
    """The declared reason of one topic stopped the stall rule for all of them."""
    await _site(site)
    other = f"{site.source}-other"
    await site.create(other, partitions=1)
    await site.write(other, b"1")
    app = site.app({**QUICK, "app.progress_timeout_ms": 1_000})

    @app.agent(_raw(app, site.source), name="waits")
    async def waits(stream: Any) -> None:
        async for _ in stream:
            raise ValueError

    @app.agent(_raw(app, other), name="hangs")
    async def hangs(stream: Any) -> None:
        async for _ in stream:
            await asyncio.Event().wait()

    with pytest.raises(StallError, match=f"{other} partition 0"):
        async with site.running(app) as worker:
            await asyncio.wait_for(worker, 60)
    assert any(reason.startswith("agent waits") for reason in app.transport.reasons)


async def test_a_bad_record_that_is_alone_says_what_it_waits_for(site: Site) -> None:
    """Until another record came nothing tells whether it or the agent is at fault: the reason says so, and the cure."""
    await site.create(partitions=1)
    app = site.app(QUICK)
    taken: list[bytes] = []

    @app.agent(_raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        async for value in stream:
            if value == BAD:
                raise ValueError
            taken.append(value)

    async with site.running(app) as worker:
        await site.write(site.source, BAD)
        await site.until(lambda: app.transport.reasons, worker)
        (said,) = app.transport.reasons.values()
        await site.write(site.source, b"next")
        await site.until(lambda: app.rescue.counts[site.source]["dead.agent-raised"] == 1, worker)
        letters = await site.records(site.dead_letters, 1, worker)
        await site.until(lambda: not app.transport.reasons and taken[-1:] == [b"next"], worker)

    assert "a dead letter once it takes another one" in said
    assert [BAD] == _values(letters)


@pytest.mark.parametrize("soon", [True, False])
async def test_an_event_is_not_done_before_its_sends_have_arrived(site: Site, soon: bool) -> None:
    """A send that the broker refused after it was queued was lost, with a line of Faust's. One that the agent awaits,
    and whose failure it takes, is its own business.
    """
    out = await _site(site)
    await site.limit(out, LIMIT)
    app = site.app(QUICK)
    topic, told = _raw(app, out), list[str]()

    @app.agent(_raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        async for value in stream:
            if value == b"3":
                try:
                    await (await topic.send(value=LARGE))
                except Exception as error:  # noqa: BLE001 - each transport has its own
                    told.append(type(error).__name__)
            what = LARGE if value == BAD else value
            if soon:
                topic.send_soon(value=what)
            else:
                await topic.send(value=what)

    await _all_but_the_bad_one(site, app, out)
    assert 1 == len(told)


async def test_where_no_send_arrives_nothing_becomes_a_letter(site: Site) -> None:
    """Everything that the agent sends is refused: its partition waits, as where the agent takes nothing."""
    out = await _site(site)
    await site.limit(out, LIMIT)
    app = site.app(QUICK)
    topic, large = _raw(app, out), True

    @app.agent(_raw(app, site.source), name="odd")
    async def odd(stream: Any) -> None:
        async for value in stream:
            await topic.send(value=LARGE if large else value)

    async with site.running(app) as worker:
        await site.until(lambda: any("did not arrive" in said for said in app.transport.reasons.values()), worker)
        large = False
        found = await site.records(out, COUNT, worker)
        await site.until(lambda: not app.transport.reasons, worker)
        assert not app.rescue.counts[site.source]["dead.agent-raised"]

    assert {*_numbers()} == {*_values(found)}
