"""A process that appends to a log until it is killed, and says on stdout what was acknowledged.

    python log_writer.py DIRECTORY FSYNC

Two threads. Append number n of thread t is one transaction: a run of records on `a`, one record on `b`, the newest
number under key t on the compacted topic `c`, and offset n + 1 of group t. A third thread keeps the log tidy meanwhile.
"""

from __future__ import annotations

import os
import sys
import threading
from itertools import count

from streams._native import Records
from streams.clock import SYSTEM_CLOCK
from streams.transport.log import Log

THREADS = 2


def run_of(number: int) -> int:
    """Records that append `number` puts on `a`: small ones, and now and then more than a block holds."""
    return 9_000 if number % 97 == 0 else number % 50 + 1


def append(log: Log, thread: int, number: int) -> None:
    """Append `number` of a thread."""
    name = str(number).encode()
    run = Records()
    for _ in range(run_of(number)):
        run.append(name, b"v" * 40)
    one, newest = Records(), Records()
    one.append(name, None)
    newest.append(str(thread).encode(), name)
    log.append([("a", thread, run), ("b", thread, one), ("c", 0, newest)], f"g{thread}", [("in", thread, number + 1)])


def main() -> None:
    """Appends until killed."""
    directory, fsync = sys.argv[1:]
    log = Log(directory, "full" if fsync == "full" else "normal")
    for topic in ("in", "a", "b"):
        log.create_topic(topic, THREADS)
    log.create_topic("c", 1, cleanup="compact")

    def work(thread: int) -> None:
        done = log.committed(f"g{thread}").get(("in", thread), 0)
        for number in count(done):
            append(log, thread, number)
            os.write(1, b"%d %d\n" % (thread, number))

    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    while True:
        log.maintain(SYSTEM_CLOCK.now_ms(), 20, everything=True)


if __name__ == "__main__":
    main()
