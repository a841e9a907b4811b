"""How a worker ends: signals at odd moments, and an agent that holds the event loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

from tests.broker import free_port
from tests.journeys.process import Worker
from tests.journeys.test_health import config, produce

HOLDS = """
import time
from streams import App

app = App("held-{topic}", broker="{url}", datadir="data")


@app.agent(app.chunks("{topic}"))
async def blocks(stream):
    async for chunk in stream:
        open("holds", "w").close()
        {hold}
        open("goes-on", "w").close()
"""
DRAIN_MS = 3_000
END_S = 15
"""The drain, and what a busy machine needs to start ending a process."""


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker of each sort."""
    return f"embedded://{tmp_path}/log" if request.param == "embedded" else request.getfixturevalue("kafka").url


def holding(folder: Path, url: str, hold: str, *more: str) -> Worker:
    """A worker whose agent holds the event loop with its first chunk."""
    write_holding(folder, url, hold)
    return Worker("-A", "fleet", f"--set=app.drain_timeout_ms={DRAIN_MS}", *more, cwd=folder)


def write_holding(folder: Path, url: str, hold: str) -> None:
    """The app of such a worker, and an event for it."""
    topic = f"held-{uuid.uuid4().hex[:8]}"
    (folder / "fleet.py").write_text(HOLDS.format(topic=topic, url=url, hold=hold))
    produce(folder, url, topic, {"deviceId": "secret-1"})


def is_ready(port: int) -> bool:
    """Whether the worker on this port says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def wait_for_file(worker: Worker, path: Path) -> None:
    """Waits until the agent has made a file."""
    for _ in range(600):
        if path.exists():
            return
        assert worker.process.poll() is None, worker.log.read_text()
        time.sleep(0.1)
    pytest.fail(f"no {path.name} in time")


@pytest.mark.parametrize("hold", ["time.sleep(600)", "while True: pass"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_held_loop_does_not_hold_up_the_end(url: str, tmp_path: Path, hold: str, number: signal.Signals) -> None:
    """The process ends when the drain's time is over, as failed, and names the line that held it."""
    with holding(tmp_path, url, hold) as worker:
        wait_for_file(worker, tmp_path / "holds")
        began_s = time.monotonic()
        code = worker.stop(number)
        took_s = time.monotonic() - began_s
        said = worker.log.read_text()

    assert 1 == code
    assert took_s < END_S
    assert "error: fleet.py:12 in blocks still held the event loop" in said
    assert "Traceback" not in said


def test_a_held_loop_is_told_and_goes_on(tmp_path: Path) -> None:
    """Who holds it is said meanwhile, and that it turns again; the worker works on."""
    with holding(tmp_path, f"embedded://{tmp_path}/log", "time.sleep(8)") as worker:
        wait_for_file(worker, tmp_path / "goes-on")
        for _ in range(100):
            if "turns again" in worker.log.read_text():
                break
            time.sleep(0.1)
        code = worker.stop()
        said = worker.log.read_text()

    assert 0 == code
    assert "fleet.py:12 in blocks has held the event loop for 5 s" in said
    assert "the event loop turns again" in said


def test_a_loop_that_is_held_for_ever_ends_the_worker(tmp_path: Path) -> None:
    """After five times without progress, with the line; nobody has to send a signal."""
    more = "--set=app.progress_timeout_ms=1000"
    with holding(tmp_path, f"embedded://{tmp_path}/log", "time.sleep(600)", more) as worker:
        code = worker.process.wait(timeout=60)
        said = worker.log.read_text()

    assert 1 == code
    assert "error: fleet.py:12 in blocks has held the event loop for 5000 ms" in said


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """Ctrl-C begins the drain, which may take its time; the next one waits for nothing; SIGTERM twice is once."""
    with holding(
        tmp_path, f"embedded://{tmp_path}/log", "time.sleep(600)", "--set=app.drain_timeout_ms=60000"
    ) as worker:
        wait_for_file(worker, tmp_path / "holds")
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(timeout=1)
        code = worker.stop(signal.SIGINT)
        said = worker.log.read_text()

    assert 130 == code
    assert "interrupted twice: ended at once" in said


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("output", ["closed", "full"])
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_output_that_nobody_reads_does_not_hold_up_the_end(
    tmp_path: Path, output: str, signals: list[signal.Signals]
) -> None:
    """The last words went to a pipe that was closed, or full: whoever was to end the process failed, or waited."""
    write = "while True: print('x' * 1000, flush=True)" if output == "full" else "time.sleep(600)"
    url, topic = f"embedded://{tmp_path}/log", f"held-{uuid.uuid4().hex[:8]}"
    (tmp_path / "fleet.py").write_text(HOLDS.format(topic=topic, url=url, hold=write))
    produce(tmp_path, url, topic, {"deviceId": "d-1"})
    reading, writing = os.pipe()
    if output == "closed":
        os.close(reading)
    drain = f"--set=app.drain_timeout_ms={DRAIN_MS if len(signals) == 1 else 60_000}"
    command = [sys.executable, "-m", "streams.cli", "worker", "-A", "fleet", drain, f"--set=app.web_port={free_port()}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=writing, stderr=writing) as process:
        os.close(writing)
        try:
            for _ in range(600):
                if (tmp_path / "holds").exists():
                    break
                assert process.poll() is None
                time.sleep(0.1)
            for number in signals:
                time.sleep(0.5)  # the last one is seen, and a pipe is full
                process.send_signal(number)
            code = process.wait(timeout=END_S)
        finally:
            process.kill()
            if output == "full":
                os.close(reading)

    assert (1 if len(signals) == 1 else 130) == code


@pytest.mark.usefixtures("terminal")
def test_a_terminal_that_closes_is_a_sigterm(url: str, tmp_path: Path) -> None:
    """SIGHUP drains; under nohup it is none of ours."""
    source = f"devices-{uuid.uuid4().hex[:8]}"
    config(tmp_path, url, source)
    produce(tmp_path, url, source, {"deviceId": "d-1"})
    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        worker.wait_ready()
        code = worker.stop(signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
            worker.wait_ready()
            worker.process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                worker.process.wait(timeout=1)
            kept_on = worker.stop()
    finally:
        signal.signal(signal.SIGHUP, before)

    assert 0 == code, worker.log.read_text()
    assert 0 == kept_on


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_the_app_is_imported(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Before there is anything to drain the exit code is that of any other time."""
    (tmp_path / "slow.py").write_text("import time\nopen('holds', 'w').close()\ntime.sleep(600)\n")
    with Worker("-A", "slow", cwd=tmp_path) as worker:
        wait_for_file(worker, tmp_path / "holds")

        assert code == worker.stop(number)


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_worker_whose_output_nobody_reads_works(tmp_path: Path, closed: str) -> None:
    """`streams worker | head -1`: what it prints is not what it is for. A full disk under it is the same."""
    config(tmp_path, f"embedded://{tmp_path}/log", "devices")
    produce(tmp_path, f"embedded://{tmp_path}/log", "devices", {"deviceId": "d-1"})
    reading, writing = os.pipe()
    os.close(reading)
    port = free_port()
    given: dict[str, int] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, closed: writing}
    command = [sys.executable, "-m", "streams.cli", "worker", "--config=streams.toml", f"--set=app.web_port={port}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=given["stdout"], stderr=given["stderr"]) as process:
        os.close(writing)
        try:
            for _ in range(600):
                if is_ready(port):
                    break
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=30)
        finally:
            process.kill()

    assert 0 == code


def test_a_held_loop_does_not_hold_up_the_end_where_nobody_reads_why(tmp_path: Path) -> None:
    """Found: what could not be printed kept the process from ending, and only SIGKILL did."""
    write_holding(tmp_path, f"embedded://{tmp_path}/log", "time.sleep(600)")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "streams.cli", "worker", "-A", "fleet", f"--set=app.drain_timeout_ms={DRAIN_MS}",
               f"--set=app.web_port={free_port()}"]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=writing) as process:
        os.close(writing)
        try:
            while not (tmp_path / "holds").exists():
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=END_S)
        finally:
            process.kill()

    assert 1 == code
