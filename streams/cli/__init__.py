"""The command line: `streams COMMAND`, one command per file, each loaded when it is called.

Exit codes: 0 done, 1 failed (the reason is printed), 2 settings or usage, 3 findings (doctor, verify), 130 Ctrl-C.
Results go to standard output, everything else to standard error. Colour is off where NO_COLOR is set or nobody looks.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

import click

from streams.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SETTINGS, StreamsError

__all__ = ["commands", "main"]

COMMANDS = {
    "worker": "Run a worker: an app in code, or streams.toml with no code at all.",
    "produce": "Send events from JSON lines, CSV or a Protobuf file.",
    "state": "Look at, snapshot, verify, rebuild or upgrade keyed state.",
    "circuits": "Show the circuits of all targets, or set one by hand.",
    "dlq": "List, show, replay or drop dead letters.",
    "resume": "Let partitions go on that too many dead letters stopped.",
    "doctor": "Check topics, retentions, schema, clock and disk; name each cure.",
    "demo": "Run the main job on a month of real flights, on this machine alone.",
    "bench": "Measure this checkout: throughput, latency, scaling, bytes, and against others.",
    "settings": "Print every setting, or those in force.",
    "proto": "Write the contracts (.proto files, golden vectors) for other languages.",
    "completion": "Print the completion script of bash, zsh or fish.",
}

EXAMPLES = """\b
Examples:
  streams demo
  streams worker --config streams.toml
  streams worker -A fleet:app --broker kafka://127.0.0.1:9092 --workers 2
  streams produce devices states.jsonl --module acme.fleet_pb2 --message acme.fleet.v1.DeviceState --key device_id
  streams state get devices d-17
  streams doctor --config streams.toml

Exit codes: 0 done, 1 failed, 2 settings, 3 findings, 130 Ctrl-C.
"""


NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What a machine's owner answers a file's path with: no bug, whichever command met it."""


class _LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and knows its help line before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"streams.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name for an unknown one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "`streams --help` lists them"
            raise click.UsageError(f"unknown command; {hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"streams {version('patchstream')}")
    ctx.exit(EXIT_DONE)


@click.group(
    cls=_LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def commands() -> None:
    """Protobuf events in, exactly-once compressed patches out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code. An exception that is no error of ours is a bug and goes up."""
    try:
        code = commands.main(args=arguments, prog_name="streams", standalone_mode=False)
    except StreamsError as error:
        return _failed(str(error) + _cure(error.__cause__), error.exit_code)
    except click.UsageError as error:
        where = f"\nSee `{error.ctx.command_path} --help`." if error.ctx else ""
        return _failed(without_values(error.format_message()) + where, EXIT_SETTINGS)
    except click.ClickException as error:
        return _failed(without_values(error.format_message()), EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone, as `head` is after its lines: nothing is left to say.
        give_up(sys.stdout)
        return EXIT_FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            give_up(sys.stdout)
            return _failed("standard output: no space left, what was printed is not complete", EXIT_FAILED)
        if isinstance(error, OSError) and error.filename is not None and error.errno in NOT_OURS:
            wanted = "this process needs leave to read and write there, and room"
            return _failed(f"{os.fspath(error.filename)!r}: {error.strerror}; {wanted}", EXIT_FAILED)
        if not _is_kafka_error(error):
            raise
        return _failed(f"Kafka: {error}{_cure(error)}", EXIT_FAILED)
    return code if isinstance(code, int) else EXIT_DONE


def give_up(stream: TextIO) -> None:
    """Nobody takes what is written to a stream any more: what is left in its buffer must not fail at exit, either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def without_values(message: str) -> str:
    """What click says of arguments that it refuses, without the texts that came: each may be a password, or a URL."""
    message = re.sub(r"(?s)(unexpected extra arguments?) \(.*\)", r"\1", message)
    message = re.sub(r"(?s)(No such command) .*?(?=[.;]? ?Did you mean|\.?$)", r"\1", message)
    message = re.sub(r"(?s)(: )(['\"]).*\2 is (not|a)\b", r"\1it is \3", message)
    return re.sub(r"[\w+.-]+://[^\s'\"]+", "a URL", message)


def _failed(reason: str, code: int) -> int:
    """Prints why, on standard error; where nobody reads that, the code says it."""
    try:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {reason}", err=True)
    except OSError:
        give_up(sys.stderr)
    return code


def _cure(error: BaseException | None) -> str:
    """What to do about a broker that did not answer; empty for every other error."""
    if not _is_kafka_error(error) or not getattr(error, "retriable", False):
        return ""
    return (
        "; check app.broker and [security] (`streams settings --in-force` shows them; a refused login looks the same), "
        "the network, and that the broker runs"
    )


def _is_kafka_error(error: BaseException | None) -> bool:
    """Whether librdkafka refused something; without loading the native module for commands that never used it."""
    native = sys.modules.get("streams._native")
    return native is not None and isinstance(error, native.KafkaError)
