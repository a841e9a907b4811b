"""`streams completion`: prints the script that completes our commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from streams.cli import commands

VARIABLE = "_STREAMS_COMPLETE"
"""The variable by which the script asks `streams` for completions; click's convention."""


@click.command(
    epilog="""\b
Examples:
  streams completion bash >> ~/.bashrc
  streams completion zsh >> ~/.zshrc
  streams completion fish > ~/.config/fish/completions/streams.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion for {shell}: expected bash, zsh or fish")
    template = kind(commands, {}, "streams", VARIABLE)
    # click's `source` starts a bash to ask for its version; the script itself needs no such check.
    click.echo(template.source_template % template.source_vars())
