"""A topic of patches that was deleted and made anew: a target's progress is an offset in the one that is gone."""

from __future__ import annotations

import pytest

from streams.demo.v1.device_pb2 import DeviceState
from tests.contract.site import Site
from tests.delivery.test_agent import QUICK, final, held, worker
from tests.zoo import Receiver

DEVICES = 5


def _states(battery: float, devices: int = DEVICES) -> list[DeviceState]:
    return [DeviceState(device_id=f"d-{number}", battery=battery) for number in range(devices)]


@pytest.mark.parametrize("away", [False, True])
async def test_patches_made_anew_under_a_worker_reach_the_target(site: Site, away: bool) -> None:
    """Found: the target stayed at its old offset, and was given nothing until the new log had grown beyond it. `away`:
    patches that nobody can write come in between.
    """
    first, then = [*_states(1), *_states(2), *_states(3)], _states(4, DEVICES - 1)
    meanwhile = _states(5) if away else []
    await site.create(partitions=1)
    async with Receiver(DeviceState) as receiver:
        app = worker(site, billing={"url": receiver.url})
        async with site.running(app) as serving:
            await site.send(first)
            await site.until(lambda: held(receiver) == final(first), serving)
            await site.delete(site.patches)
            if away:
                app.consumer.logs.doubt()  # or half a minute later
                await site.until(lambda: "deleted" in app.health.reasons(), serving)
                await site.send(meanwhile)
            await site.create(site.patches, partitions=1)
            app.consumer.logs.doubt()
            await site.until(lambda: site.patches in app.log_watch.replaced, serving)
            await site.send(then)
            await site.until(lambda: held(receiver) == final([*first, *meanwhile, *then]), serving)


@pytest.mark.parametrize("site", ["embedded"], indirect=True)
async def test_progress_in_another_log_says_nothing(site: Site) -> None:
    """Found: where the new log had grown beyond it by the next start, what lay below was never delivered."""
    first, then = _states(1), [*_states(2), *_states(3, DEVICES - 1)]
    await site.create(partitions=1)
    async with Receiver(DeviceState) as receiver:
        async with site.running(app := worker(site, billing={"url": receiver.url})) as serving:
            await site.send(first)
            await site.until(lambda: held(receiver) == final(first), serving)
        await site.delete(site.patches)
        await site.create(site.patches, partitions=1)
        app = site.app(QUICK)
        sync = app.sync(site.source, DeviceState)
        async with site.running(app) as serving:
            await site.send(then)
            await site.until(lambda: sync.counts["events"] == len(then), serving)
        async with site.running(worker(site, billing={"url": receiver.url})) as serving:
            await site.until(lambda: held(receiver) == final(then), serving)
