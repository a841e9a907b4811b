"""What `streams state verify` compares, without a broker."""

from __future__ import annotations

from streams._native import Table
from streams.cli.verifying import compare
from streams.client.held import HeldStates
from streams.demo.v1.device_pb2 import DeviceState
from tests.sync.test_core import NOW, binary, chunk, device, make_job


def test_a_delete_of_what_was_never_there_is_no_finding() -> None:
    """Its tombstone is remembered, and no patch was published for it; nor is a partition's own record a key."""
    table = Table(make_job(), 0)
    step = table.process(chunk(binary(b"d", device(), "1"), binary(b"never", None, "2")), NOW)
    changelog = table.changelog(0, step.mark)
    held: HeldStates[DeviceState] = HeldStates(DeviceState, requester="verify", asks=None)
    for at in range(len(step.patches)):
        held.take(0, at, step.patches.key(at), step.patches.value(at), step.patches.headers(at))
    rows = {(0, changelog.key(at) or b""): changelog.value(at) or b"" for at in range(len(changelog))}

    verified = compare("devices", rows, held, dict)  # type: ignore[arg-type]

    assert (2, 2, ()) == (verified.rows, verified.equal, verified.findings)
