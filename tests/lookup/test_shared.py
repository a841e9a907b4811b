"""The cache that workers share, on a real Redis that is killed, frozen, and written to by others."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from streams.clock import ManualClock
from streams.errors import LookupFailedError, SettingsError
from streams.lookup.lookups import Found, Lookups
from streams.lookup.shared import CONNECTIONS_MAX, Shared, SharedCache
from streams.lookup.source import Counts
from tests.lookup.registry import TARGET, Registry, lookups
from tests.redis_server import RedisServer
from tests.zoo import Certificates

HANG_S = 60
CANARY = "canary-7f3a"
PATIENT_MS = 30_000
"""A cache time-out that a busy machine does not reach, where it is not the time-out that is tested."""


def shared(asked: Lookups) -> SharedCache:
    """The cache behind the look-ups."""
    assert asked.shared is not None
    return asked.shared


async def quick(asked: Lookups, path: str) -> Found:
    """A look-up that must not hang."""
    return await asyncio.wait_for(asked.get(TARGET, path), HANG_S)


class TestBetweenWorkers:
    """Two workers with one Redis."""

    async def test_what_one_has_asked_the_other_knows(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """Answers and 404s alike; a second look is answered from the worker's own memory."""
        registry.answers |= {"none": (404, b"no such thing", {}), "empty": (200, b" ", {})}
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS}
        async with lookups(registry.url, clock, **options) as one, lookups(registry.url, clock, **options) as other:
            for path, value in (("a", b"a 1"), ("none", None), ("empty", b" ")):
                assert value == (await one.get(TARGET, path)).value
                found = await other.get(TARGET, path)
                assert (value, False) == (found.value, found.stale)
                assert value == (await other.get(TARGET, path)).value

            assert 3 == registry.count
            assert Counts(fetched=3, asked=3) == one.counts[TARGET]
            assert Counts(hits=3, shared=3) == other.counts[TARGET]
            assert (0, 0) == (shared(one).errors, shared(other).errors)

    async def test_age_is_measured_by_redis(self, registry: Registry, redis: RedisServer) -> None:
        """Workers whose clocks are a day apart agree on how old an answer is, and on when it is too old."""
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS, "ttl_ms": 60_000}
        clocks = ManualClock(), ManualClock(1_700_086_400_000)
        clocks[1].advance(86_400_000)
        async with (
            lookups(registry.url, clocks[0], **options) as one,
            lookups(registry.url, clocks[1], **options) as other,
        ):
            began_s = time.monotonic()
            await one.get(TARGET, "a")
            await asyncio.sleep(0.2)
            found = await other.get(TARGET, "a")

            assert (b"a 1", False) == (found.value, found.stale)
            assert 0.2 <= found.age_s <= time.monotonic() - began_s + 0.01
            clocks[1].advance(60_000)
            assert b"a 1" == (await other.get(TARGET, "a")).value  # too old in its memory, but not by Redis' clock
            assert (1, 2) == (registry.count, other.counts[TARGET].shared)

    async def test_each_worker_has_its_own_mind_about_freshness(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """One that wants fresher answers asks again, and the others profit."""
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS}
        async with (
            lookups(registry.url, clock, **options) as one,
            lookups(registry.url, clock, ttl_ms=1, **options) as strict,
            lookups(registry.url, clock, **options) as third,
        ):
            await one.get(TARGET, "a")
            await asyncio.sleep(0.01)

            assert b"a 2" == (await strict.get(TARGET, "a")).value
            assert b"a 2" == (await third.get(TARGET, "a")).value

    async def test_old_answers_are_shared_too(self, registry: Registry, clock: ManualClock, redis: RedisServer) -> None:
        """A worker that never saw the target well has something to give while it is sick; Redis drops it in time."""
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS, "ttl_ms": 1, "stale_ms_max": 120_000}
        async with lookups(registry.url, clock, **options) as one, lookups(registry.url, clock, **options) as other:
            await one.get(TARGET, "a")
            registry.answers["a"] = (500, b"", {})
            await asyncio.sleep(0.05)
            found = await other.get(TARGET, "a")
            assert (b"a 1", True) == (found.value, found.stale)
            assert found.age_s >= 0.05
            key = redis.says(b"KEYS *").split(b"\r\n")[2]

            assert 0 < int(redis.says(b"PTTL " + key)[1:]) <= 120_001

    async def test_apps_are_apart(self, registry: Registry, clock: ManualClock, redis: RedisServer) -> None:
        """What one app may know is not for another, though they look up the same."""
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS}
        async with (
            lookups(registry.url, clock, **options) as one,
            lookups(registry.url, clock, namespace="other", **options) as other,
        ):
            await one.get(TARGET, "a")
            await other.get(TARGET, "a")

            assert 2 == registry.count

    async def test_many_look_ups_at_once_wait_for_a_connection(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """Few connections serve them all, and none of them counts as an error."""
        options = {"cache": redis.url, "cache_timeout_ms": PATIENT_MS}
        async with lookups(registry.url, clock, **options) as one, lookups(registry.url, clock, **options) as other:
            for asked in (one, other):
                await asyncio.gather(*(asked.get(TARGET, f"{number}") for number in range(300)))
            clients = int(redis.says(b"INFO clients").split(b"connected_clients:")[1].split()[0])

            assert (300, 0, 0) == (registry.count, shared(one).errors, shared(other).errors)
            assert 300 == other.counts[TARGET].shared
            assert clients <= 2 * CONNECTIONS_MAX + 1


class TestFaults:
    """A Redis that does not answer."""

    async def test_a_redis_that_is_killed_and_restarted(
        self, registry: Registry, clock: ManualClock, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Look-ups go on from memory and target, nothing hangs, and the cache is in use again by itself."""
        async with lookups(registry.url, clock, cache=redis.url, cache_timeout_ms=5_000) as asked:
            await quick(asked, "a")
            redis.kill()
            assert b"a 1" == (await quick(asked, "a")).value
            for number in range(50):
                assert (await quick(asked, f"{number}")).value
            assert (1, False) == (shared(asked).errors, shared(asked).answers)  # one of them found out for all
            clock.advance(1_000)
            assert (await quick(asked, "still-down")).value
            assert 2 == shared(asked).errors
            redis.start()
            clock.advance(2_000)
            await quick(asked, "b")

            assert shared(asked).answers
            assert b":1\r\n" == redis.says(b"DBSIZE")
            messages = [entry.getMessage() for entry in caplog.records if entry.name.startswith("streams")]
            assert 2 == len(messages), messages

    async def test_connections_of_a_former_redis_do_no_harm(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """A restart that no look-up saw is not even noticed."""
        async with lookups(registry.url, clock, cache=redis.url, cache_timeout_ms=PATIENT_MS) as asked:
            await asyncio.gather(*(asked.get(TARGET, f"{number}") for number in range(50)))
            redis.kill()
            redis.start()
            await asyncio.gather(*(asked.get(TARGET, f"more-{number}") for number in range(50)))

            assert (0, b":50\r\n") == (shared(asked).errors, redis.says(b"DBSIZE"))

    async def test_a_frozen_redis_costs_one_time_out(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """A hundred look-ups of new paths do not wait for it a hundred times; when it goes on, so does its use."""
        async with lookups(registry.url, clock, cache=redis.url, cache_timeout_ms=200) as asked:
            await quick(asked, "a")
            redis.pause()
            try:
                began_s = time.monotonic()
                for number in range(100):
                    assert (await quick(asked, f"{number}")).value
                passed_s = time.monotonic() - began_s
            finally:
                redis.resume()
            assert shared(asked).errors <= 1
            assert passed_s < 100 * 0.2  # had every one waited; as it is, it is 0.2 s and a hundred requests
            async with asyncio.timeout(HANG_S):
                number = 0
                while not shared(asked).answers:  # the machine may be slow to wake it
                    clock.advance(30_000)
                    number += 1
                    await quick(asked, f"later-{number}")

    async def test_one_look_up_at_a_time_tries_a_frozen_redis(
        self, registry: Registry, clock: ManualClock, redis: RedisServer
    ) -> None:
        """When its pause is over, the others go on without waiting for what the one finds out."""
        async with lookups(registry.url, clock, cache=redis.url, cache_timeout_ms=200) as asked:
            redis.pause()
            await quick(asked, "a")
            errors = shared(asked).errors
            clock.advance(30_000)
            await asyncio.gather(*(quick(asked, f"{number}") for number in range(100)))
            redis.resume()

            assert (1, 2) == (errors, shared(asked).errors)

    async def test_pauses_grow_and_vary(self, clock: ManualClock) -> None:
        """Half to all of a second, then of twice as long, up to a limit; by chance, so that workers come back apart."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
            for chance, shares in ((0.0, 0.5), (1.0, 1.0)):
                cache = SharedCache(url, PATIENT_MS, clock, lambda chance=chance: chance)
                await cache.get("key")
                for errors, pause_s in enumerate((1, 2, 4, 8, 16, 30, 30), 1):
                    clock.advance(pause_s * shares * 1000 - 1)
                    await cache.get("key")
                    assert errors == cache.errors
                    clock.advance(2)
                    await cache.get("key")
                    assert errors + 1 == cache.errors
                await cache.close()

    async def test_a_cancelled_look_up_does_not_mix_up_answers(self, clock: ManualClock, redis: RedisServer) -> None:
        """A command that was broken off leaves its answer to nobody."""
        cache = SharedCache(redis.url, PATIENT_MS, clock)
        for number in range(20):
            await cache.put(f"key {number}", 200, b"%d" % number, 60_000)
        for _ in range(20):
            calls = [asyncio.create_task(cache.get(f"key {number}")) for number in range(20)]
            await asyncio.sleep(0.001)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            for number in range(20):
                found = await cache.get(f"key {number}")
                assert found is not None
                assert b"%d" % number == found.body
        await cache.close()

        assert 0 == cache.errors


class TestValues:
    """What lies in Redis."""

    async def test_what_is_put_comes_back(self, clock: ManualClock, redis: RedisServer) -> None:
        """Whatever its bytes are."""
        cache = SharedCache(redis.url, PATIENT_MS, clock)
        for body in (b"", b"\0", bytes(range(256)), "ä".encode("latin-1"), b"x" * 1_000_000):
            await cache.put("key", 200, body, 60_000)
            found = await cache.get("key")
            assert found is not None
            assert (200, body) == found[:2]
            assert 0 <= found.age_s < HANG_S
        assert None is await cache.get("other")
        await cache.close()

    @pytest.mark.parametrize("value", [b"", b"\x01", b"\x02" + b"x" * 60, b"\x01" + b"\xff" * 60, pickle.dumps("evil")])
    async def test_what_others_wrote_is_nothing(self, clock: ManualClock, redis: RedisServer, value: bytes) -> None:
        """A damaged value, one of a newer release, a foreign one: as if nothing were there. Nothing is unpickled."""
        cache = SharedCache(redis.url, PATIENT_MS, clock)
        stranger = Redis.from_url(redis.url)
        await stranger.set("key", value, px=60_000)

        assert None is await cache.get("key")
        await cache.put("key", 200, b"ours", 60_000)
        assert b"ours" == (await cache.get("key") or Shared(0, b"", 0)).body
        await stranger.persist("key")
        assert None is await cache.get("key")  # of an age that nobody knows
        await stranger.rename("key", "moved")
        await stranger.pexpire("moved", 50_000)
        assert None is await cache.get("moved")  # the answer to something else
        await stranger.delete("key")
        await stranger.hset("key", "field", b"no answer")
        await stranger.pexpire("key", 60_000)
        assert None is await cache.get("key")
        await cache.close()
        await stranger.aclose()

    async def test_nothing_that_is_looked_up_is_logged_or_named(
        self, registry: Registry, clock: ManualClock, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither values, paths nor the password, whatever fails and however much is logged: aiocache would."""
        redis.says(b"CONFIG SET requirepass " + CANARY.encode())
        caplog.set_level(logging.DEBUG)
        caplog.set_level(logging.DEBUG, "aiocache")
        registry.answers["*"] = (200, CANARY.encode(), {})
        options = {"cache_timeout_ms": PATIENT_MS, "ttl_ms": 1}
        url = redis.url.replace("redis://", f"redis://:{CANARY}@")
        async with lookups(registry.url, clock, cache=url, **options) as asked:
            await asked.get(TARGET, CANARY)
            clock.advance(10)
            await asked.get(TARGET, CANARY)
            assert 0 == shared(asked).errors
            assert "SET" in caplog.text  # aiocache's own lines are among what is looked at
            registry.answers["*"] = (500, CANARY.encode(), {})
            redis.kill()
            clock.advance(10_000_000)
            with pytest.raises(LookupFailedError) as caught:
                await asked.get(TARGET, CANARY)
            assert 1 == shared(asked).errors
        async with lookups(registry.url, clock, cache=url.replace(CANARY, "wrong"), **options) as asked:
            redis.start()
            redis.says(b"CONFIG SET requirepass " + CANARY.encode())
            registry.answers["*"] = (200, CANARY.encode(), {})
            await asked.get(TARGET, CANARY)
            assert 1 == shared(asked).errors

        assert CANARY not in caplog.text + repr(caught.value)
        assert "wrong" not in caplog.text

    async def test_keys_in_redis_tell_nothing(self, registry: Registry, clock: ManualClock, redis: RedisServer) -> None:
        """They are hashes: paths may hold entity keys."""
        async with lookups(registry.url, clock, cache=redis.url, cache_timeout_ms=PATIENT_MS) as asked:
            await asked.get(TARGET, CANARY)
        keys = redis.says(b"KEYS *")

        assert b"fleet:lookup:" in keys
        assert CANARY.encode() not in keys


async def test_a_redis_that_nobody_vouches_for_is_told_nothing(clock: ManualClock, tmp_path: Path) -> None:
    """rediss:// checks certificates: neither password nor answers go to a server with one of its own making."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))

    certificates = Certificates(tmp_path)
    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=certificates.server_context(certificates.good))
    async with server:
        cache = SharedCache(f"rediss://:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}", PATIENT_MS, clock)
        assert None is await asyncio.wait_for(cache.get("key"), HANG_S)
        await cache.close()

    assert (1, []) == (cache.errors, [byte for byte in heard if byte])


@pytest.mark.parametrize("url", ["redis://:secret@", "redis://:secret@host:port", "redis://:secret@host/db"])
def test_an_address_that_cannot_be_read(url: str, clock: ManualClock) -> None:
    """A finding, without what it holds."""
    with pytest.raises(SettingsError, match=r"lookup\.cache") as caught:
        SharedCache(url, PATIENT_MS, clock)

    assert "secret" not in str(caught.value)
