"""From a Protobuf descriptor to what the native kernel needs: field tables, fingerprints, canonical bytes.

A field table is flat: one entry per message type, the root first, fields ascending by number. It holds what the wire
format depends on and nothing else; its native reader is `streams._native.Schema`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FieldOptions,
    FileDescriptorProto,
    FileOptions,
)
from google.protobuf.message import DecodeError, EncodeError, Message

from streams._native import Schema, xxh3_64
from streams.errors import SchemaError
from streams.kernel.messages import descriptor_of, require_upb

Field = tuple[int, int, int, int, int, str, list[int] | None]
"""Number, kind, flags, index of the child message or 0, index of the oneof or -1, name, values of a closed enum."""
FieldTable = list[tuple[str, list[Field]]]

INT32, INT64, UINT32, UINT64, BOOL, FIX32, FIX64, STR, BYTES, MSG, GROUP, CENUM = range(12)
"""Kinds, by what the wire can hold. An open enum is an INT32; sint32 and sint64 are UINT32 and UINT64."""
REPEATED, PACKED, IMPLICIT, MAP, UTF8, SIGNED = 1, 2, 4, 8, 16, 32
"""Flags. IMPLICIT: no presence, a default is not on the wire. UTF8: the bytes must be valid UTF-8. SIGNED: an UINT32 or
UINT64 is zigzag, a FIX32 or FIX64 is two's complement; map entries are ordered by it."""

KINDS = {
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: UINT64,
    FieldDescriptor.TYPE_SINT32: UINT32,
    FieldDescriptor.TYPE_SINT64: UINT64,
    FieldDescriptor.TYPE_BOOL: BOOL,
    FieldDescriptor.TYPE_FIXED32: FIX32,
    FieldDescriptor.TYPE_SFIXED32: FIX32,
    FieldDescriptor.TYPE_FLOAT: FIX32,
    FieldDescriptor.TYPE_FIXED64: FIX64,
    FieldDescriptor.TYPE_SFIXED64: FIX64,
    FieldDescriptor.TYPE_DOUBLE: FIX64,
    FieldDescriptor.TYPE_STRING: STR,
    FieldDescriptor.TYPE_BYTES: BYTES,
    FieldDescriptor.TYPE_MESSAGE: MSG,
    FieldDescriptor.TYPE_GROUP: GROUP,
    FieldDescriptor.TYPE_ENUM: INT32,
}

_SIGNED_TYPES = {
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_SFIXED32,
    FieldDescriptor.TYPE_SFIXED64,
}

_STORED_FORMAT = 1
"""Of `field_table_bytes`; a release reads every older one."""


def field_table(descriptor: Descriptor) -> FieldTable:
    """Return the field table of `descriptor` and of every message type that it reaches. Extensions are left out."""
    types = _reachable(descriptor)
    index = {message.full_name: at for at, message in enumerate(types)}
    checked: dict[str, dict[tuple[str, int], bool]] = {}
    table: FieldTable = []
    for message in types:
        utf8 = checked.setdefault(message.file.name, _utf8_fields(message.file))
        real = [oneof.full_name for oneof in message.oneofs]
        optional = _proto3_optional(message)
        entry = message.GetOptions().map_entry
        fields: list[Field] = []
        for field in _ascending(message):
            kind, values = KINDS[field.type], None
            if field.enum_type is not None and field.enum_type.is_closed:
                kind, values = CENUM, sorted(field.enum_type.values_by_number)
            oneof = field.containing_oneof
            fields.append(
                (
                    field.number,
                    kind,
                    _flags(field, entry, utf8.get((message.full_name, field.number), False)),
                    index[field.message_type.full_name] if field.message_type is not None else 0,
                    real.index(oneof.full_name) if oneof is not None and field.number not in optional else -1,
                    field.name,
                    values,
                )
            )
        table.append((message.full_name, fields))
    return table


def is_extendable(descriptor: Descriptor) -> bool:
    """Whether `descriptor`, or a message type that it reaches, may have extensions."""
    return any(message.is_extendable for message in _reachable(descriptor))


def field_table_bytes(descriptor: Descriptor) -> bytes:
    """Encode the field table, with each field's declared type, as one deterministic byte string that can be stored."""
    declared = [[_declared(field) for field in _ascending(message)] for message in _reachable(descriptor)]
    content = {"format": _STORED_FORMAT, "messages": field_table(descriptor), "types": declared}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def fingerprint(descriptor: Descriptor) -> int:
    """XXH3-64 of `field_table_bytes`: equal for descriptors that read and write the same bytes under the same names."""
    return xxh3_64(field_table_bytes(descriptor))


def compare(stored: bytes, own: bytes) -> list[str]:
    """Name every field number whose type differs between two field tables; both come from `field_table_bytes`.

    Fields that were added, removed or renamed are fine, and so are packing, presence, oneofs and whether an enum is
    closed: protobuf reads all of these. An empty list means that the stored messages can be read by the own descriptor.
    """
    before, after = _decode(stored), _decode(own)
    findings: list[str] = []
    seen = {(0, 0)}
    pairs = [(0, 0)]
    for at_before, at_after in pairs:
        name, fields = after[at_after]
        for number, (own_name, own_type, own_child) in fields.items():
            if number not in before[at_before][1]:
                continue
            stored_name, stored_type, stored_child = before[at_before][1][number]
            if stored_type != own_type:
                findings.append(
                    f"{name} field {number}: stored as {stored_type} {stored_name}, now {own_type} {own_name}"
                )
            elif own_child and (stored_child, own_child) not in seen:
                seen.add((stored_child, own_child))
                pairs.append((stored_child, own_child))
    return findings


def canonicaliser(message_class: type[Message]) -> Callable[[bytes], bytes | None]:
    """Return a function that re-serialises a message deterministically through upb; None where protobuf rejects it.

    Required fields may be missing. The result is not canonical yet: upb orders the entries of maps in a way of its own,
    so it goes through the native `canonicalise` once more.
    """
    require_upb()

    def canonicalise(message: bytes) -> bytes | None:
        try:
            return message_class.FromString(message).SerializePartialToString(deterministic=True)
        except (DecodeError, EncodeError):
            return None

    return canonicalise


class MessageSchema:
    """All that the kernel needs to know of one message class, worked out once. Immutable, for any number of threads."""

    def __init__(self, message_class: type[Message], ignore: Sequence[str] = ()) -> None:
        """`ignore`: paths whose changes alone give no patch. Raises SchemaError for one that the class lacks."""
        descriptor = descriptor_of(message_class)
        self.message_class = message_class
        self.full_name: str = descriptor.full_name
        self.field_table_bytes = field_table_bytes(descriptor)
        self.fingerprint = xxh3_64(self.field_table_bytes)
        """As in `Patch.schema`."""
        self.through_upb = canonicaliser(message_class)
        try:
            self.native = Schema(field_table(descriptor), ignore, is_extendable(descriptor), self.fingerprint)
        except ValueError as error:
            raise SchemaError(f"{self.full_name}: {error}", type=self.full_name) from error

    def canonicalise(self, message: bytes) -> bytes | None:
        """Return the canonical form of a message, None where protobuf rejects it.

        The result is not canonical where an unknown field carries the number of a known one; such a state has no
        digest, and `native.is_canonical` tells.
        """
        quick = self.native.canonicalise(message)
        if quick is not None:
            return quick
        serialised = self.through_upb(message)
        if serialised is None:
            return None
        # upb orders the entries of maps in its own way
        ordered = self.native.canonicalise(serialised)
        return serialised if ordered is None else ordered


def _ascending(message: Descriptor) -> list[FieldDescriptor]:
    return sorted(message.fields, key=lambda field: field.number)


def _reachable(root: Descriptor) -> list[Descriptor]:
    """The message types that `root` reaches, itself first, in the order of a walk over ascending numbers."""
    types = [root]
    seen = {root.full_name}
    for message in types:
        for field in _ascending(message):
            child = field.message_type
            if child is not None and child.full_name not in seen:
                seen.add(child.full_name)
                types.append(child)
    return types


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _flags(field: FieldDescriptor, entry: bool, utf8: bool) -> int:
    flags = (UTF8 if utf8 else 0) | (SIGNED if field.type in _SIGNED_TYPES else 0)
    if field.is_repeated:
        flags |= REPEATED | (PACKED if field.is_packed else 0) | (MAP if _is_map(field) else 0)
    elif not field.has_presence and not entry:
        flags |= IMPLICIT
    return flags


def _proto3_optional(message: Descriptor) -> set[int]:
    """Numbers of the fields whose oneof only stands for `optional`."""
    proto = DescriptorProto()
    message.CopyToProto(proto)
    return {field.number for field in proto.field if field.proto3_optional}


def _utf8_fields(file: FileDescriptor) -> dict[tuple[str, int], bool]:
    """Whether the strings of a file must be valid UTF-8, by message and number.

    Resolved features have no public accessor in Python. This one can be set on files and fields only.
    """
    proto = FileDescriptorProto.FromString(file.serialized_pb)
    checked: dict[tuple[str, int], bool] = {}

    def verified(options: FileOptions | FieldOptions, outer: bool) -> bool:
        feature = options.features.utf8_validation
        return outer if feature == FeatureSet.UTF8_VALIDATION_UNKNOWN else feature == FeatureSet.VERIFY

    def walk(message: DescriptorProto, scope: str) -> None:
        name = f"{scope}.{message.name}" if scope else message.name
        for field in message.field:
            if field.type == FieldDescriptorProto.TYPE_STRING:
                checked[name, field.number] = verified(field.options, default)
        for nested in message.nested_type:
            walk(nested, name)

    default = verified(proto.options, proto.syntax not in ("", "proto2"))
    for message in proto.message_type:
        walk(message, proto.package)
    return checked


def _declared(field: FieldDescriptor) -> str:
    """The field's type as a .proto file would say it, for people and for `compare`."""
    if _is_map(field):
        return "map"
    name = FieldDescriptorProto.Type.Name(FieldDescriptorProto.Type.ValueType(field.type))
    declared = name.removeprefix("TYPE_").lower()
    return f"repeated {declared}" if field.is_repeated else declared


def _decode(stored: bytes) -> list[tuple[str, dict[int, tuple[str, str, int]]]]:
    """Per message its name and, by number, each field's name, declared type and child index."""
    try:
        content = json.loads(stored)
        found = content["format"]
        if found == _STORED_FORMAT:
            return [
                (name, {row[0]: (row[5], declared, row[3]) for row, declared in zip(rows, types, strict=True)})
                for (name, rows), types in zip(content["messages"], content["types"], strict=True)
            ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SchemaError(
            "the stored field table is damaged; rebuild the state with `streams state rebuild`"
        ) from error
    raise SchemaError(
        f"the stored field table has format {found!r}, this release reads up to {_STORED_FORMAT}; "
        "it was written by a newer release: upgrade this worker",
        came=str(found),
        wanted=str(_STORED_FORMAT),
    )
