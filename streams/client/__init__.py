"""What other services import: producers of events and receivers of patches. Each name is loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.client.blocking import BlockingProducer, BlockingReceiver
    from streams.client.broker import Ack
    from streams.client.change import Change, Counts, Kind
    from streams.client.event import Event
    from streams.client.producer import Producer
    from streams.client.receiver import Receiver
    from streams.options import SecuritySettings

__all__ = [
    "Ack",
    "BlockingProducer",
    "BlockingReceiver",
    "Change",
    "Counts",
    "Event",
    "Kind",
    "Producer",
    "Receiver",
    "SecuritySettings",
]

_ORIGINS = {
    "Ack": "streams.client.broker",
    "BlockingProducer": "streams.client.blocking",
    "BlockingReceiver": "streams.client.blocking",
    "Change": "streams.client.change",
    "Counts": "streams.client.change",
    "Event": "streams.client.event",
    "Kind": "streams.client.change",
    "Producer": "streams.client.producer",
    "Receiver": "streams.client.receiver",
    "SecuritySettings": "streams.options",
}


def __getattr__(name: str) -> object:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ORIGINS[name]), name)
