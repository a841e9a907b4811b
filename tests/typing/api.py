"""The surface as its users write it: checked by mypy, never run."""

from __future__ import annotations

from typing import Any, assert_type

import streams
from streams import (
    Ack,
    App,
    BlockingProducer,
    BlockingReceiver,
    Change,
    Chunk,
    Event,
    Kind,
    ManualClock,
    Producer,
    Receiver,
    Record,
    SecuritySettings,
    SettingsError,
    StreamsError,
)
from streams.demo.v1.device_pb2 import DeviceState

broker = "kafka://127.0.0.1:9092"
app = App("fleet", broker=broker, datadir="./data")
devices = app.sync("devices", DeviceState, key="field:device_id")
alarms = app.topic("alarms")


@app.agent(app.chunks("devices.patches"))
async def low_battery(stream: Any) -> None:
    """A chunk agent: what it sends joins the chunk's transaction."""
    chunk: Chunk
    async for chunk in stream:
        for record in chunk:
            assert_type(record, Record)
            assert_type(record.key, bytes | None)
            assert_type(record.offset, int)
            assert_type(record.timestamp, float)
            assert_type(record.headers, list[tuple[str, bytes | None]])
            assert_type(record.changed("battery"), bool)
            if record.changed("battery"):
                await alarms.send(key=record.key, value=record.value)


@app.agent(app.topic("greetings", value_type=str))
async def greet(stream: Any) -> None:
    """Plain Faust, one event at a time."""
    async for greeting in stream:
        print(greeting)


@app.timer(interval=1.0)  # type: ignore[untyped-decorator]  # Faust leaves it untyped
async def every_second() -> None:
    """Faust's timers are there too."""
    await alarms.send(value=b"still here")


async def produce(state: DeviceState) -> None:
    """Events out of a service."""
    async with Producer(broker, source="/ingest", security=SecuritySettings(tls=True)) as producer:
        acked = await producer.send("devices", state, key=state.device_id, sequence=7)
        assert_type(acked, Ack)
        await producer.send_many("devices", [Event(state, state.device_id)])


async def receive() -> None:
    """Changes into a service."""
    async with Receiver(broker, "devices.patches", DeviceState, group="billing") as receiver:
        async for change in receiver:
            assert_type(change, Change[DeviceState])
            assert_type(change.key, bytes)
            assert_type(change.message, DeviceState | None)
            assert_type(change.paths, tuple[str, ...])
            assert_type(change.kind, Kind)


def without_a_loop(state: DeviceState) -> None:
    """The blocking twins, for services that are not asynchronous."""
    with BlockingProducer(broker, source="/ingest") as producer:
        assert_type(producer.send("devices", state, key=state.device_id), Ack)
    with BlockingReceiver(broker, "devices.patches", DeviceState, group="billing") as receiver:
        for change in receiver:
            assert_type(change.message, DeviceState | None)


def run() -> int:
    """Errors carry the exit code of the command that meets them."""
    try:
        app.run_worker()
    except SettingsError as error:
        assert_type(error.findings[0].cure, str)
        return error.exit_code
    except StreamsError as error:
        return error.exit_code
    assert_type(streams.__version__, str)
    ManualClock().advance(ms=1000)
    return 0
