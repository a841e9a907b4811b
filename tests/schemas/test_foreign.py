"""Foreign schemas for a few seconds; `python -m tests.schemas.fuzz` tries them longer."""

from __future__ import annotations

import os
import time

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from tests.laws.variants import emitted
from tests.schemas import fuzz
from tests.schemas.packages import serialised

SECONDS = 3.0


def test_all_ways_to_a_state_agree() -> None:
    """Stock calls, the receiver, a plain replay, and composed patches from every middle. A failure prints its seed."""
    seed = int(os.environ.get("STREAMS_FUZZ_SEED", time.time_ns() % 2**32))

    histories, _, patches = fuzz.run(seed, SECONDS)

    assert 0 < histories < patches


def test_every_package_is_there() -> None:
    """The types that are tried most often are found, but for those that only `.ci/full` brings."""
    lacking = {name for name in fuzz.LARGE if name not in fuzz.types(None)}

    assert {"k8s.io.api.core.v1.Pod", "k8s.io.api.apps.v1.Deployment"} == lacking
    assert len(fuzz.types(None)) > 500


def test_descriptors_are_read_from_modules_that_cannot_be_imported() -> None:
    """Of today's generator and of that of protobuf 3, which wrote text; the module itself is never run."""
    data = FileDescriptorProto(name="a.proto", package="é").SerializeToString()
    today = f"import no_such_module\nD = pool.Default().AddSerializedFile({data!r})\n"
    before = f"D = _descriptor.FileDescriptor(name='a', serialized_pb=_b({data.decode('latin-1')!r}))\n"

    assert [["a.proto"], ["a.proto"]] == [[file.name for file in serialised(text.encode())] for text in (today, before)]


def test_a_wrong_state_is_found_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: of a worker that drops patches it says what differs, and the line that repeats it."""

    def forgetful(owner: type[Message], events: list[bytes | None]) -> tuple[list[bytes], int]:
        patches, letters = emitted(owner, events)
        return patches[:1], letters

    monkeypatch.setattr(fuzz, "emitted", forgetful)
    with pytest.raises(fuzz.MismatchError, match="a replay of the events, stock calls: ") as raised:
        fuzz.run(8, 0, only="zoo.three.Everything")
    assert str(raised.value).endswith("again: python -m tests.schemas.fuzz --seed 8 --only zoo.three.Everything")
