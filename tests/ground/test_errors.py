"""streams.errors: one tree, which says all of itself."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import streams
from streams import errors

ROOT = Path(streams.__file__).parent


def _classes(path: Path) -> list[str]:
    """Public exception classes that a module defines, as far as their bases' names tell."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in found}
    return [
        name
        for name, of in bases.items()
        if not name.startswith("_") and any(re.search(r"(Error|Exception|Failure)$", base) for base in of)
    ]


def test_every_error_of_the_house_is_in_the_tree() -> None:
    """Found: two unrelated errors of one name, and three of the embedded log outside of the tree that claims all."""
    elsewhere = {
        path.relative_to(ROOT).as_posix(): names
        for path in ROOT.rglob("*.py")
        if path.name != "errors.py" and "native" not in path.parts and (names := _classes(path))
    }

    assert {} == elsewhere


def test_the_tree_is_printed_as_it_is() -> None:
    """Name, exit code and depth of every class in the module's first words are those of the classes."""
    shown = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)(\w+) +exit (\d) ", line)
        if found:
            shown[found[2]] = (len(found[1]) // 4, int(found[3]))
    classes = {
        name: (len(kind.__mro__) - len(errors.StreamsError.__mro__), kind.exit_code)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.StreamsError)
    }

    assert classes == shown
    assert set(classes) <= set(errors.__all__)
