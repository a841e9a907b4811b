"""`streams worker`: runs an app in code, or the syncs of streams.toml with no code at all."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from streams.cli import flags, give_up, supervisor
from streams.ending import end_now
from streams.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, Finding, SettingsError, StreamsError
from streams.loop_watch import held_by
from streams.settings import CommandLine, Settings, read

if TYPE_CHECKING:
    from streams.app import App

APP_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:\w+)?")
SYNCS_SHOWN_MAX = 5
TARGETS_SHOWN_MAX = 5
"""The banner has at most 12 lines, whatever the settings hold."""
APPS_SHOWN_MAX = 5
"""More in one module are a list that was made by a loop: its beginning tells how they are called."""


@click.command(
    epilog="""\b
Examples:
  streams worker --config streams.toml
  streams worker -A fleet:app --broker kafka://127.0.0.1:9092
  streams worker -A fleet:app --broker kafka://127.0.0.1:9092 --workers 2
  streams worker --config streams.toml --broker embedded://./data/log
"""
)
@click.option("-A", "--app", "app_name", metavar="MODULE[:NAME]", help="An App in code; NAME is `app` unless given.")
@flags.shared
@click.option("--workers", type=int, help="Processes; worker i serves web port 6066+i and has datadir/i.")
@click.option("--child", is_flag=True, hidden=True, help="Started by another worker: no banner, ends with its parent.")
def command(
    app_name: str | None,
    config: Path | None,
    broker: str | None,
    set_: Sequence[str],
    workers: int | None,
    child: bool,
) -> int:
    """Run a worker until SIGTERM, SIGHUP or Ctrl-C; it drains within 10 s, and a second Ctrl-C ends it at once.

    Prints a banner, and a line that begins with READY once it has its partitions and their state.
    """
    before = signal.signal(signal.SIGTERM, _not_begun)
    try:
        return _run(app_name, config, flags.assignments(set_, app__broker=broker, app__workers=workers), child=child)
    finally:
        signal.signal(signal.SIGTERM, before)


def _not_begun(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM before there is anything to drain."""
    sys.exit(EXIT_DONE)


def _run(app_name: str | None, config: Path | None, given: dict[str, object], *, child: bool) -> int:
    CommandLine.remember(config, given)
    app = _app_in_code(app_name) if app_name else _app_of_file(config)
    settings = app.settings
    if not child:
        _say("\n".join(banner(settings)))
    if settings.app.workers > 1:
        commands = [_child(index, settings, app_name, config, given) for index in range(settings.app.workers)]
        return supervisor.supervise(commands, settings.app.drain_timeout_ms, lambda text: _say(text, err=True))
    if child:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    _make(Path(settings.app.datadir))
    returned = threading.Event()
    try:
        app.run_worker(ready=lambda: _say(_ready_line(settings)), ending=lambda: _end_in_time(app, returned))
    finally:
        returned.set()
    return 0


def _say(text: str, *, err: bool = False) -> None:
    """A line for whoever reads it: a pipe that was closed, or a full disk, is no reason not to work."""
    try:
        click.echo(text, err=err)
    except OSError:
        give_up(sys.stderr if err else sys.stdout)


def _make(datadir: Path) -> None:
    try:
        datadir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            Finding("app.datadir", f"{datadir}: {error.strerror}", "a directory that this process may read and write")
        ) from error


def banner(settings: Settings) -> Iterator[str]:
    """What this worker is about to do, in at most 12 lines."""
    app, transaction = settings.app, settings.transaction
    workers = f", {app.workers} workers" if app.workers > 1 else ""
    yield f"streams {version('patchstream')}: {app.id} ({app.instance}{workers})"
    yield f"  broker       {app.broker}"
    every = f"{transaction.interval_ms} ms or {transaction.records_max} records"
    yield f"  guarantee    {app.guarantee}, a commit each {every}"
    yield f"  data         {app.datadir}"
    yield f"  web          http://{app.web_host}:{app.web_port}"
    for sync in settings.sync[:SYNCS_SHOWN_MAX]:
        yield f"  sync         {sync.source} -> {sync.output} ({sync.message}, key {sync.key}, state in {sync.state})"
    if len(settings.sync) > SYNCS_SHOWN_MAX:
        yield f"  sync         and {len(settings.sync) - SYNCS_SHOWN_MAX} more"
    if settings.target:
        more = (
            f" and {len(settings.target) - TARGETS_SHOWN_MAX} more" if len(settings.target) > TARGETS_SHOWN_MAX else ""
        )
        yield f"  targets      {', '.join(target.name for target in settings.target[:TARGETS_SHOWN_MAX])}{more}"


def _ready_line(settings: Settings) -> str:
    return f"READY {settings.app.id} {settings.app.instance} http://{settings.app.web_host}:{settings.app.web_port}"


def _app_of_file(config: Path | None) -> App:
    """An app with the syncs and targets of the file and no code."""
    settings = read(required=["app.id"])
    if not settings.sync and not settings.target:
        raise SettingsError(
            Finding(
                str(config or "--config"),
                "no [[sync]] and no [[target]]" if config else "nothing",
                "a file with at least one [[sync]] or [[target]], or -A MODULE:NAME",
                "`streams settings` prints what a file may hold",
            )
        )
    from streams.app import App

    return App.from_settings(settings)


def _app_in_code(name: str) -> App:
    """The app that `module:name` names. What user code raises while it is imported goes up as it is."""
    from streams.app import App

    module_name, _, attribute = name.partition(":")
    if not APP_NAME.fullmatch(name):
        raise SettingsError(
            Finding("-A", f"a text of {len(name)} characters", "MODULE or MODULE:NAME", "for example -A fleet:app")
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise SettingsError(
            Finding("-A", name, "a module that Python finds from here", f"there is no {error.name}; check PYTHONPATH")
        ) from None
    attribute = attribute or "app"
    found = getattr(module, attribute, None)
    if not isinstance(found, App):
        what = f"which is {type(found).__name__}" if hasattr(module, attribute) else f"which has no {attribute}"
        others = [each for each, value in vars(module).items() if isinstance(value, App)][:APPS_SHOWN_MAX]
        cure = " or ".join(f"-A {module_name}:{each}" for each in others) or "-A module:variable"
        raise SettingsError(Finding("-A", f"{name}, {what}", "a streams.App", f"name it: {cure}"))
    return found


def _child(
    index: int, settings: Settings, app_name: str | None, config: Path | None, given: dict[str, object]
) -> list[str]:
    """The command of worker `index`: the parent's, with a port, a directory and an instance of its own."""
    app = settings.app
    own = {
        **given,
        "app.workers": 1,
        "app.web_port": app.web_port + index,
        "app.datadir": os.path.join(app.datadir, str(index)),
        "app.instance": f"{app.instance}-{index}",
    }
    arguments = [f"--set={name}={value}" for name, value in own.items()]
    if app_name:
        arguments += ["-A", app_name]
    if config:
        arguments += ["--config", str(config)]
    return [sys.executable, "-m", "streams.cli", "worker", "--child", *arguments]


def _end_in_time(app: App, returned: threading.Event) -> None:
    """Ends the process when the drain timeout is over, whatever it waits for.

    librdkafka's calls cannot be interrupted, and Python waits for the threads that are in one: without a broker, that
    is for minutes. Nor can an agent that blocks. What they hold is not committed, and is read again after a restart.
    `returned`: the worker has, and what ended it was said.
    """
    timeout_ms = app.settings.app.drain_timeout_ms
    loop = app.loop

    def end() -> None:
        said = ""
        if not returned.is_set():
            why = f"{app.failure}; " if app.failure is not None else ""
            held = held_by(loop, threading.main_thread().ident)
            what = f"{held} still held the event loop" if held else "calls to the broker had not returned"
            waits = f"{what} {timeout_ms} ms after the worker began to stop"
            said = f"error: {why}{waits}: what was not committed is read again after a restart"
        end_now(_code(app), said)

    timer = threading.Timer(timeout_ms / 1000, end)
    timer.daemon = True
    timer.start()


def _code(app: App) -> int:
    """The exit code of a worker that was ended: what it would have been, or that not every part had stopped."""
    if isinstance(app.failure, StreamsError):
        return app.failure.exit_code
    if app.failure is not None or not app.drained:
        return EXIT_FAILED
    return EXIT_INTERRUPTED if app.interrupted else EXIT_DONE


def _end_with_parent() -> None:
    """Drains when the parent is gone: its end of our standard input closes."""
    while os.read(sys.stdin.fileno(), 1):  # not through sys.stdin: its lock would be held at exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
