"""streams.cli.rows: the same messages come out of JSON lines, CSV and Protobuf files, and errors name the place."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from google.protobuf import json_format, proto
from hypothesis import given
from hypothesis import strategies as st

from streams.cli.rows import field_text, kind_of, messages
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import InputError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), max_size=20)
STATES = st.lists(
    st.builds(
        DeviceState,
        device_id=TEXT.filter(bool),
        status=TEXT,
        rssi=st.integers(-(2**31), 2**31 - 1),
        rx_bytes=st.integers(-(2**63), 2**63 - 1),
        battery=st.floats(allow_nan=False, allow_infinity=False),
        online=st.booleans(),
        tags=st.lists(TEXT, max_size=3),
        labels=st.dictionaries(TEXT, TEXT, max_size=3),
    ),
    max_size=5,
)
COLUMNS = ["device_id", "status", "rssi", "rx_bytes", "battery", "online", "tags", "labels"]


def read(data: bytes, kind: str) -> list[DeviceState]:
    """All messages of a file with this content."""
    return [message for _, message in messages(io.BytesIO(data), kind, DeviceState)]


def cells(state: DeviceState) -> list[str]:
    """A state as a row of CSV."""
    known: dict[str, Any] = json_format.MessageToDict(state, preserving_proto_field_name=True)
    return [
        json.dumps(known[name]) if isinstance(known.get(name), list | dict | bool) else str(known.get(name, ""))
        for name in COLUMNS
    ]


@given(STATES)
def test_three_kinds_of_file_hold_the_same(states: list[DeviceState]) -> None:
    """JSON lines, CSV and length-delimited Protobuf of the same states are read as these states."""
    lines = "".join(json.dumps(json_format.MessageToDict(state)) + "\n\n" for state in states)
    binary, table = io.BytesIO(), io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for state in states:
        proto.serialize_length_prefixed(state, binary)
        writer.writerow(cells(state))

    assert states == read(lines.encode(), "json")
    assert states == read(binary.getvalue(), "protobuf")
    assert states == read(table.getvalue().encode(), "csv")


def test_a_dotted_column_fills_a_nested_message() -> None:
    """`geo.lat` is the field in the message; an empty cell leaves it unset."""
    found = read(b"device_id,geo.lat,geo.lon\na,1.5,\nb,,\n", "csv")

    assert [DeviceState(device_id="a", geo={"lat": 1.5}), DeviceState(device_id="b")] == found


@pytest.mark.parametrize(
    ("data", "kind", "told"),
    [
        (b'{"device_id": "a"}\n{"device_id": secret}\n', "json", "line 2: not JSON at column 15"),
        (b'\n{"rssi": "secret"}\n', "json", "line 2: Failed to parse rssi field"),
        (b'{"sccret": 1}\n', "json", "line 1"),
        *[
            (line, "json", "line 1: JSON, but no object")
            for line in (b"null", b"5", b"true", b"[]", b'["secret"]', b'"secret"')
        ],
        (b'{"\\ud800": "secret"}', "json", "line 1: not streams.demo.v1.DeviceState in Protobuf's JSON"),
        (b"device_id,sccret\n", "csv", "header: streams.demo.v1.DeviceState has no field sccret"),
        (b"device_id,rssi\na,1\nb\n", "csv", "line 3: 1 cells, the header has 2"),
        (b"device_id,tags\na,[secret\n", "csv", "line 2: field tags is not JSON"),
        (b"\x05ab", "protobuf", "message 1: not a streams.demo.v1.DeviceState"),
        (b"\x02\xff\xff", "protobuf", "message 1"),
    ],
)
def test_an_error_names_the_place_and_no_value(data: bytes, kind: str, told: str) -> None:
    """Line or number and field are named; what stood there is not."""
    with pytest.raises(InputError) as error:
        read(data, kind)

    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_a_key_is_the_text_of_a_scalar_field() -> None:
    """Text and whole numbers make keys, at any depth; anything else is refused by name."""
    state = DeviceState(device_id="d-1", rx_bytes=7)

    assert ("d-1", "7") == (field_text(state, "device_id"), field_text(state, "rx_bytes"))
    for path in ("nope", "geo", "geo.lat", "online", "device_id.x"):
        with pytest.raises(InputError, match=path):
            field_text(state, path)


def test_the_suffix_says_the_kind() -> None:
    """Known suffixes, whatever their case; others say nothing."""
    assert ["json", "csv", "protobuf", None] == [kind_of(name) for name in ("a.JSONL", "b/c.csv", "d.binpb", "-")]
