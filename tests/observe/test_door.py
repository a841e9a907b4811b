"""streams.observe.door: connections that ask for nothing, at a real worker."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from streams.observe.door import FIRST_S, QUIET_MAX
from tests.journeys.pages import get
from tests.journeys.process import Worker
from tests.journeys.test_health import config, produce

MARGIN_S = 20.0
HALF = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-More: "
WHOLE = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker on the embedded log."""
    url = f"embedded://{tmp_path}/log"
    config(tmp_path, url, "devices")
    produce(tmp_path, url, "devices", {"deviceId": "d-1"})
    return Worker("--config", "streams.toml", cwd=tmp_path)


def sockets(worker: Worker) -> int:
    """How many sockets the process holds."""
    folder = Path(f"/proc/{worker.process.pid}/fd")
    return sum(os.readlink(each).startswith("socket:") for each in folder.iterdir() if each.is_symlink())


@pytest.mark.parametrize("sent", [b"", HALF], ids=["nothing", "half a head"])
def test_connections_that_ask_for_nothing_make_room_and_are_closed(worker: Worker, sent: bytes) -> None:
    """500 of them leave 200 at most; others are answered meanwhile, and after ten seconds none is left."""
    with worker, ExitStack() as stack:
        worker.wait_ready()
        before = sockets(worker)
        for _ in range(500):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), timeout=10))
            connection.sendall(sent)
        status, _ = get(worker, "/readyz")
        settled_s = time.monotonic() + FIRST_S / 2
        while (held := sockets(worker) - before) > QUIET_MAX + 1 and time.monotonic() < settled_s:
            time.sleep(0.1)  # who was asked to go is gone with a later turn of the loop
        deadline_s = time.monotonic() + FIRST_S + MARGIN_S
        while sockets(worker) > before + 1 and time.monotonic() < deadline_s:
            time.sleep(0.2)
        left = sockets(worker) - before

    assert 200 == status
    assert held <= QUIET_MAX + 1
    assert left <= 1


def test_a_connection_that_asks_stays(worker: Worker) -> None:
    """A scraper's goes on while strangers are closed, longer than the first request may take."""
    with worker, ExitStack() as stack:
        worker.wait_ready()
        scraper, stranger = (
            stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), timeout=60)) for _ in range(2)
        )
        scraper.sendall(WHOLE)
        first = scraper.recv(65_536).split()[1]
        closed = stranger.recv(1)  # returns when the worker has closed it
        scraper.sendall(WHOLE)
        answers = [first, scraper.recv(65_536).split()[1]]

    assert b"" == closed
    assert [b"200", b"200"] == answers


def test_connections_that_are_closed_take_nobody_s_place(worker: Worker) -> None:
    """A scraper waits for its next minute; whoever asks and goes, hundreds of times meanwhile, does not push it out."""
    with worker, socket.socket() as scraper:
        worker.wait_ready()
        scraper.connect(("127.0.0.1", worker.port))
        answers = []
        scraper.sendall(WHOLE)
        answers.append(scraper.recv(65_536).split()[1])
        for _ in range(2 * QUIET_MAX):
            with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as probe:
                probe.sendall(WHOLE)
                probe.recv(65_536)
        scraper.sendall(WHOLE)
        answers.append(scraper.recv(65_536).split()[1])

    assert [b"200", b"200"] == answers
