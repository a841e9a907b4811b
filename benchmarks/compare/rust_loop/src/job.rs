//! The job itself, for the one message of the workload: bytes in, bytes out.
//!
//! It knows its producers: they serialise deterministically, fields ascending, so that a field is the same exactly if
//! its bytes are. A message is never parsed; two of them are walked side by side.

use hashbrown::HashMap;

/// Bytes that are no message of the workload.
#[derive(Debug)]
pub struct Malformed;

type Read<T> = Result<T, Malformed>;

/// Names of the fields of `DeviceState`, by number.
const FIELDS: [&str; 25] = [
    "",
    "device_id",
    "tenant",
    "model",
    "firmware",
    "serial",
    "region",
    "owner_email",
    "status",
    "uptime_s",
    "rx_bytes",
    "tx_bytes",
    "rssi",
    "cpu",
    "mem",
    "temp_c",
    "battery",
    "online",
    "locked",
    "last_seen_us",
    "errors",
    "geo",
    "tags",
    "labels",
    "slots",
];
const KIND_DELTA: u8 = 1;

struct Held {
    sequence: u64,
    device: Vec<u8>,
}

/// The state of all keys, and buffers that live as long as it does.
#[derive(Default)]
pub struct Job {
    held: HashMap<Box<[u8]>, Held>,
    mask: Vec<u8>,
    data: Vec<u8>,
}

impl Job {
    /// Applies an event; true: `patch` holds what it changed.
    pub fn apply(&mut self, event: &[u8], patch: &mut Vec<u8>) -> Read<bool> {
        let event = envelope(event)?;
        self.mask.clear();
        self.data.clear();
        patch.clear();
        let base = match self.held.get_mut(event.key) {
            Some(held) => {
                if event.sequence <= held.sequence {
                    return Ok(false);
                }
                difference(&held.device, event.device, &mut self.mask, &mut self.data)?;
                held.device.clear();
                held.device.extend_from_slice(event.device);
                std::mem::replace(&mut held.sequence, event.sequence)
            }
            None => {
                difference(&[], event.device, &mut self.mask, &mut self.data)?;
                let held = Held { sequence: event.sequence, device: event.device.to_vec() };
                self.held.insert(event.key.into(), held);
                0
            }
        };
        put_bytes(patch, 1, event.key);
        put_number(patch, 2, event.sequence);
        if base > 0 {
            put_number(patch, 3, base);
        }
        put_number(patch, 4, u64::from(KIND_DELTA));
        put_bytes(patch, 6, &self.mask);
        put_bytes(patch, 7, &self.data);
        Ok(true)
    }

    /// Takes an event of the changelog: the last one of its key counts.
    pub fn restore(&mut self, event: &[u8]) -> Read<()> {
        let event = envelope(event)?;
        let held = Held { sequence: event.sequence, device: event.device.to_vec() };
        self.held.insert(event.key.into(), held);
        Ok(())
    }
}

struct Envelope<'a> {
    key: &'a [u8],
    sequence: u64,
    device: &'a [u8],
}

/// What the job needs of a `CloudEvent`: the attributes subject and sequence, and the message in its data.
fn envelope(event: &[u8]) -> Read<Envelope<'_>> {
    let (mut key, mut sequence, mut device) = (None, None, None);
    let mut at = 0;
    while at < event.len() {
        let field = field(event, &mut at)?;
        match field.number {
            5 => {
                let (name, value) = (member(field.value, 1)?, member(field.value, 2)?);
                match name {
                    b"subject" => key = Some(member(value, 3)?),
                    b"sequence" => sequence = Some(decimal(member(value, 3)?)?),
                    _ => {}
                }
            }
            8 => device = Some(member(field.value, 2)?),
            _ => {}
        }
    }
    match (key, sequence, device) {
        (Some(key), Some(sequence), Some(device)) => Ok(Envelope { key, sequence, device }),
        _ => Err(Malformed),
    }
}

/// Appends the names of the fields that differ to `mask`, as a FieldMask has them, and those that are set to `data`.
fn difference(old: &[u8], new: &[u8], mask: &mut Vec<u8>, data: &mut Vec<u8>) -> Read<()> {
    let (mut left, mut right) = (run(old, 0)?, run(new, 0)?);
    while let Some(number) = match (&left, &right) {
        (None, None) => None,
        (Some(run), None) | (None, Some(run)) => Some(run.number),
        (Some(one), Some(other)) => Some(one.number.min(other.number)),
    } {
        let before = left.as_ref().filter(|run| run.number == number);
        let after = right.as_ref().filter(|run| run.number == number);
        let bytes = after.map_or(&[][..], |run| &new[run.start..run.end]);
        if before.is_none_or(|run| &old[run.start..run.end] != bytes) {
            let name = FIELDS.get(number as usize).ok_or(Malformed)?;
            put_bytes(mask, 1, name.as_bytes());
            data.extend_from_slice(bytes);
        }
        let (before_end, after_end) = (before.map(|run| run.end), after.map(|run| run.end));
        if let Some(end) = before_end {
            left = run(old, end)?;
        }
        if let Some(end) = after_end {
            right = run(new, end)?;
        }
    }
    Ok(())
}

/// The records of one field that follow each other.
struct Run {
    number: u32,
    start: usize,
    end: usize,
}

fn run(message: &[u8], start: usize) -> Read<Option<Run>> {
    if start == message.len() {
        return Ok(None);
    }
    let mut end = start;
    let number = field(message, &mut end)?.number;
    while end < message.len() {
        let mut next = end;
        if field(message, &mut next)?.number != number {
            break;
        }
        end = next;
    }
    Ok(Some(Run { number, start, end }))
}

struct Field<'a> {
    number: u32,
    /// Empty for numbers: nobody here reads them.
    value: &'a [u8],
}

fn field<'a>(message: &'a [u8], at: &mut usize) -> Read<Field<'a>> {
    let tag = varint(message, at)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Malformed)?;
    let length = match tag & 7 {
        0 => {
            varint(message, at)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(message, at)?).map_err(|_| Malformed)?,
        5 => 4,
        _ => return Err(Malformed),
    };
    let end = at.checked_add(length).filter(|end| *end <= message.len()).ok_or(Malformed)?;
    let value = &message[*at..end];
    *at = end;
    Ok(Field { number, value })
}

/// The value of the last field of that number, empty where there is none.
fn member(message: &[u8], number: u32) -> Read<&[u8]> {
    let (mut at, mut found) = (0, &[][..]);
    while at < message.len() {
        let field = field(message, &mut at)?;
        if field.number == number {
            found = field.value;
        }
    }
    Ok(found)
}

fn varint(bytes: &[u8], at: &mut usize) -> Read<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(Malformed)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn decimal(text: &[u8]) -> Read<u64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}
