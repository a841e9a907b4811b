//! The partition record: what a table knows about its partition as a whole, beside the rows, in the same changelog.
//!
//! It lies under [`PARTITION_KEY`]: format byte 0x50 (`P`), a format number, then Protobuf wire:
//!
//! | field | type          | content                                                                                  |
//! |-------|---------------|------------------------------------------------------------------------------------------|
//! | 1     | uint32        | format of the rows beside it                                                             |
//! | 2     | uint32        | ordinal of the first log listed                                                          |
//! | 3     | repeated bytes| ids of the input's logs by ordinal, 16 bytes each, all zero where unknown; the last is    |
//! |       |               | the current one                                                                          |
//! | 4     | uint64        | the last epoch that was issued, whatever for                                             |
//! | 5, 6  | uint32        | fence of the rows that are written now, and the number that a group generation is added to |
//! | 7     | bool          | rows are missing: nobody knows what became of a key without one                           |
//! | 8     | message       | the stop, if any: 1 reason, 2 offset, 3 since (milliseconds), 4 count                     |
//! | 9     | repeated      | 1 id of a log, 2 packed: partition, highest origin offset, ... of rekeyed input           |
//! | 10    | message       | as 8, of the source's own partition of this number, where the input is rekeyed            |
//!
//! An offset counts in one log. A log that was replaced gets the next ordinal, and a row names the ordinal of its offset.

use std::collections::BTreeMap;
use std::fmt;

use crate::row::{ROW_FORMAT, ROW_FORMAT_OLD};
use crate::wire;

/// First byte of a partition record, and its second: the format. A reader refuses a higher one by name.
pub const PARTITION_MARK: u8 = 0x50;
pub const PARTITION_FORMAT: u8 = 1;
/// Key of the partition record.
pub const PARTITION_KEY: &[u8] = b"\0streams/partition";
/// Logs whose ids are kept. Of an older one only its own rows are judged by offset; a source that is replaced every
/// night is told from its last two months, in 1.2 KB.
pub const LOGS_MAX: usize = 64;
/// Logs of a rekeyed input whose positions are kept: the current one and the one before, whose copies may be late.
pub const ORIGIN_LOGS_MAX: usize = 2;
/// Partitions of such a log: more than a broker carries. One above is judged by ids and sequences alone.
pub const ORIGIN_PARTITIONS_MAX: usize = 16_384;
/// Bytes of a stop's reason that are kept: a code, not a text.
const REASON_BYTES_MAX: usize = 256;

/// Identity of a log: Kafka's topic id, an embedded topic's UUID. All zero: not known.
pub type LogId = [u8; 16];
pub const LOG_UNKNOWN: LogId = [0; 16];

/// Why bytes are no partition record.
#[derive(Debug, PartialEq, Eq)]
pub enum PartitionError {
    /// The first bytes name a format this release does not know.
    Format { came: u8 },
    /// No partition record at all, or one that contradicts itself.
    Damaged { bytes: usize },
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionError::Format { came } => write!(
                f,
                "format {came} of the partition record is above {PARTITION_FORMAT}, the newest this release reads; \
                 upgrade this process"
            ),
            PartitionError::Damaged { bytes } => {
                write!(f, "damaged partition record of {bytes} bytes; rebuild the state from the source")
            }
        }
    }
}

impl std::error::Error for PartitionError {}

/// Why a partition stands still until somebody resumes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    pub reason: String,
    /// The offset at which reading goes on.
    pub offset: i64,
    pub since_ms: u64,
    pub count: u64,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecord {
    /// Format of rows that are written; [`ROW_FORMAT_OLD`] only over a changelog that an older release began.
    pub row_format: u8,
    logs_from: u32,
    logs: Vec<LogId>,
    pub last_epoch: u64,
    pub fence: u32,
    pub fence_base: u32,
    pub is_partial: bool,
    pub stopped: Option<Stopped>,
    /// The same of the source's partition of this number, whose records are rekeyed into any.
    pub stopped_before: Option<Stopped>,
    origins: Vec<(LogId, BTreeMap<u32, i64>)>,
}

impl Default for PartitionRecord {
    fn default() -> PartitionRecord {
        PartitionRecord::new(ROW_FORMAT)
    }
}

impl PartitionRecord {
    /// Nothing is known yet, not even the log.
    pub fn new(row_format: u8) -> PartitionRecord {
        PartitionRecord {
            row_format,
            logs_from: 0,
            logs: vec![LOG_UNKNOWN],
            last_epoch: 0,
            fence: 0,
            fence_base: 0,
            is_partial: false,
            stopped: None,
            stopped_before: None,
            origins: Vec::new(),
        }
    }
    /// The same partition without rows: what others have seen of it stays.
    pub fn emptied(&self) -> PartitionRecord {
        PartitionRecord {
            last_epoch: self.last_epoch,
            fence: self.fence,
            fence_base: self.fence_base,
            ..PartitionRecord::new(ROW_FORMAT)
        }
    }
    /// Ordinal of the log that is read now.
    pub fn ordinal(&self) -> u32 {
        self.logs_from.saturating_add(self.logs.len().saturating_sub(1) as u32)
    }
    /// Id of the log that is read now; all zero where unknown.
    pub fn log(&self) -> LogId {
        self.logs.last().copied().unwrap_or(LOG_UNKNOWN)
    }
    /// Ids of the logs that are still known, with their ordinals.
    pub fn logs(&self) -> impl DoubleEndedIterator<Item = (u32, LogId)> + '_ {
        (self.logs_from..).zip(self.logs.iter().copied()).collect::<Vec<_>>().into_iter()
    }
    /// Id of the log of an ordinal, where it is known.
    pub fn log_of(&self, ordinal: u32) -> Option<LogId> {
        let at = ordinal.checked_sub(self.logs_from)? as usize;
        self.logs.get(at).copied().filter(|log| *log != LOG_UNKNOWN)
    }
    /// Whether offsets under two ordinals count in one log: a source may come back to a log it left (a mirror and back).
    pub fn is_same_log(&self, one: u32, other: u32) -> bool {
        one == other || self.log_of(one).is_some_and(|log| Some(log) == self.log_of(other))
    }
    /// The current log is that of `id`: nothing changes, or the unknown log gets its name.
    pub fn name_log(&mut self, id: LogId) {
        if let Some(last) = self.logs.last_mut() {
            *last = id;
        }
    }
    /// The current log was replaced by that of `id`.
    pub fn replace_log(&mut self, id: LogId) {
        self.logs.push(id);
        if self.logs.len() > LOGS_MAX {
            self.logs.remove(0);
            self.logs_from = self.logs_from.saturating_add(1);
        }
    }

    /// Highest origin offset of rekeyed input, by the source's log and partition.
    pub fn origins(&self) -> &[(LogId, BTreeMap<u32, i64>)] {
        &self.origins
    }
    /// Notes where a copy came from; false: the record holds one of that partition and log at or above it already.
    pub fn note_origin(&mut self, log: LogId, partition: u32, offset: i64) -> bool {
        if !self.origins.iter().any(|(known, _)| *known == log) {
            self.origins.truncate(ORIGIN_LOGS_MAX - 1);
            self.origins.insert(0, (log, BTreeMap::new()));
        }
        let Some((_, offsets)) = self.origins.iter_mut().find(|(known, _)| *known == log) else { return true };
        let has_room = offsets.len() < ORIGIN_PARTITIONS_MAX;
        match offsets.get_mut(&partition) {
            Some(held) if offset <= *held => return false,
            Some(held) => *held = offset,
            None if has_room => drop(offsets.insert(partition, offset)),
            None => {}
        }
        true
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[PARTITION_MARK, PARTITION_FORMAT]);
        wire::put_uint(out, 1, u64::from(self.row_format));
        wire::put_uint(out, 2, u64::from(self.logs_from));
        for log in &self.logs {
            wire::put_len(out, 3, log);
        }
        wire::put_uint(out, 4, self.last_epoch);
        wire::put_uint(out, 5, u64::from(self.fence));
        wire::put_uint(out, 6, u64::from(self.fence_base));
        wire::put_uint(out, 7, u64::from(self.is_partial));
        let mut inner = Vec::new();
        for (number, stopped) in [(8, &self.stopped), (10, &self.stopped_before)] {
            let Some(stopped) = stopped else { continue };
            inner.clear();
            wire::put_len(&mut inner, 1, stopped.reason.as_bytes());
            wire::put_uint(&mut inner, 2, stopped.offset as u64);
            wire::put_uint(&mut inner, 3, stopped.since_ms);
            wire::put_uint(&mut inner, 4, stopped.count);
            wire::put_len(out, number, &inner);
        }
        for (log, offsets) in &self.origins {
            let mut packed = Vec::with_capacity(10 * offsets.len());
            for (partition, offset) in offsets {
                wire::put_varint(&mut packed, u64::from(*partition));
                wire::put_varint(&mut packed, *offset as u64);
            }
            inner.clear();
            wire::put_len(&mut inner, 1, log);
            wire::put_len(&mut inner, 2, &packed);
            wire::put_len(out, 9, &inner);
        }
    }

    pub fn decode(record: &[u8]) -> Result<PartitionRecord, PartitionError> {
        let damaged = PartitionError::Damaged { bytes: record.len() };
        let body = match record {
            [PARTITION_MARK, PARTITION_FORMAT, body @ ..] => body,
            [PARTITION_MARK, came, ..] if *came > PARTITION_FORMAT => {
                return Err(PartitionError::Format { came: *came })
            }
            _ => return Err(damaged),
        };
        let empty = PartitionRecord { row_format: 0, logs: Vec::new(), ..PartitionRecord::default() };
        match empty.fill(body) {
            Some(found) if (ROW_FORMAT_OLD..=ROW_FORMAT).contains(&found.row_format) && !found.logs.is_empty() => {
                Ok(found)
            }
            Some(found) if found.row_format > ROW_FORMAT => Err(PartitionError::Format { came: found.row_format }),
            _ => Err(damaged),
        }
    }

    fn fill(mut self, body: &[u8]) -> Option<PartitionRecord> {
        for field in wire::records(body) {
            let field = field.ok()?;
            let small = || u32::try_from(field.varint()).ok();
            match (field.number, field.wire_type) {
                (1, wire::VARINT) => self.row_format = u8::try_from(field.varint()).ok()?,
                (2, wire::VARINT) => self.logs_from = small()?,
                (3, wire::LEN) => self.logs.push(field.value.try_into().ok()?),
                (4, wire::VARINT) => self.last_epoch = field.varint(),
                (5, wire::VARINT) => self.fence = small()?,
                (6, wire::VARINT) => self.fence_base = small()?,
                (7, wire::VARINT) => self.is_partial = field.varint() != 0,
                (8, wire::LEN) => self.stopped = Some(stopped(field.value)?),
                (9, wire::LEN) => self.origins.push(origins(field.value)?),
                (10, wire::LEN) => self.stopped_before = Some(stopped(field.value)?),
                _ => {}
            }
        }
        Some(self)
    }
}

impl Stopped {
    pub fn new(reason: &str, offset: i64, since_ms: u64, count: u64) -> Stopped {
        let reason = reason.chars().take(REASON_BYTES_MAX / 4).collect();
        Stopped { reason, offset, since_ms, count }
    }
}

fn stopped(body: &[u8]) -> Option<Stopped> {
    let mut found = Stopped::default();
    for field in wire::records(body) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, wire::LEN) => found.reason = std::str::from_utf8(field.value).ok()?.to_owned(),
            (2, wire::VARINT) => found.offset = field.varint() as i64,
            (3, wire::VARINT) => found.since_ms = field.varint(),
            (4, wire::VARINT) => found.count = field.varint(),
            _ => {}
        }
    }
    Some(found)
}

fn origins(body: &[u8]) -> Option<(LogId, BTreeMap<u32, i64>)> {
    let (mut log, mut offsets) = (LOG_UNKNOWN, BTreeMap::new());
    for field in wire::records(body) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, wire::LEN) => log = field.value.try_into().ok()?,
            (2, wire::LEN) => {
                let mut at = 0;
                while at < field.value.len() {
                    let partition = u32::try_from(wire::read_varint(field.value, &mut at).ok()?).ok()?;
                    offsets.insert(partition, wire::read_varint(field.value, &mut at).ok()? as i64);
                }
            }
            _ => {}
        }
    }
    Some((log, offsets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PartitionRecord {
        let mut record = PartitionRecord { last_epoch: 9, fence: 7, fence_base: 3, ..PartitionRecord::default() };
        record.name_log([1; 16]);
        record.replace_log([2; 16]);
        record.is_partial = true;
        record.stopped = Some(Stopped::new("dead-letters", -1, 5, 6));
        record.stopped_before = Some(Stopped::new("ratio", 7, 8, 9));
        assert!(record.note_origin([4; 16], 3, 100));
        record
    }

    fn bytes(record: &PartitionRecord) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_record_comes_back_and_damage_and_newer_formats_are_named() {
        let record = sample();
        let whole = bytes(&record);
        assert_eq!(Ok(record.clone()), PartitionRecord::decode(&whole));
        assert_eq!(Ok(PartitionRecord::default()), PartitionRecord::decode(&bytes(&PartitionRecord::default())));
        for length in 0..whole.len() {
            if let Ok(found) = PartitionRecord::decode(&whole[..length]) {
                assert_ne!(record, found);
            }
        }
        let newer = [&[PARTITION_MARK, PARTITION_FORMAT + 1], &whole[2..]].concat();
        assert_eq!(Err(PartitionError::Format { came: PARTITION_FORMAT + 1 }), PartitionRecord::decode(&newer));
        let rows = bytes(&PartitionRecord { row_format: ROW_FORMAT + 1, ..record });
        assert_eq!(Err(PartitionError::Format { came: ROW_FORMAT + 1 }), PartitionRecord::decode(&rows));
        assert_eq!(Err(PartitionError::Damaged { bytes: 2 }), PartitionRecord::decode(b"S\x01"));
    }

    #[test]
    fn logs_are_known_by_ordinal_and_the_oldest_of_many_are_forgotten() {
        let mut record = PartitionRecord::default();
        assert_eq!((0, None), (record.ordinal(), record.log_of(0)));
        assert!(record.is_same_log(0, 0) && !record.is_same_log(0, 1));
        record.name_log([1; 16]);
        record.replace_log([2; 16]);
        record.replace_log([1; 16]);
        assert_eq!((2, [1; 16]), (record.ordinal(), record.log()));
        assert!(record.is_same_log(2, 0) && !record.is_same_log(2, 1));
        for _ in 0..LOGS_MAX {
            record.replace_log([9; 16]);
        }
        assert_eq!((LOGS_MAX, LOGS_MAX as u32 + 2), (record.logs().count(), record.ordinal()));
        assert_eq!((None, Some([9; 16])), (record.log_of(2), record.log_of(3)));
        assert_eq!(Ok(record.clone()), PartitionRecord::decode(&bytes(&record)));
    }

    #[test]
    fn origins_rise_per_log_and_partition_and_two_logs_are_kept() {
        let mut record = PartitionRecord::default();
        assert!(record.note_origin([1; 16], 0, 5));
        assert!(!record.note_origin([1; 16], 0, 5));
        assert!(record.note_origin([1; 16], 1, 5) && record.note_origin([2; 16], 0, 0));
        assert!(!record.note_origin([1; 16], 0, 4), "a late copy of the log before");
        assert!(record.note_origin([3; 16], 0, 0));
        assert_eq!(vec![[3; 16], [2; 16]], record.origins().iter().map(|(log, _)| *log).collect::<Vec<_>>());
    }
}
