"""What is wrong between options that are right by themselves, with the names that take part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from streams.errors import Finding
from streams.options.core import SecuritySettings, SyncSettings
from streams.options.delivery import TargetSettings
from streams.options.table import Settings

__all__ = ["completed", "sync_together", "target_together", "together"]

PORT_MAX = 65_535


def together(settings: Settings) -> Iterator[tuple[tuple[str, ...], Finding]]:
    """What is wrong between options that are right by themselves, with the names that take part."""
    app, transaction, security = settings.app, settings.transaction, settings.security
    if app.workers > 1 and app.broker.startswith("embedded:"):
        yield (
            ("app.workers", "app.broker"),
            Finding(
                "app.workers",
                f"{app.workers} with {app.broker}",
                "1",
                "the embedded log serves one process; use a broker",
            ),
        )
    if app.web_port + app.workers - 1 > PORT_MAX:
        yield (
            ("app.workers", "app.web_port"),
            Finding(
                "app.web_port",
                f"{app.web_port} with {app.workers} workers",
                f"{PORT_MAX + 1 - app.workers} or less",
                "worker i serves on port + i",
            ),
        )
    for name, longest_ms in (
        ("interval_ms", transaction.interval_ms),
        ("backlog_interval_ms", transaction.backlog_interval_ms),
    ):
        if longest_ms * 2 > transaction.timeout_ms:
            yield (f"transaction.{name}", "transaction.timeout_ms"), Finding(
                "transaction.timeout_ms", str(transaction.timeout_ms),
                f"at least twice transaction.{name}, {2 * longest_ms}",
                "the broker would abort transactions that are still being filled",
            )  # fmt: skip
    yield from _security_together(security)
    for name, topics in (
        ("source", [sync.source for sync in settings.sync]),
        ("output", [sync.output for sync in settings.sync]),
    ):
        for topic in sorted({topic for topic in topics if topics.count(topic) > 1}):
            yield (), Finding(f"sync.{name}", f"{topic} in {topics.count(topic)} entries", "one [[sync]] for a topic")
    names = [target.name for target in settings.target]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        yield (), Finding("target.name", f"{twice} in {names.count(twice)} entries", "one [[target]] of a name")
    if settings.circuit.window_ms < 2 * settings.circuit.bucket_ms:
        yield ("circuit.window_ms", "circuit.bucket_ms"), Finding(
            "circuit.bucket_ms", str(settings.circuit.bucket_ms),
            f"at most half of window_ms, {settings.circuit.window_ms}", "a window of one step forgets all at once",
        )  # fmt: skip


def _security_together(security: SecuritySettings) -> Iterator[tuple[tuple[str, ...], Finding]]:
    mechanism = security.sasl_mechanism
    if not security.tls and (security.ca_file or security.cert_file):
        yield ("security.tls",), Finding("security.tls", "false with certificates", "true", "set tls = true")
    if bool(security.cert_file) != bool(security.key_file):
        yield (
            ("security.cert_file", "security.key_file"),
            Finding("security.cert_file", "one of certificate and key", "both or none", "set cert_file and key_file"),
        )
    if mechanism == "OAUTHBEARER" and bool(security.token_file) == bool(security.token_command):
        came = "both" if security.token_file else "neither"
        yield (
            ("security.sasl_mechanism",),
            Finding(
                "security.token_file",
                came,
                "either token_file or token_command",
                "OAUTHBEARER needs one source of tokens",
            ),
        )
    if mechanism not in ("", "OAUTHBEARER"):
        if not security.username:
            yield ("security.username",), Finding("security.username", "nothing", "a name", f"{mechanism} needs one")
        if bool(security.password) == bool(security.password_file):
            came = "both" if security.password else "neither"
            yield ("security.password",), Finding(
                "security.password", came, "either password or password_file",
                "set STREAMS_SECURITY__PASSWORD, or name a file",
            )  # fmt: skip
    if not mechanism and (security.username or security.token_file or security.token_command):
        yield (
            ("security.sasl_mechanism",),
            Finding(
                "security.sasl_mechanism", "nothing", "a mechanism", "a user name or token is set: say how to log in"
            ),
        )


def sync_together(name: str, sync: SyncSettings) -> Iterator[Finding]:
    """What is wrong between the options of one `[[sync]]`."""
    if bool(sync.descriptors) == bool(sync.module):
        came = "both" if sync.module else "neither"
        yield Finding(
            f"{name}.descriptors", came, "either descriptors or module",
            "protoc --include_imports --descriptor_set_out=fleet.binpb makes the file",
        )  # fmt: skip
    if sync.partitioning == "trusted" and sync.key != "record":
        yield Finding(
            f"{name}.partitioning", f"trusted with key = {sync.key}", "murmur2 or repartition",
            "only the record key is what the producer partitioned by",
        )  # fmt: skip
    if sync.output == sync.source:
        yield Finding(f"{name}.output", sync.output, "another topic than its source", "patches would be read as events")


def completed(target: TargetSettings, sync: SyncSettings | None) -> TargetSettings:
    """The target with what it takes over: topic and message type of its sync, its own slow threshold."""
    if sync is not None and not target.message:
        target = dataclasses.replace(target, message=sync.message, descriptors=sync.descriptors, module=sync.module)
    topic = target.topic or (sync.output if sync is not None else f"{target.source}.patches" if target.source else "")
    slow_ms = target.slow_ms or target.timeout_ms * 2 // 3
    return dataclasses.replace(target, topic=topic, slow_ms=slow_ms)


def target_together(name: str, target: TargetSettings, sync: SyncSettings | None) -> Iterator[Finding]:
    """What is wrong between the options of one `[[target]]`, and the `[[sync]]` of its source where there is one."""
    if target.source and sync is None and not target.message:
        yield Finding(
            f"{name}.message", "nothing", "the message type of the patches", f"no [[sync]] of {target.source} tells it"
        )
    if target.message and bool(target.descriptors) == bool(target.module):
        came = "both" if target.module else "neither"
        yield Finding(f"{name}.descriptors", came, "either descriptors or module", "`message` needs one of them")
    for one, other in (
        ("bearer_token", "bearer_token_file"),
        ("signing_secret", "signing_secret_file"),
        ("oauth2_client_secret", "oauth2_client_secret_file"),
    ):
        if getattr(target, one) and getattr(target, other):
            yield Finding(f"{name}.{one}", f"beside {other}", "one of the two")
    if target.oauth2_token_url and (target.bearer_token or target.bearer_token_file):
        yield Finding(f"{name}.oauth2_token_url", "beside a bearer token", "one way to log in")
    if target.oauth2_token_url and not target.oauth2_client_id:
        yield Finding(f"{name}.oauth2_client_id", "nothing", "a client", "oauth2_token_url needs one")
    if bool(target.cert_file) != bool(target.key_file):
        yield Finding(f"{name}.cert_file", "one of certificate and key", "both or none", "set cert_file and key_file")
    if target.slow_ms > target.timeout_ms:
        yield Finding(f"{name}.slow_ms", str(target.slow_ms), f"at most timeout_ms, {target.timeout_ms}")
    if target.batch_records_max > 1 and "{key}" in target.url:
        yield Finding(
            f"{name}.batch_records_max", str(target.batch_records_max), "1 where the URL names the key", "set it to 1"
        )
