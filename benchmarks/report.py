"""The kept runs as a page of plots, and the README's figures, made from `results/` and from nowhere else.

    streams bench report                     # draw the page, hold the README to the results
    streams bench report --write             # put the figures into README.md between its markers
    python -m benchmarks.report --section    # print the README's section

Exit code 1: the README says something else than the results. Drawing needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.measure import RESULTS, ROOT, RUNS

README = ROOT / "README.md"
PAGE = ROOT / ".cache" / "benchmarks.html"
Runs = list[dict[str, Any]]
BEGIN, END = "<!-- figures: python -m benchmarks.report --write -->", "<!-- end of figures -->"


def lines(name: str) -> list[dict[str, Any]]:
    """The runs kept in one file of `results/`."""
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def section() -> str:
    """The measured figures as Markdown: conditions first, then medians, then how they compare."""
    runs = lines(RUNS)
    parts = [*pipeline(runs), *restore(runs), *latency(runs), *guarded(runs), *others(lines(plots.SYSTEMS))]
    return "\n".join(parts).rstrip()


def pipeline(runs: Runs) -> list[str]:
    """How fast the main job is, and where that was measured."""
    measured = plots.newest([
        run for run in runs
        if run["benchmark"] == "pipeline" and run["verified"] and run["state"] == "memory"
        and run.get("broker", "kafka") == "kafka"
    ])  # fmt: skip
    first = measured[0]
    machine = first["machine"]
    out = [
        f"Measured {first['date']} at {first['commit']}: {machine['cpu']}, {machine['cores']} cores, Python "
        f"{machine['python']}; {first['conditions']}. No network, no replication: a real cluster is slower; it scales.",
        "",
        "| one worker process, 1,000,000 events, outputs checked | events/s | CPU µs per event |",
        "|---|---|---|",
    ]
    for guarantee in ("exactly_once", "at_least_once"):
        found = [run for run in measured if run["guarantee"] == guarantee]
        if not found:
            continue
        rate = statistics.median(run["events_per_second"] for run in found)
        cpu = statistics.median(run["cpu_us_per_event"] for run in found)
        out.append(f"| {guarantee}, {len(found)} run{'s' if len(found) > 1 else ''} | {rate:,.0f} | {cpu:.1f} |")
    return [*out, ""]


def restore(runs: Runs) -> list[str]:
    """How fast a worker comes back."""
    run = plots.of(runs, "restore")[-1]
    return [
        f"Restoring {run['keys']:,} keys: {run['restore_seconds']} s; the process then holds {run['resident_mb']} MB.",
        "",
    ]


def latency(runs: Runs) -> list[str]:
    """How long from an event to its patch, at each load that held."""
    measured = plots.of(runs, "latency")
    if not measured:
        return []
    out = [
        f"From the moment an event is due until a reader has its patch, at {measured[-1]['commit']}; open loop, "
        f"medians of {measured[-1]['repetitions']} windows:",
        "",
        "| guarantee, `transaction.interval_ms` | events/s offered | p50 ms | p99 ms |",
        "|---|---|---|---|",
    ]
    for curve in measured[-1]["curves"]:
        name = f"{curve['guarantee']}, {curve['interval_ms']}"
        half = [{**curve["half_of_peak"], "note": ", half of the peak"}] if curve["half_of_peak"] else []
        for case in (*[each for each in curve["cases"] if each["held"]], *half):
            middle = [f"{case[figure]['median']:.0f}" for figure in ("p50_ms", "p99_ms")]
            out.append(f"| {name} | {case['load']:,}{case.get('note', '')} | {' | '.join(middle)} |")
    return [*out, ""]


def guarded(runs: Runs) -> list[str]:
    """Deliveries, outages, circuits and look-ups, a sentence each."""
    out = []
    for run in plots.of(runs, "delivery")[-1:]:
        out.append(
            f"- Delivered over HTTP, signed and compressed, one worker: {run['patches_per_second']:,} patches/s at "
            f"{run['cpu_us_per_patch']:.1f} µs of CPU and {run['bytes_per_patch']:.0f} bytes each."
        )
    for run in plots.of(runs, "delivery-outage")[-1:]:
        out.append(
            f"- A receiver away for {run['away_seconds']} s under {run['events_per_second']:,} events/s of "
            f"{run['keys']:,} keys: {run['patches_waiting_when_back'] + run['patches_of_probes']:,} patches brought it "
            f"level, {run['seconds_from_closed_to_level']} s after its circuit had closed; the worker grew from "
            f"{run['resident_mb_before']} to {run['resident_mb_max']} MB; a healthy one beside it got "
            f"{run['healthy_rate_before']:,} patches/s before and {run['healthy_rate_during']:,} meanwhile."
        )
    cases = {case["case"]: case for run in plots.of(runs, "circuits") for case in run["cases"]}
    for name, case in cases.items():
        if name == "trickle":
            out.append(
                f"- A quiet receiver away for {case['away_seconds'] / 60:.0f} minutes, three patches a minute: "
                f"{case['dead_letters']} dead letters, level {case['seconds_from_back_to_level']:.0f} s after it was "
                "back (an open circuit is tried again after five minutes at the latest)."
            )
        else:
            out.append(
                f"- From the crossing of a threshold to the open circuit in the last of the workers, {name}: "
                f"{case['seconds_to_last']['median']:.2f} s (at most {case['seconds_to_last']['maximum']:.2f})."
            )
    for run in plots.of(runs, "lookups")[-1:]:
        found = {case["case"]: case for case in run["cases"]}
        out.append(
            f"- Look-ups from the cache in memory: {found['in memory']['events_per_second']['median']:,.0f}/s; of a "
            f"realistic mix {found['mix']['saved']:.1%} need no request."
        )
    return [*out, ""]


def others(runs: Runs) -> list[str]:
    """The same job on other systems."""
    out = [
        "The same job elsewhere, in turn in one sitting; medians, outputs checked (the pure-Rust loop's counted):",
        "",
        "| system | events/s | we are | CPU µs per event |",
        "|---|---|---|---|",
    ]
    systems: dict[str, list[dict[str, Any]]] = {}
    for run in plots.newest(runs):
        if run["verified"]:
            systems.setdefault(run["system"], []).append(run)
    ours = next(iter(systems))
    medians = {name: statistics.median(run["events_per_second"] for run in found) for name, found in systems.items()}
    for name, found in systems.items():
        cpu = statistics.median(run["cpu_us_per_event"] for run in found)
        ratio = "" if name == ours else f"{medians[ours] / medians[name]:.1f} times"
        out.append(f"| {name} | {medians[name]:,.0f} | {ratio} | {cpu:.1f} |")
    return out


def written() -> str:
    """What the README has between its markers."""
    _, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    return rest.partition(END)[0].strip()


def write() -> None:
    """Puts the section into the README."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{section()}\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="streams bench report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--section", action="store_true", help="print the README's section and draw nothing")
    parser.add_argument("--write", action="store_true", help="put the section into README.md")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"where the page goes (default: {PAGE})")
    given = parser.parse_args(arguments)
    if given.section:
        print(section())
        return 0
    if given.write:
        write()
    try:
        drawn = plots.page(lines(RUNS), lines(plots.SYSTEMS))
    except ImportError as error:
        print(f"{error}; the page needs it: pip install matplotlib, or the extra `bench`", file=sys.stderr)
        return 1
    given.page.parent.mkdir(parents=True, exist_ok=True)
    given.page.write_text(drawn, encoding="utf-8")
    print(given.page)
    if written() != section():
        print("README.md says something else than benchmarks/results: streams bench report --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
