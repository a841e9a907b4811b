"""Load a message class by its full name, from a FileDescriptorSet or from a generated module."""

from __future__ import annotations

import difflib
import importlib
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import cast

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.runtime_version import VersionError

from streams.errors import SchemaError

_PROTOC = "make it with `protoc --include_imports --descriptor_set_out=FILE ...`"


def require_upb() -> None:
    """Refuse every Protobuf runtime but upb, whose deterministic encoding the canonical form is defined by."""
    runtime = api_implementation.Type()
    if runtime != "upb":
        raise SchemaError(
            f"the Protobuf runtime is {runtime!r}, expected 'upb' (its encoding defines the canonical form and it is "
            "30 times as fast); unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a binary wheel of protobuf",
            came=runtime,
            wanted="upb",
        )


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """The descriptor of a message or of a message class; typed as the stubs of Protobuf's runtimes agree on."""
    # Of the class: a field may be called DESCRIPTOR.
    return cast(Descriptor, (type(message) if isinstance(message, Message) else message).DESCRIPTOR)


_SETS: dict[DescriptorPool, list[str]] = {}
"""The files of each set that was loaded, by its pool: a pool does not list them."""
_OWN_FILES = ("streams/", "google/protobuf/")


def known_names(descriptor: Descriptor) -> list[str]:
    """Return the full names of all messages that this process has loaded, this one's among them, in order.

    Those of every FileDescriptorSet and of all generated modules that are imported by now: the other syncs of a worker
    are where a stray record belongs. Of our own and Protobuf's files only where this message is loaded beside them.
    """
    pool = descriptor.file.pool
    modules = [getattr(module, "DESCRIPTOR", None) for module in list(sys.modules.values())]
    waiting = [file for file in modules if isinstance(file, FileDescriptor)]
    waiting.extend(each.FindFileByName(name) for each, names in _SETS.items() for name in names)
    waiting.append(descriptor.file)
    files: dict[tuple[DescriptorPool, str], FileDescriptor] = {}
    while waiting:
        file = waiting.pop()
        counts = file.pool == pool or not file.name.startswith(_OWN_FILES)
        if counts and (file.pool, file.name) not in files:
            files[file.pool, file.name] = file
            waiting.extend(file.dependencies)
    names: set[str] = set()
    messages = [message for file in files.values() for message in file.message_types_by_name.values()]
    while messages:
        message = messages.pop()
        if not message.GetOptions().map_entry:
            names.add(message.full_name)
            messages.extend(message.nested_types)
    return sorted(names)


def load_message(name: str, *, descriptors: str | Path | None = None, module: str | None = None) -> type[Message]:
    """Return the class of the message type with the full name `name`.

    `descriptors` is the path of a FileDescriptorSet with all imports; its types live in a pool of their own. `module`
    is a generated Python module. Exactly one of the two is wanted. Raises SchemaError that names the source, what was
    found in it, what was wanted and the cure.
    """
    require_upb()
    if (descriptors is None) == (module is None):
        found = "neither" if module is None else "both"
        raise SchemaError(
            f"message {name}: got {found} of `descriptors` and `module`, expected exactly one; "
            "give the path of a FileDescriptorSet, or the name of a generated module",
            type=name,
        )
    if module is not None:
        return GetMessageClass(_from_module(name, module))
    return GetMessageClass(_from_set(name, Path(str(descriptors))))


def _from_module(name: str, module: str) -> Descriptor:
    try:
        file = importlib.import_module(module).DESCRIPTOR
    except ImportError as error:
        raise SchemaError(
            f"module {module} cannot be imported ({error}), expected the module that protoc generated for {name}; "
            "check `module` and that its directory is on PYTHONPATH",
            type=name,
        ) from error
    except VersionError as error:
        raise SchemaError(
            f"module {module} was generated for another Protobuf runtime than this process has: {error} "
            "Install the runtime that it wants, generate it with the protoc of this one, or give `descriptors`, a "
            "FileDescriptorSet, which every runtime reads",
            type=name,
        ) from error
    except (AttributeError, TypeError) as error:
        # protobuf raises TypeError where two files define the same symbols
        raise SchemaError(
            f"module {module} is no generated Protobuf module ({error}), expected the one that protoc made for {name}",
            type=name,
        ) from error
    if not isinstance(file, FileDescriptor):
        raise SchemaError(
            f"module {module} is no generated Protobuf module, expected the one that protoc made for {name}",
            type=name,
        )
    try:
        return file.pool.FindMessageTypeByName(name)
    except KeyError:
        found = [message.full_name for message in file.message_types_by_name.values()]
        raise _missing(name, f"module {module}", found) from None


def _from_set(name: str, path: Path) -> Descriptor:
    try:
        files = FileDescriptorSet.FromString(path.read_bytes()).file
    except OSError as error:
        raise SchemaError(
            f"descriptors {path}: {error.strerror}, expected a FileDescriptorSet with {name}; {_PROTOC}", type=name
        ) from error
    except DecodeError as error:
        raise SchemaError(
            f"descriptors {path}: not a FileDescriptorSet (a .proto source?), expected one with {name}; {_PROTOC}",
            type=name,
        ) from error
    pool = DescriptorPool()
    for file in _ordered(list(files), path, name):
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise SchemaError(
                f"descriptors {path}: {file.name} is refused by the Protobuf runtime ({error}); {_PROTOC}", type=name
            ) from error
    _SETS[pool] = [file.name for file in files]
    try:
        return pool.FindMessageTypeByName(name)
    except KeyError:
        found = [f"{file.package}.{message.name}".lstrip(".") for file in files for message in file.message_type]
        raise _missing(name, f"descriptors {path}", found) from None


def _ordered(files: list[FileDescriptorProto], path: Path, name: str) -> list[FileDescriptorProto]:
    """The files of a set, each after its imports."""
    by_name = {file.name: file for file in files}
    for file in files:
        for imported in file.dependency:
            if imported not in by_name:
                raise SchemaError(
                    f"descriptors {path}: {file.name} imports {imported}, which is not in it, "
                    f"expected {name} with all imports; {_PROTOC}",
                    type=name,
                )
    try:
        order = list(TopologicalSorter({file.name: file.dependency for file in files}).static_order())
    except CycleError as error:
        raise SchemaError(
            f"descriptors {path}: its files import each other in a circle; {_PROTOC}", type=name
        ) from error
    return [by_name[file] for file in order]


def _missing(name: str, where: str, found: list[str]) -> SchemaError:
    """`name` is not in `where`; names what is nearest."""
    near = difflib.get_close_matches(name, found, n=3, cutoff=0.4) or sorted(found)[:3]
    listed = ", ".join(near) if near else "no message at all"
    return SchemaError(
        f"{where} has no message {name}; it has {listed}; `message` wants the full name, package included",
        type=name,
        came=listed,
        wanted=name,
    )
