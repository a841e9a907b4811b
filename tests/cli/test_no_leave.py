"""Files of another user: what the command line says of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_LEAVE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Root may read and write everything otherwise."""


@pytest.mark.parametrize("command", [["state", "get", "devices", "d-1"], ["doctor"], ["dlq", "list", "devices"]])
def test_a_directory_that_this_user_may_not_read_is_named(tmp_path: Path, command: list[str]) -> None:
    """Found: a traceback."""
    (tmp_path / "data" / "log").mkdir(parents=True)
    (tmp_path / "data").chmod(0)
    flags = ["--broker", f"embedded://{tmp_path}/data/log", "--set", "app.id=fleet"]
    ended = subprocess.run(
        [*WITHOUT_LEAVE, sys.executable, "-m", "streams.cli", *command, *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    (tmp_path / "data").chmod(0o700)
    assert (1, False) == (ended.returncode, "Traceback" in ended.stderr)
    assert f"error: '{tmp_path}/data/log" in ended.stderr
    assert "needs leave" in ended.stderr
