"""A broker that does not answer, and Ctrl-C while a command waits: one sentence with its cure, and an end in time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_commands import streams

AWAY = "kafka://127.0.0.1:1"
PRODUCE = ("produce", "t", "-", "--input", "json", "--key", "device_id", "--message", "streams.demo.v1.DeviceState",
           "--module", "streams.demo.v1.device_pb2")  # fmt: skip
STUCK = """
import threading
from streams.cli.interrupt import ends_in_time
with ends_in_time(MOMENT):
    threading.Thread(target=threading.Event().wait).start()  # as a call of librdkafka: nothing interrupts it
    print("stuck", flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("arguments", [PRODUCE, ("doctor", "-s", "app.id=a"), ("dlq", "list", "t", "-s", "app.id=a")])
def test_a_broker_that_is_away_is_said_with_its_cure(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Sending asks first: it waited for two minutes, deaf to Ctrl-C, and filled the screen meanwhile."""
    began_s = time.monotonic()
    done = streams(*arguments, "--broker", AWAY, cwd=tmp_path)

    assert done.returncode == 1
    assert time.monotonic() - began_s < 60  # a send alone waits for 120
    (told,) = done.stderr.splitlines()
    assert "check app.broker and [security]" in told


def test_a_key_without_its_password_is_named_not_asked_for(tmp_path: Path) -> None:
    """The client's own words name a setting of its own; ours say which of ours to look at. Exit code 2: settings."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no PEM")
    files = ["-s", "security.cert_file=cert.pem", "-s", "security.key_file=key.pem", "-s", "security.tls=true"]
    done = streams("doctor", "-s", "app.id=a", *files, "--broker", AWAY, cwd=tmp_path)

    assert done.returncode == 2
    assert "check ca_file, cert_file, key_file and key_password" in done.stderr


def test_one_interrupt_ends_what_reads_an_idle_input(tmp_path: Path) -> None:
    """A pipe from which nothing comes: the first Ctrl-C only took note, and the read went on."""
    with subprocess.Popen(
        [sys.executable, "-m", "streams.cli", *PRODUCE, "--broker", f"embedded://{tmp_path}/log"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "log").exists():  # it is made when the producer opens, just before the first read
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 130


@pytest.mark.parametrize(("moment_s", "signals"), [(0.3, 1), (600.0, 2)])
def test_what_cannot_be_interrupted_ends_in_time(moment_s: float, signals: int) -> None:
    """After a moment, or with the second Ctrl-C at once; what was being sent is said to be unknown."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.replace("MOMENT", str(moment_s))], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        if signals == 2:  # the first was heard: Python says what it raised
            while "KeyboardInterrupt" not in process.stderr.readline():
                pass
            process.send_signal(signal.SIGINT)

        assert process.wait(30) == 130
        assert "may or may not have arrived" in process.stderr.read()


def test_it_ends_though_nobody_reads_why() -> None:
    """Found: what could not be printed kept the process from ending."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.replace("MOMENT", "0.3")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"stuck\n"
        process.stderr.close()
        process.send_signal(signal.SIGINT)

        try:
            assert process.wait(15) == 130
        finally:
            process.kill()
