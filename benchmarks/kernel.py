"""What does the kernel cost per event, and where does it go?

    streams bench kernel
    streams bench kernel --small --json

The canonical workload through one native table, one partition, in chunks and transactions of the product's size: no
Kafka, no Faust, one thread. `process` is what the sync agent calls per chunk; `changelog` and `commit` what a
transaction adds. The stages inside `process` come from four variants of one chunk, each of which ends a stage later:
records that only get their key, events that were seen already, events that change nothing, events whose changes are
all ignored, and the real thing; a stage is the difference between two. Two programs in Rust stand beside it (built by
cargo; not in the small form): the same loop over the same kernel without Python, which shows what the bindings cost,
and the job written anew with nothing of the product. Patches are held against a plain replay.

What the figures do not show: other messages (see `scaling`), and two cores at work on one memory bus.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from benchmarks import measure
from benchmarks.measure import Figures
from benchmarks.workload import CANONICAL, HEADERS, SMALL, Check, Workload, blocks, expected
from streams._native import Records, Table
from streams.demo.v1.device_pb2 import DeviceState
from streams.kernel.schema import MessageSchema, field_table, fingerprint
from streams.options import ChunkSettings, SyncSettings, TransactionSettings
from streams.sync.agent import make_job
from streams.v1.cloudevents_pb2 import CloudEvent

CHUNK = ChunkSettings().records_max
TRANSACTION = TransactionSettings().records_max
NOW_MS = 1_700_000_000_000
"""The clock of every run: epochs, and with them the patches, are the same bytes each time."""
STAGE_EVENTS = 400_000
"""As many events go before the chunk that is taken apart: every device of the canonical workload has its state then."""
STAGE_ROUNDS = 3
"""A variant is run so often per repetition and the fastest counts: 20,000 events are over in 40 ms."""
SPLIT = ("envelope", "look-up", "row", "diff", "encode")
ALL_FIELDS = [field.name for field in DeviceState.DESCRIPTOR.fields]


def new_table(ignore: Sequence[str] = ()) -> Table:
    """An empty table for devices."""
    schema = MessageSchema(DeviceState, ignore)
    job = make_job(schema, SyncSettings(source="devices"), "devices", partitions=0, record_bytes_max=1 << 20)
    return Table(job, 0)


def chunks(workload: Workload) -> Iterator[Records]:
    """The workload as one partition gives it out: consecutive offsets, chunks of the product's size."""
    offset = 0
    for block in blocks(workload):
        block.assign(offset, NOW_MS)
        offset += len(block)
        for first in range(0, len(block), CHUNK):
            yield block.slice(first, first + CHUNK)


# -- the whole --------------------------------------------------------------------------------------------------------


def whole(workload: Workload, check: Check | None = None) -> tuple[dict[str, float], dict[str, float], str]:
    """One pass over the workload: wall and CPU seconds per call, and the hash of all patches."""
    table = new_table()
    walls, processors = {"process": 0.0, "changelog": 0.0, "commit": 0.0}, {}
    processors.update(walls)
    patches: list[str] = []
    mark = pending = 0

    def call(name: str, work: Callable[[], Any]) -> Any:
        cpu, wall = time.thread_time(), time.perf_counter()
        result = work()
        walls[name] += time.perf_counter() - wall
        processors[name] += time.thread_time() - cpu
        return result

    def end() -> None:
        call("changelog", lambda: table.changelog(0, mark))
        call("commit", lambda: table.commit(mark))

    for chunk in chunks(workload):
        step = call("process", lambda chunk=chunk: table.process(chunk, NOW_MS))
        patches.append(measure.hash_of([step.patches]))
        if check is not None:
            check.add(step.patches)
        mark, pending = step.mark, pending + len(chunk)
        if pending >= TRANSACTION:
            end()
            pending = 0
    if pending:
        end()
    return walls, processors, measure.hash_of(patches)


def whole_cases(workload: Workload, times: int, check: Check, step: measure.Step) -> list[Figures]:
    """The three calls over the whole workload; `check` sees the patches of the last pass."""
    passes = []
    for number in range(times):
        passes.append(whole(workload, check if number == times - 1 else None))
        step()
    hashes = [hashed for _, _, hashed in passes]
    return [
        {
            "case": name,
            **measure.timed(
                workload.events,
                [walls[name] for walls, _, _ in passes],
                [processors[name] for _, processors, _ in passes],
                hashes,
            ),
        }
        for name in passes[0][0]
    ]


# -- the stages -------------------------------------------------------------------------------------------------------


class Variants:
    """One event for each device, in the forms that end at different stages, and the rows that they meet."""

    def __init__(self, workload: Workload, before: int) -> None:
        table = new_table()
        last: dict[bytes, bytes] = {}
        following: dict[bytes, bytes] = {}
        self.offset = 0
        for chunk in chunks(workload):
            if self.offset < before:
                table.commit(table.process(chunk, NOW_MS).mark)
                self.offset += len(chunk)
            elif len(following) == len(last):
                break
            for index in range(len(chunk)):
                key, value = chunk.key(index) or b"", chunk.value(index) or b""
                if chunk.offset(index) < self.offset:
                    last[key] = value
                elif key in last and key not in following and value != last[key]:
                    following[key] = value
        self.rows = _rows(table)
        self.seen = self._chunks((key, last[key]) for key in following)
        self.same = self._chunks((key, renewed(last[key])) for key in following)
        self.next = self._chunks(following.items())
        self.events = len(following)

    def _chunks(self, source: Any) -> list[Records]:
        made: list[Records] = []
        source = iter(source)
        while part := list(islice(source, CHUNK)):
            records = Records()
            for key, value in part:
                records.append(key, value, HEADERS)
            records.assign(self.offset + len(made) * CHUNK, NOW_MS)
            made.append(records)
        return made

    def cost(self) -> tuple[dict[str, float], str]:
        """CPU seconds of each stage, and the hash of the patches that the last variant gives."""
        copied = _fastest(self.next, lambda: lambda chunk: chunk.slice(0, len(chunk)))
        rekeyed = _fastest(self.next, lambda: new_table().rekey)
        seen = _fastest(self.seen, lambda: self._process(()))
        same = _fastest(self.same, lambda: self._process(()))
        ignored = _fastest(self.next, lambda: self._process(ALL_FIELDS))
        real = _fastest(self.next, lambda: self._process(()))
        process = self._process(())
        hashed = measure.hash_of(process(chunk).patches for chunk in self.next)
        ends = [rekeyed - copied, seen, same, ignored, real]
        stages = [end - before for end, before in zip(ends, [0.0, *ends], strict=False)]
        return dict(zip(SPLIT, stages, strict=True)), hashed

    def _process(self, ignore: Sequence[str]) -> Callable[[Records], Any]:
        table = new_table(ignore)
        table.restore(self.rows)
        return lambda chunk: table.process(chunk, NOW_MS)


def _rows(table: Table) -> Records:
    rows = Records()
    keys = table.keys()
    for key in keys:
        rows.append(key, table.get(key))
    return rows


def renewed(value: bytes) -> bytes:
    """The same state in an event of its own."""
    event = CloudEvent.FromString(value)
    event.id = f"{event.id}-again"
    sequence = event.attributes["sequence"]
    sequence.ce_string = str(int(sequence.ce_string) + 1)
    return event.SerializeToString(deterministic=True)


def _fastest(chunks: Sequence[Records], prepare: Callable[[], Callable[[Records], object]]) -> float:
    """CPU seconds of one pass over the chunks: the fewest of some."""
    found = []
    for _ in range(STAGE_ROUNDS):
        work = prepare()
        began = time.thread_time()
        for chunk in chunks:
            work(chunk)
        found.append(time.thread_time() - began)
    return min(found)


def stages(workload: Workload, before: int, times: int, step: measure.Step) -> Figures:
    """CPU µs per event of each stage inside `process`."""
    variants = Variants(workload, before)
    costs, hashes = [], set()
    for _ in range(times):
        cost, hashed = variants.cost()
        costs.append(cost)
        hashes.add(hashed)
        step()
    if len(hashes) != 1:
        raise measure.DifferentResultsError("the same chunk gave different patches")
    per_event = {name: measure.spread(cost[name] / variants.events * 1e6 for cost in costs) for name in SPLIT}
    return {"case": "stages of process", "events": variants.events, "cpu_us_per_event": per_event, "hash": hashes.pop()}


# -- without Python ---------------------------------------------------------------------------------------------------


def fields_text() -> str:
    """The message's field table as the Rust program reads it."""
    lines = [f"{DeviceState.DESCRIPTOR.full_name} {fingerprint(DeviceState.DESCRIPTOR)}"]
    for name, fields in field_table(DeviceState.DESCRIPTOR):
        lines.append(name)
        lines += [" " + " ".join(map(str, field[:6])) for field in fields]
    return "\n".join(lines)


def without_python(workload: Workload, times: int, step: measure.Step) -> Figures:
    """The loop in Rust alone, each time in a process of its own: µs per event of each call, wall time of one thread."""
    program = ["cargo", "--locked", "run", "--release", "--quiet", "--package", "streams-kernel", "--example", "events"]
    found: list[list[str]] = []
    with tempfile.NamedTemporaryFile("w", suffix=".fields") as file:
        file.write(fields_text())
        file.flush()
        arguments = [file.name, str(workload.folder / "events"), str(CHUNK), str(TRANSACTION), str(NOW_MS)]
        for _ in range(times):
            done = subprocess.run(
                [*program, "--", *arguments], cwd=measure.ROOT / "streams" / "native", check=True,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            found.append(done.stdout.split())
            step()
    spans = {name: measure.spread(float(said[at]) / workload.events * 1e6 for said in found)
             for at, name in enumerate(("process", "changelog", "commit"))}  # fmt: skip
    (hashed,) = {said[3] for said in found}
    return {"case": "without Python", "events": workload.events, "us_per_event": spans, "hash": hashed}


def pure_rust(workload: Workload, times: int) -> Figures:
    """The job written anew in Rust, with nothing of the product: no digests, no event ids, no paths below the top."""
    from benchmarks.compare import rust_job

    found = rust_job.run(workload, times)
    if not found["verified"]:
        raise measure.DifferentResultsError("the job in pure Rust gave another number of patches than the replay")
    return {
        "case": "the job in pure Rust",
        **{name: found[name] for name in ("events", "us_per_event", "cpu_us_per_event")},
    }


def run(workload: Workload, times: int, *, small: bool = False) -> Figures:
    """The whole, its stages, and the same without Python."""
    machine, check = measure.machine(), Check(expected(workload))
    before = min(STAGE_EVENTS, workload.events // 2)
    with measure.progress("kernel", (2 if small else 3) * times) as step:
        cases = [*whole_cases(workload, times, check, step), stages(workload, before, times, step)]
        findings = check.findings()
        if not small:
            bare, yardstick = without_python(workload, times, step), pure_rust(workload, times)
            ours = cases[0]["us_per_event"]["median"]
            bare["process_is_times"] = round(ours / bare["us_per_event"]["process"]["median"], 3)
            yardstick["process_is_times"] = round(
                cases[0]["cpu_us_per_event"]["median"] / yardstick["cpu_us_per_event"]["median"], 3
            )
            findings += ["the loop without Python gave other patches"] if cases[0]["hash"] != bare["hash"] else []
            cases += [bare, yardstick]
    return {
        "benchmark": "kernel",
        "small": small,
        "verified": not findings,
        **({"findings": findings} if findings else {}),
        "repetitions": times,
        "seed": workload.seed,
        "chunk_records": CHUNK,
        "transaction_records": TRANSACTION,
        "cases": cases,
        "machine": machine,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    given = measure.parser(__doc__ or "").parse_args(arguments)
    workload = SMALL if given.small else CANONICAL
    return measure.finish(run(workload, measure.repetitions(given), small=given.small), given)


if __name__ == "__main__":
    sys.exit(main())
