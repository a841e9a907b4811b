"""Flags that commands share: which settings file, which broker, and any setting by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from streams.errors import Finding, SettingsError
from streams.settings import Settings, read

__all__ = ["assignments", "chosen", "shared"]

Function = TypeVar("Function", bound=Callable[..., Any])


def shared(function: Function) -> Function:
    """Adds --config, --broker and --set to a command; they arrive as `config`, `broker` and `set_`."""
    decorators = [
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Settings file; see `streams settings`.",
        ),
        click.option("--broker", metavar="URL", help="kafka://host:port[,host:port] or embedded://directory."),
        click.option(
            "-s", "--set", "set_", multiple=True, metavar="NAME=VALUE", help="Any setting, e.g. app.web_port=7000."
        ),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def assignments(texts: Sequence[str], **named: object) -> dict[str, object]:
    """`--set` texts and flags with a name of their own (`app__broker`) as dotted names; None is left out."""
    flags: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(
                Finding("--set", "a text without =", "NAME=VALUE", "for example --set app.web_port=7000")
            )
        flags[name.strip()] = value
    flags.update({name.replace("__", "."): value for name, value in named.items() if value is not None})
    return flags


def chosen(
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    *,
    required: Sequence[str] = (),
    **named: object,
) -> Settings:
    """The settings that the flags, the environment and the file make. SettingsError: everything that is wrong."""
    return read(config, flags=assignments(set_, app__broker=broker, **named), required=required)
