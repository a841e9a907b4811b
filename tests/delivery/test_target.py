"""A target as its settings describe it: names, topics, and the URL for a key."""

from __future__ import annotations

import hashlib
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streams.delivery.target import URL_BYTES_MAX, Target
from streams.errors import InputError
from streams.options import CircuitSettings, TargetSettings


def target(**settings: object) -> Target:
    """A target of app `fleet`."""
    given_ = {
        "name": "crm",
        "source": "devices",
        "topic": "devices.patches",
        "url": "https://crm.example/in",
    } | settings
    return Target.of(TargetSettings(**given_), CircuitSettings(probe_share=0.1), "fleet")


def test_takes_over_what_it_is_given() -> None:
    """Fields of the settings, the app's name in the requester, the circuit's share of trial traffic, the topics."""
    made = target(batch_records_max=7, concurrency=3, fallback="fail")

    assert ("crm", "fleet/crm", 7, 3, "fail") == (
        made.name, made.requester, made.batch_records_max, made.concurrency, made.fallback,
    )  # fmt: skip
    assert (0.1, "devices.patches") == (made.probe_share, made.topic)
    assert ("devices.dlq", "devices.resync") == (made.dead_letters, made.resync)


def test_content_type_follows_the_format() -> None:
    """Protobuf names the message, JSON is JSON."""
    assert 'application/x-protobuf; messageType="streams.v1.PatchBatch"' == target().content_type
    assert "application/json" == target(format="json").content_type


def test_does_not_show_its_url() -> None:
    """A URL may carry a secret, and whoever logs a target does not think of it."""
    assert "token" not in repr(target(url="https://crm.example/in?token=1"))


def test_a_url_without_a_key_is_the_same_for_all() -> None:
    """Nothing of the key gets into it, not even of an empty one."""
    assert not target().one_key
    assert {"https://crm.example/in"} == {target().address(key) for key in (b"", b"a", b"..")}


@given(st.binary(min_size=1, max_size=200))
def test_a_key_stays_where_the_template_has_it(key: bytes) -> None:
    """Whatever the bytes: one path segment and one query value, which decode to the key, and nothing else changes."""
    assume(key not in (b".", b".."))

    parts = urlsplit(target(url="https://crm.example/devices/{key}/state?id={key}&x=1").address(key))

    assert ("https", "crm.example", "") == (parts.scheme, parts.netloc, parts.fragment)
    empty, devices, inner, state = parts.path.split("/")
    assert ("", "devices", key, "state") == (empty, devices, unquote_to_bytes(inner), state)
    first, second = parts.query.split("&")
    assert (key, "x=1") == (unquote_to_bytes(first.removeprefix("id=")), second)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://h/devices/{key}", b""),
        ("https://h/devices/{key}/state", b"."),
        ("https://h/devices/{key}/state", b".."),
        ("https://h/devices/.{key}", b"."),
        ("https://h/devices/{key}", b"x" * URL_BYTES_MAX),
    ],
)
def test_a_key_that_would_name_something_else_is_refused(url: str, key: bytes) -> None:
    """Empty, dots that a server resolves, or too long: a dead letter, and no request to another resource."""
    with pytest.raises(InputError) as raised:
        target(url=url).address(key)

    assert "target-url" == raised.value.reason
    assert "xxx" not in str(raised.value)


def test_dots_in_a_query_or_within_a_segment_are_plain() -> None:
    """Only a whole path segment of dots steps anywhere."""
    assert "https://h/a?k=.." == target(url="https://h/a?k={key}").address(b"..")
    assert "https://h/v..1" == target(url="https://h/{key}").address(b"v..1")


def test_a_request_is_named_by_target_and_content() -> None:
    """SHA-256 of the name, a zero byte, and the uncompressed body."""
    assert hashlib.sha256(b"crm\0body").hexdigest() == target().idempotency_key(b"body")
    assert target().idempotency_key(b"body") != target(name="erp").idempotency_key(b"body")
