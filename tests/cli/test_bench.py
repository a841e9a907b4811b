"""`streams bench`: the benchmarks of the checkout, and nothing without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streams import cli
from streams.cli import bench
from tests.cli.test_commands import streams

GROUND = {"__init__", "everything", "headline", "measure", "plots", "vehicles", "wide", "workload"}
"""Modules of benchmarks/ that are no question of their own."""


def test_every_benchmark_has_its_name() -> None:
    """A module that asks something can be called by name, and every name leads to a module."""
    folder = bench.checkout() / "benchmarks"
    modules = {path.stem for path in folder.glob("*.py")} - GROUND

    assert modules <= bench.QUESTIONS.keys()
    assert bench.QUESTIONS.keys() - modules <= {"all", "compare"}


def test_alone_it_prints_the_two_headline_figures(tmp_path: Path) -> None:
    """From any directory; one object on standard output, everything else beside it."""
    done = streams("bench", "--small", "--json", "--repetitions", "1", cwd=tmp_path)

    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert found["verified"] is True
    assert {"events_per_second", "cpu_us_per_event", "stages_us_per_event", "machine", "hash"} <= found.keys()
    assert ["consume", "envelope", "look-up", "diff", "encode", "state write", "compress", "produce", "commit"] == list(
        found["stages_us_per_event"]
    )


def test_a_benchmark_explains_itself() -> None:
    """What follows a name is the benchmark's own, its help too."""
    asked = streams("bench", "kernel", "--help")

    assert 0 == asked.returncode
    assert "usage: streams bench kernel" in asked.stdout
    assert "do not show" in asked.stdout


def test_a_wheel_has_no_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, with the cure."""
    monkeypatch.setattr(bench, "PLACE", tmp_path)

    assert [2, 2] == [cli.run(["bench"]), cli.run(["bench", "pipeline"])]
    assert "expected a checkout" in capsys.readouterr().err


def test_flags_belong_behind_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    """In front they would be the headline's, and be lost."""
    assert 2 == cli.run(["bench", "--small", "kernel"])
    assert "behind kernel" in capsys.readouterr().err
