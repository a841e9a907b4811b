"""What does a look-up cost, and how many requests does the cache save? Against a real HTTP server in another process.

    python benchmarks/lookups.py --json
    python benchmarks/lookups.py --small

In memory: every answer is fresh; one look-up after the other, as an agent makes them. Shared: a worker whose memory is
empty finds answers in Redis, 64 at a time; left out where there is no redis-server. Mix: a stream of 1,000 events a
second for a quarter of an hour, each of which looks up one of 10,000 paths, chosen by Zipf's law (exponent 1.1); every
twentieth path does not exist. Time to live is the default: 300 s, 30 s for what does not exist. The clock of the mix is
moved, the requests are real; the server's own count is held against a plain replay, and every value against what the
server has for the path.

What the figures do not show: a network between worker and target, whose round trips are what is saved; values that
change; a mix that is not Zipf's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import measure
from benchmarks.measure import Figures, Step
from streams.circuit.board import Board
from streams.clock import SYSTEM_CLOCK, Clock, ManualClock
from streams.http import HttpClient
from streams.lookup.lookups import Lookups
from streams.options import CircuitSettings, LookupSettings, TargetSettings

LOOKUPS = 1_000_000
SMALL_LOOKUPS = 20_000
PATHS = 10_000
SMALL_PATHS = 200
ZIPF = 1.1
MISSING = 20
"""Every so-many-th path is a 404."""
EVENTS_PER_SECOND = 1_000
AT_A_TIME = 64
SEED = 7
TARGET = "registry"
STOP_TIMEOUT_S = 10
LONG = {"ttl_ms": 3_600_000, "negative_ttl_ms": 3_600_000}
"""Times to live where nothing is to become old while it is measured."""


# -- the target, a process of its own ---------------------------------------------------------------------------------


def body(path: str) -> bytes | None:
    """What the server has for a path: about 300 bytes of JSON, or nothing."""
    if int(path) % MISSING == 0:
        return None
    return b'{"model":"%s","limits":{"temperature_c":[-20,60],"battery":15},"notes":"%s"}' % (path.encode(), b"x" * 220)


def serve() -> None:
    """Serves until standard input ends; prints its port first. `/count` says how many look-ups it answered."""
    from aiohttp import web

    count = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        found = body(request.match_info["path"])
        return web.Response(status=404) if found is None else web.Response(body=found)

    async def counted(request: web.Request) -> web.Response:
        return web.Response(text=str(count))

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/models/{path}", answer)
        application.router.add_get("/count", counted)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(run())


@contextlib.contextmanager
def target() -> Iterator[str]:
    """The server's address, for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate(timeout=STOP_TIMEOUT_S)


def requests(url: str) -> int:
    """How many look-ups the server has answered so far."""
    with urllib.request.urlopen(f"{url}/count", timeout=STOP_TIMEOUT_S) as answer:
        return int(answer.read())


# -- the worker -------------------------------------------------------------------------------------------------------


def lookups(url: str, clock: Clock = SYSTEM_CLOCK, cache: str = "memory", **times: int) -> Lookups:
    """A worker's look-ups, nothing known. `times` to live, where the defaults are not to be measured."""
    settings = TargetSettings(name=TARGET, url=f"{url}/models", allow_private=True, concurrency=16)
    return Lookups(
        Board(CircuitSettings(), "bench", clock),
        LookupSettings(cache=cache, timeout_ms=30_000, cache_timeout_ms=30_000, **times),  # the machine may be busy
        [settings],
        lambda chosen: (HttpClient(connections_max=chosen.concurrency, allow_private=True), None),
        namespace="bench",
        clock=clock,
    )


def zipf(paths: int, count: int) -> list[str]:
    """Which path each look-up asks for: the n-th is n^1.1 times as rare as the first. The same every time."""
    chosen = random.Random(SEED)
    names = [str(number) for number in range(1, paths + 1)]
    chosen.shuffle(names)
    weights = list(accumulate(1 / rank**ZIPF for rank in range(1, paths + 1)))
    return chosen.choices(names, cum_weights=weights, k=count)


async def fill(asked: Lookups, paths: Sequence[str]) -> int:
    """Looks every path up, some at a time; answers how many values were not the server's."""
    wrong = 0
    for start in range(0, len(paths), AT_A_TIME):
        some = paths[start : start + AT_A_TIME]
        found = await asyncio.gather(*(asked.get(TARGET, path) for path in some))
        wrong += sum(each.value != body(path) for path, each in zip(some, found, strict=True))
    return wrong


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def in_memory(url: str, paths: int, count: int, times: int, step: Step, run: Run) -> Figures:
    """Fresh answers, one look-up after the other."""
    order = zipf(paths, count)
    everything = sorted(set(order))
    asked = lookups(url, **LONG)
    if run(fill(asked, everything)):
        raise SystemExit("values in memory are not the server's")

    async def work() -> int:
        nbytes = 0
        for path in order:
            found = await asked.get(TARGET, path)
            nbytes += len(found.value or b"")
        return nbytes

    figures = measure.repeat(lambda: lambda: int(run(work())), count, times, step)
    run(asked.close())
    right = asked.counts[TARGET].hits == count * times
    return {"case": "in memory", **figures, "paths": len(everything), "verified": right}


def shared(url: str, redis: str, paths: int, times: int, step: Step, run: Run) -> Figures:
    """Answers that another worker has put into Redis, as a worker with an empty memory finds them."""
    names = [str(number) for number in range(1, paths + 1)]
    first = lookups(url, cache=redis, **LONG)
    run(fill(first, names))
    made: list[Lookups] = []

    def prepare() -> Callable[[], int]:
        made.append(lookups(url, cache=redis, **LONG))
        return lambda: int(run(fill(made[-1], names)))

    figures = measure.repeat(prepare, paths, times, step)
    found = {asked.counts[TARGET].shared for asked in made}
    for asked in [first, *made]:
        run(asked.close())
    return {"case": f"shared, {AT_A_TIME} at a time", **figures, "verified": found == {paths}}


def replayed(order: Sequence[str], ttl_ms: int, negative_ttl_ms: int) -> int:
    """How many requests a mix takes, by nothing but the times to live."""
    until_ms: dict[str, int] = {}
    needed = 0
    for number, path in enumerate(order):
        now_ms = number * 1000 // EVENTS_PER_SECOND
        if now_ms >= until_ms.get(path, 0):
            needed += 1
            until_ms[path] = now_ms + (negative_ttl_ms if body(path) is None else ttl_ms)
    return needed


def mix(url: str, paths: int, count: int, step: Step, run: Run) -> Figures:
    """A stream of events, each with one look-up."""
    order = zipf(paths, count)
    clock = ManualClock()
    asked = lookups(url, clock)
    before = requests(url)

    async def work() -> int:
        wrong = 0
        for number, path in enumerate(order):
            now_ms = number * 1000 // EVENTS_PER_SECOND
            clock.advance(now_ms - round(clock.monotonic_s() * 1000))
            found = await asked.get(TARGET, path)
            wrong += found.stale or found.value != body(path)
        await asked.close()
        return wrong

    figures = measure.repeat(lambda: lambda: int(run(work())), count, 1, step)
    made = requests(url) - before
    settings = LookupSettings()
    expected = replayed(order, settings.ttl_ms, settings.negative_ttl_ms)
    right = figures["hash"] == measure.hash_of([0])  # no value was wrong
    return {
        "case": "mix",
        **figures,
        "paths": len(set(order)),
        "stream_seconds": count // EVENTS_PER_SECOND,
        "requests": made,
        "requests_expected": expected,
        "saved": round(1 - made / count, 4),
        "verified": right and made == expected,
    }


@contextlib.contextmanager
def redis(given: str | None) -> Iterator[str | None]:
    """The Redis that was named, or one of its own; None where there is none."""
    if given is not None or shutil.which("redis-server") is None:
        yield given
        return
    from tests.redis_server import RedisServer

    with tempfile.TemporaryDirectory(prefix="streams-bench-redis-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            yield server.url
        finally:
            server.kill()


def run(times: int, *, small: bool = False, redis_url: str | None = None) -> Figures:
    """All cases."""
    paths, count = (SMALL_PATHS, SMALL_LOOKUPS) if small else (PATHS, LOOKUPS)
    machine = measure.machine()
    with (
        target() as url,
        redis(redis_url) as place,
        measure.progress("look-ups", times * (2 if place else 1) + 1) as step,
        asyncio.Runner() as runner,
    ):
        cases = [in_memory(url, paths, count, times, step, runner.run)]
        if place is not None:
            cases.append(shared(url, place, paths, times, step, runner.run))
        cases.append(mix(url, paths, count, step, runner.run))
    return {
        "benchmark": "lookups",
        "small": small,
        "verified": all(case["verified"] for case in cases),
        "repetitions": times,
        "seed": SEED,
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--redis", help="redis://host:port (default: one of its own on this machine)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        serve()
        return 0
    return measure.finish(run(measure.repetitions(given), small=given.small, redis_url=given.redis), given)


if __name__ == "__main__":
    sys.exit(main())
