"""One topic, many producers: what official clients wrote is read, other types are passed over, nothing is deleted."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from streams._native import Records
from streams.client.blocking import BlockingReceiver
from streams.demo.v1.device_pb2 import DeviceState
from tests.broker import Broker
from tests.client.place import Place
from tests.journeys.pages import samples, wait_for
from tests.journeys.process import Worker

VECTORS: list[dict[str, Any]] = [
    vector
    for vector in json.loads((Path(__file__).parent.parent / "fixtures" / "producers.json").read_text())
    if "schema_indexes" not in vector
]
LIVE = DeviceState(device_id="dev-1", cpu=0.5)
OTHER = [("ce_specversion", b"1.0"), ("ce_id", b"o1"), ("ce_source", b"/orders"), ("ce_type", b"streams.demo.v1.Geo")]
UNREADABLE = [("ce_specversion", b"1.0"), ("ce_id", b"u1"), ("ce_time", b"yesterday"), ("traceparent", b"00-1")]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A broker of each sort."""
    if request.param == "embedded":
        return f"embedded://{tmp_path}/log"
    kafka: Broker = request.getfixturevalue("kafka")
    return kafka.url


def test_each_record_is_taken_for_what_it_says(url: str, tmp_path: Path) -> None:
    """A message, a DELETE, a dead letter by its reason, or passed over and counted; the worker goes on."""
    source = f"devices-{uuid.uuid4().hex[:8]}"
    (tmp_path / "streams.toml").write_text(
        f'[app]\nid = "fleet-{source}"\nbroker = "{url}"\ndatadir = "{tmp_path}/data"\n\n'
        f'[[sync]]\nsource = "{source}"\nmessage = "streams.demo.v1.DeviceState"\n'
        'module = "streams.demo.v1.device_pb2"\nother_types = "skip"\n'
    )
    records = Records()
    for vector in VECTORS:
        headers = [(name, None if held is None else bytes.fromhex(held)) for name, held in vector["headers"]]
        value = None if vector["value"] is None else bytes.fromhex(vector["value"])
        records.append(vector["name"].encode(), LIVE.SerializeToString())
        records.append(vector["name"].encode(), value, headers)
    records.append(b"kept", LIVE.SerializeToString())
    for value in (None, b"", LIVE.SerializeToString()):
        records.append(b"kept", value, OTHER)
    records.append(b"kept", LIVE.SerializeToString(), UNREADABLE)
    with Place(url, source) as place:
        place.create(source, partitions=1)
        place.write(source, records, 0)

    with Worker("--config", "streams.toml", cwd=tmp_path) as worker:
        worker.wait_ready()
        found = samples(wait_for(worker, "streams_events_total", source, len(records)))
        code = worker.stop()

    assert 0 == code, worker.log.read_text()
    assert 3 == found["streams_events_skipped_total", source, ""]
    left_out = {
        reason: count for (name, _, reason), count in found.items() if name == "streams_attributes_unreadable_total"
    }
    assert {"time": 1, "traceparent": 1, "tracestate": 0, "correlation-id": 0} == left_out
    with BlockingReceiver(url, f"{source}.patches", DeviceState, start="earliest") as receiver:
        receiver.catch_up()
        held = {vector["name"]: receiver.get(vector["name"]) for vector in VECTORS}
        kept = receiver.get("kept")
    with Place(url, source) as place:
        letters = {
            (key or b"").decode(): dict(headers)["dlq-reason"] for _, _, key, _, headers in place.read(f"{source}.dlq")
        }

    wanted = {each["name"]: None if each.get("deletes") else LIVE for each in VECTORS}
    wanted |= {each["name"]: DeviceState() for each in VECTORS if each.get("data") == ""}
    assert wanted == held
    assert LIVE == kept
    assert {each["name"]: each["reason"].encode() for each in VECTORS if "reason" in each} == letters
