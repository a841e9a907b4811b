"""A process that writes to a store until it is killed, and says on stdout what was written.

    python store_writer.py DIRECTORY

Write number n holds the whole state of keys 0 to 49 as of n: each row names n, and a key that n divides is removed.
"""

from __future__ import annotations

import os
import sys
from itertools import count

from streams._native import Records
from streams.state.rocks import Store

KEYS = 50


def state_at(number: int) -> dict[bytes, bytes]:
    """The rows after write `number`."""
    return {b"%d" % key: b"%d" % number * 20 for key in range(KEYS) if number % (key + 1)}


def main() -> None:
    """Writes until killed."""
    store = Store(sys.argv[1])
    for number in count((store.changelog_offset() or 0) + 1):
        rows = Records()
        after = state_at(number)
        for key in range(KEYS):
            rows.append(b"%d" % key, after.get(b"%d" % key))
        store.write(rows, number)
        os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    main()
