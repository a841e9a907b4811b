"""Loading message classes by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SchemaError
from streams.kernel.messages import load_message
from streams.v1 import patch_pb2
from tests.protos import compile_set


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FileDescriptorSet of the proto2 zoo."""
    return compile_set(tmp_path_factory.mktemp("sets") / "zoo.binpb", "zoo2.proto")


def test_from_a_set_twice(zoo: Path) -> None:
    """Each load has a pool of its own, so the same set can be loaded again."""
    first, second = (load_message("zoo.two.Old", descriptors=zoo) for _ in range(2))
    assert first.DESCRIPTOR.full_name == second.DESCRIPTOR.full_name == "zoo.two.Old"
    assert first.FromString(b"\x08\x05").SerializePartialToString() == b"\x08\x05"


def test_nested_type(zoo: Path) -> None:
    """A nested type is found by its full name."""
    assert load_message("zoo.two.Old.Grp", descriptors=str(zoo)).DESCRIPTOR.name == "Grp"


def test_from_a_module() -> None:
    """A generated module gives the very class that user code imports."""
    assert load_message("streams.demo.v1.DeviceState", module="streams.demo.v1.device_pb2") is DeviceState


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """A set whose files come before their imports is loaded all the same."""
    together = FileDescriptorSet()
    for file in (patch_pb2.DESCRIPTOR, *patch_pb2.DESCRIPTOR.dependencies):
        file.CopyToProto(together.file.add())
    (tmp_path / "patch.binpb").write_bytes(together.SerializeToString())
    assert load_message("streams.v1.Patch", descriptors=tmp_path / "patch.binpb").DESCRIPTOR.name == "Patch"


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("zoo.two.Odl", "zoo", "has no message zoo.two.Odl; it has zoo.two.Old"),
        ("a.B", "absent", "No such file or directory, expected a FileDescriptorSet with a.B"),
        ("a.B", "text", "not a FileDescriptorSet"),
        ("a.B", "empty", "has no message a.B; it has no message at all"),
        ("streams.v1.Patch", "unimported", "imports google/protobuf/field_mask.proto, which is not in it"),
    ],
)
def test_a_set_that_does_not_do(tmp_path: Path, zoo: Path, name: str, source: str, said: str) -> None:
    """Every error names the file, what was found and what was wanted."""
    path = zoo if source == "zoo" else tmp_path / source
    if source == "text":
        path.write_text('syntax = "proto3";')
    if source == "empty":
        path.write_bytes(b"")
    if source == "unimported":
        alone = FileDescriptorSet()
        patch_pb2.DESCRIPTOR.CopyToProto(alone.file.add())
        path.write_bytes(alone.SerializeToString())
    with pytest.raises(SchemaError) as raised:
        load_message(name, descriptors=path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("streams.demo.v1.absent_pb2", "cannot be imported"),
        ("json", "is no generated Protobuf module"),
        ("streams.demo.v1.device_pb2", "it has streams.demo.v1.DeviceState"),
    ],
)
def test_a_module_that_does_not_do(module: str, said: str) -> None:
    """A module that is absent, or something else, or of other messages, is named with what it has."""
    with pytest.raises(SchemaError) as raised:
        load_message("streams.demo.v1.DeviceStatus", module=module)
    assert said in str(raised.value)
    assert module in str(raised.value)


def test_a_module_for_another_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newer protoc generated is named with the cure, instead of protobuf's own traceback."""
    (tmp_path / "generated_tomorrow_pb2.py").write_text(
        "from google.protobuf import runtime_version\n"
        "runtime_version.ValidateProtobufRuntimeVersion(runtime_version.Domain.PUBLIC, 99, 0, 0, '', 'a.proto')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(SchemaError, match=r"generated_tomorrow_pb2 was generated for another .*99\.0\.0"):
        load_message("acme.A", module="generated_tomorrow_pb2")


def test_exactly_one_source(zoo: Path) -> None:
    """Both sources, or none, is a mistake in the settings."""
    with pytest.raises(SchemaError, match="got neither"):
        load_message("a.B")
    with pytest.raises(SchemaError, match="got both"):
        load_message("a.B", descriptors=zoo, module="a")
