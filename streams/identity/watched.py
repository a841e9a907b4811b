"""What files hold, read again when they change: tokens, secrets and certificates are renewed under running workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import Finding, SettingsError

__all__ = ["SECRET_BYTES_MAX", "Watched", "read_secret"]

LOOK_MS = 5_000
"""Files are looked at again after this: who renews them leaves the old ones valid for minutes at least."""
SECRET_BYTES_MAX = 65_536
"""Headers with longer tokens are refused by servers and proxies alike."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """A value made from files. Made anew when one of them changes; while that fails, the old one stays in use."""

    def __init__(
        self, setting: str, paths: Sequence[str], load: Callable[[], T], wanted: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`setting` and `wanted` are for messages. `load` is called in a thread and may raise OSError or ValueError,
        whose text must be fit for a log."""
        self._setting = setting
        self._paths = paths
        self._load = load
        self._wanted = wanted
        self._clock = clock
        self._value: T | None = None
        self._seen: tuple[object, ...] = ()
        self._due_s = float("-inf")
        self._looking = asyncio.Lock()

    async def get(self) -> T:
        """The current value. SettingsError when there has never been a good one: ask once at start."""
        if self._value is None or self._clock.monotonic_s() >= self._due_s:
            async with self._looking:
                if self._value is None or self._clock.monotonic_s() >= self._due_s:
                    await self._look()
        if self._value is None:
            raise AssertionError("looking either gives a value or raises")
        return self._value

    def expire(self) -> None:
        """The value was refused: look at once when asked next."""
        self._due_s = float("-inf")

    async def _look(self) -> None:
        # Marks are taken first: what changes while it is read is read again.
        seen: tuple[object, ...] = ()
        try:
            seen = await asyncio.to_thread(self._marks)
            if self._value is None or seen != self._seen:
                self._value = await asyncio.to_thread(self._load)
                self._seen = seen
        except (OSError, ValueError) as error:
            came = f"{', '.join(self._paths)} ({error.strerror if isinstance(error, OSError) else error})"
            if self._value is None:
                raise SettingsError(Finding(self._setting, came, self._wanted)) from None
            log.warning("%s: got %s, expected %s; the one read before stays in use", self._setting, came, self._wanted)
        self._due_s = self._clock.monotonic_s() + LOOK_MS / 1000

    def _marks(self) -> tuple[object, ...]:
        stats = [Path(path).stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def read_secret(path: str) -> str:
    """The text in a file, without blanks around it. OSError or ValueError, neither of which shows any of it."""
    with Path(path).open("rb") as file:
        data = file.read(SECRET_BYTES_MAX + 1).strip()
    if not data or len(data) > SECRET_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes")
    if any(byte < 0x21 or byte > 0x7E for byte in data):
        raise ValueError("blanks or characters that are not ASCII")
    return data.decode("ascii")
