"""Every benchmark after the other, on one broker, each run kept: what a release is measured with.

    streams bench all --conditions "nothing else running"         # an hour; see the plan it prints first
    streams bench all --with-compare                              # the other systems too: two hours
    streams bench all --only kernel --only latency
    streams bench all --small                                     # that all of them work, in some minutes

The broker is one of its own on this machine unless one is named. Each run becomes a line of `benchmarks/results/`; one
that fails, or whose output was wrong, does not, is named at the end, and does not keep the others from running.
`compare` has forty minutes of its own and goes on where it was interrupted: it comes last, where asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import measure
from benchmarks.measure import ROOT, Figures


class Part(NamedTuple):
    """One call of a benchmark, and how many minutes it takes on two quiet cores."""

    name: str
    minutes: float
    arguments: tuple[str, ...] = ()
    on_broker: bool = False

    @property
    def title(self) -> str:
        """As one would type it."""
        return " ".join((self.name, *self.arguments))


PLAN = (
    Part("headline", 1),
    Part("kernel", 3),
    Part("compression", 3),
    Part("state", 3),
    Part("transport", 4, on_broker=True),
    Part("pipeline", 5, on_broker=True),
    Part("pipeline", 3, ("--guarantee", "at_least_once", "--repetitions", "3"), on_broker=True),
    Part("pipeline", 4, ("--state", "rocksdb", "--repetitions", "3"), on_broker=True),
    Part("restore", 2, on_broker=True),
    Part("idle", 5, on_broker=True),
    Part("latency", 10, on_broker=True),
    Part("lookups", 3),
    Part("delivery", 2, on_broker=True),
    Part("delivery", 3, ("--outage",), on_broker=True),
    Part("zoo", 5),
    Part("circuits", 16, on_broker=True),
    Part("scaling", 25, on_broker=True),
)
TIMEOUT_S = 3_600


def call(part: Part, broker: str, *, small: bool) -> Figures:
    """Runs one part; its figures. RuntimeError: it failed, with what it said last."""
    command = [sys.executable, "-m", f"benchmarks.{part.name}", *part.arguments, "--json"]
    if small:
        command.append("--small")
    if part.on_broker:
        command += ["--broker", broker]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False)
    lines = done.stdout.splitlines()
    if not lines:
        raise RuntimeError(f"ended with {done.returncode} and no figures; the lines above say why")
    figures: Figures = json.loads(lines[-1])
    if done.returncode or not figures.get("verified", True):
        raise RuntimeError(f"ended with {done.returncode}: {figures.get('findings', 'its output was wrong')}")
    return figures


def compared(broker: str, conditions: str | None, *, small: bool) -> int:
    """The other systems; the comparison keeps its own lines. Answers its exit code."""
    command = [sys.executable, "-m", "benchmarks.compare", "--broker", broker]
    kept = ["--save", *(["--conditions", conditions] if conditions else [])]
    return subprocess.call([*command, *(["--small"] if small else kept)], cwd=ROOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="streams bench all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="smoke tests: nothing is kept")
    parser.add_argument("--broker", help="kafka://host:port (default: one of its own on this machine)")
    parser.add_argument("--conditions", help="what else the machine did, in words (default: its load)")
    names = list(dict.fromkeys(part.name for part in PLAN))
    parser.add_argument("--only", action="append", choices=names, help="this one; may be given several times")
    parser.add_argument("--with-compare", action="store_true", help="and the other systems, on the same broker")
    parser.add_argument("--json", action="store_true", help="the figures as JSON lines on standard output")
    given = parser.parse_args(arguments)
    plan = [part for part in PLAN if not given.only or part.name in given.only]
    for part in plan:
        print(f"{part.minutes:4.0f} min  {part.title}", file=sys.stderr)
    print(f"{sum(part.minutes for part in plan):4.0f} min  altogether, on two quiet cores\n", file=sys.stderr)
    failed = []
    with measure.kafka(given.broker) as broker:
        for part in plan:
            print(f"== {part.title}", file=sys.stderr)
            began = time.monotonic()
            try:
                figures = call(part, broker, small=given.small)
            except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                failed.append(f"{part.title}: {error}")
                print(failed[-1], file=sys.stderr)
                continue
            if given.json:
                print(json.dumps(figures))
            if not given.small:
                # A benchmark that ran workers gives a run for each of them.
                measure.append_lines(figures.get("runs") or [figures], given.conditions)
            print(f"== {part.title}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        if given.with_compare and compared(broker, given.conditions, small=given.small):
            failed.append("compare: the lines above say why; `streams bench compare --save` goes on there")
    print("\n".join(["", f"{len(plan)} parts, {len(failed)} failed", *failed]), file=sys.stderr)
    if not given.small:
        print("streams bench report --write: the page of plots, and the README's figures", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
