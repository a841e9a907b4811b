"""Bearer tokens from the settings and from files."""

from __future__ import annotations

from pathlib import Path

from streams.clock import ManualClock
from streams.identity.bearer import BearerToken, BearerTokenFile


async def test_a_given_token_stays() -> None:
    """Whatever a receiver thinks of it."""
    credential = BearerToken("abc")
    credential.invalidate()

    assert {"Authorization": "Bearer abc"} == await credential.headers()
    assert "abc" not in repr(credential)


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    """When it has changed: after a while by itself, after a refusal at once."""
    file, clock = tmp_path / "token", ManualClock()
    file.write_text("one\n")
    credential = BearerTokenFile("target.a.bearer_token_file", str(file), clock)

    assert {"Authorization": "Bearer one"} == await credential.headers()
    file.write_text("second\n")
    clock.advance(60_000)
    assert {"Authorization": "Bearer second"} == await credential.headers()
    file.write_text("the-third\n")
    credential.invalidate()
    assert {"Authorization": "Bearer the-third"} == await credential.headers()
