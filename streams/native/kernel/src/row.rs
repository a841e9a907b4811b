//! One row: what a table keeps for one key. Changelog value, store value and memory are the same bytes.
//!
//! All numbers are little-endian and of fixed width, so that a header is read and patched by offset:
//!
//! | at       | bytes  | content                                                                                |
//! |----------|--------|----------------------------------------------------------------------------------------|
//! | 0        | 1      | format, 2                                                                              |
//! | 1        | 1      | flags: 1 tombstone, 2 not canonical, 4 the next patch is a SNAPSHOT                    |
//! | 2        | 1      | n, number of sequences, at most 8                                                      |
//! | 3        | 1      | m, number of ids, at most 64                                                           |
//! | 4        | 8      | epoch: owner's clock in milliseconds when the key's row was created                    |
//! | 12       | 8      | revision of the last patch, from 1; 0: a DELETE came first, nothing was published      |
//! | 20       | 8      | source offset of the last applied event, signed                                        |
//! | 28       | 8      | fingerprint of the descriptor under which the message is canonical                     |
//! | 36       | 8      | event time of the last patch in microseconds since 1970, signed; minimum: not known     |
//! | 44       | 4      | ordinal of the log in which that offset counts, by the partition record                |
//! | 48       | 4      | fence of the owner that wrote it                                                       |
//! | 52       | 16 n   | per source: XXH3-64 of its name (0: the entity itself), last sequence                  |
//! | 52+16n   | 8 m    | XXH3-64 of source, 0x00, id of the last events; latest first                           |
//! | 52+16n+8m| rest   | the message last published; of a tombstone instead: 8 bytes, deleted at (milliseconds) |
//!
//! Format 1 has no ordinal and no fence (both read as 0), and at most 8 ids. It is still written over a changelog that an
//! older release began, until that is upgraded.
//!
//! Beside the rows lies one schema record under [`SCHEMA_KEY`]: format byte 0x53 (`S`), then the field table of the
//! job that wrote it, so that a later worker compares types before it reads a row; and the partition record.

use std::fmt;

/// First byte of a row. A reader refuses a higher one by name.
pub const ROW_FORMAT: u8 = 2;
/// The format before it, which every release reads.
pub const ROW_FORMAT_OLD: u8 = 1;
/// First byte of a schema record.
pub const SCHEMA_FORMAT: u8 = 0x53;
/// Key of the schema record. No entity may have a key that begins with [`RESERVED_PREFIX`].
pub const SCHEMA_KEY: &[u8] = b"\0streams/schema";
pub const RESERVED_PREFIX: &[u8] = b"\0streams/";
/// Sources whose last sequence a row keeps: a handful of writers of one entity, and 128 bytes a row. A ninth evicts none.
pub const SEQUENCES_MAX: usize = 8;
/// Ids that a row can be told to keep: 512 bytes a row. By default it keeps [`IDS_DEFAULT`], enough for retries.
pub const IDS_MAX: usize = 64;
pub const IDS_DEFAULT: usize = 8;
/// Ids in a row of the old format.
const IDS_MAX_OLD: usize = 8;
/// Event time that is not known.
pub const TIME_UNKNOWN: i64 = i64::MIN;

const TOMBSTONE: u8 = 1;
const NOT_CANONICAL: u8 = 2;
const SNAPSHOT_NEXT: u8 = 4;
const FIXED: usize = 52;
const FIXED_OLD: usize = 44;

/// Why bytes are no row.
#[derive(Debug, PartialEq, Eq)]
pub enum RowError {
    /// The first byte names a format this release does not know.
    Format { came: u8 },
    /// Shorter than its own header says, or counts out of range.
    Damaged { bytes: usize },
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowError::Format { came } => write!(
                f,
                "row format {came} is not {ROW_FORMAT}, the newest this release reads; upgrade this process, \
                 or rebuild the state from the source"
            ),
            RowError::Damaged { bytes } => write!(f, "damaged row of {bytes} bytes; rebuild the state from the source"),
        }
    }
}

impl std::error::Error for RowError {}

/// How rows are written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub format: u8,
    /// The owner's; see the partition record.
    pub fence: u32,
    /// Ids that a row keeps.
    pub ids_max: usize,
}

impl Default for Stamp {
    fn default() -> Stamp {
        Stamp { format: ROW_FORMAT, fence: 0, ids_max: IDS_DEFAULT }
    }
}

/// Everything of a row but its message. Sequences and ids are those of the bytes it was read from, and of one event more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    flags: u8,
    /// The format it was read from.
    pub format: u8,
    pub epoch: u64,
    pub revision: u64,
    pub offset: i64,
    /// Which log the offset is of.
    pub ordinal: u32,
    pub fence: u32,
    pub schema: u64,
    /// Microseconds since 1970, or [`TIME_UNKNOWN`].
    pub event_time_us: i64,
    sequences: &'a [u8],
    ids: &'a [u8],
    new_sequence: Option<(u64, u64)>,
    new_id: Option<u64>,
}

/// A row, split: its header by value, its message by reference.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub header: Header<'a>,
    /// The message last published; empty in a tombstone.
    pub message: &'a [u8],
    /// Milliseconds since 1970 when the tombstone was made; 0 in a live row.
    pub deleted_at_ms: u64,
}

/// The order of the versions of one key, first things first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    pub epoch: u64,
    pub revision: u64,
    pub ordinal: u32,
    pub offset: i64,
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(word) => u64::from_le_bytes(word.try_into().unwrap_or_default()),
        None => 0,
    }
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..at + 4) {
        Some(half) => u32::from_le_bytes(half.try_into().unwrap_or_default()),
        None => 0,
    }
}

/// When the tombstone was made, of a row that is one; None also for the records beside the rows, whose first byte is one
/// that no format of a row has.
pub fn deleted_at(row: &[u8]) -> Option<u64> {
    is_tombstone(row).then(|| word(row, row.len() - 8))
}

/// Whether a row is a tombstone; see [`deleted_at`].
#[inline]
pub fn is_tombstone(row: &[u8]) -> bool {
    row.len() >= FIXED_OLD && row[1] & TOMBSTONE != 0 && row[0] <= ROW_FORMAT
}

/// Ordinal and fence, which the old format lacks.
#[inline]
fn place(row: &[u8]) -> (u32, u32) {
    if row[0] == ROW_FORMAT_OLD {
        (0, 0)
    } else {
        (half(row, 44), half(row, 48))
    }
}

/// Where a row stands among the versions of its key, and the fence it was written under.
pub fn version(row: &[u8]) -> Result<(Order, u32), RowError> {
    check(row)?;
    let (ordinal, fence) = place(row);
    Ok((Order { epoch: word(row, 4), revision: word(row, 12), ordinal, offset: word(row, 20) as i64 }, fence))
}

/// Whether the bytes are a row this release reads; the start of its sequences and of its message.
#[inline]
fn check(row: &[u8]) -> Result<(usize, usize), RowError> {
    let damaged = RowError::Damaged { bytes: row.len() };
    let (fixed, ids_max) = match row.first() {
        None => return Err(damaged),
        Some(&ROW_FORMAT) => (FIXED, IDS_MAX),
        Some(&ROW_FORMAT_OLD) => (FIXED_OLD, IDS_MAX_OLD),
        Some(&came) => return Err(RowError::Format { came }),
    };
    if row.len() < fixed || usize::from(row[2]) > SEQUENCES_MAX || usize::from(row[3]) > ids_max {
        return Err(damaged);
    }
    let start = fixed + 16 * usize::from(row[2]) + 8 * usize::from(row[3]);
    let fits = if row[1] & TOMBSTONE != 0 { row.len() == start + 8 } else { row.len() >= start };
    if fits {
        Ok((fixed, start))
    } else {
        Err(damaged)
    }
}

impl<'a> Row<'a> {
    pub fn read(row: &'a [u8]) -> Result<Row<'a>, RowError> {
        let (fixed, start) = check(row)?;
        let ids_start = fixed + 16 * usize::from(row[2]);
        let (ordinal, fence) = place(row);
        let header = Header {
            flags: row[1],
            format: row[0],
            epoch: word(row, 4),
            revision: word(row, 12),
            offset: word(row, 20) as i64,
            ordinal,
            fence,
            schema: word(row, 28),
            event_time_us: word(row, 36) as i64,
            sequences: &row[fixed..ids_start],
            ids: &row[ids_start..start],
            new_sequence: None,
            new_id: None,
        };
        if header.is_tombstone() {
            return Ok(Row { header, message: &[], deleted_at_ms: word(row, start) });
        }
        Ok(Row { header, message: &row[start..], deleted_at_ms: 0 })
    }
}

impl Header<'_> {
    /// Header of a key that has no row yet: revision 0, nothing seen.
    pub fn new(epoch: u64, schema: u64) -> Header<'static> {
        Header {
            flags: 0,
            format: ROW_FORMAT,
            epoch,
            revision: 0,
            offset: -1,
            ordinal: 0,
            fence: 0,
            schema,
            event_time_us: TIME_UNKNOWN,
            sequences: &[],
            ids: &[],
            new_sequence: None,
            new_id: None,
        }
    }

    pub fn is_tombstone(&self) -> bool {
        self.flags & TOMBSTONE != 0
    }
    /// The message is in canonical form, and so has a digest and serves as the base of a DELTA.
    pub fn is_canonical(&self) -> bool {
        self.flags & NOT_CANONICAL == 0
    }
    /// The next patch must be a SNAPSHOT: the message was re-canonicalised under another descriptor.
    pub fn is_snapshot_next(&self) -> bool {
        self.flags & SNAPSHOT_NEXT != 0
    }
    fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
    pub fn set_canonical(&mut self, on: bool) {
        self.set(NOT_CANONICAL, !on);
    }
    pub fn set_snapshot_next(&mut self, on: bool) {
        self.set(SNAPSHOT_NEXT, on);
    }

    fn kept_sequences(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.sequences.chunks_exact(16).map(|pair| (word(pair, 0), word(pair, 8)))
    }
    /// The last sequence of each source, by the hash of its name.
    pub fn sequences(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let new = self.new_sequence;
        let is_known = new.is_some_and(|(source, _)| self.kept_sequences().any(|(known, _)| known == source));
        let kept = self.kept_sequences().map(move |pair| new.filter(|(source, _)| *source == pair.0).unwrap_or(pair));
        kept.chain(new.filter(|_| !is_known))
    }
    /// Hashes of the ids of the last events, latest first.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.new_id.into_iter().chain(self.ids.chunks_exact(8).map(|id| word(id, 0)))
    }
    /// Last sequence of a source, by the hash of its name.
    pub fn last_sequence(&self, source: u64) -> Option<u64> {
        self.sequences().find(|(name, _)| *name == source).map(|(_, sequence)| sequence)
    }
    /// Remembers the sequence of the event's source. False: the row keeps those of eight others, and none is evicted, or
    /// anybody could have a source forgotten.
    pub fn note_sequence(&mut self, source: u64, sequence: u64) -> bool {
        let has_room = self.sequences.len() < 16 * SEQUENCES_MAX;
        if has_room || self.kept_sequences().any(|(known, _)| known == source) {
            self.new_sequence = Some((source, sequence));
            return true;
        }
        false
    }
    /// Forgets the sequences of all sources: a source may start anew.
    pub fn forget_sequences(&mut self) {
        (self.sequences, self.new_sequence) = (&[], None);
    }
    /// Forgets all ids, for the same reason.
    pub fn forget_ids(&mut self) {
        (self.ids, self.new_id) = (&[], None);
    }
    pub fn knows_id(&self, id: u64) -> bool {
        self.ids().any(|known| known == id)
    }
    /// Remembers the event's id; the oldest of as many as a row keeps is forgotten.
    pub fn note_id(&mut self, id: u64) {
        self.new_id = Some(id);
    }

    fn write(&self, stamp: &Stamp, out: &mut Vec<u8>) {
        let is_old = stamp.format == ROW_FORMAT_OLD;
        let ids_max = stamp.ids_max.min(if is_old { IDS_MAX_OLD } else { IDS_MAX });
        let new_ids = usize::from(self.new_id.is_some());
        let kept_ids = (self.ids.len() / 8).min(ids_max.saturating_sub(new_ids));
        let known =
            self.new_sequence.and_then(|(source, _)| self.kept_sequences().position(|(known, _)| known == source));
        let sequences = self.sequences.len() / 16 + usize::from(self.new_sequence.is_some() && known.is_none());
        let mut fixed = [0; FIXED];
        fixed[..4].copy_from_slice(&[stamp.format, self.flags, sequences as u8, (new_ids + kept_ids) as u8]);
        let numbers = [self.epoch, self.revision, self.offset as u64, self.schema, self.event_time_us as u64];
        for (slot, number) in fixed[4..FIXED_OLD].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        fixed[44..48].copy_from_slice(&self.ordinal.to_le_bytes());
        fixed[48..].copy_from_slice(&stamp.fence.to_le_bytes());
        out.extend_from_slice(if is_old { &fixed[..FIXED_OLD] } else { &fixed });
        let start = out.len();
        out.extend_from_slice(self.sequences);
        match (self.new_sequence, known) {
            (Some((_, sequence)), Some(at)) => {
                out[start + 16 * at + 8..start + 16 * at + 16].copy_from_slice(&sequence.to_le_bytes());
            }
            (Some((source, sequence)), None) => {
                out.extend_from_slice(&source.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
            }
            (None, _) => {}
        }
        if let Some(id) = self.new_id {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&self.ids[..8 * kept_ids]);
    }

    /// Writes a live row to `out`, which it clears first.
    pub fn write_live(&mut self, message: &[u8], stamp: &Stamp, out: &mut Vec<u8>) {
        self.set(TOMBSTONE, false);
        out.clear();
        self.write(stamp, out);
        out.extend_from_slice(message);
    }

    /// Writes a tombstone to `out`, which it clears first.
    pub fn write_tombstone(&mut self, deleted_at_ms: u64, stamp: &Stamp, out: &mut Vec<u8>) {
        self.flags = TOMBSTONE;
        out.clear();
        self.write(stamp, out);
        out.extend_from_slice(&deleted_at_ms.to_le_bytes());
    }
}

/// The schema record of a field table.
pub fn schema_record(field_table: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(1 + field_table.len());
    record.push(SCHEMA_FORMAT);
    record.extend_from_slice(field_table);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Stamp = Stamp { format: ROW_FORMAT_OLD, fence: 0, ids_max: 64 };
    const NEW: Stamp = Stamp { format: ROW_FORMAT, fence: 9, ids_max: 64 };

    fn sample() -> Header<'static> {
        let mut header = Header::new(1_700_000_000_000, 0xfeed);
        header.revision = 7;
        (header.offset, header.ordinal) = (41, 3);
        header.event_time_us = -5;
        assert!(header.note_sequence(11, 100));
        header.note_id(99);
        header
    }

    #[test]
    fn a_live_row_comes_back() {
        let (mut header, mut bytes) = (sample(), vec![1, 2, 3]);
        header.set_canonical(false);
        header.set_snapshot_next(true);
        header.write_live(b"message", &NEW, &mut bytes);
        let row = Row::read(&bytes).unwrap();
        assert_eq!((b"message".as_slice(), 0, 2), (row.message, row.deleted_at_ms, row.header.format));
        assert!(!row.header.is_tombstone() && !row.header.is_canonical() && row.header.is_snapshot_next());
        assert_eq!((vec![(11, 100)], vec![99]), (row.header.sequences().collect(), row.header.ids().collect()));
        assert_eq!((0xfeed, -5), (row.header.schema, row.header.event_time_us));
        let order = Order { epoch: 1_700_000_000_000, revision: 7, ordinal: 3, offset: 41 };
        assert_eq!((order, 9), version(&bytes).unwrap());
        assert_eq!(52 + 16 + 8 + 7, bytes.len());
    }

    #[test]
    fn the_old_format_has_neither_ordinal_nor_fence_and_eight_ids() {
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        sample().write_live(b"message", &OLD, &mut bytes);
        let row = Row::read(&bytes).unwrap();
        assert_eq!((44 + 16 + 8 + 7, 1, 0, 0), (bytes.len(), row.header.format, row.header.ordinal, row.header.fence));
        for id in 0..70 {
            let mut header = Row::read(&bytes).unwrap().header;
            header.note_id(id);
            header.write_live(b"", &NEW, &mut again);
            std::mem::swap(&mut bytes, &mut again);
        }
        Row::read(&bytes).unwrap().header.write_live(b"", &OLD, &mut again);
        let (new, old) = (Row::read(&bytes).unwrap().header, Row::read(&again).unwrap().header);
        assert_eq!(((6..70).rev().collect::<Vec<_>>(), 8), (new.ids().collect(), old.ids().count()));
        assert!(old.knows_id(62) && !old.knows_id(61));
    }

    #[test]
    fn a_tombstone_comes_back_without_message_and_flags() {
        let (mut header, mut bytes) = (sample(), Vec::new());
        header.set_canonical(false);
        header.write_tombstone(123, &NEW, &mut bytes);
        let row = Row::read(&bytes).unwrap();
        assert!(row.header.is_tombstone() && row.header.is_canonical());
        assert_eq!((b"".as_slice(), 123), (row.message, row.deleted_at_ms));
    }

    #[test]
    fn newer_formats_are_refused_by_name_and_damage_is_noticed() {
        for stamp in [OLD, NEW] {
            let mut bytes = Vec::new();
            sample().write_tombstone(123, &stamp, &mut bytes);
            for length in 0..bytes.len() {
                assert_eq!(Err(RowError::Damaged { bytes: length }), version(&bytes[..length]));
            }
            for (at, value) in [(2, 9), (3, 65), (2, 2)] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                assert!(matches!(Row::read(&damaged), Err(RowError::Damaged { .. })));
            }
            bytes[0] = 3;
            let error = Row::read(&bytes).unwrap_err();
            assert_eq!(RowError::Format { came: 3 }, error);
            assert!(error.to_string().contains("row format 3"));
        }
    }

    #[test]
    fn eight_sources_are_kept_and_a_ninth_evicts_none() {
        let mut bytes = Vec::new();
        Header::new(1, 1).write_live(b"", &NEW, &mut bytes);
        let mut note = |source, sequence| {
            let row = bytes.clone();
            let mut header = Row::read(&row).unwrap().header;
            let is_kept = header.note_sequence(source, sequence);
            header.write_live(b"", &NEW, &mut bytes);
            (is_kept, Row::read(&bytes).unwrap().header.sequences().collect::<Vec<_>>())
        };
        for source in 1..=8 {
            assert!(note(source, source * 10).0);
        }
        assert!(!note(9, 90).0);
        let (is_kept, sequences) = note(1, 11);
        assert!(is_kept);
        assert_eq!(vec![(1, 11), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80)], sequences);
    }
}
