"""`streams produce`: sends the events of a file, or of standard input, to a topic."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple, cast

import click
from google.protobuf.message import Message

from streams._native import KafkaAdmin
from streams.cli import flags, reading, rows
from streams.cli.interrupt import ends_in_time
from streams.client.event import Event, Format
from streams.client.producer import Producer
from streams.errors import Finding, InputError, SettingsError
from streams.kernel.messages import load_message
from streams.options import Settings, SyncSettings


class Framing(NamedTuple):
    """How messages become records: the format, and for Confluent framing the registry's id of the schema."""

    format: Format
    schema_id: int | None


@click.command(
    epilog="""\b
Examples:
  streams produce devices states.jsonl --module acme.fleet_pb2 --message acme.fleet.v1.DeviceState --key device_id
  streams produce devices states.csv --config streams.toml --key device_id --sequence version
  generate | streams produce devices - --input protobuf --descriptors fleet.binpb --message acme.DeviceState --key id
"""
)
@click.argument("topic")
@click.argument("file", type=click.Path(allow_dash=True))
@flags.shared
@click.option("--message", help="Full name of the message type; with --config: that of the [[sync]] of this topic.")
@click.option("--descriptors", help="File with a FileDescriptorSet that has the type.")
@click.option("--module", help="Or the generated Python module that has it.")
@click.option("--key", metavar="FIELD", help="Field that holds the entity key, e.g. device_id or owner.id.")
@click.option("--sequence", metavar="FIELD", help="Field that holds the source's own sequence.")
@click.option("--source", default="/streams/produce", show_default=True, help="Who sends: the CloudEvents source.")
@click.option("--format", "format_", type=click.Choice(["cloudevents", "plain", "confluent"]), default="cloudevents",
              show_default=True, help="How the message is framed.")  # fmt: skip
@click.option("--schema-id", type=int, help="The registry's id of the schema; for --format confluent.")
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Make the topic with so many, if there is none.")
@click.option("--input", "kind", type=click.Choice(rows.KINDS), help="What the file holds; default: by its suffix.")
def command(
    topic: str,
    file: str,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    message: str | None,
    descriptors: str | None,
    module: str | None,
    key: str | None,
    sequence: str | None,
    source: str,
    format_: str,
    schema_id: int | None,
    partitions: int | None,
    kind: str | None,
) -> None:
    """Send the events of FILE (- is standard input) to TOPIC: JSON lines, CSV or length-delimited Protobuf.

    Each event is the full state of one entity. Events of one key keep their order, on the partition that the Java
    client would choose.
    """
    settings = flags.chosen(config, broker, set_)
    sync = _completed(settings, topic, message, descriptors, module)
    key = key or (sync.key.removeprefix("field:") if sync.key.startswith("field:") else None)
    kind = kind or rows.kind_of(file)
    missing = [
        Finding(name, "nothing", wanted, cure)
        for name, value, wanted, cure in (
            ("--message", sync.message, "a message type", "or --config with a [[sync]] of this topic"),
            ("--key", key, "a field", "the entity key decides the partition"),
            ("--input", kind, "json, csv or protobuf", "the file's suffix does not say"),
        )
        if not value
    ]
    if missing:
        raise SettingsError(*missing)
    kind_of_message = load_message(sync.message, descriptors=sync.descriptors or None, module=sync.module or None)
    started_s = time.monotonic()
    with _opened(file) as stream, ends_in_time():
        if reading.embedded_directory(settings) is None:  # a send waits for two minutes before it says so
            reading.native(KafkaAdmin, settings).topics(reading.LOOK_TIMEOUT_MS)
        found = rows.messages(stream, str(kind), kind_of_message)
        events = _events(found, str(key), sequence)
        count = asyncio.run(
            _send(settings, topic, events, source, Framing(cast(Format, format_), schema_id), partitions)
        )
    seconds = time.monotonic() - started_s
    click.echo(f"{count} events sent to {topic} in {seconds:.1f} s", err=True)


def _opened(file: str) -> AbstractContextManager[IO[bytes]]:
    """The file, or standard input. SettingsError: it cannot be read."""
    try:
        return cast(AbstractContextManager[IO[bytes]], click.open_file(file, "rb"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        shown = "a URL" if "://" in file else file
        raise SettingsError(
            Finding("FILE", f"{shown} ({why})", "a file that can be read, or - for the input")
        ) from None


def _completed(
    settings: Settings, topic: str, message: str | None, descriptors: str | None, module: str | None
) -> SyncSettings:
    """The type as the flags name it, else as the [[sync]] of this topic does."""
    for sync in settings.sync:
        if sync.source == topic and not (message or descriptors or module):
            return sync
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return SyncSettings(message=message or "", descriptors=descriptors or "", module=module or "")


def _events(found: Iterator[tuple[int, Message]], key: str, sequence: str | None) -> Iterator[Event]:
    """The file's messages as events; InputError names the line or the message's number."""
    for number, message in found:
        text = rows.field_text(message, sequence) if sequence else None
        if text is not None and not (text.isascii() and text.isdigit()):
            raise InputError("sequence", f"line {number}: field {sequence} is no unsigned decimal number")
        yield Event(message, rows.field_text(message, key), sequence=None if text is None else int(text))


async def _send(
    settings: Settings, topic: str, events: Iterable[Event], source: str, framing: Framing, partitions: int | None
) -> int:
    """Sends them all and returns how many; on Ctrl-C or an error what was handed over is waited for."""
    async with Producer(
        settings.app.broker,
        source,
        format=framing.format,
        schema_id=framing.schema_id,
        security=settings.security,
        record_bytes_max=settings.limits.record_bytes_max,
    ) as producer:
        if partitions:
            await producer.create_topic(topic, partitions)
        try:
            return await producer.send_many(topic, events)
        except ValueError as error:
            raise InputError("event", str(error)) from error
