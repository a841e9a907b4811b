//! Differential sync of one source partition: a chunk of records in, patches and dead letters out, rows in a layer of
//! the [`Table`].
//!
//! Everything is decided here, nothing is waited for: time is an argument, the canonicaliser (protobuf's upb) a callback.
//! A record that is no event becomes a dead letter and touches nothing else. A call that fails leaves nothing behind.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use crate::attributes::decimal;
use crate::bounds::{Requesters, REQUESTER_BYTES_MAX, STEP_BYTES_MAX};
use crate::diff::{Change, Delta};
use crate::digest;
use crate::envelope::{self, Event, Reason, Refusal, Scratch, ERROR_BYTES_MAX, UNREADABLE};
use crate::job::{Canonicalised, Job};
use crate::owner::Owner;
use crate::partition::{LogId, PartitionRecord, LOG_UNKNOWN, PARTITION_KEY};
use crate::patch::{self, PatchHead, SNAPSHOT_MASK};
use crate::records::{murmur2_partition, Record, Records, RecordsError};
use crate::repairs::{Repairs, REPAIRS_KEY};
use crate::row::{version, Header, Row, RowError, Stamp, RESERVED_PREFIX, SCHEMA_KEY, TIME_UNKNOWN};
use crate::table::{Place, Table};
use crate::wire;

/// Tombstones that one call removes at most: a bulk delete of a million keys that comes due at one moment then costs a
/// chunk about a millisecond.
pub const EXPIRE_MAX: usize = 1_000;
/// A key that drops this many events in a row is told of once: its source has probably started anew.
pub const STUCK_DROPS: u16 = 100;
/// Records whose rows are touched ahead, so that their waits for memory overlap: as many as fit the first cache.
const WARM_RECORDS: usize = 16;
/// Header of a copy of rekeyed input: where its record was, as log id in hex, partition and offset, with slashes between.
pub const REKEY_ORIGIN: &[u8] = b"rekey-origin";
/// Header of a dead letter: id of the log it was in first, in hex; absent where that is unknown.
pub const DEAD_LETTER_LOG: &[u8] = b"dlq-origin-topic-id";
/// Headers of a dead letter that stand for the value it lacks.
const OF_STUBS: [&[u8]; 3] = [envelope::LETTER_LENGTH, b"dlq-sha256", b"dlq-xxh3"];
/// Version of the `dlq-` header family.
pub const DEAD_LETTER_FORMAT: &[u8] = b"1";

/// What one chunk came to, by counter. `dead` is in the order of [`Reason::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub patches: u64,
    pub snapshots: u64,
    pub deltas: u64,
    pub deletes: u64,
    /// Applied events whose message equals the one last published.
    pub unchanged: u64,
    /// Applied events in which only ignored fields changed.
    pub ignored: u64,
    pub dropped_offset: u64,
    pub dropped_id: u64,
    pub dropped_sequence: u64,
    /// Replayed dead letters at or below the offset or sequence that their key has reached meanwhile.
    pub dropped_superseded: u64,
    /// Copies of rekeyed input that were here before, by the offset they came from.
    pub dropped_origin: u64,
    /// DELETE of a key that has no live row.
    pub delete_unknown: u64,
    /// Applied events whose sequence was not kept: their key has those of eight other sources.
    pub sequences_unkept: u64,
    /// Messages made canonical by the kernel itself.
    pub fallback_native: u64,
    /// Messages made canonical by upb.
    pub fallback_upb: u64,
    /// Events published without a digest, because no canonical form was found.
    pub non_canonical: u64,
    /// Keys that reached [`STUCK_DROPS`] in this chunk.
    pub stuck_keys: u64,
    /// Bytes of the records' values, of the messages in them, and of the patches made.
    pub value_bytes: u64,
    pub message_bytes: u64,
    pub patch_bytes: u64,
    /// Rows changed or removed, their bytes with their keys, and of these the tombstones whose retention ended.
    pub rows: u64,
    pub row_bytes: u64,
    pub expired: u64,
    /// Snapshot requests without a key, of a key that belongs to another partition, or with a damaged value.
    pub requests_without_key: u64,
    pub requests_foreign: u64,
    pub requests_damaged: u64,
    /// Requests about keys without a row that name no patch of this partition, or where rows are missing: not answered.
    pub requests_unknown: u64,
    /// Requests whose key or requester is too long, or whose answer would not fit its topic: not answered.
    pub requests_too_large: u64,
    /// Records copied under their entity key.
    pub rekeyed: u64,
    /// Keys whose sequences were reset on request.
    pub sequence_resets: u64,
    /// Records passed over because they hold another type.
    pub skipped_types: u64,
    /// Attributes left out because they cannot be read, in the order of [`UNREADABLE`].
    pub unreadable: [u64; UNREADABLE.len()],
    /// Stops that a request ended.
    pub resumes: u64,
    /// Rows that an owner that was none any more had written, put right.
    pub repaired: u64,
    pub dead: [u64; Reason::ALL.len()],
}

impl Counts {
    /// Every counter by its name; dead letters only where there are any.
    pub fn entries(&self) -> impl Iterator<Item = (Cow<'static, str>, u64)> {
        let plain = [
            ("events", self.events),
            ("patches", self.patches),
            ("snapshots", self.snapshots),
            ("deltas", self.deltas),
            ("deletes", self.deletes),
            ("unchanged", self.unchanged),
            ("ignored", self.ignored),
            ("dropped.offset", self.dropped_offset),
            ("dropped.id", self.dropped_id),
            ("dropped.sequence", self.dropped_sequence),
            ("dropped.superseded", self.dropped_superseded),
            ("dropped.origin", self.dropped_origin),
            ("delete-unknown", self.delete_unknown),
            ("sequences-unkept", self.sequences_unkept),
            ("fallback.native", self.fallback_native),
            ("fallback.upb", self.fallback_upb),
            ("non-canonical", self.non_canonical),
            ("stuck-keys", self.stuck_keys),
            ("value_bytes", self.value_bytes),
            ("message_bytes", self.message_bytes),
            ("patch_bytes", self.patch_bytes),
            ("rows", self.rows),
            ("row_bytes", self.row_bytes),
            ("expired", self.expired),
            ("requests.without-key", self.requests_without_key),
            ("requests.foreign", self.requests_foreign),
            ("requests.damaged", self.requests_damaged),
            ("requests.unknown", self.requests_unknown),
            ("requests.too-large", self.requests_too_large),
            ("rekeyed", self.rekeyed),
            ("sequence-resets", self.sequence_resets),
            ("skipped.type", self.skipped_types),
            ("unreadable.time", self.unreadable[0]),
            ("unreadable.traceparent", self.unreadable[1]),
            ("unreadable.tracestate", self.unreadable[2]),
            ("unreadable.correlation-id", self.unreadable[3]),
            ("resumes", self.resumes),
            ("repaired", self.repaired),
        ];
        let dead = Reason::ALL.into_iter().zip(self.dead).filter(|(_, count)| *count > 0);
        let dead = dead.map(|(reason, count)| (Cow::Owned(format!("dead.{}", reason.code())), count));
        plain.into_iter().map(|(name, count)| (Cow::Borrowed(name), count)).chain(dead)
    }
}

/// What one call produced.
#[derive(Default)]
pub struct Step {
    /// Key: the entity key. Value: one Patch. Headers `traceparent`, `tracestate`, `correlation-id` and `resync-for` where they apply.
    pub patches: Records,
    /// Original key, value and headers, and the `dlq-` family.
    pub dead_letters: Records,
    /// Serial of the layer that holds the rows; 0 where the call was stopped.
    pub mark: u64,
    /// Records that are done: as a rule all of them.
    pub taken: usize,
    pub counts: Counts,
    /// Keys that dropped [`STUCK_DROPS`] events in a row, with the offset of the last of these. A log gets no key, and no
    /// hash of it that could be looked up in a list of keys.
    pub stuck: Vec<(Vec<u8>, i64)>,
    /// Why the worker must stop: nothing of the chunk was applied.
    pub fatal: Option<String>,
}

/// A fault of the caller, of the store or of the canonicaliser, never of a record. Nothing of the call was applied.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<RowError> for Failure {
    fn from(error: RowError) -> Failure {
        Failure(error.to_string())
    }
}

impl From<RecordsError> for Failure {
    fn from(error: RecordsError) -> Failure {
        Failure(error.to_string())
    }
}

/// Why one record ends early.
enum Stop {
    Refused(Refusal),
    Fatal(String),
    Failed(Failure),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

/// Buffers that live as long as the table, so that an event costs no allocation.
#[derive(Default)]
struct Buffers {
    row: Vec<u8>,
    patch: Vec<u8>,
    delta: Delta,
    identity: Vec<u8>,
    event_id: String,
}

/// The keyed state of one source partition and the rules of its job.
pub struct SyncTable {
    pub(crate) job: Arc<Job>,
    pub(crate) partition: u32,
    pub(crate) table: Table,
    pub(crate) owner: Owner,
    buffers: Buffers,
    /// What an event borrows from, beside its record: its decompressed value and its key as text.
    scratch: Scratch,
    key: Vec<u8>,
    /// Clock of the last call.
    pub(crate) now_ms: u64,
}

impl SyncTable {
    pub fn new(job: Arc<Job>, partition: u32, resident: bool) -> SyncTable {
        SyncTable {
            table: Table::new(resident).seeded(job.seed),
            job,
            partition,
            owner: Owner::default(),
            buffers: Buffers::default(),
            scratch: Scratch::default(),
            key: Vec::new(),
            now_ms: 0,
        }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Applies a chunk: its rows are in the layer of `mark`, its outputs in the step. Once [`STEP_BYTES_MAX`] came of its
    /// records it ends, and what was not `taken` is for another call.
    pub fn process(&mut self, records: &Records, now_ms: u64) -> Result<Step, Failure> {
        self.refuse_if_late()?;
        self.call(records.nbytes() + 160 * records.len(), now_ms, |call, scratch, key| {
            let until_ms = now_ms.checked_sub(call.job.tombstone_retention_ms);
            call.step.counts.expired = until_ms.map_or(0, |until_ms| call.table.expire(until_ms, EXPIRE_MAX)) as u64;
            call.step.patches = Records::with_capacity(records.len(), records.nbytes() / 2);
            call.repair()?;
            for (at, record) in records.iter().enumerate() {
                if call.is_full() {
                    break;
                }
                call.step.taken = at + 1;
                if at % WARM_RECORDS == 0 && call.job.is_keyed_by_record() {
                    let next = (at..records.len().min(at + WARM_RECORDS)).filter_map(|at| records.get(at).key());
                    black_box(call.table.warm(next));
                }
                call.step.counts.events += 1;
                call.step.counts.value_bytes += record.value().map_or(0, <[u8]>::len) as u64;
                match call.event(&record, scratch, key) {
                    Err(Stop::Refused(refusal)) => call.refuse(&record, &refusal)?,
                    other => other?,
                }
            }
            Ok(())
        })
    }

    /// Gives each record its entity key as record key, for the topic that brings the records of a key together. Value,
    /// headers and timestamp stay, `patches` has them; a record without a key is a dead letter. Changes no state.
    pub fn rekey(&mut self, records: &Records) -> Result<Step, Failure> {
        let step = self.call(0, self.now_ms, |call, scratch, key| {
            call.step.patches = Records::with_capacity(records.len(), records.nbytes());
            for record in records.iter() {
                match call.rekey(&record, scratch, key) {
                    Err(Stop::Refused(refusal)) => call.refuse(&record, &refusal)?,
                    other => other?,
                }
            }
            Ok(())
        })?;
        self.revert();
        Ok(Step { mark: 0, ..step })
    }

    /// Answers a chunk of `{source}.resync`: the row of each key, again, for who asked. Changes no state but the
    /// sequences and ids of keys whose request has the header `reset-sequence`, which are forgotten. A key is answered
    /// once: to its one requester, or to everybody where several ask. Ends early as [`SyncTable::process`] does.
    pub fn snapshots(&mut self, requests: &Records, now_ms: u64) -> Result<Step, Failure> {
        self.refuse_if_late()?;
        self.call(0, now_ms, |call, _, _| {
            call.repair()?;
            let requesters = Requesters::of(requests);
            let mut answered = HashSet::new();
            for (at, request) in requests.iter().enumerate() {
                if call.is_full() {
                    break;
                }
                call.step.taken = at + 1;
                match call.request(&request, &requesters, &mut answered) {
                    Err(Stop::Refused(_)) => call.step.counts.requests_too_large += 1,
                    other => other?,
                }
            }
            Ok(())
        })
    }

    /// For records whose rows were refused when patches had been published already (at least once): they change no state,
    /// and their keys are published again as their rows are, above all that receivers may hold. Mark 0: nothing is wrong,
    /// or the rows come to more than `row_bytes_max`.
    pub fn take_back(&mut self, records: &Records, now_ms: u64, row_bytes_max: usize) -> Result<Step, Failure> {
        let published = self.process(records, now_ms)?;
        if published.fatal.is_some() {
            return Ok(published);
        }
        let mut wrong = Repairs::new();
        for key in published.patches.iter().filter_map(|patch| patch.key()) {
            let row = self.table.find(key).slot.and_then(|slot| self.table.newest(slot));
            if let Some((order, _)) = row.map(version).transpose()? {
                wrong.insert(key.to_vec(), Some((order, 0)));
            }
        }
        self.revert();
        if wrong.is_empty() {
            return Ok(Step::default());
        }
        let step = self.call(0, now_ms, |call, _, _| {
            call.repair()?;
            call.put_right(wrong)
        })?;
        if step.counts.row_bytes > row_bytes_max as u64 {
            self.revert();
            return Ok(Step::default());
        }
        Ok(step)
    }

    /// Takes the newest call back.
    fn revert(&mut self) {
        self.table.revert();
        self.recall();
    }

    fn call(
        &mut self,
        bytes: usize,
        now_ms: u64,
        work: impl FnOnce(&mut Call<'_>, &mut Scratch, &mut Vec<u8>) -> Result<(), Stop>,
    ) -> Result<Step, Failure> {
        self.settle();
        self.now_ms = now_ms;
        let stamp = self.stamp();
        let mark = self.table.begin(bytes);
        let mut call = Call {
            job: &self.job,
            partition: self.partition,
            ordinal: self.owner.record.ordinal(),
            table: &mut self.table,
            owner: &mut self.owner,
            buffers: &mut self.buffers,
            stamp,
            now_ms,
            epoch: None,
            step: Step { mark, ..Step::default() },
        };
        let done = work(&mut call, &mut self.scratch, &mut self.key);
        let mut step = call.step;
        match done {
            Ok(()) => {
                step.counts.rows = self.table.changed() as u64;
                step.counts.row_bytes = self.table.changed_bytes() as u64;
                self.keep_schema_record();
                self.keep_partition_record();
                self.keep_repairs(mark);
                Ok(step)
            }
            Err(stop) => {
                self.revert();
                match stop {
                    Stop::Fatal(text) => Ok(Step { fatal: Some(text), ..Step::default() }),
                    Stop::Failed(failure) => Err(failure),
                    Stop::Refused(refusal) => Err(Failure(refusal.to_string())),
                }
            }
        }
    }

    /// The rows of a mark are readable only beside the field table they were written under.
    fn keep_schema_record(&mut self) {
        if self.table.changed() == 0 {
            return;
        }
        let place = self.table.find(SCHEMA_KEY);
        let held = place.slot.and_then(|slot| self.table.newest(slot));
        if held != Some(&self.job.schema_record) {
            self.table.write(place, SCHEMA_KEY, Some(&self.job.schema_record));
        }
    }

    /// Keys that a store must be asked for before `process` (or, `requests`, before `snapshots`) of these records; forgets
    /// what the store holds first. Call it only when every chunk prepared before has been processed.
    pub fn missing(&mut self, records: &Records, requests: bool) -> Vec<Vec<u8>> {
        self.table.evict();
        let mut listed: HashSet<Vec<u8>> = HashSet::new();
        let mut missing = Vec::new();
        let mut note = |table: &Table, key: &[u8]| {
            if table.find(key).slot.is_none() && !listed.contains(key) {
                listed.insert(key.to_vec());
                missing.push(key.to_vec());
            }
        };
        for (key, _) in self.owner.repairs() {
            note(&self.table, key);
        }
        for record in records.iter() {
            if requests {
                requested_key(&record).into_iter().for_each(|key| note(&self.table, key));
                continue;
            }
            let event = envelope::recognise(&self.job.recognition, &record, &mut self.scratch);
            let key = event.and_then(|event| self.job.key_of(&record, &event, &mut self.key));
            if let Ok(key) = key {
                note(&self.table, key);
            }
        }
        missing
    }

    /// Rows the store holds for keys that [`SyncTable::missing`] listed; None: it holds none.
    pub fn load<'a>(&mut self, rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<(), Failure> {
        for (key, row) in rows {
            match key {
                PARTITION_KEY => self.restore_partition(row)?,
                REPAIRS_KEY => row.map_or(Ok(()), |row| self.owner.owe(row))?,
                _ => self.table.load(key, row)?,
            }
        }
        Ok(())
    }
}

/// An event, and all that decides about it.
struct Arrival<'a> {
    event: Event<'a>,
    key: &'a [u8],
    /// Ordinal of a log, and the offset there: the record's own, or that of the dead letter it replays. None: a dead letter
    /// of a log that nobody knows any more, whose offset says nothing.
    position: Option<(u32, i64)>,
    /// What names an event that has no id.
    offset: i64,
    is_replayed: bool,
    /// Hash of source and id, where the event has an id.
    id: Option<u64>,
    /// Whose sequence it carries, and which.
    sequence: Option<(u64, u64)>,
}

impl Arrival<'_> {
    /// Why the event adds nothing to a row.
    #[inline]
    fn repeats(&self, held: &Header<'_>, record: &PartitionRecord) -> Option<Dropped> {
        if let Some((ordinal, offset)) = self.position {
            if offset <= held.offset && (ordinal == held.ordinal || record.is_same_log(ordinal, held.ordinal)) {
                return Some(if self.is_replayed { Dropped::Superseded } else { Dropped::Offset });
            }
        }
        if self.is_replayed && self.is_superseded(held, record) {
            return Some(Dropped::Superseded);
        }
        if self.id.is_some_and(|id| held.knows_id(id)) {
            return Some(Dropped::Id);
        }
        let (source, sequence) = self.sequence?;
        let dropped = if self.is_replayed { Dropped::Superseded } else { Dropped::Sequence };
        held.last_sequence(source).is_some_and(|last| sequence <= last).then_some(dropped)
    }

    /// Whether a replayed dead letter is of an earlier log than the row, or nothing says that it is not.
    fn is_superseded(&self, held: &Header<'_>, record: &PartitionRecord) -> bool {
        match self.position {
            Some((ordinal, _)) => ordinal < held.ordinal && !record.is_same_log(ordinal, held.ordinal),
            None => self.id.is_none() && self.sequence.is_none(),
        }
    }

    fn time_us(&self) -> i64 {
        self.event.time.map_or(TIME_UNKNOWN, |(seconds, nanos)| seconds * 1_000_000 + i64::from(nanos) / 1_000)
    }
}

#[derive(Clone, Copy)]
enum Dropped {
    Offset,
    Id,
    Sequence,
    Superseded,
}

/// What a key has now, its message as canonical as it gets under the job's own descriptor.
struct Held<'a> {
    header: Header<'a>,
    message: Cow<'a, [u8]>,
}

/// What a message does to a live row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unchanged,
    Ignored,
    Delta,
    Snapshot,
}

impl From<Change> for Verdict {
    fn from(change: Change) -> Verdict {
        match change {
            Change::None => Verdict::Unchanged,
            Change::Ignored => Verdict::Ignored,
            Change::Delta => Verdict::Delta,
            Change::Snapshot => Verdict::Snapshot,
        }
    }
}

/// Where a replayed dead letter first was.
#[derive(Clone, Copy)]
struct Origin {
    /// None: in a log that nobody knows any more.
    position: Option<(u32, i64)>,
    offset: i64,
}

impl Publication<'_> {
    fn own(self) -> Publication<'static> {
        Publication { data: Cow::Owned(self.data.into_owned()), ..self }
    }
}

/// A patch about to be written. The paths and data of a DELTA are in the buffers.
struct Publication<'a> {
    kind: patch::Kind,
    epoch: u64,
    revision: u64,
    base_revision: u64,
    digest: u64,
    data: Cow<'a, [u8]>,
}

/// One call in work.
struct Call<'t> {
    job: &'t Job,
    partition: u32,
    /// Which log the records' offsets are of.
    ordinal: u32,
    table: &'t mut Table,
    owner: &'t mut Owner,
    buffers: &'t mut Buffers,
    stamp: Stamp,
    now_ms: u64,
    /// The epoch of this call, once one was needed.
    epoch: Option<u64>,
    step: Step,
}

impl Call<'_> {
    /// Applies one record.
    fn event(&mut self, record: &Record<'_>, scratch: &mut Scratch, key: &mut Vec<u8>) -> Result<(), Stop> {
        let job = self.job;
        if job.rekeyed && self.is_copied_again(record) {
            self.step.counts.dropped_origin += 1;
            return Ok(());
        }
        let event = envelope::recognise(&job.recognition, record, scratch)?;
        if event.unreadable != 0 {
            self.count_unreadable(event.unreadable);
        }
        let key = job.key_of(record, &event, key)?;
        let arrival = self.arrival(record, event, key)?;
        let place = self.place(key, record.offset())?;
        let held = place.slot.and_then(|slot| self.table.newest(slot)).map(Row::read).transpose()?;
        // A tombstone whose time is over judges nothing, also where it was not its turn to be removed yet.
        let over = |row: &Row<'_>| self.now_ms.saturating_sub(row.deleted_at_ms) >= job.tombstone_retention_ms;
        let is_gone = held.as_ref().is_some_and(|row| row.header.is_tombstone() && over(row));
        let judge = held.as_ref().filter(|_| !is_gone);
        if let Some(dropped) = judge.and_then(|row| arrival.repeats(&row.header, &self.owner.record)) {
            self.drop_event(place, key, record.offset(), dropped);
            return Ok(());
        }
        if arrival.event.is_delete && held.is_none() && self.table.tombstones() >= job.tombstones_max {
            let text = format!(
                "DELETE of a key that is not known, and the partition remembers {} deleted keys already: tombstones_max",
                self.table.tombstones()
            );
            return Err(Refusal::new(Reason::TooManyTombstones, text).into());
        }
        let held_epoch = held.as_ref().map(|row| row.header.epoch);
        let mut fresh = Header::new(0, job.fingerprint);
        if is_gone || held.as_ref().is_none_or(|row| row.header.revision == 0) {
            // Above every epoch this key may have had before its row went.
            let floor = self.table.epoch_floor().saturating_add(1).max(self.now_ms);
            fresh.epoch = (*self.epoch.get_or_insert(floor)).max(held_epoch.map_or(0, |epoch| epoch.saturating_add(1)));
            fresh.ordinal = self.ordinal;
            self.owner.issued(fresh.epoch);
        }
        let (counts, buffers, stamp) = (&mut self.step.counts, &mut *self.buffers, &self.stamp);
        let held = held.filter(|_| !is_gone);
        let published = if arrival.event.is_delete {
            delete(job, held, fresh, &arrival, self.now_ms, stamp, &mut buffers.row, counts)
        } else {
            counts.message_bytes += arrival.event.data.len() as u64;
            update(job, held, fresh, &arrival, stamp, buffers, counts)?
        };
        job.bounds.check_record("state", key, &self.buffers.row, std::iter::empty())?;
        // The row holds the whole message: what is larger than its snapshot, nobody could be given again.
        job.bounds.check_answer(key, self.buffers.row.len(), job.recognition.type_name.len())?;
        if let Some(publication) = published {
            self.publish(record.timestamp_ms(), &arrival, &publication)?;
        }
        self.table.write(place, key, Some(&self.buffers.row));
        Ok(())
    }

    /// Whether so much came of the call that the next records are another call's.
    fn is_full(&self) -> bool {
        let (patches, letters) = (&self.step.patches, &self.step.dead_letters);
        patches.nbytes() + letters.nbytes() + self.table.changed_bytes() >= STEP_BYTES_MAX
    }

    /// Copies one record under its entity key.
    fn rekey(&mut self, record: &Record<'_>, scratch: &mut Scratch, key: &mut Vec<u8>) -> Result<(), Stop> {
        let event = envelope::recognise(&self.job.recognition, record, scratch)?;
        let key = self.job.key_of(record, &event, key)?;
        self.job.bounds.check_record("copy", key, record.value().unwrap_or_default(), record.headers())?;
        let rekeyed = &mut self.step.patches;
        rekeyed.push(Some(key), record.value(), record.timestamp_ms(), record.offset())?;
        for (name, value) in record.headers() {
            // Nobody else says where a copy came from.
            if name != REKEY_ORIGIN {
                rekeyed.push_header(name, value)?;
            }
        }
        let log = self.owner.record.log();
        if log != LOG_UNKNOWN {
            let origin = format!("{}/{}/{}", hex(&log), self.partition, record.offset());
            rekeyed.push_header(REKEY_ORIGIN, Some(origin.as_bytes()))?;
        }
        self.step.counts.rekeyed += 1;
        Ok(())
    }

    /// Whether a copy of rekeyed input was here before: the group's offsets were lost, or an owner that was none any more
    /// copied on. A dead letter that is replayed here is no copy.
    fn is_copied_again(&mut self, record: &Record<'_>) -> bool {
        if self.origin(record).is_some() {
            return false;
        }
        let Some((log, partition, offset)) = record.header(REKEY_ORIGIN).and_then(copied_from) else { return false };
        !self.owner.note_origin(log, partition, offset)
    }

    /// Everything about an event but the row it meets. Fatal where it lies in another partition than its key does.
    fn arrival<'a>(&mut self, record: &Record<'a>, event: Event<'a>, key: &'a [u8]) -> Result<Arrival<'a>, Stop> {
        let job = self.job;
        let sequence = job.sequence_of(&event)?;
        if job.partitions > 0 {
            let wanted = murmur2_partition(key, job.partitions);
            if wanted != self.partition {
                return Err(Stop::Fatal(format!(
                    "topic {} partition {} offset {}: the entity key (key = {:?}) belongs to partition {wanted} of {}; \
                     set partitioning = \"repartition\", or let the producers partition by this key with murmur2",
                    job.source,
                    self.partition,
                    record.offset(),
                    job.key_text,
                    job.partitions
                )));
            }
        }
        let id = (!event.id.is_empty()).then(|| {
            let identity = &mut self.buffers.identity;
            identity.clear();
            identity.extend_from_slice(event.source.as_bytes());
            identity.push(0);
            identity.extend_from_slice(event.id.as_bytes());
            digest(identity)
        });
        let origin = self.origin(record);
        let position = origin.map_or(Some((self.ordinal, record.offset())), |origin| origin.position);
        let offset = position.map_or(record.offset(), |(_, offset)| offset);
        Ok(Arrival { event, key, position, offset, is_replayed: origin.is_some(), id, sequence })
    }

    /// Where a replayed dead letter first was in this very partition; None: it is no dead letter of it.
    fn origin(&self, record: &Record<'_>) -> Option<Origin> {
        let origin = envelope::origin(record)?;
        let own = origin.topic == self.job.source.as_bytes() && origin.partition == i64::from(self.partition);
        let held = &self.owner.record;
        let ordinal = match record.header(DEAD_LETTER_LOG) {
            // An older release's, or of a log without an id: of the only log there ever was.
            None => (self.ordinal == 0).then_some(0),
            Some(id) => unhex(id).and_then(|id| held.logs().find(|(_, log)| *log == id)).map(|(ordinal, _)| ordinal),
        };
        let is_current = ordinal.is_some_and(|ordinal| held.is_same_log(ordinal, self.ordinal));
        // Nothing was in this log at a later offset.
        let could_be = !is_current || origin.offset < record.offset();
        (own && could_be).then_some(Origin {
            position: ordinal.map(|ordinal| (if is_current { self.ordinal } else { ordinal }, origin.offset)),
            offset: origin.offset,
        })
    }

    /// The place of a key, which a table that is not resident must have been given.
    fn place(&self, key: &[u8], offset: i64) -> Result<Place, Failure> {
        let place = self.table.find(key);
        if place.slot.is_none() && !self.table.is_resident() {
            return Err(Failure(format!(
                "topic {} partition {} offset {offset}: the row of its key was not loaded; \
                 ask for missing() and load() it before the call",
                self.job.source, self.partition
            )));
        }
        Ok(place)
    }

    fn drop_event(&mut self, place: Place, key: &[u8], offset: i64, dropped: Dropped) {
        let counts = &mut self.step.counts;
        match dropped {
            // A rewind is expected, and so is a replay that comes too late; only an id or a sequence that never moves on
            // says that something is wrong.
            Dropped::Offset => {
                counts.dropped_offset += 1;
                return;
            }
            Dropped::Superseded => {
                counts.dropped_superseded += 1;
                return;
            }
            Dropped::Id => counts.dropped_id += 1,
            Dropped::Sequence => counts.dropped_sequence += 1,
        }
        if place.slot.is_some_and(|slot| self.table.count_drop(slot) == STUCK_DROPS) {
            counts.stuck_keys += 1;
            self.step.stuck.push((key.to_vec(), offset));
        }
    }

    /// Appends the patch of an event, under the source record's timestamp: with the event's own, retention would remove
    /// the patches of a backfill before anybody read them.
    fn publish(&mut self, timestamp_ms: i64, arrival: &Arrival<'_>, publication: &Publication<'_>) -> Result<(), Stop> {
        let event = &arrival.event;
        let mut head = PatchHead {
            key: arrival.key,
            event_id: event.id,
            event_source: event.source,
            event_time: event.time,
            traceparent: event.traceparent,
            tracestate: event.tracestate,
            sequence: arrival.sequence.map_or(0, |(_, sequence)| sequence),
            ..PatchHead::default()
        };
        let event_id = &mut self.buffers.event_id;
        if event.id.is_empty() {
            // Without an id of its own an event is known by topic, partition and offset.
            event_id.clear();
            write!(event_id, "{}/{}", self.partition, arrival.offset).map_err(|error| Failure(error.to_string()))?;
            (head.event_id, head.event_source) = (event_id, &self.job.source);
        }
        let headers = [
            (b"traceparent".as_slice(), (!event.traceparent.is_empty()).then_some(event.traceparent.as_bytes())),
            (b"tracestate", (!event.tracestate.is_empty()).then_some(event.tracestate.as_bytes())),
            (b"correlation-id", event.correlation),
        ];
        append(
            &mut self.step,
            self.job,
            head,
            publication,
            &self.buffers.delta,
            &mut self.buffers.patch,
            timestamp_ms,
            &headers,
        )
    }

    /// Answers one snapshot request; `answered` holds the keys that this call has answered already. Refused: its key, its
    /// requester or the answer is too large.
    fn request(
        &mut self,
        request: &Record<'_>,
        requesters: &Requesters<'_>,
        answered: &mut HashSet<Vec<u8>>,
    ) -> Result<(), Stop> {
        let job = self.job;
        let counts = &mut self.step.counts;
        if let Some((_, until)) = request.headers().find(|(name, _)| *name == b"resume") {
            // Names the newest stop that whoever asked knew of, or none: a later one is none of this request's business.
            match until.filter(|until| !until.is_empty()).map_or(Some(u64::MAX), decimal) {
                Some(until) => counts.resumes += self.owner.resume(until),
                None => counts.requests_damaged += 1,
            }
            return Ok(());
        }
        let Some(key) = requested_key(request) else {
            counts.requests_without_key += 1;
            return Ok(());
        };
        if job.partitions > 0 && murmur2_partition(key, job.partitions) != self.partition {
            counts.requests_foreign += 1;
            return Ok(());
        }
        job.bounds.check_key(key)?;
        let asked = asked(request.value().unwrap_or_default()).unwrap_or_else(|| {
            counts.requests_damaged += 1;
            Asked::default()
        });
        if asked.requester.len() > REQUESTER_BYTES_MAX {
            return Err(Refusal::new(Reason::TooLarge, "the requester's name").into());
        }
        if answered.contains(key) {
            return Ok(());
        }
        let place = self.place(key, request.offset())?;
        let counts = &mut self.step.counts;
        let held = place.slot.and_then(|slot| self.table.newest(slot)).map(Row::read).transpose()?;
        let reset = held.filter(|_| request.headers().any(|(name, _)| name == b"reset-sequence"));
        let published = held.filter(|row| row.header.revision > 0);
        let event_time = published.and_then(|row| time_from_us(row.header.event_time_us));
        let answer = published.map(|row| repeat(job, row, counts)).transpose()?;
        if let Some(Row { mut header, message, deleted_at_ms }) = reset {
            header.forget_sequences();
            header.forget_ids();
            match header.is_tombstone() {
                true => header.write_tombstone(deleted_at_ms, &self.stamp, &mut self.buffers.row),
                false => header.write_live(message, &self.stamp, &mut self.buffers.row),
            }
            counts.sequence_resets += 1;
        }
        let is_reset = reset.is_some();
        let answer = match answer {
            Some(answer) => Some(answer.own()),
            // Whose key it is, only the patch tells that made somebody ask, and only where no rows are missing.
            None if asked.is_of(&self.owner.output, self.partition) && !self.owner.record.is_partial => {
                let epoch = *self.epoch.get_or_insert(self.now_ms.max(self.table.epoch_floor().saturating_add(1)));
                self.owner.issued(epoch);
                // An event that creates the key later must be above this answer.
                self.table.raise_epoch_floor(epoch);
                Some(deleted(epoch, 1))
            }
            None => None,
        };
        if is_reset {
            self.table.write(place, key, Some(&self.buffers.row));
        }
        let Some(publication) = answer else {
            self.step.counts.requests_unknown += 1;
            return Ok(());
        };
        let head = PatchHead { key, event_time, ..PatchHead::default() };
        append(
            &mut self.step,
            job,
            head,
            &publication,
            &self.buffers.delta,
            &mut self.buffers.patch,
            request.timestamp_ms(),
            &[(b"resync-for", Some(requesters.of_key(key).as_bytes()))],
        )?;
        answered.insert(key.to_vec());
        Ok(())
    }

    /// Writes rows again that an owner that was none any more wrote after this one or the one before, under this fence; and
    /// publishes those of which receivers may hold what it published.
    fn repair(&mut self) -> Result<(), Stop> {
        let repairs = self.owner.repairs().map(|(key, passed)| (key.to_vec(), passed)).collect();
        self.put_right(repairs)
    }

    fn put_right(&mut self, repairs: Repairs) -> Result<(), Stop> {
        for (key, passed) in repairs {
            let place = self.place(&key, -1)?;
            let held = place.slot.and_then(|slot| self.table.newest(slot)).map(Row::read).transpose()?;
            let version = |row: &Row<'_>| {
                let content = if row.header.is_tombstone() { 0 } else { digest(row.message) };
                (row.header.epoch, row.header.revision, content)
            };
            let right = held.as_ref().map_or((0, 0, 0), version);
            let above = passed.map(|(order, content)| (order.epoch, order.revision, content)).filter(|passed| {
                (passed.0, passed.1) > (right.0, right.1)
                    || ((passed.0, passed.1) == (right.0, right.1) && passed.2 != right.2)
            });
            let epoch = above.map(|passed| {
                let floor = self.table.epoch_floor().saturating_add(1).max(self.now_ms);
                (*self.epoch.get_or_insert(floor)).max(passed.0.saturating_add(1))
            });
            let counts = &mut self.step.counts;
            counts.repaired += 1;
            let mut answer = deleted(0, 0);
            let mut event_time = None;
            if let Some(row) = held {
                answer = repeat(self.job, row, counts)?.own();
                event_time = time_from_us(row.header.event_time_us);
                let mut header = row.header;
                if let Some(epoch) = epoch {
                    (header.epoch, header.revision) = (epoch, 1);
                }
                match header.is_tombstone() {
                    true => header.write_tombstone(row.deleted_at_ms, &self.stamp, &mut self.buffers.row),
                    false => header.write_live(row.message, &self.stamp, &mut self.buffers.row),
                }
            }
            let row = held.is_some().then_some(self.buffers.row.as_slice());
            self.table.write(place, &key, row);
            if let Some(epoch) = epoch {
                self.owner.issued(epoch);
                self.table.raise_epoch_floor(epoch);
                (answer.epoch, answer.revision) = (epoch, 1);
                let head = PatchHead { key: &key, event_time, ..PatchHead::default() };
                let now_ms = i64::try_from(self.now_ms).unwrap_or(i64::MAX);
                let buffers = &mut *self.buffers;
                let written =
                    append(&mut self.step, self.job, head, &answer, &buffers.delta, &mut buffers.patch, now_ms, &[]);
                match written {
                    // The row is right; who holds the other one sees a gap in epochs at the key's next patch.
                    Err(Stop::Refused(_)) => self.step.counts.requests_too_large += 1,
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// A record that is no event of ours: a dead letter, or passed over where it says that it is of another type.
    #[cold]
    fn refuse(&mut self, record: &Record<'_>, refusal: &Refusal) -> Result<(), Failure> {
        if refusal.is_other_type && self.job.recognition.types.skips_others {
            self.step.counts.skipped_types += 1;
            return Ok(());
        }
        self.dead_letter(record, refusal)
    }

    #[cold]
    fn count_unreadable(&mut self, bits: u8) {
        for (at, count) in self.step.counts.unreadable.iter_mut().enumerate() {
            *count += u64::from(bits >> at & 1);
        }
    }

    /// Appends a dead letter: the record as it came, and the `dlq-` family, which replaces an earlier one.
    fn dead_letter(&mut self, record: &Record<'_>, refusal: &Refusal) -> Result<(), Failure> {
        let job = self.job;
        self.step.counts.dead[refusal.reason as usize] += 1;
        let origin = self.origin(record);
        let own_log = self.owner.record.log();
        let letters = &mut self.step.dead_letters;
        // What a record cannot say whole is not sent back: a replay would take the rest for all of it.
        let is_partial = envelope::has_too_many_headers(record);
        let value = record.value().filter(|_| !job.sealed && !is_partial);
        letters.push(record.key(), value, record.timestamp_ms(), record.offset())?;
        // A stub that somebody sent back stays one: without its value it must not pass for a DELETE later.
        let is_stub = |name: &[u8]| record.value().is_none() && OF_STUBS.contains(&name);
        for (name, value) in record.headers().filter(|_| !is_partial) {
            if name == b"dlq-replay-count" || !name.starts_with(b"dlq-") || is_stub(name) {
                letters.push_header(name, value)?;
            }
        }
        let first_ms = origin.and_then(|_| record.header(b"dlq-origin-timestamp"));
        let own_ms = record.timestamp_ms().to_string();
        let mut header = |name: &str, value: &[u8]| letters.push_header(name.as_bytes(), Some(value));
        header("dlq-origin-topic", job.source.as_bytes())?;
        header("dlq-origin-partition", self.partition.to_string().as_bytes())?;
        header("dlq-origin-offset", origin.map_or(record.offset(), |origin| origin.offset).to_string().as_bytes())?;
        let log = match origin {
            Some(_) => record.header(DEAD_LETTER_LOG).map(<[u8]>::to_vec),
            None => (own_log != LOG_UNKNOWN).then(|| hex(&own_log).into_bytes()),
        };
        if let Some(log) = log {
            header("dlq-origin-topic-id", &log)?;
        }
        header("dlq-origin-timestamp", first_ms.unwrap_or(own_ms.as_bytes()))?;
        header("dlq-reason", refusal.reason.code().as_bytes())?;
        header("dlq-error", cut(&refusal.text, ERROR_BYTES_MAX).as_bytes())?;
        header("dlq-format", DEAD_LETTER_FORMAT)?;
        if is_partial || (job.sealed && record.value().is_some()) {
            let value = record.value().unwrap_or_default();
            header("dlq-length", value.len().to_string().as_bytes())?;
            header("dlq-xxh3", format!("{:016x}", digest(value)).as_bytes())?;
        }
        Ok(())
    }
}

/// Writes the tombstone that a DELETE leaves to `row`. None: nothing was there to delete; the tombstone keeps the DELETE's id
/// and sequence all the same, so that an older event that comes later is told from a new one.
#[allow(clippy::too_many_arguments)] // what one event meets
fn delete(
    job: &Job,
    held: Option<Row<'_>>,
    fresh: Header<'_>,
    arrival: &Arrival<'_>,
    now_ms: u64,
    stamp: &Stamp,
    row: &mut Vec<u8>,
    counts: &mut Counts,
) -> Option<Publication<'static>> {
    let is_live = held.as_ref().is_some_and(|row| !row.header.is_tombstone());
    let mut header = held.map_or(fresh, |row| row.header);
    let base_revision = header.revision;
    note(&mut header, arrival, counts);
    if is_live {
        header.revision += 1;
        header.schema = job.fingerprint;
        header.event_time_us = arrival.time_us();
    } else {
        counts.delete_unknown += 1;
    }
    header.write_tombstone(now_ms, stamp, row);
    is_live.then(|| Publication { base_revision, ..deleted(header.epoch, header.revision) })
}

/// A DELETE as it is published for whoever asks.
fn deleted(epoch: u64, revision: u64) -> Publication<'static> {
    Publication { kind: patch::Kind::Delete, epoch, revision, base_revision: 0, digest: 0, data: Cow::Borrowed(&[]) }
}

/// The current revision of a row again.
fn repeat<'a>(job: &Job, row: Row<'a>, counts: &mut Counts) -> Result<Publication<'a>, Failure> {
    let again = deleted(row.header.epoch, row.header.revision);
    if row.header.is_tombstone() {
        return Ok(again);
    }
    let held = current(job, row, counts)?;
    let digest = digest_of(&held.message, held.header.is_canonical());
    Ok(Publication { kind: patch::Kind::Snapshot, digest, data: held.message, ..again })
}

/// Writes the row that follows a message to the buffers; None: it gives no patch. `fresh` starts a key without a row.
fn update<'a>(
    job: &Job,
    held: Option<Row<'_>>,
    fresh: Header<'_>,
    arrival: &Arrival<'a>,
    stamp: &Stamp,
    buffers: &mut Buffers,
    counts: &mut Counts,
) -> Result<Option<Publication<'a>>, Stop> {
    let mut header = held.as_ref().map_or(fresh, |row| row.header);
    if header.revision == 0 {
        header.epoch = fresh.epoch;
    }
    let live = held.filter(|row| !row.header.is_tombstone()).map(|row| current(job, row, counts)).transpose()?;
    let (verdict, message, is_canonical) = compare(job, live.as_ref(), arrival.event.data, &mut buffers.delta, counts)?;
    if let (Some(live), Verdict::Unchanged | Verdict::Ignored) = (&live, verdict) {
        *(if verdict == Verdict::Ignored { &mut counts.ignored } else { &mut counts.unchanged }) += 1;
        header = live.header;
        note(&mut header, arrival, counts);
        header.write_live(&live.message, stamp, &mut buffers.row);
        return Ok(None);
    }
    note(&mut header, arrival, counts);
    let as_delta = verdict == Verdict::Delta && delta_is_smaller(&buffers.delta, header.revision, &message);
    let (kind, base_revision) =
        if as_delta { (patch::Kind::Delta, header.revision) } else { (patch::Kind::Snapshot, 0) };
    counts.non_canonical += u64::from(!is_canonical);
    header.revision += 1;
    header.schema = job.fingerprint;
    header.event_time_us = arrival.time_us();
    header.set_canonical(is_canonical);
    header.set_snapshot_next(false);
    header.write_live(&message, stamp, &mut buffers.row);
    Ok(Some(Publication {
        kind,
        epoch: header.epoch,
        revision: header.revision,
        base_revision,
        digest: digest_of(&message, is_canonical),
        data: message,
    }))
}

/// Remembers where an event came from.
fn note(header: &mut Header<'_>, arrival: &Arrival<'_>, counts: &mut Counts) {
    if let Some(position) = arrival.position {
        (header.ordinal, header.offset) = position;
    }
    if let Some(id) = arrival.id {
        header.note_id(id);
    }
    if let Some((source, sequence)) = arrival.sequence {
        counts.sequences_unkept += u64::from(!header.note_sequence(source, sequence));
    }
}

/// A live row under the job's own descriptor. One that another descriptor wrote is made canonical anew, and its next
/// patch is a SNAPSHOT.
#[inline(always)] // out of line it costs every event a hundred instructions
fn current<'a>(job: &Job, row: Row<'a>, counts: &mut Counts) -> Result<Held<'a>, Failure> {
    let mut held = Held { header: row.header, message: Cow::Borrowed(row.message) };
    if row.header.schema == job.fingerprint {
        return Ok(held);
    }
    let canonical = job.canonical(row.message).map_err(Failure)?;
    held.header.schema = job.fingerprint;
    held.header.set_snapshot_next(true);
    held.header.set_canonical(canonical.as_ref().is_some_and(|canonical| canonical.is_canonical));
    if let Some(canonical) = canonical {
        count_fallback(canonical.by, counts);
        held.message = canonical.bytes;
    }
    Ok(held)
}

/// What a message changes in a live row (None: there is none), the bytes to store, and whether they are canonical.
fn compare<'a>(
    job: &Job,
    live: Option<&Held<'_>>,
    data: &'a [u8],
    delta: &mut Delta,
    counts: &mut Counts,
) -> Result<(Verdict, Cow<'a, [u8]>, bool), Stop> {
    let base = live.filter(|live| live.header.is_canonical());
    let (verdict, message, is_canonical) = match base.map(|base| job.schema.diff(&base.message, data, delta)) {
        Some(Ok(change)) => (change.into(), Cow::Borrowed(data), true),
        unread => {
            let found = if unread.is_some() { job.recanonicalise(data) } else { job.canonical(data) };
            let Some(found) = found.map_err(Failure)? else { return Err(job.rejection(data).into()) };
            count_fallback(found.by, counts);
            let verdict = match (live, base) {
                (Some(live), None) if live.message == found.bytes => Verdict::Unchanged,
                (_, Some(base)) if found.is_canonical => {
                    job.schema.diff(&base.message, &found.bytes, delta).map_or(Verdict::Snapshot, Verdict::from)
                }
                _ => Verdict::Snapshot,
            };
            (verdict, found.bytes, found.is_canonical)
        }
    };
    let (verdict, message) = match base {
        Some(base) if is_canonical && delta.unknown_differ => align(job, base, verdict, message, delta),
        _ => (verdict, message),
    };
    let held = live.map(|live| live.message.as_ref());
    if verdict != Verdict::Unchanged && job.is_refused(held, &message).map_err(Failure)? {
        return Err(job.rejection(data).into());
    }
    Ok((with_snapshot(verdict, live), message, is_canonical))
}

/// The verdict and the message where unknown fields differ: those that only came in another order are no change.
#[cold]
fn align<'a>(
    job: &Job,
    base: &Held<'_>,
    verdict: Verdict,
    message: Cow<'a, [u8]>,
    delta: &mut Delta,
) -> (Verdict, Cow<'a, [u8]>) {
    let aligned = job.schema.align(&base.message, &message);
    let change = aligned.as_ref().and_then(|aligned| job.schema.diff(&base.message, aligned, delta).ok());
    match (aligned, change) {
        (Some(aligned), Some(change)) => (change.into(), Cow::Owned(aligned)),
        _ => (verdict, message),
    }
}

fn with_snapshot(verdict: Verdict, live: Option<&Held<'_>>) -> Verdict {
    let snapshot_next = live.is_some_and(|live| live.header.is_snapshot_next());
    if verdict == Verdict::Delta && snapshot_next {
        Verdict::Snapshot
    } else {
        verdict
    }
}

fn count_fallback(by: Canonicalised, counts: &mut Counts) {
    match by {
        Canonicalised::Already => {}
        Canonicalised::Native => counts.fallback_native += 1,
        Canonicalised::Upb => counts.fallback_upb += 1,
    }
}

fn digest_of(message: &[u8], is_canonical: bool) -> u64 {
    if is_canonical {
        digest(message)
    } else {
        0
    }
}

/// Whether a DELTA takes no more bytes than the SNAPSHOT that could stand in its place.
fn delta_is_smaller(delta: &Delta, base_revision: u64, message: &[u8]) -> bool {
    let paths = field_bytes(delta.mask.len()) + delta.numbers.len();
    let delta = paths + field_bytes(delta.data.len()) + 1 + wire::varint_len(base_revision);
    delta <= field_bytes(SNAPSHOT_MASK.len()) + field_bytes(message.len())
}

/// Bytes of a length-delimited field below number 16; an empty one is left out.
fn field_bytes(length: usize) -> usize {
    if length == 0 {
        0
    } else {
        1 + wire::varint_len(length as u64) + length
    }
}

/// Seconds and nanoseconds of a row's event time.
fn time_from_us(at: i64) -> Option<(i64, i32)> {
    (at != TIME_UNKNOWN).then(|| (at.div_euclid(1_000_000), at.rem_euclid(1_000_000) as i32 * 1_000))
}

/// The longest prefix of at most `bytes` bytes that ends between characters.
fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The entity key that a request names; nobody's own key is the schema record's.
pub(crate) fn requested_key<'a>(request: &Record<'a>) -> Option<&'a [u8]> {
    request.key().filter(|key| !key.is_empty() && !key.starts_with(RESERVED_PREFIX))
}

/// What a streams.v1.Resync asks for.
#[derive(Default)]
pub(crate) struct Asked<'a> {
    pub requester: &'a str,
    /// Log, partition and offset of the patch that made somebody ask.
    topic_id: &'a [u8],
    partition: u64,
    offset: u64,
}

impl Asked<'_> {
    /// Whether it was a patch of this output and partition. Where a broker gives no ids, an offset says that there was one.
    fn is_of(&self, output: &LogId, partition: u32) -> bool {
        let is_named = if *output == LOG_UNKNOWN { self.offset > 0 } else { self.topic_id == output };
        is_named && self.partition == u64::from(partition)
    }
}

/// Reads a request; None: its value is damaged.
pub(crate) fn asked(value: &[u8]) -> Option<Asked<'_>> {
    let mut found = Asked::default();
    for field in wire::records(value) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, wire::LEN) => found.requester = std::str::from_utf8(field.value).ok()?,
            (5, wire::LEN) => found.topic_id = field.value,
            (6, wire::VARINT) => found.partition = field.varint(),
            (7, wire::VARINT) => found.offset = field.varint(),
            _ => {}
        }
    }
    Some(found)
}

fn hex(id: &LogId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<LogId> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 2 * size_of::<LogId>())?;
    let number = text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u128::from_str_radix(text, 16).ok())?;
    number.map(u128::to_be_bytes)
}

/// Log, partition and offset that a copy of rekeyed input came from.
fn copied_from(origin: &[u8]) -> Option<(LogId, u32, i64)> {
    let mut parts = origin.split(|byte| *byte == b'/');
    let (log, partition, offset) = (parts.next()?, parts.next()?, parts.next()?);
    let partition = u32::try_from(decimal(partition)?).ok()?;
    Some((unhex(log)?, partition, i64::try_from(decimal(offset)?).ok()?))
}

/// Appends one patch with its headers (those that have a value) to a step, and counts it. Refused: it does not fit its topic.
#[allow(clippy::too_many_arguments)] // a record and what it is made of
fn append(
    step: &mut Step,
    job: &Job,
    head: PatchHead<'_>,
    publication: &Publication<'_>,
    delta: &Delta,
    buffer: &mut Vec<u8>,
    timestamp_ms: i64,
    headers: &[(&[u8], Option<&[u8]>)],
) -> Result<(), Stop> {
    let (mask, numbers, data): (&[u8], &[u8], &[u8]) = match publication.kind {
        patch::Kind::Delta => (&delta.mask, &delta.numbers, &delta.data),
        _ => (&[], &[], &publication.data),
    };
    let head = PatchHead {
        kind: publication.kind,
        type_name: &job.recognition.type_name,
        epoch: publication.epoch,
        revision: publication.revision,
        base_revision: publication.base_revision,
        digest: publication.digest,
        schema: job.fingerprint,
        ..head
    };
    buffer.clear();
    patch::encode(&head, mask, numbers, data, buffer);
    let headers = || headers.iter().copied().filter(|(_, value)| value.is_some());
    job.bounds.check_record("patch", head.key, buffer, headers())?;
    step.patches.push(Some(head.key), Some(buffer), timestamp_ms, -1)?;
    for (name, value) in headers() {
        step.patches.push_header(name, value)?;
    }
    let counts = &mut step.counts;
    *(match publication.kind {
        patch::Kind::Delta => &mut counts.deltas,
        patch::Kind::Delete => &mut counts.deletes,
        _ => &mut counts.snapshots,
    }) += 1;
    counts.patches += 1;
    counts.patch_bytes += buffer.len() as u64;
    Ok(())
}
