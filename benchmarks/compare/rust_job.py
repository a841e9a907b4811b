"""What the job alone costs in pure Rust, without Kafka: the yardstick that the product's kernel is held to.

python -m benchmarks.compare.rust_job            # the canonical workload, five times: one JSON object
python -m benchmarks.compare.rust_job --small
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.compare import environment, replay
from benchmarks.workload import CANONICAL, SMALL, Workload, blocks

_LENGTH = struct.Struct(">I")
RUN_TIMEOUT_S = 120
"""A million events take two seconds."""


def run(workload: Workload, times: int = measure.REPETITIONS) -> dict[str, Any]:
    """Wall and CPU µs per event of `times` passes, each over an empty state. Raises UnavailableError without cargo."""
    command = environment.rust_loop()
    with tempfile.TemporaryDirectory(dir=environment.CACHE) as folder:
        events = Path(folder) / "events"
        with events.open("wb") as file:
            for block in blocks(workload):
                for index in range(len(block)):
                    value = block.value(index) or b""
                    file.write(_LENGTH.pack(len(value)) + value)
        passes = [
            json.loads(subprocess.check_output([*command, "job", events], timeout=RUN_TIMEOUT_S))
            for _ in range(times)
        ]  # fmt: skip
    return {
        "benchmark": "rust_job",
        "verified": {each["patches"] for each in passes} == {replay.expected(workload).patches},
        "events": workload.events,
        "us_per_event": measure.spread(each["us_per_event"] for each in passes),
        "cpu_us_per_event": measure.spread(each["cpu_us_per_event"] for each in passes),
        "machine": measure.machine(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="50,000 events")
    figures = run(SMALL if parser.parse_args(arguments).small else CANONICAL)
    print(json.dumps(figures))
    return 0 if figures["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
