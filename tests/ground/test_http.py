"""The HTTP client: bounded in time, size and reach, against real sockets that misbehave in every way we know."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
import time
import traceback
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.http import Answer, HttpClient, HttpFailure, is_public
from tests.zoo import Certificates, Zoo

SECRET = "secret-of-the-url"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of servers good and bad."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def zoo(certificates: Certificates) -> AsyncIterator[Zoo]:
    """Targets of every kind."""
    async with Zoo(certificates) as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client that may go to this machine's own addresses."""
    async with HttpClient(allow_private=True, connections_max=1) as opened:
        yield opened


class Trusting:
    """TLS that trusts a test's CA."""

    def __init__(self, certificates: Certificates) -> None:
        self.ssl = ssl.create_default_context(cafile=certificates.ca_file)

    async def context(self) -> ssl.SSLContext:
        """The context."""
        return self.ssl


async def failure(client: HttpClient, url: str, timeout_ms: int = 30_000, body: bytes = b"x") -> HttpFailure:
    """How a request that cannot succeed ends."""
    with pytest.raises(HttpFailure) as caught:
        await client.request("POST", url, body=body, timeout_ms=timeout_ms, answer_bytes_max=10_000)
    return caught.value


async def get(client: HttpClient, url: str, **more: int) -> Answer:
    """A GET that is answered."""
    return await client.request("GET", url, timeout_ms=30_000, **more)


async def test_an_answer_has_status_headers_and_body(zoo: Zoo, client: HttpClient) -> None:
    """What was sent arrives as it was sent, and what came back is there."""
    answer = await client.request("POST", zoo.url("ok"), headers={"X-Mine": "1"}, body=b"hello", timeout_ms=30_000)

    assert (200, b"ok", "2") == (answer.status, answer.body, answer.headers["content-length"])
    assert (b"hello", "1", "5") == (
        zoo.last["ok"].body,
        zoo.last["ok"].headers["x-mine"],
        zoo.last["ok"].headers["content-length"],
    )
    assert "identity" == zoo.last["ok"].headers["accept-encoding"]


async def test_requests_share_a_connection(zoo: Zoo, client: HttpClient) -> None:
    """A pool keeps the connection of an answer that was read to its end."""
    for _ in range(5):
        await get(client, zoo.url("ok"))

    assert 1 == zoo.connections


async def test_a_large_body_arrives_whole(zoo: Zoo, client: HttpClient) -> None:
    """Above a megabyte a body is written in pieces, with its length in front."""
    body = bytes(range(256)) * 12_000

    await client.request("POST", zoo.url("ok"), body=body, timeout_ms=30_000)

    assert body == zoo.last["ok"].body
    assert str(len(body)) == zoo.last["ok"].headers["content-length"]


async def test_a_url_goes_out_as_it_is(zoo: Zoo, client: HttpClient) -> None:
    """Percent-encoded keys are not decoded on the way: `%2F` and `%41` stay what they are."""
    await get(client, zoo.url("ok") + "/a%2Fb%41%3Fc?d=%20e")

    assert "/ok/a%2Fb%41%3Fc?d=%20e" == zoo.last["ok"].path


@pytest.mark.parametrize("status", [204, 301, 302, 303, 307, 308, 400, 409, 410, 429, 500, 503])
async def test_every_status_is_an_answer(zoo: Zoo, client: HttpClient, status: int) -> None:
    """No status is a failure here; what it means is decided elsewhere."""
    assert status == (await get(client, zoo.url(f"status-{status}"))).status


async def test_redirects_are_not_followed(zoo: Zoo, client: HttpClient) -> None:
    """A receiver that moved is not run after: the next place was not checked by anybody."""
    answer = await client.request("POST", zoo.url("redirect"), body=b"x", timeout_ms=30_000)

    assert 307 == answer.status
    assert 0 == zoo.requests["redirected"]


async def test_cookies_are_forgotten(zoo: Zoo, client: HttpClient) -> None:
    """No request depends on one before."""
    await get(client, zoo.url("cookie"))
    await get(client, zoo.url("cookie"))

    assert "cookie" not in zoo.last["cookie"].headers


async def test_proxies_of_the_environment_are_ignored(
    zoo: Zoo, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checked address is the one that is spoken to."""
    monkeypatch.setenv("http_proxy", zoo.url("proxy"))
    monkeypatch.setenv("HTTP_PROXY", zoo.url("proxy"))
    monkeypatch.setenv("all_proxy", zoo.url("proxy"))

    assert 200 == (await get(client, zoo.url("ok"))).status
    assert 0 == zoo.requests["proxy"]


async def test_answers_are_not_unpacked(zoo: Zoo, client: HttpClient) -> None:
    """A compressed answer that nobody asked for cannot explode here."""
    answer = await get(client, zoo.url("bomb"))

    assert (b"\x1f\x8b not really", "gzip") == (answer.body, answer.headers["content-encoding"])


@pytest.mark.parametrize(
    ("name", "status"),
    [("hang", 0), ("endless-hints", 0), ("hang-after-headers", 200), ("drip", 200), ("bad-chunk", 200)],
)
async def test_time_is_bounded(zoo: Zoo, client: HttpClient, name: str, status: int) -> None:
    """One deadline for all of a request: no answer, no body, a body drop by drop, and one that aiohttp chokes on."""
    failed = await failure(client, zoo.url(name), timeout_ms=1_000)

    assert ("timeout", status) == (failed.kind, failed.status)
    assert 200 == (await get(client, zoo.url("ok"))).status


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("reset", "reset", 0),
        ("reset-mid-body", "reset", 200),
        ("garbage", "protocol", 0),
        ("endless-header", "protocol", 0),
        ("endless-body", "too-large", 200),
        ("long-answer", "too-large", 200),
    ],
)
async def test_bad_answers_are_failures_of_a_kind(
    zoo: Zoo, client: HttpClient, name: str, kind: str, status: int
) -> None:
    """What no HTTP server should do ends at once, frees the connection, and repeats nothing that the peer said."""
    failed = await failure(client, zoo.url(name) + f"?{SECRET}")

    assert (kind, status) == (failed.kind, failed.status)
    assert "secret-of" not in str(failed) + "".join(traceback.format_exception(failed))
    assert 200 == (await get(client, zoo.url("ok"))).status


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_nothing_is_sent_twice(zoo: Zoo, client: HttpClient, method: str) -> None:
    """Also of methods that may be repeated: attempts are counted by whoever makes them."""
    with pytest.raises(HttpFailure):
        await client.request(method, zoo.url("reset"), timeout_ms=30_000)

    assert 1 == zoo.requests["reset"]


async def test_a_refusal_before_the_body_is_read(zoo: Zoo, client: HttpClient) -> None:
    """A server may answer 413 while the body is still on its way: that is the answer, and the next request is clean."""
    body = b"x" * 8_000_000

    answer = await client.request("POST", zoo.url("early-refusal"), body=body, timeout_ms=30_000)

    assert 413 == answer.status
    assert 200 == (await get(client, zoo.url("ok"))).status


async def test_cancelling_frees_the_connection(zoo: Zoo, client: HttpClient) -> None:
    """The receiver sees the end, and the pool's only place is free again."""
    task = asyncio.create_task(get(client, zoo.url("hang")))
    await zoo.until(lambda: zoo.requests["hang"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert 200 == (await get(client, zoo.url("ok"))).status
    await zoo.until(lambda: zoo.left["hang"])


async def test_waiting_for_a_connection_counts(zoo: Zoo, client: HttpClient) -> None:
    """A request that waits for the pool waits within its own time."""
    task = asyncio.create_task(get(client, zoo.url("hang")))
    await zoo.until(lambda: zoo.requests["hang"])

    assert "timeout" == (await failure(client, zoo.url("ok"), timeout_ms=200)).kind
    task.cancel()


async def test_a_host_that_hangs_leaves_connections_for_another(zoo: Zoo, client: HttpClient) -> None:
    """A token endpoint is reached while every connection to the receiver is taken."""
    task = asyncio.create_task(get(client, zoo.url("hang")))
    await zoo.until(lambda: zoo.requests["hang"])

    assert 200 == (await get(client, f"http://localhost:{zoo.port()}/ok")).status
    task.cancel()


async def test_nobody_listens(zoo: Zoo, client: HttpClient) -> None:
    """A port without a server is a failure to connect."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()

    assert "connect" == (await failure(client, f"http://127.0.0.1:{port}/{SECRET}")).kind


async def test_a_closed_client_can_be_used_again(zoo: Zoo, client: HttpClient) -> None:
    """And what was under way when it closed has failed."""
    task = asyncio.create_task(failure(client, zoo.url("hang")))
    await zoo.until(lambda: zoo.requests["hang"])
    await client.close()

    assert "reset" == (await task).kind
    assert 200 == (await get(client, zoo.url("ok"))).status


async def test_nothing_is_left_open(zoo: Zoo) -> None:
    """After closing, the receivers see no connection, and nothing is left to the garbage collector."""
    async with HttpClient(allow_private=True) as client:
        await asyncio.gather(*(get(client, zoo.url("slow")) for _ in range(5)))
        assert zoo.open
    await zoo.until(lambda: not zoo.open)
    gc.collect()


# -- TLS ----------------------------------------------------------------------------------------------------------


async def test_tls_is_checked(zoo: Zoo, certificates: Certificates) -> None:
    """A server of the trusted CA with the right name is spoken to."""
    async with HttpClient(allow_private=True, tls=Trusting(certificates)) as client:
        assert 200 == (await get(client, zoo.url("tls-good"))).status


@pytest.mark.parametrize(
    ("name", "told"),
    [("tls-expired", "expired"), ("tls-other-name", "not valid for"), ("tls-other-ca", "issuer"), ("tls-plain", "")],
)
async def test_bad_tls_is_refused(zoo: Zoo, certificates: Certificates, name: str, told: str) -> None:
    """An expired certificate, another name, an unknown CA, and a port that speaks no TLS; nothing was sent."""
    async with HttpClient(allow_private=True, tls=Trusting(certificates)) as client:
        failed = await failure(client, zoo.url(name))

    assert "tls" == failed.kind
    assert told in failed.detail
    assert 0 == zoo.requests[name]


async def test_a_ca_of_our_own_is_not_trusted_by_default(zoo: Zoo) -> None:
    """Without `tls` the machine's certificates decide."""
    async with HttpClient(allow_private=True) as client:
        assert "tls" == (await failure(client, zoo.url("tls-good"))).kind


# -- names and addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "0x7f000001", "0177.0.0.1"],
)
async def test_own_addresses_are_refused(zoo: Zoo, host: str) -> None:
    """However they are written: nothing connects to this machine unless it is allowed to."""
    async with HttpClient() as client:
        failed = await failure(client, f"http://{host}:{zoo.port()}/ok")

    assert failed.kind in ("refused-address", "protocol", "dns")
    assert 0 == zoo.connections


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "[fe80::1]", "[fd00:ec2::254]", "224.0.0.1"])
async def test_other_addresses_that_are_not_public_are_refused(host: str) -> None:
    """Metadata services, private networks, neighbours, groups: refused before a packet leaves."""
    async with HttpClient() as client:
        assert "refused-address" == (await failure(client, f"http://{host}/")).kind


@pytest.mark.parametrize("host", ["2130706433", "127.1"])
async def test_short_forms_of_addresses_are_no_hosts(host: str) -> None:
    """Numbers that a resolver would take for 127.0.0.1 are refused as they are, also where private is allowed."""
    async with HttpClient(allow_private=True) as client:
        assert "protocol" == (await failure(client, f"http://{host}/")).kind


async def test_a_name_that_changes_its_mind_is_caught(zoo: Zoo) -> None:
    """DNS rebinding: the address that is connected to is the one that is checked, whatever was resolved before."""
    answers = [["192.0.2.1", "127.0.0.1"], ["127.0.0.1"], ["::ffff:127.0.0.1", "10.0.0.1"], ["169.254.169.254"]]
    for answer in answers:
        async with HttpClient(lookup=lambda host, found=answer: found) as client:  # type: ignore[misc]
            assert "refused-address" == (await failure(client, f"http://rebind.example:{zoo.port()}/ok")).kind

    assert 0 == zoo.connections


async def test_names_are_resolved(zoo: Zoo) -> None:
    """The Host header and TLS see the name, the socket the address."""
    async with HttpClient(allow_private=True, lookup=lambda host: ["127.0.0.1"]) as client:
        answer = await get(client, f"http://receiver.example:{zoo.port()}/ok")

    assert (200, f"receiver.example:{zoo.port()}") == (answer.status, zoo.last["ok"].headers["host"])


async def test_the_second_address_is_tried(zoo: Zoo) -> None:
    """A host with an address where nobody listens is reached at its other one."""
    async with HttpClient(allow_private=True, lookup=lambda host: ["127.0.0.2", "127.0.0.1"]) as client:
        assert 200 == (await get(client, f"http://receiver.example:{zoo.port()}/ok")).status


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "-", "x" * 64 + ".example"])
async def test_a_host_without_an_address(host: str) -> None:
    """Names that do not exist, and names that cannot."""
    async with HttpClient() as client:
        assert "dns" == (await failure(client, f"http://{host}/")).kind


async def test_no_address_at_all() -> None:
    """A resolver that finds nothing and says so politely."""
    async with HttpClient(lookup=lambda host: []) as client:
        assert "dns" == (await failure(client, "http://nowhere.example/")).kind


async def test_a_resolver_that_hangs_holds_up_nobody_else() -> None:
    """Name servers that are gone take a request's time, and threads of the client's own, none of the loop's."""
    hold = threading.Event()

    def hang(host: str) -> list[str]:
        hold.wait(60)
        return []

    async with HttpClient(lookup=hang) as client:
        failures = [failure(client, f"http://{number}.example/", timeout_ms=300) for number in range(40)]
        ended = asyncio.gather(*failures)
        before = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(40)))
        taken = time.monotonic() - before

        assert {"timeout"} == {failed.kind for failed in await ended}
        assert taken < 30
        hold.set()


@pytest.mark.parametrize(
    "url", ["ftp://a/", "http://", "//a", "http://a/ b", "http://a/\r\nX: 1", "http://ä.example/", "http:///a", "http://a:99999/"]
)  # fmt: skip
async def test_what_is_no_url_is_refused(url: str) -> None:
    """With a kind like any failure, and without the URL in the message."""
    async with HttpClient() as client:
        failed = await failure(client, url + SECRET if url.endswith("/") else url)

    assert failed.kind in ("protocol", "dns")
    assert SECRET not in str(failed)


async def test_a_header_cannot_smuggle_another(zoo: Zoo, client: HttpClient) -> None:
    """Line ends in a header are refused before anything is sent."""
    with pytest.raises(HttpFailure) as caught:
        await client.request("POST", zoo.url("ok"), headers={"X-A": f"1\r\nX-B: {SECRET}"}, timeout_ms=30_000)

    assert "protocol" == caught.value.kind
    assert SECRET not in str(caught.value)
    assert 0 == zoo.requests["ok"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("2002:808:808::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("198.18.0.1", False),
        ("192.0.2.1", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2002:a9fe:a9fe::", False),
        ("2001:0:4136:e378::1", False),
        ("2001:db8::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("100::1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    """Those of the Internet's hosts, and no other, however they are wrapped."""
    assert public == is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_changes_nothing(address: object) -> None:
    """An IPv4 address in an IPv6 one is as public as it is by itself."""
    bare = is_public(str(address))
    packed = int(address)  # type: ignore[call-overload]

    assert bare == is_public(f"::ffff:{address}")
    assert bare == is_public(f"64:ff9b::{packed >> 16:x}:{packed & 0xFFFF:x}")
    assert bare == is_public(f"2002:{packed >> 16:x}:{packed & 0xFFFF:x}::1")


def test_a_client_needs_no_event_loop_to_be_made() -> None:
    """It opens nothing until it is used."""
    HttpClient()
