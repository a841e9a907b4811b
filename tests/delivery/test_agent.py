"""Delivery as a whole: a worker with targets on real sockets, on the embedded log and on a real Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from streams.app import App
from streams.clock import SYSTEM_CLOCK
from streams.delivery.route import Route
from streams.demo.v1.device_pb2 import DeviceState
from streams.transport.log import Log
from streams.v1.patch_pb2 import Patch
from tests.contract.site import Site, changes, history
from tests.zoo import Delivery, Receiver, Refusal, failing

QUICK = {
    "circuit.window_ms": 2_000,
    "circuit.bucket_ms": 200,
    "circuit.calls_min": 4,
    "circuit.open_ms": 200,
    "circuit.open_ms_max": 400,
    "circuit.report_ms": 50,
    "circuit.probes": 2,
    "delivery.backoff_ms": 10,
    "delivery.backoff_ms_max": 100,
    "delivery.attempts_max": 3,
    "delivery.progress_ms": 50,
}
"""Seconds become tenths of one."""


def worker(site: Site, options: dict[str, object] | None = None, **targets: dict[str, Any]) -> App:
    """A worker with a sync and these targets."""
    app = site.app({**QUICK, **(options or {})})
    app.sync(site.source, DeviceState)
    for name, given in targets.items():
        app.target(name, source=site.source, allow_private=True, linger_ms=5, **given)
    return app


def route(app: App, name: str) -> Route:
    """The route of a target of a worker that has started."""
    assert app.guarded is not None
    assert app.guarded.deliveries is not None
    return next(route for route in app.guarded.deliveries.routes if route.name == name)


def final(states: list[DeviceState]) -> dict[bytes, DeviceState]:
    """What a plain replay holds."""
    return {state.device_id.encode(): state for state in states}


def held(receiver: Receiver[DeviceState]) -> dict[bytes, DeviceState]:
    """What a receiver holds."""
    return dict(receiver.held.states())


async def level(
    site: Site, receiver: Receiver[DeviceState], states: list[DeviceState], serving: asyncio.Task[None]
) -> None:
    """Waits until a receiver holds what a plain replay does."""
    wanted = final(states)
    await site.until(lambda: held(receiver) == wanted, serving)


async def test_every_patch_reaches_the_receiver_and_none_again_after_a_restart(site: Site, seed: int) -> None:
    """The receiver ends with the state of a plain replay; a second worker begins where the first one's progress was."""
    states = history(seed)
    await site.create()
    async with Receiver(DeviceState) as receiver:
        for begin, end in ((0, 200), (200, len(states))):
            app = worker(site, billing={"url": receiver.url})
            async with site.running(app) as serving:
                await site.send(states[begin:end])
                await level(site, receiver, states[:end], serving)

        assert sum(changes(states).values()) == receiver.patches
        assert 0 == receiver.repeats
        assert {200: receiver.requests} == dict(receiver.statuses)


async def test_an_outage_conflates_and_loses_nothing(site: Site, seed: int) -> None:
    """While a target answers 503 its circuit opens and patches of a key become one; a healthy one gets them all."""
    states = history(seed, events=600)
    await site.create()
    async with Receiver(DeviceState) as sick, Receiver(DeviceState) as well:
        sick.refuse = failing(100, 503)
        app = worker(site, sick={"url": sick.url}, well={"url": well.url})
        async with site.running(app) as serving:
            await site.send(states[:20])
            assert app.guarded is not None
            board = app.guarded.board
            await site.until(lambda: board.state("sick") != "closed", serving)
            await site.send(states[20:])
            await level(site, well, states, serving)
            assert "closed" == board.state("well")
            await site.until(lambda: route(app, "sick").lanes.pending_records <= 12, serving)
            sick.refuse = None
            await level(site, sick, states, serving)
            await site.until(lambda: board.state("sick") == "closed", serving)

        total = sum(changes(states).values())
        assert total == well.patches
        assert sick.patches <= 12 + 1  # one of each device, and a probe's worth
        assert 0 == sick.changed
        assert [] == await site.read(site.dead_letters)


async def test_a_refused_key_becomes_a_dead_letter_and_then_a_snapshot(site: Site, seed: int) -> None:
    """A 400 for whole batches is traced to its key; the others go on, and the key is back with a snapshot."""
    states = history(seed)
    bad = states[0].device_id.encode()
    refusing = True

    def refuse(delivery: Delivery) -> Refusal | None:
        return (400, {}, b"") if refusing and bad in delivery.keys else None

    await site.create()
    async with Receiver(DeviceState) as receiver:
        receiver.refuse = refuse
        app = worker(site, billing={"url": receiver.url})
        async with site.running(app) as serving:
            await site.send(states)
            wanted = final(states)
            del wanted[bad]
            await site.until(lambda: held(receiver) == wanted, serving)
            await site.until(lambda: route(app, "billing").counts["dead.delivery-400"], serving)
            refusing = False
            # What was asked for may have been refused once more: any further change brings the key back in any case.
            await site.send([*states, changed(states[-1], bad)])
            await site.until(lambda: bad in held(receiver), serving)
            await site.until(lambda: held(receiver)[bad].status == "mended", serving)

        letters = await site.read(site.dead_letters)
        assert letters
        for letter in letters:
            assert bad == letter.key
            assert b"billing" == letter.headers["dlq-target"]
            assert b"delivery-400" == letter.headers["dlq-reason"]
            assert site.patches.encode() == letter.headers["dlq-origin-topic"]
            assert bad == Patch.FromString(letter.value or b"").key


def changed(state: DeviceState, key: bytes) -> DeviceState:
    """A further state of a device."""
    return DeviceState(device_id=key.decode(), status="mended", battery=state.battery)


async def test_a_receiver_that_lost_a_key_gets_its_snapshot(site: Site, seed: int) -> None:
    """Patches that do not follow what the receiver holds are answered 409: the key's snapshot comes, others go on."""
    states = history(seed)
    await site.create()
    async with Receiver(DeviceState) as receiver:
        app = worker(site, billing={"url": receiver.url})
        async with site.running(app) as serving:
            await site.send(states[:150])
            await level(site, receiver, states[:150], serving)
            receiver.held = Receiver(DeviceState).held  # it comes back with an empty memory
            await site.send(states[150:])
            late = {state.device_id.encode() for state in states[150:]}
            wanted = {key: state for key, state in final(states).items() if key in late}
            await site.until(lambda: {key: held(receiver).get(key) for key in wanted} == wanted, serving)

        assert receiver.stale > 0
        assert [] == await site.read(site.dead_letters)


async def test_410_disables_the_target_alone(site: Site, seed: int) -> None:
    """A receiver that is gone for good gets nothing more until a person says so; another one gets everything."""
    states = history(seed)
    await site.create()
    async with Receiver(DeviceState) as gone, Receiver(DeviceState) as well:
        gone.refuse = failing(100, 410)
        app = worker(site, gone={"url": gone.url}, well={"url": well.url})
        async with site.running(app) as serving:
            await site.send(states)
            await level(site, well, states, serving)
            assert app.guarded is not None
            assert app.guarded.board.is_open("gone")
            asked = gone.requests
            await asyncio.sleep(0.5)
            assert asked == gone.requests

        assert [] == await site.read(site.dead_letters)


@pytest.mark.parametrize("fallback", ["snapshot", "fail"])
async def test_other_fallbacks_end_level_too(site: Site, seed: int, fallback: str) -> None:
    """`snapshot` drops what is pending and asks after; `fail` makes graceful dead letters. Both end with the state."""
    states = history(seed, events=400)
    await site.create()
    async with Receiver(DeviceState) as receiver:
        receiver.refuse = failing(100, 503)
        app = worker(site, billing={"url": receiver.url, "fallback": fallback})
        async with site.running(app) as serving:
            await site.send(states[:20])
            assert app.guarded is not None
            board = app.guarded.board
            await site.until(lambda: board.state("billing") != "closed", serving)
            await site.send(states[20:])
            if fallback == "fail":
                await site.until(lambda: route(app, "billing").counts["dead.circuit-open"], serving)
            receiver.refuse = None
            await level(site, receiver, states, serving)

        reasons = Counter(letter.headers["dlq-reason"] for letter in await site.read(site.dead_letters))
        assert ({b"circuit-open"} if fallback == "fail" else set()) == set(reasons)


async def test_a_long_outage_with_little_traffic_dead_letters_nothing(site: Site) -> None:
    """One patch, a target that is down for longer than any retry: it is held, and delivered when the target is back."""
    await site.create()
    async with Receiver(DeviceState) as receiver:
        await receiver.vanish()
        app = worker(site, {"delivery.key_retry_ms_max": 1_000}, billing={"url": receiver.url})
        async with site.running(app) as serving:
            await site.send([DeviceState(device_id="d-1", status="new")])
            assert app.guarded is not None
            board = app.guarded.board
            await site.until(lambda: board.state("billing") != "closed", serving)
            await asyncio.sleep(3)
            await receiver.listen()
            await site.until(lambda: b"d-1" in held(receiver), serving)

        assert [] == await site.read(site.dead_letters)


async def test_a_new_target_of_an_old_log_gets_a_snapshot_of_every_key(tmp_path: Path, seed: int) -> None:
    """Patches from before the log's start are gone: a target without progress is brought level by snapshots alone."""
    site = Site(f"embedded://{tmp_path}/log", tmp_path)
    states = history(seed, events=100)
    short: dict[str, object] = {"embedded.retention_ms": 1_000}
    await site.create()
    app = worker(site, short)
    async with site.running(app) as serving:
        await site.send(states)
        await site.records(site.patches, sum(changes(states).values()), serving)
    await asyncio.sleep(1.5)
    with Log.shared(tmp_path / "log") as log:
        while log.maintain(SYSTEM_CLOCK.now_ms(), 10_000, everything=True):
            pass
        assert any(log.start(site.patches, partition) for partition in range(3))

    async with Receiver(DeviceState) as receiver:
        app = worker(site, billing={"url": receiver.url})
        async with site.running(app) as serving:
            await level(site, receiver, states, serving)
            await site.until(lambda: not route(app, "billing").lanes.pending_records, serving)

        assert receiver.patches <= 2 * len(final(states))
        assert 0 == receiver.stale
