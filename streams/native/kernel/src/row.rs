//! One row: what a table keeps for one key. Changelog value, store value and memory are the same bytes.
//!
//! All numbers are little-endian and of fixed width, so that a header is read and patched by offset:
//!
//! | at       | bytes  | content                                                                                |
//! |----------|--------|----------------------------------------------------------------------------------------|
//! | 0        | 1      | format, 1                                                                              |
//! | 1        | 1      | flags: 1 tombstone, 2 not canonical, 4 the next patch is a SNAPSHOT                    |
//! | 2        | 1      | n, number of sequences, at most 8                                                      |
//! | 3        | 1      | m, number of ids, at most 8                                                            |
//! | 4        | 8      | epoch: owner's clock in milliseconds when the key's row was created                    |
//! | 12       | 8      | revision of the last patch, from 1                                                     |
//! | 20       | 8      | source offset of the last applied event, signed                                        |
//! | 28       | 8      | fingerprint of the descriptor under which the message is canonical                     |
//! | 36       | 8      | event time of the last patch in microseconds since 1970, signed; minimum: not known     |
//! | 44       | 16 n   | per source: XXH3-64 of its name (0: the entity itself), last sequence; latest first    |
//! | 44+16n   | 8 m    | XXH3-64 of source, 0x00, id of the last events; latest first                           |
//! | 44+16n+8m| rest   | the message last published; of a tombstone instead: 8 bytes, deleted at (milliseconds) |
//!
//! Beside the rows lies one schema record under [`SCHEMA_KEY`]: format byte 0x53 (`S`), then the field table of the
//! job that wrote it, so that a later worker compares types before it reads a row.

use std::fmt;

/// First byte of a row. A reader refuses a higher one by name.
pub const ROW_FORMAT: u8 = 1;
/// First byte of a schema record.
pub const SCHEMA_FORMAT: u8 = 0x53;
/// Key of the schema record. No entity may have a key that begins with [`RESERVED_PREFIX`].
pub const SCHEMA_KEY: &[u8] = b"\0streams/schema";
pub const RESERVED_PREFIX: &[u8] = b"\0streams/";
/// Sources whose last sequence a row keeps, and ids it keeps: enough for a producer's retries and a handful of writers
/// of one entity, and at most 192 bytes a row.
pub const SEQUENCES_MAX: usize = 8;
pub const IDS_MAX: usize = 8;
/// Event time that is not known.
pub const TIME_UNKNOWN: i64 = i64::MIN;

const TOMBSTONE: u8 = 1;
const NOT_CANONICAL: u8 = 2;
const SNAPSHOT_NEXT: u8 = 4;
const FIXED: usize = 44;

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

/// Everything of a row but its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    flags: u8,
    pub epoch: u64,
    pub revision: u64,
    pub offset: i64,
    pub schema: u64,
    /// Microseconds since 1970, or [`TIME_UNKNOWN`].
    pub event_time_us: i64,
    sequence_count: u8,
    id_count: u8,
    sequences: [(u64, u64); SEQUENCES_MAX],
    ids: [u64; IDS_MAX],
}

/// A row, split: its header by value, its message by reference.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub header: Header,
    /// The message last published; empty in a tombstone.
    pub message: &'a [u8],
    /// Milliseconds since 1970 when the tombstone was made; 0 in a live row.
    pub deleted_at_ms: u64,
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(word) => u64::from_le_bytes(word.try_into().unwrap_or_default()),
        None => 0,
    }
}

/// (epoch, revision, offset): the order of the versions of one key.
pub fn order(row: &[u8]) -> Result<(u64, u64, i64), RowError> {
    check(row)?;
    Ok((word(row, 4), word(row, 12), word(row, 20) as i64))
}

/// When the tombstone was made, of a row that is one; None also for the records beside the rows, whose first byte is one
/// that no format of a row has.
pub fn deleted_at(row: &[u8]) -> Option<u64> {
    is_tombstone(row).then(|| word(row, row.len() - 8))
}

/// Whether a row is a tombstone; see [`deleted_at`].
#[inline]
pub fn is_tombstone(row: &[u8]) -> bool {
    row.len() >= FIXED && row[1] & TOMBSTONE != 0 && row[0] <= ROW_FORMAT
}

/// Whether the bytes are a row this release reads; the start of its message.
#[inline]
fn check(row: &[u8]) -> Result<usize, RowError> {
    let damaged = RowError::Damaged { bytes: row.len() };
    match row.first() {
        None => return Err(damaged),
        Some(&ROW_FORMAT) => {}
        Some(&came) => return Err(RowError::Format { came }),
    }
    if row.len() < FIXED || usize::from(row[2]) > SEQUENCES_MAX || usize::from(row[3]) > IDS_MAX {
        return Err(damaged);
    }
    let start = FIXED + 16 * usize::from(row[2]) + 8 * usize::from(row[3]);
    let fits = if row[1] & TOMBSTONE != 0 { row.len() == start + 8 } else { row.len() >= start };
    if fits {
        Ok(start)
    } else {
        Err(damaged)
    }
}

impl<'a> Row<'a> {
    pub fn read(row: &'a [u8]) -> Result<Row<'a>, RowError> {
        let start = check(row)?;
        let mut header = Header {
            flags: row[1],
            epoch: word(row, 4),
            revision: word(row, 12),
            offset: word(row, 20) as i64,
            schema: word(row, 28),
            event_time_us: word(row, 36) as i64,
            sequence_count: row[2],
            id_count: row[3],
            sequences: [(0, 0); SEQUENCES_MAX],
            ids: [0; IDS_MAX],
        };
        let ids_start = FIXED + 16 * usize::from(row[2]);
        for (slot, pair) in header.sequences.iter_mut().zip(row[FIXED..ids_start].chunks_exact(16)) {
            *slot = (word(pair, 0), word(pair, 8));
        }
        for (slot, id) in header.ids.iter_mut().zip(row[ids_start..start].chunks_exact(8)) {
            *slot = word(id, 0);
        }
        if header.is_tombstone() {
            return Ok(Row { header, message: &[], deleted_at_ms: word(row, start) });
        }
        Ok(Row { header, message: &row[start..], deleted_at_ms: 0 })
    }
}

impl Header {
    /// Header of a key that has no row yet: revision 0, nothing seen.
    pub fn new(epoch: u64, schema: u64) -> Header {
        Header {
            flags: 0,
            epoch,
            revision: 0,
            offset: -1,
            schema,
            event_time_us: TIME_UNKNOWN,
            sequence_count: 0,
            id_count: 0,
            sequences: [(0, 0); SEQUENCES_MAX],
            ids: [0; IDS_MAX],
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

    pub fn sequences(&self) -> &[(u64, u64)] {
        &self.sequences[..usize::from(self.sequence_count).min(SEQUENCES_MAX)]
    }
    pub fn ids(&self) -> &[u64] {
        &self.ids[..usize::from(self.id_count).min(IDS_MAX)]
    }
    /// Last sequence of a source, by the hash of its name.
    pub fn last_sequence(&self, source: u64) -> Option<u64> {
        self.sequences().iter().find(|(name, _)| *name == source).map(|(_, sequence)| *sequence)
    }
    /// Remembers a source's sequence; the source least recently heard of is forgotten for a ninth.
    pub fn note_sequence(&mut self, source: u64, sequence: u64) {
        let count = self.sequences().len();
        let at = self.sequences().iter().position(|(name, _)| *name == source).unwrap_or_else(|| {
            let last = count.min(SEQUENCES_MAX - 1);
            self.sequence_count = last as u8 + 1;
            last
        });
        self.sequences.copy_within(0..at, 1);
        self.sequences[0] = (source, sequence);
    }
    /// Forgets the sequences of all sources: a source may start anew.
    pub fn forget_sequences(&mut self) {
        self.sequence_count = 0;
    }
    /// Forgets all ids, for the same reason.
    pub fn forget_ids(&mut self) {
        self.id_count = 0;
    }
    pub fn knows_id(&self, id: u64) -> bool {
        self.ids().contains(&id)
    }
    /// Remembers an id; the oldest of eight is forgotten.
    pub fn note_id(&mut self, id: u64) {
        let kept = self.ids().len().min(IDS_MAX - 1);
        self.ids.copy_within(0..kept, 1);
        self.ids[0] = id;
        self.id_count = kept as u8 + 1;
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[ROW_FORMAT, self.flags, self.sequences().len() as u8, self.ids().len() as u8]);
        for number in [self.epoch, self.revision, self.offset as u64, self.schema, self.event_time_us as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (source, sequence) in self.sequences() {
            out.extend_from_slice(&source.to_le_bytes());
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        for id in self.ids() {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }

    /// Writes a live row to `out`, which it clears first.
    pub fn write_live(&mut self, message: &[u8], out: &mut Vec<u8>) {
        self.set(TOMBSTONE, false);
        out.clear();
        self.write(out);
        out.extend_from_slice(message);
    }

    /// Writes a tombstone to `out`, which it clears first.
    pub fn write_tombstone(&mut self, deleted_at_ms: u64, out: &mut Vec<u8>) {
        self.flags = TOMBSTONE;
        out.clear();
        self.write(out);
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

    fn sample() -> Header {
        let mut header = Header::new(1_700_000_000_000, 0xfeed);
        header.revision = 7;
        header.offset = 41;
        header.event_time_us = -5;
        header.note_sequence(11, 100);
        header.note_id(99);
        header
    }

    #[test]
    fn a_live_row_comes_back() {
        let (mut header, mut bytes) = (sample(), vec![1, 2, 3]);
        header.set_canonical(false);
        header.set_snapshot_next(true);
        header.write_live(b"message", &mut bytes);
        let row = Row::read(&bytes).unwrap();
        assert_eq!((header, b"message".as_slice(), 0), (row.header, row.message, row.deleted_at_ms));
        assert!(!row.header.is_tombstone() && !row.header.is_canonical() && row.header.is_snapshot_next());
        assert_eq!((1_700_000_000_000, 7, 41), order(&bytes).unwrap());
        assert_eq!(44 + 16 + 8 + 7, bytes.len());
    }

    #[test]
    fn a_tombstone_comes_back_without_message_and_flags() {
        let (mut header, mut bytes) = (sample(), Vec::new());
        header.set_canonical(false);
        header.write_tombstone(123, &mut bytes);
        let row = Row::read(&bytes).unwrap();
        assert!(row.header.is_tombstone() && row.header.is_canonical());
        assert_eq!((b"".as_slice(), 123), (row.message, row.deleted_at_ms));
    }

    #[test]
    fn newer_formats_are_refused_by_name_and_damage_is_noticed() {
        let mut bytes = Vec::new();
        sample().write_tombstone(123, &mut bytes);
        for length in 0..bytes.len() {
            assert_eq!(Err(RowError::Damaged { bytes: length }), order(&bytes[..length]));
        }
        for (at, value) in [(2, 9), (3, 9), (2, 2)] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            assert!(matches!(Row::read(&damaged), Err(RowError::Damaged { .. })));
        }
        bytes[0] = 2;
        let error = Row::read(&bytes).unwrap_err();
        assert_eq!(RowError::Format { came: 2 }, error);
        assert!(error.to_string().contains("row format 2"));
    }

    #[test]
    fn eight_sources_are_kept_and_the_least_recently_used_goes_first() {
        let mut header = Header::new(1, 1);
        for source in 1..=8 {
            header.note_sequence(source, source * 10);
        }
        header.note_sequence(1, 11);
        header.note_sequence(9, 90);
        assert_eq!(8, header.sequences().len());
        assert_eq!(None, header.last_sequence(2));
        assert_eq!(
            (Some(11), Some(90), Some(30)),
            (header.last_sequence(1), header.last_sequence(9), header.last_sequence(3))
        );
        header.note_sequence(9, 91);
        assert_eq!((8, Some(91)), (header.sequences().len(), header.last_sequence(9)));
    }

    #[test]
    fn eight_ids_are_kept_latest_first() {
        let mut header = Header::new(1, 1);
        for id in 1..=9 {
            header.note_id(id);
        }
        assert_eq!(&[9, 8, 7, 6, 5, 4, 3, 2], header.ids());
        assert!(header.knows_id(2) && !header.knows_id(1));
    }
}
