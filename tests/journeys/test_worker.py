"""What a user does: a worker without code, events from a file, patches at a receiver, and a look at the state."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.client.blocking import BlockingReceiver
from streams.demo.v1.device_pb2 import DeviceState
from tests.journeys.process import Worker, streams

DRAIN_S = 10


class Place:
    """A directory with a streams.toml for a broker, and topics of this test's own."""

    def __init__(self, folder: Path, url: str, **options: str) -> None:
        self.folder = folder
        self.url = url
        self.source = f"devices-{uuid.uuid4().hex[:8]}"
        more = "".join(f"{name} = {value}\n" for name, value in options.items())
        (folder / "streams.toml").write_text(
            f'[app]\nid = "fleet-{self.source}"\nbroker = "{url}"\ndatadir = "{folder}/data"\n\n'
            f'[[sync]]\nsource = "{self.source}"\nmessage = "streams.demo.v1.DeviceState"\n'
            f'module = "streams.demo.v1.device_pb2"\n{more}'
        )

    def produce(self, *states: dict[str, object], partitions: int = 4) -> None:
        """Sends states with `streams produce`, which also makes the topic."""
        lines = "".join(json.dumps(state) + "\n" for state in states)
        done = streams("produce", self.source, "-", "--config", "streams.toml", "--key", "device_id",
                       "--input", "json", "--partitions", str(partitions), cwd=self.folder, text=lines)  # fmt: skip

        assert 0 == done.returncode, done.stderr

    def state(self, *arguments: str) -> tuple[int, str, str]:
        """Runs `streams state` and returns exit code, output and errors."""
        done = streams("state", *arguments, "--config", "streams.toml", cwd=self.folder)
        return done.returncode, done.stdout, done.stderr

    def wait_for(self, key: str, **wanted: object) -> dict[str, object]:
        """The stored row of a key, once its message has these values."""
        for _ in range(60):
            code, out, _ = self.state("get", self.source, key)
            if code == 0:
                row: dict[str, object] = json.loads(out)
                message = row["message"]
                if isinstance(message, dict) and {name: message.get(name) for name in wanted} == wanted:
                    return row
            time.sleep(0.5)
        pytest.fail(f"no row of {key} with {wanted}")


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place on each transport."""
    kafka = request.param == "kafka"
    return Place(tmp_path, request.getfixturevalue("kafka").url if kafka else f"embedded://{tmp_path}/log")


@pytest.fixture
def on_kafka(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place on the real Kafka."""
    return Place(tmp_path, request.getfixturevalue("kafka").url)


def test_a_worker_without_code(place: Place) -> None:
    """Events sent before the worker starts become patches and stored rows, which verify; SIGTERM drains in time."""
    place.produce({"deviceId": "d-1", "battery": 0.5}, {"deviceId": "d-2"}, {"deviceId": "d-1", "battery": 0.25})
    with Worker("--config", "streams.toml", cwd=place.folder) as worker:
        worker.wait_ready()
        row = place.wait_for("d-1", battery=0.25)
        code, out, err = place.state("verify", place.source)
        began_s = time.monotonic()
        ended = worker.stop()
        took_s = time.monotonic() - began_s

    assert 2 == row["revision"]
    assert (0, "2 rows: 2 equal, 0 moved on meanwhile\n") == (code, out), err
    assert 0 == ended, worker.log.read_text()[-4000:]
    assert took_s < DRAIN_S
    assert 12 >= len([line for line in worker.lines if not line.startswith("READY")])
    with BlockingReceiver(place.url, f"{place.source}.patches", DeviceState, start="earliest") as receiver:
        receiver.catch_up()
        assert DeviceState(device_id="d-1", battery=0.25) == receiver.get(b"d-1")


@pytest.mark.kafka
def test_snapshots_and_resets_beside_a_running_worker(on_kafka: Place) -> None:
    """`snapshot` repeats the current revision; after `reset-sequence` a source that began anew is heard again."""
    on_kafka.produce({"deviceId": "d-1", "battery": 0.5})
    with Worker("--config", "streams.toml", cwd=on_kafka.folder) as worker:
        worker.wait_ready()
        before = on_kafka.wait_for("d-1", battery=0.5)
        asked = on_kafka.state("snapshot", on_kafka.source, "d-1")
        every = on_kafka.state("snapshot", on_kafka.source, "--all", "--per-second", "100")
        reset = on_kafka.state("reset-sequence", on_kafka.source, "d-1")
        kinds: list[int] = []
        with BlockingReceiver(on_kafka.url, f"{on_kafka.source}.patches", DeviceState, start="earliest") as receiver:
            for _ in range(60):
                receiver.catch_up()
                kinds = [receiver.counts.applied, receiver.counts.foreign]
                if kinds[1] >= 2:
                    break
                time.sleep(0.5)

    assert [0, 0, 0] == [asked[0], every[0], reset[0]], (asked, every, reset)
    assert 1 == before["revision"]
    assert kinds[0] == 1
    assert kinds[1] >= 2


@pytest.mark.kafka
def test_the_doctor_after_a_first_run(on_kafka: Place) -> None:
    """Before a worker ran the doctor finds what is missing; after a worker made it there is nothing to find."""
    on_kafka.produce({"deviceId": "d-1"})
    first = streams("doctor", "--config", "streams.toml", cwd=on_kafka.folder)
    with Worker("--config", "streams.toml", cwd=on_kafka.folder) as worker:
        worker.wait_ready()
        on_kafka.wait_for("d-1", device_id="d-1")
        second = streams("doctor", "--config", "streams.toml", cwd=on_kafka.folder)
        other = streams("doctor", "--config", "streams.toml", "--set=app.id=other", cwd=on_kafka.folder)

    assert 3 == first.returncode
    assert f"{on_kafka.source}.patches" in first.stderr
    assert 0 == second.returncode, second.stderr
    assert 3 == other.returncode
    assert f"output {on_kafka.source}.patches: got other and fleet-{on_kafka.source}" in other.stderr


@pytest.mark.kafka
def test_several_workers_on_one_machine(on_kafka: Place) -> None:
    """`--workers 2` says READY twice, shares the partitions, starts one that was killed again, and drains as one."""
    on_kafka.produce(*({"deviceId": f"d-{number}"} for number in range(40)))
    with Worker("--config", "streams.toml", "--workers", "2", cwd=on_kafka.folder) as worker:
        worker.wait_ready(2)
        parent = worker.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        worker.wait_ready(3)
        on_kafka.produce(*({"deviceId": f"d-{number}", "battery": 1.0} for number in range(40)))
        for number in (0, 17, 39):
            on_kafka.wait_for(f"d-{number}", battery=1.0)
        code = worker.stop(signal.SIGTERM)

    assert 0 == code
    assert "ended with SIGKILL; 1 still running; it is started again in 1 s" in worker.log.read_text()


def test_rebuilding_from_the_source(place: Place) -> None:
    """`rebuild --from-source` says what it would do, then does it; keys come back under a new epoch, equal."""
    place.produce({"deviceId": "d-1", "battery": 0.5}, {"deviceId": "d-2"})
    with Worker("--config", "streams.toml", cwd=place.folder) as worker:
        worker.wait_ready()
        before = place.wait_for("d-1", battery=0.5)
        worker.stop()
    said = place.state("rebuild", place.source, "--from-source")
    done = place.state("rebuild", place.source, "--from-source", "--yes")
    gone = place.state("get", place.source, "d-1")
    with Worker("--config", "streams.toml", cwd=place.folder) as worker:
        worker.wait_ready()
        after = place.wait_for("d-1", battery=0.5)
        verified = place.state("verify", place.source)

    assert "would" in said[1]
    assert 0 == done[0], done
    assert 1 == gone[0]
    assert isinstance(before["epoch"], int)
    assert isinstance(after["epoch"], int)
    assert after["epoch"] > before["epoch"]
    assert 0 == verified[0], verified
