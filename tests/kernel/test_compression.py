"""The zstd codec: whole single frames only, and never more bytes than allowed."""

from __future__ import annotations

import hashlib
import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import zstandard

from streams.errors import InputError
from streams.kernel.compression import DICTIONARY_BYTES, Dictionary, compress, decompress, named, train
from tests.sync.test_core import NOW, chunk, make_table


def undeclared(data: bytes) -> bytes:
    """A frame that does not declare its size, as streaming compressors write it."""
    stream = zstandard.ZstdCompressor(level=3).compressobj()
    return stream.compress(data) + stream.flush()


def checked(data: bytes) -> bytes:
    """A frame with a checksum."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


FRAMES: list[Callable[[bytes], bytes]] = [compress, undeclared, checked]


@pytest.mark.parametrize("pack", FRAMES)
@pytest.mark.parametrize("size", [0, 1, 1000, 200_000, 1_000_000])
def test_round_trip(pack: Callable[[bytes], bytes], size: int) -> None:
    """What went in comes out, at exactly the limit too, for content that packs well and for noise."""
    for data in (b"a" * size, random.Random(size).randbytes(size)):
        assert decompress(pack(data), max(size, 1)) == data
        assert decompress(pack(data), size) == data


@pytest.mark.parametrize("pack", FRAMES)
def test_one_byte_above_the_limit(pack: Callable[[bytes], bytes]) -> None:
    """Content above the limit is too large, declared or not."""
    with pytest.raises(InputError) as raised:
        decompress(pack(b"ab" * 500), 999)
    assert raised.value.reason == "record-too-large"


@pytest.mark.parametrize("pack", FRAMES)
def test_anything_but_one_whole_frame(pack: Callable[[bytes], bytes]) -> None:
    """Cut anywhere, followed by anything, twice, or behind a skippable frame: refused."""
    frame = pack(b"some text " * 50)
    skippable = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
    for damaged in [*(frame[:cut] for cut in range(len(frame))), frame + b"x", frame + frame, skippable + frame]:
        with pytest.raises(InputError) as raised:
            decompress(damaged, 10_000)
        assert raised.value.reason == "bad-compression"


def test_bomb_takes_no_memory() -> None:
    """A 16 KB frame of 512 MB is refused without ever being opened, whether it declares its size or not."""
    size = 512 << 20
    bombs = []
    for declared in (-1, size):
        stream = zstandard.ZstdCompressor(level=19).compressobj(size=declared)
        bombs.append(b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(512)), stream.flush()]))
    assert all(len(bomb) < 32 * 1024 for bomb in bombs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        with pytest.raises(InputError) as raised:
            decompress(bomb, 100_000)
        assert raised.value.reason == "record-too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "more than 64 MiB"


@pytest.mark.parametrize("window_log", [10, 23, 24, 27, 30])
@pytest.mark.parametrize("declared", [False, True])
def test_a_large_window_is_read_without_its_memory(window_log: int, declared: bool) -> None:
    """What `zstd --long` writes. Found: the worker read it, and the tools that foretell what it does did not."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=declared)
    content = random.Random(1).randbytes(3_000) * 2
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=len(content) if declared else -1)
    frame = stream.compress(content) + stream.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = make_table()
    state = table.process(chunk((b"d", frame, [("content-encoding", b"zstd")])), NOW)

    assert content == decompress(frame, 10_000)
    assert "undecodable" == dict(state.dead_letters.headers(0))["dlq-reason"].decode(), "it was unpacked"
    with pytest.raises(InputError) as raised:
        decompress(frame, 5_999)
    assert raised.value.reason == "record-too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "more than 64 MiB"


def test_flipped_bits() -> None:
    """Damage inside a checksummed frame is an InputError or harmless, never another exception, never other bytes."""
    content = b"some text " * 50
    frame = bytearray(checked(content))
    reasons = set()
    for at in range(len(frame)):
        for bit in range(8):
            frame[at] ^= 1 << bit
            try:
                opened = decompress(bytes(frame), 10_000)
            except InputError as error:
                reasons.add(error.reason)
            else:
                assert opened == content
            frame[at] ^= 1 << bit
    assert reasons == {"bad-compression", "record-too-large"}


def values(count: int, seed: int = 0) -> list[bytes]:
    """Small values of one kind: the same names every time, other numbers."""
    random_ = random.Random(seed)
    return [
        f"device-{random_.randrange(10**6):06d} status={random_.choice(['ok', 'warn', 'fail'])} "
        f"battery={random_.random():.3f} firmware=3.{random_.randrange(20)}.1 region=eu-west-{random_.randrange(3)} "
        f"event={random_.randrange(10**9)} source=/fleet/gateway type=acme.fleet.v1.DeviceState tenant=some-tenant"
        .encode()
        for _ in range(count)
    ]  # fmt: skip


@cache
def dictionary() -> Dictionary:
    """One that was trained on such values."""
    content = train(values(1_000))
    assert content is not None
    return Dictionary(content)


def test_a_dictionary_saves_what_a_lone_value_cannot() -> None:
    """A value like those that it was trained on is a tenth smaller than without it at least, header included."""
    for value in values(50, seed=1):
        assert len(dictionary().compress(value)) < 0.9 * len(compress(value))


@pytest.mark.parametrize("size", [0, 1, 1_000, 200_000])
def test_dcz_round_trip(size: int) -> None:
    """What went in comes out, at exactly the limit, whether it is like the samples or noise."""
    for data in (b"".join(values(size // 50 + 1))[:size], random.Random(size).randbytes(size)):
        stream = dictionary().compress(data)
        assert dictionary().decompress(stream, size) == data
        if size:
            with pytest.raises(InputError) as raised:
                dictionary().decompress(stream, size - 1)
            assert raised.value.reason == "record-too-large"


@pytest.mark.parametrize("kind", [zstandard.DICT_TYPE_RAWCONTENT, zstandard.DICT_TYPE_AUTO])
def test_dcz_is_rfc_9842s(kind: int) -> None:
    """40 bytes of header with the dictionary's SHA-256, then a frame that any decoder reads with its bytes.

    Whether it takes every dictionary for raw content, as the RFC wants, or looks at how it begins, as zstd does.
    """
    value = values(1, seed=2)[0]
    stream = dictionary().compress(value)
    content = dictionary().content

    assert b"\x5e\x2a\x4d\x18\x20\x00\x00\x00" + hashlib.sha256(content).digest() == stream[:40]
    assert named(stream) == dictionary().sha256 == hashlib.sha256(content).digest()
    stock = zstandard.ZstdCompressionDict(content, dict_type=kind)
    assert zstandard.ZstdDecompressor(dict_data=stock).decompress(stream[40:]) == value
    assert zstandard.get_frame_parameters(stream[40:]).dict_id == 0


def test_dcz_of_another_dictionary() -> None:
    """The header says which one it takes; none of another's streams is opened, and no plain frame."""
    other = Dictionary(b"something else entirely, and long enough")
    for stream in (other.compress(b"x" * 100), compress(b"x" * 100), b"", dictionary().compress(b"x")[:39]):
        with pytest.raises(InputError) as raised:
            dictionary().decompress(stream, 1_000)
        assert raised.value.reason == "bad-compression"
    assert named(compress(b"x" * 100)) is None


def test_damaged_dcz() -> None:
    """Cut anywhere or followed by anything: refused, as plain frames are."""
    stream = dictionary().compress(values(1, seed=3)[0])
    for damaged in [*(stream[:cut] for cut in range(len(stream))), stream + b"x", stream + stream]:
        with pytest.raises(InputError) as raised:
            dictionary().decompress(damaged, 10_000)
        assert raised.value.reason == "bad-compression"


def test_training_needs_enough_to_learn_from() -> None:
    """Nothing, one value, or a few: no dictionary, and no crash. Many: one of the size asked for, at most."""
    assert [None] * 4 == [train(samples) for samples in ([], [b""], [b"one"], values(3))]
    content = train(values(2_000), 4_096)
    assert content is not None
    assert 1_000 < len(content) <= 4_096
    assert len(dictionary().content) <= DICTIONARY_BYTES


def test_any_thread_may_compress() -> None:
    """Compressors are not safe to share, so each thread has its own; what comes out is the same everywhere."""
    work = values(400, seed=4)
    expected = [(compress(value), dictionary().compress(value)) for value in work]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda value: (compress(value), dictionary().compress(value)), work))

    assert expected == found
