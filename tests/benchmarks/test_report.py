"""Figures in the README come from benchmarks/results/ and nowhere else."""

from __future__ import annotations

from pathlib import Path

from benchmarks import measure, plots, report


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


def test_the_page_opens_with_what_the_numbers_do_not_show(tmp_path: Path) -> None:
    """It is drawn from the kept runs, and holds its pictures itself."""
    page = tmp_path / "page.html"

    assert 0 == report.main(["--page", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.index("do not show") < text.index("<h2>")
    assert "<svg" in text
    assert "src=" not in text


def test_every_plot_is_drawn_from_runs_of_its_benchmark() -> None:
    """A run of each kind, as small as it can be."""
    spread = {"minimum": 1, "median": 2, "maximum": 3}
    stamp = {"date": "2026-01-01", "commit": "abc", "conditions": "none", "machine": measure.machine()}
    place = {"p50_ms": spread, "p99_ms": spread, "p999_ms": spread}
    curve = {"guarantee": "exactly_once", "interval_ms": 5, "peak": 10, "cases": [{"load": 10, **place}, {"load": 20}]}
    point = {"dimension": "keys", "cpu_us_per_event": spread, "us_per_event": spread}
    way = {"bytes": 10}
    form = {"schema": "devices", "form": "patch", "bytes": 20, "zstd": way, "zstd, dictionary": way, "zstd, batch": way}
    runs = [
        {**stamp, "benchmark": "headline", "stages_us_per_event": {"consume": spread}, "events_per_second": spread},
        {**stamp, "benchmark": "latency", "curves": [curve]},
        {**stamp, "benchmark": "scaling", "cases": [{**point, "value": value} for value in (1, 1_000)]},
        {**stamp, "benchmark": "compression", "cases": [form]},
    ]
    systems = [{**stamp, "benchmark": "side_by_side", "system": name, "verified": True, "events_per_second": 10,
                "cpu_us_per_event": 1.5} for name in ("ours", "theirs", "ours")]  # fmt: skip

    text = plots.page(runs, systems)

    assert 5 == text.count("<svg")
    assert "Not measured yet" not in text
    assert 5 == plots.page([], []).count("Not measured yet")


def test_the_newest_sitting_counts() -> None:
    """Runs of an older commit stay kept, and are not mixed into the figures."""
    runs = [{"benchmark": "pipeline", "commit": commit} for commit in ("old", "new", "new")]

    assert runs[1:] == plots.of(runs, "pipeline")
    assert [] == plots.of(runs, "latency")
