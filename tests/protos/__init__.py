"""A zoo of message types, compiled by protoc when the tests start, each set in a descriptor pool of its own."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.message import Message
from grpc_tools import protoc

from streams.kernel.messages import load_message

HERE = Path(__file__).parent
PROTO = HERE.parent.parent / "proto"


GOOGLE = Path(grpc_tools.__file__).parent / "_proto"
"""The .proto files of google.protobuf."""


def compile_set(target: Path, *sources: str, imports: bool = True, root: Path = HERE) -> Path:
    """Compile `sources` (names of files in the directory `root`) to the FileDescriptorSet `target`."""
    arguments = ["protoc", f"-I{root}", f"-I{GOOGLE}", f"--descriptor_set_out={target}"]
    if imports:
        arguments.append("--include_imports")
    code = protoc.main([*arguments, *sources])
    assert code == 0, f"protoc ended with {code}"
    return target


@functools.cache
def message_class(name: str) -> type[Message]:
    """The class of a message of the zoo, for example `zoo.three.Everything`, or of the golden vectors."""
    if name.startswith("streams.golden."):
        return _loaded(name, "golden/everything.proto", PROTO)
    source = {"three": "zoo3.proto", "two": "zoo2.proto", "edition": "zoo2023.proto"}[name.split(".")[1]]
    return _loaded(name, source, HERE)


def _loaded(name: str, source: str, root: Path) -> type[Message]:
    with tempfile.TemporaryDirectory() as directory:
        return load_message(name, descriptors=compile_set(Path(directory) / "set.binpb", source, root=root))
