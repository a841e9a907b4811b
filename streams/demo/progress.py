"""Live progress of a run: bars in a terminal, a line every two seconds elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streams.clock import SYSTEM_CLOCK, Clock

LINE_INTERVAL_S = 2.0
"""Often enough to see that it moves, rarely enough to keep a log short."""


class Steps:
    """Named counters that go up to a total each, shown while the `with` block runs."""

    def __init__(self, console: Console, totals: dict[str, int], clock: Clock = SYSTEM_CLOCK) -> None:
        """`totals`: what is counted, by its name, in order. Bars where `console` is a terminal, lines where not."""
        self._console = console
        self._totals = totals
        self._counts = dict.fromkeys(totals, 0)
        self._clock = clock
        self._shown_s = clock.monotonic_s()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                console=console,
            )  # fmt: skip
            self._tasks = {name: self._bars.add_task(name, total=total) for name, total in totals.items()}

    def counter(self, name: str) -> Callable[[int], None]:
        """The function that takes the present count of `name`."""
        return lambda count: self._set(name, count)

    def say(self, text: str) -> None:
        """One line about something that happened, above the bars."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _set(self, name: str, count: int) -> None:
        self._counts[name] = count
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=count)
        elif self._clock.monotonic_s() - self._shown_s >= LINE_INTERVAL_S:
            self._line()

    def _line(self) -> None:
        self._shown_s = self._clock.monotonic_s()
        parts = [f"{name} {count:,} of {self._totals[name]:,}" for name, count in self._counts.items()]
        self._console.print(", ".join(parts), highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        else:
            self._line()
