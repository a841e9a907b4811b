//! Records: a run of keyed byte strings in one arena. Input chunk, output batch and stored block alike.
//!
//! One allocation for all bytes and one for all spans: a record costs no allocation of its own and never becomes an
//! object of the host language unless somebody looks at it.

use std::fmt;

use crate::digest;

/// First byte of an encoded block. A reader refuses a higher one by name.
pub const BLOCK_FORMAT: u8 = 2;
/// Blocks of this format have no checksum. They are still written into a log that an older release may open again.
const BLOCK_FORMAT_PLAIN: u8 = 1;
/// Spans are 32 bits wide: an arena holds at most this many bytes. Chunks are bounded far below it.
pub const ARENA_BYTES_MAX: usize = u32::MAX as usize - 1;
/// A decoded block may not claim more than this: a damaged length must not allocate the machine away.
pub const BLOCK_BYTES_MAX: usize = 1 << 30;

const ABSENT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    const NONE: Span = Span { start: 0, len: ABSENT };

    fn get<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        if self.len == ABSENT {
            return None;
        }
        Some(&bytes[self.start as usize..self.start as usize + self.len as usize])
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    key: Span,
    value: Span,
    headers_start: u32,
    headers_len: u32,
}

/// What went wrong with a block or an arena.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordsError {
    /// The arena would exceed [`ARENA_BYTES_MAX`].
    Full { bytes: usize },
    /// The block's first byte names a format this release does not know.
    Format { came: u8 },
    /// The block is not what `encode` wrote.
    Damaged(&'static str),
}

impl fmt::Display for RecordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordsError::Full { bytes } => {
                write!(f, "records of {bytes} bytes do not fit one batch of at most {ARENA_BYTES_MAX} bytes")
            }
            RecordsError::Format { came } => write!(
                f,
                "block format {came} is newer than {BLOCK_FORMAT}, the newest this release reads; upgrade this process"
            ),
            RecordsError::Damaged(what) => write!(f, "damaged block: {what}"),
        }
    }
}

impl std::error::Error for RecordsError {}

/// One record, borrowed from its arena.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    records: &'a Records,
    index: usize,
}

impl<'a> Record<'a> {
    pub fn key(&self) -> Option<&'a [u8]> {
        self.records.entries[self.index].key.get(&self.records.bytes)
    }
    pub fn value(&self) -> Option<&'a [u8]> {
        self.records.entries[self.index].value.get(&self.records.bytes)
    }
    /// Offset in the partition; -1 while none is assigned.
    pub fn offset(&self) -> i64 {
        self.records.entries[self.index].offset
    }
    /// Milliseconds since the epoch; -1 when the record has none.
    pub fn timestamp_ms(&self) -> i64 {
        self.records.entries[self.index].timestamp_ms
    }
    pub fn header_count(&self) -> usize {
        self.records.entries[self.index].headers_len as usize
    }
    /// Name (as bytes: Kafka promises UTF-8 and enforces nothing) and value of each header, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let entry = self.records.entries[self.index];
        let records = self.records;
        let start = entry.headers_start as usize;
        records.headers[start..start + entry.headers_len as usize]
            .iter()
            .map(move |(name, value)| (name.get(&records.bytes).unwrap_or_default(), value.get(&records.bytes)))
    }
    /// The last header of this name, as Kafka's own clients read it.
    pub fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        if self.header_count() == 0 {
            return None;
        }
        self.headers().filter(|(n, _)| *n == name).last().and_then(|(_, value)| value)
    }
}

/// A run of records in one arena.
#[derive(Clone, Default)]
pub struct Records {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    headers: Vec<(Span, Span)>,
}

impl Records {
    pub fn new() -> Records {
        Records::default()
    }

    pub fn with_capacity(records: usize, bytes: usize) -> Records {
        Records { bytes: Vec::with_capacity(bytes), entries: Vec::with_capacity(records), headers: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Bytes of all keys, values and headers.
    pub fn nbytes(&self) -> usize {
        self.bytes.len()
    }
    pub fn get(&self, index: usize) -> Record<'_> {
        assert!(index < self.entries.len(), "record {index} of {}", self.entries.len());
        Record { records: self, index }
    }
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.entries.len()).map(move |index| Record { records: self, index })
    }
    pub fn first_offset(&self) -> i64 {
        self.entries.first().map_or(-1, |entry| entry.offset)
    }
    pub fn last_offset(&self) -> i64 {
        self.entries.last().map_or(-1, |entry| entry.offset)
    }

    fn store(&mut self, data: Option<&[u8]>) -> Span {
        match data {
            None => Span::NONE,
            Some(data) => {
                let start = self.bytes.len() as u32;
                self.bytes.extend_from_slice(data);
                Span { start, len: data.len() as u32 }
            }
        }
    }

    /// Appends one record; headers follow through [`Records::push_header`].
    pub fn push(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: i64,
        offset: i64,
    ) -> Result<(), RecordsError> {
        let bytes = self.bytes.len() + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        if bytes > ARENA_BYTES_MAX {
            return Err(RecordsError::Full { bytes });
        }
        let key = self.store(key);
        let value = self.store(value);
        let headers_start = self.headers.len() as u32;
        self.entries.push(Entry { offset, timestamp_ms, key, value, headers_start, headers_len: 0 });
        Ok(())
    }

    /// Adds a header to the record pushed last.
    pub fn push_header(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), RecordsError> {
        let bytes = self.bytes.len() + name.len() + value.map_or(0, <[u8]>::len);
        if bytes > ARENA_BYTES_MAX {
            return Err(RecordsError::Full { bytes });
        }
        let name = self.store(Some(name));
        let value = self.store(value);
        self.headers.push((name, value));
        let entry = self.entries.last_mut().ok_or(RecordsError::Damaged("header before any record"))?;
        entry.headers_len += 1;
        Ok(())
    }

    /// Appends a copy of `record`, headers included.
    pub fn push_record(&mut self, record: Record<'_>) -> Result<(), RecordsError> {
        self.push(record.key(), record.value(), record.timestamp_ms(), record.offset())?;
        for (name, value) in record.headers() {
            self.push_header(name, value)?;
        }
        Ok(())
    }

    pub fn extend(&mut self, other: &Records) -> Result<(), RecordsError> {
        let bytes = self.bytes.len() + other.bytes.len();
        if bytes > ARENA_BYTES_MAX {
            return Err(RecordsError::Full { bytes });
        }
        let shift = self.bytes.len() as u32;
        let header_shift = self.headers.len() as u32;
        let moved = |span: Span| if span.len == ABSENT { span } else { Span { start: span.start + shift, ..span } };
        self.bytes.extend_from_slice(&other.bytes);
        self.headers.extend(other.headers.iter().map(|(name, value)| (moved(*name), moved(*value))));
        self.entries.extend(other.entries.iter().map(|entry| Entry {
            key: moved(entry.key),
            value: moved(entry.value),
            headers_start: entry.headers_start + header_shift,
            ..*entry
        }));
        Ok(())
    }

    pub fn slice(&self, start: usize, stop: usize) -> Result<Records, RecordsError> {
        let mut out = Records::new();
        for index in start.min(self.len())..stop.min(self.len()) {
            out.push_record(self.get(index))?;
        }
        Ok(out)
    }

    /// Gives every record the next offset from `first` on, and `timestamp_ms` where it has none.
    pub fn assign(&mut self, first: i64, timestamp_ms: i64) {
        for (offset, entry) in (first..).zip(self.entries.iter_mut()) {
            entry.offset = offset;
            if entry.timestamp_ms < 0 {
                entry.timestamp_ms = timestamp_ms;
            }
        }
    }

    /// One block: the format byte, XXH3-64 of the rest (little-endian), then LZ4 of counts, spans and bytes.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body();
        let mut block = Vec::with_capacity(9 + body.len());
        block.push(BLOCK_FORMAT);
        block.extend_from_slice(&digest(&body).to_le_bytes());
        block.extend_from_slice(&body);
        block
    }

    /// As [`Records::encode`], in the format before it: without a checksum.
    pub fn encode_plain(&self) -> Vec<u8> {
        let body = self.body();
        let mut block = Vec::with_capacity(1 + body.len());
        block.push(BLOCK_FORMAT_PLAIN);
        block.extend_from_slice(&body);
        block
    }

    fn body(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(self.bytes.len() + self.entries.len() * 8 + 16);
        put_varint(&mut raw, self.entries.len() as u64);
        let (mut last_offset, mut last_timestamp) = (0i64, 0i64);
        for entry in &self.entries {
            put_zigzag(&mut raw, entry.offset.wrapping_sub(last_offset));
            put_zigzag(&mut raw, entry.timestamp_ms.wrapping_sub(last_timestamp));
            (last_offset, last_timestamp) = (entry.offset, entry.timestamp_ms);
            put_bytes(&mut raw, entry.key.get(&self.bytes));
            put_bytes(&mut raw, entry.value.get(&self.bytes));
            put_varint(&mut raw, entry.headers_len as u64);
            let start = entry.headers_start as usize;
            for (name, value) in &self.headers[start..start + entry.headers_len as usize] {
                put_bytes(&mut raw, name.get(&self.bytes));
                put_bytes(&mut raw, value.get(&self.bytes));
            }
        }
        lz4_flex::block::compress_prepend_size(&raw)
    }

    /// The records of a block that [`Records::encode`] wrote, here or in an older release.
    pub fn decode(block: &[u8]) -> Result<Records, RecordsError> {
        let (format, rest) = block.split_first().ok_or(RecordsError::Damaged("empty"))?;
        let body = match *format {
            BLOCK_FORMAT => {
                let (sum, body) = rest.split_first_chunk().ok_or(RecordsError::Damaged("shorter than its checksum"))?;
                if u64::from_le_bytes(*sum) != digest(body) {
                    return Err(RecordsError::Damaged("its checksum does not fit"));
                }
                body
            }
            BLOCK_FORMAT_PLAIN => rest,
            0 => return Err(RecordsError::Damaged("it has no format")),
            came => return Err(RecordsError::Format { came }),
        };
        let size = body.get(..4).ok_or(RecordsError::Damaged("shorter than its header"))?;
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        if size > BLOCK_BYTES_MAX {
            return Err(RecordsError::Damaged("claims more bytes than a block may hold"));
        }
        let raw = lz4_flex::block::decompress(&body[4..], size).map_err(|_| RecordsError::Damaged("not LZ4"))?;
        let mut reader = Reader { raw: &raw, at: 0 };
        let count = reader.varint()? as usize;
        if count > raw.len() {
            return Err(RecordsError::Damaged("claims more records than it has bytes"));
        }
        let mut out = Records::with_capacity(count, raw.len());
        let (mut offset, mut timestamp_ms) = (0i64, 0i64);
        for _ in 0..count {
            offset = offset.wrapping_add(reader.zigzag()?);
            timestamp_ms = timestamp_ms.wrapping_add(reader.zigzag()?);
            let key = reader.bytes()?;
            let value = reader.bytes()?;
            out.push(key, value, timestamp_ms, offset)?;
            for _ in 0..reader.varint()? {
                let name = reader.bytes()?.ok_or(RecordsError::Damaged("header without a name"))?;
                let value = reader.bytes()?;
                out.push_header(name, value)?;
            }
        }
        if reader.at != raw.len() {
            return Err(RecordsError::Damaged("bytes after the last record"));
        }
        Ok(out)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Length plus one, so that zero means "none".
fn put_bytes(out: &mut Vec<u8>, data: Option<&[u8]>) {
    match data {
        None => out.push(0),
        Some(data) => {
            put_varint(out, data.len() as u64 + 1);
            out.extend_from_slice(data);
        }
    }
}

struct Reader<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, RecordsError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.raw.get(self.at).ok_or(RecordsError::Damaged("ends inside a number"))?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordsError::Damaged("number longer than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64, RecordsError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, RecordsError> {
        let length = self.varint()?;
        if length == 0 {
            return Ok(None);
        }
        let length = (length - 1) as usize;
        let end = self.at.checked_add(length).filter(|end| *end <= self.raw.len());
        let end = end.ok_or(RecordsError::Damaged("ends inside a byte string"))?;
        let data = &self.raw[self.at..end];
        self.at = end;
        Ok(Some(data))
    }
}

/// Partition of a key as the Java client chooses it: murmur2 with its seed, made positive, modulo.
/// Source: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey.
pub fn murmur2_partition(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2, 32 bits, as in the Java client.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Records {
        let mut records = Records::new();
        records.push(Some(b"k"), Some(b"value"), 1_700_000_000_000, 41).unwrap();
        records.push_header(b"h", Some(b"1")).unwrap();
        records.push_header(b"n", None).unwrap();
        records.push(None, None, -1, 43).unwrap();
        records.push(Some(b""), Some(b""), 7, 44).unwrap();
        records
    }

    fn content(records: &Records) -> Vec<String> {
        records
            .iter()
            .map(|r| {
                let headers: Vec<_> = r.headers().collect();
                format!("{:?} {:?} {} {} {headers:?}", r.key(), r.value(), r.offset(), r.timestamp_ms())
            })
            .collect()
    }

    #[test]
    fn a_block_holds_what_was_put_in() {
        assert_eq!(content(&sample()), content(&Records::decode(&sample().encode()).unwrap()));
    }

    #[test]
    fn extending_keeps_spans_and_headers() {
        let mut twice = sample();
        twice.extend(&sample()).unwrap();
        let one = content(&sample());
        assert_eq!([one.clone(), one].concat(), content(&twice));
        assert_eq!(content(&sample())[1..], content(&sample().slice(1, 9).unwrap())[..]);
    }

    #[test]
    fn a_damaged_or_newer_block_is_refused() {
        let block = sample().encode();
        for cut in 0..block.len() {
            assert!(Records::decode(&block[..cut]).is_err());
        }
        let mut newer = block.clone();
        newer[0] = 9;
        assert_eq!(Some(RecordsError::Format { came: 9 }), Records::decode(&newer).err());
        for bit in 0..8 * block.len() {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Records::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_block_without_a_checksum_is_read_and_never_crashes() {
        let block = sample().encode_plain();
        assert_eq!(content(&sample()), content(&Records::decode(&block).unwrap()));
        for bit in 0..8 * block.len() {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = Records::decode(&flipped);
        }
    }

    #[test]
    fn murmur2_is_the_java_clients() {
        // Vectors of org.apache.kafka.common.utils.UtilsTest.testMurmur2.
        for (key, hash) in [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)] {
            assert_eq!(hash, murmur2(key.as_bytes()) as i32);
        }
    }
}
