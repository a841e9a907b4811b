"""Files of events as messages: JSON lines, CSV, or Protobuf with a length before each message.

Lazy: one message at a time, whatever the file's size. An error names the line or the message's number and the field,
never a value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from google.protobuf import json_format, proto
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from streams.errors import InputError

__all__ = ["KINDS", "field_text", "kind_of", "messages"]

KINDS = ("json", "csv", "protobuf")
SUFFIXES = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".binpb": "protobuf",
    ".pb": "protobuf",
}

M = TypeVar("M", bound=Message)


def kind_of(name: str) -> str | None:
    """What a file holds, by its suffix; None when that does not say."""
    return SUFFIXES.get(Path(name).suffix.lower())


def messages(stream: IO[bytes], kind: str, message: type[M]) -> Iterator[tuple[int, M]]:
    """The messages of a stream with their numbers, from 1: lines of JSON and CSV, else messages. InputError: see above.

    `kind` is one of KINDS. JSON is Protobuf's own mapping. CSV has a header of field paths (`position.lat`); an empty
    cell leaves its field unset, a cell that begins with `[` or `{` is JSON.
    """
    if kind == "protobuf":
        yield from _protobuf(stream, message)
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    rows = _json(text) if kind == "json" else _csv(text, message)
    for number, row in rows:
        if not isinstance(row, dict):
            raise InputError("decode", f"line {number}: JSON, but no object; expected one object a line")
        try:
            yield number, json_format.ParseDict(row, message(), descriptor_pool=cast(Any, message.DESCRIPTOR.file.pool))
        except json_format.ParseError as error:
            # What follows a colon may be a value.
            told = str(error).partition(":")[0].partition("\n")[0]
            raise InputError("decode", f"line {number}: {told}; expected {message.DESCRIPTOR.full_name}") from None
        except (TypeError, ValueError, AttributeError, SystemError) as error:
            # Protobuf's parser, where a value has a form that it does not ask for, or a name is no text.
            told = f"not {message.DESCRIPTOR.full_name} in Protobuf's JSON ({type(error).__name__})"
            raise InputError("decode", f"line {number}: {told}") from None


def field_text(message: Message, path: str) -> str:
    """The value at a dotted path as the text of a key. InputError: no such field, or one that is no scalar."""
    value: Any = message
    for name in path.split("."):
        field = value.DESCRIPTOR.fields_by_name.get(name) if isinstance(value, Message) else None
        if field is None:
            raise InputError("key", f"{message.DESCRIPTOR.full_name} has no field {path}")
        value = getattr(value, name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InputError("key", f"field {path} is {type(value).__name__}, expected text, bytes or a whole number")
    return str(value)


def _protobuf(stream: IO[bytes], message: type[M]) -> Iterator[tuple[int, M]]:
    number = 0
    while True:
        number += 1
        try:
            found: M | None = proto.parse_length_prefixed(message, cast(io.BytesIO, stream))
        except (DecodeError, ValueError, EOFError, MemoryError, OverflowError) as error:
            raise InputError(
                "decode",
                f"message {number}: not a {message.DESCRIPTOR.full_name} with a varint length before it "
                f"({type(error).__name__})",
            ) from None
        if found is None:
            return
        yield number, found


def _json(text: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                raise InputError("decode", f"line {number}: not JSON{where}; expected one object a line") from None


def _csv(text: IO[str], message: type[Message]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(text, strict=True)
    header = next(reader, [])
    fields = [_field(message, name.strip()) for name in header]
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            raise InputError("decode", f"line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
        row: dict[str, Any] = {}
        for (path, field), cell in zip(fields, cells, strict=True):
            if cell != "":
                place = row
                for name in path[:-1]:
                    place = place.setdefault(name, {})
                place[path[-1]] = _cell(cell, field, reader.line_num)
        yield reader.line_num, row


def _field(message: type[Message], path: str) -> tuple[list[str], FieldDescriptor]:
    """A column's path and its last field."""
    names = path.split(".")
    descriptor: Any = message.DESCRIPTOR
    field: Any = None
    for name in names:
        field = descriptor.fields_by_name.get(name) if descriptor is not None else None
        if field is None:
            raise InputError("decode", f"header: {message.DESCRIPTOR.full_name} has no field {path}")
        descriptor = field.message_type
    return names, field


def _cell(cell: str, field: FieldDescriptor, line: int) -> Any:
    """A cell as JSON would say it: lists and objects are JSON, true and false are words, the mapping does the rest."""
    if field.message_type is not None or field.is_repeated:
        if cell[0] in "[{":
            try:
                return json.loads(cell)
            except (ValueError, RecursionError):
                raise InputError("decode", f"line {line}: field {field.name} is not JSON") from None
        return cell  # a timestamp, a duration or a field mask is text in the mapping
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.lower(), cell)
    return cell
