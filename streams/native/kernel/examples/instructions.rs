//! A fixed amount of the kernel's work for callgrind to count: `.ci/instructions.py` runs it and holds the counts.
//!
//!     instructions                 the hash of the input, then the names of the cases
//!     instructions CASE            does the case once; what is inside [`measured`] counts
//!
//! The input is made here, from a generator of its own: devices with 24 fields in structured CloudEvents, one or two
//! fields changed per event, one event in twenty repeated. No clock, no file, no chance.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use streams_kernel::diff::{Change, Delta};
use streams_kernel::digest;
use streams_kernel::envelope::Types;
use streams_kernel::job::{Canonicaliser, Job, JobSpec};
use streams_kernel::patch;
use streams_kernel::records::Records;
use streams_kernel::schema::{FieldSpec, Kind, MessageSpec, Schema, IMPLICIT, MAP, PACKED, REPEATED, UTF8};
use streams_kernel::sync::SyncTable;
use streams_kernel::wire::{put_bytes, put_fixed64, put_len, put_uint, put_varint, FIXED32, LEN};

/// Enough that setting up and growing weigh little, few enough that callgrind needs a second.
const EVENTS: u64 = 4_000;
const DEVICES: u64 = 200;
const CHUNK: usize = 500;
const NOW_MS: u64 = 1_700_000_000_000;
const TYPE: &str = "example.Device";

/// What callgrind counts: it is told this function's name.
#[inline(never)]
fn measured<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}

/// Does a part of the kernel's work; answers a number that hangs on all of it.
type Case = fn(&[Records]) -> u64;

/// What records hold, however they are stored.
fn content(records: &Records) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records.iter() {
        for part in [record.key(), record.value()] {
            bytes.extend_from_slice(&(part.map_or(usize::MAX, <[u8]>::len) as u64).to_be_bytes());
            bytes.extend_from_slice(part.unwrap_or_default());
        }
        for (name, value) in record.headers() {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.unwrap_or_default());
        }
    }
    bytes
}

fn main() -> ExitCode {
    let input = input();
    let cases: [(&str, Case); 7] = [
        ("process", process),
        ("transaction", transaction),
        ("restore", restore),
        ("apply", apply),
        ("compose", compose),
        ("canonicalise", canonicalise),
        ("wide", wide),
    ];
    let Some(wanted) = std::env::args().nth(1) else {
        let parts = input.iter().map(content).chain(unordered());
        let hash = parts.fold(0u64, |hash, part| digest(&[&hash.to_be_bytes(), part.as_slice()].concat()));
        println!("{hash:016x}");
        cases.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    match cases.iter().find(|(name, _)| *name == wanted) {
        Some((_, case)) => println!("{:016x}", case(&input)),
        None => {
            eprintln!("no case {wanted:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

// The cases ---------------------------------------------------------------------------------------------------------------

/// Events to patches, over rows that fill up.
fn process(input: &[Records]) -> u64 {
    let mut table = table();
    measured(|| {
        input.iter().fold(0, |sum, chunk| {
            let step = table.process(chunk, NOW_MS).unwrap();
            sum + step.patches.nbytes() as u64
        })
    })
}

/// The rows of each chunk for the changelog, and the commit that folds them.
fn transaction(input: &[Records]) -> u64 {
    let mut table = table();
    let mut sum = 0;
    for chunk in input {
        let mark = table.process(chunk, NOW_MS).unwrap().mark;
        sum += measured(|| {
            let rows = table.table().changelog(0, mark).unwrap();
            table.table_mut().commit(mark).unwrap();
            rows.nbytes() as u64
        });
    }
    sum + table.table().nbytes() as u64
}

/// A changelog back into an empty table.
fn restore(input: &[Records]) -> u64 {
    let mut source = table();
    let changelog: Vec<Records> = input
        .iter()
        .map(|chunk| {
            let mark = source.process(chunk, NOW_MS).unwrap().mark;
            source.table().changelog(mark - 1, mark).unwrap()
        })
        .collect();
    let mut table = table();
    measured(|| changelog.iter().for_each(|rows| table.restore(rows).unwrap()));
    table.table().nbytes() as u64
}

/// Each patch onto the first state of its key.
fn apply(input: &[Records]) -> u64 {
    let (schema, patches) = (schema(), patches(input));
    let decoded: Vec<_> = patches.iter().map(|record| patch::decode(record.value().unwrap()).unwrap()).collect();
    let state = decoded[0].data;
    let mut out = Vec::new();
    measured(|| {
        decoded.iter().filter(|patch| patch.head.base_revision > 0).fold(0, |sum, patch| {
            out.clear();
            schema.apply(state, patch.mask, patch.numbers, patch.data, &mut out).unwrap();
            sum + out.len() as u64
        })
    })
}

/// Patches of one key, two and two.
fn compose(input: &[Records]) -> u64 {
    let (schema, patches) = (schema(), patches(input));
    let mut by_key: Vec<_> = patches.iter().map(|record| patch::decode(record.value().unwrap()).unwrap()).collect();
    by_key.sort_by_key(|patch| (patch.head.key, patch.head.revision));
    let pairs = by_key.windows(2).filter(|pair| pair[0].head.key == pair[1].head.key);
    let mut out = Vec::new();
    measured(|| {
        pairs.fold(0, |sum, pair| {
            out.clear();
            schema.compose(&pair[0], &pair[1], &mut out).unwrap();
            sum + out.len() as u64
        })
    })
}

/// Many fields before a long tail that comes, goes, or stays: counted once for each field, the tail would be the count.
fn wide(_: &[Records]) -> u64 {
    const FIELDS: u32 = 500;
    let member =
        |number| FieldSpec { oneof: number as i32 / 2, ..field(number, Kind::Int32, 0, 0, &format!("o{number}")) };
    let mut fields: Vec<FieldSpec> =
        (1..=FIELDS).map(|number| field(number, Kind::Int32, 0, 0, &format!("f{number}"))).collect();
    fields.extend((1_000..1_000 + FIELDS).map(member));
    fields.push(field(2_000, Kind::String, REPEATED, 0, "tail"));
    let schema = Schema::new(vec![MessageSpec { full_name: "example.Wide".to_owned(), fields }], &[]).unwrap();
    let numbers = |first: u32, step: usize| {
        let mut out = Vec::new();
        (first..first + FIELDS).step_by(step).for_each(|number| put_uint(&mut out, number, 5));
        out
    };
    let tail = |number| {
        (0..20_000).fold(Vec::new(), |mut out, _| {
            put_len(&mut out, number, b"x");
            out
        })
    };
    let (many, members, known, unknown) = (numbers(1, 1), numbers(1_000, 2), tail(2_000), tail(3_000));
    let states = [
        known.clone(),
        [&many[..], &members, &known].concat(),
        known,
        [&many[..], &unknown].concat(),
        [&members[..], &unknown].concat(),
        unknown,
    ];
    let (mut delta, mut out) = (Delta::new(), Vec::new());
    measured(|| {
        states.windows(2).fold(0, |sum, pair| {
            if schema.diff(&pair[0], &pair[1], &mut delta).unwrap() == Change::Delta {
                out.clear();
                schema.apply(&pair[0], &delta.mask, &delta.numbers, &delta.data, &mut out).unwrap();
                assert_eq!(out, pair[1]);
            }
            sum + u64::from(delta.paths)
        })
    })
}

/// Messages whose map entries come in no canonical order.
fn canonicalise(_: &[Records]) -> u64 {
    let (schema, messages) = (schema(), unordered());
    measured(|| messages.iter().map(|message| schema.canonicalise(message).unwrap().len() as u64).sum())
}

fn patches(input: &[Records]) -> Records {
    let mut table = table();
    let mut all = Records::new();
    for chunk in input {
        all.extend(&table.process(chunk, NOW_MS).unwrap().patches).unwrap();
    }
    all
}

// What the kernel is given ------------------------------------------------------------------------------------------------

/// Every message here is canonical or made so by the kernel itself.
struct Never;

impl Canonicaliser for Never {
    fn canonicalise(&self, _: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Err("nothing of the input should come here".to_owned())
    }
}

fn table() -> SyncTable {
    let spec = JobSpec {
        schema: Arc::new(schema()),
        type_name: TYPE.to_owned(),
        fingerprint: 77,
        field_table: b"table".to_vec(),
        source: "devices".to_owned(),
        key: "record".to_owned(),
        sequence: "attribute".to_owned(),
        format: "auto".to_owned(),
        partitions: 0,
        record_bytes_max: 1 << 20,
        output_bytes_max: (1 << 20) + 65_536,
        tombstone_retention_ms: 86_400_000,
        tombstones_max: 1_000_000,
        ids_per_key: 8,
        rekeyed: false,
        schema_ids: Vec::new(),
        message_index: vec![0],
        types: Types::default(),
        sealed: false,
        seed: 1,
        canonicaliser: Box::new(Never),
    };
    SyncTable::new(Arc::new(Job::new(spec).unwrap()), 0, true)
}

fn field(number: u32, kind: Kind, flags: u8, child: u32, name: &str) -> FieldSpec {
    FieldSpec { number, kind, flags, child, oneof: -1, name: name.to_owned(), values: None }
}

fn schema() -> Schema {
    let mut fields: Vec<FieldSpec> = Vec::new();
    fields.extend((1..9).map(|number| field(number, Kind::String, IMPLICIT | UTF8, 0, &format!("text{number}"))));
    fields.extend((9..13).map(|number| field(number, Kind::Int64, IMPLICIT, 0, &format!("count{number}"))));
    fields.extend((13..17).map(|number| field(number, Kind::Fixed64, IMPLICIT, 0, &format!("measure{number}"))));
    fields.extend((17..19).map(|number| field(number, Kind::Bool, IMPLICIT, 0, &format!("flag{number}"))));
    fields.push(field(19, Kind::Fixed64, IMPLICIT, 0, "seen"));
    fields.push(field(20, Kind::Uint32, IMPLICIT, 0, "errors"));
    fields.push(field(21, Kind::Message, 0, 1, "place"));
    fields.push(field(22, Kind::String, REPEATED | UTF8, 0, "tags"));
    fields.push(field(23, Kind::Message, REPEATED | MAP, 2, "labels"));
    fields.push(field(24, Kind::Int32, REPEATED | PACKED, 0, "slots"));
    let place = vec![
        field(1, Kind::Fixed64, IMPLICIT, 0, "lat"),
        field(2, Kind::Fixed64, IMPLICIT, 0, "lon"),
        field(3, Kind::Fixed32, IMPLICIT, 0, "accuracy"),
    ];
    let entry = vec![field(1, Kind::String, UTF8, 0, "key"), field(2, Kind::String, UTF8, 0, "value")];
    let message = |name: &str, fields| MessageSpec { full_name: name.to_owned(), fields };
    let messages = vec![message(TYPE, fields), message("example.Place", place), message("example.Entry", entry)];
    Schema::new(messages, &[]).unwrap()
}

// The input ---------------------------------------------------------------------------------------------------------------

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

struct Device {
    texts: Vec<String>,
    counts: Vec<u64>,
    measures: Vec<u64>,
    seen: u64,
    place: [u64; 2],
    labels: Vec<String>,
    number: u64,
}

impl Device {
    fn new(number: u64, random: &mut Random) -> Device {
        Device {
            texts: (0..8).map(|at| format!("text {at} of device {number}")).collect(),
            counts: (0..4).map(|_| random.below(1 << 30)).collect(),
            measures: (0..4).map(|_| random.next() | 1).collect(),
            seen: NOW_MS * 1000,
            place: [random.next() | 1, random.next() | 1],
            labels: (0..4).map(|_| format!("value-{}", random.below(100))).collect(),
            number,
        }
    }

    fn change(&mut self, random: &mut Random) {
        self.seen += random.below(1_000_000);
        let at = random.below(4) as usize;
        match random.below(6) {
            0 => self.measures[at] = random.next() | 1,
            1 => (self.measures[at], self.counts[at]) = (random.next() | 1, random.below(1 << 30)),
            2 => self.counts[at] += random.below(100_000),
            3 => self.place[0] = random.next() | 1,
            4 => self.labels[at] = format!("value-{}", random.below(100)),
            _ => self.texts[7] = ["ok", "warn", "fail"][random.below(3) as usize].to_owned(),
        }
    }

    /// The message, canonical but for its map where that is asked for.
    fn encode(&self, descending: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let out = &mut bytes;
        (1..).zip(&self.texts).for_each(|(number, text)| put_bytes(out, number, text.as_bytes()));
        (9..).zip(&self.counts).for_each(|(number, count)| put_uint(out, number, *count));
        (13..).zip(&self.measures).for_each(|(number, measure)| put_fixed64(out, number, *measure));
        put_uint(out, 17, 1);
        put_fixed64(out, 19, self.seen);
        let mut place = Vec::new();
        put_fixed64(&mut place, 1, self.place[0]);
        put_fixed64(&mut place, 2, self.place[1]);
        put_varint(&mut place, u64::from(3 << 3 | FIXED32));
        place.extend_from_slice(&3f32.to_le_bytes());
        put_len(out, 21, &place);
        ["a", "b", "rack"].iter().for_each(|tag| put_len(out, 22, tag.as_bytes()));
        for at in 0..self.labels.len() {
            let at = if descending { self.labels.len() - 1 - at } else { at };
            let mut entry = Vec::new();
            put_len(&mut entry, 1, format!("label{at}").as_bytes());
            put_len(&mut entry, 2, self.labels[at].as_bytes());
            put_len(out, 23, &entry);
        }
        put_len(out, 24, &[1, 2, 3, (self.number % 100) as u8]);
        bytes
    }
}

/// Messages whose map entries lie the wrong way round.
fn unordered() -> Vec<Vec<u8>> {
    let mut random = Random(11);
    (0..EVENTS / 4).map(|number| Device::new(number, &mut random).encode(true)).collect()
}

/// The events, in chunks.
fn input() -> Vec<Records> {
    let mut random = Random(7);
    let mut devices: Vec<Device> = (0..DEVICES).map(|number| Device::new(number, &mut random)).collect();
    let mut last: Vec<Option<Vec<u8>>> = vec![None; DEVICES as usize];
    let mut sequences = vec![0u64; DEVICES as usize];
    let mut chunks = vec![Records::new()];
    for offset in 0..EVENTS {
        let at = random.below(DEVICES) as usize;
        let value = match last[at].take() {
            Some(value) if random.below(20) == 0 => value,
            _ => {
                sequences[at] += 1;
                devices[at].change(&mut random);
                event(&devices[at], sequences[at], random.next())
            }
        };
        if chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            chunks.push(Records::new());
        }
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(Some(key(at as u64).as_bytes()), Some(&value), NOW_MS as i64, offset as i64).unwrap();
            chunk.push_header(b"content-type", Some(b"application/cloudevents+protobuf")).unwrap();
        }
        last[at] = Some(value);
    }
    chunks
}

fn key(number: u64) -> String {
    format!("device-{number:06}")
}

/// A structured CloudEvent around a device.
fn event(device: &Device, sequence: u64, id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_len(&mut out, 1, format!("{id:032x}").as_bytes());
    put_len(&mut out, 2, b"/example");
    put_len(&mut out, 3, b"1.0");
    put_len(&mut out, 4, TYPE.as_bytes());
    let mut time = Vec::new();
    put_uint(&mut time, 1, device.seen / 1_000_000);
    put_uint(&mut time, 2, device.seen % 1_000_000 * 1000);
    let (subject, sequence) = (key(device.number), sequence.to_string());
    for (name, kind, content) in
        [("sequence", 3, sequence.as_bytes()), ("subject", 3, subject.as_bytes()), ("time", 7, &time)]
    {
        let (mut entry, mut value) = (Vec::new(), Vec::new());
        put_len(&mut entry, 1, name.as_bytes());
        put_len(&mut value, kind, content);
        put_len(&mut entry, 2, &value);
        put_len(&mut out, 5, &entry);
    }
    let mut any = Vec::new();
    put_len(&mut any, 1, format!("type.googleapis.com/{TYPE}").as_bytes());
    put_len(&mut any, 2, &device.encode(false));
    put_varint(&mut out, u64::from(8 << 3 | LEN));
    put_varint(&mut out, any.len() as u64);
    out.extend_from_slice(&any);
    out
}
