"""Which snapshots to ask for, and when. Pure: time is an argument, the asking itself is done by the carrier.

A key whose held state has a gap is *wanted* until its request is handed over, then *asked* until a snapshot or a delete
of it is applied. One request per key is under way at a time; one that stays unanswered is asked again, each time after
twice as long. A token bucket bounds the rate, so that a receiver that lost a whole topic does not flood its owner.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, replace

from streams.v1.resync_pb2 import Resync

__all__ = ["Ask", "Asks"]

ASKED_KEYS_MAX = 100_000
"""Keys remembered as asked: 100,000 at about 300 bytes are 30 MB. Beyond, the oldest is forgotten: its answer is
applied all the same, only asking again is left to the key's next patch."""
WANTED_KEYS_MAX = 1_000
"""Keys waiting to be asked for. Reading stops while so many wait, so that no gap goes unasked."""
UNKNOWN_ATTEMPTS_MAX = 2
"""How often a key is asked for that nothing is held of: the second time for an owner that was restarting."""
ANSWER_TIMEOUT_MS = 30_000
"""A first request is repeated after this: a worker that restarts and restores is back within it as a rule."""
ANSWER_TIMEOUT_MS_MAX = 600_000
"""Doubling stops here: an owner that was away for a night is asked again within ten minutes of its return."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a snapshot of `key`.

    `partition` and `offset` are those of the patch that showed the gap, `needed` its (epoch, revision): a snapshot
    below that is no answer. `epoch` and `revision` are what is held. Without an offset (-1) no patch showed anything:
    somebody used the key. Partition -1: not known, so that those of `everywhere` are asked; an owner that does not know
    the key either does not answer.
    """

    key: bytes
    partition: int
    offset: int
    reason: Resync.Reason
    epoch: int
    revision: int
    needed: tuple[int, int]
    attempts: int = 0
    everywhere: tuple[int, ...] = ()
    earlier: bool = False
    """Whether only an earlier run of this receiver asked."""

    @property
    def is_use(self) -> bool:
        """Whether somebody used the key, and no patch showed anything."""
        return self.offset < 0

    @property
    def is_hopeless(self) -> bool:
        """Whether it was asked often enough: a key that nothing is held of may be another member's, or nobody's."""
        return self.partition < 0 and self.attempts >= UNKNOWN_ATTEMPTS_MAX


class Asks:
    """The requests of one receiver: at most one per key, at most `per_second_max` a second."""

    def __init__(self, *, per_second_max: float = 500, answer_timeout_ms: int = ANSWER_TIMEOUT_MS) -> None:
        """`per_second_max` is also the burst: a snapshot costs its owner one record, 500 a second are small change."""
        self._per_second_max = per_second_max
        self._answer_timeout_ms = answer_timeout_ms
        self._tokens = float(per_second_max)
        self._filled_ms: int | None = None
        self._wanted: OrderedDict[bytes, Ask] = OrderedDict()
        self._asked: OrderedDict[bytes, tuple[int, Ask]] = OrderedDict()  # with the deadline of its answer
        self._deadlines: list[tuple[int, bytes]] = []  # a heap; entries that _asked no longer holds are void

    def want(self, ask: Ask) -> None:
        """Notes that a snapshot is needed. One of this key that is wanted or under way must reach at least as far."""
        if ask.key in self._wanted:
            before = self._wanted[ask.key]
            self._wanted[ask.key] = ask if before.is_use and not ask.is_use else _reaching(before, ask.needed)
        elif ask.key in self._asked:
            deadline_ms, asked = self._asked[ask.key]
            if asked.is_use and not ask.is_use:  # what was asked before named no patch
                del self._asked[ask.key]
                self._wanted[ask.key] = ask
            else:
                self._asked[ask.key] = (deadline_ms, _reaching(asked, ask.needed))
        else:
            self._wanted[ask.key] = ask

    def answered(self, key: bytes, reached: tuple[int, int]) -> None:
        """The key is held at `reached` now, (epoch, revision): that may be all that was needed."""
        if key in self._wanted and self._wanted[key].needed <= reached:
            del self._wanted[key]
        if key in self._asked and self._asked[key][1].needed <= reached:
            del self._asked[key]

    def due(self, now_ms: int) -> list[Ask]:
        """What to ask for now. The caller hands it to the log and then calls `asked`; until then it is wanted."""
        self._fill(now_ms)
        # An owner that is away for long must not stop the reading: what was asked before waits for its turn.
        while self._deadlines and self._deadlines[0][0] <= now_ms and len(self._wanted) < WANTED_KEYS_MAX // 2:
            deadline_ms, key = heapq.heappop(self._deadlines)
            held = self._asked.get(key)
            if held is not None and held[0] == deadline_ms:
                ask = self._asked.pop(key)[1]
                if not ask.is_hopeless:
                    self._wanted[key] = ask
        due = list(self._wanted.values())[: int(self._tokens)]
        self._tokens -= len(due)
        return due

    def asked(self, asks: list[Ask], now_ms: int) -> None:
        """The requests are in the log: durable, so that a crash of this receiver does not lose them."""
        for ask in asks:
            if self._wanted.pop(ask.key, None) is not None:
                self._wait(replace(ask, attempts=ask.attempts + 1, earlier=False), now_ms)

    def resume(self, ask: Ask) -> None:
        """An earlier run of this receiver has asked this already: it is repeated where no answer comes."""
        if ask.key not in self:
            self._wait(ask, self._filled_ms or 0)

    def _wait(self, ask: Ask, now_ms: int) -> None:
        timeout_ms = min(self._answer_timeout_ms << min(ask.attempts - 1, 16), ANSWER_TIMEOUT_MS_MAX)
        self._asked[ask.key] = (now_ms + timeout_ms, ask)
        heapq.heappush(self._deadlines, (now_ms + timeout_ms, ask.key))
        while len(self._asked) > ASKED_KEYS_MAX:
            self._asked.popitem(last=False)

    def floor(self, partition: int) -> int | None:
        """The lowest offset of the partition whose gap was not asked for yet; nothing above it may be committed."""
        wanted = (ask for ask in self._wanted.values() if ask.partition == partition and not ask.attempts)
        return min((ask.offset for ask in wanted if ask.offset >= 0), default=None)

    def use(self, ask: Ask) -> None:
        """Somebody used a key that may be stale: it is asked for, unless so many wait that reading might stop."""
        if len(self._wanted) < WANTED_KEYS_MAX // 2:
            if ask.key in self._asked and self._asked[ask.key][1].earlier:
                del self._asked[ask.key]  # whoever waits for it now does not wait for the next repetition
            self.want(ask)

    def drop(self, partition: int) -> None:
        """The partition went to another member of the group: its keys are that one's to ask for."""
        for waiting in [key for key, ask in self._wanted.items() if ask.partition == partition]:
            del self._wanted[waiting]
        for waiting in [key for key, (_, ask) in self._asked.items() if ask.partition == partition]:
            del self._asked[waiting]

    @property
    def unknown(self) -> int:
        """Keys that somebody used and that nothing is known of."""
        everything = (*self._wanted.values(), *(ask for _, ask in self._asked.values()))
        return sum(ask.partition < 0 for ask in everything)

    @property
    def full(self) -> bool:
        """Whether reading must stop until requests are handed over."""
        return len(self._wanted) >= WANTED_KEYS_MAX

    def __contains__(self, key: bytes) -> bool:
        """Whether the key waits for a snapshot."""
        return key in self._wanted or key in self._asked

    def __len__(self) -> int:
        """Keys that wait for a snapshot."""
        return len(self._wanted) + len(self._asked)

    def _fill(self, now_ms: int) -> None:
        passed_ms = 0 if self._filled_ms is None else max(now_ms - self._filled_ms, 0)
        self._filled_ms = now_ms
        self._tokens = min(max(self._per_second_max, 1.0), self._tokens + self._per_second_max * passed_ms / 1000)


def _reaching(ask: Ask, needed: tuple[int, int]) -> Ask:
    return ask if needed <= ask.needed else replace(ask, needed=needed)
