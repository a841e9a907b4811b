"""Which dead letters go back to their topic, and what was done about which. Pure: letters in, decisions out.

What was done is kept in the dead-letter topic itself, in the letters' own partition, as records called *marks*:

    dlq-done       replayed, superseded, asked or dropped
    dlq-format     "1"
    value          offsets in this partition, as text: 3-9,12

A mark is written when what it says has been acknowledged, so an interrupted replay goes on behind it. The marks are the
cursor, whatever a filter has left out in between, and retention removes none before its letters. The offsets of a
consumer group can do neither: they know only "all before", and a broker forgets them after seven days, letters after
fourteen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from streams._native import Records
from streams.dead_letters.letter import FORMAT, Letter
from streams.errors import InputError

__all__ = [
    "MARK_OFFSETS_MAX",
    "REPLAYS_MAX",
    "WAYS",
    "Decision",
    "Done",
    "Entry",
    "Filter",
    "Marks",
    "Rules",
    "Span",
    "decide",
    "is_mark",
    "mark",
    "parcels",
]

REPLAYS_MAX = 5
"""A record that died six times is not mended by a seventh try: somebody has to look at it first."""
PARCEL_BYTES_MAX = 4 << 20
"""Of records that are sent together: what a crash repeats at most, and four of the largest records."""
MARK_OFFSETS_MAX = 1_000
"""In one mark: 20 KB at most, far below what any topic takes."""
DONE = "dlq-done"

Done = Literal["replayed", "superseded", "asked", "dropped"]
WAYS: tuple[Done, ...] = get_args(Done)
"""Each way to be done with a letter. Superseded: replayed although a newer event of its key was applied already."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A letter and its place in the dead-letter topic."""

    partition: int
    offset: int
    letter: Letter

    @property
    def place(self) -> str:
        """The place as people write it."""
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets `first` to `last`, both included, of one partition of the dead-letter topic."""

    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are wanted. What is empty or None lets everything pass.

    Times are those of the record in its own topic, [since, until); one without a time passes no such filter.
    """

    reasons: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    spans: tuple[Span, ...] = ()
    key: bytes | None = None

    def takes(self, entry: Entry, key: bytes | None) -> bool:
        """Whether the letter is wanted; `key` is its entity key, as far as that is known."""
        letter = entry.letter
        if self.reasons and letter.reason not in self.reasons:
            return False
        if self.targets and letter.target not in self.targets:
            return False
        if self.key is not None and self.key != key:
            return False
        if self.spans and not any(
            span.partition == entry.partition and span.first <= entry.offset <= span.last for span in self.spans
        ):
            return False
        if self.since_ms is None and self.until_ms is None:
            return True
        after = self.since_ms is None or letter.timestamp_ms >= self.since_ms
        before = self.until_ms is None or letter.timestamp_ms < self.until_ms
        return letter.timestamp_ms >= 0 and after and before


@dataclass(frozen=True, slots=True)
class Rules:
    """What a replay may do.

    `ends`: of the topics that letters may go back to, the next offset by partition; `logs`: which log of its name each
    is, where that is known. `resync_partitions`: of the topic
    where snapshots are asked for. `before_rekey`: the source, where its records are rekeyed; what died there has lost
    its place among the events of its key, and goes back only when `unordered` says so.
    """

    ends: Mapping[str, Mapping[int, int]]
    resync_partitions: int
    before_rekey: str = ""
    unordered: bool = False
    replays_max: int = REPLAYS_MAX
    logs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a letter. `code` and `why` say it of one that is refused."""

    act: Literal["resend", "ask", "refuse"]
    code: str = ""
    why: str = ""


def decide(letter: Letter, rules: Rules) -> Decision:
    """What a replay does with a letter, whatever state its key has.

    A target's letter is answered by a snapshot of its key. Anybody may write headers, so a letter goes back only to a
    place that a record of this source can have come from.
    """
    if letter.target:
        if not letter.key:
            return _refused("no-key", "the letter has lost its key; `streams state snapshot --all` reaches every key")
        if letter.partition >= rules.resync_partitions:
            return _refused("elsewhere", f"there is no partition {letter.partition} to ask for a snapshot on")
        return Decision("ask")
    if letter.length is not None:
        return _refused("stub", "the letter does not hold the value; have the source send the event again")
    end = rules.ends.get(letter.topic, {}).get(letter.partition)
    if end is None:
        return _refused("elsewhere", f"{letter.topic} partition {letter.partition} is no part of this source")
    now = rules.logs.get(letter.topic, b"")
    is_other_log = bool(now and letter.topic_id and now.hex() != letter.topic_id)  # its offset says nothing there
    if letter.offset >= end and not is_other_log:
        return _refused(
            "elsewhere", f"{letter.topic} ends at {end}, before its origin {letter.offset}: it is a new one"
        )
    if letter.replay_count >= rules.replays_max:
        return _refused("replayed-often", f"replayed {letter.replay_count} times before; mend its cause")
    if letter.topic == rules.before_rekey and not rules.unordered:
        return _refused(
            "unordered", "it died before its key was known and could overwrite newer state; see --unordered"
        )
    return Decision("resend")


def _refused(code: str, why: str) -> Decision:
    return Decision("refuse", code, why)


def parcels(
    letters: Iterable[tuple[Entry, T]], records_max: int, bytes_max: int = PARCEL_BYTES_MAX
) -> Iterator[list[tuple[Entry, T]]]:
    """Consecutive letters of one partition that go to one place, in their order, in parcels of bounded size."""
    parcel: list[tuple[Entry, T]] = []
    size, held = 0, None
    for entry, more in letters:
        letter = entry.letter
        towards = (entry.partition, letter.topic, letter.partition, bool(letter.target))
        nbytes = len(letter.key or b"") + len(letter.value or b"")
        if parcel and (towards != held or len(parcel) >= records_max or size + nbytes > bytes_max):
            yield parcel
            parcel, size = [], 0
        held = towards
        parcel.append((entry, more))
        size += nbytes
    if parcel:
        yield parcel


def mark(out: Records, done: Done, offsets: Sequence[int]) -> None:
    """Appends what says that this was done about the letters at these offsets of the partition that it is written to.

    ValueError for more than MARK_OFFSETS_MAX.
    """
    if len(offsets) > MARK_OFFSETS_MAX:
        raise ValueError(f"mark: got {len(offsets)} offsets, expected at most {MARK_OFFSETS_MAX}")
    spans = _Spans()
    for offset in offsets:
        spans.add(offset, offset)
    value = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    out.append(None, value.encode(), [(DONE, done.encode()), ("dlq-format", FORMAT.encode())])


def is_mark(records: Records, index: int) -> bool:
    """Whether a record of a dead-letter topic is a mark, no letter."""
    return any(name == DONE for name, _ in records.headers(index))


class Marks:
    """What was done about the letters of one topic. Memory: by runs of offsets, not by letters."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, Done], _Spans] = {}

    def take(self, partition: int, records: Records, index: int) -> None:
        """Takes a mark in. It speaks of what was there before it.

        InputError `bad-mark` for a damaged one, which says nothing, and `newer-letter` for a newer release's.
        """
        headers = {name: (value or b"").decode("ascii", "replace") for name, value in records.headers(index)}
        came = headers.get("dlq-format", "")
        if came.isdecimal() and int(came) > int(FORMAT):
            raise InputError(
                "newer-letter", f"dlq-format is {came}, the newest this release reads is {FORMAT}; upgrade it"
            )
        done = next((way for way in WAYS if way == headers[DONE]), None)
        spans = _parsed(records.value(index) or b"")
        if came != FORMAT or done is None or not spans or any(last >= records.offset(index) for _, last in spans):
            raise InputError("bad-mark", "expected what was done, and offsets before the mark's own")
        held = self._done.setdefault((partition, done), _Spans())
        for first, last in spans:
            held.add(first, last)

    def done(self, partition: int, offset: int) -> Done | None:
        """What was done about the letter there; None: nothing yet."""
        return next((way for way in WAYS if offset in self._done.get((partition, way), ())), None)


def _parsed(value: bytes) -> list[tuple[int, int]]:
    """The spans of a mark; none when anything in it is no span."""
    spans: list[tuple[int, int]] = []
    for text in value.split(b","):
        first, dash, last = text.partition(b"-")
        numbers = [first, last] if dash else [first, first]
        if not all(number.isdigit() and len(number) <= 19 for number in numbers):
            return []
        spans.append((int(numbers[0]), int(numbers[1])))
        if spans[-1][0] > spans[-1][1]:
            return []
    return spans


@dataclass(slots=True)
class _Spans:
    """A set of whole numbers, as ascending spans that do not touch."""

    _firsts: list[int] = field(default_factory=list)
    _lasts: list[int] = field(default_factory=list)

    def add(self, first: int, last: int) -> None:
        """Adds [first, last]; the spans that it touches become one with it."""
        low, high = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)
