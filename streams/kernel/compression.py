"""zstd for one value: exactly one frame, bounded when it is opened.

A frame of 16 KB can hold 512 MB, and python-zstandard ignores `max_output_size` where the frame declares its size, so
both the declared size and what really comes out are checked here, and the frame's blocks are walked before anything is
decompressed: trailing bytes, a second frame and a cut are then known for what they are.
"""

from __future__ import annotations

import zstandard

from streams.errors import InputError

LEVEL = 3
"""zstd's own default: patches are small, higher levels cost CPU and win next to nothing (measured)."""

WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""The window that RFC 8878 (3.1.1.1.2) recommends every decoder to support; a larger one is refused."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_RLE = 1
_RESERVED = 3


def compress(data: bytes, level: int = LEVEL) -> bytes:
    """Return `data` as one zstd frame that declares its size."""
    return zstandard.ZstdCompressor(level=level).compress(data)


def decompress(frame: bytes, bytes_max: int) -> bytes:
    """Return the content of the one zstd frame that `frame` is.

    Raises InputError: `record-too-large` where the content is above `bytes_max` bytes, `bad-compression` for anything
    that is not exactly one whole frame.
    """
    try:
        return _bounded(frame, bytes_max)
    except zstandard.ZstdError as error:
        raise InputError("bad-compression", f"damaged zstd frame ({error})") from error


def _bounded(frame: bytes, bytes_max: int) -> bytes:
    if not frame.startswith(_MAGIC):
        raise InputError("bad-compression", "the value is no zstd frame")
    header = zstandard.get_frame_parameters(frame)
    declared = None if header.content_size == zstandard.CONTENTSIZE_UNKNOWN else header.content_size
    if declared is not None and declared > bytes_max:
        raise InputError("record-too-large", f"a zstd frame declares {declared} bytes, the limit is {bytes_max}")
    length = _length(frame, header.has_checksum)
    if length is None or length > len(frame):
        raise InputError("bad-compression", "truncated zstd frame")
    if length < len(frame):
        raise InputError(
            "bad-compression", f"{len(frame) - length} bytes after the zstd frame, expected exactly one frame"
        )
    # A frame without a window of its own is as large as its content, which is bounded.
    window = max(WINDOW_BYTES_MAX, bytes_max)
    limit = bytes_max if declared is None else declared
    with zstandard.ZstdDecompressor(max_window_size=window).stream_reader(frame) as reader:
        content = reader.read(limit + 1)
    if len(content) > limit:
        raise InputError("record-too-large", f"a zstd frame holds more than {bytes_max} bytes")
    return content


def _length(frame: bytes, checksum: bool) -> int | None:
    """Bytes from the magic to the end of the last block or checksum (RFC 8878, 3.1.1.2); None where it is cut."""
    at = zstandard.frame_header_size(frame)
    while at + 3 <= len(frame):
        block = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise InputError("bad-compression", "damaged zstd frame (reserved block type)")
        at += 3 + (1 if kind == _RLE else size)
        if last:
            return at + (4 if checksum else 0)
    return None
