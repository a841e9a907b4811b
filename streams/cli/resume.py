"""`streams resume`: lets partitions go on that too many dead letters stopped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streams._native import PARTITION_KEY, Records, decode_partition
from streams.cli import flags, reading
from streams.cli.sources import topics_of
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.errors import Finding, SettingsError, TransportError
from streams.options import Settings
from streams.sync.topics import SyncTopics

if TYPE_CHECKING:
    from streams._native import StopFields

__all__ = ["command", "stops"]

HEADER = "resume"


@click.command(
    epilog="""\b
Examples:
  streams resume devices --config streams.toml
  streams resume devices --partition 3 --config streams.toml

Exit codes: 0 done, 1 failed, 2 settings.
"""
)
@click.argument("source")
@click.option(
    "--partition", type=click.IntRange(min=0), metavar="N", help="Only this one; default: all that are stopped."
)
@flags.shared
@click.option("--id", "app_id", metavar="ID", help="The application, where no file says it.")
def command(
    source: str,
    partition: int | None,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    app_id: str | None,
) -> None:
    """Let the stopped partitions of SOURCE go on where they stopped; dead letters are counted from 0 again.

    The owner of a partition does it, within a second; where no worker runs, the one that starts within a day does.
    An embedded log is its worker's alone: stop that one, ask, and start it again.
    """
    settings = flags.chosen(config, broker, set_, required=["app.id"], app__id=app_id)
    topics = topics_of(settings, source)
    counts = reading.ends(settings, topics.resync)[topics.resync]
    if partition is not None and partition not in counts:
        raise SettingsError(
            Finding("--partition", str(partition), f"one of the {len(counts)} partitions that {source} has")
        )
    stopped = stops(settings, topics)
    wanted = sorted(counts) if partition is None else [partition]
    asked = [number for number in wanted if number in stopped]
    for number in asked:
        since_ms = max(stop["since_ms"] for stop in stopped[number].values())
        _ask(settings, topics, number, since_ms)
        click.echo(f"{source} partition {number}: asked to go on, stopped since {_instant(since_ms)}")
    for number in wanted if partition is not None or not asked else ():
        if number not in stopped:
            click.echo(f"{source} partition {number}: not stopped, as of its changelog; nothing to do")


def stops(settings: Settings, topics: SyncTopics) -> dict[int, dict[str, StopFields]]:
    """The stopped partitions of a sync, as committed: their stops by the topic that is not read."""
    found: dict[int, dict[str, StopFields]] = {}
    for (partition, key), value in reading.latest(settings, topics.changelog).items():
        if key != PARTITION_KEY:
            continue
        record = decode_partition(value)
        noted = {topics.source: record["stop_before"], topics.input: record["stop"]}
        stopped = {topic: stop for topic, stop in noted.items() if stop is not None}
        if stopped:
            found[partition] = stopped
    return found


def _ask(settings: Settings, topics: SyncTopics, partition: int, until_ms: int) -> None:
    """Puts the request where the partition's owner reads it: for stops up to the one that was seen, no later one."""
    records = Records()
    records.append(None, b"", [(HEADER, str(until_ms).encode())])
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    try:
        for outcome in writer.write(topics.resync, records, partition):
            if isinstance(outcome, TransportError):
                raise outcome
    finally:
        writer.close()


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
