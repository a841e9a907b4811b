"""The pages of a worker's web server."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.process import Worker

Samples = dict[tuple[str, str, str], float]
"""Values by name, topic and reason, partitions added up."""
WAIT_S = 60


def get(worker: Worker, path: str) -> tuple[int, str]:
    """Status and body of one page; status 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def samples(text: str) -> Samples:
    """Every sample of a /metrics page."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            place = (name, labels.get("topic", ""), labels.get("reason", ""))
            found[place] = found.get(place, 0) + value
    return found


def wait_for(worker: Worker, name: str, topic: str, least: float) -> str:
    """Returns the /metrics page on which a value has become high enough."""
    deadline_s = time.monotonic() + WAIT_S
    while samples(text := get(worker, "/metrics")[1]).get((name, topic, ""), 0) < least:
        assert time.monotonic() < deadline_s, text
        assert worker.process.poll() is None, f"worker ended with {worker.process.returncode}"
        time.sleep(0.2)
    return text


def wait_until(worker: Worker, path: str, status: int, text: str = "") -> str:
    """Returns a page once it has this status and this text in it."""
    deadline_s = time.monotonic() + WAIT_S
    while (found := get(worker, path))[0] != status or text not in found[1]:
        assert time.monotonic() < deadline_s, found
        assert worker.process.poll() is None, f"worker ended with {worker.process.returncode}"
        time.sleep(0.2)
    return found[1]
