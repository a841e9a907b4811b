"""What one actor of an agent has before it: events in their order, what it raised on, and what waits behind that.

The agent's body is run again after it raised (see `agent`); what it is offered then is decided by `course`. While a
partition waits its later events are kept here, and no more of them are fetched; those of other partitions go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from faust.exceptions import Skip

from streams.errors import (
    RecordTooLargeError,
    SendsTooLargeError,
    StreamsError,
    TransportError,
    UnreadableRecordError,
)
from streams.transport.arrivals import Arrivals, refusal
from streams.transport.chunk import Chunk
from streams.transport.course import Course, Done, Letter, Pause, Rules, Run, Trial
from streams.transport.failure import RAISED, UNREADABLE, Failure, Rescue
from streams.transport.inbox import Inbox
from streams.transport.raised import kind_of, line_of
from streams.transport.rest import Rest
from streams.transport.stopped import hold_back
from streams.transport.waits import Waits
from streams.transport.work import Place, Work

__all__ = ["Desk"]

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a pause is left to see whether the partitions are still this worker's."""
HELD_MAX = 2
"""Events behind one that waits before no more of its partition are fetched: what is on its way comes all the same, a
fetch and a queue of it at most. Two, so that there is another to try when one of them is at fault too."""
TRIALS_MAX = 100
"""Events behind one that waits that are looked at for another try: enough to find a good one among bad ones."""

Gather = Callable[[Any], Awaitable[Work | None]]
"""Makes a work, the first event of which is given; None: it waits behind another."""


class _Offer(NamedTuple):
    """A part of a work in the agent's hands."""

    work: Work
    first: int
    end: int
    trouble: _Trouble | None = None
    trial: bool = False


class _Trouble:
    """A work that the agent raised on."""

    def __init__(self, work: Work, rules: Rules) -> None:
        self.work = work
        self.course = Course(rules, len(work))
        self.held: deque[Any] = deque()
        self.failure: Failure | None = None
        self.reason = ""

    def over(self, waits: Waits) -> None:
        """It stands still no more."""
        waits.end(self.reason)
        self.reason = ""

    def others(self, sample: Work | None) -> int:
        """Records that the agent may be tried with: those behind the one that is next, last one that it took before."""
        behind = len(self.work) - self.course.first - 1
        return behind + sum(_size(event) for event in islice(self.held, TRIALS_MAX)) + (sample is not None)

    def trial(self, ahead: int, make: Callable[[Any], Work], sample: Work | None) -> _Offer:
        """A record so many places further on: of this work, of what is held behind it, or the one taken before."""
        index = self.course.first + 1 + ahead
        if index < len(self.work):
            return _Offer(self.work, index, index + 1, self, trial=True)
        index -= len(self.work)
        for event in islice(self.held, TRIALS_MAX):
            if index < _size(event):
                work = make(event)
                work.set_aside()
                return _Offer(work, index, index + 1, self, trial=True)
            index -= _size(event)
        assert sample is not None  # `others` counts no more
        return _Offer(sample, 0, 1, self, trial=True)


class Desk:
    """One per actor, for as long as its stream; its agent's body may be run many times meanwhile."""

    def __init__(self, stream: Any, agent: str, rescue: Rescue, make: Callable[[Any], Work]) -> None:
        """`make`: a work of one event."""
        self._stream = stream
        self.agent = agent
        self._reason = f"agent {agent}"
        self._rescue = rescue
        self._make = make
        self._troubles: list[_Trouble] = []
        self._inbox = Inbox(stream)
        self._hand: _Offer | None = None
        self._undone: _Offer | None = None  # what a body had in hand that was cancelled
        self._takes = 0  # how often the body took something, whatever became of its sends
        self._taken = 0  # the last of these that is done
        self._sample: Work | None = None
        self.rest = Rest(stream, self._inbox, rescue.rules)
        self._has_returned = False
        self._arrivals: Arrivals[_Offer] = Arrivals(self._inbox.wake)
        self.fault: Exception | None = None
        """What went wrong here, in nobody's agent."""

    # -- what the body iterates over --------------------------------------------------------------------------

    async def offers(self, gather: Gather | None = None) -> AsyncGenerator[Any, None]:
        """What the agent is offered, until the stream ends. `gather`: makes a new work; default: one event each."""
        gather = gather or self._one
        await self.left()
        while True:
            try:
                offer = await self._next(gather)
                if offer is None:
                    return
            except Exception as error:
                self.fault = error
                raise
            self._hand = offer
            try:
                value = await offer.work.open(offer.first, offer.end)
            except Skip:
                pass
            else:
                yield value
            await self.left()  # it asked for the next: it took this one

    def failure(self, error: BaseException) -> Failure:
        """What the agent's body raised, and where it was."""
        offer = self._hand
        place = offer.work.place(offer.first) if offer is not None else None
        said = str(error) if isinstance(error, StreamsError) else ""
        if isinstance(error, UnreadableRecordError):
            return Failure(self.agent, kind_of(error), place, said, "", is_certain=True, reason=UNREADABLE)
        is_certain = isinstance(error, RecordTooLargeError | SendsTooLargeError)
        return Failure(self.agent, kind_of(error), place, said, line_of(error), is_certain)

    def raised(self, failure: Failure) -> None:
        """The agent's body raised: what it had in hand comes again. Call at once, before anything else runs."""
        offer, self._hand = self._hand, None
        if offer is None:
            self.rest.begin()
            said = f"{_raises(failure)} before it took a record; it is run again"
            self._stream.app.consumer.waits.declare(self._reason, said, self._stream.channel.topics)
            return
        offer.work.close()
        self._failed(offer, failure)

    def _failed(self, offer: _Offer, failure: Failure) -> None:
        now_s = _now()
        trouble = offer.trouble
        if trouble is None:
            trouble = _Trouble(offer.work, self._rescue.rules)
            self._troubles.append(trouble)
            offer.work.set_aside()
        place = failure.place
        assert place is not None  # something was in hand
        self._stream.app.consumer.pace.tried(place.topic)
        if failure.reason == RAISED:
            self._rescue.count(place.topic, "failures")
        trouble.failure = failure if not offer.trial else trouble.failure
        if offer.trial:
            trouble.course.tried(now_s, took=False, behind=trouble.others(self._sample))
        else:
            trouble.course.failed(
                now_s, self._taken if trouble.course.failures else self._takes, is_certain=failure.is_certain
            )
        is_said = failure.reason == UNREADABLE or offer.trial or offer.end - offer.first > 1
        if trouble.course.failures <= 1 and not is_said:
            log.warning("%s raises %s%s at %s, tried again", self._reason, failure.kind, failure.where, _named(place))

    def interrupted(self) -> None:
        """The agent's body was cancelled: what it had in hand comes again."""
        self._undone, self._hand = self._hand, None
        if self._undone is not None:
            self._undone.work.close()

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._inbox.over

    async def left(self) -> None:
        """The agent took what it had in hand: it asks for more, or its body ended."""
        if self._hand is None:
            return
        self._hand.work.close()
        unsendable = await self._hand.work.unsendable()  # in its hand as yet: a body may be cancelled meanwhile
        offer, self._hand = self._hand, None
        try:
            await self._took(offer, unsendable)
        except Exception as error:
            self.fault = error
            raise

    async def returned(self) -> None:
        """The agent's body ended though its stream did not. It is run again: nobody else takes the events."""
        if self._hand is None and not self.ended:
            self.rest.begin()
            self._stream.app.consumer.waits.declare(
                self._reason, "returns before it took a record; it is run again", self._stream.channel.topics
            )
        elif not self.ended and not self._has_returned:
            self._has_returned = True
            log.warning("%s returned while its stream goes on; it is run again, each time that it does", self._reason)
        await self.left()

    # -- what comes next --------------------------------------------------------------------------------------

    async def _next(self, gather: Gather) -> _Offer | None:
        self.rest.release()
        while not self._inbox.over:
            self._forget_stale()
            while self._arrivals.refused:
                self._refused(*self._arrivals.refused.popleft())
            if self._undone is not None and not self._undone.work.stale:
                offer, self._undone = self._undone, None
                return offer
            due_s: float | None = None
            for trouble in list(self._troubles):
                step = trouble.course.step(_now(), trouble.others(self._sample))
                match step:
                    case Run(first, end):
                        return _Offer(trouble.work, first, end, trouble)
                    case Trial(ahead):
                        return trouble.trial(ahead, self._make, self._sample)
                    case Letter(at):
                        await self._bury(trouble, at)
                        due_s = 0.0
                    case Done():
                        self._close(trouble)
                        due_s = 0.0
                    case Pause(until_s, waiting):
                        self._say_waiting(trouble, waiting)
                        due_s = min(until_s, due_s if due_s is not None else until_s)
            if due_s == 0.0:
                continue
            event = await self._inbox.next(None if due_s is None else min(due_s - _now(), LOOK_S))
            work = await gather(event) if event is not None else None
            if work is not None:
                return _Offer(work, 0, len(work))
        return None

    async def _one(self, event: Any) -> Work | None:
        return None if self._hold(event) or self._stream.is_stale(event) else self._make(event)

    async def several(
        self, first: Any, most: int, within_s: float | None, make: Callable[[list[Any]], Work]
    ) -> Work | None:
        """A work of up to so many events, as come within this time of the first."""
        if self._hold(first):
            return None
        events = [first]
        until_s = None if within_s is None else _now() + within_s
        while len(events) < most:
            left_s = None if until_s is None else until_s - _now()
            if left_s is not None and left_s <= 0:
                break
            event = await self._inbox.next(left_s)
            if event is None:
                break
            if not self._hold(event):
                events.append(event)
        fresh = [event for event in events if not self._stream.is_stale(event)]
        return make(fresh) if fresh else None

    def _hold(self, event: Any) -> bool:
        """Keeps an event whose partition waits; no more of them are fetched then."""
        tp = event.message.tp
        for trouble in self._troubles:
            if tp in trouble.work.tps:
                trouble.held.append(event)
                self._stream.set_aside(event)
                if len(trouble.held) >= HELD_MAX:
                    hold_back(self._stream.app.consumer, tp)
                return True
        return False

    # -- what came of it --------------------------------------------------------------------------------------

    async def _took(self, offer: _Offer, unsendable: BaseException | None) -> None:
        if self.rest.over():
            self._stream.app.consumer.waits.end(self._reason)
        self._takes += 1
        sends, trouble, number = offer.work.sends(), offer.trouble, self._takes
        if trouble is None and unsendable is not None:
            self._refused(offer, unsendable)
            return
        if trouble is None:
            keep = partial(self._keep, offer, number)
            await (self._arrivals.expect(offer, sends, keep) if sends else keep())
            return
        error = unsendable or await refusal(sends)
        if offer.trial:
            self._taken = number if error is None else self._taken
            trouble.course.tried(_now(), took=error is None, behind=trouble.others(self._sample))
        elif error is not None:
            self._refused(offer, error)
        else:
            await self._keep(offer, number)
            trouble.course.taken()
            trouble.over(self._stream.app.consumer.waits)

    async def _keep(self, offer: _Offer, number: int) -> None:
        self._taken = max(self._taken, number)
        self._sample = offer.work.sample(offer.end - 1)
        await offer.work.keep(offer.first, offer.end)

    def _refused(self, offer: _Offer, error: BaseException) -> None:
        """The agent took it, but a send of it did not arrive: it comes again, as if the agent had raised that."""
        if offer.work.stale:
            return
        if self._rescue.stops:
            self._hand = offer
            raise error
        said = str(error) if isinstance(error, StreamsError) else ""
        place = offer.work.place(offer.first)
        self._failed(offer, Failure(self.agent, kind_of(error), place, said, " (a send that did not arrive)"))

    async def _bury(self, trouble: _Trouble, index: int) -> None:
        assert trouble.failure is not None
        records, at, place = trouble.work.record(index)
        failure = trouble.failure._replace(place=place)
        try:
            letter = await self._rescue.letter(records, at, failure, trouble.work.refused)
            await trouble.work.bury(index, letter)
        except TransportError as error:
            trouble.course.postponed(_now())
            trouble.reason = trouble.reason or f"{self._reason} {place.topic}/{place.partition}"
            what = f"raises {kind_of(error)} when the dead letter is written; it is tried again: {error}"
            self._stream.app.consumer.waits.declare(trouble.reason, what, trouble.work.tps)
            return
        trouble.course.taken()
        self._rescue.count(place.topic, f"dead.{failure.reason}")
        trouble.over(self._stream.app.consumer.waits)
        raised = f"raises {failure.kind}{failure.where} at {_named(place)}"
        log.warning("%s: %s: a dead letter", self._reason, failure.said if failure.reason == UNREADABLE else raised)

    def _close(self, trouble: _Trouble) -> None:
        """Everything of it was taken: what was held behind it is next."""
        self._troubles.remove(trouble)
        trouble.over(self._stream.app.consumer.waits)
        self._inbox.ready.extendleft(reversed(trouble.held))
        self._stream.app.consumer.release(trouble.work.tps)

    def _forget_stale(self) -> None:
        for trouble in [trouble for trouble in self._troubles if trouble.work.stale]:
            self._troubles.remove(trouble)
            trouble.over(self._stream.app.consumer.waits)
            self._inbox.ready.extend(event for event in trouble.held if not self._stream.is_stale(event))
            self._stream.app.consumer.release(trouble.work.tps)

    # -- what is said -----------------------------------------------------------------------------------------

    def _say_waiting(self, trouble: _Trouble, waiting: bool) -> None:
        failure = trouble.failure
        if not waiting or failure is None or failure.place is None or trouble.reason:
            return
        trouble.reason = f"{self._reason} {failure.place.topic}/{failure.place.partition}"
        what = (
            f"at {_named(failure.place)}, and has taken no other record since; it is tried again, and a dead "
            "letter once it takes another one: mend what the agent needs, or the agent"
        )
        self._stream.app.consumer.waits.declare(trouble.reason, f"{_raises(failure)} {what}", trouble.work.tps)


def _size(event: Any) -> int:
    """Records in an event."""
    return len(event.value) if isinstance(event.value, Chunk) else 1


def _raises(failure: Failure) -> str:
    return f"raises {failure.kind}{failure.where}{': ' if failure.said else ''}{failure.said}"


def _named(place: Place) -> str:
    return f"{place.topic} partition {place.partition} offset {place.offset}"


def _now() -> float:
    return asyncio.get_running_loop().time()
