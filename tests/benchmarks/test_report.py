"""Figures in the README come from benchmarks/results/ and nowhere else."""

from __future__ import annotations

from benchmarks import report


def test_the_readme_says_what_was_measured() -> None:
    """The section between the markers is what the results make of it."""
    text = report.README.read_text(encoding="utf-8")

    _, _, rest = text.partition(report.BEGIN)
    written, found, _ = rest.partition(report.END)
    assert found
    assert written.strip() == report.section()


def test_only_verified_runs_count() -> None:
    """Every kept run names its commit, its conditions, and how its output was checked."""
    for run in [*report.lines("runs.jsonl"), *report.lines("side_by_side.jsonl")]:
        assert run["verified"] in (True, "counted")
        assert run["commit"]
        assert run["conditions"]
