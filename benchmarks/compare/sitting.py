"""Which runs a sitting consists of, in which order, on how many events, and where it goes on after an interruption.

Nothing here waits or measures. A sitting is a file of JSON lines: its conditions, then one line per run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload

ROUNDS = 3
SLOW_EVENTS_PER_SECOND = 10_000
"""At that a million events take 100 s, and a round of such systems a quarter of an hour."""
SLOW_EVENTS = 50_000
TRIAL = 0
"""Round in which every system first shows, on the first events, that it works and how fast it is; it counts nowhere."""

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One run that is to be made."""

    system: str
    round: int
    workload: Workload


@dataclass
class Sitting:
    """The runs of one sitting: those that are made, and those that are still to be made."""

    conditions: Line
    systems: Sequence[str]
    workload: Workload
    rounds: int = ROUNDS
    # Systems that get the whole workload whatever their trial says.
    whole: Collection[str] = ()
    lines: list[Line] = field(default_factory=list)

    def turns(self) -> Iterator[Turn]:
        """What is to be made next, again and again until nothing is left; give each result to `add` before the next."""
        for number in range(TRIAL, self.rounds + 1):
            for system in self._order(number):
                if self.failed(system) or self._made(system, number):
                    continue
                yield Turn(system, number, self.workload_for(system, number))

    def add(self, line: Line) -> None:
        """Takes the result of a turn: a line with `id` and `round`."""
        self.lines.append(line)

    def workload_for(self, system: str, number: int) -> Workload:
        """The whole workload, or its first events: in the trial, and where the trial says that the system is slow."""
        first = replace(self.workload, events=min(SLOW_EVENTS, self.workload.events))
        if number == TRIAL:
            return first
        trials = [line for line in self.lines if line["id"] == system and line["round"] == TRIAL]
        is_slow = any(line["events_per_second"] < SLOW_EVENTS_PER_SECOND for line in trials)
        return first if is_slow and system not in self.whole else self.workload

    def failed(self, system: str) -> bool:
        """Whether a system could not do the job in this sitting; it is asked again when the sitting is resumed."""
        return any(line["id"] == system and "failed" in line for line in self.lines)

    @property
    def is_complete(self) -> bool:
        """Whether every system has done what it can."""
        return next(self.turns(), None) is None

    def _made(self, system: str, number: int) -> bool:
        return any((line["id"], line["round"]) == (system, number) for line in self.lines)

    def _order(self, number: int) -> Sequence[str]:
        """Each round begins with another system, so that none always runs behind the same one."""
        shift = number * len(self.systems) // (self.rounds + 1)
        return [*self.systems[shift:], *self.systems[:shift]]


def resumed(path: Path, sitting: Sitting) -> Sitting:
    """The sitting with the runs that its file has, if that was made under the same conditions and is not complete."""
    try:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return sitting
    if head != {**sitting.conditions, "systems": list(sitting.systems)}:
        return sitting
    found = replace(sitting, lines=[line for line in lines if "failed" not in line])
    return sitting if found.is_complete else found


def keeper(path: Path, sitting: Sitting) -> Callable[[Line], None]:
    """Writes the file anew with what the sitting has; what it returns appends a line to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {**sitting.conditions, "systems": list(sitting.systems)}
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *sitting.lines]), encoding="utf-8")

    def keep(line: Line) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    return keep


def table(lines: Sequence[Line]) -> list[str]:
    """The runs of one sitting as a Markdown table: medians of the verified, the first system against the others."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line["verified"] and line["round"] != TRIAL:
            found.setdefault(line["id"], []).append(line)
    medians = {
        name: [statistics.median(run[figure] for run in runs) for figure in ("events_per_second", "cpu_us_per_event")]
        for name, runs in found.items()
    }
    rows = ["| system | events/s | we are | CPU µs per event |", "|---|---|---|---|"]
    ours = lines[0]["id"] if lines and lines[0]["id"] in found else None
    for name in sorted(found, key=lambda name: -medians[name][0]):
        rate, cpu = medians[name]
        ratio = "" if ours is None or name == ours else f"{medians[ours][0] / rate:.1f} times"
        rows.append(f"| {found[name][0]['system']} | {rate:,.0f} | {ratio} | {cpu:.1f} |")
    return rows
