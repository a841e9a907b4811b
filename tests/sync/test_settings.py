"""A sync that cannot work says so when it is made: what came, what was wanted."""

from __future__ import annotations

import pytest

from streams.app import App
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import SettingsError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "field:nonsense"}, "nonsense"),
        ({"key": "field:battery"}, "floating-point"),
        ({"key": "field:geo"}, "geo"),
        ({"sequence": "field:cpu"}, "floating-point"),
        ({"sequence": "field:geo"}, "geo"),
        ({"ignore": ("no_such_field",)}, "no_such_field"),
        ({"format": "xml"}, "xml"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], words: str) -> None:
    """One error at the line that made the sync, with exit code 2."""
    app = App("settings", broker="kafka://127.0.0.1:9")

    with pytest.raises(Exception, match=words) as raised:
        app.sync("devices", DeviceState, **options)

    assert getattr(raised.value, "exit_code", None) == 2


def test_two_syncs_of_one_source_are_refused() -> None:
    """Their patches would have two orders."""
    app = App("settings", broker="kafka://127.0.0.1:9")
    app.sync("devices", DeviceState)

    with pytest.raises(SettingsError, match="two syncs"):
        app.sync("devices", DeviceState)
