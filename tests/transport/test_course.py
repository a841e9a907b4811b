"""streams.transport.course: who is at fault, an agent's record or what the agent needs, told from outcomes alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.transport.course import Course, Done, Letter, Pause, Rules, Run, Trial, backoff

RULES = Rules(retries=3, backoff_s=0.5, backoff_max_s=8.0)


class Agent:
    """Takes records, but for bad ones, and for none while what it needs is away."""

    def __init__(self, bad: set[int], away: tuple[float, float] = (0.0, 0.0)) -> None:
        self.bad = bad
        self.away = away
        self.now_s = 0.0
        self.taken = 0
        self.kept: list[int] = []
        self.letters: list[int] = []
        self.waited = False

    def takes(self, first: int, end: int) -> bool:
        """Whether it gets through these records."""
        return not self.away[0] <= self.now_s < self.away[1] and not self.bad & set(range(first, end))

    def work(self, records: int, behind: int = 0) -> None:
        """Goes the whole course of a chunk that it raised on; so many good records are held behind it."""
        course = Course(RULES, records)
        course.failed(self.now_s, self.taken)
        for _ in range(100_000):
            left = records - course.first - 1 + behind
            match course.step(self.now_s, left):
                case Done():
                    return
                case Pause(until_s, waiting):
                    self.waited |= waiting
                    assert until_s > self.now_s
                    self.now_s = until_s
                case Letter(at):
                    self.letters.append(at)
                    course.taken()
                case Trial(ahead):
                    at = course.first + 1 + ahead
                    assert 0 <= ahead < left
                    took = self.takes(at, at + 1)
                    self.taken += took
                    course.tried(self.now_s, took=took, behind=left)
                case Run(first, end):
                    if self.takes(first, end):
                        self.taken += 1
                        self.kept += range(first, end)
                        course.taken()
                    else:
                        course.failed(self.now_s, self.taken)
        raise AssertionError("no end")


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=20))))
def test_bad_records_are_letters_and_all_others_are_taken_once(chunk: tuple[int, set[int]]) -> None:
    """In their order, whichever they are; a good record behind the chunk tells the last one's fault."""
    records, bad = chunk
    agent = Agent(bad)
    agent.work(records, behind=1)

    assert [at for at in range(records) if at not in bad] == agent.kept
    assert sorted(bad) == agent.letters


@given(st.integers(1, 200), st.floats(0.1, 3_600.0))
def test_an_outage_makes_no_letters(records: int, for_s: float) -> None:
    """Nothing is taken, so nothing is at fault, however long it lasts; the pauses grow to their limit."""
    agent = Agent(set(), (0.0, for_s))
    agent.work(records)

    assert [] == agent.letters
    assert list(range(records)) == agent.kept
    assert agent.now_s <= for_s + RULES.backoff_max_s
    assert agent.waited == (for_s > 0.5 + 1.0 + 2.0)


def test_an_outage_that_ends_during_the_trial_makes_no_letter() -> None:
    """The record is tried once more after another was taken."""
    agent = Agent(set(), (0.0, 3.5))
    agent.work(2)

    assert [] == agent.letters


def test_a_lone_bad_record_waits_for_another() -> None:
    """Whether it or the agent's database is at fault cannot be told before."""
    course = Course(RULES, 1)
    now_s, taken = 0.0, 0
    for _ in range(RULES.retries):
        course.failed(now_s, taken)
        step = course.step(now_s, 0)
        assert isinstance(step, Pause)
        assert not step.waiting
        now_s = step.until_s
        assert Run(0, 1) == course.step(now_s, 0)
    course.failed(now_s, taken)
    step = course.step(now_s, 0)

    assert isinstance(step, Pause)
    assert step.waiting
    assert Run(0, 1) == course.step(step.until_s, 0)

    taken += 1  # of another partition
    course.failed(step.until_s, taken)

    assert Letter(0) == course.step(step.until_s, 0)


def test_a_letter_that_cannot_be_written_is_written_later() -> None:
    """The record stays where it is, with growing pauses."""
    course = Course(RULES._replace(retries=0), 1)
    course.failed(0.0, 0)
    course.tried(0.0, took=True, behind=1)
    course.failed(0.0, 1)

    assert Letter(0) == course.step(0.0, 1)

    course.postponed(0.0)
    step = course.step(0.0, 1)

    assert isinstance(step, Pause)
    assert Letter(0) == course.step(step.until_s, 1)


@given(st.integers(1, 10_000))
def test_pauses_double_up_to_a_limit(failures: int) -> None:
    """However often it failed."""
    assert backoff(RULES, failures) == min(8.0, 0.5 * 2 ** min(failures - 1, 10))
