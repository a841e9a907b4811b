"""`streams circuits`: how every target's circuit stands, with or without a worker; and an operator's word on one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.table import Table

from streams._native import Records
from streams.cli import flags, reading
from streams.client.broker import WriterOptions
from streams.client.connect import open_writer
from streams.errors import StateError, TransportError
from streams.options import Settings
from streams.v1.circuit_pb2 import Circuit
from streams.v1.outcome_pb2 import Outcomes

REPORTER = "streams circuits"
MODES = {
    "force-open": Circuit.FORCED_OPEN,
    "force-closed": Circuit.FORCED_CLOSED,
    "metrics-only": Circuit.METRICS_ONLY,
    "automatic": Circuit.AUTOMATIC,
}


@click.command(
    epilog="""\b
Examples:
  streams circuits --config streams.toml
  streams circuits --config streams.toml --json
  streams circuits force-open billing --config streams.toml
  streams circuits automatic billing --config streams.toml

Exit codes: 0 done, 1 the broker does not answer or no worker with targets has run yet, 2 settings.
"""
)
@click.argument("mode", required=False, type=click.Choice(list(MODES)), metavar="[MODE")
@click.argument("target", required=False, metavar="TARGET]")
@flags.shared
@click.option("--json", "as_json", is_flag=True, help="One array instead of a table.")
def command(
    mode: str | None, target: str | None, config: Path | None, broker: str | None, set_: Sequence[str], as_json: bool
) -> None:
    """Show the circuits of all targets, or set one: force-open, force-closed, metrics-only or automatic.

    A circuit that is forced stays so until it is set to automatic; the owner of the target sees to it, so a worker has
    to run. A target that has never had trouble has no record, and its circuit is closed.
    """
    settings = flags.chosen(config, broker, set_, required=["app.id"])
    if mode is None:
        show(told(settings), as_json)
        return
    if target is None:
        raise click.UsageError(f"{mode} of which target? `streams circuits` lists them")
    if target not in {circuit.target for circuit in told(settings)} | {each.name for each in settings.target}:
        click.echo(f"no circuit and no [[target]] is named {target} here; it is asked for all the same", err=True)
    ask(settings, target, mode)
    click.echo(f"{mode} asked for; the target's owner tells it to all workers", err=True)


def told(settings: Settings) -> list[Circuit]:
    """The last that was told of each target, by name. TransportError: the broker does not answer."""
    topic = f"{settings.app.id}.circuits"
    if not reading.ends(settings, topic)[topic]:
        return []  # no worker with targets has run yet
    last: dict[str, Circuit] = {}
    for _, records in reading.read_all(settings, topic):
        for index in range(len(records)):
            try:
                circuit = Circuit.FromString(records.value(index) or b"")
            except DecodeError:
                where = f"{topic}, offset {records.offset(index)}"
                raise StateError(f"{where}: no circuit, expected what an owner tells; who else writes there?") from None
            held = last.get(circuit.target)
            # By number, not by place: a former owner may have had the last word, which nobody heeds.
            if circuit.target and (held is None or _number(circuit) > _number(held)):
                last[circuit.target] = circuit
    return [last[target] for target in sorted(last)]


def _number(circuit: Circuit) -> tuple[int, int]:
    return circuit.generation, circuit.transition


def show(circuits: Sequence[Circuit], as_json: bool) -> None:
    """Prints them."""
    rows = [
        {
            "target": circuit.target,
            "state": Circuit.State.Name(circuit.state).lower().replace("_", "-"),
            "mode": Circuit.Mode.Name(circuit.mode).lower().replace("_", "-"),
            "reason": circuit.reason,
            "failure_rate": round(circuit.failure_rate, 4),
            "slow_rate": round(circuit.slow_rate, 4),
            "calls": circuit.calls,
            "trips": circuit.trips,
        }
        for circuit in circuits
    ]
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    if not rows:
        click.echo("no circuit has ever changed: all are closed", err=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right" if isinstance(rows[0][name], int | float) else "left")
    for row in rows:
        table.add_row(*(f"{value:.1%}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def ask(settings: Settings, target: str, mode: str) -> None:
    """Writes the wish to where outcomes go. TransportError: no worker has made the topic, or the broker is away."""
    records = Records()
    wish = Outcomes(target=target, reporter=REPORTER, set_mode=MODES[mode])
    records.append(target.encode(), wish.SerializeToString())
    writer = open_writer(settings.app.broker, WriterOptions(security=settings.security))
    try:
        for outcome in writer.write(f"{settings.app.id}.outcomes", records):
            if isinstance(outcome, TransportError):
                raise outcome
    finally:
        writer.close()
