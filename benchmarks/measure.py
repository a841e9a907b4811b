"""What every benchmark shares: repetitions and their spread, the machine, the broker, and the lines in `results/`.

A figure is never one number: work is done several times, and minimum, median and maximum are shown, wall time beside
the CPU time of the whole process. Work returns something that is hashed, so that nothing of it can be left out, and
that has to be the same each time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from streams._native import Records, keep_freed_memory, xxh3_64
from streams.demo.progress import Steps

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = "runs.jsonl"

REPETITIONS = 5
SMALL_REPETITIONS = 2
"""Two, so that the comparison of their hashes is part of the smoke test."""
ADMIN_TIMEOUT_MS = 30_000

Step = Callable[[], None]
Figures = dict[str, Any]


class DifferentResultsError(RuntimeError):
    """The same work gave two results: whatever was measured, it was not that work."""


# -- repetitions ------------------------------------------------------------------------------------------------------


def spread(values: Iterable[float], digits: int = 3) -> dict[str, float]:
    """Minimum, median and maximum, the three figures of everything measured."""
    found = sorted(values)
    return {
        "minimum": round(found[0], digits),
        "median": round(statistics.median(found), digits),
        "maximum": round(found[-1], digits),
    }


def repeat(prepare: Callable[[], Callable[[], Any]], units: int, times: int, step: Step) -> Figures:
    """Does work `times` times: events per second, and µs per event of wall and of CPU time; a hash of what came out.

    `prepare` makes everything anew and returns what is timed; that returns a number or bytes, the same each time.
    CPU time is that of all threads of this process. `units`: how many events one repetition is.
    """
    walls, processors, results = [], [], []
    for _ in range(times):
        work = prepare()
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - cpu)
        results.append(hash_of([result]))
        step()
    return timed(units, walls, processors, results)


def timed(units: int, walls: Sequence[float], processors: Sequence[float], results: Sequence[str]) -> Figures:
    """The figures of repetitions that were timed elsewhere. DifferentResultsError: their results are not the same."""
    if len(set(results)) != 1:
        raise DifferentResultsError(
            f"{len(results)} repetitions of the same work gave {len(set(results))} different results"
        )
    return {
        "events": units,
        "events_per_second": spread((units / max(wall, 1e-9) for wall in walls), 0),
        "us_per_event": spread(wall / units * 1e6 for wall in walls),
        "cpu_us_per_event": spread(cpu / units * 1e6 for cpu in processors),
        "hash": results[0],
    }


def hash_of(parts: Iterable[object]) -> str:
    """One hash of many results, their order included: bytes and records by content, everything else by its text."""
    hashed = 0
    for part in parts:
        whole = part.encode() if isinstance(part, Records) else part
        content = whole if isinstance(whole, bytes) else str(whole).encode()
        hashed = xxh3_64(hashed.to_bytes(8, "big") + content)
    return f"{hashed:016x}"


# -- where it runs ----------------------------------------------------------------------------------------------------


def machine() -> Figures:
    """What the figures were measured on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "memory_gb": round(memory / 1024 / 1024),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def described(found: Figures) -> str:
    """A machine in one line; the oldest runs that are kept say less of theirs."""
    known = [
        found["cpu"],
        f"{found['cores']} cores",
        *([f"{found['memory_gb']} GB"] if "memory_gb" in found else []),
        f"Python {found['python']}",
        *([found["system"]] if "system" in found else []),
        *([f"load {found['load_at_start']} at the start"] if "load_at_start" in found else []),
    ]
    return ", ".join(known)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def peak_mb() -> int:
    """The most memory this process has had so far. Not `ru_maxrss`: that begins with what the parent had."""
    status = next(line for line in _lines("/proc/self/status") if line.startswith("VmHWM"))
    return int(status.split()[1]) >> 10


def servers(broker: str) -> str:
    """The broker's address without our scheme, as librdkafka wants it."""
    return broker.removeprefix("kafka://")


@contextlib.contextmanager
def kafka(given: str | None) -> Iterator[str]:
    """The broker that was named, or one of its own on this machine for as long as the block runs."""
    if given is not None:
        yield given
        return
    from tests.broker import Broker, BrokerError

    with tempfile.TemporaryDirectory(prefix="streams-bench-kafka-", ignore_cleanup_errors=True) as directory:
        broker = Broker(Path(directory))
        try:
            broker.start()
        except BrokerError as error:
            raise SystemExit(f"{error}\nor name one: --broker kafka://host:port") from None
        try:
            yield broker.url
        finally:
            broker.stop()


@contextlib.contextmanager
def progress(name: str, total: int) -> Iterator[Step]:
    """A bar on standard error, or a line now and then where nobody looks; call what it gives once for each step."""
    done = 0
    with Steps(Console(stderr=True), {name: total}) as steps:
        show = steps.counter(name)

        def step() -> None:
            nonlocal done
            done += 1
            show(done)

        yield step


async def serve_until_told(app: Any) -> None:
    """Runs an app, says `ready` on standard output when it is, and stops it when standard input ends."""
    keep_freed_memory()  # as `streams worker` does
    serving = asyncio.create_task(app.serve(lambda: print("ready", flush=True)))
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def child(module: str, arguments: Sequence[str], timeout_s: float) -> Figures:
    """Runs a benchmark's module as a process of its own; the last line it prints is its figures as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{module} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    sys.stderr.write(done.stderr)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


# -- command line and results -----------------------------------------------------------------------------------------


def parser(doc: str, *, broker: bool = False) -> argparse.ArgumentParser:
    """The options that all benchmarks have; `broker`: it measures on Kafka."""
    name = Path(sys.argv[0]).stem
    made = argparse.ArgumentParser(
        prog="streams bench" if name == "headline" else f"streams bench {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--small", action="store_true", help="a smoke test of some seconds, no figure")
    made.add_argument("--json", action="store_true", help="one object instead of a table")
    made.add_argument("--repetitions", type=int, help=f"how often each case is measured (default: {REPETITIONS})")
    made.add_argument("--save", action="store_true", help=f"keep the run as a line of benchmarks/results/{RUNS}")
    made.add_argument("--conditions", help="with --save: what else the machine did, in words (default: its load)")
    if broker:
        made.add_argument("--broker", help="kafka://host:port (default: one of its own on this machine)")
    return made


def repetitions(given: argparse.Namespace) -> int:
    """How often each case is measured."""
    return int(given.repetitions or (SMALL_REPETITIONS if given.small else REPETITIONS))


def finish(run: Figures, given: argparse.Namespace, *, show: Callable[[Figures], None] | None = None) -> int:
    """Prints a run, keeps it where that was asked for, and answers the exit code: 1 where its output was wrong.

    A run has `benchmark`, `verified`, and either its figures or `cases`, one set of figures each.
    """
    if given.save:
        keep([run], given)
    if given.json:
        print(json.dumps(run))
    else:
        (show or table)(run)
    return 0 if run["verified"] else 1


def keep(runs: Sequence[Figures], given: argparse.Namespace) -> None:
    """Appends runs to the results. A small form is no figure, and output that was wrong is none either."""
    if given.small:
        raise SystemExit("--save: the small form measures nothing; leave --small away")
    append_lines([run for run in runs if run["verified"]], given.conditions)


def append_lines(runs: Sequence[Figures], conditions: str | None) -> None:
    """One line of `results/` for each run, stamped."""
    stamp = stamped(conditions)
    with (RESULTS / RUNS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({**stamp, **run}) + "\n" for run in runs)


def stamped(conditions: str | None) -> Figures:
    """When, at which commit and under which conditions a run was made."""
    load = f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores when it was kept; nothing else is known"
    return {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "conditions": conditions or load}


def commit() -> str:
    """The checkout's commit, with a plus where the product was changed since."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "streams", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+" if changed else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(run: Figures) -> None:
    """A run for people: the machine, then a line per case; figures as minimum, median, maximum."""
    print(f"{run['benchmark']}: {described(run['machine'])}")
    if run.get("note"):
        print(run["note"])
    for case in run.get("cases", ()):
        print(f"\n{case['case']}")
        for name, value in case.items():
            if name != "case":
                print(f"  {name:24} {shown(value)}")
    print(f"\nverified: {run['verified']}; {run.get('repetitions', 1)} repetitions")


def shown(value: object) -> str:
    """One figure for people."""
    if isinstance(value, dict) and value.keys() == {"minimum", "median", "maximum"}:
        return "  ".join(f"{name} {number(value[name])}" for name in ("minimum", "median", "maximum"))
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(each)}" for name, each in value.items())
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def number(value: float) -> str:
    """A number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.2f}"
