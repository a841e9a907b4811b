"""Guarded delivery: patches leave for HTTP receivers, in order per key, whatever state the receivers are in."""
