"""The target zoo as a worker meets it: each kind of sick target ends as specified, a healthy one gets everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streams.app import App
from streams.delivery.route import Route
from streams.demo.v1.device_pb2 import DeviceState
from tests.contract.site import Site, changes, history
from tests.delivery.test_agent import QUICK, final, held, level, route
from tests.zoo import Certificates, Receiver, Zoo, failing

HELD = [
    "hang", "hang-after-headers", "drip", "reset", "reset-mid-body", "endless-body", "endless-header", "garbage",
    "redirect", "errors-100", "unavailable", "throttled-seconds", "throttled-date", "throttled-absurd", "status-401",
    "status-403", "tls-expired", "tls-other-name", "tls-other-ca", "tls-plain",
]  # fmt: skip
"""Nothing that these do is a patch's fault: what is for them is held, and never a dead letter."""
ASKED_TO_WAIT = ["throttled-seconds", "throttled-date", "throttled-absurd", "unavailable"]
"""They are left alone for as long, and their circuits see nothing to open for."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Without a broker: what is tested happens between worker and target."""
    return Site(f"embedded://{tmp_path}/log", tmp_path)


def worker(site: Site, certificates: Certificates, **urls: str) -> App:
    """A worker with a sync and a target at each URL."""
    app = site.app({**QUICK, "delivery.retry_time_ms_max": 2_000})
    app.sync(site.source, DeviceState)
    for name, url in urls.items():
        options: dict[str, object] = {"ca_file": certificates.ca_file} if name.startswith("tls-") else {}
        if name in HELD:
            options["timeout_ms"] = 600  # a busy machine may make a healthy one wait for longer
        app.target(name, source=site.source, url=url, allow_private=True, linger_ms=5, **options)
    return app


def routes(app: App, names: list[str]) -> list[Route]:
    """The routes of these targets."""
    return [route(app, name) for name in names]


async def test_sick_targets_are_held_and_a_healthy_one_gets_everything(site: Site, seed: int, tmp_path: Path) -> None:
    """Twenty targets that hang, lie, break off or refuse: each is held without a dead letter; nobody else waits."""
    states = history(seed)
    await site.create()
    certificates = Certificates(tmp_path)
    async with Zoo(certificates) as zoo, Receiver(DeviceState) as well:
        app = worker(site, certificates, well=well.url, **{name: zoo.url(name) for name in HELD})
        async with site.running(app) as serving:
            await site.send(states)
            await level(site, well, states, serving)
            sick = routes(app, HELD)
            await site.until(lambda: all(each.counts["requests"] for each in sick), serving)
            assert app.guarded is not None
            board = app.guarded.board
            trips = [name for name in HELD if name not in ASKED_TO_WAIT]
            await site.until(lambda: all(board.state(name) != "closed" for name in trips), serving)
            assert "closed" == board.state("well")
            assert {0} == {each.counts["patches"] for each in sick}
            assert {0} == {each.counts["answers.permanent"] for each in sick}

        assert sum(changes(states).values()) == well.patches
        assert [] == await site.read(site.dead_letters)


async def test_a_target_that_refuses_everything_stops_at_a_limit(site: Site, seed: int, tmp_path: Path) -> None:
    """404 for every patch is a wrong URL, not fifty thousand bad patches: dead letters end, and the rest is held."""
    states = history(seed, events=400, devices=120)
    await site.create()
    async with Zoo() as zoo, Receiver(DeviceState) as well:
        app = worker(site, Certificates(tmp_path), well=well.url, **{"status-404": zoo.url("status-404")})
        async with site.running(app) as serving:
            await site.send(states)
            await level(site, well, states, serving)
            await site.until(lambda: route(app, "status-404").held, serving)
            await asyncio.sleep(1)  # letters on their way when it stopped
            count = len(await site.read(site.dead_letters))
            assert 0 < count < 60
            await asyncio.sleep(0.5)
            assert count == len(await site.read(site.dead_letters))


async def test_every_other_request_fails_and_nothing_is_lost(site: Site, seed: int, tmp_path: Path) -> None:
    """Bursts of 500: retries with the same bytes bring everything, in order."""
    states = history(seed)
    await site.create()
    async with Receiver(DeviceState) as half, Receiver(DeviceState) as rare:
        half.refuse, rare.refuse = failing(50), failing(5)
        app = worker(site, Certificates(tmp_path), half=half.url, rare=rare.url)
        async with site.running(app) as serving:
            await site.send(states)
            await level(site, rare, states, serving)
            await level(site, half, states, serving)

        assert final(states) == held(half)
        assert 0 == half.changed
        assert [] == await site.read(site.dead_letters)


async def test_a_slow_target_opens_its_circuit_and_still_gets_everything(site: Site, seed: int, tmp_path: Path) -> None:
    """Success that takes too long counts as slow: the circuit opens, what waits conflates, trials bring it on."""
    states = history(seed)
    await site.create()
    async with Receiver(DeviceState) as slow:
        slow.delay_s = 0.15
        app = site.app({**QUICK, "circuit.calls_min": 3})
        app.sync(site.source, DeviceState)
        app.target("slow", source=site.source, url=slow.url, allow_private=True, slow_ms=50, batch_records_max=20)
        async with site.running(app) as serving:
            assert app.guarded is not None
            seen: list[str] = []
            app.guarded.board.on_change.append(lambda target, old, new, reason: seen.append(new))
            await site.send(states)
            await site.until(lambda: any("open" in new for new in seen), serving)
            slow.delay_s = 0.0
            await level(site, slow, states, serving)

        assert [] == await site.read(site.dead_letters)
