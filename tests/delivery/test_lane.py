"""Lanes against a plain model: nothing is lost, and the receiver ends with the state of a plain replay."""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.delivery.conflate import Conflater
from streams.delivery.lane import Batch, Lanes, _pending
from streams.delivery.partition import FRAME_BYTES
from streams.kernel.rule import DELTA
from tests.delivery.owner import DAMAGED, REQUESTER, SCHEMA, Owner, Receiver, records

DEEP = os.environ.get("STREAMS_LAWS") == "deep"
CONFLATER = Conflater(SCHEMA.native)
PARTITIONS = 2
KEYS = [b"d1", b"d2", b"d3"]

keys = st.sampled_from(KEYS)
picks = st.integers(0, 1_000)
changes = st.lists(
    st.tuples(
        keys, st.fixed_dictionaries({}, optional={"status": st.sampled_from(["", "up"]), "online": st.booleans()})
    ),
    min_size=1,
    max_size=5,
)


class Delivery(RuleBasedStateMachine):
    """An owner's log, a reader, the lanes of one target, requests on their way, and the target's receiver."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = Owner(PARTITIONS)
        self.receiver = Receiver()
        self.lanes = Lanes(CONFLATER.compose, CONFLATER.head, requester=REQUESTER, bytes_max=1 << 20)
        self.read: dict[int, int] = {}
        self.flights: list[Batch] = []
        self.late: list[list[tuple[bytes, list[bytes]]]] = []  # given up, and still on their way
        self.requests: set[bytes] = set()  # durable, not answered yet
        self.settled: dict[bytes, int] = {}  # the last offset of a key that was delivered or given up
        self.absent: set[bytes] = set()  # keys whose next patch must be absolute
        self.written: dict[int, int] = {}
        self.now_ms = 0
        self.uptime_s = 0
        for partition in range(PARTITIONS):
            self.begin(partition, 0)

    # -- the owner, and the reader ----------------------------------------------------------------------------

    @rule(
        changed=changes,
        fate=st.sampled_from(["", "", "", "", "", "", "", "lost", "damaged"]),
        read=st.sampled_from([True, True, True, False]),
    )
    def change(self, changed: list[tuple[bytes, dict[str, object]]], fate: str, read: bool) -> None:
        """Devices change, and we read of it now or later; now and then records are lost or damaged before us."""
        for key, fields in changed:
            self.uptime_s += 1
            self.owner.change(key, lost=fate == "lost", damaged=fate == "damaged", uptime_s=self.uptime_s, **fields)
        if read:
            self.take_all()

    @rule(
        key=keys,
        what=st.sampled_from(["delete", "forget", "answer", "answer", "replay", "other"]),
        read=st.booleans(),
    )
    def own(self, key: bytes, what: str, read: bool) -> None:
        """A device goes, and perhaps its tombstone; a snapshot is written: for us, asked for or not, or for another."""
        if what == "answer" and self.requests:
            self.answer(min(self.requests))
        elif what in ("delete", "forget") and self.owner.states.get(key) is not None:
            self.owner.delete(key)
            if what == "forget":
                self.owner.forget(key)
        elif what in ("replay", "other") and self.owner.reached.get(key, (0, 0))[1]:
            self.owner.answer(key, REQUESTER if what == "replay" else b"other")
        if read:
            self.take_all()

    def answer(self, key: bytes) -> None:
        """A request of ours is answered."""
        self.requests.remove(key)
        if self.owner.reached[key][1] == 0:
            self.owner.change(key)
        self.owner.answer(key)

    def take_all(self) -> None:
        """Everything that is new in the log comes in."""
        for partition in range(PARTITIONS):
            self.take(partition, 1_000, False)

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 3), again=st.booleans())
    def take(self, partition: int, count: int, again: bool) -> None:
        """Some records come in, some of them perhaps a second time."""
        log = self.owner.log(partition)
        start = next((at for at, each in enumerate(log) if each.offset >= self.read[partition]), len(log))
        chunk = log[max(0, start - 2) if again else start :][:count]
        if chunk:
            self.lanes.take(partition, records(chunk))
            self.read[partition] = max(self.read[partition], chunk[-1].offset + 1)

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def move(self, partition: int) -> None:
        """A rebalance, or a crash: whoever has the partition next begins at the progress."""
        begin = self.lanes.progress(partition)
        self.lanes.release(partition)
        self.lanes.take(partition, records(self.owner.log(partition)))
        self.begin(partition, begin)

    def begin(self, partition: int, offset: int) -> None:
        """Reads a partition from an offset on."""
        self.lanes.assign(partition, offset)
        self.read[partition] = self.written[partition] = offset
        self.settled = {key: last for key, last in self.settled.items() if self.owner.partition(key) != partition}
        self.absent = {key for key in self.absent if self.owner.partition(key) != partition}

    # -- requests ---------------------------------------------------------------------------------------------

    @rule(records_max=st.integers(1, 8), bytes_max=st.sampled_from([1, 200, 10_000, 10_000]), pass_ms=st.integers(0, 5))
    def cut(self, records_max: int, bytes_max: int, pass_ms: int) -> None:
        """A request leaves: within its limits, each key in order and once."""
        self.now_ms += pass_ms
        batch = self.lanes.cut(self.now_ms, records_max, bytes_max)
        if batch is None:
            return
        assert sum(len(entry.patches) for entry in batch.entries) == batch.records <= records_max
        assert batch.records == 1 or batch.nbytes <= bytes_max
        assert sum(len(patch) for entry in batch.entries for patch in entry.patches) < batch.nbytes
        for entry in batch.entries:
            assert self.settled.get(entry.key, -1) < entry.first <= entry.last < self.read[entry.partition]
            places = [CONFLATER.head(patch)[1:3] for patch in entry.patches if patch != DAMAGED]
            assert places == sorted(places)
            assert entry.key not in self.absent or CONFLATER.head(entry.patches[0]).kind != DELTA
            self.absent.discard(entry.key)
        self.flights.append(batch)

    @rule(
        pick=picks,
        end=st.sampled_from(["taken", "taken", "split", "buried", "unsent", "unsent", "unheard", "late"]),
        rest_ms=st.sampled_from([0, 0, 3]),
        alone=st.sampled_from([False, False, True]),
    )
    @precondition(lambda self: self.flights)
    def settle(self, pick: int, end: str, rest_ms: int, alone: bool) -> None:
        """A request ends: taken (with stale keys or without), divided, given up for good, or not taken for all we know,
        in which case it may have arrived unheard, or arrive late.
        """
        batch = self.flights.pop(pick % len(self.flights))
        body = [(entry.key, list(entry.patches)) for entry in batch.entries]
        if end == "taken":
            self.succeed(batch)
        elif end == "split":
            live = self.live(batch)
            halves = self.lanes.split(batch)
            assert live == [key for half in halves for key in self.live(half)]
            self.flights += halves
        elif end == "buried":
            self.bury(batch)
        else:
            if end == "unheard":
                self.arrive(body)
            elif end == "late":
                self.late.append(body)
            live = self.live(batch)
            self.lanes.put_back(batch, self.now_ms + rest_ms if rest_ms else 0, alone)
            # Where the snapshot is there already, what was put back goes before it.
            waiting = {key for part in self.lanes._parts.values() for key in [*part.wanted, *part.waiting]}
            self.absent -= set(live) - waiting

    def succeed(self, batch: Batch) -> None:
        """The target takes a request, or answers 409 for some of its keys."""
        stale = {entry.key for entry in batch.entries if not self.receiver.apply(entry.key, entry.patches)}
        self.note(batch)
        if stale:
            kept = self.lanes.keep(batch, stale)
            assert set(self.live(kept)) <= stale
            self.bury(kept)
        else:
            self.lanes.delivered(batch)

    def bury(self, batch: Batch) -> None:
        """A request is never repeated: its keys' snapshots are asked for, at once or as those of `wanted` are."""
        live = self.live(batch)
        self.note(batch)
        if self.uptime_s % 2:
            self.lanes.drop(batch.entries)
        else:
            self.requests.update(live)
            self.lanes.await_snapshot(batch.entries)
        self.absent.update(live)

    def live(self, batch: Batch) -> list[bytes]:
        """Keys of a batch that are not void."""
        return [entry.key for entry in batch.entries if entry.flight == batch.id]

    def note(self, batch: Batch) -> None:
        """What a batch carries is not sent again."""
        self.settled.update({entry.key: entry.last for entry in batch.entries if entry.flight == batch.id})

    @rule(pick=picks)
    @precondition(lambda self: self.late)
    def arrive_late(self, pick: int) -> None:
        """A request that was given up comes to the target after all."""
        self.arrive(self.late.pop(pick % len(self.late)))

    def arrive(self, body: list[tuple[bytes, list[bytes]]]) -> None:
        """The target applies a request whose answer nobody hears."""
        for key, patches in body:
            self.receiver.apply(key, patches)

    # -- the circuit ------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["conflate", "go on", "drop", "ask", "ask"]))
    def turn(self, what: str) -> None:
        """The circuit opens, with either fallback, or closes; snapshots of absent keys are asked for."""
        if what == "drop":
            pending = self.lanes.pending_records
            dropped = self.lanes.drop_pending()
            assert (0, bool(pending)) == (self.lanes.pending_records, bool(dropped))
            assert set(dropped.items()) <= set(self.lanes.wanted())
            self.absent.update(dropped)
        elif what == "ask":
            self.ask()
        else:
            self.lanes.conflating = what == "conflate"

    def ask(self) -> None:
        """The requests are durable."""
        wanted = [key for key, _ in self.lanes.wanted()]
        self.requests.update(wanted)
        self.lanes.await_snapshot(wanted)
        assert [] == list(self.lanes.wanted())

    # -- what always holds ------------------------------------------------------------------------------------

    @invariant()
    def a_key_flies_once(self) -> None:
        """No key is in two requests at a time."""
        flying = [key for batch in self.flights for key in self.live(batch)]
        assert len(set(flying)) == len(flying)

    @invariant()
    def progress_is_safe(self) -> None:
        """If the worker died now, what is below the progress would come to the receiver all the same."""
        for partition in range(PARTITIONS):
            progress = self.lanes.progress(partition)
            assert self.written[partition] <= progress <= self.read[partition]
            self.written[partition] = progress
            log = [each for each in self.owner.log(partition) if not each.is_foreign]
            absolute = {each.key for each in log if each.offset >= progress and each.kind != DELTA}
            for each in log:
                if each.offset < progress and self.receiver.reached(each.key) < each.reached:
                    assert each.key in self.requests or each.key in absolute

    @invariant()
    def nothing_holds_progress_for_nothing(self) -> None:
        """With nothing held, and every snapshot that is needed asked for, progress is where reading is."""
        for number, part in self.lanes._parts.items():
            if not part.lanes and not part.wanted:
                assert self.read[number] == self.lanes.progress(number)

    @invariant()
    def memory_is_bounded(self) -> None:
        """While conflating there is one pending patch of a key, and those that cannot be read; what is counted is what
        is there.
        """
        parts = self.lanes._parts.values()
        flying = [entry for part in parts for entry in part.lanes.values() if entry.flight > 0]
        pending = [entry for part in parts for entry in _pending(part)]
        if self.lanes.conflating:
            for entry in pending:
                assert len(entry.patches) <= 1 + 2 * entry.patches.count(DAMAGED)
        assert sum(len(entry.patches) for entry in pending) == self.lanes.pending_records
        held = [patch for entry in flying + pending for patch in entry.patches]
        assert sum(len(patch) + FRAME_BYTES for patch in held) == sum(part.nbytes for part in parts)
        assert sum(entry.nbytes for entry in flying + pending) == sum(part.nbytes for part in parts)
        assert len(held) == sum(part.records for part in parts)

    # -- the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """The target is well, everything is read and sent; then every device changes once more, so that a record that
        was lost before us shows, and the receiver holds what a plain replay gives.
        """
        self.drain()
        for key in self.owner.reached:
            self.change([(key, {})], "", False)
            self.owner.answer(key, b"other")
        self.drain()
        assert self.owner.states == {key: self.receiver.held.state(key) for key in self.owner.states}
        assert self.owner.reached == {key: self.receiver.reached(key) for key in self.owner.reached}
        for partition in range(PARTITIONS):
            assert self.owner.end(partition) in (self.lanes.progress(partition), 0)
        assert (0, 0, 0) == (self.lanes.pending_records, self.lanes.waiting_keys, self.lanes.pending_bytes)

    def drain(self) -> None:
        """Until nothing happens any more."""
        for _ in range(1_000):
            before = self.standing()
            self.take_all()
            self.cut(100, 10_000, 10)
            while self.flights:
                self.succeed(self.flights.pop())
            self.ask()
            while self.requests:
                self.answer(min(self.requests))
            if before == self.standing() and not any(before[1:]):
                return
        raise AssertionError(f"does not come to an end: {before}")

    def standing(self) -> tuple[dict[int, int], int, int, int, int]:
        """How far everything is; all but the first are zero in the end."""
        lanes = self.lanes
        return dict(self.read), len(self.flights), len(self.requests), lanes.pending_records, lanes.waiting_keys


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=500 if DEEP else 30, stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow]
)


def test_long_walks(seed: int) -> None:
    """The same machine on long random walks, which reach what a short example seldom does: lanes in every state."""
    chance = random.Random(seed)
    for _ in range(500 if DEEP else 20):
        machine = Delivery()
        for _ in range(200):
            step(machine, chance)
            machine.a_key_flies_once()
            machine.progress_is_safe()
            machine.nothing_holds_progress_for_nothing()
            machine.memory_is_bounded()
        machine.teardown()


def step(machine: Delivery, chance: random.Random) -> None:
    """One step of a walk."""
    pick, key = chance.randrange(1_000), chance.choice(KEYS)
    match chance.choices(
        ["change", "own", "take", "move", "cut", "settle", "late", "turn"], [8, 3, 2, 0.3, 8, 7, 2, 2]
    ):
        case ["change"]:
            changed = [(chance.choice(KEYS), {"online": chance.random() < 0.5}) for _ in range(chance.randint(1, 3))]
            machine.change(changed, chance.choice([""] * 20 + ["lost", "damaged"]), chance.random() < 0.8)
        case ["own"]:
            what = chance.choice(["delete", "forget", "answer", "answer", "replay", "other"])
            machine.own(key, what, chance.random() < 0.5)
        case ["take"]:
            machine.take(chance.randrange(PARTITIONS), chance.randint(1, 3), chance.random() < 0.5)
        case ["move"]:
            machine.move(chance.randrange(PARTITIONS))
        case ["cut"]:
            machine.cut(chance.randint(1, 8), chance.choice([1, 200, 10_000, 10_000]), chance.randint(0, 3))
        case ["settle"] if machine.flights:
            end = chance.choice(["taken", "taken", "split", "buried", "unsent", "unsent", "unheard", "late"])
            machine.settle(pick, end, chance.choice([0, 0, 3]), chance.random() < 0.3)
        case ["late"] if machine.late:
            machine.arrive_late(pick)
        case ["turn"]:
            machine.turn(chance.choice(["conflate", "go on", "go on", "drop", "ask", "ask"]))
