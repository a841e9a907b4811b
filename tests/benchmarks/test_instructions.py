"""The guard of the kernel's instruction count: what passes, what does not, and when the base is counted anew."""

from __future__ import annotations

import importlib.util
import json
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = {"compiler": "rustc 1.95.0", "input": "aa", "counts": {"process": 1_000, "apply": 2_000}}


@pytest.fixture
def instructions() -> types.ModuleType:
    """The script, which lies in no package."""
    spec = importlib.util.spec_from_file_location("instructions", ROOT / ".ci" / "instructions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("base", "grown"),
    [
        ({"process": 1_000, "apply": 2_000}, []),
        ({"process": 953, "apply": 9_000}, []),
        ({"process": 952, "apply": 1_000}, ["process", "apply"]),
        ({"process": 1_000}, []),
    ],
    ids=["same", "below five percent, and fewer", "above", "a new case"],
)
def test_more_than_five_percent_is_too_much(
    instructions: types.ModuleType, base: Mapping[str, int], grown: list[str]
) -> None:
    """Each case is judged by itself; one that the baseline lacks is shown and holds nothing up."""
    lines, found = instructions.compare(base, HEAD["counts"])

    assert grown == [line.split()[0] for line in found]
    assert ["process", "apply"] == [line.split()[0] for line in lines]


def test_the_same_compiler_is_held_to_the_baseline(instructions: types.ModuleType) -> None:
    """Nothing is built again."""
    baseline = {**HEAD, "counts": {"process": 900}}

    assert {"process": 900} == instructions.base_for(baseline, HEAD)


def test_another_compiler_counts_the_base_anew(instructions: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline's counts mean nothing then; its commit's do."""
    monkeypatch.setattr(instructions, "_counted_anew", lambda head: {"process": 800})

    assert {"process": 800} == instructions.base_for({**HEAD, "compiler": "rustc 1.85.0"}, HEAD)


def test_counts_of_another_input_are_refused(instructions: types.ModuleType) -> None:
    """They would pass or fail by accident; the message says what to do."""
    with pytest.raises(instructions.CountError, match="write the baseline anew"):
        instructions.base_for({**HEAD, "input": "bb"}, HEAD)


def test_the_baseline_says_what_its_counts_hang_on() -> None:
    """Compiler, input, and a count for each case."""
    baseline = json.loads((ROOT / ".ci" / "instructions.json").read_text())

    assert ["compiler", "input", "counts"] == list(baseline)
    assert baseline["counts"]
    assert all(count > 0 for count in baseline["counts"].values())
