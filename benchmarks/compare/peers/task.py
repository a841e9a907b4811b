"""What every program is told on its command line, and the two lines by which it is timed.

The programs in Java and Rust take the same arguments and print the same lines.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

PARTITIONS = 4


class Task(NamedTuple):
    """The arguments, in this order."""

    bootstrap: str
    source: str
    output: str
    # Consumer group, application id, and part of the name of every topic that the program makes for itself.
    group: str
    # As many are in the source topic; after the last one the program says that it is done.
    events: int
    # A folder of its own for local state.
    directory: str


def given() -> Task:
    """The task of this process."""
    bootstrap, source, output, group, events, directory = sys.argv[1:7]
    return Task(bootstrap, source, output, group, int(events), directory)


def say_first() -> None:
    """The first event was received: time begins."""
    _say(b"first\n")


def say_done() -> None:
    """Every output is acknowledged and the input's offsets are committed: time ends."""
    _say(b"done\n")


def _say(line: bytes) -> None:
    """Not through `sys.stdout`, which some systems put into their log."""
    os.write(1, line)
