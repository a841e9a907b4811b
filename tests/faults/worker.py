"""The app that fault tests kill: one sync, and where asked for a point at which the process dies or an agent raises.

The points lie around what the product calls (its producer, its store), so that no line of the product knows of them.
Environment: FAULT_SOURCE and FAULT_STATE describe the sync. FAULT_AT=point:count kills the process without a word when
it comes to that point for the count-th time, or freezes it where FAULT_SIGNAL=SIGSTOP. FAULT_COPIES names a topic into
which a second agent copies every event's offset; FAULT_BAD=n lets that agent raise on every n-th offset, always,
FAULT_AWAY_S on every record for so long from its third chunk on, FAULT_SLOW_S lets it take so long for each chunk.
FAULT_TARGETS: receivers of the patches, name=url, separated by blanks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from typing import Any

from streams import App
from streams._native import KafkaProducer
from streams.demo.v1.device_pb2 import DeviceState
from streams.state.rocks import Store
from streams.transport import ledger

POINTS = {
    "begin": "a transaction has begun, with nothing in it",
    "produce": "a batch of outputs or rows is handed over",
    "flush": "everything handed over is acknowledged",
    "send_offsets": "the offsets are in the transaction",
    "commit": "the transaction is committed, and nobody here knows it yet",
    "write": "the local store has taken the rows",
}
"""Where the process can die: after the call of that name."""

_point, _, _count = os.environ.get("FAULT_AT", "").partition(":")
_passed: Counter[str] = Counter()


def passed(point: str) -> None:
    """Dies or freezes here when this is the chosen point and time."""
    _passed[point] += 1
    if point == _point and _passed[point] == int(_count):
        os.kill(os.getpid(), signal.Signals[os.environ.get("FAULT_SIGNAL", "SIGKILL")])


class MortalProducer:
    """The native producer with a point after each call."""

    def __init__(self, *args: Any) -> None:
        self._producer = KafkaProducer(*args)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._producer, name)
        if name not in POINTS:
            return call

        def called(*args: Any) -> Any:
            result = call(*args)
            passed(name)
            return result

        return called


class RaisedError(Exception):
    """What the second agent raises."""


def mortal_write(self: Store, *args: Any) -> None:
    """The store's write with a point after it."""
    _write(self, *args)
    passed("write")


_write = Store.write
if _point:
    ledger.KafkaProducer = MortalProducer  # type: ignore[misc, assignment]
    Store.write = mortal_write  # type: ignore[method-assign, assignment]

app = App("faults")
source = os.environ["FAULT_SOURCE"]
app.sync(source, DeviceState, key="record", state=os.environ.get("FAULT_STATE", "memory"))

for given in os.environ.get("FAULT_TARGETS", "").split():
    name, _, url = given.partition("=")
    app.target(name, source=source, url=url, allow_private=True, linger_ms=5)

if copies := os.environ.get("FAULT_COPIES"):
    bad = int(os.environ.get("FAULT_BAD", "0"))
    away_s = float(os.environ.get("FAULT_AWAY_S", "0"))
    away_until_s = 0.0
    slow_s = float(os.environ.get("FAULT_SLOW_S", "0"))

    @app.agent(app.chunks(source), name="copies")
    async def copy(stream: Any) -> None:
        """Sends one record per event in the chunk's transaction."""
        global away_until_s
        seen = 0
        async for chunk in stream:
            seen += 1
            if seen == 3 and not away_until_s:
                away_until_s = time.monotonic() + away_s
            await asyncio.sleep(slow_s)
            for record in chunk:
                chunk.send(copies, partition=chunk.partition, key=record.key, value=str(record.offset).encode())
                if (bad and record.offset % bad == bad - 1) or time.monotonic() < away_until_s:
                    raise RaisedError("what a record holds")
