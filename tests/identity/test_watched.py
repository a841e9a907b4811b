"""What files hold: read again when they change, and kept while they cannot be read."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from streams.clock import ManualClock
from streams.errors import SettingsError
from streams.identity.watched import LOOK_MS, SECRET_BYTES_MAX, Watched, read_secret


class Reading:
    """A watched secret that counts how often it is read."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.path = path
        self.count = 0
        self.watched = Watched("target.a.token_file", [str(path)], self._load, "a secret", self.clock)

    def _load(self) -> str:
        self.count += 1
        return read_secret(str(self.path))

    async def later(self) -> str:
        """The value, when the file is due for a look."""
        self.clock.advance(LOOK_MS)
        return await self.watched.get()


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """A file with a secret in it."""
    (tmp_path / "secret").write_text("first\n")
    return Reading(tmp_path / "secret")


async def test_a_file_is_read_once(reading: Reading) -> None:
    """While it does not change, however many ask, and however long."""
    values = await asyncio.gather(*(reading.watched.get() for _ in range(20)))

    assert {"first"} == {*values, await reading.later()}
    assert 1 == reading.count


async def test_a_change_is_taken_up(reading: Reading) -> None:
    """With the next look, and not before: looking costs more than a request should."""
    await reading.watched.get()
    reading.path.write_text("second, longer".replace(", ", "-"))

    assert "first" == await reading.watched.get()
    assert "second-longer" == await reading.later()


async def test_a_file_that_is_replaced_is_read(reading: Reading) -> None:
    """Also when the new one has the size and the time of the old one."""
    await reading.watched.get()
    stat = reading.path.stat()
    new = reading.path.with_name("new")
    new.write_text("other\n")
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.rename(reading.path)

    assert "other" == await reading.later()


async def test_a_refused_value_is_looked_for_at_once(reading: Reading) -> None:
    """Whoever refused it may have seen the new one already."""
    await reading.watched.get()
    reading.path.write_text("second-longer")
    reading.watched.expire()

    assert "second-longer" == await reading.watched.get()


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two words", b"\xff\xfe", b"x" * (SECRET_BYTES_MAX + 1)])
async def test_a_file_that_is_no_good_never_was(reading: Reading, content: bytes | None) -> None:
    """Without a good value before, that is an error in the settings, which names the file and shows none of it."""
    if content is None:
        reading.path.unlink()
    else:
        reading.path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        await reading.watched.get()

    assert "target.a.token_file" in str(caught.value)
    assert str(reading.path) in str(caught.value)
    assert "two words" not in str(caught.value)


async def test_a_file_that_turns_bad_leaves_the_old_value(reading: Reading, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever renews it may be half way; the next look tries again."""
    await reading.watched.get()
    reading.path.write_bytes(b"half of")
    with caplog.at_level(logging.WARNING):
        assert "first" == await reading.later()

    assert 1 == len(caplog.messages)
    assert "half of" not in caplog.text
    assert "first" == await reading.watched.get()
    reading.path.write_bytes(b"second")
    assert "second" == await reading.later()
    reading.path.unlink()
    assert "second" == await reading.later()
