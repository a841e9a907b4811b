from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from streams.clock import ManualClock
from streams.demo.progress import Steps
from streams.demo.report import Report

GOOD = Report(
    events=56_012,
    duplicates_injected=2_695,
    duplicates_dropped=2_695,
    patches=53_317,
    aircraft=3_148,
    full_json_bytes=155_989_635,
    full_protobuf_bytes=41_512_499,
    patch_bytes=22_289_502,
    compressed_patch_bytes=4_248_093,
    seconds=8.0,
    differences=0,
    http_patches=16_324,
    http_requests=76,
    http_refused=31,
    http_away_seconds=4.5,
    http_differences=0,
    broker="embedded://log",
)


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(report.as_table())
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def test_the_table_says_everything_in_a_dozen_lines() -> None:
    """Every promised figure has its line, with its unit."""
    text = shown(GOOD)
    sizes = ("156.0 MB", "41.5 MB", "22.3 MB", "4.2 MB", "36.7 times")
    for part in ("56,012", "2,695", "53,317", *sizes, "16,324", "36,993", "69%", "7,002", "yes"):
        assert part in text
    assert len(text.splitlines()) == 11, "no line is folded in a narrow terminal"


def test_a_difference_is_shown_and_not_verified() -> None:
    """One wrong aircraft is enough for NO."""
    bad = replace(GOOD, differences=1)
    assert not bad.verified
    assert "NO" in shown(bad)
    assert bad.as_dict()["verified"] is False


def test_nothing_is_not_verified() -> None:
    """A run without aircraft has shown nothing, and divides by nothing."""
    empty = replace(GOOD, events=0, duplicates_injected=0, aircraft=0, compressed_patch_bytes=0, seconds=0.0)
    assert not empty.verified
    assert "NO" in shown(empty)


def test_json_has_the_same_figures() -> None:
    """The object names every figure of the table."""
    figures = GOOD.as_dict()
    assert figures["events"] == 56_012
    assert figures["events_per_second"] == 7_002
    assert figures["verified"] is True
    assert "zstd" in str(figures["compression"])


def test_lines_instead_of_bars_without_a_terminal() -> None:
    """A log gets a line every two seconds and one at the end, without escape sequences."""
    text = io.StringIO()
    clock = ManualClock()
    with Steps(Console(file=text, width=120), {"sent": 10, "applied": 8}, clock) as steps:
        sent, applied = steps.counter("sent"), steps.counter("applied")
        sent(1)
        clock.advance(2_000)
        sent(5)
        applied(4)
        clock.advance(1_000)
        sent(10)
        applied(8)
    assert text.getvalue().splitlines() == ["sent 5 of 10, applied 0 of 8", "sent 10 of 10, applied 8 of 8"]


def test_bars_in_a_terminal() -> None:
    """A terminal gets bars that end full."""
    text = io.StringIO()
    with Steps(Console(file=text, width=120, force_terminal=True, color_system=None), {"sent": 10}) as steps:
        steps.counter("sent")(10)
    assert "10/10" in text.getvalue()
