"""Look-ups of a real HTTP server: how rarely it is asked, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from streams.circuit.board import Board
from streams.clock import ManualClock
from streams.errors import InputError, LookupFailedError, SettingsError
from streams.lookup import lookups as module
from streams.lookup.lookups import Found, Lookups
from streams.lookup.source import Counts
from streams.options import CircuitSettings
from streams.v1.circuit_pb2 import Circuit
from tests.lookup.registry import TARGET, Registry, lookups
from tests.zoo import Zoo

HANG_S = 60
"""Nothing here takes a second on an idle machine; what reaches this hangs."""
CANARY = "canary-7f3a"


async def failure(asked: Lookups, path: str) -> LookupFailedError:
    """How a look-up without any answer ends."""
    with pytest.raises(LookupFailedError) as caught:
        await asyncio.wait_for(asked.get(TARGET, path), HANG_S)
    return caught.value


async def until(holds: object) -> None:
    """Waits for something that another task does."""
    assert callable(holds)
    async with asyncio.timeout(HANG_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class TestFresh:
    """What is asked for once and then known."""

    async def test_an_answer_is_asked_for_once(self, registry: Registry, clock: ManualClock) -> None:
        """Until its time is over every further look-up is answered from memory, with its age."""
        async with lookups(registry.url, clock, ttl_ms=1_000) as asked:
            first = await asked.get(TARGET, "models/a320")
            clock.advance(999)
            second = await asked.get(TARGET, "models/a320")
            clock.advance(1)
            third = await asked.get(TARGET, "models/a320")

            assert Found(b"models/a320 1", 200, False, 0.0) == first
            assert (first.value, False, 0.999) == (second.value, second.stale, second.age_s)
            assert Found(b"models/a320 2", 200, False, 0.0) == third
            assert Counts(hits=1, fetched=2, asked=2) == asked.counts[TARGET]

    async def test_the_age_counts_from_the_request(self, registry: Registry, clock: ManualClock) -> None:
        """What changed while the answer was on its way is not taken for fresh a moment longer."""
        async with lookups(registry.url, clock, ttl_ms=1_000) as asked:
            registry.gate.clear()
            look = asyncio.create_task(asked.get(TARGET, "a"))
            await until(lambda: registry.at_once)
            clock.advance(600)
            registry.gate.set()

            assert 0.6 == (await look).age_s
            clock.advance(399)
            assert b"a 1" == (await asked.get(TARGET, "a")).value
            clock.advance(1)
            assert b"a 2" == (await asked.get(TARGET, "a")).value

    async def test_paths_are_apart(self, registry: Registry, clock: ManualClock) -> None:
        """Every path, with its query, has an answer of its own; encoded characters go out as they are."""
        paths = ["a", "a?b=1", "a?b=2", "a/b", "a%2Fb", "%C3%A4", ""]
        async with lookups(registry.url, clock) as asked:
            for path in paths:
                await asked.get(TARGET, path)

            assert dict.fromkeys(paths, 1) == dict(registry.requests)

    async def test_nothing_is_an_answer_too(self, registry: Registry, clock: ManualClock) -> None:
        """404 and 410 are believed for a time of their own; what is cached as nothing is a hit, not a miss."""
        registry.answers |= {"a": (404, b"no such thing", {}), "b": (410, b"gone", {})}
        async with lookups(registry.url, clock, ttl_ms=10_000, negative_ttl_ms=1_000) as asked:
            for path, status in (("a", 404), ("b", 410)):
                assert Found(None, status, False, 0.0) == await asked.get(TARGET, path)
                assert Found(None, status, False, 0.0) == await asked.get(TARGET, path)
            assert 2 == registry.count
            clock.advance(1_000)
            registry.answers.clear()

            assert b"a 3" == (await asked.get(TARGET, "a")).value
            assert Counts(hits=2, fetched=3, asked=3) == asked.counts[TARGET]

    async def test_an_empty_answer_is_not_nothing(self, clock: ManualClock) -> None:
        """204 without a body is a value without bytes."""
        async with Zoo() as zoo, lookups(zoo.url("").rstrip("/"), clock) as asked:
            assert Found(b"", 204, False, 0.0) == await asked.get(TARGET, "status-204")
            assert Found(b"", 204, False, 0.0) == await asked.get(TARGET, "status-204")
            assert 1 == zoo.requests.total()

    async def test_the_one_unused_for_longest_goes_first(
        self, registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither more entries nor more bytes are kept than there is room for."""
        async with lookups(registry.url, clock, entries_max=2) as asked:
            for path in ("a", "b", "a", "c", "a", "b"):
                await asked.get(TARGET, path)
            assert {"a": 1, "b": 2, "c": 1} == dict(registry.requests)
        registry.requests.clear()
        registry.answers["*"] = (200, b"x" * 10_000, {})
        monkeypatch.setattr(module, "MEMORY_BYTES_MAX", 25_000)
        async with lookups(registry.url, clock) as asked:
            for path in ("a", "b", "a", "c", "a", "b"):
                await asked.get(TARGET, path)

            assert {"a": 1, "b": 2, "c": 1} == dict(registry.requests)


class TestTogether:
    """Many look-ups at a time."""

    async def test_a_hundred_callers_make_one_request(self, registry: Registry, clock: ManualClock) -> None:
        """All of them get the one answer."""
        async with lookups(registry.url, clock) as asked:
            registry.gate.clear()
            looks = [asyncio.create_task(asked.get(TARGET, "a")) for _ in range(100)]
            await until(lambda: registry.at_once)
            registry.gate.set()

            assert {Found(b"a 1", 200, False, 0.0)} == set(await asyncio.gather(*looks))
            assert Counts(joined=99, fetched=1, asked=1) == asked.counts[TARGET]

    async def test_a_hundred_callers_fail_each_on_their_own(self, registry: Registry, clock: ManualClock) -> None:
        """One request fails, and everybody has an error of their own to raise."""
        registry.answers["a"] = (500, b"", {})
        async with lookups(registry.url, clock) as asked:
            got = await asyncio.gather(*(asked.get(TARGET, "a") for _ in range(100)), return_exceptions=True)

            assert {LookupFailedError} == {type(each) for each in got}
            assert 100 == len({id(each) for each in got})
            assert Counts(failed=100, asked=1) == asked.counts[TARGET]

    async def test_a_caller_that_gives_up_takes_nobody_along(self, registry: Registry, clock: ManualClock) -> None:
        """Neither the one that began the request nor one that joined it ends it for the others."""
        async with lookups(registry.url, clock) as asked:
            registry.gate.clear()
            looks = [asyncio.create_task(asked.get(TARGET, "a")) for _ in range(4)]
            await until(lambda: registry.at_once)
            looks[0].cancel()
            looks[2].cancel()
            await asyncio.wait([looks[0], looks[2]])
            registry.gate.set()

            assert [True, True] == [looks[0].cancelled(), looks[2].cancelled()]
            assert [b"a 1", b"a 1"] == [(await looks[1]).value, (await looks[3]).value]

    async def test_an_answer_that_nobody_waits_for_is_kept(self, registry: Registry, clock: ManualClock) -> None:
        """The target has worked for it already."""
        async with lookups(registry.url, clock) as asked:
            registry.gate.clear()
            look = asyncio.create_task(asked.get(TARGET, "a"))
            await until(lambda: registry.at_once)
            look.cancel()
            await asyncio.wait([look])
            registry.gate.set()
            await until(lambda: asked.counts[TARGET].fetched)

            assert b"a 1" == (await asked.get(TARGET, "a")).value
            assert Counts(hits=1, fetched=1, asked=1) == asked.counts[TARGET]

    async def test_no_more_requests_at_a_time_than_allowed(self, registry: Registry, clock: ManualClock) -> None:
        """Further ones wait for their turn."""
        async with lookups(registry.url, clock, options={"concurrency": 3}) as asked:
            registry.gate.clear()
            looks = [asyncio.create_task(asked.get(TARGET, f"{number}")) for number in range(10)]
            await until(lambda: registry.at_once == 3)
            await asyncio.sleep(0.05)
            registry.gate.set()
            await asyncio.gather(*looks)

            assert (3, 10) == (registry.at_once_max, registry.count)

    async def test_no_more_requests_a_second_than_allowed(self, registry: Registry, clock: ManualClock) -> None:
        """What does not get its turn within a request's time fails as busy, without a request."""
        options = {"rate_per_second_max": 1}
        async with lookups(registry.url, clock, options=options, timeout_ms=200) as asked:
            assert b"a 1" == (await asked.get(TARGET, "a")).value
            assert "busy" == (await failure(asked, "b")).reason
            assert 1 == registry.count

    async def test_a_target_that_does_not_keep_up_does_not_fill_memory(
        self, registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beyond a number of paths that are being asked for, further ones fail as busy at once."""
        monkeypatch.setattr(module, "FLIGHTS_MAX", 2)
        async with lookups(registry.url, clock) as asked:
            registry.gate.clear()
            looks = [asyncio.create_task(asked.get(TARGET, path)) for path in ("a", "b", "a")]
            await until(lambda: registry.at_once == 2)
            assert "busy" == (await failure(asked, "c")).reason
            registry.gate.set()

            assert [b"a", b"b", b"a"] == [(found.value or b"")[:1] for found in await asyncio.gather(*looks)]
            assert (await asked.get(TARGET, "c")).value

    async def test_closing_ends_what_is_under_way(self, registry: Registry, clock: ManualClock) -> None:
        """Look-ups that wait get an error of ours, even one whose request never began."""
        board = Board(CircuitSettings(), "test", clock)
        asked = lookups(registry.url, clock, board=board)
        registry.gate.clear()
        looks = [asyncio.create_task(asked.get(TARGET, "a"))]
        await until(lambda: registry.at_once)
        looks.append(asyncio.create_task(asked.get(TARGET, "b")))
        await asyncio.sleep(0)
        await asked.close()
        got = await asyncio.wait_for(asyncio.gather(*looks, return_exceptions=True), HANG_S)

        assert [("closed", LookupFailedError)] * 2 == [(getattr(each, "reason", ""), type(each)) for each in got]
        assert [] == board.drain()


class TestSick:
    """A target that fails."""

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [(500, "failed"), (503, "failed"), (408, "failed"), (401, "failed"), (302, "failed"),
         (429, "throttled"), (400, "ok"), (403, "ok"), (409, "ok")],
    )  # fmt: skip
    async def test_what_an_answer_says_about_its_target(
        self, registry: Registry, clock: ManualClock, status: int, outcome: str
    ) -> None:
        """A look-up that fails tells the circuits what it was: one path that is refused is no sick target."""
        registry.answers["a"] = (status, b"", {})
        board = Board(CircuitSettings(), "test", clock)
        async with lookups(registry.url, clock, board=board) as asked:
            error = await failure(asked, "a")
            (report,) = board.drain()

            assert (f"status-{status}", TARGET) == (error.reason, error.target)
            assert [outcome] == [name for name in ("ok", "failed", "slow", "throttled") if getattr(report, name)]

    @pytest.mark.parametrize(
        ("animal", "why"),
        [
            ("hang", "timeout"), ("hang-after-headers", "timeout"), ("drip", "timeout"), ("reset", "reset"),
            ("reset-mid-body", "reset"), ("endless-body", "too-large"), ("long-answer", "too-large"),
            ("garbage", "protocol"), ("bomb", "protocol"), ("redirect", "status-307"),
        ],
    )  # fmt: skip
    async def test_a_target_of_every_kind(self, clock: ManualClock, animal: str, why: str) -> None:
        """However it misbehaves, the look-up ends in time, with an error that says how; redirects are not followed."""
        settings = {"timeout_ms": 300 if why == "timeout" else 10_000, "body_bytes_max": 10_000}
        async with Zoo() as zoo, lookups(zoo.url("").rstrip("/"), clock, **settings) as asked:
            assert why == (await failure(asked, animal)).reason
            assert 0 == zoo.requests["redirected"]

    async def test_an_old_answer_is_given_while_the_target_fails(self, registry: Registry, clock: ManualClock) -> None:
        """Marked stale, with its age; no longer than allowed; and the target is asked again meanwhile."""
        async with lookups(registry.url, clock, ttl_ms=1_000, stale_ms_max=60_000) as asked:
            await asked.get(TARGET, "a")
            registry.answers["a"] = (503, b"down", {})
            clock.advance(1_500)
            assert Found(b"a 1", 200, True, 1.5) == await asked.get(TARGET, "a")
            clock.advance(59_499)
            assert Found(b"a 1", 200, True, 60.999) == await asked.get(TARGET, "a")
            clock.advance(1)
            assert "status-503" == (await failure(asked, "a")).reason
            clock.advance(1_000)
            assert "status-503" == (await failure(asked, "a")).reason
            registry.answers.clear()
            clock.advance(1_000)

            assert Found(b"a 5", 200, False, 0.0) == await asked.get(TARGET, "a")
            assert Counts(fetched=2, stale=2, failed=2, asked=5) == asked.counts[TARGET]

    async def test_an_old_nothing_is_given_too(self, registry: Registry, clock: ManualClock) -> None:
        """It was the last answer."""
        registry.answers["a"] = (404, b"", {})
        async with lookups(registry.url, clock, negative_ttl_ms=1_000) as asked:
            await asked.get(TARGET, "a")
            registry.answers["a"] = (500, b"", {})
            clock.advance(2_000)

            assert Found(None, 404, True, 2.0) == await asked.get(TARGET, "a")

    async def test_without_stale_answers_a_failure_is_a_failure(self, registry: Registry, clock: ManualClock) -> None:
        """stale_ms_max = 0 is for what must not be old."""
        async with lookups(registry.url, clock, ttl_ms=1_000, stale_ms_max=0) as asked:
            await asked.get(TARGET, "a")
            registry.answers["a"] = (500, b"", {})
            clock.advance(1_000)

            assert "status-500" == (await failure(asked, "a")).reason

    async def test_a_path_that_failed_is_left_alone_for_a_second(self, registry: Registry, clock: ManualClock) -> None:
        """A thousand look-ups of it make one request; other paths are asked for all the same."""
        registry.answers["a"] = (403, b"", {})
        async with lookups(registry.url, clock) as asked:
            for _ in range(1_000):
                await failure(asked, "a")
            clock.advance(999)
            assert 0.001 == pytest.approx((await failure(asked, "a")).retry_s)
            assert b"b 2" == (await asked.get(TARGET, "b")).value
            clock.advance(1)
            await failure(asked, "a")

            assert {"a": 2, "b": 1} == dict(registry.requests)

    async def test_failed_paths_are_remembered_up_to_a_number(
        self, registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A target without any answer does not fill the memory; forgetting one costs a request."""
        monkeypatch.setattr(module, "FAILED_PATHS_MAX", 2)
        registry.answers["*"] = (400, b"", {})
        async with lookups(registry.url, clock) as asked:
            for path in ("a", "b", "c", "c", "b", "a"):
                await failure(asked, path)

            assert {"a": 2, "b": 1, "c": 1} == dict(registry.requests)

    @pytest.mark.parametrize(("status", "why"), [(429, "status-429"), (503, "status-503")])
    async def test_a_target_that_wants_to_be_left_alone_is(
        self, registry: Registry, clock: ManualClock, status: int, why: str
    ) -> None:
        """Retry-After holds for all of its paths; what is known of them is given meanwhile."""
        async with lookups(registry.url, clock, ttl_ms=1_000) as asked:
            await asked.get(TARGET, "a")
            registry.answers["b"] = (status, b"", {"Retry-After": "20"})
            clock.advance(1_000)
            error = await failure(asked, "b")
            assert (why, 20.0) == (error.reason, error.retry_s)
            assert Found(b"a 1", 200, True, 1.0) == await asked.get(TARGET, "a")
            clock.advance(19_000)
            error = await failure(asked, "c")
            assert ("throttled", 1.0) == (error.reason, pytest.approx(error.retry_s))
            clock.advance(1_001)

            assert b"c 3" == (await asked.get(TARGET, "c")).value

    async def test_slow_answers_are_told_to_the_circuits(self, registry: Registry, clock: ManualClock) -> None:
        """Slower than the target's own limit, or than two thirds of the time there is."""
        board = Board(CircuitSettings(), "test", clock)
        async with lookups(registry.url, clock, board=board, options={"slow_ms": 500}) as asked:
            for path, ms in (("a", 500), ("b", 501)):
                registry.gate.clear()
                look = asyncio.create_task(asked.get(TARGET, path))
                await until(lambda: registry.at_once)
                clock.advance(ms)
                registry.gate.set()
                await look
            (report,) = board.drain()

            assert (1, 1, 1_001_000) == (report.ok, report.slow, report.latency_us)


class TestCircuit:
    """A target whose circuit is open."""

    async def test_a_sick_target_is_not_asked_any_more(self, registry: Registry, clock: ManualClock) -> None:
        """Once enough look-ups failed, known answers are stale and unknown ones errors, without a request."""
        circuit = CircuitSettings(calls_min=5)
        async with lookups(registry.url, clock, circuit=circuit, ttl_ms=1_000) as asked:
            await asked.get(TARGET, "known")
            registry.answers["*"] = (500, b"", {})
            for number in range(9):
                await failure(asked, f"{number}")
            count = registry.count
            clock.advance(1_000)
            error = await failure(asked, "unknown")

            assert "circuit-open" == error.reason
            assert error.retry_s > 1
            assert Found(b"known 1", 200, True, 1.0) == await asked.get(TARGET, "known")
            assert count == registry.count <= 6

    async def test_a_target_that_healed_is_asked_again(self, registry: Registry, clock: ManualClock) -> None:
        """Look-ups are its trial requests; none of them is needed twice."""
        circuit = CircuitSettings(calls_min=5, open_ms=5_000, open_jitter=0)
        async with lookups(registry.url, clock, circuit=circuit, ttl_ms=1_000) as asked:
            registry.answers["*"] = (500, b"", {})
            for number in range(9):
                await failure(asked, f"{number}")
            assert "circuit-open" == (await failure(asked, "a")).reason
            registry.answers.clear()
            clock.advance(10_000)

            assert not [found for number in range(20) if not (found := await asked.get(TARGET, f"{number}")).value]

    async def test_a_fresh_answer_asks_no_circuit(self, registry: Registry, clock: ManualClock) -> None:
        """What is known is given, whatever becomes of its target."""
        board = Board(CircuitSettings(), "test", clock)
        async with lookups(registry.url, clock, board=board) as asked:
            await asked.get(TARGET, "a")
            board.take(Circuit(target=TARGET, state=Circuit.OPEN, mode=Circuit.AUTOMATIC, generation=1, transition=1,
                               open_ms=60_000))  # fmt: skip

            assert Found(b"a 1", 200, False, 0.0) == await asked.get(TARGET, "a")
            assert "circuit-open" == (await failure(asked, "b")).reason

    async def test_a_refused_look_up_waits_for_nothing(self, registry: Registry, clock: ManualClock) -> None:
        """While all requests of a target hang, one whose circuit has opened is refused at once."""
        board = Board(CircuitSettings(), "test", clock)
        async with lookups(registry.url, clock, board=board, options={"concurrency": 1}) as asked:
            registry.gate.clear()
            look = asyncio.create_task(asked.get(TARGET, "a"))
            await until(lambda: registry.at_once)
            board.set_mode(TARGET, Circuit.FORCED_OPEN)
            assert "circuit-open" == (await failure(asked, "b")).reason
            registry.gate.set()

            assert b"a 1" == (await look).value


class TestWhoAsks:
    """Credentials, and what is asked for."""

    async def test_a_token_that_was_renewed_is_used_at_once(
        self, registry: Registry, clock: ManualClock, tmp_path: Path
    ) -> None:
        """A 401 makes the credential anew, and the request is sent again with it; not with the same one."""
        token = tmp_path / "token"
        token.write_text("old")
        options = {"bearer_token_file": str(token)}
        async with lookups(registry.url, clock, options=options) as asked:
            await asked.get(TARGET, "a")
            token.write_text("renewed")
            registry.answers["b"] = (401, b"", {})
            await failure(asked, "b")
            await failure(asked, "b")
            clock.advance(1_000)
            await failure(asked, "b")

            assert ["old", "old", "renewed", "renewed"] == [
                sent["authorization"].removeprefix("Bearer ") for sent in registry.headers
            ]

    async def test_a_missing_token_is_said_and_asks_nobody(
        self, registry: Registry, clock: ManualClock, tmp_path: Path
    ) -> None:
        """A file that never held a token is a matter of settings, and no outcome of the target's."""
        board = Board(CircuitSettings(), "test", clock)
        options = {"bearer_token_file": str(tmp_path / "none")}
        async with lookups(registry.url, clock, board=board, options=options) as asked:
            with pytest.raises(SettingsError, match="bearer_token_file"):
                await asked.get(TARGET, "a")

            assert ([], 0) == (board.drain(), registry.count)

    @pytest.mark.parametrize(
        "path",
        ["../admin", "a/../../b", "a/./b", "%2e%2e/admin", "a/%2E%2e", "a%2f..%2fb", "a%5c..", "a\\b", "a b", "a#b",
         "a\r\nHost: b", "ä", "x" * 2_049, ".."],
    )  # fmt: skip
    async def test_a_path_stays_below_its_target(self, registry: Registry, clock: ManualClock, path: str) -> None:
        """What could name something else is refused, and not repeated in the error."""
        async with lookups(registry.url, clock) as asked:
            with pytest.raises(InputError, match="lookup-path") as caught:
                await asked.get(TARGET, path)

            assert path not in str(caught.value)
            assert 0 == registry.count

    @pytest.mark.parametrize("path", ["//other.example/a", "@other.example", ":80/a", "a?next=../b", "...", "a..b"])
    async def test_a_path_may_look_odd(self, registry: Registry, clock: ManualClock, path: str) -> None:
        """The host stays the target's."""
        async with lookups(registry.url, clock) as asked:
            assert (await asked.get(TARGET, path)).value
            assert {path.lstrip("/"): 1} == dict(registry.requests)

    async def test_targets_that_cannot_be_looked_up(self, registry: Registry, clock: ManualClock) -> None:
        """Unknown ones, and those whose URL leaves no room for a path."""
        async with lookups(registry.url, clock) as asked:
            with pytest.raises(SettingsError, match="registry"):
                await asked.get("other", "a")
        for url in (f"{registry.url}/{{key}}", f"{registry.url}?a=b", ""):
            async with lookups(url, clock) as asked:
                with pytest.raises(SettingsError, match=r"target.registry.url"):
                    await asked.get(TARGET, "a")


async def test_nothing_that_is_looked_up_is_logged(
    registry: Registry, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither values nor paths, whatever happens and however much is logged; nor do errors name them."""
    caplog.set_level(logging.DEBUG)
    registry.answers |= {
        f"{CANARY}-ok": (200, CANARY.encode(), {}),
        f"{CANARY}-500": (500, CANARY.encode(), {"X-Canary": CANARY}),
        f"{CANARY}-long": (200, CANARY.encode() * 10_000, {}),
    }
    async with lookups(registry.url, clock, ttl_ms=1, body_bytes_max=1_000) as asked:
        await asked.get(TARGET, f"{CANARY}-ok")
        clock.advance(10)
        await asked.get(TARGET, f"{CANARY}-ok")
        errors = [await failure(asked, f"{CANARY}-500"), await failure(asked, f"{CANARY}-long")]

    assert CANARY not in caplog.text + "".join(map(repr, errors)) + "".join(map(str, errors))
