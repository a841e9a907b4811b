"""Which credential a target's settings ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from streams.clock import ManualClock
from streams.http import HttpClient
from streams.identity.credential import Credentials
from streams.options.delivery import TargetSettings
from tests.identity.endpoint import CLIENT_ID, SECRET, TokenEndpoint


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client that reaches this machine."""
    async with HttpClient(allow_private=True) as opened:
        yield opened


async def test_no_login_no_credential(client: HttpClient) -> None:
    """A target without any goes without."""
    assert Credentials().of(TargetSettings(name="a"), client) is None


async def test_a_token_or_its_file(client: HttpClient, tmp_path: Path) -> None:
    """Both are sent as bearer tokens."""
    (tmp_path / "token").write_text("from-file")
    given = Credentials().of(TargetSettings(name="a", bearer_token="given"), client)
    filed = Credentials().of(TargetSettings(name="a", bearer_token_file=str(tmp_path / "token")), client)

    assert given is not None
    assert filed is not None
    assert "Bearer given" == (await given.headers())["Authorization"]
    assert "Bearer from-file" == (await filed.headers())["Authorization"]


async def test_targets_that_log_in_alike_share_a_token(client: HttpClient) -> None:
    """The endpoint sees one request for both; another scope is another token."""
    async with TokenEndpoint() as endpoint:
        target = TargetSettings(
            name="a", oauth2_token_url=endpoint.url, oauth2_client_id=CLIENT_ID, oauth2_client_secret=SECRET
        )
        credentials = Credentials()
        first = credentials.of(target, client)
        second = credentials.of(replace(target, name="b"), client)
        other = credentials.of(replace(target, name="c", oauth2_scope="more"), client)
        assert first is not None
        assert other is not None

        assert first is second
        assert "Bearer token-1" == (await first.headers())["Authorization"]
        assert "Bearer token-2" == (await other.headers())["Authorization"]


async def test_a_secret_in_a_file_is_renewed(client: HttpClient, tmp_path: Path) -> None:
    """The next token is fetched with what the file holds then."""
    file, clock = tmp_path / "secret", ManualClock()
    file.write_text("first")
    async with TokenEndpoint() as endpoint:
        endpoint.secret = "first"
        target = TargetSettings(
            name="a", oauth2_token_url=endpoint.url, oauth2_client_id=CLIENT_ID, oauth2_client_secret_file=str(file)
        )
        credential = Credentials(clock).of(target, client)
        assert credential is not None
        await credential.headers()
        endpoint.secret = "second"
        file.write_text("second\n")
        clock.advance(3_600_000)

        assert "Bearer token-2" == (await credential.headers())["Authorization"]
