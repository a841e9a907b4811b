"""The command line as a user meets it: help, version, exit codes, completion, colour. Real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams.cli import COMMANDS


def streams(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a process."""
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    """Help names what the command does and shows examples."""
    done = streams(*command, "--help")

    assert 0 == done.returncode
    assert "Examples:" in done.stdout or command in [("settings",), ("completion",)]
    assert "Usage: streams" in done.stdout


def test_proto_writes_the_contracts(tmp_path: Path) -> None:
    """Every file of `proto/` lands below the directory, golden vectors too; what else is there stays."""
    out = tmp_path / "new" / "contracts"
    out.mkdir(parents=True)
    (out / "own.txt").write_text("stays")
    done = streams("proto", "--out", str(out))
    proto = Path(__file__).parents[2] / "proto"
    wanted = {path.relative_to(proto): path.read_bytes() for path in proto.rglob("*") if path.is_file()}
    written = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    assert (0, f"{len(wanted)} files in {out}:") == (done.returncode, done.stdout.splitlines()[0])
    assert wanted | {Path("own.txt"): b"stays"} == written


def test_proto_says_where_it_cannot_write(tmp_path: Path) -> None:
    """A file in the way is named, without a traceback."""
    (tmp_path / "file").write_text("")
    done = streams("proto", "--out", str(tmp_path / "file"))

    assert 1 == done.returncode
    assert f"--out {tmp_path / 'file'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_the_packages() -> None:
    """`--version` prints one line."""
    done = streams("--version")

    assert (0, "streams 0.1.0\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["wrker"], 2, "did you mean worker?"),
        (["worker", "--nope"], 2, "No such option"),
        (["worker"], 2, "app.id: got nothing"),
        (["worker", "--set", "app.id=x"], 2, "-A MODULE:NAME"),
        (["worker", "--set", "app.id"], 2, "expected NAME=VALUE"),
        (
            ["worker", "--set", "app.id=x", "--set", "app.web_port=0"],
            2,
            "app.web_port (flag): got '0', expected 1 or more",
        ),
        (["worker", "-A", "no_such_module:app"], 2, "no_such_module"),
        (["worker", "-A", "json:loads"], 2, "a streams.App"),
        (["worker", "--config", "none.toml"], 2, "readable TOML"),
        (["worker", "--set", "app.brokr=x", "--broker", "nonsense"], 2, "3 settings"),
        (["settings", "--in-force", "--set", "app.web_port=ninety"], 2, "app.web_port"),
        (["state", "get", "devices", "d-1"], 2, "app.id"),
        (["state", "get", "devices", "d-1", "--id", "x", "--broker", "embedded://nowhere"], 1, "does not exist"),
        (["state", "get", "devices", "zz", "--hex", "--id", "x", "--broker", "embedded://nowhere"], 2, "hexadecimal"),
        (["state", "snapshot", "devices", "--id", "x"], 2, "either a key or --all"),
        (["doctor", "--set", "app.id=x", "--broker", "kafka://127.0.0.1:1"], 1, "Kafka"),
        (["produce", "devices", "-"], 2, "3 settings"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_the_right_exit_code(
    tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    """Each mistake ends with its code, one reason on standard error, no traceback and nothing on standard output."""
    done = streams(*arguments, cwd=tmp_path)

    assert code == done.returncode, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_environment_mistake_is_named_by_its_variable() -> None:
    """A wrong variable is named as it was set."""
    done = streams("settings", "--in-force", STREAMS_CHUNK__RECORDS_MAX="0", STREAMS_CHUNCK__BYTES_MAX="1")

    assert 2 == done.returncode
    assert "STREAMS_CHUNK__RECORDS_MAX" in done.stderr
    assert "STREAMS_CHUNCK__BYTES_MAX" in done.stderr
    assert "did you mean chunk.bytes_max?" in done.stderr


def test_user_code_that_raises_shows_its_own_traceback(tmp_path: Path) -> None:
    """An error in the user's module is the user's to see, not an error of settings."""
    (tmp_path / "broken.py").write_text("import no_such_dependency\n")
    done = streams("worker", "-A", "broken:app", cwd=tmp_path)

    assert 1 == done.returncode
    assert "no_such_dependency" in done.stderr
    assert "Traceback" in done.stderr


def test_a_secret_in_force_is_starred() -> None:
    """`--in-force` shows where a password came from, not what it is."""
    done = streams(
        "settings", "--in-force", "--set", "security.sasl_mechanism=PLAIN", "--set", "security.username=u",
        STREAMS_SECURITY__PASSWORD="hunter2",
    )  # fmt: skip

    assert 0 == done.returncode, done.stderr
    assert 'security.password = "***"    # environment' in done.stdout
    assert "hunter2" not in done.stdout


def test_the_printed_settings_are_a_settings_file(tmp_path: Path) -> None:
    """What `streams settings` prints is TOML that holds the defaults: a start for one's own file."""
    printed = streams("settings").stdout.partition("[[sync]]")[0].replace('id = ""', 'id = "fleet"')
    (tmp_path / "streams.toml").write_text(printed)
    done = streams("settings", "--in-force", "--config", "streams.toml", cwd=tmp_path)

    assert 0 == done.returncode, done.stderr
    assert 'app.id = "fleet"    # streams.toml' in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    """Each shell's script asks `streams` by its variable; asked so, it completes commands."""
    script = streams("completion", shell).stdout
    asked = streams(_STREAMS_COMPLETE="bash_complete", COMP_WORDS="streams wor", COMP_CWORD="1").stdout

    assert "_STREAMS_COMPLETE" in script
    assert "worker" in asked


def test_no_colour_where_nobody_looks() -> None:
    """Errors that do not go to a terminal carry no escape codes."""
    done = streams("wrker")

    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "kafka://u:hunter2@h:9092"],
        ["worker", "security.password=hunter2", "x"],
        ["hunter2"],
        ["state", "hunter2"],
        ["worker", "--workers", "hunter2"],
        ["worker", "--workers", 'it\'s "hunter2"'],
        ["circuits", "hunter2"],
        ["produce", "t", "x.json", "--format", "hunter2", "--partitions", "hunter2"],
        ["produce", "t", "https://u:hunter2@h/x", "--input", "json", "--key", "k", "--message", "m.M", "--module", "m"],
        ["worker", "-A", "https://u:hunter2@h/x", "--set", "app.id=x"],
        ["settings", "--in-force", "--config", "https://u:hunter2@h/x"],
        ["settings", "--in-force", "--set", "hunter2=="],
    ],
    ids=str,
)
def test_no_argument_that_is_refused_is_repeated(tmp_path: Path, arguments: list[str]) -> None:
    """A password or a URL on the wrong place of a line stays where it is: logs of jobs keep what is printed."""
    done = streams(*arguments, cwd=tmp_path)

    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert "hunter2" not in done.stdout + done.stderr


def test_a_worker_without_its_broker_ends_with_one_sentence(tmp_path: Path) -> None:
    """Sixty lines of a client's insides stood there; the address, and what to look at, in none of them."""
    done = streams("worker", "-A", "app:app", "--broker", "kafka://127.0.0.1:1", cwd=_with_app(tmp_path))

    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "127.0.0.1:1 cannot be reached" in told
    assert "Traceback" not in done.stderr


def _with_app(folder: Path) -> Path:
    (folder / "app.py").write_text('from streams import App\napp = App("alone")\n')
    return folder


def test_an_input_that_cannot_be_read_and_an_output_that_is_full(tmp_path: Path) -> None:
    """A file that is not there, a directory: one sentence. A disk that is full is no success."""
    flags = ["--input", "json", "--key", "device_id", "--message", "streams.demo.v1.DeviceState",
             "--module", "streams.demo.v1.device_pb2", "--broker", f"embedded://{tmp_path}/log"]  # fmt: skip
    for file, why in (
        ("none.jsonl", "No such file"),
        (".", "Is a directory"),
        ("http://u:x@h/y", "got a URL (No such"),
    ):
        done = streams("produce", "t", file, *flags, cwd=tmp_path)
        assert (2, True) == (done.returncode, why in done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    with Path("/dev/full").open("wb") as full:
        done_full = subprocess.run(
            [sys.executable, "-m", "streams.cli", "settings"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (1, b"error: standard output") == (done_full.returncode, done_full.stderr[:22])


def test_the_exit_code_says_it_where_nobody_reads_the_error(tmp_path: Path) -> None:
    """Found: wrong settings ended with 1, as something that may go by: a supervisor started them again and again."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "streams.cli", "worker", "--config", "none.toml"]
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=full, check=False)

    assert 2 == done.returncode
