//! A message type with every kind of field, random messages of it in canonical form, and byte builders for tests.
//!
//! Part of the unit tests and of the randomised test; the names of the parent module are the kernel's.
#![allow(dead_code)] // each of the two uses its own part

use super::schema::{
    Field, FieldSpec, Kind, Message, MessageSpec, Schema, IMPLICIT, MAP, PACKED, REPEATED, SIGNED, UTF8,
};
use super::wire;

/// A field of the zoo: number, kind, flags, child, name; oneofs and enum values are set by number and kind.
type Row = (u32, Kind, u8, u32, &'static str);

const ROOT: &[Row] = &[
    (1, Kind::Int32, IMPLICIT, 0, "count"),
    (2, Kind::String, IMPLICIT | UTF8, 0, "name"),
    (3, Kind::Int64, 0, 0, "total"),
    (4, Kind::Bool, IMPLICIT, 0, "on"),
    (5, Kind::Fixed64, IMPLICIT, 0, "level"),
    (6, Kind::Fixed32, 0, 0, "ratio"),
    (7, Kind::Uint32, IMPLICIT, 0, "small"),
    (8, Kind::Uint64, IMPLICIT | SIGNED, 0, "shift"),
    (9, Kind::Bytes, 0, 0, "blob"),
    (10, Kind::ClosedEnum, 0, 0, "grade"),
    (11, Kind::Message, 0, 1, "leaf"),
    (12, Kind::Group, 0, 1, "pack"),
    (13, Kind::Int32, REPEATED | PACKED, 0, "slots"),
    (14, Kind::String, REPEATED | UTF8, 0, "tags"),
    (15, Kind::ClosedEnum, REPEATED, 0, "grades"),
    (16, Kind::ClosedEnum, REPEATED | PACKED, 0, "marks"),
    (17, Kind::Message, REPEATED, 1, "leaves"),
    (18, Kind::Message, REPEATED | MAP, 2, "labels"),
    (19, Kind::Message, REPEATED | MAP, 3, "by_id"),
    (20, Kind::Message, REPEATED | MAP, 4, "by_shift"),
    (21, Kind::Message, REPEATED | MAP, 5, "by_place"),
    (22, Kind::Message, REPEATED | MAP, 6, "by_truth"),
    (23, Kind::Group, REPEATED, 1, "packs"),
    (24, Kind::Fixed32, REPEATED | PACKED, 0, "ratios"),
    (30, Kind::String, UTF8, 0, "word"),
    (31, Kind::Message, 0, 1, "node"),
    (32, Kind::Int32, 0, 0, "number"),
    (40, Kind::Message, 0, 0, "inner"),
    (3000, Kind::Int64, IMPLICIT, 0, "far"),
];
const LEAF: &[Row] = &[
    (1, Kind::Int32, IMPLICIT, 0, "a"),
    (2, Kind::String, IMPLICIT | UTF8, 0, "s"),
    (3, Kind::Message, REPEATED | MAP, 2, "m"),
    (4, Kind::Message, REPEATED, 1, "kids"),
    (5, Kind::Message, 0, 1, "sub"),
];
const LABELS: &[Row] = &[(1, Kind::String, UTF8, 0, "key"), (2, Kind::String, UTF8, 0, "value")];
const BY_ID: &[Row] = &[(1, Kind::Int32, 0, 0, "key"), (2, Kind::Message, 0, 1, "value")];
const BY_SHIFT: &[Row] = &[(1, Kind::Uint64, SIGNED, 0, "key"), (2, Kind::Bool, 0, 0, "value")];
const BY_PLACE: &[Row] = &[(1, Kind::Fixed32, SIGNED, 0, "key"), (2, Kind::Int64, 0, 0, "value")];
const BY_TRUTH: &[Row] = &[(1, Kind::Bool, 0, 0, "key"), (2, Kind::Bytes, 0, 0, "value")];
const GRADES: &[i32] = &[1, 2, 3, 7, -3];

/// The field table of the zoo.
pub fn specs() -> Vec<MessageSpec> {
    let tables = [ROOT, LEAF, LABELS, BY_ID, BY_SHIFT, BY_PLACE, BY_TRUTH];
    let names = ["zoo.All", "zoo.Leaf", "zoo.Labels", "zoo.ById", "zoo.ByShift", "zoo.ByPlace", "zoo.ByTruth"];
    tables.iter().zip(names).map(|(rows, name)| message(name, rows)).collect()
}

fn message(full_name: &str, rows: &[Row]) -> MessageSpec {
    let fields = rows.iter().map(|&(number, kind, flags, child, name)| FieldSpec {
        number,
        kind,
        flags,
        child,
        oneof: if (30..33).contains(&number) { 0 } else { -1 },
        name: name.into(),
        values: (kind == Kind::ClosedEnum).then(|| GRADES.to_vec()),
    });
    MessageSpec { full_name: full_name.into(), fields: fields.collect() }
}

/// The zoo's schema; changes of the paths in `ignore` alone give no patch.
pub fn schema_ignoring(ignore: &[&str]) -> Schema {
    let ignore: Vec<String> = ignore.iter().map(|path| path.to_string()).collect();
    Schema::new(specs(), &ignore).expect("the zoo is a sound field table")
}

pub fn schema() -> Schema {
    schema_ignoring(&[])
}

/// A varint record.
pub fn int(number: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, (number << 3) as u64);
    wire::put_varint(&mut out, value as u64);
    out
}

/// A length-delimited record.
pub fn len(number: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_len(&mut out, number, value.as_ref());
    out
}

/// A group record.
pub fn group(number: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, (number << 3 | wire::START_GROUP) as u64);
    out.extend_from_slice(value.as_ref());
    wire::put_varint(&mut out, (number << 3 | wire::END_GROUP) as u64);
    out
}

/// A fixed64 record.
pub fn fixed64(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, (number << 3 | wire::FIXED64) as u64);
    out.extend_from_slice(&value.to_le_bytes());
    out
}

/// The body of a FieldMask.
pub fn mask(paths: &[&str]) -> Vec<u8> {
    paths.iter().flat_map(|path| len(1, path)).collect()
}

/// Marsaglia's xorshift64*: a seed repeats the run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A random canonical message of the root type.
pub fn random(schema: &Schema, rng: &mut Rng) -> Vec<u8> {
    evolve(schema, schema.root(), &[], rng, 0)
}

/// A random canonical message that shares most of its fields with the canonical message `old`.
pub fn evolve(schema: &Schema, message: &Message, old: &[u8], rng: &mut Rng, depth: u32) -> Vec<u8> {
    let change = if old.is_empty() { 40 } else { 12 };
    let (held, unknown) = split(message, old);
    let chosen = rng.pick(&[30, 31, 32, 33]);
    let switch = rng.chance(20);
    let mut out = Vec::new();
    for field in message.fields() {
        let was = held.iter().find(|(number, _)| *number == field.number).map(|(_, bytes)| *bytes);
        if field.oneof >= 0 && switch {
            if field.number == chosen {
                put_random(schema, field, rng, depth, &mut out);
            }
        } else if field.oneof >= 0 || !rng.chance(change) {
            out.extend_from_slice(was.unwrap_or(&[]));
        } else if field.is_single_message() && was.is_some() && rng.chance(60) {
            put_evolved(schema, field, was.unwrap_or(&[]), rng, depth, &mut out);
        } else if rng.chance(75) && depth < 4 {
            put_random(schema, field, rng, depth, &mut out);
        }
    }
    if rng.chance(95) {
        out.extend_from_slice(unknown);
    }
    if rng.chance(4) {
        out.extend_from_slice(rng.pick(&[&int(900, 5)[..], &len(901, "?"), &group(902, int(1, 1)), &int(10, 99)]));
    }
    out
}

/// The records of a message by number, and its unknown fields.
fn split<'b>(message: &Message, bytes: &'b [u8]) -> (Vec<(u32, &'b [u8])>, &'b [u8]) {
    let mut held: Vec<(u32, &[u8])> = Vec::new();
    let (mut start, mut pos) = (0, 0);
    while pos < bytes.len() {
        let tag = wire::read_tag(bytes, &mut pos).expect("canonical");
        let value = wire::read_value(bytes, pos, tag, 0).expect("canonical");
        let known = message.field(tag >> 3).is_some_and(|field| field.tag == tag);
        let outside = tag == 10 << 3 && bytes[pos] == 99;
        if !known || outside {
            return (held, &bytes[start..]);
        }
        match held.last_mut() {
            Some((number, records)) if *number == tag >> 3 => *records = &bytes[start - records.len()..value.next],
            _ => held.push((tag >> 3, &bytes[start..value.next])),
        }
        (start, pos) = (value.next, value.next);
    }
    (held, &[])
}

fn put_evolved(schema: &Schema, field: &Field, record: &[u8], rng: &mut Rng, depth: u32, out: &mut Vec<u8>) {
    let mut pos = 0;
    let tag = wire::read_tag(record, &mut pos).expect("canonical");
    let value = wire::read_value(record, pos, tag, 0).expect("canonical");
    let inner = evolve(schema, schema.message(field.child), &record[value.start..value.end], rng, depth + 1);
    put_content(field, &inner, out);
}

fn put_random(schema: &Schema, field: &Field, rng: &mut Rng, depth: u32, out: &mut Vec<u8>) {
    if field.is_map() {
        return put_map(schema, field, rng, depth, out);
    }
    if field.flags & REPEATED == 0 {
        let value = random_value(schema, field, rng, depth);
        if field.flags & IMPLICIT == 0 || value.iter().any(|byte| *byte != 0) {
            put_content(field, &value, out);
        }
        return;
    }
    let count = rng.pick(&[1, 1, 2, 3, 9]);
    let values: Vec<Vec<u8>> = (0..count).map(|_| random_value(schema, field, rng, depth)).collect();
    if field.is_packed() {
        return put_content(field, &values.concat(), out);
    }
    values.iter().for_each(|value| put_content(field, value, out));
}

/// Entries ascending by key: the keys are made in order.
fn put_map(schema: &Schema, field: &Field, rng: &mut Rng, depth: u32, out: &mut Vec<u8>) {
    let parts = schema.message(field.child).fields();
    let keys: Vec<Vec<u8>> = match parts[0].kind {
        Kind::String => ["", "a", "ab", "b", "\u{e9}"].iter().map(|key| key.as_bytes().to_vec()).collect(),
        Kind::Int32 => [-300i64, -1, 0, 1, 300].iter().map(|key| varint(*key as u64)).collect(),
        Kind::Fixed32 => [-300i32, -1, 0, 1, 300].iter().map(|key| key.to_le_bytes().to_vec()).collect(),
        Kind::Bool => vec![vec![0], vec![1]],
        _ => [-300i64, -1, 0, 1, 300].iter().map(|key| varint((key << 1 ^ key >> 63) as u64)).collect(),
    };
    for key in keys {
        if rng.chance(60) {
            let mut entry = Vec::new();
            put_content(&parts[0], &key, &mut entry);
            put_content(&parts[1], &random_value(schema, &parts[1], rng, depth + 1), &mut entry);
            put_content(field, &entry, out);
        }
    }
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varint(&mut out, value);
    out
}

/// The content of one value, without tag and length.
fn random_value(schema: &Schema, field: &Field, rng: &mut Rng, depth: u32) -> Vec<u8> {
    match field.kind {
        Kind::Message | Kind::Group if depth < 4 => evolve(schema, schema.message(field.child), &[], rng, depth + 1),
        Kind::Message | Kind::Group => Vec::new(),
        Kind::String => rng.pick(&["", "a", "\u{e9}t\u{e9}", "a longer text, of more than one word"]).into(),
        Kind::Bytes => vec![rng.next() as u8; rng.pick(&[0, 1, 5, 127, 128, 300])],
        Kind::Fixed32 => rng.pick(&[0u32, 1, 0x8000_0000, 0x7fc0_0001]).to_le_bytes().to_vec(),
        Kind::Fixed64 => rng.pick(&[0u64, 1, 1 << 63, 0x7ff8_0000_0000_0001]).to_le_bytes().to_vec(),
        Kind::Bool => vec![rng.below(2) as u8],
        Kind::ClosedEnum => varint(rng.pick(GRADES) as i64 as u64),
        Kind::Int32 => varint(rng.pick(&[0i32, 1, -1, 127, 128, i32::MAX, i32::MIN]) as i64 as u64),
        Kind::Uint32 => varint(rng.pick(&[0u64, 1, 127, 128, u32::MAX as u64])),
        Kind::Int64 | Kind::Uint64 => varint(rng.pick(&[0u64, 1, 127, 128, u64::MAX, 1 << 63])),
    }
}

fn put_content(field: &Field, value: &[u8], out: &mut Vec<u8>) {
    match field.tag & 7 {
        wire::LEN => wire::put_len(out, field.number, value),
        wire::START_GROUP => out.extend_from_slice(&group(field.number, value)),
        _ => {
            wire::put_varint(out, field.tag as u64);
            out.extend_from_slice(value);
        }
    }
}

/// The same bytes with a few bits, bytes or stretches changed.
pub fn damage(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.pick(&[1, 1, 2, 5]) {
        if bytes.is_empty() {
            bytes.push(rng.next() as u8);
        }
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, rng.pick(&[0, 1, 8, 0x0b, 0x0c, 0x80, 0xff])),
            4 => bytes.truncate(at),
            _ => {
                let from = rng.below(bytes.len());
                let stretch = bytes[from..bytes.len().min(from + rng.below(20))].to_vec();
                bytes.splice(at..at, stretch);
            }
        }
    }
    bytes
}
