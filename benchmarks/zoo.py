"""Does a healthy receiver keep its rate beside each kind of sick one?

    streams bench zoo                          # three minutes, on the embedded log
    streams bench zoo --small --json

A worker has two targets: a healthy one, and one of the zoo that the tests have, on real sockets: it hangs, answers
without end, breaks off, lies about TLS, refuses, asks to be left alone. The load is even. Measured is what the healthy
one gets in a second, against what it gets when both are healthy. In the end it has every patch.

What the figures do not show: a worker at its limit, where whatever a sick target costs is taken from the others.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.delivery import Plan, Receiver, load, receivers
from benchmarks.measure import Figures
from benchmarks.workload import blocks
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer

HEALTHY = "ok"
KINDS = (
    "slow", "hang", "hang-after-headers", "drip", "reset", "reset-mid-body", "endless-body", "endless-header",
    "garbage", "redirect", "stale", "gone", "throttled-seconds", "throttled-date", "throttled-absurd", "unavailable",
    "errors-5", "errors-50", "errors-100", "status-401", "status-404", "tls-expired",
)  # fmt: skip
SMALL_KINDS = ("hang", "errors-50")
EVENTS_PER_SECOND, SMALL_EVENTS_PER_SECOND = 10_000, 1_000
DEVICES = 5_000
WARM_S, SMALL_WARM_S = 2, 1
STEP_S, SMALL_STEP_S = 5, 1
LEVEL_TIMEOUT_S = 30
POLL_S = 0.05
CHILD_TIMEOUT_S = 120


def endure(source: str, well: str, sick: str, plan: Plan) -> Figures:
    """Runs in a process of its own: a worker with both targets under an even load."""
    from streams.app import App
    from streams.demo.v1.device_pb2 import DeviceState

    with tempfile.TemporaryDirectory() as folder:
        broker = f"embedded://{folder}/log"
        writer = open_writer(broker, WriterOptions())
        writer.create_topic(source, 1)
        writer.close()
        app = App(f"{source}-zoo", broker=broker, datadir=f"{folder}/data", web_enabled=False)
        app.sync(source, DeviceState)
        for name, url in (("well", well), ("sick", sick)):
            app.target(name, source=source, url=url, allow_private=True, timeout_ms=1_000)
        return asyncio.run(_endure(app, broker, source, plan))


async def _endure(app: Any, broker: str, source: str, plan: Plan) -> Figures:
    ready = asyncio.Event()
    serving = asyncio.create_task(app.serve(ready.set))
    await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    route = next(each for each in app.guarded.deliveries.routes if each.name == "well")
    feed = app.guarded.deliveries.feeds[f"{source}.patches"]
    loading = asyncio.create_task(asyncio.to_thread(load, broker, source, plan))
    await asyncio.sleep(plan.before_s)
    before, began = route.counts["patches"], time.perf_counter()
    await asyncio.sleep(plan.away_s)
    rate = (route.counts["patches"] - before) / (time.perf_counter() - began)
    await loading
    deadline = time.monotonic() + LEVEL_TIMEOUT_S
    sync = app.syncs[source]
    level = False
    while not level and time.monotonic() < deadline and not serving.done():
        await asyncio.sleep(POLL_S)
        made = sync.counts["events"] == plan.workload.events
        # Not by the number of patches: a sick one's snapshots are in the topic too, and not for this receiver.
        level = made and not feed.lag("well") and not route.lanes.pending_records
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return {"rate": rate, "patches": route.counts["patches"], "level": level}


async def visit(
    kinds: Sequence[str], plan: Plan, times: int, well: Receiver, folder: Path, step: measure.Step
) -> list[Figures]:
    """Each kind so many times, a healthy one in between."""
    from tests.zoo import Certificates, Zoo

    cases: dict[str, list[float]] = {}
    right: dict[str, bool] = {}
    taken = 0
    async with Zoo(Certificates(folder)) as zoo:
        for number in range(times):
            for kind in (HEALTHY, *kinds):
                given = [f"zoo-{number}", well.url, zoo.url(kind), ",".join(map(str, plan))]
                found = await asyncio.to_thread(measure.child, "benchmarks.zoo", ["--child", *given], CHILD_TIMEOUT_S)
                cases.setdefault(kind, []).append(found["rate"])
                taken += found["patches"]
                seen = await asyncio.to_thread(well.ask)
                right[kind] = right.get(kind, True) and found["level"] and seen["patches"] == taken
                step()
    alone = statistics.median(cases[HEALTHY])
    return [
        {
            "case": f"beside {kind}",
            "patches_per_second": measure.spread(rates, 0),
            "share_of_rate": measure.spread((rate / alone for rate in rates), 3),
            "verified": right[kind],
        }
        for kind, rates in cases.items()
    ]


def run(times: int, *, small: bool = False) -> Figures:
    """The whole zoo, or a corner of it."""
    machine = measure.machine()
    kinds = SMALL_KINDS if small else KINDS
    plan = Plan(DEVICES, EVENTS_PER_SECOND, WARM_S, STEP_S, 0)
    if small:
        plan = Plan(DEVICES, SMALL_EVENTS_PER_SECOND, SMALL_WARM_S, SMALL_STEP_S, 0)
    for _ in blocks(plan.workload):
        break  # made beforehand, if it was not made another time
    with (
        tempfile.TemporaryDirectory() as folder,
        receivers(1) as (well,),
        measure.progress("zoo", times * (len(kinds) + 1)) as step,
    ):
        cases = asyncio.run(visit(kinds, plan, times, well, Path(folder), step))
    return {
        "benchmark": "zoo",
        "small": small,
        "verified": all(case["verified"] for case in cases),
        "repetitions": times,
        "events_per_second": plan.events_per_second,
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given_first = list(sys.argv[1:] if arguments is None else arguments)
    if given_first[:1] == ["--child"]:
        _, source, well, sick, numbers = given_first
        print(json.dumps(endure(source, well, sick, Plan(*map(int, numbers.split(","))))))
        return 0
    given = measure.parser(__doc__ or "").parse_args(given_first)
    times = int(given.repetitions or 1)
    return measure.finish(run(times, small=given.small), given)


if __name__ == "__main__":
    sys.exit(main())
