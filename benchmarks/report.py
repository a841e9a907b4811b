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
BEGIN, END = "<!-- figures: python -m benchmarks.report --write -->", "<!-- end of figures -->"


def lines(name: str) -> list[dict[str, Any]]:
    """The runs kept in one file of `results/`."""
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def section() -> str:
    """The measured figures as Markdown: conditions first, then medians, then how they compare."""
    runs = lines(RUNS)
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
    restore = plots.of(runs, "restore")[-1]
    out += [
        "",
        f"Restoring {restore['keys']:,} keys: {restore['restore_seconds']} s; the process then holds "
        f"{restore['resident_mb']} MB.",
        "",
        "The same job elsewhere, in turn in one sitting; medians, outputs checked (the pure-Rust loop's counted):",
        "",
        "| system | events/s | we are | CPU µs per event |",
        "|---|---|---|---|",
    ]
    systems: dict[str, list[dict[str, Any]]] = {}
    for run in plots.newest(lines(plots.SYSTEMS)):
        if run["verified"]:
            systems.setdefault(run["system"], []).append(run)
    ours = next(iter(systems))
    medians = {name: statistics.median(run["events_per_second"] for run in found) for name, found in systems.items()}
    for name, found in systems.items():
        cpu = statistics.median(run["cpu_us_per_event"] for run in found)
        ratio = "" if name == ours else f"{medians[ours] / medians[name]:.1f} times"
        out.append(f"| {name} | {medians[name]:,.0f} | {ratio} | {cpu:.1f} |")
    return "\n".join(out)


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
