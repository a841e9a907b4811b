"""`streams settings`: every option there is, or the values in force and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from streams.cli import flags
from streams.options import ENTRIES
from streams.options.rule import shown_url
from streams.settings import Option, Settings, options


@click.command(
    epilog="""\b
Examples:
  streams settings                                  # all options: type, default, meaning, reason
  streams settings --config streams.toml --in-force # values, and where each came from
  streams settings --markdown                       # the same table for a document
"""
)
@flags.shared
@click.option("--in-force", is_flag=True, help="Print the values that a worker would use, and where each came from.")
@click.option("--markdown", is_flag=True, help="Print the table of options as Markdown.")
def command(config: Path | None, broker: str | None, set_: Sequence[str], in_force: bool, markdown: bool) -> None:
    """Print every setting, or those in force.

    A flag beats the environment (STREAMS_SECTION__KEY), which beats the file, which beats code, which beats the
    default.
    """
    if in_force:
        settings = flags.chosen(config, broker, set_)
        lines = list(_in_force(settings))
    elif markdown:
        lines = ["| setting | default | meaning |", "|---|---|---|", *(_row(option) for option in options())]
    else:
        lines = list(_listed())
    click.echo("\n".join(lines))


def _listed() -> Iterator[str]:
    """The options as an annotated streams.toml."""
    section = ""
    for option in options():
        head, name = option.name.split(".")
        if head != section:
            section = head
            yield from ["", f"[[{head}]]" if head in ENTRIES else f"[{head}]"] if section != "app" else ["[app]"]
        yield f"# {_explained(option)}"
        yield f"{name} = {_toml(option.default)}"


def _row(option: Option) -> str:
    section, name = option.name.split(".")
    name = f"[[{section}]] {name}" if section in ENTRIES else option.name
    meaning = _explained(option).replace("|", "\\|")
    return f"| `{name}` | `{_toml(option.default)}` | {meaning} |"


def _explained(option: Option) -> str:
    rule = option.rule
    choices = f" ({', '.join(choice for choice in rule.choices if choice)})" if rule.choices else ""
    return f"{rule.meaning}{choices}" + (f"; {rule.reason}" if rule.reason else "")


def _in_force(settings: Settings) -> Iterator[str]:
    """One line per value; secrets as stars."""
    for option in options():
        section, name = option.name.split(".")
        if section not in ENTRIES:
            shown = _shown(option, getattr(getattr(settings, section), name))
            yield f"{option.name} = {shown}    # {settings.origins.get(option.name, 'default')}"
    for wanted in ENTRIES:
        for index, entry in enumerate(getattr(settings, wanted)):
            for option in options():
                section, name = option.name.split(".")
                if section == wanted:
                    yield f"{section}[{index}].{name} = {_shown(option, getattr(entry, name))}"


def _shown(option: Option, value: object) -> str:
    """A value for people: of a secret nothing, of a URL where it leads."""
    if option.rule.secret and value:
        return '"***"'
    return _toml(shown_url(str(value)) if option.rule.url else value)


def _toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return str(value)
