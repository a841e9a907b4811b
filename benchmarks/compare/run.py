"""One run of one system: fresh topics, a process of its own, timed and checked from outside; nothing stays behind.

Every system is timed by the same clock in the same way: from the line `first`, which its program prints when it has
received the first event, to the line `done`, when every output is acknowledged and the input's offsets are committed.
CPU time is what the kernel has counted for the process between the two, all threads.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks import pipeline
from benchmarks.compare import environment, replay
from benchmarks.compare.systems import System
from benchmarks.measure import ADMIN_TIMEOUT_MS, servers
from benchmarks.workload import Workload
from streams._native import KafkaAdmin, KafkaConsumer
from streams.transport.tail import read_to_end

FIRST_TIMEOUT_S = 120
"""Kafka Streams takes up to 20 s to its first event, Pathway's imports 15 s; busy cores make it several times that."""
DONE_TIMEOUT_S = 300
"""A million events at the 10,000 a second, below which a system gets fewer, are 100 s; three times that is a hang."""
END_TIMEOUT_S = 10
POLL_S = 0.02
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
ERROR_CHARACTERS = 2000

Figures = dict[str, Any]


class RunError(RuntimeError):
    """A system did not do the job; the message has what it said."""


def run(system: System, broker: str, workload: Workload) -> Figures:
    """The figures of one run, with what is wrong in its output if anything is. Raises RunError and UnavailableError."""
    command = system.command()
    source = pipeline.ensure_source(workload, broker)
    # The replay is made before the run, not in the cores' way.
    wanted = replay.expected(workload)
    group = f"compare-{system.id}-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdmin({"bootstrap.servers": servers(broker)})
    output = f"{group}.patches"
    for name, error in admin.create_topics([(output, pipeline.PARTITIONS, 1, {})], ADMIN_TIMEOUT_MS):
        if error is not None:
            raise RunError(f"topic {name} was not created: {error}")
    environment.CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{group}-", dir=environment.CACHE))
    try:
        task = [servers(broker), source, output, group, str(workload.events), str(_made(folder / "state"))]
        with (folder / "log").open("wb") as log:
            timed = _timed([*command, *task, *system.extra], log, _Goal(broker, output, wanted.patches, system.endless))
        findings = _findings(system, broker, output, workload)
    except _EndedError as error:
        said = (folder / "log").read_text(errors="replace")[-ERROR_CHARACTERS:]
        raise RunError(f"{system.id} {error}:\n{said}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        left = [name for name in admin.topics(ADMIN_TIMEOUT_MS) if group in name]
        admin.delete_topics(left, ADMIN_TIMEOUT_MS)
    seconds = timed["seconds"]
    return {
        "events": workload.events,
        "events_per_second": round(workload.events / seconds),
        "cpu_us_per_event": round(timed["cpu_seconds"] / workload.events * 1e6, 2),
        "seconds": round(seconds, 3),
        "start_seconds": round(timed["start_seconds"], 2),
        "resident_mb": timed["resident_mb"],
        "verified": not findings,
        **({"findings": findings} if findings else {}),
    }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _findings(system: System, broker: str, output: str, workload: Workload) -> list[str]:
    if system.ours:
        return pipeline.verify(broker, output, workload)
    check = replay.Check(replay.expected(workload))
    start = {(output, partition): 0 for partition in range(pipeline.PARTITIONS)}
    config = {"bootstrap.servers": servers(broker)}
    read_to_end(config, start, lambda _, partition, records: check.add(records), lambda: True, "compare")
    return check.findings()


class _Mark(NamedTuple):
    """A line of a program, or the end of its output (empty), and what the process had used when it came."""

    said: str
    now_s: float
    cpu_s: float = 0.0
    resident_mb: int = 0


_Marks = queue.SimpleQueue[_Mark]


class _EndedError(Exception):
    """The process ended early, or took too long."""


class _Goal:
    """Whether a system that does not end by itself has put out everything."""

    def __init__(self, broker: str, output: str, patches: int, endless: bool) -> None:
        self.output = output
        self.patches = patches
        config = {"bootstrap.servers": servers(broker), "group.id": "compare"}
        self.reader = KafkaConsumer(config) if endless else None

    def reached(self) -> bool:
        """Without transactions the ends of the partitions are the number of records."""
        if self.reader is None:
            return False
        ends = (self.reader.watermarks(self.output, each, ADMIN_TIMEOUT_MS)[1] for each in range(pipeline.PARTITIONS))
        return sum(ends) >= self.patches

    def close(self) -> None:
        """Lets go of the broker."""
        if self.reader is not None:
            self.reader.close()


def _timed(command: list[str], log: IO[bytes], goal: _Goal) -> Figures:
    """Runs a program until it is done, and ends it."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=environment.ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    marks: _Marks = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, marks, log), daemon=True)
    reader.start()
    try:
        first = _wait("first", process, marks, FIRST_TIMEOUT_S, None)
        done = _wait("done", process, marks, DONE_TIMEOUT_S, goal)
        return {
            "start_seconds": first.now_s - began,
            "seconds": done.now_s - first.now_s,
            "cpu_seconds": done.cpu_s - first.cpu_s,
            "resident_mb": done.resident_mb,
        }
    finally:
        _end(process)
        reader.join(END_TIMEOUT_S)
        goal.close()


def _read(process: subprocess.Popen[bytes], marks: _Marks, log: IO[bytes]) -> None:
    """Notes the marks as they come; everything else that is said goes to the log."""
    assert process.stdout is not None
    for line in process.stdout:
        now_s = time.monotonic()
        said = line.decode(errors="replace").strip()
        if said in ("first", "done"):
            marks.put(_Mark(said, now_s, _cpu_s(process.pid), _resident_mb(process.pid)))
        else:
            log.write(line)
            log.flush()
    process.stdout.close()
    marks.put(_Mark("", time.monotonic()))


def _wait(wanted: str, process: subprocess.Popen[bytes], marks: _Marks, timeout_s: float, goal: _Goal | None) -> _Mark:
    """Waits for a mark, or for the goal where the program gives none."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            mark = marks.get(timeout=POLL_S)
        except queue.Empty:
            if goal is not None and goal.reached():
                return _Mark(wanted, time.monotonic(), _cpu_s(process.pid), _resident_mb(process.pid))
            continue
        if mark.said == wanted:
            return mark
        if not mark.said:
            raise _EndedError(f"ended with {process.wait(END_TIMEOUT_S)} before it said {wanted!r}")
    raise _EndedError(f"did not say {wanted!r} within {timeout_s} s")


def _cpu_s(pid: int) -> float:
    """User and system time of a process that nobody has waited for yet, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def _resident_mb(pid: int) -> int:
    """The most memory that a process ever had; 0 where it has ended already."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its outputs are complete: how it leaves is not measured."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
