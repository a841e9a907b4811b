"""zstd for one value: exactly one frame, bounded when it is opened. Alone, or with a dictionary as RFC 9842's `dcz`.

A frame of 16 KB can hold 512 MB, and python-zstandard ignores `max_output_size` where the frame declares its size, so
both the declared size and what really comes out are checked here, and the frame's blocks are walked before anything is
decompressed: trailing bytes, a second frame and a cut are then known for what they are.

A dictionary of RFC 9842 is raw content: plain bytes that frames refer back to. What zstd's training makes begins with
tables of its own that a conforming receiver would take for content and then decode nonsense, so they are not used
(measured: 50 % of the size of a lone patch instead of 47 %, against 102 % without a dictionary).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import zstandard

from streams.errors import InputError

__all__ = [
    "BODY_LEVEL",
    "DICTIONARY_BYTES",
    "LEVEL",
    "WINDOW_BYTES_MAX",
    "Dictionary",
    "compress",
    "decompress",
    "named",
    "train",
]

LEVEL = 3
"""zstd's own default: patches are small, higher levels cost CPU and win next to nothing (measured)."""

BODY_LEVEL = 1
"""Of HTTP bodies, many patches in one frame: as small as at level 3 within 1 %, JSON even smaller, in half the time."""

WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""The window that RFC 8878 (3.1.1.1.2) recommends every decoder to support; no frame makes us keep a larger one."""

DICTIONARY_BYTES = 16 * 1024
"""Of a trained dictionary: 4 KB already halve a lone patch of 200 bytes, 64 KB win another 1 %; richer types need more
than the one and receivers fetch it once a day."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_DESCRIPTOR_AT = len(_MAGIC)
_SINGLE_SEGMENT = 0x20
"""In the frame's descriptor: it has no window of its own."""
_RLE = 1
_RESERVED = 3
_DCZ = b"\x5e\x2a\x4d\x18\x20\x00\x00\x00"
"""RFC 9842, section 5: a skippable frame of 32 bytes, the SHA-256 of the dictionary, before the frame itself."""
_DCZ_BYTES = len(_DCZ) + 32
_TRAINED_HEAD_BYTES = 8
"""Magic number and id of a trained dictionary (RFC 8878, section 5): without them every decoder takes it for raw."""

_thread = threading.local()


def compress(data: bytes, level: int = LEVEL) -> bytes:
    """Return `data` as one zstd frame that declares its size. From any thread; each keeps its compressors."""
    kept: dict[int, zstandard.ZstdCompressor] = _thread.__dict__.setdefault("compressors", {})
    if level not in kept:
        kept[level] = zstandard.ZstdCompressor(level=level)
    return kept[level].compress(data)


def decompress(frame: bytes, bytes_max: int) -> bytes:
    """Return the content of the one zstd frame that `frame` is.

    Raises InputError: `record-too-large` where the content is above `bytes_max` bytes, `bad-compression` for anything
    that is not exactly one whole frame.
    """
    try:
        return _bounded(frame, bytes_max)
    except zstandard.ZstdError as error:
        raise InputError("bad-compression", f"damaged zstd frame ({error})") from error


def train(samples: Sequence[bytes], bytes_max: int = DICTIONARY_BYTES) -> bytes | None:
    """Return raw content for a dictionary of values like these; None where they are too few or too alike to learn from.

    Takes a fraction of a second with the interpreter's lock released. A few hundred samples are the least.
    """
    try:
        trained = zstandard.train_dictionary(bytes_max, list(samples)).as_bytes()
    except zstandard.ZstdError:
        return None
    return trained[_TRAINED_HEAD_BYTES:]


def named(stream: bytes) -> bytes | None:
    """The SHA-256 of the dictionary that a `dcz` stream was made with; None: no such stream."""
    return stream[len(_DCZ) : _DCZ_BYTES] if stream.startswith(_DCZ) and len(stream) >= _DCZ_BYTES else None


class Dictionary:
    """Bytes that both sides hold, so that even a lone patch has something to refer back to. From any thread."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sha256 = hashlib.sha256(content).digest()
        """RFC 9842 names dictionaries by it."""
        self._data = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self._data.precompute_compress(level=BODY_LEVEL)
        self._thread = threading.local()

    def compress(self, data: bytes) -> bytes:
        """Return `data` as a `dcz` stream. Its window is below the 8 MiB that RFC 9842 grants."""
        compressor = self._thread.__dict__.get("compressor")
        if compressor is None:
            compressor = self._thread.compressor = zstandard.ZstdCompressor(dict_data=self._data)
        return _DCZ + self.sha256 + bytes(compressor.compress(data))

    def decompress(self, stream: bytes, bytes_max: int) -> bytes:
        """Return the content of a `dcz` stream made with this dictionary. Raises InputError as `decompress` does."""
        if named(stream) != self.sha256:
            raise InputError("bad-compression", "no dcz stream made with this dictionary")
        try:
            return _bounded(stream[_DCZ_BYTES:], bytes_max, self._data)
        except zstandard.ZstdError as error:
            raise InputError("bad-compression", f"damaged dcz stream ({error})") from error


def _bounded(frame: bytes, bytes_max: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> bytes:
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
    # Nothing refers back further than the content, which is bounded, however large a window is claimed (`--long`).
    window = max(WINDOW_BYTES_MAX, bytes_max)
    if header.window_size > window and not frame[_DESCRIPTOR_AT] & _SINGLE_SEGMENT:
        frame = frame[: _DESCRIPTOR_AT + 1] + _window(window) + frame[_DESCRIPTOR_AT + 2 :]
    limit = bytes_max if declared is None else declared
    with zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=2 * window).stream_reader(frame) as reader:
        content = reader.read(limit + 1)
    if len(content) > limit:
        raise InputError("record-too-large", f"a zstd frame holds more than {bytes_max} bytes")
    return content


def _window(bytes_min: int) -> bytes:
    """The window descriptor (RFC 8878, 3.1.1.1.2) of the least power of two that is as large."""
    return bytes([((bytes_min - 1).bit_length() - 10) << 3])


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
