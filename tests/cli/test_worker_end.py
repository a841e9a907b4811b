"""The exit code of a worker that is ended by force, because calls to a broker do not return."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.app import App
from streams.cli.worker import _code
from streams.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SETTINGS, Finding, SettingsError


@pytest.mark.parametrize(
    ("failure", "drained", "interrupted", "code"),
    [
        (None, True, False, EXIT_DONE),
        (None, True, True, EXIT_INTERRUPTED),
        (None, False, False, EXIT_FAILED),
        (None, False, True, EXIT_FAILED),
        (ValueError("an agent's"), True, False, EXIT_FAILED),
        (SettingsError(Finding("a", "b", "c")), True, False, EXIT_SETTINGS),
    ],
)
def test_the_exit_code_is_that_of_an_ordinary_end(
    tmp_path: Path, failure: Exception | None, drained: bool, interrupted: bool, code: int
) -> None:
    """Where every part had stopped; else it failed, also after Ctrl-C."""
    app = App("fleet", broker=f"embedded://{tmp_path}/log", datadir=tmp_path)
    app.failure, app.drained, app.interrupted = failure, drained, interrupted

    assert code == _code(app)
