//! The canonical form: one byte string per message value.
//!
//! Known fields ascending, minimal varints, no explicit defaults where there is no presence, one record per single
//! field, at most one member of a oneof, repeated fields packed as declared, map entries of exactly a key and a value,
//! ascending by key; then the unknown fields as received, but undeclared values of closed enums as minimal varints of 64
//! bits. It is what upb's deterministic serialiser writes, but for the order of map entries: upb (protobuf 6.33) writes
//! integers as descending unsigned ones, and a string after the longer ones that it begins. As in upb, a value outside a
//! closed enum and a record of the wrong wire type are unknown fields.

use crate::schema::{Field, Kind, Message, Schema, IMPLICIT, REPEATED, SIGNED, UTF8};
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
            if is_known(field, tag, bytes, pos)? || !is_wide(field, tag, bytes, pos)? {
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
    let wire_type = tag & 7;
    if wire_type == field.kind.wire_type() {
        if field.kind != Kind::ClosedEnum {
            return Ok(true);
        }
        // upb looks at the low 32 bits only
        let number = wire::read_varint(bytes, &mut { pos })? as i32;
        return Ok(field.declares(number));
    }
    // repeated numbers may come packed; repeated groups with a length are no message for upb
    let takes_length = field.kind.is_packable() || field.kind == Kind::Group;
    Ok(wire_type == wire::LEN && field.flags & REPEATED != 0 && takes_length)
}

/// Whether a value that a closed enum does not declare is written as one that it declares would be: as a minimal varint of
/// 64 bits. Releases of upb differ in what they make of a negative one, and so must not be left to choose.
fn is_wide(field: &Field, tag: u32, bytes: &[u8], pos: usize) -> Checked<bool> {
    if field.kind != Kind::ClosedEnum || tag & 7 != wire::VARINT {
        return Ok(true);
    }
    let mut end = pos;
    let number = wire::read_varint(bytes, &mut end)?;
    Ok(number == wide(number) && end - pos == wire::varint_len(number))
}

/// The value of an enum, of which parsers look at the low 32 bits only, in 64 bits.
fn wide(number: u64) -> u64 {
    number as i32 as i64 as u64
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

    /// The canonical bytes where only the order of map entries and the width of undeclared enum values are not canonical
    /// (or nothing at all); None: ask upb, then call this once more on what it gives, because upb writes these otherwise.
    pub fn canonicalise(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(message.len());
        if self.has_closed_enums {
            self.widen(self.root(), message, 0, &mut bytes).ok()?;
        } else {
            bytes.extend_from_slice(message);
        }
        self.sort_maps(self.root(), &mut bytes, 0).ok()?;
        self.is_canonical(&bytes).then_some(bytes)
    }

    /// Appends the message with every undeclared value of a closed enum as [`is_wide`] wants it.
    fn widen(&self, message: &Message, bytes: &[u8], depth: u32, out: &mut Vec<u8>) -> Checked {
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let mut pos = 0;
        while pos < bytes.len() {
            let start = pos;
            let tag = wire::read_tag(bytes, &mut pos)?;
            let value = wire::read_value(bytes, pos, tag, depth)?;
            let field = message.field(tag >> 3).filter(|field| tag & 7 == field.kind.wire_type());
            match field.map(|field| (field.kind, self.message(field.child))) {
                Some((Kind::ClosedEnum, _)) => {
                    out.extend_from_slice(&bytes[start..pos]);
                    let number = wire::read_varint(bytes, &mut pos)?;
                    let is_declared = field.is_some_and(|field| field.declares(number as i32));
                    match is_declared {
                        true => out.extend_from_slice(&bytes[value.start..value.end]),
                        false => wire::put_varint(out, wide(number)),
                    }
                }
                Some((Kind::Message, child)) => {
                    let mut inner = Vec::with_capacity(value.end - value.start);
                    self.widen(child, &bytes[value.start..value.end], depth + 1, &mut inner)?;
                    let as_it_was = inner.len() == value.end - value.start;
                    out.extend_from_slice(&bytes[start..if as_it_was { value.start } else { pos }]);
                    if !as_it_was {
                        wire::put_varint(out, inner.len() as u64);
                    }
                    out.extend_from_slice(&inner);
                }
                Some((Kind::Group, child)) => {
                    out.extend_from_slice(&bytes[start..value.start]);
                    self.widen(child, &bytes[value.start..value.end], depth + 1, out)?;
                    out.extend_from_slice(&bytes[value.end..value.next]);
                }
                _ => out.extend_from_slice(&bytes[start..value.next]),
            }
            pos = value.next;
        }
        Ok(())
    }

    /// Checks a message that is nested `depth` deep.
    pub(crate) fn check_message(&self, message: &Message, bytes: &[u8], depth: u32) -> Checked {
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let (mut pos, mut last) = (0, 0);
        let mut chosen = Chosen::default();
        while let Some(run) = next_run(message, bytes, pos, last, depth)? {
            if let Some(field) = run.field {
                if field.oneof >= 0 {
                    chosen.add(message, field)?;
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

/// The member of each oneof of one message that was seen so far.
#[derive(Default)]
pub(crate) struct Chosen {
    /// Number of the member by index of the oneof; 0: none yet. Empty before the first one.
    members: Vec<u32>,
}

impl Chosen {
    /// Takes in a member; refuses a second one of its oneof.
    pub fn add(&mut self, message: &Message, member: &Field) -> Checked {
        self.members.resize(message.oneofs, 0);
        match std::mem::replace(&mut self.members[member.oneof as usize], member.number) {
            0 => Ok(()),
            _ => Err(NotCanonical),
        }
    }

    /// Whether another member of the field's oneof was seen.
    pub fn displaces(&self, field: &Field) -> bool {
        let member = usize::try_from(field.oneof).ok().and_then(|oneof| self.members.get(oneof));
        member.is_some_and(|number| *number != 0 && *number != field.number)
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
        Kind::ClosedEnum => i32::try_from(number as i64).is_ok_and(|value| field.declares(value)),
        _ => true,
    };
    if in_range {
        Ok(number)
    } else {
        Err(NotCanonical)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn undeclared_enum_values_have_64_bits() {
        let schema = zoo::schema();
        let record =
            |number: u32, value: &[u8]| [int(number, 0)[..int(number, 0).len() - 1].to_vec(), value.to_vec()].concat();
        let narrow = b"\xf7\xff\xff\xff\x0f";
        for number in [10, 15] {
            for value in [&narrow[..], b"\xf7\xff\xff\xff\xff\x00", b"\xf7\xff\xff\xff\x8f\x01"] {
                for wrap in [
                    |inner: Vec<u8>| inner,
                    |inner| len(40, inner),
                    |inner| len(19, [int(1, 5), len(2, []), inner].concat()),
                ] {
                    let (given, wanted) = (wrap(record(number, value)), wrap(int(number, -9)));
                    assert!(!schema.is_canonical(&given));
                    if schema.is_canonical(&wanted) {
                        assert_eq!(schema.canonicalise(&given), Some(wanted), "{given:02x?}");
                    }
                }
            }
            assert!(schema.is_canonical(&int(number, 99)));
        }
        assert!(schema.is_canonical(&record(900, narrow)), "a number that nobody knows is as it is");
    }

    use crate::zoo::{self, fixed64, group, int, len, Rng};

    fn canonical(records: &[Vec<u8>]) -> bool {
        zoo::schema().is_canonical(&records.concat())
    }

    fn entry(key: Vec<u8>, value: Vec<u8>) -> Vec<u8> {
        [key, value].concat()
    }

    #[test]
    fn the_empty_message_is_canonical() {
        assert!(canonical(&[]));
    }

    #[test]
    fn fields_ascend_and_single_ones_come_once() {
        assert!(canonical(&[int(1, 5), len(2, "a"), int(3000, 1)]));
        assert!(!canonical(&[len(2, "a"), int(1, 5)]));
        assert!(!canonical(&[int(1, 5), int(1, 5)]));
        assert!(!canonical(&[len(11, int(1, 1)), len(11, int(1, 2))]));
    }

    #[test]
    fn a_default_is_on_the_wire_only_where_there_is_presence() {
        assert!(!canonical(&[int(1, 0)]) && !canonical(&[len(2, "")]) && !canonical(&[fixed64(5, 0)]));
        assert!(!canonical(&[int(4, 0)]));
        assert!(canonical(&[int(3, 0)]) && canonical(&[len(9, "")]) && canonical(&[len(30, "")]));
        assert!(canonical(&[len(11, "")]) && canonical(&[group(12, "")]));
    }

    #[test]
    fn floats_are_compared_by_bits() {
        assert!(canonical(&[fixed64(5, (-0.0f64).to_bits())]));
        assert!(canonical(&[fixed64(5, f64::NAN.to_bits())]));
    }

    #[test]
    fn varints_tags_and_lengths_are_minimal() {
        for overlong in [&b"\x08\x81\x00"[..], b"\x88\x00\x01", b"\x12\x81\x00a", b"\x63\xe4\x00", b"\x6a\x02\x81\x00"]
        {
            assert!(!zoo::schema().is_canonical(overlong), "{overlong:02x?}");
        }
        assert!(!zoo::schema().is_canonical(b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03"));
    }

    #[test]
    fn numbers_stay_in_the_range_of_their_field() {
        assert!(canonical(&[int(1, -1)]) && canonical(&[int(1, i32::MIN as i64)]));
        assert!(!canonical(&[int(1, u32::MAX as i64)]));
        assert!(canonical(&[int(7, u32::MAX as i64)]) && !canonical(&[int(7, 1 << 32)]));
        assert!(canonical(&[int(4, 1)]) && !canonical(&[int(4, 2)]));
    }

    #[test]
    fn text_is_utf8_where_the_schema_wants_it() {
        assert!(!canonical(&[len(2, b"\xff")]));
        assert!(canonical(&[len(9, b"\xff")]));
    }

    #[test]
    fn repeated_numbers_are_packed_as_declared() {
        assert!(canonical(&[len(13, [0, 1, 2])]));
        assert!(!canonical(&[int(13, 1)]) && !canonical(&[len(13, [])]));
        assert!(canonical(&[int(15, 1), int(15, 2)]) && !canonical(&[len(15, [1, 2])]));
        assert!(canonical(&[len(24, [0; 8])]) && !canonical(&[len(24, [0; 7])]));
    }

    #[test]
    fn a_oneof_has_one_member() {
        assert!(canonical(&[len(30, "a")]) && canonical(&[int(32, 0)]));
        assert!(!canonical(&[len(30, "a"), int(32, 0)]));
    }

    #[test]
    fn unknown_fields_come_last_as_received() {
        assert!(canonical(&[int(1, 1), int(900, 1), len(25, "x"), int(900, 1)]));
        assert!(!canonical(&[int(900, 1), int(1, 1)]));
        assert!(canonical(&[b"\xa0\xb8\x00\x81\x00".to_vec()]), "overlong and unknown");
        assert!(canonical(&[group(900, int(1, 1))]) && !canonical(&[b"\xa3\x38".to_vec()]));
    }

    #[test]
    fn a_wrong_wire_type_is_an_unknown_field() {
        assert!(canonical(&[int(3, 1), len(1, "x")]));
        assert!(!canonical(&[len(1, "x"), int(3, 1)]));
        assert!(canonical(&[group(11, "")]) && canonical(&[len(12, "")]));
        assert!(!canonical(&[len(23, "")]), "upb rejects it");
    }

    #[test]
    fn a_value_outside_a_closed_enum_is_an_unknown_field() {
        assert!(canonical(&[int(10, -3)]) && canonical(&[int(10, 99)]));
        assert!(!canonical(&[int(10, 99), int(3000, 1)]));
        assert!(canonical(&[int(15, 1), int(15, 99), int(15, 98)]));
        assert!(!canonical(&[int(15, 99), int(15, 1)]));
        assert!(canonical(&[len(16, [1]), int(16, 99)]) && !canonical(&[len(16, [1, 99])]));
    }

    #[test]
    fn map_entries_hold_key_and_value_in_this_order() {
        let (key, value) = (len(1, "k"), len(2, "v"));
        assert!(canonical(&[len(18, entry(key.clone(), value.clone()))]));
        assert!(canonical(&[len(18, entry(len(1, ""), len(2, "")))]));
        for wrong in [entry(value.clone(), key.clone()), key.clone(), value.clone(), Vec::new()] {
            assert!(!canonical(&[len(18, wrong)]));
        }
        assert!(!canonical(&[len(18, [key.clone(), value.clone(), int(3, 1)].concat())]));
        assert!(!canonical(&[len(18, [key.clone(), key, value].concat())]));
    }

    #[test]
    fn map_keys_ascend_by_value() {
        let texts = ["", "a", "ab", "b", "\u{e9}"].map(|key| len(18, entry(len(1, key), len(2, ""))));
        let numbers = [-300, -1, 0, 1, 300].map(|key| len(19, entry(int(1, key), len(2, ""))));
        let zigzag = [-2i64, -1, 0, 1, 2].map(|key| len(20, entry(int(1, key << 1 ^ key >> 63), int(2, 1))));
        let fixed = [-2i32, -1, 0, 1, 2].map(|key| {
            let key = [&[0x0d][..], &key.to_le_bytes()].concat();
            len(21, entry(key, int(2, 1)))
        });
        let schema = zoo::schema();
        for entries in [texts, numbers, zigzag, fixed] {
            assert!(canonical(&entries));
            for at in 1..entries.len() {
                let mut swapped = entries.clone();
                swapped.swap(at - 1, at);
                assert!(!canonical(&swapped));
                assert_eq!(schema.canonicalise(&swapped.concat()), Some(entries.concat()));
            }
            assert!(!canonical(&[entries[0].clone(), entries[0].clone()]));
            assert_eq!(schema.canonicalise(&[entries[0].clone(), entries[0].clone()].concat()), None);
        }
        let truths = [0, 1].map(|key| len(22, entry(int(1, key), len(2, ""))));
        assert!(canonical(&truths) && !canonical(&[truths[1].clone(), truths[0].clone()]));
    }

    #[test]
    fn maps_are_brought_into_order_at_every_depth() {
        let label = |key: &str| len(3, entry(len(1, key), len(2, "v")));
        let leaf = |keys: [&str; 2]| [label(keys[0]), label(keys[1])].concat();
        let by_id = |id: i64, keys| len(19, entry(int(1, id), len(2, leaf(keys))));
        let message = |keys, ids: [i64; 2]| {
            [len(11, leaf(keys)), group(12, leaf(keys)), len(17, leaf(keys)), by_id(ids[0], keys), by_id(ids[1], keys)]
                .concat()
        };
        let unsorted = message(["b", "a"], [2, 1]);
        assert_eq!(zoo::schema().canonicalise(&unsorted), Some(message(["a", "b"], [1, 2])));
        assert_eq!(zoo::schema().canonicalise(&[unsorted, int(1, 1)].concat()), None);
    }

    #[test]
    fn nesting_ends_where_upbs_does() {
        let nest = |levels: usize, wrap: fn(Vec<u8>) -> Vec<u8>| (0..levels).fold(Vec::new(), |inner, _| wrap(inner));
        let schema = zoo::schema();
        assert!(schema.is_canonical(&nest(100, |inner| len(40, inner))));
        assert!(!schema.is_canonical(&nest(101, |inner| len(40, inner))));
        let by_id: fn(Vec<u8>) -> Vec<u8> = |inner| len(40, len(19, entry(int(1, 1), len(2, len(5, inner)))));
        assert!(schema.is_canonical(&by_id(Vec::new())));
        let in_map = |levels| len(19, entry(int(1, 1), len(2, nest(levels, |inner| len(5, inner)))));
        assert!(schema.is_canonical(&in_map(98)) && !schema.is_canonical(&in_map(99)));
        let in_group = |levels| group(12, nest(levels, |inner| len(5, inner)));
        assert!(schema.is_canonical(&in_group(99)) && !schema.is_canonical(&in_group(100)));
    }

    #[test]
    fn cut_and_damaged_messages_never_panic() {
        let (schema, seed) = (zoo::schema(), 20_261_122);
        let mut rng = Rng::new(seed);
        for _ in 0..20 {
            let message = zoo::random(&schema, &mut rng);
            for cut in 0..message.len() {
                schema.is_canonical(&message[..cut]);
                schema.canonicalise(&message[..cut]);
            }
            for bit in 0..message.len() * 8 {
                let mut flipped = message.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                schema.is_canonical(&flipped);
                schema.canonicalise(&flipped);
            }
        }
    }
}
