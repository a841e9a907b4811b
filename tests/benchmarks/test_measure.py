"""What the benchmarks share: repetitions with their spread, hashes, and what may become a line of the results."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from benchmarks import measure
from streams._native import Records


def test_a_figure_is_minimum_median_and_maximum() -> None:
    """Of the repetitions, whatever their order."""
    assert {"minimum": 1, "median": 2.5, "maximum": 9} == measure.spread([9, 2, 3, 1])


def test_work_is_repeated_and_its_result_hashed() -> None:
    """Prepared anew each time; the figures are per event."""
    prepared: list[int] = []
    steps: list[int] = []

    def prepare():  # type: ignore[no-untyped-def]
        prepared.append(1)
        return lambda: b"the same"

    figures = measure.repeat(prepare, 10, 3, lambda: steps.append(1))

    assert (3, 3, 10) == (len(prepared), len(steps), figures["events"])
    assert figures["hash"] == measure.hash_of([b"the same"])
    assert {"minimum", "median", "maximum"} == figures["cpu_us_per_event"].keys() == figures["us_per_event"].keys()


def test_work_that_gives_two_results_is_no_measurement() -> None:
    """Something was left out, or was not the same work."""
    numbers = itertools.count()

    with pytest.raises(measure.DifferentResultsError):
        measure.repeat(lambda: lambda: next(numbers), 1, 2, lambda: None)


def test_a_hash_tells_content_and_order_apart() -> None:
    """Bytes, records and numbers."""
    records, other = Records(), Records()
    records.append(b"key", b"value")
    other.append(b"key", b"other")

    found = [measure.hash_of(parts) for parts in ([b"a", b"b"], [b"b", b"a"], [records], [other], [1], [])]
    assert len(found) == len(set(found))


def test_only_real_runs_with_right_output_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line has date, commit, conditions; the small form is refused."""
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    given = measure.parser("").parse_args(["--save", "--conditions", "nothing else running"])
    run = {"benchmark": "example", "verified": True, "machine": measure.machine()}

    measure.finish(run, given, show=lambda _: None)
    measure.keep([{**run, "verified": False}], given)

    (line,) = (tmp_path / measure.RUNS).read_text(encoding="utf-8").splitlines()
    kept = json.loads(line)
    assert ("example", "nothing else running") == (kept["benchmark"], kept["conditions"])
    assert {"date", "commit"} <= kept.keys()
    with pytest.raises(SystemExit):
        measure.keep([run], measure.parser("").parse_args(["--save", "--small"]))


def test_wrong_output_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says so, in either form of output."""
    run = {"benchmark": "example", "verified": False, "machine": measure.machine(), "cases": [{"case": "one", "us": 1}]}

    assert 1 == measure.finish(run, measure.parser("").parse_args([]))
    assert 1 == measure.finish(run, measure.parser("").parse_args(["--json"]))
    assert "verified: False" in capsys.readouterr().out


def test_figures_are_shown_with_the_digits_that_mean_something() -> None:
    """Thousands are grouped, small ones keep two digits, words stay as they are."""
    shown = [
        measure.shown(value)
        for value in (1234567, 12.345, 3.0, "text", True, {"minimum": 1, "median": 2.5, "maximum": 4})
    ]

    assert ["1,234,567", "12.35", "3", "text", "True", "minimum 1  median 2.50  maximum 4"] == shown


def test_a_machine_is_described_by_what_is_known_of_it() -> None:
    """The oldest kept runs have no load: the page of plots was not drawn once a newer figure stood beside them."""
    old = {"cpu": "EPYC", "cores": 2, "python": "3.11.7"}

    assert measure.described(old) == "EPYC, 2 cores, Python 3.11.7"
    assert measure.described({**old, "load_at_start": 0.5}) == "EPYC, 2 cores, Python 3.11.7, load 0.5 at the start"
