"""The rules of the house: who imports whom, who owns which package, names, sizes, what an import loads.

A rule that is broken is named with file and line. The exceptions are listed here, with reasons, at most five.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "streams"

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
CLASS_METHODS_MAX = 20
PUBLIC_NAMES_MAX = 25
EXCEPTIONS_MAX = 5

EXCEPTIONS: dict[str, str] = {
    "file:streams.errors": "one tree in one file, as its first words print it",
    "file:streams.transport.fetcher": "positions, ends and what a seek overtook are under one lock, in one thread",
}
"""`rule:place` to the reason why it may. Rules: file, function, methods, layer, owner."""

GENERATED = ("streams.v1", "streams.demo.v1")

LAYERS = [
    ["streams.errors", "streams.clock", "streams.options", "streams.settings", "streams.http", "streams._native",
     "streams.v1", "streams.demo.v1"],
    ["streams.ending", "streams.loop_watch"],
    ["streams.kernel", "streams.circuit.window", "streams.circuit.breaker", "streams.delivery.target",
     "streams.delivery.retry", "streams.delivery.conflate", "streams.delivery.progress", "streams.privacy"],
    ["streams.delivery.partition"],
    ["streams.delivery.lane"],
    ["streams.transport"],
    ["streams.state"],
    ["streams.identity"],
    ["streams.circuit.own", "streams.circuit.fleet"],
    ["streams.circuit.standing"],
    ["streams.circuit.board"],
    ["streams.dead_letters"],
    ["streams.lookup"],
    ["streams.client"],
    ["streams.observe"],
    ["streams.sync", "streams.circuit", "streams.delivery", "streams.gateway", "streams.ownership"],
    ["streams.worker", "streams.log_watch", "streams.agents"],
    ["streams.declaring", "streams.faust_options"],
    ["streams.app"],
    ["streams.demo"],
    ["streams.cli"],
]  # fmt: skip
"""From the ground up: a module imports from its own room and from layers below it, never from a room beside it."""

OWNERS = {
    "faust": ["streams.app", "streams.transport", "streams.state.table", "*.agent", "streams.cli", "streams.observe"],
    "mode": ["streams.app", "streams.transport", "streams.state.table", "*.agent", "streams.cli", "streams.observe"],
    "aiokafka": ["streams.transport"],
    "confluent_kafka": [],
    "zstandard": ["streams.kernel.compression"],
    "rocksdict": ["streams.state.rocks"],
    "aiohttp": ["streams.http", "streams.gateway", "streams.observe"],
    "yarl": ["streams.http", "streams.gateway", "streams.observe"],
    "oauthlib": ["streams.identity.oauth2"],
    "aiocache": ["streams.lookup"],
    "redis": ["streams.lookup"],
    "click": ["streams.cli"],
    "rich": ["streams.cli", "streams.demo", "streams.app", "streams.observe"],
    "sqlite3": ["streams.transport", "streams.client.kept"],
}
"""Who may import a third-party package; `*.agent` is every module of that name. Other rooms go through the owner."""

BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager", "managers"}


def modules() -> dict[str, Path]:
    """Every module of the house that a person wrote, by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not within(name, GENERATED) and "native" not in parts:
            found[name] = path
    return found


def within(name: str, rooms: object) -> bool:
    """Whether a module is one of these rooms or lies in one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)  # type: ignore[attr-defined]


@cache
def tree(path: Path) -> ast.Module:
    """The parsed source of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(name: str, path: Path) -> Iterator[tuple[str, int]]:
    """Everything a module imports and the line, lazy and typing imports too; `from a import b` gives the module a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            start = (f"{package}.{node.module}" if node.module else package) if node.level else str(node.module)
            for alias in node.names:
                full = f"{start}.{alias.name}"
                yield (full if is_module(full) else start), node.lineno


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the house."""
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("streams") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def layer(name: str) -> tuple[int, str] | None:
    """Index of a module's layer and its room; the longest match counts. None for `streams` itself."""
    matches = [(len(room), index, room) for index, rooms in enumerate(LAYERS) for room in rooms if within(name, [room])]
    return max(matches)[1:] if matches else None


def excepted(rule: str, place: str) -> bool:
    """Whether this place may break this rule."""
    return f"{rule}:{place}" in EXCEPTIONS


def report(broken: list[str]) -> None:
    """Fails with everything that is broken, one a line."""
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)


def test_imports_point_down() -> None:
    """A room imports from itself and from below; a sibling in its layer is none of its business, save on the ground."""
    broken = []
    for name, path in modules().items():
        own = layer(name)
        if name == "streams":
            continue
        if own is None:
            broken.append(f"{path}: {name} is in no layer; put its room into LAYERS")
            continue
        for imported, line in imports(name, path):
            other = layer(imported)
            if other is None or within(imported, [own[1]]) or other[0] < own[0]:
                continue
            both_on_the_ground = own[0] == other[0] == 0
            if not both_on_the_ground and not excepted("layer", f"{name}->{imported}"):
                broken.append(f"{path.relative_to(ROOT)}:{line}: {name} imports {imported}, which is not below it")
    report(broken)


def test_no_module_imports_the_front_door() -> None:
    """`streams` itself is for users: a room that imports it would load rooms above."""
    report([
        f"{path.relative_to(ROOT)}:{line}: imports `streams` itself, expected the module that has the name"
        for name, path in modules().items() if name != "streams"
        for imported, line in imports(name, path) if imported == "streams"
    ])  # fmt: skip


def test_imports_have_no_cycles() -> None:
    """No two modules need each other, lazy and typing imports included."""
    known = modules()
    graph = {
        name: {imported for imported, _ in imports(name, path) if imported in known and imported != name}
        for name, path in known.items()
        if name != "streams"
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("cycle: " + " -> ".join(error.args[1]), pytrace=False)


def test_packages_have_owners() -> None:
    """A third-party package is imported by its owners alone."""
    broken = []
    for name, path in modules().items():
        for imported, line in imports(name, path):
            package = imported.partition(".")[0]
            owners = OWNERS.get(package)
            if owners is None or within(name, owners) or f"*.{name.rpartition('.')[2]}" in owners:
                continue
            if not excepted("owner", f"{name}->{package}"):
                broken.append(f"{path.relative_to(ROOT)}:{line}: {name} imports {package}, owned by {owners}")
    report(broken)


def test_names_say_what_they_hold() -> None:
    """No file or folder has a name that anything would fit into."""
    report([f"{path.relative_to(ROOT)}: a banned name" for path in modules().values()
            if BANNED_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)])  # fmt: skip


def test_sizes() -> None:
    """Files, functions and classes stay small enough to be read at once."""
    broken = []
    for name, path in modules().items():
        place = path.relative_to(ROOT)
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES_MAX and not excepted("file", name):
            broken.append(f"{place}: {lines} lines, at most {FILE_LINES_MAX}")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_MAX and not excepted("function", f"{name}.{node.name}"):
                    broken.append(
                        f"{place}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"
                    )
            elif isinstance(node, ast.ClassDef):
                methods = len(own_methods(node))
                if methods > CLASS_METHODS_MAX and not excepted("methods", f"{name}.{node.name}"):
                    broken.append(
                        f"{place}:{node.lineno}: {node.name} has {methods} methods, at most {CLASS_METHODS_MAX}"
                    )
    report(broken)


def own_methods(node: ast.ClassDef) -> list[str]:
    """A class's methods, without those that a library's base class demands: they carry typing's `override`."""
    return [
        child.name
        for child in node.body
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(ast.unparse(mark).rpartition(".")[2] == "override" for mark in child.decorator_list)
    ]


def test_only_settings_read_the_environment() -> None:
    """Every other module gets its settings handed in."""
    broken = []
    for name, path in modules().items():
        if name == "streams.settings":
            continue
        for node in ast.walk(tree(path)):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "getenvb")
            takes = isinstance(node, ast.ImportFrom) and node.module == "os" and any(
                alias.name in ("environ", "getenv") for alias in node.names
            )  # fmt: skip
            if reads or takes:
                broken.append(f"{path.relative_to(ROOT)}:{node.lineno}: reads the environment")
    report(broken)


def test_everything_public_has_a_docstring() -> None:
    """Modules, and public functions, classes and methods, say what they promise."""
    broken = []
    for path in modules().values():
        place = path.relative_to(ROOT)
        if ast.get_docstring(tree(path)) is None and path.stat().st_size:
            broken.append(f"{place}: no docstring")
        broken += [f"{place}:{node.lineno}: {node.name} has no docstring" for node in undocumented(tree(path))]
    report(broken)


def undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public definitions without a docstring, in this scope and in public classes of it."""
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
        declared = "property" in marks and ast.unparse(node.body[0]) == "..."  # a Protocol's attribute
        if ast.get_docstring(node) is None and not declared and not marks & {"overload", "override", "setter"}:
            yield node
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node)


def test_nothing_is_left_for_later() -> None:
    """No notes to self, no skipped tests: a known fault is mended or becomes a failing test."""
    marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "pytest." + "skip", "mark." + "skip", "mark." + "xfail"]
    places = [*modules().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"),
              *(path for path in (HOUSE / "native").rglob("*.rs") if "target" not in path.parts)]  # fmt: skip
    report([
        f"{path.relative_to(ROOT)}:{number}: {mark}"
        for path in places
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for mark in marks if mark in line
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("streams", "faust aiohttp aiokafka"),
        ("streams.client", "faust aiohttp aiokafka"),
        ("from streams import Producer, Receiver", "faust aiohttp aiokafka"),
        ("streams.cli", "faust aiohttp aiokafka rich streams._native"),
    ],
)
def test_an_import_loads_little(imported: str, unwanted: str) -> None:
    """In a fresh interpreter the front door, the client and the command line load none of the heavy packages."""
    statement = imported if imported.startswith("from") else f"import {imported}"
    code = f"{statement}\nimport sys\nprint(*[name for name in {unwanted.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)

    assert ("", 0) == (done.stdout.strip(), done.returncode), done.stderr


def test_the_front_door_is_small() -> None:
    """At most 25 public names, all of which exist."""
    import streams

    assert len(streams.__all__) <= PUBLIC_NAMES_MAX
    assert [] == [name for name in streams.__all__ if not hasattr(streams, name)]


def test_exceptions_are_few_and_needed() -> None:
    """At most five, each with a reason and a module that still exists."""
    known = modules()

    assert len(EXCEPTIONS) <= EXCEPTIONS_MAX
    for place, reason in EXCEPTIONS.items():
        subject = place.partition(":")[2].partition("->")[0]
        assert reason
        assert subject in known or subject.rpartition(".")[0] in known, f"{place}: no such module"
