"""streams.observe.hosts: which Host headers the web port answers to, and what it shows to anybody."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.observe.hosts import allowed, own_names
from tests.journeys.pages import WAIT_S
from tests.journeys.process import Worker

NAMES = own_names("127.0.0.1", ["worker-0.fleet.svc"])
OWN = ["127.0.0.1", "127.0.0.1:6066", "[::1]", "[::1]:6066", "10.1.2.3:6066", "localhost", "LOCALHOST:6066",
       "localhost.", "worker-0.fleet.svc:6066"]  # fmt: skip
STRANGE = ["", "evil.example", "evil.example:6066", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:x",
           "user@localhost", "localhost/", "[localhost]", "[::1", "::1]:1", "127.0.0.1, evil.example", "localhost\x00",
           "127.0.0.1:123456", " localhost", "2130706433", "0x7f.1", "*"]  # fmt: skip

APP = """
from streams import App

app = App("{name}", broker="embedded://{folder}/log", datadir="{folder}/data", {options})
counts = app.Table("counts", default=int, partitions=1)
"""


@pytest.mark.parametrize("host", OWN)
def test_a_worker_answers_to_its_addresses_and_names(host: str) -> None:
    """Any address, localhost, and the names of settings, with and without a port."""
    assert allowed(host, NAMES)


@pytest.mark.parametrize("host", STRANGE)
def test_other_names_are_refused(host: str) -> None:
    """A stranger's name, and everything that some server might take for another."""
    assert not allowed(host, NAMES)
    assert not allowed(None, NAMES)


@given(st.text(max_size=40))
def test_a_host_that_is_allowed_is_an_address_or_a_name_of_ours(host: str) -> None:
    """Whatever the header holds: what passes begins with a name of ours, a bracket or an address."""
    if allowed(host, {"localhost"}):
        assert host.lower().startswith("localhost") or host[0] == "[" or host[0].isdigit()


def answer(port: int, request: str) -> tuple[int, str]:
    """Status and all of the answer to a request as it is written."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        told = b""
        while piece := connection.recv(65_536):
            told += piece
    return int(told.split()[1]), told.decode()


def test_the_web_port_shows_no_state_and_refuses_other_hosts(tmp_path: Path) -> None:
    """Faust's pages of tables, routes and statistics are not there; who was sent here under a name is refused."""
    name = f"hosts{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(APP.format(name=name, folder=tmp_path, options="debug=True"))
    with Worker("-A", f"{name}:app", cwd=tmp_path) as worker:
        worker.wait_ready()

        def get(path: str, host: str) -> tuple[int, str]:
            return answer(worker.port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")

        assert 200 == get("/readyz", f"127.0.0.1:{worker.port}")[0]
        assert 200 == get("/metrics", "localhost")[0]
        for path in ("/", "/table/", "/table/counts/", "/table/counts/k/", "/router/", "/router/counts/k/", "/graph/",
                     "/stats/", "/assignment/", "/performance/"):  # fmt: skip
            assert 404 == get(path, "localhost")[0], path
        refused = get("/circuits", "evil.example")
        assert (421, True) == (refused[0], "app.web_names" in refused[1])
        assert 421 == answer(worker.port, "GET /readyz HTTP/1.0\r\n\r\n")[0]
        whole = "GET http://evil.example/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert 421 == answer(worker.port, whole)[0]


RAISING = """
import asyncio, logging
from streams import App

logging.basicConfig(level=logging.DEBUG)
app = App("{name}", broker="{broker}", datadir="{folder}/data")
words = app.topic("{name}-words", value_type=bytes, value_serializer="raw", partitions=1)


@app.agent(words)
async def read(stream):
    async for word in stream:
        yield word


@app.page("/ask/{{key}}")
async def ask(self, request, key):
    await words.send(key=b"secret-key", value=b"secret-value")
    raise ValueError(f"secret-text {{request.url}}")


@app.task
async def stray():
    async def fails():
        raise ValueError("secret-task")

    asyncio.create_task(fails())
"""


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker of each sort."""
    return f"embedded://{tmp_path}/log" if request.param == "embedded" else request.getfixturevalue("kafka").url


def wait_logged(worker: Worker, text: str) -> None:
    """Returns once the worker's log has this text."""
    deadline_s = time.monotonic() + WAIT_S
    while text not in worker.log.read_text():
        assert time.monotonic() < deadline_s, f"{text} is not logged in time"
        time.sleep(0.1)


def test_what_pages_and_tasks_raise_is_not_logged(tmp_path: Path, url: str) -> None:
    """The type and the line are; also with everything logged at DEBUG, where Faust and aiokafka show what is sent."""
    name = f"hosts{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(RAISING.format(name=name, folder=tmp_path, broker=url))
    with Worker("-A", f"{name}:app", cwd=tmp_path) as worker:
        worker.wait_ready()
        request = "GET /ask/secret-path?q=secret-query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert 500 == answer(worker.port, request)[0]
        assert 400 == answer(worker.port, "SECRET\x01secret /secret HTTP/1.1\r\nHost: localhost\r\n\r\n")[0]
        wait_logged(worker, "page /ask/{key} raised ValueError")
        wait_logged(worker, "never retrieved: ValueError")
        assert worker.stop() == 0
    logged = worker.log.read_text()

    assert f"({name}.py:" in logged
    assert "DEBUG" in logged
    assert "secret" not in logged.lower()
