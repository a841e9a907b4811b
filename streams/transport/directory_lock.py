"""One process per directory: a lock file that names its holder.

The lock is the kernel's (`flock`), so it goes with its process however that ends, kill -9 included; a stale lock file
holds nobody. What is written in the file only serves the message.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from streams.errors import LogBusyError

__all__ = ["DirectoryLock"]

LOCK_FILE = "lock"
HOLDER_BYTES_MAX = 400
"""Enough for a pid and a command name; a foreign file at that path must not become a message of any size."""


class DirectoryLock:
    """Holds `directory` for this process until `release`. Raises LogBusyError, naming the holder, when it is held.

    A second holder within the same process is refused too.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(os.pread(self._descriptor, HOLDER_BYTES_MAX, 0))
            os.close(self._descriptor)
            raise LogBusyError(str(directory), holder) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} ({_command()})\n".encode(), 0)

    def release(self) -> None:
        """Lets the directory go. The file stays: removing it would race with the next holder."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def _command() -> str:
    """The program and its first word (`streams worker`), no further: later arguments may hold secrets."""
    program, *words = sys.argv or ["python"]
    return " ".join([Path(program).name or "python", *(word for word in words[:1] if not word.startswith("-"))])


def _holder(written: bytes) -> str:
    """What the holder wrote, made printable; it may be caught between taking the lock and writing."""
    text = "".join(c if c.isprintable() else " " for c in written.decode("utf-8", "replace")).strip()
    if text.startswith(f"pid {os.getpid()} "):
        return f"this process, {text}"
    return text or "another process"
