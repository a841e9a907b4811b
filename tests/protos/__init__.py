"""A zoo of message types, compiled by protoc when the tests start, each set in a descriptor pool of its own."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from google.protobuf.message import Message
from grpc_tools import protoc

from streams.kernel.messages import load_message

HERE = Path(__file__).parent


def compile_set(target: Path, *sources: str, imports: bool = True) -> Path:
    """Compile `sources` (names of files in this directory) to the FileDescriptorSet `target`."""
    arguments = ["protoc", f"-I{HERE}", f"--descriptor_set_out={target}"]
    if imports:
        arguments.append("--include_imports")
    code = protoc.main([*arguments, *sources])
    assert code == 0, f"protoc ended with {code}"
    return target


@functools.cache
def message_class(name: str) -> type[Message]:
    """The class of a message of the zoo, for example `zoo.three.Everything`."""
    source = {"three": "zoo3.proto", "two": "zoo2.proto", "edition": "zoo2023.proto"}[name.split(".")[1]]
    with tempfile.TemporaryDirectory() as directory:
        return load_message(name, descriptors=compile_set(Path(directory) / "set.binpb", source))
