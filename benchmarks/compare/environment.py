"""Where the systems run: an environment of its own for each, in `.cache/compare/`, made when it is first asked for.

Python packages into virtual environments, Kafka Streams by Maven, the pure-Rust loop by cargo. What was made is kept
beside a mark of what it was made from, and made anew when that changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "compare"
PROTOS = ("streams/v1/cloudevents.proto", "streams/v1/patch.proto", "streams/demo/v1/device.proto")

# The same runtime for every program in Python, so that they differ in their system alone.
PROTOBUF = "protobuf==6.33.6"
JAVA_HEAP = "1g"
BUILD_TIMEOUT_S = 1800
"""The largest, Pathway's 1.6 GB, took four minutes; librdkafka with the pure-Rust loop takes three."""
ERROR_CHARACTERS = 2000


class UnavailableError(RuntimeError):
    """A system cannot be run here; the message says what is missing."""


def python(name: str, packages: Sequence[str]) -> list[str]:
    """The interpreter of a virtual environment that holds these packages."""
    folder = CACHE / f"venv-{name}"
    interpreter = folder / "bin" / "python"

    def make() -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _run([
            sys.executable, "-m", "pip", "--python", str(interpreter), "--disable-pip-version-check", "install",
            "--quiet", PROTOBUF, *packages,
        ])  # fmt: skip

    _made(folder, [sys.version, PROTOBUF, *packages], make)
    return [str(interpreter)]


def kafka_streams() -> list[str]:
    """The Java command line of the Kafka Streams program."""
    folder, project = CACHE / "kafka_streams", HERE / "kafka_streams"
    maven, java = _tool("mvn", "maven"), _tool("java", "openjdk-17-jdk-headless")

    def make() -> None:
        # Absolute paths are given, for Maven would put everything beside the pom.
        _run([maven, "-q", "-B", "-f", str(project / "pom.xml"), f"-Dbuild.folder={folder}",
              f"-Dprotos.folder={ROOT / 'proto'}", "compile", "dependency:copy-dependencies",
              f"-DoutputDirectory={folder / 'libs'}"])  # fmt: skip

    sources = [path.read_text() for path in sorted([*project.rglob("*.java"), project / "pom.xml"])]
    _made(folder, [*sources, *((ROOT / "proto" / path).read_text() for path in PROTOS)], make)
    return [java, f"-Xmx{JAVA_HEAP}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", f"{folder / 'classes'}:{folder / 'libs'}/*", "compare.KafkaStreamsPeer"]  # fmt: skip


def rust_loop() -> list[str]:
    """The pure-Rust loop, built."""
    folder, crate = CACHE / "rust_loop", HERE / "rust_loop"
    cargo = _tool("cargo", "rustup")
    command = [cargo, "--locked", "build", "--release", "--quiet", "--manifest-path", str(crate / "Cargo.toml")]
    sources = [path.read_text() for path in sorted([*crate.rglob("*.rs"), *crate.glob("Cargo.*")])]
    # Cargo knows itself what is to be built again: the folder stays.
    _made(folder, sources, lambda: _run(command, {"CARGO_TARGET_DIR": str(folder)}), keep=True)
    return [str(folder / "release" / "rust-loop")]


def _made(folder: Path, source: Iterable[str], make: Callable[[], None], *, keep: bool = False) -> None:
    """Calls `make` unless the folder was made from this source. Processes that ask together wait for the first."""
    wanted = hashlib.sha256("\0".join(source).encode()).hexdigest()
    mark = folder / "made-from.sha256"
    with _locked(folder):
        if mark.exists() and mark.read_text() == wanted:
            return
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        mark.unlink(missing_ok=True)
        make()
        mark.write_text(wanted)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"{name} is not installed: apt-get install {package}")
    return found


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} did not end within {BUILD_TIMEOUT_S} s: {' '.join(command)}") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-ERROR_CHARACTERS:]
        raise UnavailableError(f"{' '.join(command)}\nended with {done.returncode}:\n{said}")
