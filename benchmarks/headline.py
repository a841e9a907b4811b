"""The two headline figures, in a minute: events/s of one worker process, and its CPU µs per event.

    streams bench
    streams bench --json

Some of the canonical workload through fresh worker processes on the embedded log of this machine: no broker, exactly
once, every commit durable (fsync). The outputs of the first run are held against a plain replay, those of the others
against its counts. Then the same records go through the stages one after the other in a single thread, to say what
each of them costs; what the worker needs beyond their sum is Faust, the event loop and the threads between them.

What the figures do not show: a broker. `streams bench pipeline` measures on Kafka, with the full workload.
"""

from __future__ import annotations

import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure, pipeline
from benchmarks.kernel import CHUNK, NOW_MS, SPLIT, TRANSACTION, new_table, stages
from benchmarks.measure import Figures
from benchmarks.workload import Workload
from streams._native import Records, Table
from streams.transport.log import Log

HEADLINE = Workload(300_000, 6_000)
"""Fifty events a device, as the canonical workload has; all that a minute has room for, generating it included."""
SMALL = Workload(10_000, 200)
STAGES = ("consume", "envelope", "look-up", "diff", "encode", "state write", "compress", "produce", "commit")
GROUP = "stages"


class Split:
    """The stages of one worker in a single thread, over a log that is filled already."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._output = f"split-{uuid.uuid4().hex[:8]}"
        self.seconds = dict.fromkeys((*STAGES, "process", "append"), 0.0)
        self.events = 0
        log.create_topic(f"{self._output}.patches", pipeline.PARTITIONS)
        log.create_topic(f"{self._output}.changelog", pipeline.PARTITIONS, cleanup="compact")

    def pass_through(self) -> None:
        """Every record of the topic through every stage, in transactions of the product's size."""
        tables = [new_table() for _ in range(pipeline.PARTITIONS)]
        positions = [0] * pipeline.PARTITIONS
        while True:
            outputs: list[tuple[int, Records]] = []
            marks: dict[int, int] = {}
            taken = 0
            while taken < TRANSACTION:
                found = self._read(positions)
                if found is None:
                    break
                partition, chunk = found
                step = self._timed("process", lambda t=tables[partition], c=chunk: t.process(c, NOW_MS))
                outputs.append((partition, step.patches))
                marks[partition] = step.mark
                taken += len(chunk)
            if not taken:
                return
            self.events += taken
            self._commit(tables, outputs, marks, positions)

    def _read(self, positions: list[int]) -> tuple[int, Records] | None:
        """The next chunk of the partition that is furthest behind; None: there is none left."""
        for partition in sorted(range(len(positions)), key=positions.__getitem__):
            at = positions[partition]
            chunk = self._timed("consume", lambda p=partition, at=at: self._log.read(self._topic, p, at, CHUNK))
            if len(chunk):
                positions[partition] = chunk.last_offset + 1
                return partition, chunk
        return None

    def _commit(
        self, tables: Sequence[Table], outputs: Iterable[tuple[int, Records]], marks: dict[int, int], at: list[int]
    ) -> None:
        rows = [
            (partition, self._timed("state write", lambda p=partition, mark=mark: tables[p].changelog(0, mark)))
            for partition, mark in marks.items()
        ]
        batches = [
            *((f"{self._output}.patches", partition, _whole(outputs, partition)) for partition in marks),
            *((f"{self._output}.changelog", partition, records) for partition, records in rows),
        ]
        offsets = [(self._topic, partition, offset) for partition, offset in enumerate(at)]
        # Once for itself, and once more inside the append, from which it is then taken away.
        self._timed("compress", lambda: [records.encode() for _, _, records in batches])
        self._timed("append", lambda: self._log.append(batches, GROUP, offsets))
        self._timed("commit", lambda: self._log.append([], GROUP, offsets))
        for partition, mark in marks.items():
            self._timed("state write", lambda p=partition, mark=mark: tables[p].commit(mark))

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        """CPU where a stage computes, wall time where it waits for the disk."""
        clock = time.perf_counter if name in ("append", "commit") else time.thread_time
        began = clock()
        result = work()
        self.seconds[name] += clock() - began
        return result


def _whole(outputs: Iterable[tuple[int, Records]], partition: int) -> Records:
    """The patches of one partition's chunks as one batch, as the ledger writes them."""
    batch = Records()
    for where, records in outputs:
        if where == partition:
            batch.extend(records)
    return batch


def split(broker: str, workload: Workload, times: int, step: measure.Step) -> Figures:
    """µs per event of each stage. What the kernel needs is divided as `streams bench kernel` finds it."""
    found: list[dict[str, float]] = []
    parts = stages(workload, workload.events // 2, times, lambda: None)["cpu_us_per_event"]
    shares = {name: parts[name]["median"] for name in SPLIT}
    whole = sum(shares.values())
    with Log(Path(broker.removeprefix("embedded://")), "full") as log:
        for _ in range(times):
            passed = Split(log, pipeline.source_topic(workload))
            passed.pass_through()
            us = {name: seconds / passed.events * 1e6 for name, seconds in passed.seconds.items()}
            process, append = us.pop("process"), us.pop("append")
            for name in ("envelope", "look-up", "diff", "encode"):
                us[name] = process * shares[name] / whole
            us["state write"] += process * shares["row"] / whole
            us["produce"] = max(append - us["compress"] - us["commit"], 0.0)
            found.append(us)
            step()
    return {name: measure.spread(us[name] for us in found) for name in STAGES}


def run(workload: Workload, times: int, *, small: bool = False) -> Figures:
    """Workers first, while the machine is as it was, then the stages."""
    machine = measure.machine()
    with tempfile.TemporaryDirectory(prefix="streams-bench-") as directory:
        broker = f"embedded://{directory}/log"
        with measure.progress("headline", 2 * times) as step:
            runs = []
            for number in range(times):
                runs.append(pipeline.run(broker, workload, "exactly_once", "memory", checked=number == 0))
                step()
            parts = split(broker, workload, times, step)
    findings = [found for each in runs for found in each.get("findings", ())]
    return {
        "benchmark": "headline",
        "small": small,
        "verified": not findings,
        **({"findings": findings} if findings else {}),
        "repetitions": times,
        "seed": workload.seed,
        "broker": "embedded",
        "guarantee": "exactly_once",
        "events": workload.events,
        "events_per_second": measure.spread((each["events_per_second"] for each in runs), 0),
        "cpu_us_per_event": measure.spread((each["cpu_us_per_event"] for each in runs), 2),
        "us_per_event": measure.spread((each["seconds"] / each["events"] * 1e6 for each in runs), 2),
        "stages_us_per_event": parts,
        "resident_mb": max(each["resident_mb"] for each in runs),
        "hash": runs[0]["hash"],
        "machine": machine,
    }


def show(run: Figures) -> None:
    """The two figures, then where the time goes."""
    rate, cpu = run["events_per_second"], run["cpu_us_per_event"]
    print(f"{measure.described(run['machine'])}; embedded log, exactly once, {run['events']:,} events\n")
    print(f"events/s per worker process   {measure.shown(rate)}")
    print(f"worker CPU µs per event       {measure.shown(cpu)}\n")
    parts = run["stages_us_per_event"]
    for name, us in parts.items():
        print(f"  {name:14} {us['median']:6.2f} µs")
    print(f"  {'sum':14} {sum(us['median'] for us in parts.values()):6.2f} µs, one after the other in one thread\n")
    checked = "outputs are those of a plain replay" if run["verified"] else f"WRONG: {run['findings']}"
    print(f"{run['repetitions']} repetitions; {checked}. No broker took part: `streams bench pipeline` is on Kafka.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = measure.parser(__doc__ or "").parse_args(arguments)
    workload = SMALL if given.small else HEADLINE
    return measure.finish(run(workload, measure.repetitions(given), small=given.small), given, show=show)


if __name__ == "__main__":
    sys.exit(main())
