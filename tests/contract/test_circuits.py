"""Circuits in running workers: one owner per target, boards everywhere, on the embedded log and on a real Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from streams.app import App
from streams.circuit.agent import PARTITIONS, circuits_topic, outcomes_topic
from streams.circuit.board import Board, Kind, Pass
from streams.errors import SettingsError
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes
from tests.contract.site import Site

QUICK: dict[str, object] = {"circuit.open_ms": 300, "circuit.open_ms_max": 1_000, "circuit.report_ms": 50}
SLOW: dict[str, object] = {"circuit.open_ms": 600_000, "circuit.open_ms_max": 600_000, "circuit.report_ms": 50}
FAILED = 20
"""As many as decide."""


@asynccontextmanager
async def working(site: Site, options: dict[str, object], count: int = 1) -> AsyncIterator[list[App]]:
    """Workers in this process; the embedded log has one."""
    async with AsyncExitStack() as stack:
        apps = []
        for number in range(1 if site.embedded else count):
            app = site.app({**options, "app.instance": f"w-{number}"})
            app.target("t", url="http://127.0.0.1:1/", allow_private=True)
            apps.append(app)
            await stack.enter_async_context(site.running(app))
        # Each that joined moved partitions of the others.
        await site.until(lambda: all(app.health.assigned for app in apps))
        yield apps


def board(app: App) -> Board:
    """What a worker knows."""
    assert app.guarded is not None
    return app.guarded.board


def calls(app: App, kind: Kind, count: int = 1) -> int:
    """Calls of one worker to the target, as far as they may; how many."""
    made = 0
    for _ in range(count):
        leave = board(app).ask("t")
        if isinstance(leave, Pass):
            board(app).outcome(leave, kind, 1_000)
            made += 1
    return made


def seen(app: App) -> dict[str, Any]:
    """How a worker sees the fleet's circuit of the target."""
    return next((view for view in board(app).view() if view["target"] == "t"), {"state": "closed", "mode": "automatic"})


async def until_all(site: Site, apps: list[App], **wanted: str) -> None:
    """Until every worker sees this."""
    await site.until(lambda: all(seen(app)[name] == value for app in apps for name, value in wanted.items()))


async def heal(site: Site, apps: list[App]) -> None:
    """The target is well and traffic waits: calls go as they may until every circuit is closed."""

    def closed() -> bool:
        for app in apps:
            board(app).waiting("t", True)
            calls(app, "ok")
        return all(board(app).state("t") == "closed" for app in apps)

    await site.until(closed)


def app_id(site: Site) -> str:
    """The name that the topics begin with."""
    return f"fleet-{site.source}"


async def told(site: Site) -> list[Circuit]:
    """Everything in the circuits topic."""
    return [Circuit.FromString(found.value or b"") for found in await site.read(circuits_topic(app_id(site)))]


async def wish(site: Site, mode: int) -> None:
    """As an operator writes it."""
    value = Outcomes(target="t", reporter="operator", set_mode=Circuit.Mode.Name(mode))  # type: ignore[arg-type]
    await site.write(outcomes_topic(app_id(site)), value.SerializeToString(), key=b"t")


async def test_every_worker_sees_a_trip_and_the_recovery(site: Site) -> None:
    """Those whose calls fail and those that make none, soon; leases bring it back, and one owner told it all."""
    async with working(site, QUICK, 3) as apps:
        began_s = time.monotonic()
        for app in apps[:2]:
            assert FAILED == calls(app, "failed", FAILED)
        await until_all(site, apps, state="open")
        print(f"{len(apps)} workers have seen the trip {time.monotonic() - began_s:.2f} s after the first failure")
        assert all(calls(app, "ok") == 0 for app in apps)
        await heal(site, apps)
        owners = [app.guarded.circuits.owner.targets for app in apps if app.guarded is not None]

    assert 1 == sum("t" in targets for targets in owners)
    states = [circuit.state for circuit in await told(site)]
    assert [Circuit.OPEN, Circuit.HALF_OPEN, Circuit.CLOSED] == states
    numbers = [circuit.transition for circuit in await told(site)]
    assert [1, 2, 3] == numbers


async def test_a_state_survives_all_workers(site: Site) -> None:
    """The next worker refuses from its first moment, and owns the circuit with everything that was known of it."""
    async with working(site, SLOW) as apps:
        calls(apps[0], "failed", FAILED)
        await until_all(site, apps, state="open")
        before = seen(apps[0])
    async with working(site, QUICK) as again:
        after = seen(again[0])
        assert 0 == calls(again[0], "ok", 5)
        await wish(site, Circuit.FORCED_OPEN)
        await until_all(site, again, mode="forced-open")
        await wish(site, Circuit.AUTOMATIC)
        await until_all(site, again, mode="automatic")
        await heal(site, again)

    assert ("open", "failures", 1, FAILED) == tuple(after[name] for name in ("state", "reason", "trips", "calls"))
    assert before["calls"] == after["calls"]
    pairs = [(circuit.generation, circuit.transition) for circuit in await told(site)]
    assert pairs == sorted(set(pairs))


async def test_a_window_survives_its_owner(site: Site) -> None:
    """Counts of before and after a restart make the trip together."""
    async with working(site, SLOW) as apps:
        calls(apps[0], "failed", FAILED // 2)
        owner = apps[0].guarded
        assert owner is not None
        await site.until(lambda: "t" in owner.circuits.owner.targets)
    async with working(site, SLOW) as again:
        calls(again[0], "failed", FAILED - FAILED // 2)
        await until_all(site, again, state="open")

    assert [(Circuit.OPEN, FAILED)] == [(circuit.state, circuit.calls) for circuit in await told(site)]


async def test_forced_modes_hold_over_a_restart(site: Site) -> None:
    """Until somebody says otherwise, whatever is counted."""
    async with working(site, QUICK) as apps:
        await wish(site, Circuit.FORCED_OPEN)
        await until_all(site, apps, mode="forced-open", state="open")
    async with working(site, QUICK) as again:
        assert ("forced-open", "operator") == (seen(again[0])["mode"], seen(again[0])["reason"])
        board(again[0]).waiting("t", True)
        await wish(site, Circuit.FORCED_CLOSED)
        await until_all(site, again, mode="forced-closed", state="closed")
        assert 2 * FAILED == calls(again[0], "failed", 2 * FAILED)
        await wish(site, Circuit.METRICS_ONLY)
        await until_all(site, again, mode="metrics-only", state="open")

        assert 1 == calls(again[0], "ok")


async def test_a_former_owners_late_word_is_not_the_last(site: Site) -> None:
    """It is ignored by those who know better, and told over for those who will read the topic from its beginning."""
    async with working(site, SLOW) as apps:
        calls(apps[0], "failed", FAILED)
        await until_all(site, apps, state="open")
        await site.until(lambda: seen(apps[0])["transition"] == 1)
        late = Circuit(target="t", state=Circuit.CLOSED, generation=0, transition=99)
        await site.write(circuits_topic(app_id(site)), late.SerializeToString(), key=b"t")
        await site.until(lambda: seen(apps[0])["transition"] > 1)
        assert "open" == seen(apps[0])["state"]

    assert [(1, Circuit.OPEN), (99, Circuit.CLOSED), (2, Circuit.OPEN)] == [
        (circuit.transition, circuit.state) for circuit in await told(site)
    ]


async def test_records_of_strangers_break_nothing(site: Site) -> None:
    """What is no report and no circuit, modes and states of a future, counts beyond reason."""
    mad = Outcomes(target="t", reporter="mad", ok=2**64 - 1, latency_us=2**64 - 1)
    future = Outcomes(target="t", reporter="future")
    future.MergeFromString(b"\x80\x01\x63")  # set_mode 99
    async with working(site, QUICK) as apps:
        for value in (b"\xff\xff", None, b"", mad.SerializeToString(), future.SerializeToString()):
            await site.write(outcomes_topic(app_id(site)), value, key=b"t")
        state = Circuit(target="t", generation=9_999, transition=1)
        state.MergeFromString(b"\x10\x63")  # state 99
        for value in (b"\xff\xff", None, b"", state.SerializeToString()):
            await site.write(circuits_topic(app_id(site)), value, key=b"t")
        await wish(site, Circuit.FORCED_OPEN)
        await until_all(site, apps, mode="forced-open")

        assert seen(apps[0])["calls"] == 1_000_000_000


async def test_outcomes_of_another_partition_count_are_refused(site: Site) -> None:
    """The table could not follow them: topic, both counts and the cure are named."""
    await site.create(outcomes_topic(app_id(site)), partitions=PARTITIONS + 1)
    app = site.app()
    app.target("t", url="http://127.0.0.1:1/", allow_private=True)

    with pytest.raises(SettingsError, match=rf"outcomes: got {PARTITIONS + 1} partitions, expected {PARTITIONS}"):
        async with asyncio.timeout(60):
            await app.serve()
