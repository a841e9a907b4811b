"""A real Redis on loopback, for tests: its own port, nothing on disk, killed at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.broker import free_port

__all__ = ["RedisError", "RedisServer"]

START_TIMEOUT_S = 60
"""A few milliseconds on an idle machine; generous for one with other work to do."""
STOP_TIMEOUT_S = 10


class RedisError(RuntimeError):
    """The server could not be found, started or reached; the message says which and the cure."""


class RedisServer:
    """One Redis with its own directory and port, which survives `kill` and `start`: the same address, empty again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://host:port/db`, as our settings want it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts the server and returns when it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise RedisError("look-ups are tested on a real Redis: apt-get install redis-server")
        self.directory.mkdir(parents=True, exist_ok=True)
        log = (self.directory / "redis.log").open("ab")
        self._process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
             "--save", "", "--appendonly", "no", "--daemonize", "no"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,  # Ctrl-C is for us to act on
        )  # fmt: skip
        log.close()
        # A test run that is killed takes its server along: the pipe closes, and the shell behind it ends the process.
        self._watcher = subprocess.Popen(
            ["sh", "-c", f"read _; kill -9 {self._process.pid}"],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self.says(b"PING").startswith(b"+PONG"):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = "".join((self.directory / "redis.log").read_text(errors="replace").splitlines(True)[-20:])
                self.kill()
                raise RedisError(f"Redis on port {self.port} did not start within {START_TIMEOUT_S} s:\n{tail}")
            time.sleep(0.02)

    def says(self, command: bytes) -> bytes:
        """The first bytes of the answer to an inline command; nothing where nobody listens."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(65_536)
        except OSError:
            return b""

    def kill(self) -> None:
        """Ends the server as a power cut does (SIGKILL); what it held is gone."""
        process, self._process = self._process, None
        watcher, self._watcher = self._watcher, None
        if process is not None:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        if watcher is not None and watcher.stdin is not None:
            watcher.kill()
            watcher.stdin.close()
            watcher.wait()

    def pause(self) -> None:
        """Freezes the server: connections stay open and are even accepted, nothing answers."""
        os.kill(self._pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on."""
        os.kill(self._pid(), signal.SIGCONT)

    def _pid(self) -> int:
        if self._process is None:
            raise RedisError(f"Redis on port {self.port} is not running; call start() first")
        return self._process.pid
