//! Who owns a partition, and of which log: what a [`SyncTable`] does with the partition record.
//!
//! The record moves with the rows, in the layer of the call that changed it. What an assignment adds (the log that is read,
//! the fence) is kept beside it, so that an abort takes nothing of it back.
//!
//! At least once has no fence in Kafka: an owner that froze past its session may write when the next one has long begun.
//! Rows name the fence of their owner, which rises with every generation of the group. Restoring passes a lower one over
//! that comes behind a higher one, and the owner writes the right row of such a key again: compaction would keep the last.

use std::collections::{BTreeMap, VecDeque};

use crate::digest;
use crate::partition::{LogId, PartitionError, PartitionRecord, Stopped, LOG_UNKNOWN, PARTITION_KEY};
use crate::records::{Record, Records, RecordsError};
use crate::repairs::{self, Passed, Repairs, REPAIRS_KEY};
use crate::row::{version, Row, Stamp, RESERVED_PREFIX, ROW_FORMAT_OLD, SCHEMA_KEY};
use crate::sync::{Failure, SyncTable};
use crate::table::{Restored, FENCE_HEADER};

/// Rows that one call writes again at most, for the reason of [`crate::sync::EXPIRE_MAX`].
pub const REPAIRS_MAX: usize = 1_000;

impl From<PartitionError> for Failure {
    fn from(error: PartitionError) -> Failure {
        Failure(error.to_string())
    }
}

/// What the worker knows when a partition is assigned to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Assignment {
    /// The input's log and the output's; all zero where unknown.
    pub log: LogId,
    pub output: LogId,
    /// The group's, where Kafka does not fence an owner that is none any more (at least once).
    pub generation: Option<u32>,
    /// The group has no committed offset here: it may count its generations from 1 again.
    pub is_group_new: bool,
    /// The log is another, whatever its id says.
    pub is_replaced: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The rows' offsets are of another log.
    pub is_replaced: bool,
    pub ordinal: u32,
    /// The record held the id of a log before.
    pub is_known: bool,
    /// An owner of a later generation has written: this one may not.
    pub is_late: bool,
}

/// What an assignment adds to the record.
#[derive(Clone, Copy, Debug)]
struct Ownership {
    log: LogId,
    ordinal: u32,
    fence: u32,
    fence_base: u32,
}

/// The partition record in memory, and what restoring found.
#[derive(Default)]
pub(crate) struct Owner {
    pub record: PartitionRecord,
    pub output: LogId,
    ownership: Option<Ownership>,
    /// Why nothing may be written.
    refusal: Option<String>,
    has_record: bool,
    /// The record may differ from the newest one in the table.
    is_changed: bool,
    is_settled: bool,
    /// Highest fence and epoch of anything restored.
    fence_seen: u32,
    epoch_seen: u64,
    /// Keys whose right row must be written again, the record's own among them. Bounded by the keys that a frozen owner had
    /// in its last transactions.
    repairs: Repairs,
    /// The same, written under a mark that is not committed yet.
    repaired: VecDeque<(u64, Repairs)>,
    /// What a store has of both is not up to date.
    owes_anew: bool,
}

impl Owner {
    /// An epoch was issued.
    pub fn issued(&mut self, epoch: u64) {
        if epoch > self.record.last_epoch {
            self.record.last_epoch = epoch;
            self.is_changed = true;
        }
    }

    /// Notes where a copy came from; false: it was here before.
    pub fn note_origin(&mut self, log: LogId, partition: u32, offset: i64) -> bool {
        self.is_changed = true;
        self.record.note_origin(log, partition, offset)
    }

    /// Notes a stop: of this partition, or of the source's own of this number (`is_before` rekeying).
    pub fn stop(&mut self, stopped: Stopped, is_before: bool) {
        let place = if is_before { &mut self.record.stopped_before } else { &mut self.record.stopped };
        *place = Some(stopped);
        self.is_changed = true;
    }

    /// Ends the stops that began at this time or before it: whoever asks for it knows of no later one. How many.
    pub fn resume(&mut self, until_ms: u64) -> u64 {
        let mut ended = 0;
        for place in [&mut self.record.stopped, &mut self.record.stopped_before] {
            ended += u64::from(place.take_if(|stopped| stopped.since_ms <= until_ms).is_some());
        }
        self.is_changed |= ended > 0;
        ended
    }

    pub fn repairs(&self) -> impl Iterator<Item = (&[u8], Passed)> {
        let entities = self.repairs.iter().take(REPAIRS_MAX).filter(|(key, _)| *key != PARTITION_KEY);
        entities.map(|(key, passed)| (&**key, *passed))
    }

    /// Takes in what the process before this one owed when it ended, as its store kept it.
    pub fn owe(&mut self, stored: &[u8]) -> Result<(), Failure> {
        let Some(repairs) = repairs::decode(stored) else {
            return Err(Failure(
                "the list of rows that are owed is damaged; `streams state rebuild` makes it anew".into(),
            ));
        };
        self.is_changed |= repairs.contains_key(PARTITION_KEY);
        self.repairs = repairs;
        Ok(())
    }

    fn own(&mut self) {
        let Some(Ownership { log, ordinal, fence, fence_base }) = self.ownership else { return };
        if self.record.ordinal() < ordinal {
            self.record.replace_log(log);
        } else if log != LOG_UNKNOWN {
            self.record.name_log(log);
        }
        (self.record.fence, self.record.fence_base) = (fence, fence_base);
    }

    fn passed(&mut self, key: &[u8], version: Passed) {
        let held = self.repairs.entry(key.to_vec()).or_default();
        *held = (*held).max(version);
        self.owes_anew = true;
    }

    fn is_right(&mut self, key: &[u8]) {
        self.owes_anew |= self.repairs.remove(key).is_some();
    }
}

/// The fence of an owner and the number its generation was added to; None: another owner has a higher one.
fn fence_of(record: &PartitionRecord, assignment: &Assignment, may_count_anew: bool) -> Option<(u32, u32)> {
    let Some(generation) = assignment.generation else {
        // The first owner that Kafka fences stands above all that it did not.
        let fence = if record.fence == record.fence_base { record.fence } else { record.fence.saturating_add(1) };
        return Some((fence, fence));
    };
    let fence = record.fence_base.saturating_add(generation);
    if fence >= record.fence {
        return Some((fence, record.fence_base));
    }
    may_count_anew.then(|| (record.fence.saturating_add(generation), record.fence))
}

impl SyncTable {
    /// Call after restoring, before anything else. An error: the rows' format has no place for what must be noted.
    pub fn assigned(&mut self, assignment: &Assignment) -> Result<Assigned, Failure> {
        self.settle();
        let owner = &mut self.owner;
        let (held, log) = (owner.record.log(), assignment.log);
        let is_known = held != LOG_UNKNOWN;
        let is_replaced = assignment.is_replaced || (is_known && log != LOG_UNKNOWN && log != held);
        let is_old = owner.record.row_format == ROW_FORMAT_OLD;
        if is_replaced && is_old {
            return Err(Failure(format!(
                "{} partition {}: the topic was made anew, and the changelog still has the format of an older release, \
                 which cannot tell the offsets of two logs apart; stop all workers and run `streams state upgrade {}`",
                self.job.source, self.partition, self.job.source
            )));
        }
        let fence = if is_old {
            Some((0, 0))
        } else {
            fence_of(&owner.record, assignment, assignment.is_group_new || is_replaced)
        };
        owner.refusal = None;
        if fence.is_none() {
            owner.refusal = Some(format!(
                "{} partition {}: its changelog was written under fence {}, above generation {} of this worker's group: \
                 another worker owns the partition by now",
                self.job.source,
                self.partition,
                owner.record.fence,
                assignment.generation.unwrap_or_default()
            ));
        }
        let (fence, fence_base) = fence.unwrap_or((owner.record.fence, owner.record.fence_base));
        let ordinal = owner.record.ordinal() + u32::from(is_replaced);
        let before = owner.record.clone();
        owner.output = assignment.output;
        owner.ownership = Some(Ownership { log, ordinal, fence, fence_base });
        owner.own();
        owner.is_changed |= before != owner.record;
        self.table.set_owner(fence, is_old);
        Ok(Assigned { is_replaced, ordinal, is_known, is_late: self.owner.refusal.is_some() })
    }

    /// Stops the partition, as a record of its changelog; the mark of the layer that has it.
    /// `is_before`: not its own reading stops, but that of the source's partition of this number, which is rekeyed.
    pub fn stop(
        &mut self,
        reason: &str,
        offset: i64,
        count: u64,
        now_ms: u64,
        is_before: bool,
    ) -> Result<u64, Failure> {
        self.now_ms = now_ms;
        self.change(|owner| owner.stop(Stopped::new(reason, offset, now_ms, count), is_before))
    }

    /// Ends its stops, the same way.
    pub fn resume(&mut self, now_ms: u64) -> Result<u64, Failure> {
        self.now_ms = now_ms;
        self.change(|owner| {
            owner.resume(u64::MAX);
        })
    }

    /// From the next call on rows and record are written in the newest format; the mark of the layer that says so.
    pub fn upgrade(&mut self) -> Result<u64, Failure> {
        self.settle();
        self.owner.record.row_format = crate::row::ROW_FORMAT;
        self.owner.is_changed = true;
        self.table.set_owner(self.owner.record.fence, false);
        self.change(|_| {})
    }

    fn change(&mut self, change: impl FnOnce(&mut Owner)) -> Result<u64, Failure> {
        self.settle();
        self.refuse_if_late()?;
        let mark = self.table.begin(0);
        change(&mut self.owner);
        self.keep_partition_record();
        Ok(mark)
    }

    /// Rows are missing: unknown keys get no DELETE from now on.
    pub fn set_partial(&mut self) {
        self.settle();
        self.owner.is_changed |= !self.owner.record.is_partial;
        self.owner.record.is_partial = true;
    }

    /// Epochs are issued above this one from now on.
    pub fn raise_epoch(&mut self, epoch: u64) {
        self.settle();
        self.owner.issued(epoch);
        self.table.raise_epoch_floor(epoch);
    }

    /// What is known of the partition now, uncommitted changes included.
    pub fn partition_record(&mut self) -> &PartitionRecord {
        self.settle();
        &self.owner.record
    }

    /// Folds all layers up to a mark; see [`crate::table::Table::commit`]. A store is told what is still owed, too.
    pub fn commit(&mut self, upto: u64) -> Result<Records, RecordsError> {
        let owner = &mut self.owner;
        while owner.repaired.front().is_some_and(|(mark, _)| *mark <= upto) {
            owner.repaired.pop_front();
            owner.owes_anew = true;
        }
        let mut rows = self.table.commit(upto)?;
        if !self.table.is_resident() && std::mem::take(&mut owner.owes_anew) {
            let under_way = owner.repaired.iter().flat_map(|(_, repairs)| repairs);
            let owed = repairs::encode(under_way.chain(&owner.repairs));
            rows.push(Some(REPAIRS_KEY), owed.as_deref(), -1, -1)?;
        }
        Ok(rows)
    }

    /// Drops every uncommitted version.
    pub fn drop_pending(&mut self) {
        self.table.drop_pending();
        self.recall();
    }

    pub(crate) fn refuse_if_late(&self) -> Result<(), Failure> {
        match &self.owner.refusal {
            Some(text) => Err(Failure(text.clone())),
            None => Ok(()),
        }
    }

    /// Decides, once, in which format this table writes: everything that is restored is there.
    pub(crate) fn settle(&mut self) {
        let owner = &mut self.owner;
        if owner.is_settled {
            return;
        }
        owner.is_settled = true;
        let is_old = !owner.has_record && (!self.table.is_empty() || self.table.get(SCHEMA_KEY).is_some());
        if is_old {
            owner.record.row_format = ROW_FORMAT_OLD;
        }
        if owner.fence_seen > owner.record.fence {
            owner.record.fence = owner.fence_seen;
            owner.is_changed = true;
        }
        owner.issued(owner.epoch_seen);
        self.table.raise_epoch_floor(owner.record.last_epoch);
        self.table.set_owner(owner.record.fence, owner.record.row_format == ROW_FORMAT_OLD);
    }

    /// How rows are written now.
    pub(crate) fn stamp(&self) -> Stamp {
        let record = &self.owner.record;
        Stamp { format: record.row_format, fence: record.fence, ids_max: self.job.ids_per_key }
    }

    /// Writes the record under the newest mark where it changed.
    pub(crate) fn keep_partition_record(&mut self) {
        if !std::mem::take(&mut self.owner.is_changed) {
            return;
        }
        let mut record = Vec::with_capacity(128);
        self.owner.record.encode(&mut record);
        let place = self.table.find(PARTITION_KEY);
        let held = place.slot.and_then(|slot| self.table.newest(slot));
        if held != Some(&record) || self.owner.repairs.contains_key(PARTITION_KEY) {
            self.table.write(place, PARTITION_KEY, Some(&record));
        }
    }

    /// Notes that the keys of [`Owner::repairs`] are right under a mark.
    pub(crate) fn keep_repairs(&mut self, mark: u64) {
        let rest = match self.owner.repairs.keys().nth(REPAIRS_MAX) {
            Some(next) => {
                let next = next.clone();
                self.owner.repairs.split_off(&next)
            }
            None => BTreeMap::new(),
        };
        let done = std::mem::replace(&mut self.owner.repairs, rest);
        if !done.is_empty() {
            self.owner.repaired.push_back((mark, done));
        }
    }

    /// Goes back to the newest record in the table: a layer was dropped. Epochs never go back.
    pub(crate) fn recall(&mut self) {
        let newest = self.table.find(PARTITION_KEY).slot.and_then(|slot| self.table.newest(slot));
        let stored = newest.and_then(|record| PartitionRecord::decode(record).ok());
        let owner = &mut self.owner;
        let row_format = if self.table.hides_partition() { ROW_FORMAT_OLD } else { owner.record.row_format };
        let stored = stored.unwrap_or_else(|| PartitionRecord::new(row_format));
        let before = std::mem::replace(&mut owner.record, stored);
        owner.record.last_epoch = owner.record.last_epoch.max(before.last_epoch);
        owner.record.is_partial |= before.is_partial;
        owner.own();
        owner.is_changed = true;
        let newest = self.table.newest_mark();
        while owner.repaired.back().is_some_and(|(mark, _)| *mark > newest) {
            owner.repairs.extend(owner.repaired.pop_back().into_iter().flat_map(|(_, repairs)| repairs));
        }
    }

    /// A batch of changelog records, straight into the committed rows. A table that is not resident must have been given
    /// the store's rows of these keys ([`SyncTable::missing`] with `requests`), and returns what changed at the next commit.
    pub fn restore(&mut self, changelog: &Records) -> Result<(), Failure> {
        for record in changelog.iter() {
            match record.key() {
                Some(PARTITION_KEY) => self.restore_partition(record.value())?,
                Some(REPAIRS_KEY) => {}
                Some(key) if key.starts_with(RESERVED_PREFIX) => drop(self.table.restore(key, record.value(), 0)?),
                Some(key) => self.restore_row(key, &record)?,
                None => {}
            }
        }
        Ok(())
    }

    pub(crate) fn restore_partition(&mut self, record: Option<&[u8]>) -> Result<(), Failure> {
        let Some(bytes) = record else {
            // A person's tool did it, with the rows. Fence and epochs go on: receivers and frozen owners know of them.
            self.owner.record = self.owner.record.emptied();
            self.owner.is_changed |= self.owner.has_record;
            self.owner.is_right(PARTITION_KEY);
            self.table.restore(PARTITION_KEY, None, 0)?;
            return Ok(());
        };
        let found = PartitionRecord::decode(bytes)?;
        self.owner.epoch_seen = self.owner.epoch_seen.max(found.last_epoch);
        if found.fence < self.owner.fence_seen {
            self.owner.is_changed = true;
            self.owner.passed(PARTITION_KEY, None);
            if self.owner.has_record {
                return Ok(());
            }
            // Compaction has left no other: but for the fence it is right.
        } else {
            self.owner.fence_seen = found.fence;
            self.owner.is_right(PARTITION_KEY);
        }
        (self.owner.record, self.owner.has_record) = (found, true);
        self.table.restore(PARTITION_KEY, record, 0)?;
        Ok(())
    }

    fn restore_row(&mut self, key: &[u8], record: &Record<'_>) -> Result<(), Failure> {
        let owner = &mut self.owner;
        let came = record.value().map(version).transpose()?;
        let fence = match came {
            Some((_, fence)) => fence,
            // What a person's tool removed has no fence: it is meant.
            None => {
                let fence = record.header(FENCE_HEADER).and_then(|fence| fence.try_into().ok());
                fence.map_or(owner.fence_seen, u32::from_le_bytes)
            }
        };
        let order = came.map(|(order, _)| order);
        owner.epoch_seen = owner.epoch_seen.max(order.map_or(0, |order| order.epoch));
        if fence < owner.fence_seen {
            owner.passed(key, order.zip(content(record.value())));
            return Ok(());
        }
        owner.fence_seen = fence;
        match self.table.restore_version(key, record.value(), order, fence)? {
            Restored::Fenced => self.owner.passed(key, order.zip(content(record.value()))),
            Restored::Corrected(held) => self.owner.passed(key, Some((held, 0))),
            Restored::Taken if !self.owner.repairs.is_empty() => {
                // Later than the row that was passed over: compaction keeps it, and receivers take it.
                let is_later =
                    |passed: &Passed| passed.is_none_or(|(passed, _)| order.is_some_and(|order| order > passed));
                if self.owner.repairs.get(key).is_some_and(is_later) {
                    self.owner.is_right(key);
                }
            }
            Restored::Taken | Restored::Older => {}
        }
        Ok(())
    }
}

/// Digest of a row's message; 0: it is a tombstone.
fn content(row: Option<&[u8]>) -> Option<u64> {
    let row = Row::read(row?).ok()?;
    Some(if row.header.is_tombstone() { 0 } else { digest(row.message) })
}
