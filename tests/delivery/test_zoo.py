"""The receiver double keeps honest accounts: what other tests conclude from it is true."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streams.delivery.body import JsonForm, protobuf_body
from streams.demo.v1.device_pb2 import DeviceState, Geo
from streams.http import Answer, HttpClient, HttpFailure
from streams.kernel.compression import Dictionary, compress
from streams.v1.delivery_pb2 import StaleKeys
from streams.v1.patch_pb2 import Patch
from tests.client.place import History
from tests.zoo import Receiver, failing


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    """A client that reaches this machine."""
    async with HttpClient(allow_private=True) as opened:
        yield opened


def life() -> History:
    """A device that is made, changed and changed again."""
    history = History(DeviceState, b"dev-1")
    history.add(DeviceState(device_id="dev-1", status="up", rx_bytes=1, geo=Geo(lat=52.5, lon=13.4), tags=["a"]))
    history.add(DeviceState(device_id="dev-1", status="up", rx_bytes=1 << 60, geo=Geo(lat=52.5), labels={"x": "y"}))
    history.add(DeviceState(device_id="dev-1", status="down", tags=["b"]))
    return history


async def post(client: HttpClient, receiver: Receiver[DeviceState], body: bytes, **headers: str) -> Answer:
    """One request, its key made of nothing but the body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.request("POST", receiver.url, headers=fields, body=body, timeout_ms=30_000)


def batch(*patches: Patch) -> bytes:
    """The Protobuf form of a batch."""
    return protobuf_body(patch.SerializeToString() for patch in patches)


@pytest.mark.parametrize("encoding", ["", "zstd", "dcz"])
async def test_batches_are_applied(client: HttpClient, encoding: str) -> None:
    """In one request or in several, in every coding, the state is the history's."""
    history, dictionary = life(), Dictionary(b"learnt from patches of devices")
    ways = {"": bytes, "zstd": compress, "dcz": dictionary.compress}
    async with Receiver(DeviceState, dictionaries=(dictionary,)) as receiver:
        for patches in (history.patches[:2], history.patches[2:], history.patches):
            answer = await post(client, receiver, ways[encoding](batch(*patches)), **{"content-encoding": encoding})
            assert 200 == answer.status
            assert "dcz, zstd" == answer.headers["accept-encoding"]

        assert {b"dev-1": history.states[-1]} == receiver.states()
        assert (3, 3, 6) == (receiver.requests, receiver.taken, receiver.patches)


async def test_json_batches_are_applied(client: HttpClient) -> None:
    """By the description of the form alone, fields that were cleared are gone, and a gap is told in JSON."""
    history, form = life(), JsonForm(DeviceState)
    bodies = [form.body([patch.SerializeToString()]) for patch in history.patches]
    async with Receiver(DeviceState) as receiver:
        statuses = []
        for body in (bodies[0], bodies[2], bodies[1], bodies[2]):
            answer = await post(client, receiver, body, content_type="application/json")
            statuses.append((answer.status, answer.body))

        assert [(200, b""), (409, b'{"keys": ["ZGV2LTE="]}'), (200, b""), (200, b"")] == statuses
        assert {"device_id": "dev-1", "status": "down", "tags": ["b"]} == receiver.held_json.rows[b"dev-1"][1]


async def test_gaps_are_told(client: HttpClient) -> None:
    """409 names the keys that cannot go on, all others of the request are taken; a snapshot mends it."""
    history, other = life(), History(DeviceState, b"dev-2")
    other.add(DeviceState(device_id="dev-2"))
    async with Receiver(DeviceState) as receiver:
        await post(client, receiver, batch(history.patches[0]))
        answer = await post(client, receiver, batch(history.patches[2], other.patches[0]))

        assert (409, [b"dev-1"]) == (answer.status, list(StaleKeys.FromString(answer.body).keys))
        assert {b"dev-1": history.states[1], b"dev-2": other.states[1]} == receiver.states()
        assert 200 == (await post(client, receiver, batch(history.snapshot()))).status
        assert history.states[-1] == receiver.states()[b"dev-1"]
        assert (1, {200: 2, 409: 1}) == (receiver.stale, dict(receiver.statuses))


async def test_repeats_are_counted(client: HttpClient) -> None:
    """A known Idempotency-Key is a repeat; with other bytes it is a mistake of the sender."""
    history = life()
    async with Receiver(DeviceState) as receiver:
        for _ in range(2):
            await post(client, receiver, batch(history.patches[0]), idempotency_key="a")
        assert (1, 0) == (receiver.repeats, receiver.changed)
        await post(client, receiver, batch(history.patches[1]), idempotency_key="a")

        assert (2, 1) == (receiver.repeats, receiver.changed)
        assert ["a", "a", "a"] == [delivery.idempotency_key for delivery in receiver.last]


async def test_refusals_take_nothing(client: HttpClient) -> None:
    """A share of the requests is answered otherwise, evenly spread, and their patches are not applied."""
    history = life()
    async with Receiver(DeviceState) as receiver:
        receiver.refuse = failing(40, 503, retry_after="7")
        answers = [await post(client, receiver, batch(history.patches[0])) for _ in range(10)]

        assert [200, 200, 503, 200, 503] * 2 == [answer.status for answer in answers]
        assert "7" == answers[2].headers["retry-after"]
        assert (10, 6) == (receiver.requests, receiver.taken)


async def test_a_receiver_goes_and_comes_back(client: HttpClient) -> None:
    """On the same port; meanwhile nobody listens."""
    body = batch(life().patches[0])
    async with Receiver(DeviceState) as receiver:
        assert 200 == (await post(client, receiver, body)).status
        await receiver.vanish()
        for _ in range(2):
            with pytest.raises(HttpFailure) as caught:
                await post(client, receiver, body)
        assert "connect" == caught.value.kind
        await receiver.listen()

        assert 200 == (await post(client, receiver, body)).status
