//! The loop of `benchmarks/kernel.py` without Python: events from a file through one table, timed per call.
//!
//!     events FIELDS EVENTS CHUNK TRANSACTION NOW_MS
//!
//! FIELDS: a line with the message's type and fingerprint, then per message its name, then a line per field beginning with
//! a space (number, kind, flags, child, oneof, name). EVENTS: blocks of records, each behind its length in four bytes.
//! Prints the seconds spent in `process`, `changelog` and `commit`, and the hash of all patches as Python makes it.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use streams_kernel::digest;
use streams_kernel::envelope::Types;
use streams_kernel::job::{Canonicaliser, Job, JobSpec};
use streams_kernel::records::Records;
use streams_kernel::schema::{FieldSpec, Kind, MessageSpec, Schema};
use streams_kernel::sync::SyncTable;

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<String, Failed> {
    let [fields, events, chunk, transaction, now_ms] = arguments else {
        return Err("wanted: FIELDS EVENTS CHUNK TRANSACTION NOW_MS".into());
    };
    let (chunk, transaction, now_ms): (usize, usize, u64) = (chunk.parse()?, transaction.parse()?, now_ms.parse()?);
    let mut table = table(&fs::read_to_string(fields)?)?;
    let mut timed = Timed::default();
    let (mut mark, mut pending, mut offset, mut hash) = (0, 0, 0, 0u64);
    let mut file: &[u8] = &fs::read(events)?;
    while !file.is_empty() {
        let (length, rest) = file.split_at(4);
        let (block, rest) = rest.split_at(u32::from_be_bytes(length.try_into()?) as usize);
        file = rest;
        let mut block = Records::decode(block)?;
        block.assign(offset, now_ms as i64);
        offset += block.len() as i64;
        for first in (0..block.len()).step_by(chunk) {
            let records = block.slice(first, first + chunk)?;
            let began = Instant::now();
            let step = table.process(&records, now_ms)?;
            timed.process += began.elapsed().as_secs_f64();
            // As `measure.hash_of` does it twice: a chunk's patches, then their hashes as text.
            let patches = digest(&[&[0; 8], step.patches.encode().as_slice()].concat());
            hash = digest(&[&hash.to_be_bytes(), format!("{patches:016x}").as_bytes()].concat());
            (mark, pending) = (step.mark, pending + records.len());
            if pending >= transaction {
                timed.end(&mut table, mark)?;
                pending = 0;
            }
        }
    }
    if pending > 0 {
        timed.end(&mut table, mark)?;
    }
    Ok(format!("{} {} {} {hash:016x}", timed.process, timed.changelog, timed.commit))
}

/// Seconds per call.
#[derive(Default)]
struct Timed {
    process: f64,
    changelog: f64,
    commit: f64,
}

impl Timed {
    /// What a transaction adds to its chunks.
    fn end(&mut self, table: &mut SyncTable, mark: u64) -> Result<(), Failed> {
        let began = Instant::now();
        drop(table.table().changelog(0, mark)?);
        self.changelog += began.elapsed().as_secs_f64();
        let began = Instant::now();
        drop(table.table_mut().commit(mark)?);
        self.commit += began.elapsed().as_secs_f64();
        Ok(())
    }
}

/// Every message of the workload is canonical.
struct Never;

impl Canonicaliser for Never {
    fn canonicalise(&self, _: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Err("an event is not canonical".to_owned())
    }
}

fn table(fields: &str) -> Result<SyncTable, Failed> {
    let mut lines = fields.lines();
    let head = lines.next().unwrap_or_default();
    let (type_name, fingerprint) = head.split_once(' ').ok_or("no type and fingerprint")?;
    let mut messages: Vec<MessageSpec> = Vec::new();
    for line in lines {
        match line.strip_prefix(' ') {
            None => messages.push(MessageSpec { full_name: line.to_owned(), fields: Vec::new() }),
            Some(row) => messages.last_mut().ok_or("a field before its message")?.fields.push(field(row)?),
        }
    }
    let spec = JobSpec {
        schema: Arc::new(Schema::new(messages, &[]).map_err(|error| error.to_string())?),
        type_name: type_name.to_owned(),
        fingerprint: fingerprint.parse()?,
        field_table: b"fields".to_vec(),
        source: "devices".to_owned(),
        key: "record".to_owned(),
        sequence: "attribute".to_owned(),
        format: "auto".to_owned(),
        partitions: 0,
        record_bytes_max: 1 << 20,
        output_bytes_max: (1 << 20) + 65_536,
        tombstone_retention_ms: 14 * 86_400_000,
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
    Ok(SyncTable::new(Arc::new(Job::new(spec)?), 0, true))
}

fn field(row: &str) -> Result<FieldSpec, Failed> {
    let parts: Vec<&str> = row.split(' ').collect();
    let [number, kind, flags, child, oneof, name] = parts[..] else {
        return Err(format!("a field is six parts, came {row:?}").into());
    };
    let kind = Kind::from_number(kind.parse()?).ok_or("no such kind")?;
    Ok(FieldSpec {
        number: number.parse()?,
        kind,
        flags: flags.parse()?,
        child: child.parse()?,
        oneof: oneof.parse()?,
        name: name.to_owned(),
        values: None,
    })
}
