"""What Faust is told of our settings. Each thing is set in one place: the same under Faust's name is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streams.errors import Finding, SettingsError
from streams.observe.hosts import web_options
from streams.options import Settings
from streams.transport.credentials import Credentials
from streams.worker import transport_url

__all__ = ["faust_options", "refuse_on_error"]

OURS = {
    "web_host": "app.web_host",
    "web_bind": "app.web_host",
    "web_port": "app.web_port",
    "broker_session_timeout": "app.broker_session_timeout_ms",
    "broker_heartbeat_interval": "app.broker_session_timeout_ms",
    "broker_rebalance_timeout": "app.rebalance_timeout_ms",
    "consumer_group_instance_id": "app.instance",
    "broker_credentials": "[security]",
    "table_standby_replicas": "app.standby_replicas",
    "num_standby_replicas": "app.standby_replicas",
    "url": "app.broker",
    "broker_consumer": "app.broker",
    "broker_producer": "app.broker",
    "processing_guarantee": "app.guarantee",
}
"""Faust's names of a setting, and ours."""
NOT_HERE = {"producer_threaded": "sends from a thread of their own would be in no chunk's transaction"}
"""What Faust has that a worker cannot have, and why."""


def faust_options(settings: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a faust.App. `given`: those of the user's code that are Faust's own.

    SettingsError: one of them is set by us.
    """
    own, options = settings.app, dict(given)
    made = {
        "broker": transport_url(own.broker),
        "datadir": str(Path(own.datadir).absolute()),
        "store": options.pop("store", "memory://"),
        "broker_session_timeout": own.broker_session_timeout_ms / 1000,
        "broker_rebalance_timeout": own.rebalance_timeout_ms / 1000,
        "broker_heartbeat_interval": own.broker_session_timeout_ms / 5000,
        "consumer_group_instance_id": own.instance or None,
        "broker_credentials": Credentials(settings.security).faust(),
        "table_standby_replicas": own.standby_replicas,
        "producer_compression_type": options.pop("producer_compression_type", "zstd"),
        **web_options(own, options.pop("web_application_options", None) or {}),
    }
    twice = sorted((made.keys() | OURS.keys() | NOT_HERE.keys()) & options.keys())
    if twice:
        raise SettingsError(*[_refused(name) for name in twice])
    return {**made, **options}


def _refused(name: str) -> Finding:
    setting = OURS.get(name)
    if setting is None:
        why = NOT_HERE.get(name, "Faust's own pages show keys and values to anybody, and are off")
        cure = f"leave it out: {why}"
    else:
        cure = f"set {setting}, in streams.toml, in the environment or as a flag"
    return Finding(f"App({name}=...)", "an option of Faust's", f"{setting or 'nothing'} in its place", cure)


def refuse_on_error(options: Mapping[str, Any]) -> None:
    """What Faust's own App takes no more, either: it raised that it got several values for it."""
    if "on_error" in options:
        raise SettingsError(
            Finding(
                "app.agent(on_error=...)",
                "a function of one agent",
                "app.on_error in its place, for all agents",
                "leave it out: letter makes a dead letter of a record that an agent raises on, stop ends the worker; "
                "what one agent does about an error stands in its body, in a try",
            )
        )
