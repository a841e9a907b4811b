"""Requests on a real socket, looked at without any of our own code: stock protobuf, zstandard, hashlib and hmac."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Self

import pytest
import zstandard
from aiohttp import web
from google.protobuf.json_format import MessageToDict, MessageToJson
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from streams._native import Records, xxh3_64
from streams.clock import ManualClock
from streams.delivery.body import JsonForm, protobuf_body
from streams.delivery.conflate import Conflater
from streams.delivery.dictionary import Dictionaries
from streams.delivery.http import SIGN_THREAD_BYTES, THREAD_BYTES, Sender, stale_keys
from streams.delivery.lane import Batch, Lanes
from streams.delivery.signature import signing_key
from streams.delivery.target import Target
from streams.demo.v1.device_pb2 import DeviceState
from streams.errors import InputError
from streams.http import Answer, HttpClient, HttpFailure
from streams.identity.bearer import BearerToken, BearerTokenFile
from streams.kernel.compression import Dictionary, train
from streams.kernel.schema import MessageSchema
from streams.options import CircuitSettings, TargetSettings
from streams.v1 import dictionary_pb2
from streams.v1.delivery_pb2 import StaleKeys
from streams.v1.patch_pb2 import Patch, PatchBatch
from tests.zoo import Receiver

TYPE = "streams.demo.v1.DeviceState"
KEY = bytes(range(32))
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Request:
    """One request as it came: nothing of it unpacked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Recorder:
    """A receiver that keeps what comes, and answers what it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], tuple[int, dict[str, str]]] = lambda request: (200, {})
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def last(self) -> Request:
        """What came last."""
        return self.requests[-1]

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Request(request.method, request.raw_path, headers, await request.read()))
        status, fields = self.answer(self.last)
        return web.Response(status=status, headers=fields)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """One on 127.0.0.1."""
    async with Recorder() as made:
        yield made


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """The one HTTP client, allowed to reach 127.0.0.1."""
    async with HttpClient(allow_private=True) as made:
        yield made


def target(url: str, **settings: Any) -> TargetSettings:
    """Settings of a target there."""
    given_: dict[str, Any] = {
        "name": "crm",
        "source": "devices",
        "topic": "devices.patches",
        "message": TYPE,
        "url": url,
    }
    return TargetSettings(**given_ | settings)


def sender(settings: TargetSettings, client: HttpClient, **parts: Any) -> Sender:
    """As the worker puts it together."""
    form = JsonForm(DeviceState).body if settings.format == "json" else protobuf_body
    parts = {"signing_key": signing_key(settings)} | parts
    return Sender(Target.of(settings, CircuitSettings(), "fleet"), client, form, **parts)


def patch(key: bytes = b"dev-1", revision: int = 1, **fields: Any) -> Patch:
    """A snapshot of a device."""
    data = DeviceState(device_id=key.hex(), status="ok", rx_bytes=revision).SerializeToString()
    made = Patch(key=key, revision=revision, kind=Patch.SNAPSHOT, type=TYPE, epoch=5, data=data, **fields)
    made.mask.paths.append("*")
    return made


@cache
def conflater_of_devices() -> Conflater:
    """Made once: it reads the whole descriptor."""
    return Conflater(MessageSchema(DeviceState).native)


def batch(*patches: Patch) -> Batch:
    """One request's worth, cut from real lanes."""
    conflater = conflater_of_devices()
    lanes = Lanes(conflater.compose, conflater.head, requester=b"fleet/crm", bytes_max=1 << 26)
    lanes.assign(0, 0)
    records = Records()
    for offset, each in enumerate(patches):
        records.append(each.key, each.SerializeToString(), offset=offset)
    lanes.take(0, records)
    made = lanes.cut(0, 1 << 20, 1 << 26)
    assert made is not None
    return made


def opened(request: Request, dictionary: bytes = b"") -> bytes:
    """The content of a body, by python-zstandard alone."""
    coding = request.headers.get("content-encoding")
    if coding is None:
        return request.body
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompress(request.body)
    assert coding == "dcz"
    assert b"\x5e\x2a\x4d\x18\x20\x00\x00\x00" + hashlib.sha256(dictionary).digest() == request.body[:40]
    data = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=data).decompress(request.body[40:])


async def sent(sender: Sender, *patches: Patch) -> Answer:
    """The answer to one request with these patches."""
    answer = await sender.send(await sender.build(batch(*patches)))
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("count", [1, 3, 2_000])
async def test_a_protobuf_request(recorder: Recorder, client: HttpClient, count: int) -> None:
    """Method, path, body, and every header, small and large: verified as a receiver without our code would."""
    secret = base64.b64encode(KEY).decode()
    clock = ManualClock(1_700_000_123_456)
    made = sender(target(f"{recorder.url}/in?a=1", signing_secret=secret), client, clock=clock)
    patches = [patch(b"dev-%d" % (number % 50), number) for number in range(1, count + 1)]
    patches[-1].traceparent = TRACE

    assert 200 == (await sent(made, *patches)).status
    (request,) = recorder.requests
    content = opened(request)
    received = PatchBatch.FromString(content)
    by_key = sorted(patches, key=lambda each: each.key)
    assert by_key == sorted(received.patches, key=lambda each: each.key)
    assert ("POST", "/in?a=1") == (request.method, request.path)
    headers = request.headers
    assert ("zstd", 'application/x-protobuf; messageType="streams.v1.PatchBatch"') == (
        headers["content-encoding"], headers["content-type"],
    )  # fmt: skip
    assert hashlib.sha256(b"crm\0" + content).hexdigest() == headers["idempotency-key"] == headers["webhook-id"]
    assert "1700000123" == headers["webhook-timestamp"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
    wanted = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert f"v1,{wanted}" == headers["webhook-signature"]
    assert received.patches[-1].traceparent == headers.get("traceparent", "")


async def test_a_json_request_verifies_with_the_public_library(recorder: Recorder, client: HttpClient) -> None:
    """Uncompressed JSON is what stock webhook receivers take as it comes."""
    secret = f"whsec_{base64.b64encode(KEY).decode()}"
    settings = target(recorder.url, format="json", compression="none", signing_secret=secret)
    await sent(sender(settings, client), patch(b"dev-1", 3), patch(b"dev-2", 4))

    request = recorder.last
    assert "content-encoding" not in request.headers
    assert "application/json" == request.headers["content-type"]
    said = Webhook(secret).verify(request.body, request.headers)
    assert said == json.loads(request.body)
    assert ["3", "4"] == [each["revision"] for each in said["patches"]]
    assert hashlib.sha256(b"crm\0" + request.body).hexdigest() == request.headers["idempotency-key"]


@pytest.mark.parametrize("count", [1, 100])
async def test_json_is_compressed_too(recorder: Recorder, client: HttpClient, count: int) -> None:
    """With the same coding as Protobuf, in the loop or in a thread."""
    await sent(sender(target(recorder.url, format="json"), client), *(patch(b"%d" % each) for each in range(count)))

    assert count == len(json.loads(opened(recorder.last))["patches"])


@pytest.mark.parametrize("size", [1, SIGN_THREAD_BYTES])
async def test_a_retry_sends_the_same_bytes(recorder: Recorder, client: HttpClient, size: int) -> None:
    """The body and the keys stay; timestamp and signature are the attempt's, small or signed in a thread."""
    clock = ManualClock()
    settings = target(recorder.url, signing_secret=base64.b64encode(KEY).decode(), compression="none")
    made = sender(settings, client, clock=clock)
    parcel = await made.build(batch(patch(event_id="x" * size)))
    for _ in range(2):
        await made.send(parcel)
        clock.advance(60_000)

    first, second = recorder.requests
    assert (first.body, first.headers["idempotency-key"]) == (second.body, second.headers["idempotency-key"])
    assert 60 == int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"])
    for request in (first, second):
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
        wanted = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert f"v1,{wanted}" == request.headers["webhook-signature"]


async def test_the_same_batch_has_the_same_key_in_every_worker(recorder: Recorder, client: HttpClient) -> None:
    """After a crash another process builds the request anew; another target's is another one."""
    for name in ("crm", "crm", "erp"):
        await sent(sender(target(recorder.url, name=name), client), patch())

    first, again, other = (request.headers["idempotency-key"] for request in recorder.requests)
    assert first == again != other


@pytest.mark.parametrize("found", ["", "junk", f"{TRACE}\r\nX: 1", TRACE.replace("00-", "ff-"), TRACE.upper()])
async def test_a_trace_that_is_none_is_left_out(recorder: Recorder, client: HttpClient, found: str) -> None:
    """Anybody may write into an event; a header takes W3C trace context and nothing else."""
    await sent(sender(target(recorder.url), client), patch(traceparent=found))

    assert "traceparent" not in recorder.last.headers


async def test_a_url_with_the_key(recorder: Recorder, client: HttpClient) -> None:
    """Percent-encoded on the wire, one key per request; a key that would name another resource is no request."""
    made = sender(target(f"{recorder.url}/devices/{{key}}/state?id={{key}}", batch_records_max=1), client)
    await sent(made, patch(b"a/../b &\xff"))

    assert "/devices/a%2F..%2Fb%20%26%FF/state?id=a%2F..%2Fb%20%26%FF" == recorder.last.path
    with pytest.raises(InputError, match="target-url"):
        await made.build(batch(patch(b"..")))
    with pytest.raises(ValueError, match="2 keys"):
        await made.build(batch(patch(b"a"), patch(b"b")))


async def test_a_patch_that_json_cannot_tell(recorder: Recorder, client: HttpClient) -> None:
    """An InputError from `build`, so that the batch is bisected down to it."""
    bad = patch()
    bad.type = "acme.Other"
    with pytest.raises(InputError, match="target-json"):
        await sender(target(recorder.url, format="json"), client).build(batch(bad))


async def test_credentials(recorder: Recorder, client: HttpClient, tmp_path: Any) -> None:
    """A token goes along; after it was refused, the file's new one; a file that was never there is a failure."""
    made = sender(target(recorder.url), client, credential=BearerToken("t0"))
    await made.prepare()
    await sent(made, patch())
    assert "Bearer t0" == recorder.last.headers["authorization"]

    file = tmp_path / "token"
    file.write_text("t1")
    made = sender(target(recorder.url), client, credential=BearerTokenFile("target.bearer_token_file", str(file)))
    await sent(made, patch())
    file.write_text("t22")
    made.invalidate()
    await sent(made, patch())
    assert ["Bearer t1", "Bearer t22"] == [request.headers["authorization"] for request in recorder.requests[1:]]

    missing = BearerTokenFile("target.bearer_token_file", str(tmp_path / "none"))
    made = sender(target(recorder.url), client, credential=missing)
    failure = await made.send(await made.build(batch(patch())))
    assert isinstance(failure, HttpFailure)
    assert "auth" == failure.kind


async def test_a_failure_is_a_value(client: HttpClient) -> None:
    """Nobody listens there: a kind to decide by, and neither URL nor key in its text."""
    made = sender(target("http://127.0.0.1:1/secret-path"), client)
    failure = await made.send(await made.build(batch(patch())))

    assert isinstance(failure, HttpFailure)
    assert "connect" == failure.kind
    assert "secret-path" not in str(failure)


# -- dictionaries ---------------------------------------------------------------------------------------------


async def dropped(records: Records) -> None:
    """Publishes nowhere."""


@pytest.fixture(scope="module")
def content() -> bytes:
    """What a dictionary for such patches has in it."""
    made = train([patch(b"dev-%d" % number, number).SerializeToString() for number in range(1_000)])
    assert made is not None
    return made


@pytest.fixture
def dictionaries(content: bytes) -> Dictionaries:
    """A worker's, which knows this one."""
    made = Dictionaries(dropped)
    sha256 = hashlib.sha256(content).digest()
    made.take(b"7", dictionary_pb2.Dictionary(id=7, type=TYPE, content=content, sha256=sha256).SerializeToString())
    return made


def announced(content: bytes, codings: str = "gzip, dcz;q=0.9, zstd") -> dict[str, str]:
    """Headers of a receiver that has a dictionary."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"Accept-Encoding": codings, "Available-Dictionary": f":{digest}:"}


async def test_a_receiver_that_announces_a_dictionary(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, content: bytes
) -> None:
    """zstd until it has said so, dcz from then on, zstd again when it no longer says so."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    says = announced(content)
    recorder.answer = lambda request: (200, says)
    for _ in range(3):
        await sent(made, patch())
    says.clear()
    await sent(made, patch())
    await sent(made, patch())

    codings = [request.headers["content-encoding"] for request in recorder.requests]
    assert ["zstd", "dcz", "dcz", "dcz", "zstd"] == codings
    wanted = PatchBatch(patches=[patch()]).SerializeToString()
    assert {wanted} == {opened(request, content) for request in recorder.requests}
    assert 1 == len({request.headers["idempotency-key"] for request in recorder.requests})
    assert len(recorder.requests[1].body) < len(recorder.requests[0].body)


@pytest.mark.parametrize(
    "says",
    [
        announced(b"a dictionary that nobody knows"),
        {"Accept-Encoding": "dcz"},
        {"Accept-Encoding": "dcz", "Available-Dictionary": ":!:"},
        {"Accept-Encoding": "dcz", "Available-Dictionary": "x"},
    ],
)
async def test_an_announcement_that_says_nothing(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, says: dict[str, str]
) -> None:
    """An unknown dictionary, none, or no hash: plain zstd."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    recorder.answer = lambda request: (200, says)
    for _ in range(2):
        await sent(made, patch())

    assert ["zstd", "zstd"] == [request.headers["content-encoding"] for request in recorder.requests]


@pytest.mark.parametrize(
    ("settings", "codings"),
    [({}, "dcz"), ({"compression": "dictionary"}, "dcz;q=0, zstd"), ({"compression": "none"}, "dcz")],
)
async def test_dcz_is_for_those_who_want_it(
    recorder: Recorder,
    client: HttpClient,
    dictionaries: Dictionaries,
    content: bytes,
    settings: dict[str, str],
    codings: str,
) -> None:
    """Both sides: the target's setting, and an `Accept-Encoding` that does not exclude it."""
    made = sender(target(recorder.url, **settings), client, dictionaries=dictionaries)
    recorder.answer = lambda request: (200, announced(content, codings))
    for _ in range(2):
        await sent(made, patch())

    assert "dcz" not in {request.headers.get("content-encoding") for request in recorder.requests}


@pytest.mark.parametrize("status", [400, 415, 422])
async def test_a_receiver_that_lost_its_dictionary(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, content: bytes, status: int
) -> None:
    """It goes on announcing what it cannot read: the same content goes out as zstd at once, and dcz no more."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)

    def answer(request: Request) -> tuple[int, dict[str, str]]:
        return (status if request.headers["content-encoding"] == "dcz" else 200), announced(content)

    recorder.answer = answer
    for _ in range(3):
        assert 200 == (await sent(made, patch())).status

    assert ["zstd", "dcz", "zstd", "zstd"] == [each.headers["content-encoding"] for each in recorder.requests]
    assert 1 == len({request.headers["idempotency-key"] for request in recorder.requests})


async def test_a_parcel_outlives_the_dictionary_it_was_made_with(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, content: bytes
) -> None:
    """A retry is coded anew when the receiver has taken its announcement back meanwhile."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    recorder.answer = lambda request: (200, announced(content))
    await sent(made, patch())
    parcel = await made.build(batch(patch()))
    assert "dcz" == parcel.coding
    recorder.answer = lambda request: (200, {})
    await sent(made, patch())
    await made.send(parcel)

    assert "zstd" == recorder.last.headers["content-encoding"]
    assert PatchBatch(patches=[patch()]).SerializeToString() == opened(recorder.last)


async def test_a_refused_patch_is_no_refused_dictionary(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, content: bytes
) -> None:
    """400 in either coding is about the content: that is the answer, and dcz goes on."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    status = 200
    recorder.answer = lambda request: (status, announced(content))
    await sent(made, patch())
    status = 400
    assert 400 == (await sent(made, patch())).status
    status = 200
    await sent(made, patch())

    assert ["zstd", "dcz", "zstd", "dcz"] == [each.headers["content-encoding"] for each in recorder.requests]


async def test_an_error_of_a_proxy_takes_no_announcement_back(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries, content: bytes
) -> None:
    """A 502 does not come from the receiver."""
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    recorder.answer = lambda request: (200, announced(content))
    await sent(made, patch())
    recorder.answer = lambda request: (502, {})
    await sent(made, patch())
    await sent(made, patch())

    assert ["zstd", "dcz", "dcz"] == [each.headers["content-encoding"] for each in recorder.requests]


async def test_a_receiver_without_zstd(recorder: Recorder, client: HttpClient) -> None:
    """415 with codings that it takes, zstd not among them: the same content goes out as it is, now and from then on."""
    made = sender(target(recorder.url), client)

    def answer(request: Request) -> tuple[int, dict[str, str]]:
        return (415, {"Accept-Encoding": "gzip"}) if "content-encoding" in request.headers else (200, {})

    recorder.answer = answer
    for _ in range(2):
        assert 200 == (await sent(made, patch())).status

    assert ["zstd", None, None] == [request.headers.get("content-encoding") for request in recorder.requests]


@pytest.mark.parametrize("says", [{}, {"Accept-Encoding": "zstd, gzip"}])
async def test_a_415_about_something_else(recorder: Recorder, client: HttpClient, says: dict[str, str]) -> None:
    """Without an `Accept-Encoding`, or with zstd in it, the coding is not what is wrong: one request, one answer."""
    recorder.answer = lambda request: (415, says)

    assert 415 == (await sent(sender(target(recorder.url), client), patch())).status
    assert 1 == len(recorder.requests)


async def test_patches_on_their_way_are_samples(
    recorder: Recorder, client: HttpClient, dictionaries: Dictionaries
) -> None:
    """What a target with dictionaries is sent is what they are learnt from."""
    learnt: list[Records] = []

    async def publish(records: Records) -> None:
        learnt.append(records)

    dictionaries = Dictionaries(publish)
    made = sender(target(recorder.url, compression="dictionary"), client, dictionaries=dictionaries)
    small = [batch(patch(b"dev-%d" % number, number)) for number in range(2_000)]
    for each in small:
        await made.build(each)
    await dictionaries.tend()

    (records,) = learnt
    read = dictionary_pb2.Dictionary.FromString(records.value(0) or b"")
    assert (1, TYPE) == (len(records), read.type)
    assert read.sha256 == Dictionary(read.content).sha256


def history(keys: int, changes: int) -> Iterator[Patch]:
    """The patches of some devices that change, as a worker makes them; the states at the end are in the last ones."""
    native = MessageSchema(DeviceState).native
    for number in range(keys):
        state = DeviceState(device_id=f"dev-{number}", status="ok", tags=["a"])
        state.geo.lat = number
        before, revision = state.SerializeToString(), 1
        head: dict[str, Any] = {"key": b"dev-%d" % number, "type": TYPE, "epoch": 1}
        yield Patch(revision=1, kind=Patch.SNAPSHOT, mask={"paths": ["*"]}, data=before, digest=xxh3_64(before), **head)
        for change in range(changes):
            state.geo.lat += 1
            state.rx_bytes = change % 2
            after = canonical(state)
            kind, paths, data = native.diff(before, after) or ("", [], b"")
            assert "delta" == kind
            yield Patch(
                revision=revision + 1, base_revision=revision, kind=Patch.DELTA, mask={"paths": paths}, data=data,
                digest=xxh3_64(after), **head,
            )  # fmt: skip
            before, revision = after, revision + 1


def canonical(state: DeviceState) -> bytes:
    """The canonical form of a device without maps."""
    return state.SerializeToString(deterministic=True)


@pytest.mark.parametrize("settings", [{}, {"format": "json"}, {"compression": "dictionary"}, {"compression": "none"}])
async def test_a_receiver_ends_with_the_states(
    client: HttpClient, dictionaries: Dictionaries, content: bytes, settings: dict[str, str]
) -> None:
    """Every form and coding, through a receiver that checks every digest, or only knows the description of the JSON."""
    patches = sorted(history(5, 20), key=lambda each: each.revision)
    async with Receiver(DeviceState, dictionaries=(Dictionary(content),)) as receiver:
        made = sender(target(receiver.url, **settings), client, dictionaries=dictionaries)
        for start in range(0, len(patches), 15):
            assert 200 == (await sent(made, *patches[start : start + 15])).status
        json_states = {key: state for key, (_, state) in receiver.held_json.rows.items()}
        states = receiver.states()
        codings = {request.headers.get("content-encoding", "") for request in receiver.last}

    wanted = {}
    for number in range(5):
        wanted[b"dev-%d" % number] = state = DeviceState(device_id=f"dev-{number}", status="ok", tags=["a"], rx_bytes=1)
        state.geo.lat = number + 20
    if settings.get("format") == "json":
        as_json = {key: MessageToDict(each, preserving_proto_field_name=True) for key, each in wanted.items()}
        assert as_json == json_states
    else:
        assert {key: canonical(each) for key, each in wanted.items()} == states
    assert ("dcz" in codings) == (settings.get("compression") == "dictionary")


# -- 409 ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.integers(10**48, 10**49 - 1).map(lambda n: b"%d" % n)), max_size=6)
)
def test_stale_keys_in_both_forms(keys: list[bytes]) -> None:
    """All of them, whatever the bytes: keys of 49 digits make Protobuf that is a JSON number too."""
    message = StaleKeys(keys=keys)

    assert set(keys) == stale_keys(message.SerializeToString())
    assert set(keys) == stale_keys(MessageToJson(message).encode())


@pytest.mark.parametrize("body", [b"", b"no", b"\xff\xff", b"[]", b"{}", b'{"keys": 1}', b'{"a": []}'])
def test_a_409_that_names_no_keys(body: bytes) -> None:
    """Anything else names none, and nothing breaks."""
    assert set() == stale_keys(body)


async def test_an_answer_may_name_every_key(recorder: Recorder, client: HttpClient) -> None:
    """However long they are: the limit for the answer grows with the batch's keys."""
    made = sender(target(recorder.url), client)
    parcel = await made.build(batch(*(patch(bytes([number]) * 1_000) for number in range(200))))

    assert parcel.answer_bytes_max > len(MessageToJson(StaleKeys(keys=[bytes(1_000)] * 200)))
    assert len(parcel.content) > THREAD_BYTES["protobuf"]
