"""Protobuf events in, exactly-once compressed patches out. Each name here is loaded on first use."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.app import App
    from streams.client.blocking import BlockingProducer, BlockingReceiver
    from streams.client.broker import Ack
    from streams.client.change import Change, Kind
    from streams.client.event import Event
    from streams.client.producer import Producer
    from streams.client.receiver import Receiver
    from streams.clock import ManualClock
    from streams.errors import (
        GapError,
        InputError,
        PatchError,
        SchemaError,
        SettingsError,
        StallError,
        StateError,
        StreamsError,
        TransportError,
    )
    from streams.options import SecuritySettings, Settings
    from streams.transport.chunk import Chunk, Record

    __version__: str

__all__ = [
    "Ack",
    "App",
    "BlockingProducer",
    "BlockingReceiver",
    "Change",
    "Chunk",
    "Event",
    "GapError",
    "InputError",
    "Kind",
    "ManualClock",
    "PatchError",
    "Producer",
    "Receiver",
    "Record",
    "SchemaError",
    "SecuritySettings",
    "Settings",
    "SettingsError",
    "StallError",
    "StateError",
    "StreamsError",
    "TransportError",
    "__version__",
]

_ORIGINS = {
    "Ack": "streams.client.broker",
    "App": "streams.app",
    "BlockingProducer": "streams.client.blocking",
    "BlockingReceiver": "streams.client.blocking",
    "Change": "streams.client.change",
    "Chunk": "streams.transport.chunk",
    "Event": "streams.client.event",
    "Kind": "streams.client.change",
    "ManualClock": "streams.clock",
    "Producer": "streams.client.producer",
    "Receiver": "streams.client.receiver",
    "Record": "streams.transport.chunk",
    "SecuritySettings": "streams.options",
    "Settings": "streams.options",
}
"""Where a name comes from; errors come from `streams.errors`."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("patchstream")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_ORIGINS.get(name, "streams.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
