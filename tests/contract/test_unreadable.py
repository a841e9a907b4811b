"""A record that the codec of an ordinary topic cannot read costs itself: Faust ended the worker at it, every time."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streams.errors import UnreadableRecordError, UserCodeError
from tests.contract.site import Site

SECRET = b"somebody@example.com"
ODD_ANSWER = b'{"key": null, "value": 1, "correlation_id": [1], "__faust": {"ns": "@ReqRepResponse"}}'


async def test_a_record_that_cannot_be_read_is_a_letter(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No retry, no other record needed to tell; every other record arrives once, singly and from `take`."""
    words = f"{site.source}-words"
    await site.create(site.source, words, partitions=1)
    app = site.app({"app.error_backoff_ms": 60_000})
    seen: list[object] = []
    gathered: list[object] = []

    @app.agent(app.topic(site.source), name="reads")
    async def read(stream: Any) -> None:
        async for value in stream:
            seen.append(value["a"])

    @app.agent(
        app.topic(words, key_type=int, key_serializer="json", value_type=str, value_serializer="raw"), name="takes"
    )
    async def take(stream: Any) -> None:
        async for several in stream.take(10, within=0.2):
            gathered.extend(several)

    with caplog.at_level(logging.DEBUG):
        async with site.running(app) as worker:
            await site.write(site.source, b'{"%s' % SECRET)
            (letter,) = await site.records(site.dead_letters, 1, worker)
            await site.write(site.source, b'{"a": 1}', b"\xff" + SECRET, b'{"a": 2}')
            await site.records(site.dead_letters, 2, worker)
            await site.write(words, b"one", key=b"1")
            await site.write(words, b"two", key=b'"' + SECRET)
            await site.write(words, b"three", key=b"3")
            (other,) = await site.records(f"{words}.dlq", 1, worker)
            await site.until(lambda: len(seen) == 2 and len(gathered) == 2, worker)
            assert {"dead.undecodable": 2} == app.rescue.counts[site.source]
            assert not app.transport.reasons
    again = site.app()

    @again.agent(again.topic(site.source), name="reads")
    async def read_again(stream: Any) -> None:
        async for value in stream:
            seen.append(value["a"])

    async with site.running(again) as worker:
        await site.write(site.source, b'{"a": 3}')
        await site.until(lambda: 3 in seen, worker)

    assert ([1, 2, 3], ["one", "three"]) == (seen, gathered)
    assert (b"undecodable", b'{"%s' % SECRET) == (letter.headers["dlq-reason"], letter.value)
    assert (b'"' + SECRET, b"two") == (other.key, other.value)
    assert f"{site.source} partition 0 offset 0".encode() in (letter.headers["dlq-error"] or b"")
    assert SECRET not in (letter.headers["dlq-error"] or b"")
    assert SECRET.decode() not in caplog.text


async def test_it_ends_the_worker_where_a_raise_does(site: Site) -> None:
    """`on_error = "stop"`; and a stream that belongs to no agent says where it was."""
    await site.create(site.source, partitions=1)
    await site.write(site.source, SECRET)
    app = site.app({"app.on_error": "stop"})

    @app.agent(app.topic(site.source, value_type=int), name="reads")
    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    with pytest.raises(
        UserCodeError, match=f"reads raised .*UnreadableRecordError.* {site.source} partition 0"
    ) as told:
        async with site.running(app) as worker:
            await worker
    assert SECRET.decode() not in str(told.value)

    other = site.app()

    @other.agent(other.topic(f"{site.source}-more", partitions=1))
    async def more(stream: Any) -> None:
        async for _ in stream:
            pass

    @other.task
    async def follow() -> None:
        async for _ in other.topic(site.source, value_type=int).stream():
            pass

    with pytest.raises(UnreadableRecordError, match=f"{site.source} partition 0 offset 0 cannot be read"):
        async with site.running(other) as worker:
            await worker


async def test_a_record_among_the_answers_that_is_none_is_passed(site: Site) -> None:
    """It ended the worker; the answers behind it arrive."""
    await site.create(site.source, partitions=1)
    app = site.app()

    @app.agent(app.topic(site.source, value_type=str), name="doubles")
    async def double(stream: Any) -> Any:
        async for value in stream:
            yield value + value

    async with site.running(app) as worker:
        assert "tt" == await double.ask("t")
        await site.write(app.conf.reply_to, SECRET, b'{"a": 1}', b"5", None, ODD_ANSWER)
        assert "uu" == await double.ask("u")
        await site.until(lambda: app.rescue.counts[app.conf.reply_to]["answers.strange"] == 5, worker)
