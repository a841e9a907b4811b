"""The producers' contract, on every broker and in both shells."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams._native import murmur2_partition
from streams.client import Event, Producer
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import (
    BrokerUnreachableError,
    RecordTooLargeError,
    SettingsError,
    StreamsError,
    TransportError,
    UnknownTopicError,
)
from streams.kernel.envelope import Rules, recognise
from tests.broker import free_port
from tests.client.place import Place
from tests.client.shells import Shell

RULES = Rules(type="streams.demo.v1.DeviceState", record_bytes_max=4_000_000)
PARTITIONS = 3


def device(number: int, **more: Any) -> DeviceState:
    """A message and, by its id, a key."""
    return DeviceState(device_id=f"d{number}", **more)


def ids(place: Place) -> dict[int, list[str]]:
    """Event ids per partition, in order."""
    found: dict[int, list[str]] = {}
    for partition, _, _, value, headers in place.read(place.source):
        found.setdefault(partition, []).append(recognise(RULES, value, headers).id)
    return found


async def test_an_ack_says_where_the_event_is(place: Place, shell: Shell) -> None:
    """Exactly there it is read again, on the partition that the Java client would choose."""
    async with shell.producer(place.url) as producer:
        await producer.create_topic(place.source, PARTITIONS)
        acks = [await producer.send(place.source, device(n), key=f"d{n}", sequence=n) for n in range(12)]
    found = {(partition, offset): (key, value) for partition, offset, key, value, _ in place.read(place.source)}

    assert 12 == len(found)
    for number, ack in enumerate(acks):
        key, value = found[ack.partition, ack.offset]
        assert (place.source, f"d{number}".encode()) == (ack.topic, key)
        assert murmur2_partition(f"d{number}".encode(), PARTITIONS) == ack.partition
        assert device(number).SerializeToString() in (value or b"")


async def test_many_events_keep_their_order(place: Place, shell: Shell) -> None:
    """Several hand-overs in a row, each partition in the order of sending, all of them acknowledged."""
    place.create(place.source, partitions=PARTITIONS)
    events = [Event(device(n % 50), f"d{n % 50}", id=str(n)) for n in range(3_500)]
    async with shell.producer(place.url) as producer:
        sent = await producer.send_many(place.source, events)
    found = ids(place)

    assert 3_500 == sent == len({one for many in found.values() for one in many})
    for many in found.values():
        assert sorted(many, key=int) == many


async def test_delete_is_a_record_without_value(place: Place, shell: Shell) -> None:
    """With the attributes in its headers, so that the worker knows who deleted and when."""
    place.create(place.source)
    async with shell.producer(place.url) as producer:
        await producer.send(place.source, None, key="d1", sequence=3)
        await producer.send(place.source, device(1), key="d1", sequence=4, delete=True)
    found = [(key, value, dict(headers)["ce_sequence"]) for _, _, key, value, headers in place.read(place.source)]

    assert [(b"d1", None, b"3"), (b"d1", None, b"4")] == found


async def test_unknown_topic_is_named(place: Place, shell: Shell) -> None:
    """With the broker, and what to do."""
    async with shell.producer(place.url) as producer:
        with pytest.raises(UnknownTopicError, match=f"topic {place.source} does not exist on {place.url}; create it"):
            await producer.send(place.source, device(1), key="d1")


async def test_creating_a_topic_twice_is_no_error(place: Place, shell: Shell) -> None:
    """Whoever comes first makes it."""
    async with shell.producer(place.url) as producer:
        await producer.create_topic(place.source, 1)
        await producer.create_topic(place.source, 1)
        ack = await producer.send(place.source, device(1), key="d1")

    assert 0 == ack.offset


async def test_a_record_too_large_is_no_others_fault(place: Place, shell: Shell) -> None:
    """It is named before it is sent; where only the topic knows, it alone is refused."""
    place.create(place.source, partitions=1)
    large = random.Random(1).randbytes(2_000_000)
    async with shell.producer(place.url) as producer:
        with pytest.raises(RecordTooLargeError, match="expected 1000000 at most"):
            await producer.send(place.source, large, key="d1", type="acme.Blob")
    events = [
        Event(large if n == 5 else device(n), "d1", id=str(n), type="acme.Blob" if n == 5 else None) for n in range(10)
    ]
    async with shell.producer(place.url, record_bytes_max=3_000_000) as producer:
        with pytest.raises(TransportError, match=r"2000\d\d\d bytes") as caught:
            await producer.send_many(place.source, events)

    found = ids(place)[0]
    assert [f"{len(found)} events before or beside it were acknowledged"] == caught.value.__notes__
    assert [str(n) for n in range(10) if n != 5][: len(found)] == found
    assert 5 <= len(found)


async def test_send_many_tells_what_went_before_a_failure(place: Place, shell: Shell) -> None:
    """An event that cannot be said ends it; those before it are sent."""
    place.create(place.source, partitions=1)
    events = [Event(device(n), "d1" if n < 1_500 else "", id=str(n)) for n in range(2_000)]
    async with shell.producer(place.url) as producer:
        with pytest.raises(ValueError, match="empty key") as caught:
            await producer.send_many(place.source, events)

    assert ["1000 events before or beside it were acknowledged"] == caught.value.__notes__
    assert 1_000 == len(ids(place)[0])


async def test_unreachable_broker_is_named(shell: Shell) -> None:
    """After the delivery timeout, and not before the first send."""
    async with shell.producer(f"kafka://127.0.0.1:{free_port()}", delivery_timeout_ms=1_500) as producer:
        with pytest.raises(BrokerUnreachableError, match="acknowledged nothing for 1500 ms"):
            await producer.send("devices", device(1), key="d1")


@pytest.mark.parametrize("address", ["127.0.0.1:9092", "kafka://host", "amqp://x:1", "embedded://"])
async def test_wrong_address_is_named(shell: Shell, address: str) -> None:
    """With the two forms that are understood."""
    with pytest.raises(SettingsError, match="expected kafka://host:port"):
        async with shell.producer(address):
            pass


async def test_a_producer_is_used_inside_with(place: Place, shell: Shell) -> None:
    """Before and after it, a send says so."""
    place.create(place.source)
    producer = shell.producer(place.url)
    with pytest.raises(TransportError, match="the producer is not open"):
        await producer.send(place.source, device(1), key="d1")
    async with producer:
        await producer.send(place.source, device(1), key="d1")
    with pytest.raises(TransportError, match="the producer is not open"):
        await producer.send(place.source, device(1), key="d1")


async def test_sends_at_once_keep_their_order_through_a_small_buffer(place: Place) -> None:
    """Sends wait for room, first come first served; every one is acknowledged where it is."""
    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test", buffer_records_max=7, buffer_bytes_max=1_000) as producer:
        sends = [producer.send(place.source, device(1), key="d1", id=str(n)) for n in range(300)]
        acks = await asyncio.gather(*sends)

    assert list(range(300)) == [ack.offset for ack in acks]
    assert [str(n) for n in range(300)] == ids(place)[0]


async def test_cancelled_sends_harm_nobody(place: Place) -> None:
    """Whichever are cancelled, while waiting for room or for the ack: the others are acknowledged, in order."""
    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test", buffer_records_max=20) as producer:
        sends = [asyncio.create_task(producer.send(place.source, device(1), key="d1", id=str(n))) for n in range(200)]
        await asyncio.sleep(0.005)
        for send in sends[::3]:
            send.cancel()
        done = await asyncio.gather(*sends, return_exceptions=True)
    found = ids(place)[0]

    kept = {str(n) for n, outcome in enumerate(done) if not isinstance(outcome, asyncio.CancelledError)}
    assert [] == [outcome for outcome in done if isinstance(outcome, StreamsError)]
    assert kept <= set(found)
    assert sorted(found, key=int) == found


async def test_a_flush_waits_for_sends_that_wait_for_room(place: Place) -> None:
    """They were sent before it, too; those that are cancelled meanwhile hold nobody up."""
    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test", buffer_records_max=2) as producer:
        sends = [asyncio.create_task(producer.send(place.source, device(1), key="d1", id=str(n))) for n in range(20)]
        await asyncio.sleep(0)
        sends[5].cancel()
        await producer.flush()
        await asyncio.sleep(0)
        done = [send.done() for send in sends]

    assert [True] * 20 == done
    assert [n for n in range(20) if n != 5] == sorted(map(int, ids(place)[0]))


async def test_leaving_waits_for_what_is_under_way(place: Place) -> None:
    """Sends that nobody awaited yet are acknowledged by the end of the block, and by a flush."""
    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test") as producer:
        first = asyncio.create_task(producer.send(place.source, device(1), key="d1"))
        await asyncio.sleep(0)
        await producer.flush()
        await asyncio.sleep(0)
        assert first.done()
        second = asyncio.create_task(producer.send(place.source, device(1), key="d1"))
        await asyncio.sleep(0)

    assert [0, 1] == [(await send).offset for send in (first, second)]


async def test_an_async_source_of_events(place: Place) -> None:
    """Events may come from an async iterator as well."""

    async def source() -> AsyncIterator[Event]:
        for number in range(5):
            await asyncio.sleep(0)
            yield Event(device(number), "d1", id=str(number))

    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test") as producer:
        sent = await producer.send_many(place.source, source())

    assert (5, ["0", "1", "2", "3", "4"]) == (sent, ids(place)[0])


async def test_what_cannot_be_said_harms_no_other_send(place: Place, shell: Shell) -> None:
    """Beside good ones: they are acknowledged where they are, the bad one is refused, and nothing waits for it."""
    place.create(place.source, partitions=1)
    async with shell.producer(place.url) as producer:
        bad: Any = {"h": bytearray(b"x"), "i": object()}
        with pytest.raises(ValueError, match="event header i: got object"):
            await producer.send_many(place.source, [Event(device(1), "d1"), Event(device(1), "d1", headers=bad)])
        with pytest.raises(ValueError, match="expected an Event"):
            await producer.send_many(place.source, ["d1"])
        acks = [await producer.send(place.source, device(n), key=f"d{n}") for n in range(3)]
    assert [key for _, _, key, _, _ in place.read(place.source)][-3:] == [b"d0", b"d1", b"d2"]
    assert [ack.offset for ack in acks] == [acks[0].offset + n for n in range(3)]


async def test_a_flush_waits_for_no_send_that_failed(place: Place) -> None:
    """A send that could not be handed over, the first of all, leaves nothing behind."""
    place.create(place.source, partitions=1)
    async with Producer(place.url, "/test") as producer:
        bad: Any = memoryview(b"d1")
        await asyncio.wait_for(producer.send(place.source, device(1), key=bad, headers={"h": bad}), 20)
        with pytest.raises(ValueError, match="event key: got object"):
            await producer.send(place.source, device(1), key=object())  # type: ignore[arg-type]
        await asyncio.wait_for(producer.flush(), 20)


@pytest.mark.parametrize("count", [0, -3, 100_001, 1 << 40])
async def test_a_topic_has_a_sane_count_of_partitions(place: Place, shell: Shell, count: int) -> None:
    """At once, and nothing is made."""
    async with shell.producer(place.url) as producer:
        with pytest.raises(TransportError, match=f"got {count} partitions, expected 1 to 100000"):
            await producer.create_topic(place.source, count)
        with pytest.raises(TransportError, match=r"got a name that is no UTF-8"):
            await producer.create_topic("caf\udce9", 1)


@pytest.mark.parametrize(
    "arguments",
    [{"delivery_timeout_ms": 0}, {"delivery_timeout_ms": -1}, {"record_bytes_max": 0}, {"compression": "brotli"}],
)
def test_settings_of_a_producer(shell: Shell, arguments: dict[str, Any]) -> None:
    """Refused when it is made, by name: 0 would be for ever."""
    with pytest.raises(SettingsError, match=f"{next(iter(arguments))}: got .*, expected "):
        shell.producer("kafka://127.0.0.1:1", **arguments)


async def test_a_producer_is_opened_once_at_a_time(place: Place, shell: Shell) -> None:
    """Opened twice it would leave a client behind; closed, it may be opened again."""
    place.create(place.source, partitions=1)
    producer = shell.producer(place.url)
    for _ in range(2):
        async with producer:
            with pytest.raises(TransportError, match="is open already"):
                await producer.__aenter__()
            await producer.send(place.source, device(1), key="d1")
        await producer.close()


async def test_a_fork_of_a_producer_is_told_to_open_its_own(place: Place, shell: Shell) -> None:
    """At once, instead of after a timeout that blames the network; its parent goes on."""
    place.create(place.source, partitions=1)
    async with shell.producer(place.url) as producer:
        await producer.send(place.source, device(1), key="d1")
        child = os.fork()
        if child == 0:
            told = 1
            try:
                producer.send(place.source, device(1), key="d1").send(None)
            except TransportError as error:
                told = 0 if "opened before a fork; open one in each process" in str(error) else 2
            finally:
                os._exit(told)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert 0 == os.waitstatus_to_exitcode(status)
        await producer.send(place.source, device(2), key="d1")
