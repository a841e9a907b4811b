"""A transaction failed, and so does what follows: the worker ends with it."""

from __future__ import annotations

import asyncio

import pytest

from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import StateError, TransportError
from tests.contract.site import Site

ENDS_S = 30


async def test_state_that_cannot_be_restored_after_a_failed_transaction_ends_the_worker(site: Site) -> None:
    """Nobody waited for the task that commits: it was gone, and the worker stood still with the first failure as its
    reason.
    """
    await site.create(partitions=1)
    app = site.app()
    app.sync(site.source, DeviceState)

    def refused(unit: object) -> None:
        raise TransportError("the broker is away", retriable=True)

    async def broken(lost: bool) -> None:
        if lost:
            raise StateError("the store is broken", table=site.source)

    async def work() -> None:
        async with site.running(app) as worker:
            app.consumer.on_rewind(broken)
            app.consumer.ledger.commit = refused
            await site.send([DeviceState(device_id="d-0")])
            await asyncio.wait_for(asyncio.shield(worker), ENDS_S)

    with pytest.raises(StateError, match="the store is broken"):
        await work()
