from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from streams.client.blocking import BlockingProducer
from streams.demo.flights import events
from streams.demo.run import run
from streams.demo.v1.aircraft_pb2 import AircraftState
from streams.errors import SettingsError
from tests.broker import Broker

LIMIT = 2_000


def test_a_short_run_is_verified_and_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole job on the embedded transport: duplicates go, patches come, the receiver holds the replay's bytes."""
    assert run(LIMIT, json=True) == 0
    figures = orjson.loads(capsys.readouterr().out)
    injected = sum(event.repeated for event in events(LIMIT))
    assert figures["verified"] is True
    assert figures["differences"] == 0
    assert figures["broker"] == "embedded"
    assert figures["events"] == LIMIT
    assert figures["duplicates_dropped"] == figures["duplicates_injected"] == injected > 0
    assert figures["patches"] == LIMIT - injected
    assert figures["full_json_bytes"] > figures["full_protobuf_bytes"] > figures["patch_bytes"]
    assert figures["patch_bytes"] > figures["compressed_patch_bytes"] > 0


def test_a_short_run_prints_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """For a person: the table on standard output, progress on standard error, the data where asked."""
    assert run(200, datadir=tmp_path) == 0
    printed = capsys.readouterr()
    assert "verified" in printed.out
    assert "bit for bit" in printed.out
    assert "sent 200 of 200" in printed.err
    assert any(tmp_path.iterdir())


def test_an_aircraft_too_many_is_not_verified(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A state that the replay does not have is found, and the exit code says so."""
    broker = f"embedded://{tmp_path / 'log'}"
    with BlockingProducer(broker, source="/elsewhere") as producer:
        producer.create_topic("aircraft", 4)
        producer.send("aircraft", AircraftState(tail_number="N0"), key="N0")
    assert run(200, datadir=tmp_path, json=True) == 1
    figures = orjson.loads(capsys.readouterr().out)
    assert (figures["verified"], figures["differences"]) == (False, 1)


def test_a_second_run_in_the_same_place_says_what_is_in_the_way(tmp_path: Path) -> None:
    """What an earlier run left would be counted as this one's; the message names the cure."""
    assert run(100, datadir=tmp_path) == 0
    with pytest.raises(SettingsError, match=r"records in aircraft\.patches.*--datadir"):
        run(100, datadir=tmp_path)


@pytest.mark.usefixtures("terminal")
def test_an_interrupt_says_nothing(tmp_path: Path) -> None:
    """Ctrl-C while patches are applied: the receiver was closed under the task that read it, with a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "demo", "--datadir", str(tmp_path / "data")], stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        while not re.search("applied [1-9]", line := process.stderr.readline()):
            assert line, "the demo ended"
        process.send_signal(signal.SIGINT)
        left = process.stderr.read()

        assert process.wait(30) == 130
    assert "Traceback" not in left


def test_a_short_run_on_kafka(capsys: pytest.CaptureFixture[str], kafka: Broker, tmp_path: Path) -> None:
    """The same on a real broker."""
    assert run(LIMIT, broker=kafka.url, datadir=tmp_path, json=True) == 0
    assert orjson.loads(capsys.readouterr().out)["broker"] == "kafka"
