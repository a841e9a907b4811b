"""Receivers of patches beside workers that are killed: in a thread of the test, which outlives all of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from streams.demo.v1.device_pb2 import DeviceState
from tests.faults.check import Result
from tests.zoo import Receiver

SETTLE_TIMEOUT_S = 120


class Receivers:
    """Named receivers with an event loop of their own."""

    def __init__(self, *names: str) -> None:
        self.by_name: dict[str, Receiver[DeviceState]] = {name: Receiver(DeviceState) for name in names}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receivers", daemon=True)
        self._closing = AsyncExitStack()

    @property
    def targets(self) -> str:
        """FAULT_TARGETS of `tests.faults.worker`."""
        return " ".join(f"{name}={receiver.url}" for name, receiver in self.by_name.items())

    def __enter__(self) -> Self:
        self._thread.start()
        for receiver in self.by_name.values():
            self.run(self._closing.enter_async_context(receiver))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._closing.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something in the receivers' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def ask(self, question: Callable[[], Any]) -> Any:
        """A look at the receivers that nothing changes meanwhile."""

        async def asked() -> Any:
            return question()

        return self.run(asked())

    def states(self, name: str) -> dict[bytes, bytes]:
        """What one holds, as canonical bytes."""
        found: dict[bytes, bytes] = self.ask(self.by_name[name].states)
        return found

    def wait_level(self, result: Result) -> None:
        """Waits until each receiver holds what a plain replay does."""
        wanted = {key: encoded for key, (_, encoded) in result.expected.last.items()}
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        for name in self.by_name:
            while (found := self.states(name)) != wanted:
                differ = sum(found.get(key) != state for key, state in wanted.items())
                assert time.monotonic() < deadline_s, f"{name}: {differ} of {len(wanted)} keys differ from the replay"
                time.sleep(0.2)
