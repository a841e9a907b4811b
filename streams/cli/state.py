"""`streams state`: looks at keyed state, asks for snapshots of it, verifies it, rebuilds it. Beside running workers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from streams._native import RESERVED_PREFIX, ROW_FORMAT, Records, decode_row
from streams.cli import flags, groups, reading, rebuilding, replacing, taking_over, upgrading, verifying
from streams.cli.sources import source_of, sync_of, topics_of
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.client.held import HeldStates
from streams.delivery.body import JsonForm
from streams.errors import Finding, FindingsError, InputError, SettingsError, StateError, TransportError
from streams.kernel.messages import descriptor_of, load_message
from streams.options import Settings, SyncSettings
from streams.v1.resync_pb2 import Resync

REQUESTER = "streams-state"
PARCEL_RECORDS = 100
"""Snapshots are asked for in parcels of so many, so that the rate is even."""


@click.group(
    epilog="""\b
Examples:
  streams state get devices d-17 --config streams.toml
  streams state snapshot devices d-17 --config streams.toml
  streams state snapshot devices --all --per-second 200 --config streams.toml
  streams state verify devices --config streams.toml
"""
)
def command() -> None:
    """Look at, snapshot, verify, rebuild or upgrade keyed state; decide about topics that were replaced."""


def _settings(config: Path | None, broker: str | None, set_: Sequence[str], app_id: str | None) -> Settings:
    return flags.chosen(config, broker, set_, required=["app.id"], app__id=app_id)


def _id_option(function: Any) -> Any:
    return click.option("--id", "app_id", metavar="ID", help="The application, where no file says it.")(function)


def _message_class(sync: SyncSettings, required: bool) -> type[Message] | None:
    """The message type of a [[sync]]; None where nothing names it."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if sync.message:
        return load_message(sync.message, descriptors=sync.descriptors or None, module=sync.module or None)
    if required:
        raise SettingsError(
            Finding("--config", f"no [[sync]] with source {sync.source}", "one that names its message type")
        )
    return None


def _key(text: str, is_hex: bool) -> bytes:
    try:
        return bytes.fromhex(text) if is_hex else text.encode()
    except ValueError as error:
        raise SettingsError(Finding("KEY", f"a text of {len(text)} characters", "hexadecimal digits")) from error


@command.command()
@click.argument("source")
@click.argument("key")
@flags.shared
@_id_option
@click.option("--hex", "is_hex", is_flag=True, help="KEY is hexadecimal.")
def get(
    source: str,
    key: str,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
    is_hex: bool,
) -> None:
    """Print what is stored of a key as JSON, as of the last commit; no worker has to run.

    The whole changelog is read: seconds for a million keys.
    """
    settings = _settings(config, broker, set_, app_id)
    wanted, topic = _key(key, is_hex), topics_of(settings, source).changelog
    found: tuple[int, bytes] | None = None
    for partition, records in reading.read_all(settings, topic):
        for index in range(len(records)):
            if records.key(index) == wanted:
                value = records.value(index)
                found = None if value is None else (partition, value)
    if found is None:
        raise StateError(f"{topic}: no row of this key; expected one that an event of {source} has made", table=source)
    click.echo(json.dumps(_shown(source, key, *found, _message_class(sync_of(settings, source), False)), indent=2))


def _shown(source: str, key: str, partition: int, value: bytes, kind: type[Message] | None) -> dict[str, Any]:
    """A row for people: the message as JSON, or its bytes where the type is not known."""
    row = decode_row(value)
    shown: dict[str, Any] = {
        "source": source, "key": key, "partition": partition, "epoch": row["epoch"], "revision": row["revision"],
        "offset": row["offset"], "sequences": {f"{hashed:016x}": last for hashed, last in row["sequences"].items()},
        "event_time": _instant(row["event_time_us"], 1_000_000), "deleted_at": _instant(row["deleted_at_ms"], 1_000),
        "schema": f"{row['schema']:016x}",
    }  # fmt: skip
    if row["tombstone"]:
        shown["message"] = None
    elif kind is None:
        shown["message_hex"] = row["message"].hex()
    else:
        shown |= shown_message(kind, row["message"])
    return shown


def shown_message(kind: type[Message], data: bytes) -> dict[str, Any]:
    """A message as Protobuf's JSON; field by field where that cannot say it, and as bytes where JSON cannot.

    It has no word for an Any of a type that is not at hand, NaN in a Struct, a time out of range, many a FieldMask.
    """
    try:
        message = kind.FromString(data)
        fields = JsonForm(kind).fields(message)
    except (DecodeError, InputError):
        return {"message_hex": data.hex()}
    pool = cast(Any, descriptor_of(kind).file.pool)
    try:
        told = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool)
    except (json_format.Error, TypeError, ValueError):
        return {"message": fields}
    return {"message": told}


def _instant(ticks: int | None, per_second: int) -> str | None:
    try:
        return None if ticks is None else datetime.fromtimestamp(ticks / per_second, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


@command.command()
@click.argument("source")
@click.argument("key", required=False)
@flags.shared
@_id_option
@click.option("--hex", "is_hex", is_flag=True, help="KEY is hexadecimal.")
@click.option("--all", "every", is_flag=True, help="Every key, for receivers that join late.")
@click.option("--per-second", type=click.IntRange(1, 100_000), default=500, show_default=True,
              help="With --all: at most so many, so that the workers keep up with their events.")  # fmt: skip
def snapshot(
    source: str,
    key: str | None,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
    is_hex: bool,
    every: bool,
    per_second: int,
) -> None:
    """Ask the owner of a key, or of all keys, to emit a snapshot of its current revision."""
    if (key is None) != every:
        raise SettingsError(Finding("KEY", "a key and --all" if every else "neither", "either a key or --all"))
    settings = _settings(config, broker, set_, app_id)
    topics = topics_of(settings, source)
    rows = reading.latest(settings, topics.changelog)
    wanted = None if key is None else _key(key, is_hex)
    keyed = [place for place in rows if not place[1].startswith(RESERVED_PREFIX)]
    places = [place for place in keyed if wanted is None or place[1] == wanted]
    if not places:
        raise StateError(
            f"{source}: no row of {'any key' if every else f'key {key}'}; nothing to ask for", table=source
        )
    asked = _ask(settings, topics.resync, places, [], per_second)
    click.echo(f"{asked} snapshots asked for on {source}.resync", err=True)


@command.command("reset-sequence")
@click.argument("source")
@click.argument("key")
@flags.shared
@_id_option
@click.option("--hex", "is_hex", is_flag=True, help="KEY is hexadecimal.")
def reset_sequence(
    source: str,
    key: str,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
    is_hex: bool,
) -> None:
    """Let a key accept events again whose source began its sequence anew: its last sequences and ids are forgotten."""
    settings = _settings(config, broker, set_, app_id)
    wanted, topics = _key(key, is_hex), topics_of(settings, source)
    places = [place for place in reading.latest(settings, topics.changelog) if place[1] == wanted]
    if not places:
        raise StateError(f"{source}: no row of this key; nothing to reset", table=source)
    _ask(settings, topics.resync, places, [("reset-sequence", b"")], per_second=PARCEL_RECORDS)
    click.echo(f"reset asked for on {source}.resync", err=True)


def _ask(
    settings: Settings,
    resync: str,
    places: Iterable[tuple[int, bytes]],
    headers: Sequence[tuple[str, bytes | None]],
    per_second: int,
) -> int:
    """Puts a request for each key on the partition that has it, at an even rate; returns how many."""
    by_partition: dict[int, list[bytes]] = {}
    for partition, key in places:
        by_partition.setdefault(partition, []).append(key)
    value = Resync(requester=REQUESTER, reason=Resync.OPERATOR).SerializeToString()
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    parcel, asked = min(PARCEL_RECORDS, per_second), 0
    started_s = time.monotonic()
    try:
        for partition, keys in by_partition.items():
            for first in range(0, len(keys), parcel):
                records = Records()
                for key in keys[first : first + parcel]:
                    records.append(key, value, headers)
                for outcome in writer.write(resync, records, partition):
                    if isinstance(outcome, TransportError):
                        raise outcome
                asked += len(records)
                time.sleep(max(0.0, started_s + asked / per_second - time.monotonic()))
    finally:
        writer.close()
    return asked


@command.command()
@click.argument("source")
@flags.shared
@_id_option
def verify(source: str, config: Path | None, broker: str | None, set_: Sequence[str], app_id: str | None) -> None:
    """Apply every patch of SOURCE as a receiver does and compare with the stored state. Exit code 3: findings."""
    settings = _settings(config, broker, set_, app_id)
    sync = sync_of(settings, source)
    kind = _message_class(sync, True)
    assert kind is not None  # required
    topics = topics_of(settings, source)
    rows = reading.latest(settings, topics.changelog)
    held = HeldStates(kind, requester=REQUESTER, asks=None)
    for partition, records in reading.read_all(settings, topics.output):
        for index in range(len(records)):
            held.take(
                partition, records.offset(index), records.key(index), records.value(index), records.headers(index)
            )
    verified = verifying.compare(source, rows, held, lambda: reading.latest(settings, topics.changelog))
    click.echo(f"{verified.rows} rows: {verified.equal} equal, {verified.moved_on} moved on meanwhile")
    if verified.findings:
        raise FindingsError(*verified.findings)


@command.command()
@click.argument("source")
@flags.shared
@_id_option
@click.option("--from-source", is_flag=True, help="Not from the changelog but from the events: keys get a new epoch.")
@click.option("--partial", is_flag=True, help="With --from-source: also where the source lacks its beginning.")
@click.option("--yes", is_flag=True, help="Do it; without this the command only says what it would do.")
def rebuild(
    source: str,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
    from_source: bool,
    partial: bool,
    yes: bool,
) -> None:
    """Remove local state of SOURCE, so that the next worker restores it from the changelog. Stop the workers before.

    With --from-source the changelog goes too, and the next worker reads all events again: every key gets a new epoch,
    and receivers a snapshot of it. Keys whose events the source has no more would be forgotten: refused, but with
    --partial, after which no request about an unknown key is answered with DELETE.
    """
    settings = _settings(config, broker, set_, app_id)
    _do(rebuilding.steps(settings, source, from_source=from_source, partial=partial), yes)


@command.command("take-over")
@click.argument("source")
@flags.shared
@_id_option
@click.option("--partial", is_flag=True, help="Also where the source lacks its beginning; see rebuild.")
@click.option("--yes", is_flag=True, help="Do it; without this the command only says what it would do.")
def take_over(
    source: str,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
    partial: bool,
    yes: bool,
) -> None:
    """Make this application the owner of the patches of SOURCE. Stop the workers of both applications before.

    Every key gets a new epoch, above all in the output, and receivers a snapshot of it.
    """
    settings = _settings(config, broker, set_, app_id)
    _do(list(taking_over.steps(settings, source, topics_of(settings, source), partial=partial)), yes)


def _do(steps: Sequence[rebuilding.Step], yes: bool) -> None:
    """Says each step, and does it with `yes`."""
    for step in steps:
        click.echo(f"{'' if yes else 'would '}{step.what}")
        if yes:
            step.act()
    if not steps:
        click.echo("nothing to do", err=True)
    elif not yes:
        click.echo("nothing was changed; add --yes to do it", err=True)


@command.command()
@click.argument("source")
@flags.shared
@_id_option
def upgrade(source: str, config: Path | None, broker: str | None, set_: Sequence[str], app_id: str | None) -> None:
    """Let the workers write the newest format of stored state, once all of them run this release and were stopped.

    Workers that run meanwhile go on in the old format until their next start. An embedded log, which no process may
    have open, gets checksums; no older release opens it then. Killed in the middle, the next upgrade goes on.
    """
    settings = _settings(config, broker, set_, app_id)
    directory = reading.embedded_directory(settings)
    if directory is not None:
        sealed = upgrading.upgrade_log(directory)
        told = "the newest format: nothing to do" if sealed is None else f"{sealed} blocks upgraded, with checksums now"
        click.echo(f"{directory}: {told}")
    for done in upgrading.upgrade(settings, topics_of(settings, source)):
        what = f"upgraded to format {ROW_FORMAT}" if done.written else f"format {ROW_FORMAT}, the newest: nothing to do"
        click.echo(f"{source} partition {done.partition}: {done.rows} rows, {what}")


@command.command()
@click.argument("topic")
@flags.shared
@_id_option
@click.option("--from", "start", type=click.Choice(["committed", "beginning"]), required=True,
              help="Where reading goes on: at the committed offsets, or from the beginning.")  # fmt: skip
def replaced(
    topic: str, config: Path | None, broker: str | None, set_: Sequence[str], app_id: str | None, start: str
) -> None:
    """Decide where reading TOPIC goes on that is another log than before. Stop all workers first.

    A topic that was deleted and made anew, a cluster that was mirrored or restored, offsets that the topic does not
    have any more. What the rows know of the old log's offsets judges nothing any more; ids and sequences do.
    """
    settings = _settings(config, broker, set_, app_id)
    own = topics_of(settings, source_of(settings, topic))
    ids = groups.ids(settings, [topic, own.changelog])
    rows = {place.partition: place.bounds for place in groups.places(settings, own.changelog)}
    places = groups.places(settings, topic)
    moved = replacing.moves(topic, ids.get(topic, b""), places, start, ids.get(own.changelog, b""), rows)
    groups.move(settings, topic, moved)
    click.echo(f"{topic}: group {settings.app.id} goes on at {', '.join(f'{at}/{offset}' for at, offset, _ in moved)}")
