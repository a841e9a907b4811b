//! The canonical form: one byte string per message value.
//!
//! Known fields ascending, minimal varints, no explicit defaults where there is no presence, one record per single
//! field, at most one member of a oneof, repeated fields packed as declared, map entries of exactly a key and a value,
//! ascending by key; then the unknown fields as received. It is what upb's deterministic serialiser writes, but for the
//! order of map entries: upb (protobuf 6.33) writes integers as descending unsigned ones, and a string after the longer
//! ones that it begins. As in upb, a value outside a closed enum and a record of the wrong wire type are unknown fields.

use crate::schema::{Field, Kind, Message, Schema, IMPLICIT, SIGNED, UTF8};
use crate::wire::{self, Malformed, Value, DEPTH_MAX};

/// The bytes are not canonical: another encoding of a message, or no message at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCanonical;

impl From<Malformed> for NotCanonical {
    fn from(_: Malformed) -> NotCanonical {
        NotCanonical
    }
}

type Checked<T = ()> = Result<T, NotCanonical>;

/// The digest that patches carry: XXH3-64 of the canonical bytes.
pub fn digest(canonical: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(canonical)
}

/// The number of the run that holds all unknown fields: above every known one.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// The consecutive records of one field, or the unknown fields at the end of a message.
#[derive(Clone, Copy)]
pub(crate) struct Run<'s> {
    /// None: unknown fields.
    pub field: Option<&'s Field>,
    pub number: u32,
    pub start: usize,
    /// The content of the first record.
    pub value_start: usize,
    pub value_end: usize,
    pub end: usize,
}

impl Run<'_> {
    #[inline(always)]
    pub fn bytes<'b>(&self, message: &'b [u8]) -> &'b [u8] {
        &message[self.start..self.end]
    }

    #[inline(always)]
    pub fn value<'b>(&self, message: &'b [u8]) -> &'b [u8] {
        &message[self.value_start..self.value_end]
    }
}

/// The run at `start`, if the message goes on there. `last` is the number of the run before it.
///
/// Checks the order of fields, tags and lengths, not yet what the values hold.
#[inline(always)]
pub(crate) fn next_run<'s>(
    message: &'s Message,
    bytes: &[u8],
    start: usize,
    last: u32,
    depth: u32,
) -> Checked<Option<Run<'s>>> {
    if start == bytes.len() {
        return Ok(None);
    }
    let mut pos = start;
    let tag = wire::read_tag(bytes, &mut pos)?;
    let Some(field) = message.field(tag >> 3) else {
        return unknown_run(message, bytes, start, depth);
    };
    if tag != field.tag || field.kind == Kind::ClosedEnum {
        if !is_known(field, tag, bytes, pos)? {
            return unknown_run(message, bytes, start, depth);
        }
        if tag != field.tag {
            return Err(NotCanonical);
        }
    }
    if field.number <= last || bytes[pos - 1] == 0 {
        return Err(NotCanonical);
    }
    let value = read_known(bytes, pos, tag, depth)?;
    let mut end = value.next;
    if field.has_runs() {
        let tag_len = pos - start;
        while bytes[end..].starts_with(&bytes[start..pos]) {
            let content = end + tag_len;
            if field.kind == Kind::ClosedEnum && !is_known(field, tag, bytes, content)? {
                break;
            }
            end = read_known(bytes, content, tag, depth)?.next;
        }
    }
    Ok(Some(Run {
        field: Some(field),
        number: field.number,
        start,
        value_start: value.start,
        value_end: value.end,
        end,
    }))
}

/// The unknown fields from `start` to the end; nothing known may follow them.
#[cold]
fn unknown_run<'s>(message: &'s Message, bytes: &[u8], start: usize, depth: u32) -> Checked<Option<Run<'s>>> {
    let mut pos = start;
    while pos < bytes.len() {
        let tag = wire::read_tag(bytes, &mut pos)?;
        if let Some(field) = message.field(tag >> 3) {
            if is_known(field, tag, bytes, pos)? {
                return Err(NotCanonical);
            }
        }
        pos = wire::read_value(bytes, pos, tag, depth)?.next;
    }
    Ok(Some(Run { field: None, number: UNKNOWN, start, value_start: start, value_end: pos, end: pos }))
}

/// Whether a record with a known number is one of that field, canonical or not, as upb's parser sees it. `pos` is
/// right behind the tag.
pub(crate) fn is_known(field: &Field, tag: u32, bytes: &[u8], pos: usize) -> Checked<bool> {
    let repeated_number = field.flags & crate::schema::REPEATED != 0 && field.kind.is_packable();
    let wire_type = tag & 7;
    if wire_type == field.kind.wire_type() {
        if field.kind != Kind::ClosedEnum {
            return Ok(true);
        }
        // upb looks at the low 32 bits only
        let number = wire::read_varint(bytes, &mut { pos })? as i32;
        return Ok(field.values.binary_search(&number).is_ok());
    }
    Ok(repeated_number && wire_type == wire::LEN)
}

/// A value of a known field: its lengths, its end tag or its varint must be minimal.
#[inline(always)]
fn read_known(bytes: &[u8], pos: usize, tag: u32, depth: u32) -> Checked<Value> {
    let value = wire::read_value(bytes, pos, tag, depth)?;
    // an overlong varint ends with a zero byte
    let overlong = match tag & 7 {
        wire::VARINT => value.end - pos > 1 && bytes[value.end - 1] == 0,
        wire::LEN => value.start - pos > 1 && bytes[value.start - 1] == 0,
        wire::START_GROUP => bytes[value.next - 1] == 0,
        _ => false,
    };
    if overlong {
        return Err(NotCanonical);
    }
    Ok(value)
}

/// Calls `visit` with the content of every record of a run.
#[inline]
fn each_value(bytes: &[u8], run: &Run, field: &Field, depth: u32, mut visit: impl FnMut(&[u8]) -> Checked) -> Checked {
    let mut pos = run.start;
    while pos < run.end {
        wire::read_tag(bytes, &mut pos)?;
        let value = wire::read_value(bytes, pos, field.tag, depth)?;
        visit(&bytes[value.start..value.end])?;
        pos = value.next;
    }
    Ok(())
}

/// The key of a map entry, in the order of the canonical form. All keys of one map are of one variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MapKey<'a> {
    Signed(i64),
    Unsigned(u64),
    Text(&'a [u8]),
}

impl<'a> MapKey<'a> {
    fn of(field: &Field, value: &'a [u8]) -> MapKey<'a> {
        let signed = field.flags & SIGNED != 0;
        match field.kind {
            Kind::String => return MapKey::Text(value),
            Kind::Fixed32 | Kind::Fixed64 => {
                let number = value.iter().rev().fold(0u64, |number, byte| number << 8 | *byte as u64);
                return match (signed, field.kind) {
                    (false, _) => MapKey::Unsigned(number),
                    (true, Kind::Fixed32) => MapKey::Signed(number as i32 as i64),
                    (true, _) => MapKey::Signed(number as i64),
                };
            }
            _ => {}
        }
        let number = wire::read_varint(value, &mut 0).unwrap_or(0);
        match field.kind {
            Kind::Int32 | Kind::Int64 => MapKey::Signed(number as i64),
            _ if signed => MapKey::Signed((number >> 1) as i64 ^ -((number & 1) as i64)),
            _ => MapKey::Unsigned(number),
        }
    }
}

/// The key and the value of a map entry that holds exactly these, in this order.
pub(crate) fn entry_parts<'b>(
    entry: &'b [u8],
    fields: &[Field],
    depth: u32,
) -> Checked<(MapKey<'b>, &'b [u8], &'b [u8])> {
    let [key_field, value_field] = fields else { return Err(NotCanonical) };
    let mut pos = 0;
    let mut part = |field: &Field| -> Checked<&'b [u8]> {
        let start = pos;
        if wire::read_tag(entry, &mut pos)? != field.tag || pos - start > 1 {
            return Err(NotCanonical);
        }
        let value = read_known(entry, pos, field.tag, depth)?;
        pos = value.next;
        Ok(&entry[value.start..value.end])
    };
    let (key, value) = (part(key_field)?, part(value_field)?);
    if pos != entry.len() {
        return Err(NotCanonical);
    }
    Ok((MapKey::of(key_field, key), key, value))
}

impl Schema {
    /// Whether `message` is a canonical encoding of the root type.
    pub fn is_canonical(&self, message: &[u8]) -> bool {
        self.check_message(self.root(), message, 0).is_ok()
    }

    /// The canonical bytes where only the order of map entries is not canonical (or nothing at all);
    /// None: ask upb, then call this once more on what it gives, because upb orders map entries otherwise.
    pub fn canonicalise(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = message.to_vec();
        self.sort_maps(self.root(), &mut bytes, 0).ok()?;
        self.is_canonical(&bytes).then_some(bytes)
    }

    /// Checks a message that is nested `depth` deep.
    pub(crate) fn check_message(&self, message: &Message, bytes: &[u8], depth: u32) -> Checked {
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let (mut pos, mut last) = (0, 0);
        let mut chosen: Vec<i32> = Vec::new();
        while let Some(run) = next_run(message, bytes, pos, last, depth)? {
            if let Some(field) = run.field {
                if field.oneof >= 0 {
                    if chosen.contains(&field.oneof) {
                        return Err(NotCanonical);
                    }
                    chosen.push(field.oneof);
                }
                self.check_run(field, bytes, &run, depth)?;
            }
            pos = run.end;
            last = run.number;
        }
        Ok(())
    }

    /// Checks what the records of a known field hold.
    #[inline]
    pub(crate) fn check_run(&self, field: &Field, bytes: &[u8], run: &Run, depth: u32) -> Checked {
        if field.is_map() {
            return self.check_map(field, bytes, run, depth);
        }
        if field.is_packed() {
            return check_packed(field, run.value(bytes));
        }
        if field.kind.is_message() {
            let child = self.message(field.child);
            return each_value(bytes, run, field, depth, |value| self.check_message(child, value, depth + 1));
        }
        if field.has_runs() {
            return each_value(bytes, run, field, depth, |value| check_scalar(field, value).map(drop));
        }
        let is_default = check_scalar(field, run.value(bytes))?;
        if is_default && field.flags & IMPLICIT != 0 {
            return Err(NotCanonical);
        }
        Ok(())
    }

    fn check_map(&self, field: &Field, bytes: &[u8], run: &Run, depth: u32) -> Checked {
        if depth >= DEPTH_MAX {
            return Err(NotCanonical);
        }
        let parts = self.message(field.child).fields();
        let mut pos = run.start;
        let mut before = None;
        while pos < run.end {
            wire::read_tag(bytes, &mut pos)?;
            let entry = wire::read_value(bytes, pos, field.tag, depth)?;
            let (key, key_bytes, value) = entry_parts(&bytes[entry.start..entry.end], parts, depth + 1)?;
            if before.is_some_and(|before| before >= key) {
                return Err(NotCanonical);
            }
            check_scalar(&parts[0], key_bytes)?;
            if parts[1].kind.is_message() {
                self.check_message(self.message(parts[1].child), value, depth + 2)?;
            } else {
                check_scalar(&parts[1], value)?;
            }
            before = Some(key);
            pos = entry.next;
        }
        Ok(())
    }

    /// Brings the entries of every map into order. Lengths stay as they are: only records change places.
    fn sort_maps(&self, message: &Message, bytes: &mut [u8], depth: u32) -> Checked {
        if !message.has_maps {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let (mut pos, mut last) = (0, 0);
        while let Some(run) = next_run(message, bytes, pos, last, depth)? {
            if let Some(field) = run.field.filter(|field| field.kind.is_message()) {
                let child = self.message(field.child);
                let mut at = run.start;
                while child.has_maps && at < run.end {
                    wire::read_tag(bytes, &mut at)?;
                    let value = wire::read_value(bytes, at, field.tag, depth)?;
                    self.sort_maps(child, &mut bytes[value.start..value.end], depth + 1)?;
                    at = value.next;
                }
                if field.is_map() {
                    sort_entries(field, child.fields(), &mut bytes[run.start..run.end], depth)?;
                }
            }
            pos = run.end;
            last = run.number;
        }
        Ok(())
    }
}

/// Brings the entries of one map, which are all of `run`, into order.
fn sort_entries(field: &Field, parts: &[Field], run: &mut [u8], depth: u32) -> Checked {
    let unsorted = run.to_vec();
    let mut entries = Vec::new();
    let mut pos = 0;
    while pos < unsorted.len() {
        let start = pos;
        wire::read_tag(&unsorted, &mut pos)?;
        let entry = wire::read_value(&unsorted, pos, field.tag, depth)?;
        let (key, ..) = entry_parts(&unsorted[entry.start..entry.end], parts, depth + 1)?;
        entries.push((key, start..entry.next));
        pos = entry.next;
    }
    entries.sort_by_key(|(key, _)| *key);
    let mut to = 0;
    for (_, record) in entries {
        let end = to + record.len();
        run[to..end].copy_from_slice(&unsorted[record]);
        to = end;
    }
    Ok(())
}

/// Checks the content of one record that holds one value; says whether it is the default.
#[inline]
fn check_scalar(field: &Field, value: &[u8]) -> Checked<bool> {
    match field.kind {
        Kind::Fixed32 | Kind::Fixed64 => Ok(value.iter().all(|byte| *byte == 0)),
        Kind::String if field.flags & UTF8 != 0 && std::str::from_utf8(value).is_err() => Err(NotCanonical),
        Kind::String | Kind::Bytes => Ok(value.is_empty()),
        _ => Ok(read_number(field, value, &mut 0)? == 0),
    }
}

fn check_packed(field: &Field, values: &[u8]) -> Checked {
    let width = match field.kind {
        Kind::Fixed32 => 4,
        Kind::Fixed64 => 8,
        _ => 0,
    };
    if values.is_empty() || (width != 0 && values.len() % width != 0) {
        return Err(NotCanonical);
    }
    let mut pos = if width != 0 { values.len() } else { 0 };
    while pos < values.len() {
        read_number(field, values, &mut pos)?;
    }
    Ok(())
}

/// Reads a varint that must be minimal and in the range of the field.
#[inline]
fn read_number(field: &Field, bytes: &[u8], pos: &mut usize) -> Checked<u64> {
    let start = *pos;
    let number = wire::read_varint(bytes, pos)?;
    let (len, final_byte) = (*pos - start, bytes[*pos - 1]);
    if len > 1 && (final_byte == 0 || (len == 10 && final_byte > 1)) {
        return Err(NotCanonical);
    }
    let in_range = match field.kind {
        Kind::Int32 => i32::try_from(number as i64).is_ok(),
        Kind::Uint32 => number <= u32::MAX as u64,
        Kind::Bool => number <= 1,
        Kind::ClosedEnum => i32::try_from(number as i64).is_ok_and(|value| field.values.binary_search(&value).is_ok()),
        _ => true,
    };
    if in_range {
        Ok(number)
    } else {
        Err(NotCanonical)
    }
}
