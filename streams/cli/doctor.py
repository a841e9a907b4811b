"""`streams doctor`: looks at topics, stored schema, clock and disk, and names what is wrong with its cure."""

from __future__ import annotations

import http.client
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from streams._native import KafkaAdmin
from streams.cli import checks, flags, reading, resume, verifying, writers
from streams.cli.sources import as_found
from streams.cli.stored import log_facts, schema_changes, stored
from streams.clock import SYSTEM_CLOCK
from streams.errors import FindingsError
from streams.options import Settings, SyncSettings
from streams.sync.topics import SyncTopics
from streams.transport.log import Log

TIMEOUT_MS = 10_000
WORKER_TIMEOUT_S = 2.0
"""A worker answers /readyz from memory; one that needs longer is busy, which is no finding."""


@click.command(
    epilog="""\b
Examples:
  streams doctor --config streams.toml
  streams doctor --config streams.toml || alert "the pipeline needs a look"

Exit codes: 0 nothing found, 1 the broker does not answer, 2 settings, 3 findings.
"""
)
@flags.shared
def command(config: Path | None, broker: str | None, set_: Sequence[str]) -> None:
    """Check topics, partition counts, changelog, retentions, sizes, schema against stored state, clock and disk.

    Also what the worker on this machine waits for, where one runs. Nothing is changed, and no worker is disturbed.
    """
    settings = as_found(flags.chosen(config, broker, set_, required=["app.id"]))
    found = tuple(checks.findings(settings, look(settings)))
    if found:
        raise FindingsError(*found)
    click.echo(f"nothing found: {settings.app.broker}, {len(settings.sync)} syncs")


def look(settings: Settings) -> checks.Facts:
    """Everything that is judged. TransportError: the broker does not answer."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    wanted = [SyncTopics.of(settings.app.id, sync.source, sync.output, sync.partitioning) for sync in settings.sync]
    names = {name for t in wanted for name in (t.source, t.rekey, t.output, t.resync, t.dead_letters, t.changelog)}
    names.discard("")
    directory = reading.embedded_directory(settings)
    there = _topics_of_kafka(settings, names) if directory is None else _topics_of_log(directory, names)
    syncs = {
        topics.source: sync
        for topics, sync in zip(wanted, settings.sync, strict=True)
        if {topics.input, topics.changelog} <= there.keys()
    }
    kept = {source: stored(settings, SyncTopics.of(settings.app.id, source, "").changelog) for source in syncs}
    said = _said(settings)
    return checks.Facts(
        topics=there,
        now_ms=SYSTEM_CLOCK.now_ms(),
        disk_free_bytes=_disk_free(Path(settings.app.datadir)),
        schema_changes={source: schema_changes(settings, sync, kept[source]) for source, sync in syncs.items()},
        newest_ms=_newest(settings, there),
        logs=[facts for source, sync in syncs.items() for facts in log_facts(settings, sync, kept[source])],
        replaced=said.get("replaced", {}),
        waiting=said.get("reasons", {}),
        others=writers.others(settings, wanted),
        split_keys={
            topics.source: verifying.split_keys(reading.latest(settings, topics.changelog))
            for topics in wanted
            if topics.changelog in there
        },
        stops={sync.source: _stops(settings, sync, there) for sync in settings.sync},
    )


def _topics_of_kafka(settings: Settings, names: set[str]) -> dict[str, checks.TopicFacts]:
    admin = reading.native(KafkaAdmin, settings)
    there = admin.topics(TIMEOUT_MS)
    return {
        name: checks.TopicFacts(there[name], admin.topic_config(name, TIMEOUT_MS)) for name in names if name in there
    }


def _topics_of_log(directory: Path, names: set[str]) -> dict[str, checks.TopicFacts]:
    with Log(directory, readonly=True) as log:
        return {
            name: checks.TopicFacts(
                topic.partitions,
                {
                    "cleanup.policy": topic.cleanup,
                    "retention.ms": str(topic.retention_ms),
                    "max.message.bytes": str(topic.record_bytes_max),
                },
            )
            for name, topic in log.topics().items()
            if name in names
        }


def _said(settings: Settings) -> dict[str, dict[str, str]]:
    """What the worker at app.web_host and app.web_port waits for, and which topics it found replaced."""
    connection = http.client.HTTPConnection(settings.app.web_host, settings.app.web_port, timeout=WORKER_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        told = orjson.loads(connection.getresponse().read())
        return {
            kind: {str(name): str(text) for name, text in told.get(kind, {}).items()}
            for kind in ("reasons", "replaced")
        }
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
        return {}  # nobody there, or somebody else
    finally:
        connection.close()


def _stops(settings: Settings, sync: SyncSettings, topics: dict[str, checks.TopicFacts]) -> list[checks.Stopped]:
    """The partitions of a sync that stand still, as its changelog has them."""
    wanted = SyncTopics.of(settings.app.id, sync.source, sync.output, sync.partitioning)
    if wanted.changelog not in topics:
        return []
    return [
        checks.Stopped(topic, partition, stop["since_ms"], stop["count"])
        for partition, by_topic in sorted(resume.stops(settings, wanted).items())
        for topic, stop in by_topic.items()
    ]


def _disk_free(path: Path) -> int:
    """Free bytes where the directory is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _newest(settings: Settings, topics: dict[str, checks.TopicFacts]) -> dict[str, int]:
    """The latest timestamp among the last records of each source."""
    found: dict[str, int] = {}
    for sync in settings.sync:
        if sync.source in topics:
            stamps = reading.last_timestamps(settings, sync.source, topics[sync.source].partitions)
            if stamps:
                found[sync.source] = max(stamps)
    return found
