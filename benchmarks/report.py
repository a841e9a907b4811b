"""The README's figures, made from `results/` and from nowhere else.

python -m benchmarks.report            # print the section
python -m benchmarks.report --write    # put it into README.md between its markers
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: python -m benchmarks.report --write -->", "<!-- end of figures -->"


def lines(name: str) -> list[dict[str, Any]]:
    """The runs kept in one file of `results/`."""
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def section() -> str:
    """The measured figures as Markdown: conditions first, then medians, then how they compare."""
    runs = lines("runs.jsonl")
    first = runs[0]
    machine = first["machine"]
    out = [
        f"Measured {first['date']} at {first['commit']}: {machine['cpu']}, {machine['cores']} cores, Python "
        f"{machine['python']}; {first['conditions']}. No network, no replication: a real cluster is slower; it scales.",
        "",
        "| one worker process, 1,000,000 events, outputs checked | events/s | CPU µs per event |",
        "|---|---|---|",
    ]
    for guarantee in ("exactly_once", "at_least_once"):
        found = [run for run in runs if run.get("guarantee") == guarantee and run["verified"]]
        rate = statistics.median(run["events_per_second"] for run in found)
        cpu = statistics.median(run["cpu_us_per_event"] for run in found)
        out.append(f"| {guarantee}, {len(found)} run{'s' if len(found) > 1 else ''} | {rate:,.0f} | {cpu:.1f} |")
    restore = next(run for run in runs if run["benchmark"] == "restore")
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
    for run in lines("side_by_side.jsonl"):
        if run["verified"]:
            systems.setdefault(run["system"], []).append(run)
    ours = next(iter(systems))
    medians = {name: statistics.median(run["events_per_second"] for run in found) for name, found in systems.items()}
    for name, found in systems.items():
        cpu = statistics.median(run["cpu_us_per_event"] for run in found)
        ratio = "" if name == ours else f"{medians[ours] / medians[name]:.1f} times"
        out.append(f"| {name} | {medians[name]:,.0f} | {ratio} | {cpu:.1f} |")
    return "\n".join(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the section into README.md")
    if not parser.parse_args(arguments).write:
        print(section())
        return 0
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{section()}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
