"""The comparison's command line; see the package for what is compared."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import compare, measure, pipeline
from benchmarks.compare import replay, sitting
from benchmarks.compare.environment import CACHE, UnavailableError
from benchmarks.compare.run import RunError, run
from benchmarks.compare.sitting import ROUNDS, SLOW_EVENTS, SLOW_EVENTS_PER_SECOND, TRIAL, Line, Sitting, Turn
from benchmarks.compare.systems import SMALL as SMALL_SYSTEMS
from benchmarks.compare.systems import SYSTEMS, System
from benchmarks.workload import CANONICAL, SMALL

BENCHMARK = "compare"
SITTING = CACHE / "sitting.jsonl"
RESULTS = measure.RESULTS / "side_by_side.jsonl"
MINUTES = 45
TIME_OVER = 3
BY_ID = {system.id: system for system in SYSTEMS}


def conditions(broker: str | None, rounds: int, besides: str | None) -> str:
    """Under what the figures are measured, in one sentence; said before anything is."""
    where = f"the broker at {broker}" if broker else "a broker of its own (Apache Kafka 4.1, one node, loopback)"
    return "; ".join([
        f"one worker process per system, {CANONICAL.events:,} events of {CANONICAL.devices:,} devices in "
        f"{pipeline.PARTITIONS} partitions",
        f"all cores shared with {where}",
        f"{rounds} round{'' if rounds == 1 else 's'} in turn in one sitting, each round in another order",
        f"a system slower than {SLOW_EVENTS_PER_SECOND:,} events/s gets the first {SLOW_EVENTS:,} events",
        "every output held against a plain replay",
        besides or "what else the machine did is not known, the load before each run is",
    ])  # fmt: skip


def line_of(system: System, turn: Turn, head: Line, figures: Line) -> Line:
    """A run as it is kept: what it was, then what it came to."""
    is_prefix = turn.workload.events < CANONICAL.events
    return {
        **head,
        "benchmark": BENCHMARK,
        "id": system.id,
        "system": system.title + (f", first {turn.workload.events:,} events" if is_prefix else ""),
        "guarantee": system.guarantee,
        "state": system.state,
        "round": turn.round,
        "prefix": is_prefix,
        **figures,
    }


def small(broker: str) -> list[Line]:
    """Ours and the hand-written loop once on the small workload: that they run, and that the check is right."""
    head = {"commit": measure.commit(), "conditions": "the small form, a smoke test", "machine": measure.machine()}
    turns = [Turn(name, 1, SMALL) for name in SMALL_SYSTEMS]
    return [line_of(BY_ID[turn.system], turn, head, run(BY_ID[turn.system], broker, SMALL)) for turn in turns]


def prepare(sat: Sitting, broker: str) -> None:
    """Makes environments, topics and replays that are not there yet, so that no run waits for them."""
    for system in sat.systems:
        try:
            BY_ID[system].command()
        except UnavailableError as error:
            print(f"{system}: {error}", file=sys.stderr)
    for workload in {sat.workload_for(system, number) for system in sat.systems for number in (TRIAL, 1)}:
        pipeline.ensure_source(workload, broker)
        replay.expected(workload)


def sit(sat: Sitting, broker: str, keep: Callable[[Line], None], until_s: float) -> None:
    """Makes the runs that are left, until there are none or the time is over; says each on standard error."""
    for turn in sat.turns():
        if time.monotonic() > until_s:
            print("the time is over; run it again and it goes on here", file=sys.stderr)
            return
        load = measure.machine()["load_at_start"]
        try:
            figures = run(BY_ID[turn.system], broker, turn.workload)
        except (RunError, UnavailableError) as error:
            figures = {"failed": str(error), "verified": False}
        line = line_of(BY_ID[turn.system], turn, sat.conditions, {**figures, "load": load})
        sat.add(line)
        keep(line)
        place = f"round {turn.round} of {sat.rounds}" if turn.round else "trial"
        print(f"{place}: {line['system']}: {_said(line)}", file=sys.stderr, flush=True)


def _said(line: Line) -> str:
    if "failed" in line:
        return f"failed: {line['failed']}"
    findings = "".join(f"\n    {finding}" for finding in line.get("findings", ()))
    return (
        f"{line['events_per_second']:,} events/s, {line['cpu_us_per_event']} µs, verified: {line['verified']}{findings}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0: all is done and right, 1: an output was wrong or a system failed, 3: the time was over."""
    parser = argparse.ArgumentParser(
        prog="streams bench compare", description=compare.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="ours and the hand-written loop, a smoke test")
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    parser.add_argument("--broker", help="kafka://host:port (default: one of its own on this machine)")
    parser.add_argument("--only", nargs="+", choices=sorted(BY_ID), metavar="ID", help=f"of {', '.join(BY_ID)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"after the trial (default: {ROUNDS})")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"begin no run after so long (default: {MINUTES})"
    )
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted sitting")
    parser.add_argument(
        "--save", action="store_true", help=f"keep a complete sitting in benchmarks/results/{RESULTS.name}"
    )
    parser.add_argument("--conditions", help="what else the machine did, in words")
    given = parser.parse_args(arguments)
    if given.small:
        with measure.kafka(given.broker) as broker:
            return _shown(small(broker), given.json)
    sat = _begun(given)
    keep = sitting.keeper(SITTING, sat)
    print(f"{sat.conditions['conditions']}\n{measure.described(measure.machine())}", file=sys.stderr, flush=True)
    with measure.kafka(given.broker) as broker:
        prepare(sat, broker)
        sit(sat, broker, keep, time.monotonic() + given.minutes * 60)
    code = _shown(sat.lines, given.json)
    if not sat.is_complete:
        return TIME_OVER
    if given.save:
        save(sat, RESULTS)
    return code


def _begun(given: argparse.Namespace) -> Sitting:
    """The sitting that was interrupted, or a new one."""
    machine = measure.machine()
    del machine["load_at_start"]  # it has no part in whether a sitting is the same; each run has its own
    head = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": measure.commit(),
        "conditions": conditions(given.broker, given.rounds, given.conditions),
        "machine": machine,
    }
    ours = next(system.id for system in SYSTEMS if system.ours)
    names = [system.id for system in SYSTEMS if not given.only or system.id in (ours, *given.only)]
    new = Sitting(head, names, CANONICAL, given.rounds, {system.id for system in SYSTEMS if system.whole})
    return new if given.fresh else sitting.resumed(SITTING, new)


def _shown(lines: Sequence[Line], as_json: bool) -> int:
    verified = all(line["verified"] for line in lines)
    if as_json:
        print(json.dumps({"benchmark": BENCHMARK, "verified": verified, "runs": list(lines)}))
    else:
        print("\n".join(sitting.table(lines)))
    return 0 if verified else 1


def save(sat: Sitting, path: Path) -> None:
    """Appends the runs that count, ours first."""
    counted = [line for line in sat.lines if line["verified"] and line["round"] != TRIAL]
    counted.sort(key=lambda line: (sat.systems.index(line["id"]), line["round"]))
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in counted)
    print(f"{len(counted)} runs kept in {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
