"""One process per directory: a lock file that names its holder.

The lock is the kernel's (`flock`), so it goes with its process however that ends, kill -9 included; a stale lock file
holds nobody. What is written in the file only serves the message.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from streams.errors import LogBusyError, TransportError

__all__ = ["DirectoryLock"]

LOCK_FILE = "lock"
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
BOOT = ", boot "
"""Begins the last thing a holder writes: since when the machine has had power."""
HOLDER_BYTES_MAX = 400
"""Enough for a pid and a command name; a foreign file at that path must not become a message of any size."""


class DirectoryLock:
    """Holds `directory`, made where there is none, for this process until `release`.

    Raises LogBusyError, naming the holder, when it is held: within the same process too. TransportError: it cannot be
    made or written.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise TransportError(
                f"embedded log {directory}: {error.strerror} ({error.filename}); expected a directory that this "
                "process may read and write"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(os.pread(self._descriptor, HOLDER_BYTES_MAX, 0))
            os.close(self._descriptor)
            raise LogBusyError(str(directory), holder) from error
        boot = _boot()
        left = os.pread(self._descriptor, HOLDER_BYTES_MAX, 0).decode("utf-8", "replace")
        self.follows_a_kill = bool(boot) and left.rstrip("\n").endswith(f"{BOOT}{boot}")
        """Whether the last holder ended without a word, and the machine has had power since: all it wrote is there."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()} ({_command()}){BOOT}{boot}\n".encode(), 0)

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


def _boot() -> str:
    """The machine's own name for the time since it was started; empty where it has none."""
    try:
        return BOOT_FILE.read_text().strip()
    except OSError:
        return ""


def _holder(written: bytes) -> str:
    """What the holder wrote, made printable; it may be caught between taking the lock and writing."""
    told, _, _ = written.decode("utf-8", "replace").partition(BOOT)
    text = "".join(c if c.isprintable() else " " for c in told).strip()
    if text.startswith(f"pid {os.getpid()} "):
        return f"this process, {text}"
    return text or "another process"
