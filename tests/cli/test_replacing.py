"""`streams state replaced` and what `streams doctor` says of logs: decided without a broker."""

from __future__ import annotations

import pytest

from streams.cli.groups import Place
from streams.cli.log_checks import LogFacts, log_findings
from streams.cli.replacing import moves
from streams.errors import SettingsError
from streams.transport.identity import Bounds, Kept, kept

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
NOW_MS = 1_700_000_000_000
HERE = Bounds(5, 100)


@pytest.mark.parametrize(
    ("beside", "start", "offset", "replaced"),
    [
        (Kept(A, C, 0, 9, 77, partial=True), "committed", 50, False),
        (Kept(A, C, 0, 9, 77), "beginning", 5, False),
        (Kept(B), "committed", 50, True),
        (None, "beginning", 5, True),
    ],
)
def test_the_new_place_names_the_new_log(beside: Kept | None, start: str, offset: int, replaced: bool) -> None:
    """What was kept of the changelog stays; where no id shows it the rows are told that the log is another."""
    ((partition, moved, text),) = moves("devices", B, [Place(2, HERE, 50, beside)], start, C, {2: HERE})
    came = kept(text)

    assert came is not None
    assert (2, offset, B, replaced) == (partition, moved, came.source, came.replaced)
    if beside is not None:
        assert (beside.changelog, beside.end, beside.epoch, beside.partial) == (
            came.changelog, came.end, came.epoch, came.partial
        )  # fmt: skip


def test_on_another_cluster_the_changelog_is_another_too() -> None:
    """It is believed as it is, with the source; where it alone was replaced it is not."""
    ((_, _, mirrored),) = moves("devices", B, [Place(0, HERE, 50, Kept(A, A, 0, 9))], "committed", C, {0: HERE})
    ((_, _, lost),) = moves("devices", B, [Place(0, HERE, 50, Kept(B, A, 0, 9))], "committed", C, {0: HERE})

    came = [Kept(B, C, 5, 100, moved=True), Kept(B, A, 0, 9, replaced=True, moved=True)]
    assert came == [kept(mirrored), kept(lost)]


def test_a_place_that_is_not_there_is_refused() -> None:
    """An offset outside of the topic, and a topic that does not exist."""
    with pytest.raises(SettingsError, match=r"offset 101.*from 5 to 100.*--from beginning"):
        moves("devices", B, [Place(0, HERE, 101, None)], "committed", C, {})
    with pytest.raises(SettingsError, match="devices, which does not exist"):
        moves("devices", b"", [], "beginning", b"", {})


def facts(
    place: Place, *, recorded: bytes = A, has_record: bool = True, rows: Bounds = HERE, epoch: int = 0
) -> LogFacts:
    """A sync's logs, as they are now: the source is A, the changelog C."""
    return LogFacts("devices", "changelog", place, A, C, rows, recorded, has_record, epoch)


def test_the_cure_of_a_repartitioned_sync_names_its_source() -> None:
    """`state rebuild` knows no rekey topic as a source."""
    found = LogFacts("copies", "changelog", Place(0, HERE, 50, Kept(A, B)), A, C, HERE, before_rekey="devices")

    ((finding),) = log_findings(found, NOW_MS)
    assert "streams state rebuild devices --from-source" in str(finding)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (facts(Place(0, HERE, 50, Kept(A, C, 5, 9))), None),
        (facts(Place(0, HERE, None, None)), None),
        (facts(Place(0, HERE, 50, Kept(A)), recorded=B), None),
        (facts(Place(0, HERE, 50, None), recorded=B), "replaced devices --from beginning|committed decides"),
        (facts(Place(0, HERE, None, None), recorded=B), "reads it from its beginning"),
        (facts(Place(0, HERE, 101, Kept(B))), "reads it from its beginning"),
        (facts(Place(0, HERE, 101, Kept(A))), "the group goes on at 101"),
        (facts(Place(0, HERE, 50, Kept(A, B, 5, 9))), "rebuild devices --from-source"),
        (facts(Place(0, HERE, 50, Kept(A, C, 5, 101))), "it ends at offset 100"),
        (facts(Place(0, HERE, 50, Kept(A, C, 0, 9))), "it begins at offset 5"),
        (facts(Place(0, HERE, 50, None), has_record=False, recorded=b""), "it begins at offset 5"),
        (facts(Place(0, HERE, 50, Kept(A)), epoch=NOW_MS + 90_000), "90000 ms ahead"),
    ],
)
def test_the_doctor_names_logs_that_are_others(found: LogFacts, told: str | None) -> None:
    """One fault, one finding, with its cure."""
    findings = [str(finding) for finding in log_findings(found, NOW_MS)]

    assert ([] if told is None else [told]) == [told for finding in findings if told is not None and told in finding]
    assert len(findings) == (0 if told is None else 1)
