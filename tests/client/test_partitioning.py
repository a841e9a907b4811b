"""One key, one partition: ours is the Java client's."""

from __future__ import annotations

import pytest

from streams._native import murmur2_partition

# Made with kafka-clients 4.1.0: Utils.toPositive(Utils.murmur2(key)) modulo 4, 7 and 12.
JAVA = {
    "21": (0, 3, 0),
    "foobar": (2, 0, 6),
    "a-little-bit-long-string": (0, 1, 8),
    "a-little-bit-longer-string": (3, 0, 11),
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": (1, 3, 5),
    "abc": (3, 4, 3),
    "": (1, 2, 9),
    "k": (0, 1, 8),
    "é": (3, 4, 3),
    "device-000001": (3, 0, 3),
    "ключ": (0, 4, 8),
    "0123456789abcdef": (0, 6, 0),
}
# The hashes themselves, as Kafka's own UtilsTest lists them.
HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
PRIME = 1_009


@pytest.mark.parametrize("key", JAVA)
def test_partition_of_a_key_is_javas(key: str) -> None:
    """Text keys, of every length modulo four and beyond ASCII, go where the Java client sends them."""
    assert JAVA[key] == tuple(murmur2_partition(key.encode(), partitions) for partitions in (4, 7, 12))


@pytest.mark.parametrize("key", HASHES)
def test_partition_follows_from_kafkas_own_test_vectors(key: bytes) -> None:
    """The sign bit is masked off, not negated."""
    assert (HASHES[key] & 0x7FFFFFFF) % PRIME == murmur2_partition(key, PRIME)


def test_partition_of_all_byte_values() -> None:
    """257 keys of growing length with every byte value agree with Java, folded as `31 * acc + partition` in a long."""
    folded = 0
    for length in range(257):
        folded = (folded * 31 + murmur2_partition(bytes(range(length)), PRIME)) & (2**64 - 1)

    assert -6_243_214_542_500_951_562 & (2**64 - 1) == folded
