"""Lanes against a plain model: nothing is lost, and the receiver ends with the state of a plain replay."""

from __future__ import annotations

import os

from hypothesis import settings
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
often = st.sampled_from([True, True, False])
fields = st.fixed_dictionaries(
    {}, optional={"status": st.sampled_from(["", "up"]), "cpu": st.sampled_from([0.0, 0.5]), "online": st.booleans()}
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
        self.written: dict[int, int] = {}
        self.now_ms = 0
        self.uptime_s = 0
        for partition in range(PARTITIONS):
            self.begin(partition, 0)

    # -- the owner --------------------------------------------------------------------------------------------

    @rule(
        key=keys,
        values=st.lists(fields, min_size=1, max_size=3),
        fate=st.sampled_from(["", "", "", "", "", "", "", "lost", "damaged"]),
        read=often,
    )
    def change(self, key: bytes, values: list[dict[str, object]], fate: str, read: bool) -> None:
        """A device changes, and we read of it, soon or later; now and then a record is lost or damaged before us."""
        for each in values:
            self.uptime_s += 1
            self.owner.change(key, lost=fate == "lost", damaged=fate == "damaged", uptime_s=self.uptime_s, **each)
        if read:
            self.take(self.owner.partition(key), 1_000, False)

    @rule(key=keys, forgotten=st.booleans())
    def delete(self, key: bytes, forgotten: bool) -> None:
        """A device goes, and perhaps its tombstone too."""
        if self.owner.states.get(key) is not None:
            self.owner.delete(key)
            if forgotten:
                self.owner.forget(key)

    @rule(key=keys, read=often)
    def answer_replay(self, key: bytes, read: bool) -> None:
        """Somebody replays a dead letter of ours: a snapshot comes that nothing waits for."""
        if self.owner.reached.get(key, (0, 0))[1]:
            self.owner.answer(key)
            if read:
                self.take(self.owner.partition(key), 1_000, False)

    @rule(key=keys)
    def answer_somebody_else(self, key: bytes) -> None:
        """Another receiver has asked for a snapshot."""
        if self.owner.reached.get(key, (0, 0))[1]:
            self.owner.answer(key, b"other")

    @rule(pick=picks)
    @precondition(lambda self: self.requests)
    def answer(self, pick: int) -> None:
        """A request of ours is answered."""
        key = sorted(self.requests)[pick % len(self.requests)]
        self.requests.remove(key)
        if self.owner.reached[key][1] == 0:
            self.owner.change(key)
        self.owner.answer(key)

    # -- the reader -------------------------------------------------------------------------------------------

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 12), again=st.booleans())
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
        for key in [key for key in self.settled if self.owner.partition(key) == partition]:
            del self.settled[key]

    # -- requests ---------------------------------------------------------------------------------------------

    @rule(records_max=st.integers(1, 8), bytes_max=st.sampled_from([1, 200, 10_000]), pass_ms=st.integers(0, 5))
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
            assert self.settled.get(entry.key, -1) < entry.first <= entry.last
            places = [CONFLATER.head(patch)[1:3] for patch in entry.patches if patch != DAMAGED]
            assert places == sorted(places)
        self.flights.append(batch)

    def pick_flight(self, pick: int) -> Batch:
        """One of the requests on their way."""
        return self.flights.pop(pick % len(self.flights))

    def live(self, batch: Batch) -> list[bytes]:
        """Keys of a batch that are not void."""
        return [entry.key for entry in batch.entries if entry.flight == batch.id]

    def settle(self, batch: Batch) -> None:
        """Notes that what a batch carries is not sent again."""
        for entry in batch.entries:
            if entry.flight == batch.id:
                self.settled[entry.key] = entry.last

    @rule(pick=picks)
    @precondition(lambda self: self.flights)
    def succeed(self, pick: int) -> None:
        """The target takes a request, or answers 409 for some of its keys."""
        batch = self.pick_flight(pick)
        stale = {entry.key for entry in batch.entries if not self.receiver.apply(entry.key, entry.patches)}
        self.settle(batch)
        if not stale:
            self.lanes.delivered(batch)
        else:
            kept = self.lanes.keep(batch, stale)
            assert set(self.live(kept)) <= stale
            self.flights.append(kept)
            self.bury(len(self.flights) - 1)

    @rule(pick=picks)
    @precondition(lambda self: self.flights)
    def bury(self, pick: int) -> None:
        """A request is never repeated: its keys' snapshots are asked for, durably."""
        batch = self.pick_flight(pick)
        self.settle(batch)
        self.requests.update(self.live(batch))
        self.lanes.await_snapshot(batch.entries)

    @rule(
        pick=picks,
        applied=st.sampled_from(["never", "before", "later"]),
        rest_ms=st.sampled_from([0, 0, 3]),
        alone=st.booleans(),
    )
    @precondition(lambda self: self.flights)
    def fail(self, pick: int, applied: str, rest_ms: int, alone: bool) -> None:
        """A request fails, as far as we know: its answer was lost, or it comes late."""
        batch = self.pick_flight(pick)
        body = [(entry.key, list(entry.patches)) for entry in batch.entries]
        if applied == "before":
            self.arrive(body)
        elif applied == "later":
            self.late.append(body)
        self.lanes.put_back(batch, self.now_ms + rest_ms if rest_ms else 0, alone)

    @rule(pick=picks)
    @precondition(lambda self: self.late)
    def arrive_late(self, pick: int) -> None:
        """A request that was given up comes to the target after all."""
        self.arrive(self.late.pop(pick % len(self.late)))

    def arrive(self, body: list[tuple[bytes, list[bytes]]]) -> None:
        """The target applies a request whose answer nobody hears."""
        for key, patches in body:
            self.receiver.apply(key, patches)

    @rule(pick=picks)
    @precondition(lambda self: self.flights)
    def split(self, pick: int) -> None:
        """A refused request is bisected."""
        batch = self.pick_flight(pick)
        live = self.live(batch)
        halves = self.lanes.split(batch)
        assert live == [key for half in halves for key in self.live(half)]
        self.flights += halves

    # -- the circuit ------------------------------------------------------------------------------------------

    @rule(conflating=st.booleans())
    def conflate(self, conflating: bool) -> None:
        """The circuit opens or closes."""
        self.lanes.conflating = conflating

    @rule()
    def drop(self) -> None:
        """The circuit opens, and the fallback is snapshots."""
        flying = {key for batch in self.flights for key in self.live(batch)}
        pending = self.lanes.pending_records
        dropped = self.lanes.drop_pending()
        assert 0 == self.lanes.pending_records
        assert bool(pending) == bool(dropped)
        assert set(dropped.items()) <= set(self.lanes.wanted())
        self.settled.update({key: self.read[where] - 1 for key, where in dropped.items() if key not in flying})

    @rule(count=st.integers(1, 5))
    def ask(self, count: int) -> None:
        """Snapshots of absent keys are asked for, at the target's rate."""
        wanted = [key for key, _ in self.lanes.wanted()][:count]
        self.requests.update(wanted)
        self.lanes.await_snapshot(wanted)
        assert not set(wanted) & {key for key, _ in self.lanes.wanted()}

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
        """While conflating there is one pending patch of a key, and those that cannot be read; counts are those of what
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
            self.change(key, [{}], "", False)
            self.answer_somebody_else(key)
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
            for partition in range(PARTITIONS):
                self.take(partition, 1_000, False)
            self.cut(100, 10_000, 10)
            while self.flights:
                self.succeed(0)
            self.ask(5)
            while self.requests:
                self.answer(0)
            if before == self.standing() and not any(before[1:]):
                return
        raise AssertionError(f"does not come to an end: {before}")

    def standing(self) -> tuple[dict[int, int], int, int, int, int]:
        """How far everything is; all but the first are zero in the end."""
        lanes = self.lanes
        return dict(self.read), len(self.flights), len(self.requests), lanes.pending_records, lanes.waiting_keys


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=2_000 if DEEP else 60, stateful_step_count=60)
