"""The README's blocks run as they stand: the files it shows, the commands it names, against a real Kafka."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from streams.client.broker import ReaderOptions
from streams.client.connect import open_reader
from streams.client.producer import Producer
from streams.demo.v1.device_pb2 import DeviceState
from streams.settings import parse
from streams.v1.patch_pb2 import Patch
from tests.broker import Broker
from tests.journeys.process import ROOT, Worker, streams

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files that the README shows: a block whose first line is a comment with a file's name."""
    named = [(re.match(r"# ([\w.]+\.(?:toml|py))", text), text) for _, text in BLOCKS]
    return {match[1]: text for match, text in named if match}


def commands() -> list[str]:
    """The lines of the sh blocks, in order."""
    return [line for language, text in BLOCKS if language == "sh" for line in text.splitlines() if line]


def test_the_two_commands_exist() -> None:
    """Both set-up commands are targets of the Makefile, and the README begins with them."""
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"^    make ([\w-]+)", README, re.MULTILINE)

    assert ["demo", "test"] == named
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)


def test_every_path_in_the_readme_exists() -> None:
    """Files and folders of the repository that the text names are there."""
    named = set(re.findall(r"`((?:streams|tests|proto|benchmarks|\.github)/[\w./]*)`", README))

    assert named
    assert [] == [name for name in sorted(named) if not (ROOT / name).exists()]


def test_every_option_in_the_readme_exists() -> None:
    """Each `streams` command with its flags is understood: help is printed instead of running it."""
    lines = [*commands(), *re.findall(r"`(streams [^`|]+)`", README)]
    broken = []
    for line in lines:
        words = shlex.split(line)
        if words[0] == "streams":
            flags = [word for word in words if word.startswith("-")]
            path = [word for word in words[1:3] if not word.startswith("-") and "." not in word]
            shown = streams(*path[: 2 if words[1] == "state" and len(path) == 2 else 1], "--help", cwd=ROOT).stdout
            broken += [f"{line}: {flag}" for flag in flags if flag not in shown]

    assert [] == broken


@pytest.mark.kafka
def test_the_commands_run_in_their_order(kafka: Broker, tmp_path: Path) -> None:
    """Worker, producer, state, doctor: every line of the sh blocks, with the settings file as printed."""
    text = files()["streams.toml"]
    (tmp_path / "streams.toml").write_text(text.replace("127.0.0.1:9092", kafka.bootstrap))
    first, *others = commands()
    worker_line = shlex.split(first)

    assert "fleet" == parse(text=text).app.id
    with Worker(*worker_line[2:], cwd=tmp_path) as worker:
        for line in others:
            words = shlex.split(line)
            if words[0] == "echo":
                (tmp_path / words[3]).write_text(words[1] + "\n")
                continue
            done = streams(*words[1:], cwd=tmp_path)
            if words[1] == "produce":  # it made the topic: now the worker can start, and take the event
                worker.wait_ready()
                asyncio.run(_settled(kafka.url))
            assert 0 == done.returncode, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.kafka
async def test_the_code_runs(kafka: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The app in code raises an alarm for a battery that changed; the receiver in code prints the change."""
    for name, text in files().items():
        moved = text.replace('"fleet"', '"fleet-code"').replace('"devices', '"devices-code')
        (tmp_path / name).write_text(moved.replace("127.0.0.1:9092", kafka.bootstrap))
    kafka.create_topics("devices-code", partitions=2)
    spec = importlib.util.spec_from_file_location("billing", tmp_path / "billing.py")
    assert spec is not None
    assert spec.loader is not None
    billing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(billing)
    with Worker("-A", "fleet:app", cwd=tmp_path) as worker:
        await asyncio.to_thread(worker.wait_ready)
        async with Producer(kafka.url, source="/readme") as producer:
            for battery in (0.5, 0.25):
                state = DeviceState(device_id="d-17", battery=battery, model="m" * 50, region="eu")
                await producer.send("devices-code", state, key=state.device_id)
        alarms = await asyncio.to_thread(_alarms, kafka.url)
        following = asyncio.create_task(billing.follow(kafka.url))
        printed = ""
        for _ in range(120):
            await asyncio.sleep(0.25)
            printed += capsys.readouterr().out
            if "battery: 0.25" in printed:
                break
        following.cancel()

    assert [1, 2] == alarms  # the app made the topic, and a patch of every size rings
    assert "battery: 0.25" in printed
    assert "('battery',)" in printed


def _alarms(broker: str) -> list[int]:
    """The revisions that rang, once there are two."""
    reader = open_reader(broker, "alarms", ReaderOptions(start="earliest"))
    rang: list[int] = []
    try:
        for _ in range(120):
            if len(rang) >= 2:
                break
            for run in reader.fetch(100, 250):
                values = [run.records.value(index) or b"" for index in range(len(run.records))]
                rang += [Patch.FromString(value).revision for value in values]
    finally:
        reader.close()
    return rang


async def _settled(broker: str) -> None:
    """Waits until the README's event has become a patch."""
    from streams.client.receiver import Receiver

    async with Receiver(broker, "devices.patches", DeviceState, start="earliest") as receiver:
        for _ in range(60):
            await receiver.catch_up()
            if receiver.get(b"d-17") is not None:
                return
            await asyncio.sleep(0.5)
    pytest.fail("no patch of d-17")
