//! The Protobuf wire format: varints, tags and records, bounds-checked and without a schema.
//!
//! Reading is as tolerant as upb's parser; what is *canonical* is decided in [`crate::canonical`].

/// Nesting that upb's parser takes: messages, groups, map entries and unknown groups below the root.
pub const DEPTH_MAX: u32 = 100;

/// The wire types: the low three bits of a tag.
pub const VARINT: u32 = 0;
pub const FIXED64: u32 = 1;
pub const LEN: u32 = 2;
pub const START_GROUP: u32 = 3;
pub const END_GROUP: u32 = 4;
pub const FIXED32: u32 = 5;

/// The bytes are no Protobuf message: cut short, a length beyond the end, a broken group, or too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes are no Protobuf message")
    }
}

impl std::error::Error for Malformed {}

/// Reads a varint of at most ten bytes and moves `pos` behind it. Bits above the 64th are dropped, as upb does.
#[inline(always)]
pub fn read_varint(bytes: &[u8], pos: &mut usize) -> Result<u64, Malformed> {
    let first = *bytes.get(*pos).ok_or(Malformed)?;
    if first < 0x80 {
        *pos += 1;
        return Ok(first as u64);
    }
    let second = *bytes.get(*pos + 1).ok_or(Malformed)?;
    if second < 0x80 {
        *pos += 2;
        return Ok((first & 0x7f) as u64 | (second as u64) << 7);
    }
    read_long_varint(bytes, pos)
}

#[cold]
fn read_long_varint(bytes: &[u8], pos: &mut usize) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for i in 0..10 {
        let byte = *bytes.get(*pos + i).ok_or(Malformed)?;
        value |= ((byte & 0x7f) as u64) << (7 * i);
        if byte < 0x80 {
            *pos += i + 1;
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Reads a tag of at most five bytes with a field number of 1 to 2^29 - 1 and moves `pos` behind it.
#[inline(always)]
pub fn read_tag(bytes: &[u8], pos: &mut usize) -> Result<u32, Malformed> {
    let start = *pos;
    let tag = read_varint(bytes, pos)?;
    if *pos - start > 5 || tag > u32::MAX as u64 || tag < 8 {
        return Err(Malformed);
    }
    Ok(tag as u32)
}

/// Where a value lies: its content (without length or end-group tag), and the start of the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub start: usize,
    pub end: usize,
    pub next: usize,
}

/// Finds the end of the value at `pos`, right behind its `tag`, in a message that is nested `depth` deep.
#[inline(always)]
pub fn read_value(bytes: &[u8], pos: usize, tag: u32, depth: u32) -> Result<Value, Malformed> {
    let mut start = pos;
    match tag & 7 {
        VARINT => {
            read_varint(bytes, &mut start)?;
            Ok(Value { start: pos, end: start, next: start })
        }
        FIXED64 => fixed(bytes, pos, 8),
        LEN => {
            let length = read_varint(bytes, &mut start)?;
            if length > (bytes.len() - start) as u64 {
                return Err(Malformed);
            }
            let end = start + length as usize;
            Ok(Value { start, end, next: end })
        }
        START_GROUP => read_group(bytes, pos, tag, depth),
        FIXED32 => fixed(bytes, pos, 4),
        _ => Err(Malformed),
    }
}

#[inline(always)]
fn fixed(bytes: &[u8], pos: usize, width: usize) -> Result<Value, Malformed> {
    if width > bytes.len() - pos {
        return Err(Malformed);
    }
    Ok(Value { start: pos, end: pos + width, next: pos + width })
}

fn read_group(bytes: &[u8], pos: usize, tag: u32, depth: u32) -> Result<Value, Malformed> {
    if depth >= DEPTH_MAX {
        return Err(Malformed);
    }
    let mut next = pos;
    loop {
        let end = next;
        let inner = read_tag(bytes, &mut next)?;
        if inner & 7 == END_GROUP {
            // the end tag repeats the number of the start tag
            return if inner == tag + 1 { Ok(Value { start: pos, end, next }) } else { Err(Malformed) };
        }
        next = read_value(bytes, next, inner, depth + 1)?.next;
    }
}

/// One record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub number: u32,
    /// One of [`VARINT`], [`FIXED64`], [`LEN`], [`START_GROUP`], [`FIXED32`].
    pub wire_type: u32,
    /// The content: without length or end-group tag.
    pub value: &'a [u8],
}

impl Record<'_> {
    /// The value of a varint record; 0 for any other wire type.
    pub fn varint(&self) -> u64 {
        match self.wire_type {
            VARINT => read_varint(self.value, &mut 0).unwrap_or(0),
            _ => 0,
        }
    }

    /// The value of a fixed64 record; 0 for any other wire type.
    pub fn fixed64(&self) -> u64 {
        self.value.try_into().map_or(0, u64::from_le_bytes)
    }
}

/// Walks the records of a message; ends after the first error.
pub fn records(bytes: &[u8]) -> Records<'_> {
    Records { bytes, pos: 0 }
}

/// The iterator of [`records`].
pub struct Records<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Records<'_> {
    /// Where the next record starts.
    #[inline]
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.bytes.len() {
            return None;
        }
        let mut pos = self.pos;
        let read = read_tag(self.bytes, &mut pos).and_then(|tag| Ok((tag, read_value(self.bytes, pos, tag, 0)?)));
        Some(match read {
            Ok((tag, value)) => {
                self.pos = value.next;
                Ok(Record { number: tag >> 3, wire_type: tag & 7, value: &self.bytes[value.start..value.end] })
            }
            Err(error) => {
                self.pos = self.bytes.len();
                Err(error)
            }
        })
    }
}

/// Appends a minimal varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes of a minimal varint.
#[inline]
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a varint field; nothing for 0, the default.
#[inline]
pub fn put_uint(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, (number << 3 | VARINT) as u64);
        put_varint(out, value);
    }
}

/// Appends a fixed64 field; nothing for 0, the default.
#[inline]
pub fn put_fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, (number << 3 | FIXED64) as u64);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Appends a length-delimited field, an empty one too.
#[inline]
pub fn put_len(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, (number << 3 | LEN) as u64);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a string or bytes field; nothing for an empty one, the default.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_len(out, number, value);
    }
}

/// Reserves the length of a nested message that is about to be appended; see [`close_len`].
#[inline]
pub(crate) fn open_len(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of `out[start..]` into the room that [`open_len`] reserved before it.
#[inline]
pub(crate) fn close_len(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
        return;
    }
    let mut encoded = Vec::with_capacity(10);
    put_varint(&mut encoded, length as u64);
    out.splice(start - 1..start, encoded);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_width() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                put_varint(&mut bytes, value);
                let mut pos = 0;
                assert_eq!(read_varint(&bytes, &mut pos), Ok(value));
                assert_eq!(pos, bytes.len());
                for cut in 0..bytes.len() {
                    assert_eq!(read_varint(&bytes[..cut], &mut 0), Err(Malformed));
                }
            }
        }
    }

    #[test]
    fn an_eleventh_byte_is_malformed() {
        assert_eq!(read_varint(&[0x80; 10], &mut 0), Err(Malformed));
        assert!(read_varint(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", &mut 0).is_ok());
    }

    #[test]
    fn field_number_zero_and_numbers_beyond_29_bits_are_malformed() {
        assert_eq!(read_tag(&[0x07], &mut 0), Err(Malformed));
        assert_eq!(read_tag(&[0x80, 0x80, 0x80, 0x80, 0x10], &mut 0), Err(Malformed));
        assert_eq!(read_tag(&[0xff, 0xff, 0xff, 0xff, 0x0f], &mut 0), Ok(u32::MAX));
    }

    #[test]
    fn a_group_ends_at_its_own_number() {
        assert!(records(&[0x0b, 0x10, 0x01, 0x0c]).all(|record| record.is_ok()));
        assert!(records(&[0x0b, 0x10, 0x01, 0x14]).any(|record| record.is_err()));
        assert!(records(&[0x0b, 0x10, 0x01]).any(|record| record.is_err()));
        assert!(records(&[0x0c]).any(|record| record.is_err()));
    }

    #[test]
    fn groups_nest_as_deep_as_upb_takes_them() {
        let nested = |depth: usize| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert!(records(&nested(100)).all(|record| record.is_ok()));
        assert!(records(&nested(101)).any(|record| record.is_err()));
        assert!(records(&vec![0x0b; 1_000_000]).any(|record| record.is_err()));
    }

    #[test]
    fn lengths_are_written_in_the_room_kept_for_them() {
        for length in [0usize, 1, 127, 128, 16_383, 16_384] {
            let mut out = vec![7];
            let start = open_len(&mut out);
            out.resize(out.len() + length, 9);
            close_len(&mut out, start);
            let mut pos = 1;
            assert_eq!(read_varint(&out, &mut pos), Ok(length as u64));
            assert_eq!(out.len() - pos, length);
        }
    }
}
