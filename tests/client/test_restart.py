"""Clients outlive their broker: what was under way when it died arrives once it is back."""

from __future__ import annotations

import asyncio

from streams.client import Producer, Receiver
from streams.demo.v1.device_pb2 import DeviceState
from tests.broker import Broker
from tests.client.place import History, Place

KEY = "d1"


async def test_clients_outlive_a_broker_that_is_killed(kafka: Broker) -> None:
    """A send waits and is acknowledged once, in order; a receiver goes on without loss, repetition or a gap."""
    with Place(kafka.url, "restarted-devices") as place:
        place.create(partitions=1)
        made = History(DeviceState, KEY.encode())
        place.publish(made.add(DeviceState(device_id=KEY, status="before")))
        async with (
            Producer(place.url, "/test") as producer,
            Receiver(place.url, place.patches, DeviceState, group="billing") as receiver,
        ):
            await producer.send(place.source, DeviceState(), key=KEY)
            assert await receiver.next_change(20_000) is not None
            await receiver.commit()
            await asyncio.to_thread(kafka.kill)
            sends = [
                asyncio.create_task(producer.send(place.source, DeviceState(uptime_s=n), key=KEY)) for n in range(10)
            ]
            assert await receiver.next_change(1_000) is None
            await asyncio.to_thread(kafka.start)

            assert list(range(1, 11)) == [ack.offset for ack in await asyncio.gather(*sends)]
            place.publish(made.add(DeviceState(device_id=KEY, status="after")))
            change = await receiver.next_change(60_000)
            assert change is not None
            assert (2, "after") == (change.revision, change.message.status if change.message else None)
            assert (2, 0, 0) == (receiver.counts.applied, receiver.counts.duplicates, receiver.counts.gaps)
        assert 11 == len(place.read(place.source))
