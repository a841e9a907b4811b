"""Every benchmark in its small form: it runs, and what it measured has the right output. No figure is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from benchmarks import compression, everything, idle, kernel, latency, measure, scaling, state, transport, zoo
from tests.broker import Broker


def figures(
    main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str], *arguments: str
) -> measure.Figures:
    """What a benchmark says of its small form."""
    assert 0 == main(["--small", "--json", *arguments])

    found: measure.Figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["verified"] is True
    assert found["small"] is True
    return found


def test_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole, whose patches are a plain replay's, and its stages."""
    found = figures(kernel.main, capsys)

    assert ["process", "changelog", "commit", "stages of process"] == [case["case"] for case in found["cases"]]
    assert set(kernel.SPLIT) == found["cases"][-1]["cpu_us_per_event"].keys()
    assert 2 == found["repetitions"]


def test_state(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are restored, found and written, in memory and on disk."""
    found = figures(state.main, capsys, "--repetitions", "1")

    assert [f"{place}, {what}" for place in ("memory", "rocksdb") for what in ("restore", "read", "write")] == [
        case["case"] for case in found["cases"]
    ]


def test_compression(capsys: pytest.CaptureFixture[str]) -> None:
    """Three schemas in five forms, through the command that runs them all."""
    arguments = ["--small", "--json", "--only", "compression", "--broker", "kafka://127.0.0.1:1"]

    assert 0 == everything.main(arguments)
    cases = json.loads(capsys.readouterr().out)["cases"]
    sizes = {case["case"]: case["bytes"] for case in cases}
    assert 3 * len(compression.FORMS) == len(cases)
    for schema in ("devices", "flights", "vehicles"):
        assert sizes[f"{schema}, mask and data"] < sizes[f"{schema}, patch"] < sizes[f"{schema}, full JSON"]


def test_what_fails_is_named_and_keeps_nothing_else_from_running(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code says that something failed, the last lines what."""
    parts = (everything.Part("no_such_benchmark", 0), everything.Part("also_none", 0))
    monkeypatch.setattr(everything, "PLAN", parts)

    assert 1 == everything.main(["--small", "--broker", "kafka://127.0.0.1:1"])
    said = capsys.readouterr().err
    assert "2 parts, 2 failed" in said
    assert "no_such_benchmark: ended with 1" in said
    assert "also_none: ended with 1" in said


def test_transport(kafka: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """What was read is what was written, on either transport, in every compression."""
    found = figures(transport.main, capsys, "--repetitions", "1", "--broker", kafka.url)

    assert 1 == len({case["hash"] for case in found["cases"] if "hash" in case})
    assert {"embedded", "kafka"} == {case["case"].partition(",")[0] for case in found["cases"]}


def test_idle(kafka: Broker) -> None:
    """The worker was there all the time."""
    found = idle.measured(kafka.url, 1, lambda: None, small=True)

    assert found["idle"] is True
    assert found["resident_mb"]["median"] > 0


def test_latency(kafka: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Every patch of the open loop came, and none twice; whether the load was borne is the machine's business."""
    found = figures(latency.main, capsys, "--broker", kafka.url)

    (curve,) = found["curves"]
    assert curve["cases"][0]["samples"] > 0
    assert curve["patches"] > latency.SMALL_CYCLE / 2


def test_scaling(kafka: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Filled stores, repeated events and two workers: as many patches as the events make."""
    found = figures(scaling.main, capsys, "--broker", kafka.url)

    (case,) = found["cases"]
    assert (True, "rocksdb", "duplicates 0.50") == (case["complete"], case["state"], case["case"])
    assert all(point.load.total * point.load.record_bytes <= scaling.INPUT_BYTES_MAX for point in scaling.points())


def test_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    """The healthy receiver gets everything beside a sick one of each kind."""
    found = figures(zoo.main, capsys)

    assert [f"beside {kind}" for kind in (zoo.HEALTHY, *zoo.SMALL_KINDS)] == [case["case"] for case in found["cases"]]
