"""`streams demo`: the main job on a month of real flights."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Examples:
  streams demo
  streams demo --json --events 2000
  streams demo --broker kafka://127.0.0.1:9092
"""
)
@click.option("--events", "events_limit", type=click.IntRange(1), help="At most so many events; default: the month.")
@click.option("--broker", metavar="URL", help="kafka://host:port or embedded://directory; default: embedded.")
@click.option("--datadir", type=click.Path(path_type=Path), help="Keep its data here; default: gone afterwards.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(events_limit: int | None, broker: str | None, datadir: Path | None, as_json: bool) -> int:
    """Turn a month of flights into events, stream them, and check what a receiver holds against a plain replay.

    Needs no broker: the job runs on the embedded log of this machine. Takes under a minute.
    """
    from streams.demo.run import run

    return run(events_limit=events_limit, broker=broker, datadir=datadir, json=as_json)
