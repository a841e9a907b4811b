"""OAuth 2 client credentials: one token for all, renewed in time, and never a burden on its endpoint."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Callable

import pytest

from streams.clock import ManualClock
from streams.errors import Finding, SettingsError
from streams.http import HttpClient, HttpFailure
from streams.identity.oauth2 import ClientCredentials
from tests.identity.endpoint import CLIENT_ID, SECRET, TokenEndpoint

MINUTE_MS = 60_000


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    """A token endpoint."""
    async with TokenEndpoint() as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client that reaches it."""
    async with HttpClient(allow_private=True) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    """Time."""
    return ManualClock()


async def secret() -> str:
    """The right secret."""
    return SECRET


@pytest.fixture
def credential(client: HttpClient, endpoint: TokenEndpoint, clock: ManualClock) -> ClientCredentials:
    """The credential under test."""
    return ClientCredentials(client, endpoint.url, CLIENT_ID, secret, clock=clock, chance=random.Random(1))


async def token(credential: ClientCredentials) -> str:
    """The token that a request would carry now."""
    return (await credential.headers())["Authorization"].removeprefix("Bearer ")


async def failure(credential: ClientCredentials) -> HttpFailure:
    """Why a request cannot go out now."""
    with pytest.raises(HttpFailure) as caught:
        await credential.headers()
    return caught.value


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that a background task does."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the task tells nobody
            await asyncio.sleep(0.005)


def fetching() -> bool:
    """Whether a token is being fetched."""
    return any(task.get_name() == "oauth2 token" for task in asyncio.all_tasks())


async def test_a_token_is_fetched_once(credential: ClientCredentials, endpoint: TokenEndpoint) -> None:
    """However many requests need it, one after the other or all at once."""
    tokens = await asyncio.gather(*(token(credential) for _ in range(50)))

    assert {"token-1"} == {*tokens, await token(credential)}
    assert 1 == endpoint.requests
    assert [{"grant_type": "client_credentials"}] == endpoint.forms


async def test_scope_and_audience_are_asked_for(
    client: HttpClient, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """And an endpoint that grants another scope is believed: the receiver decides what it is worth."""
    endpoint.extra = {"scope": "read"}
    credential = ClientCredentials(
        client, endpoint.url, CLIENT_ID, secret, scope="read write", audience="https://receiver", clock=clock
    )

    assert "token-1" == await token(credential)
    assert [
        {"grant_type": "client_credentials", "scope": "read write", "audience": "https://receiver"}
    ] == endpoint.forms


async def test_an_endpoint_that_wants_the_secret_in_the_form(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """Gets it there after its first refusal, and from then on at once."""
    endpoint.in_body_only = True

    assert "token-1" == await token(credential)
    assert 2 == endpoint.requests
    clock.advance(3_600_000)
    assert "token-2" == await token(credential)
    assert 3 == endpoint.requests
    assert (CLIENT_ID, SECRET) == (endpoint.forms[-1]["client_id"], endpoint.forms[-1]["client_secret"])


async def test_a_token_is_renewed_before_it_expires(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """In the background: requests go on with the old one, which is still good."""
    await token(credential)
    clock.advance(57 * MINUTE_MS)
    assert "token-1" == await token(credential)
    assert 1 == endpoint.requests
    clock.advance(2 * MINUTE_MS + 1_000)
    endpoint.open.clear()
    assert ["token-1"] * 20 == [await token(credential) for _ in range(20)]
    endpoint.open.set()
    await until(lambda: not fetching())

    assert "token-2" == await token(credential)
    assert 2 == endpoint.requests


@pytest.mark.parametrize(
    ("lifetime_s", "earliest_s", "latest_s"), [(3_600, 3_480, 3_540), (60, 36, 48), (None, 180, 240)]
)
async def test_renewals_are_spread(
    client: HttpClient, endpoint: TokenEndpoint, lifetime_s: int | None, earliest_s: int, latest_s: int
) -> None:
    """By chance between one and two leeways before the end, so that workers that began together do not ask together."""
    endpoint.lifetime_s = lifetime_s
    due = set()
    for seed in range(12):
        clock, second = ManualClock(), earliest_s - 1
        made = ClientCredentials(client, endpoint.url, CLIENT_ID, secret, clock=clock, chance=random.Random(seed))
        await token(made)
        clock.advance(second * 1_000)
        await token(made)
        assert not fetching()
        while not fetching():
            second += 1
            clock.advance(1_000)
            await token(made)
        due.add(second)
        await until(lambda: not fetching())

    assert earliest_s <= min(due) < max(due) <= latest_s + 1


async def test_a_sick_endpoint_is_asked_again_after_a_pause(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """Without a token every request fails at once; the endpoint sees one request per pause, and recovery is found."""
    endpoint.fixed = (503, "down", {})
    for _ in range(20):
        failed = await failure(credential)
    asked = endpoint.requests

    assert ("auth", 1) == (failed.kind, asked)
    clock.advance(1_000)
    await failure(credential)
    assert 2 == endpoint.requests
    endpoint.fixed = None
    clock.advance(MINUTE_MS)
    assert "token-1" == await token(credential)


async def test_a_good_token_outlives_a_sick_endpoint(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """Until it expires; renewals are tried with pauses meanwhile."""
    await token(credential)
    endpoint.fixed = (500, "", {})
    clock.advance(59 * MINUTE_MS + 1_000)
    for _ in range(5):
        assert "token-1" == await token(credential)
        await asyncio.sleep(0.01)
    await until(lambda: not fetching())

    assert 2 == endpoint.requests
    clock.advance(MINUTE_MS)
    assert "auth" == (await failure(credential)).kind


async def test_retry_after_of_the_endpoint_is_obeyed(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """A throttled token endpoint is left alone for as long as it asks for."""
    endpoint.fixed = (429, "", {"Retry-After": "120"})
    await failure(credential)
    clock.advance(119_000)
    await failure(credential)

    assert 1 == endpoint.requests
    clock.advance(2_000)
    await failure(credential)
    assert 2 == endpoint.requests


async def test_a_refused_token_is_replaced_once(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """401 for all requests under way: the first makes the token new, the others find a new one and leave it alone."""
    await token(credential)
    clock.advance(MINUTE_MS)
    for _ in range(10):
        credential.invalidate()

    assert {"token-2"} == set(await asyncio.gather(*(token(credential) for _ in range(10))))
    credential.invalidate()
    assert "token-2" == await token(credential)
    assert 2 == endpoint.requests


async def test_a_receiver_that_refuses_every_token_does_not_burden_the_endpoint(
    credential: ClientCredentials, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """A hundred refusals in ten seconds are not worth one new token."""
    await token(credential)
    for _ in range(100):
        clock.advance(99)
        credential.invalidate()
        await token(credential)

    assert 1 == endpoint.requests


async def test_a_wrong_secret_is_told_without_it(credential: ClientCredentials, endpoint: TokenEndpoint) -> None:
    """The message has the endpoint's code, and neither our secret nor its words; the secret was shown both ways."""
    endpoint.secret = "another"
    failed = await failure(credential)
    told = "".join(traceback.format_exception(failed))

    assert ("auth", "token endpoint answered 401 (invalid_client)") == (failed.kind, failed.detail)
    assert SECRET not in told
    assert "secret-of-the-peer" not in told
    assert 2 == endpoint.requests


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>secret-of-the-peer</html>",
        "[]",
        "null",
        "7",
        "[" * 50_000,
        "{}",
        '{"access_token": null}',
        '{"access_token": ["secret-of-the-peer"]}',
        '{"access_token": "secret-of-the-peer\\r\\nX: 1"}',
        '{"access_token": "ä"}',
        '{"access_token": ""}',
        '{"access_token": "t", "token_type": "mac"}',
        '{"access_token": "t", "expires_in": -5}',
        '{"access_token": "t", "expires_in": "soon"}',
        '{"access_token": "t", "expires_in": {}}',
        '{"access_token": "t", "expires_in": 1e999}',
        '{"access_token": "t", "expires_in": NaN}',
        '{"error": "invalid_scope"}',
        '{"error": "secret-of-the-peer"}',
        '{"error": {}}',
    ],
)
async def test_what_is_no_token_is_refused(credential: ClientCredentials, endpoint: TokenEndpoint, answer: str) -> None:
    """A failure like any other, without a word of the answer in it."""
    endpoint.fixed = (200, answer, {"Content-Type": "application/json"})
    failed = await failure(credential)

    assert "auth" == failed.kind
    assert "secret-of-the-peer" not in "".join(traceback.format_exception(failed))


async def test_an_endpoint_that_is_gone(client: HttpClient, clock: ManualClock) -> None:
    """Has the failure of the request, and says that it was the token endpoint's."""
    async with TokenEndpoint() as gone:
        url = gone.url
    failed = await failure(ClientCredentials(client, url, CLIENT_ID, secret, clock=clock))

    assert "connect" == failed.kind
    assert failed.detail.startswith("token endpoint: ")


async def test_one_who_gives_up_does_not_take_the_token_from_others(
    credential: ClientCredentials, endpoint: TokenEndpoint
) -> None:
    """A cancelled request leaves the fetching to those who still wait."""
    endpoint.open.clear()
    impatient, patient = asyncio.create_task(token(credential)), asyncio.create_task(token(credential))
    await until(lambda: endpoint.requests)
    impatient.cancel()
    endpoint.open.set()

    assert "token-1" == await patient
    assert impatient.cancelled()
    assert 1 == endpoint.requests


async def test_a_renewed_secret_is_used_for_the_next_token(
    client: HttpClient, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """The secret is asked for with every token."""
    secrets = iter([SECRET, "another"])

    async def rotated() -> str:
        return next(secrets)

    credential = ClientCredentials(client, endpoint.url, CLIENT_ID, rotated, clock=clock)
    await token(credential)
    endpoint.secret = "another"
    clock.advance(3_600_000)

    assert "token-2" == await token(credential)


async def test_a_secret_that_cannot_be_read_ends_the_request(
    client: HttpClient, endpoint: TokenEndpoint, clock: ManualClock
) -> None:
    """With the setting's own error, also for those who come after."""

    async def unreadable() -> str:
        raise SettingsError(Finding("target.a.oauth2_client_secret_file", "nothing", "a file"))

    credential = ClientCredentials(client, endpoint.url, CLIENT_ID, unreadable, clock=clock)
    for _ in range(2):
        with pytest.raises(SettingsError):
            await credential.headers()

    assert 0 == endpoint.requests
