"""streams.settings: what wins, what is refused, and that everything wrong is said at once."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import SettingsError
from streams.options import ENTRIES
from streams.options.rule import NUMBER, shown_url
from streams.settings import CommandLine, Option, Settings, options, parse, read, sync_settings

SYNC = '[[sync]]\nsource = "devices"\nmessage = "acme.Device"\nmodule = "acme.fleet_pb2"\n'


def names(error: pytest.ExceptionInfo[SettingsError]) -> list[str]:
    """The settings that an error names, without where they came from."""
    return [finding.setting.split(" (")[0] for finding in error.value.findings]


@given(given_in=st.sets(st.sampled_from(["flag", "environment", "streams.toml", "code"])))
def test_the_highest_source_wins(given_in: set[str]) -> None:
    """Flag over environment over file over code over default, whichever of them are given."""
    values = {"flag": 1, "environment": 2, "streams.toml": 3, "code": 4}
    settings = parse(
        flags={"app.web_port": 1} if "flag" in given_in else {},
        environment={"STREAMS_APP__WEB_PORT": "2"} if "environment" in given_in else {},
        text="[app]\nweb_port = 3" if "streams.toml" in given_in else "",
        code={"app.web_port": 4} if "code" in given_in else {},
    )

    assert settings.app.web_port == min((values[name] for name in given_in), default=6066)
    assert settings.origins.get("app.web_port") == next((name for name in values if name in given_in), None)


def test_everything_wrong_is_said_at_once() -> None:
    """Six mistakes in three sources make one error that names all six, each with what came and what was expected."""
    with pytest.raises(SettingsError) as error:
        parse(
            flags={"app.brokr": "kafka://h:1"},
            environment={"STREAMS_CHUNK__RECORDS_MAX": "many", "STREAMS_LIMITS__DEAD_LETTER_RATIO": "1.5"},
            text='[app]\nguarantee = "maybe"\nweb_port = "6066"\n[[sync]]\nsource = "devices"\nmodule = "m"',
            required=["app.id"],
        )

    assert sorted(names(error)) == [
        "app.brokr", "app.guarantee", "app.id", "app.web_port", "chunk.records_max", "limits.dead_letter_ratio",
        "sync[0].message",
    ]  # fmt: skip
    told = str(error.value)
    assert "did you mean app.broker?" in told
    assert "'maybe'" in told
    assert "exactly_once, at_least_once" in told
    assert "STREAMS_CHUNK__RECORDS_MAX" in told
    assert error.value.exit_code == 2


@pytest.mark.parametrize("option", [one for one in options() if one.name.split(".")[0] not in ENTRIES], ids=str)
def test_every_default_passes_its_own_rule(option: object) -> None:
    """A default, given explicitly as text, is accepted: no option has a default that it would refuse."""
    name, kind, default = option.name, option.kind, option.default  # type: ignore[attr-defined]
    if name == "app.id":
        default = "fleet"
    text = str(default).lower() if kind == "bool" else ",".join(default) if kind == "tuple" else str(default)
    settings = parse(flags={name: text})
    section, key = name.split(".")

    assert default == getattr(getattr(settings, section), key)


@given(st.text(min_size=1).filter(lambda text: not text.strip().lstrip("+-").replace("_", "").isdigit()))
def test_a_number_that_is_none_is_refused(text: str) -> None:
    """Whatever text stands for a whole number, the error names the setting, and shows what looks like one."""
    with pytest.raises(SettingsError) as error:
        parse(environment={"STREAMS_TRANSACTION__RECORDS_MAX": text})

    assert ["transaction.records_max"] == names(error)
    assert (repr(text) if NUMBER.fullmatch(text) else f"a text of {len(text)} characters") in str(error.value)


URLS = [
    ("app.broker", "kafka://u:hunter2@h:9092"),
    ("target.url", "http://u:hunter2@h/#frag"),
    ("target.url", "ftp://h/hunter2"),
    ("target.url", "hunter2"),
    ("target.oauth2_token_url", "u:hunter2@h/?token=x"),
    ("lookup.cache", "redis:/:hunter2@h"),
    ("app.web_port", "u:hunter2@h"),
    ("app.web_port", "https://h/hunter2"),
    ("app.guarantee", ["kafka://u:hunter2@h", "x"]),
]


@pytest.mark.parametrize(("name", "url"), URLS)
def test_a_refused_url_is_never_shown(name: str, url: object) -> None:
    """A URL may hold a password, a token or a secret path; where it was refused nothing of it is in the error."""
    section, key = name.split(".")
    code: dict[str, object] = {name: url} if section != "target" else {}
    text = "" if section != "target" else f'[[target]]\nname = "t"\n{key} = "{url}"'
    with pytest.raises(SettingsError) as error:
        parse(code=code, text=text)

    assert "hunter2" not in str(error.value)
    assert any(name.split(".")[1] in one for one in names(error))


def test_of_a_url_in_force_only_its_place_is_shown() -> None:
    """`streams settings --in-force` and the settings' own text say where a target is, not what its URL carries."""
    target = '[[target]]\nname = "t"\nsource = "devices"\nurl = "https://u:hunter2@h.example:8443/hooks/T0?token=y"\n'
    settings = parse(text=SYNC + target)

    assert "hunter2" not in repr(settings)
    assert "hooks" not in repr(settings)
    assert "https://h.example:8443/..." == shown_url(settings.target[0].url)
    assert ["kafka://a:1,b:2", "embedded://./log", "", "https://h/", "a URL"] == [
        shown_url(url) for url in ("kafka://a:1,b:2", "embedded://./log", "", "https://h/", "u:p@h")
    ]


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4).filter(
        lambda text: text not in "expected whole number secret of the wrong form"
    )
)
def test_a_secret_is_never_shown(secret: str) -> None:
    """Neither an error nor the representation of the settings holds a password, right or wrong."""
    settings = parse(environment={"STREAMS_SECURITY__USERNAME": "u", "STREAMS_SECURITY__SASL_MECHANISM": "PLAIN"},
                     code={"security.password": f"<<{secret}>>"})  # fmt: skip
    with pytest.raises(SettingsError) as error:
        parse(code={"security.password": [f"<<{secret}>>"], "security.tls": "x"})

    assert f"<<{secret}>>" not in repr(settings)
    assert f"<<{secret}>>" == settings.security.password
    assert f"<<{secret}>>" not in str(error.value)


def test_a_sync_is_completed_from_source_and_key() -> None:
    """Output and partitioning have defaults that depend on the others."""
    settings = parse(text=SYNC + '\n[[sync]]\nsource = "orders"\nmessage = "acme.Order"\ndescriptors = "o.binpb"\n'
                     'key = "field:order.id"\nignore = ["seen_us"]\nschema_ids = [7]')  # fmt: skip
    devices, orders = settings.sync

    assert ("devices.patches", "trusted") == (devices.output, devices.partitioning)
    assert ("orders.patches", "murmur2") == (orders.output, orders.partitioning)
    assert (("seen_us",), (7,)) == (orders.ignore, orders.schema_ids)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (SYNC + 'descriptors = "x.binpb"', "sync[0].descriptors"),
        (SYNC + 'key = "subject"\npartitioning = "trusted"', "sync[0].partitioning"),
        (SYNC + 'output = "devices"', "sync[0].output"),
        (SYNC + 'sequence = "field:"', "sync[0].sequence"),
        (SYNC + "schema_ids = [true]", "sync[0].schema_ids"),
        (SYNC + 'schema_indexes = "zigzag"', "sync[0].schema_indexes"),
        (SYNC + 'event_types = "device.changed"', "sync[0].event_types"),
        (SYNC + 'other_types = "drop"', "sync[0].other_types"),
        (SYNC + 'sorce = "x"', "sync[0].sorce"),
        (SYNC + SYNC, "sync.source"),
        ("sync = 3", "sync"),
        ("app = 3", "app"),
        ('[app]\nbroker = "localhost:9092"', "app.broker"),
        ('[app]\nbroker = "embedded://./d"\nworkers = 2', "app.workers"),
        ("[app]\nweb_port = 65534\nworkers = 3", "app.web_port"),
        ("[transaction]\ninterval_ms = 9000", "transaction.timeout_ms"),
        ("[transaction]\nbacklog_interval_ms = 9000", "transaction.timeout_ms"),
        ('[security]\nca_file = "ca.pem"', "security.tls"),
        ('[security]\ntls = true\ncert_file = "c.pem"', "security.cert_file"),
        ('[security]\nsasl_mechanism = "OAUTHBEARER"', "security.token_file"),
        ('[security]\nusername = "u"', "security.sasl_mechanism"),
        ("[limits]\ndead_letter_ratio = nan", "limits.dead_letter_ratio"),
        ("[app\n", "streams.toml"),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, name: str) -> None:
    """Each contradiction is named by the setting to change."""
    with pytest.raises(SettingsError) as error:
        parse(text=text)

    assert name in names(error)


def test_code_is_checked_as_the_file_is() -> None:
    """`sync_settings` completes and refuses like a [[sync]] entry."""
    made = sync_settings(source="devices", message="acme.Device", module="acme_pb2", ignore=["a"])

    assert ("devices.patches", ("a",)) == (made.output, made.ignore)
    with pytest.raises(SettingsError, match="did you mean"):
        sync_settings(source="devices", message="acme.Device", module="acme_pb2", squence="none")


def test_the_reader_adds_what_only_the_machine_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read` takes file and environment, and names this worker after host and port unless told otherwise."""
    file = tmp_path / "streams.toml"
    file.write_text('[app]\nid = "fleet"\nweb_port = 7001\n')
    monkeypatch.setenv("STREAMS_CHUNK__RECORDS_MAX", "10")
    settings = read(file)

    assert 10 == settings.chunk.records_max
    assert settings.app.instance.endswith("-7001")
    with pytest.raises(SettingsError, match="readable TOML file"):
        read(tmp_path / "none.toml")


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().app.id = "x"  # type: ignore[misc]


def test_an_app_in_code_obeys_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line said is there when user code makes its App, and beats what the code says."""
    file = tmp_path / "streams.toml"
    file.write_text("[app]\nweb_port = 7001\n")
    monkeypatch.setattr(CommandLine, "path", None)
    monkeypatch.setattr(CommandLine, "flags", {})
    CommandLine.remember(file, {"app.broker": "kafka://b:1"})
    settings = read(code={"app.broker": "kafka://a:1", "app.id": "fleet"})

    assert ("kafka://b:1", 7001, "fleet") == (settings.app.broker, settings.app.web_port, settings.app.id)


ODD = ["Hunter2", "hunter 2", "hunter2!", "7hunter2", "HUNTER", "x" * 30, "a=b", "../hunter2", "\udcffhunter2"]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("option", [one for one in options() if one.name.split(".")[0] not in ENTRIES], ids=str)
def test_a_refused_text_is_never_shown(option: Option, text: str) -> None:
    """A password may stand where a number, a choice or a name belongs: the error says how long it is, no more."""
    with contextlib.suppress(SettingsError):
        assert parse(flags={option.name: text})
        return
    with pytest.raises(SettingsError) as error:
        parse(environment={f"STREAMS_{option.name.upper().replace('.', '__')}": text})

    assert text not in str(error.value)


def test_a_refused_name_is_shown_where_it_looks_like_one() -> None:
    """What stands before the = of a flag, or for a key in the file, may be a secret too."""
    text = '[app]\n"hunter2 = x" = 1\nweb_prt = 2\n[[target]]\nname = "t"\nurl = "https://h/"\n"Bearer hunter2" = "x"'
    with pytest.raises(SettingsError) as error:
        parse(flags={"c2VjcmV0aHVudGVyMg": "=", "hunter2/": "x"}, text=text)

    told = str(error.value)
    assert ("hunter2" in told, "c2Vj" in told, "app.web_prt" in told) == (False, False, True)


FILES = [
    ("[app]\nweb_port = " + "9" * 5_000, "a number too long"),
    ("[app]\nx = " + "[" * 5_000, "tables too deep"),
    ('[app]\ndatadir = "a\\u0000b"', "without NUL"),
    ('[app]\nweb_host = ""', "an address"),
    ('[app]\ndatadir = ""', "a directory"),
    ("[app]\nprogress_timeout_ms = 99999999999999", "2147483647 or less"),
    ("[limits]\ndead_letter_window_records = 99999999999999999999", "9007199254740992 or less"),
    ("[delivery]\nretry_budget = inf", "or less"),
    ("[embedded]\nretention_ms = 99999999999999999", "or less"),
]


@pytest.mark.parametrize(("text", "told"), FILES)
def test_what_nothing_can_be_done_with_is_refused(text: str, told: str) -> None:
    """Numbers that no timer takes, an address that would be every one, a file that the parser cannot get through."""
    with pytest.raises(SettingsError, match=told):
        parse(text=text)


def test_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    """Editors put one before UTF-8; a file that is none is named without its bytes."""
    file = tmp_path / "streams.toml"
    file.write_bytes(b"\xef\xbb\xbf[app]\nid = 'fleet'\n")
    assert "fleet" == read(file).app.id
    file.write_bytes("[app]\nid = 'fleet'\n".encode("utf-16"))
    with pytest.raises(SettingsError, match="no UTF-8 text"):
        read(file)


def test_a_command_for_tokens_and_a_shared_cache_are_no_secrets_to_tell() -> None:
    """A command has tokens in its arguments as often as not; of the cache's URL the place is shown."""
    login = {"security.sasl_mechanism": "OAUTHBEARER", "security.token_command": "get --key hunter2"}
    settings = parse(flags={**login, "lookup.cache": "redis://u:hunter2@h:1/0"})

    assert "hunter2" not in repr(settings)
    assert {"security.token_command": True}.items() <= {one.name: one.rule.secret for one in options()}.items()
    assert ("memory", "redis://h:1/...") == (shown_url("memory"), shown_url("redis://u:hunter2@h:1/0"))
