"""A process that holds an embedded log until its standard input ends: `python log_holder.py directory`."""

import sys

from streams.transport.log import Log

with Log(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
