"""How many instructions the kernel takes for a fixed input, held to `.ci/instructions.json`: more than 5 % above fails.

    python .ci/instructions.py            # count and compare; exit 1 where a case takes more than 5 % above
    python .ci/instructions.py --write    # the counts of this tree become the baseline: commit it with its reason

Time is noise on a shared machine; instructions are the same each time. callgrind counts what is inside `measured` of
`streams/native/kernel/examples/instructions.rs`. Counts of two compilers compare with nothing: where this one is not
the baseline's, the commit that wrote the baseline is built and counted anew, and the head is held to that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / ".ci" / "instructions.json"
NATIVE = "streams/native"
GROWTH_MAX = 0.05
"""Below it lies what a compiler does differently for a reason that has nothing to do with the change."""
TIMEOUT_S = 900
"""A whole build of the kernel on busy cores takes a few minutes; counting takes a second a case."""
# The C library picks its memcpy by the processor; one that every processor has makes counts of two machines equal.
TUNABLES = "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-ERMS,-FSRM,-SSSE3,-SSE4_1,-SSE4_2,-XSAVEC,-XSAVE"

Figures = dict[str, Any]


class CountError(RuntimeError):
    """Something that counting needs is not there; the message says what."""


def measure(source: Path, target: Path) -> Figures:
    """Compiler, hash of the input, and the count of each case, of the kernel in one tree."""
    cargo = ["cargo", "--locked", "build", "--release", "--quiet", "--package", "streams-kernel", "--example"]
    _output([*cargo, "instructions"], cwd=source / NATIVE, environment={"CARGO_TARGET_DIR": str(target)})
    program = target / "release" / "examples" / "instructions"
    input_hash, *cases = _output([str(program)]).split()
    return {"compiler": compiler(), "input": input_hash, "counts": {case: _count(program, case) for case in cases}}


def compiler() -> str:
    """What decides about counts besides the source: the compiler, its LLVM and the target."""
    said = dict(re.findall(r"^([\w -]+): (.+)$", _output(["rustc", "-vV"]), flags=re.MULTILINE))
    return f"rustc {said['release']} ({said['commit-hash'][:9]}), LLVM {said['LLVM version']}, {said['host']}"


def compare(base: Mapping[str, int], head: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """A line per case of the head, and of these the ones that grew too much."""
    lines, grown = [], []
    for case, count in head.items():
        before = base.get(case)
        growth = f"{count / before - 1:+.2%}" if before else "new"
        lines.append(f"{case:14} {count:14,} {growth:>9}")
        if before and count > before * (1 + GROWTH_MAX):
            grown.append(lines[-1])
    return lines, grown


def base_for(baseline: Figures, head: Figures) -> Mapping[str, int]:
    """The counts that the head is held to: the baseline's, or those of its commit by this compiler."""
    if baseline["input"] != head["input"]:
        raise CountError(
            f"the input is {head['input']}, the baseline's {baseline['input']}: counts of two inputs compare with "
            "nothing; write the baseline anew in the commit that changed the input, and nothing else"
        )
    if baseline["compiler"] == head["compiler"]:
        counts: Mapping[str, int] = baseline["counts"]
        return counts
    print(f"the baseline is of {baseline['compiler']}: its commit is counted anew")
    return _counted_anew(head)


def _counted_anew(head: Figures) -> Mapping[str, int]:
    name = str(BASELINE.relative_to(ROOT))
    commit = _output(["git", "log", "-1", "--format=%H", "--", name]).strip()
    if not commit:
        raise CountError(f"no commit of {name} in this clone: git fetch --unshallow")
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        base, archive = Path(folder) / "base", Path(folder) / "base.tar"
        _output(["git", "archive", f"--output={archive}", commit, "--", NATIVE])
        with tarfile.open(archive) as packed:
            packed.extractall(base, filter="data")
        counted = measure(base, Path(folder) / "target")
    if counted["input"] != head["input"]:
        raise CountError(f"commit {commit[:9]} has input {counted['input']}, the head {head['input']}")
    counts: Mapping[str, int] = counted["counts"]
    return counts


def _count(program: Path, case: str) -> int:
    said = _output(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=instructions::measured*",
         str(program), case],
        environment={"GLIBC_TUNABLES": TUNABLES},
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", said)
    if found is None or not int(found[1]):
        raise CountError(f"callgrind counted nothing in case {case}: is there a function `measured`?\n{said[-2000:]}")
    return int(found[1])


def _output(command: Sequence[str], cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    """What a command says on both streams."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CountError(f"{command[0]} is not installed: apt-get install {command[0]}") from None
    if done.returncode != 0:
        raise CountError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make the counts of this tree the baseline")
    given = parser.parse_args(arguments)
    try:
        head = measure(ROOT, Path(os.environ.get("CARGO_TARGET_DIR", ROOT / NATIVE / "target")))
        if given.write:
            BASELINE.write_text(json.dumps(head, indent=2) + "\n")
            print("\n".join(compare({}, head["counts"])[0]))
            return 0
        lines, grown = compare(base_for(json.loads(BASELINE.read_text()), head), head["counts"])
    except CountError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"instructions of the kernel, {head['compiler']}, input {head['input']}", *lines, sep="\n")
    if grown:
        print(f"\nmore than {GROWTH_MAX:.0%} above the baseline:", *grown, sep="\n")
        print("Make it cheaper; or, where it is worth its price, python .ci/instructions.py --write, and say so.")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
