"""One program per system; each runs in that system's own environment and imports nothing of ours but the messages."""
