"""streams.faust_options: what is set in two places is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.app import App
from streams.errors import SettingsError


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ("web_port", "app.web_port"),
        ("web_bind", "app.web_host"),
        ("broker_session_timeout", "app.broker_session_timeout_ms"),
        ("table_standby_replicas", "app.standby_replicas"),
        ("num_standby_replicas", "app.standby_replicas"),
        ("broker_producer", "app.broker"),
        ("processing_guarantee", "app.guarantee"),
    ],
)
def test_an_option_of_faust_that_is_a_setting_is_refused_by_name(tmp_path: Path, option: str, setting: str) -> None:
    """It was a TypeError about several values for a keyword argument."""
    with pytest.raises(SettingsError, match=rf"App\({option}=...\): got an option of Faust's, .*set {setting}, in"):
        App("fleet", broker=f"embedded://{tmp_path}/log", **{option: 1})


def test_an_option_of_faust_that_a_worker_cannot_have_is_refused_by_name(tmp_path: Path) -> None:
    """It was an AttributeError, on Kafka of the first send_soon."""
    with pytest.raises(SettingsError, match=r"App\(producer_threaded=...\): .* leave it out: sends from a thread"):
        App("fleet", broker=f"embedded://{tmp_path}/log", producer_threaded=True)


def test_what_an_agent_does_about_errors_is_a_setting(tmp_path: Path) -> None:
    """The same TypeError of Faust's."""
    app = App("fleet", broker=f"embedded://{tmp_path}/log")

    with pytest.raises(SettingsError, match=r"expected app\.on_error in its place"):
        app.agent(app.topic("words"), on_error=print)
