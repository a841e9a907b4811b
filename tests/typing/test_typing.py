"""The types hold: of the whole house, and of the surface as users write it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("checked", [["-p", "streams"], ["tests/typing/api.py"]], ids=["house", "surface"])
def test_types(checked: list[str]) -> None:
    """mypy in strict mode, as pyproject sets it, finds nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *checked], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert 0 == done.returncode, done.stdout + done.stderr
