"""What a supervisor and a scraper see of a worker: /livez, /readyz, /metrics, and the end of a stalled one."""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from streams.transport.log import Log
from tests.broker import Broker
from tests.journeys.pages import WAIT_S, get, samples, wait_for, wait_until
from tests.journeys.process import Worker, streams

STALLED = """
import asyncio
from streams import App

app = App("stalled-{topic}", broker="{url}", datadir="data")


@app.agent(app.chunks("{topic}"))
async def never_returns(stream):
    async for chunk in stream:
        for record in chunk:
            await asyncio.Event().wait()
"""
PROGRESS_TIMEOUT_MS = 3_000
OUTAGE_TIMEOUT_MS = 8_000
"""After an outage each client finds the broker in its own time: a timeout that none of them exceeds."""


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker of each sort."""
    if request.param == "embedded":
        return f"embedded://{tmp_path}/log"
    kafka: Broker = request.getfixturevalue("kafka")
    return kafka.url


def produce(folder: Path, url: str, topic: str, *states: dict[str, object]) -> None:
    """Sends states, and makes their topic."""
    lines = "".join(json.dumps(state) + "\n" for state in states)
    done = streams("produce", topic, "-", "--broker", url, "--message", "streams.demo.v1.DeviceState",
                   "--module", "streams.demo.v1.device_pb2", "--key", "device_id", "--input", "json",
                   "--partitions", "2", cwd=folder, text=lines)  # fmt: skip

    assert 0 == done.returncode, done.stderr


def config(folder: Path, url: str, source: str) -> None:
    """A streams.toml with one sync."""
    (folder / "streams.toml").write_text(
        f'[app]\nid = "health-{source}"\nbroker = "{url}"\ndatadir = "{folder}/data"\n\n'
        f'[[sync]]\nsource = "{source}"\nmessage = "streams.demo.v1.DeviceState"\n'
        'module = "streams.demo.v1.device_pb2"\n'
    )


def test_a_worker_shows_how_it_is(url: str, tmp_path: Path) -> None:
    """Live and ready once it has its partitions; its numbers are what happened, and no key is among them."""
    source = f"devices-{uuid.uuid4().hex[:8]}"
    config(tmp_path, url, source)
    states: list[dict[str, object]] = [{"deviceId": "secret-1"}, {"deviceId": "secret-2"}, {"deviceId": "secret-1"}]
    produce(tmp_path, url, source, *states)
    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        worker.wait_ready()
        text = wait_for(worker, "streams_rows", source, 2)
        ready, live = get(worker, "/readyz"), get(worker, "/livez")

    assert (200, True, {}) == (ready[0], json.loads(ready[1])["ready"], json.loads(ready[1])["reasons"])
    assert (200, "progressing") == (live[0], json.loads(live[1])["progress"])
    found = samples(text)
    assert 3 == found["streams_events_total", source, ""]
    assert 2 == found["streams_patches_total", source, ""]
    assert 1 == found["streams_events_without_patch_total", source, "unchanged"]
    assert 1 == found["streams_ready", "", ""]
    assert found["streams_transactions_total", "", ""] >= 1
    assert "secret" not in text


def test_a_worker_says_what_was_replaced(tmp_path: Path) -> None:
    """A source that was made anew is in /readyz, in /metrics and in what the doctor finds, for as long as it runs."""
    source, url = "devices", f"embedded://{tmp_path}/log"
    config(tmp_path, url, source)
    for made_anew in (False, True):
        produce(tmp_path, url, source, {"deviceId": "d-1"}, {"deviceId": "d-2"})
        with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
            worker.wait_ready()
            text = wait_for(worker, "streams_events_total", source, 2)
            ready = get(worker, "/readyz")
            doctor = streams("doctor", "--config", "streams.toml", "--set", f"app.web_port={worker.port}", cwd=tmp_path)
            assert 0 == worker.stop()
        told = "the topic is another one than before"
        assert 200 == ready[0]
        assert made_anew == (told in json.loads(ready[1])["replaced"].get(source, ""))
        assert made_anew == (samples(text).get(("streams_logs_replaced_total", source, ""), 0) > 0)
        assert made_anew == (told in doctor.stderr)
        with Log.shared(tmp_path / "log") as log:
            log.delete_topic(source)


@pytest.mark.kafka
def test_a_worker_without_its_topic_is_not_ready(kafka: Broker, tmp_path: Path) -> None:
    """It is live, and says what it waits for; when the topic comes it becomes ready."""
    source = f"devices-{uuid.uuid4().hex[:8]}"
    config(tmp_path, kafka.url, source)
    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        deadline_s = time.monotonic() + WAIT_S
        while "topics" not in (said := get(worker, "/readyz"))[1]:
            assert time.monotonic() < deadline_s, said
            time.sleep(0.2)
        while "waiting" not in (live := get(worker, "/livez"))[1]:
            assert time.monotonic() < deadline_s, live
            time.sleep(0.2)
        doctor = streams("doctor", "--config", "streams.toml", "--set", f"app.web_port={worker.port}", cwd=tmp_path)
        produce(tmp_path, kafka.url, source, {"deviceId": "d-1"})
        worker.wait_ready()
        ready = get(worker, "/readyz")

    assert 503 == said[0]
    assert source in json.loads(said[1])["reasons"]["topics"]
    assert 3 == doctor.returncode
    assert f"worker on port {worker.port}: got topics: waiting for" in doctor.stderr
    assert (200, "waiting") == (live[0], json.loads(live[1])["progress"])
    assert 200 == ready[0], ready


def test_a_stalled_worker_ends(url: str, tmp_path: Path) -> None:
    """An agent that never returns: the worker ends within the timeout and names topic, partition and the step."""
    topic = f"devices-{uuid.uuid4().hex[:8]}"
    produce(tmp_path, url, topic, {"deviceId": "d-1"})
    (tmp_path / "stalled.py").write_text(STALLED.format(topic=topic, url=url))
    with Worker("-A", "stalled:app", "--set", f"app.progress_timeout_ms={PROGRESS_TIMEOUT_MS}", cwd=tmp_path) as worker:
        worker.wait_ready()
        code = worker.process.wait(timeout=WAIT_S)
        said = worker.log.read_text()

    assert 1 == code, said
    assert f"{topic} partition" in said
    assert re.search(
        rf"no progress for {PROGRESS_TIMEOUT_MS} ms with \d+ records waiting \(last step: an agent, at record 1 of 1",
        said,
    )


@pytest.mark.kafka
def test_an_unreachable_broker_is_a_reason_to_wait(tmp_path: Path) -> None:
    """Away for longer than the timeout: the worker says so, does not end, and goes on when the broker is back.

    So does one without a partition of its own, which is ready as long as there is a broker.
    """
    source = f"devices-{uuid.uuid4().hex[:8]}"
    broker = Broker(tmp_path / "broker", heap_mb=512)
    broker.start()
    try:
        config(tmp_path, broker.url, source)
        broker.create_topics(source, partitions=1)
        produce(tmp_path, broker.url, source, {"deviceId": "d-1"})
        timeout = f"app.progress_timeout_ms={OUTAGE_TIMEOUT_MS}"
        other = ("--set", timeout, "--set", f"app.datadir={tmp_path}/idle")
        with ExitStack() as running:
            worker = running.enter_context(Worker("--config", "streams.toml", "--set", timeout, cwd=tmp_path))
            wait_for(worker, "streams_patches_total", source, 1)
            idle = running.enter_context(Worker("--config", "streams.toml", *other, cwd=tmp_path))
            idle.wait_ready()
            without = min(json.loads(wait_until(each, "/readyz", 200))["partitions"] for each in (worker, idle))
            broker.stop()
            said = [(each, wait_until(each, "/readyz", 503, "broker")) for each in (worker, idle)]
            time.sleep(1.5 * OUTAGE_TIMEOUT_MS / 1000)
            live = get(worker, "/livez")
            broker.start()
            produce(tmp_path, broker.url, source, {"deviceId": "d-2"})
            for each in (worker, idle):
                wait_until(each, "/readyz", 200)
            codes = [worker.stop(), idle.stop()]
    finally:
        broker.stop()

    assert 0 == without
    assert 2 == len(said)
    assert (200, "waiting") == (live[0], json.loads(live[1])["progress"])
    assert [0, 0] == codes
