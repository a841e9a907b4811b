"""Official clients of other people, run as they come: what each writes is read as `tests/fixtures/producers.json` says.

The fixtures are the bytes that they wrote once; here they write them anew, from their registries.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams.demo.v1.device_pb2 import DeviceState
from tests.protos import compile_set
from tests.sync.test_recognition import FIXTURES, read

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT_S = 900
EXPECTED: dict[str, dict[str, Any]] = {each["name"]: each for each in json.loads(FIXTURES.read_text())}

pytestmark = pytest.mark.long


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints; it must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(printed: str, client: str) -> None:
    """Every record of a client, and all that are known of it, is read as it should be."""
    written = {record["name"]: record for line in printed.splitlines() if (record := json.loads(line))}
    assert written.keys() == {name for name in EXPECTED if name.startswith(client)}
    for name, record in written.items():
        value = None if record["value"] is None else bytes.fromhex(record["value"])
        headers = [(header, None if held is None else bytes.fromhex(held)) for header, held in record["headers"]]
        wanted = EXPECTED[name]
        found = read(DeviceState, value, headers, schema_indexes=wanted.get("schema_indexes", "standard"))
        data = None if wanted.get("deletes") else bytes.fromhex(wanted.get("data", ""))
        assert found == wanted.get("reason", data), name


@pytest.mark.parametrize(
    ("script", "packages", "client"),
    [
        ("cloudevents_1.py", ["cloudevents==1.13.0"], "cloudevents (PyPI) 1"),
        ("cloudevents_2.py", ["cloudevents==2.2.0"], "cloudevents (PyPI) 2"),
        (
            "confluent.py",
            ["confluent-kafka[protobuf,schemaregistry]==2.16.1", "jsonata-python", "protobuf>=6.31.1,<8"],
            "confluent-kafka (PyPI)",
        ),
    ],
)
def test_python(script: str, packages: list[str], client: str, tmp_path: Path) -> None:
    """Each in an environment of its own."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *packages, cwd=tmp_path)
    check(run(python, "-W", "ignore", HERE / script, cwd=tmp_path, PYTHONPATH=str(ROOT)), client)


@pytest.mark.parametrize(
    ("script", "package", "client"),
    [
        ("cloudevents.cjs", "cloudevents@10.0.0", "cloudevents (npm)"),
        ("kafkajs.cjs", "@kafkajs/confluent-schema-registry@3.9.0", "@kafkajs"),
    ],
)
def test_javascript(script: str, package: str, client: str, tmp_path: Path) -> None:
    """With Node's own module search: the script is copied beside its modules."""
    run("npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", tmp_path, package, cwd=tmp_path)
    shutil.copy(HERE / script, tmp_path)
    check(run("node", script, cwd=tmp_path), client)


def test_java(tmp_path: Path) -> None:
    """kafka-clients' own headers and serializers."""
    shutil.copytree(HERE / "java", tmp_path / "java")
    device = compile_set(tmp_path / "device.binpb", "streams/demo/v1/device.proto", imports=False, root=ROOT / "proto")
    maven = ["mvn", "-q", "-B", "compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath"]
    run(*maven, cwd=tmp_path / "java")
    classpath = "target/classes:" + (tmp_path / "java" / "classpath").read_text()
    check(run("java", "-cp", classpath, "Vectors", device, cwd=tmp_path / "java"), "cloudevents-kafka (Maven)")
