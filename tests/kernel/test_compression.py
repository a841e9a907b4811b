"""The zstd codec: whole single frames only, and never more bytes than allowed."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable

import pytest
import zstandard

from streams.errors import InputError
from streams.kernel.compression import compress, decompress


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


def test_window_above_the_limit() -> None:
    """A window above 8 MiB would be memory before the first byte: refused."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = stream.compress(b"x" * 100) + stream.flush()
    with pytest.raises(InputError) as raised:
        decompress(frame, 1000)
    assert raised.value.reason == "bad-compression"


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
