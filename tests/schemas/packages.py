"""Foreign schemas: the descriptors in generated modules of other people's packages, read without importing them.

A generated module may want another Protobuf runtime than ours; the serialised descriptor in it is what counts.
"""

from __future__ import annotations

import ast
import tarfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

OWN = [
    any_pb2, api_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, source_context_pb2, struct_pb2,
    timestamp_pb2, type_pb2, wrappers_pb2,
]  # fmt: skip
"""What every package imports and none carries."""
SUFFIX = "_pb2.py"


def installed(distribution: str) -> list[FileDescriptorProto]:
    """The descriptors of an installed package; LookupError where it is not installed."""
    try:
        listed = files(distribution) or []
    except PackageNotFoundError:
        raise LookupError(f"{distribution} is not installed: pip install '.[test]'") from None
    modules = [Path(str(path.locate())).read_bytes() for path in listed if str(path).endswith(SUFFIX)]
    return [file for module in modules for file in serialised(module)]


def unpacked(archive: Path) -> list[FileDescriptorProto]:
    """The descriptors in a wheel or an sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            modules = [wheel.read(name) for name in wheel.namelist() if name.endswith(SUFFIX)]
    else:
        with tarfile.open(archive) as sdist:
            members = [sdist.extractfile(member) for member in sdist.getmembers() if member.name.endswith(SUFFIX)]
            modules = [member.read() for member in members if member is not None]
    return [file for module in modules for file in serialised(module)]


class Schemas:
    """The messages that some packages describe, in a pool of their own."""

    def __init__(self, described: Iterable[FileDescriptorProto]) -> None:
        self._pool = DescriptorPool()
        self._added: set[str] = set()
        own = [FileDescriptorProto.FromString(file.DESCRIPTOR.serialized_pb) for file in OWN]
        self._files = {file.name: file for file in [*described, *own]}
        self.messages = [descriptor for name in sorted(self._files) for descriptor in self._load(name)]

    def find(self, full_name: str) -> Descriptor:
        """A message by its full name."""
        return self._pool.FindMessageTypeByName(full_name)

    def _load(self, name: str) -> list[Descriptor]:
        """Adds a file and its imports; none where one of these is missing or the runtime refuses it."""
        try:
            self._add(name, set())
        except (KeyError, TypeError, RecursionError):
            return []
        found = list(self._pool.FindFileByName(name).message_types_by_name.values())
        for message in found:
            found.extend(nested for nested in message.nested_types if not nested.GetOptions().map_entry)
        return [message for message in found if message.fields]

    def _add(self, name: str, importing: set[str]) -> None:
        if name in self._added:
            return
        file = self._files[name]
        if name in importing:
            raise RecursionError(f"{name} imports itself")
        for imported in file.dependency:
            self._add(imported, importing | {name})
        self._pool.Add(file)
        self._added.add(name)


def serialised(source: bytes) -> list[FileDescriptorProto]:
    """The descriptors in a generated module, of today's form and of that of protobuf 3."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [argument for argument in node.args if name == "AddSerializedFile"]
        given += [keyword.value for keyword in node.keywords if keyword.arg == "serialized_pb"]
        for value in given:
            text = value.args[0] if isinstance(value, ast.Call) and value.args else value
            if isinstance(text, ast.Constant) and isinstance(text.value, bytes | str):
                data = text.value if isinstance(text.value, bytes) else text.value.encode("latin-1")
                found.append(FileDescriptorProto.FromString(data))
    return found
