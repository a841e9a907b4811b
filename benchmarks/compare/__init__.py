"""The same job on other systems: same events, same broker, one sitting, every output held against a plain replay.

    python -m benchmarks.compare                # three rounds of all systems; goes on where a sitting was interrupted
    python -m benchmarks.compare --small        # ours and the hand-written loop on a small workload: a smoke test
    python -m benchmarks.compare --only quix    # one system, beside ours

The job: read a CloudEvent; drop it where its sequence is not above the last one of its key; compare the device in it
field by field with the one held for the key; keep the new one durably; put out a `Patch` (key, revision, base revision,
changed fields, a message that holds them alone) under the same key, compressed with zstd; the pure-Rust loop has lz4,
which is faster, and so has our changelog. The first event of a key gives every field that is set.

Each system does it as its own users would write it, with that system's own defaults for state, batches and commits
(`peers/`, `kafka_streams/`, `rust_loop/`). Their patches have the event's sequence for a revision and name fields of
the top level. Ours does more per event: it goes into sub-messages, remembers event ids and up to eight sources, and
puts a digest, an epoch and the event's identity into each patch.

What the figures do not show: a network, replication, several workers, a restart, what happens after a kill. Most of the
systems here deliver at least once, which costs less than exactly once.
"""
