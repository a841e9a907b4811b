"""`streams circuits` on topics as workers leave them, on both transports."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from streams._native import Records
from streams.cli import run
from streams.cli.reading import read_all
from streams.client.broker import Ack, WriterOptions
from streams.client.connect import open_writer
from streams.options import AppSettings, Settings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes


class Left:
    """An application's topics of circuits."""

    def __init__(self, url: str) -> None:
        self.id = f"fleet-{uuid.uuid4().hex[:8]}"
        self.settings = Settings(app=AppSettings(id=self.id, broker=url))
        self.flags = ["--broker", url, "--set", f"app.id={self.id}"]
        self._url = url

    def write(self, *circuits: Circuit) -> None:
        """Makes the topics, and tells circuits."""
        writer = open_writer(self._url, WriterOptions())
        writer.create_topic(f"{self.id}.outcomes", 8)
        writer.create_topic(f"{self.id}.circuits", 1)
        records = Records()
        for circuit in circuits:
            records.append(circuit.target.encode(), circuit.SerializeToString())
        if circuits:
            assert all(isinstance(outcome, Ack) for outcome in writer.write(f"{self.id}.circuits", records))
        writer.close()

    def run(self, *arguments: str) -> int:
        """The exit code of `streams circuits`."""
        return run(["circuits", *arguments, *self.flags])

    def wishes(self) -> list[Outcomes]:
        """What was asked for."""
        return [
            Outcomes.FromString(records.value(index) or b"")
            for _, records in read_all(self.settings, f"{self.id}.outcomes")
            for index in range(len(records))
        ]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Left:
    """On each transport."""
    kafka = request.param == "kafka"
    return Left(request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log")


def test_circuits_are_shown_as_they_were_told_last(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """By target, without any worker; the highest number counts, not the last place."""
    billing = {"target": "billing", "mode": Circuit.AUTOMATIC, "generation": 2}
    left.write(
        Circuit(target="alarms", state=Circuit.OPEN, mode=Circuit.FORCED_OPEN, reason="gone", transition=1),
        Circuit(state=Circuit.CLOSED, transition=4, **billing),  # type: ignore[arg-type]
        Circuit(state=Circuit.HALF_OPEN, transition=6, reason="failures", trips=2, failure_rate=0.625, calls=80,
                **billing),  # type: ignore[arg-type]
        Circuit(state=Circuit.CLOSED, transition=5, **billing),  # type: ignore[arg-type]
    )  # fmt: skip
    assert 0 == left.run("--json")
    shown = json.loads(capsys.readouterr().out)
    assert 0 == left.run()
    table = capsys.readouterr().out.splitlines()

    assert [
        {"target": "alarms", "state": "open", "mode": "forced-open", "reason": "gone", "failure_rate": 0.0,
         "slow_rate": 0.0, "calls": 0, "trips": 0},
        {"target": "billing", "state": "half-open", "mode": "automatic", "reason": "failures", "failure_rate": 0.625,
         "slow_rate": 0.0, "calls": 80, "trips": 2},
    ] == shown  # fmt: skip
    assert ["billing", "half-open", "automatic", "failures", "62.5%", "0.0%", "80", "2"] == table[-1].split()


def test_without_circuits_all_are_closed(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no worker with targets has run, and where none of them has had trouble."""
    Left(left._url).write()  # another application
    codes = [left.run()]
    left.write()
    codes.append(left.run())

    assert [0, 0] == codes
    assert ("", 2) == (
        (said := capsys.readouterr()).out,
        said.err.count("no circuit has ever changed: all are closed"),
    )


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("force-open", Circuit.FORCED_OPEN),
        ("force-closed", Circuit.FORCED_CLOSED),
        ("metrics-only", Circuit.METRICS_ONLY),
        ("automatic", Circuit.AUTOMATIC),
    ],
)
def test_an_operators_word_goes_to_the_owner(
    left: Left, capsys: pytest.CaptureFixture[str], word: str, mode: int
) -> None:
    """As a report of the target; a name that nobody knows is said to be one."""
    left.write(Circuit(target="billing", state=Circuit.OPEN, generation=1, transition=1))
    assert 0 == left.run(word, "billing")
    assert "no circuit" not in capsys.readouterr().err
    assert 0 == left.run(word, "biling")
    assert "no circuit and no [[target]] is named biling here" in capsys.readouterr().err

    expected = [Outcomes(target=name, reporter="streams circuits", set_mode=Circuit.Mode.Name(mode))  # type: ignore[arg-type]
                for name in ("billing", "biling")]  # fmt: skip
    assert sorted(expected, key=str) == sorted(left.wishes(), key=str)


def test_a_word_without_a_target_and_an_unknown_word_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what there is to say."""
    left = Left(f"embedded://{tmp_path}/log")
    assert 2 == left.run("force-open")
    assert 2 == left.run("open", "billing")

    said = capsys.readouterr().err
    assert "force-open of which target?" in said
    assert "'force-open', 'force-closed', 'metrics-only', 'automatic'" in said


def test_where_nobody_has_made_the_topics_a_word_fails(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """With the topic's name; nothing is made."""
    Left(left._url).write()
    assert 1 == left.run("force-open", "billing")

    assert f"{left.id}.outcomes" in capsys.readouterr().err
