"""`streams bench`: the benchmarks of the checkout that this package was installed from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from streams.errors import EXIT_INTERRUPTED, Finding, SettingsError

__all__ = ["QUESTIONS", "checkout", "command"]

PLACE = Path(__file__).resolve().parents[2]
"""Where the package `streams` lies: the checkout, or site-packages."""
HEADLINE = "headline"
QUESTIONS = {
    "kernel": "What does the kernel cost per event, and where does it go?",
    "compression": "How many bytes go over the wire, in which form?",
    "state": "What does keyed state cost, in memory and in RocksDB?",
    "restore": "How fast does a worker come back, and what does its state weigh?",
    "transport": "What do the transports carry, with no kernel between?",
    "pipeline": "How fast is the main job, on Kafka, outputs checked?",
    "delivery": "How fast do patches reach a receiver, and what does an outage cost?",
    "circuits": "How soon do all workers know of a sick target, what does a long outage lose?",
    "zoo": "Does a healthy receiver keep its rate beside each kind of sick one?",
    "lookups": "What does a look-up cost, and how many requests are saved?",
    "latency": "How long from an event to its patch, and at which load does it break?",
    "scaling": "What does an event cost as keys, messages, partitions and workers grow?",
    "idle": "What does a worker with nothing to do cost?",
    "compare": "The same job on other systems, in one sitting.",
    "all": "Every one after the other, on one broker, each run kept.",
    "report": "Draw the kept runs into one page; hold the README's figures to them.",
}
"""One line per module of `benchmarks/`; those that this checkout lacks are left out."""
MODULES = {"all": "everything"}


def checkout() -> Path:
    """The root of the checkout. SettingsError: the package was installed from a wheel, and there is none."""
    if (PLACE / "benchmarks" / "workload.py").exists() and (PLACE / "pyproject.toml").exists():
        return PLACE
    raise SettingsError(
        Finding(
            "streams bench", f"an installed package in {PLACE}", "a checkout, which has benchmarks/",
            "clone the repository, and call `make venv` and `.venv/bin/streams bench` there",
        )
    )  # fmt: skip


def _path(name: str) -> Path:
    """The module or package of a question."""
    module = MODULES.get(name, name)
    package = PLACE / "benchmarks" / module / "__main__.py"
    return package if package.exists() else PLACE / "benchmarks" / f"{module}.py"


def _run(name: str, arguments: Sequence[str]) -> int:
    """Runs a benchmark as a process of its own; answers its exit code."""
    root = checkout()
    try:
        return subprocess.call([sys.executable, "-m", f"benchmarks.{MODULES.get(name, name)}", *arguments], cwd=root)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _Questions(click.Group):
    """A group whose commands are benchmarks: what follows a name is the benchmark's own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """What this checkout has, in the order of the table; everything where there is no checkout to ask."""
        present = [name for name in QUESTIONS if _path(name).exists()]
        return present or list(QUESTIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a benchmark; None for an unknown name."""
        if cmd_name not in self.list_commands(ctx):
            return None

        def call(arguments: tuple[str, ...]) -> int:
            return _run(cmd_name, arguments)

        return click.Command(
            cmd_name,
            callback=call,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            help=QUESTIONS[cmd_name],
            add_help_option=False,  # `--help` is the benchmark's
            context_settings={"ignore_unknown_options": True},
        )


@click.group(
    cls=_Questions,
    invoke_without_command=True,
    epilog="""\b
Examples:
  streams bench
  streams bench --json --save --conditions "nothing else running"
  streams bench pipeline --broker kafka://127.0.0.1:9092
  streams bench latency --help
  streams bench all --conditions "nothing else running"
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
@click.option("--small", is_flag=True, help="A smoke test of some seconds, no figure.")
@click.option("--repetitions", type=click.IntRange(1), help="How often each case is measured; default: 5.")
@click.option("--save", is_flag=True, help="Keep the run as a line of benchmarks/results/runs.jsonl.")
@click.option("--conditions", help="With --save: what else the machine did, in words.")
@click.pass_context
def command(
    ctx: click.Context, as_json: bool, small: bool, repetitions: int | None, save: bool, conditions: str | None
) -> int | None:
    """Measure this checkout. Alone: the two headline figures, on the embedded log, in a minute.

    Runs the checkout that the package was installed from; there is nothing to run in a wheel. Each benchmark has
    --small, --json, --save and --help; those on Kafka start a broker of their own unless --broker names one.
    """
    checkout()
    arguments = [
        *(["--json"] if as_json else []),
        *(["--small"] if small else []),
        *(["--repetitions", str(repetitions)] if repetitions else []),
        *(["--save"] if save else []),
        *(["--conditions", conditions] if conditions else []),
    ]
    if ctx.invoked_subcommand is None:
        return _run(HEADLINE, arguments)
    if arguments:
        raise click.UsageError(f"put {arguments[0]} behind {ctx.invoked_subcommand}: it is the benchmark's")
    return None
