//! The bytes of `streams.v1.Patch`.

use crate::wire::{self, Malformed};

/// What a patch does to the state of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    #[default]
    Unspecified = 0,
    /// Changes the masked paths of the state at `base_revision`.
    Delta = 1,
    /// Is the whole state.
    Snapshot = 2,
    /// There is no state any more.
    Delete = 3,
}

impl Kind {
    /// The kind with the number `number` in the contract; None: a later contract's.
    pub fn from_number(number: u64) -> Option<Kind> {
        match number {
            0 => Some(Kind::Unspecified),
            1 => Some(Kind::Delta),
            2 => Some(Kind::Snapshot),
            3 => Some(Kind::Delete),
            _ => None,
        }
    }
}

/// The mask of every SNAPSHOT, as the body of a FieldMask: the one path `*`.
pub const SNAPSHOT_MASK: &[u8] = b"\x0a\x01*";

/// All of a patch but its mask and data. Meanings are in `proto/streams/v1/patch.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchHead<'a> {
    pub key: &'a [u8],
    pub revision: u64,
    pub base_revision: u64,
    pub kind: Kind,
    /// Full name of the message type of the data.
    pub type_name: &'a str,
    pub digest: u64,
    pub event_id: &'a str,
    pub event_source: &'a str,
    /// Seconds and nanoseconds since the epoch.
    pub event_time: Option<(i64, i32)>,
    pub traceparent: &'a str,
    pub sequence: u64,
    pub epoch: u64,
    pub schema: u64,
}

/// A decoded patch; borrows from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patch<'a> {
    pub head: PatchHead<'a>,
    /// The body of the FieldMask.
    pub mask: &'a [u8],
    pub data: &'a [u8],
}

/// Why bytes are no patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// No Protobuf message.
    Malformed,
    /// The named string field is not UTF-8.
    NotUtf8(&'static str),
    /// The named message field comes twice, which no encoder of patches writes.
    Repeated(&'static str),
    /// The kind is not one of this contract: written by a newer release.
    UnknownKind(u64),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Malformed => f.write_str("the patch is no Protobuf message"),
            DecodeError::NotUtf8(name) => write!(f, "the patch's {name} is not UTF-8"),
            DecodeError::Repeated(name) => write!(f, "the patch's {name} comes twice"),
            DecodeError::UnknownKind(kind) => {
                write!(f, "the patch has kind {kind}, this release knows up to 3; it was written by a newer one")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> DecodeError {
        DecodeError::Malformed
    }
}

/// Appends the patch to `out`, canonically. The mask of a SNAPSHOT is always `*` and that of a DELETE empty, whatever
/// `mask` (the body of a FieldMask) says.
pub fn encode(head: &PatchHead<'_>, mask: &[u8], data: &[u8], out: &mut Vec<u8>) {
    let mask = match head.kind {
        Kind::Snapshot => SNAPSHOT_MASK,
        Kind::Delete => &[],
        _ => mask,
    };
    wire::put_bytes(out, 1, head.key);
    wire::put_uint(out, 2, head.revision);
    wire::put_uint(out, 3, head.base_revision);
    wire::put_uint(out, 4, head.kind as u64);
    wire::put_bytes(out, 5, head.type_name.as_bytes());
    wire::put_bytes(out, 6, mask);
    wire::put_bytes(out, 7, data);
    wire::put_fixed64(out, 8, head.digest);
    wire::put_bytes(out, 9, head.event_id.as_bytes());
    wire::put_bytes(out, 10, head.event_source.as_bytes());
    if let Some((seconds, nanos)) = head.event_time {
        let mut time = Vec::with_capacity(16);
        wire::put_uint(&mut time, 1, seconds as u64);
        wire::put_uint(&mut time, 2, nanos as i64 as u64);
        wire::put_len(out, 11, &time);
    }
    wire::put_bytes(out, 12, head.traceparent.as_bytes());
    wire::put_uint(out, 13, head.sequence);
    wire::put_uint(out, 14, head.epoch);
    wire::put_fixed64(out, 15, head.schema);
}

/// Reads a patch. Unknown fields are skipped, of a scalar that comes twice the last one wins.
pub fn decode(bytes: &[u8]) -> Result<Patch<'_>, DecodeError> {
    let mut patch = Patch::default();
    let head = &mut patch.head;
    let (mut mask, mut time) = (None, None);
    for record in wire::records(bytes) {
        let record = record?;
        match (record.number, record.wire_type) {
            (1, wire::LEN) => head.key = record.value,
            (2, wire::VARINT) => head.revision = record.varint(),
            (3, wire::VARINT) => head.base_revision = record.varint(),
            (4, wire::VARINT) => {
                let number = record.varint();
                head.kind = Kind::from_number(number).ok_or(DecodeError::UnknownKind(number))?;
            }
            (5, wire::LEN) => head.type_name = text(record.value, "type")?,
            (6, wire::LEN) => once(&mut mask, record.value, "mask")?,
            (7, wire::LEN) => patch.data = record.value,
            (8, wire::FIXED64) => head.digest = record.fixed64(),
            (9, wire::LEN) => head.event_id = text(record.value, "event_id")?,
            (10, wire::LEN) => head.event_source = text(record.value, "event_source")?,
            (11, wire::LEN) => once(&mut time, record.value, "event_time")?,
            (12, wire::LEN) => head.traceparent = text(record.value, "traceparent")?,
            (13, wire::VARINT) => head.sequence = record.varint(),
            (14, wire::VARINT) => head.epoch = record.varint(),
            (15, wire::FIXED64) => head.schema = record.fixed64(),
            _ => {}
        }
    }
    head.event_time = time.map(decode_time).transpose()?;
    patch.mask = mask.unwrap_or_default();
    Ok(patch)
}

fn text<'a>(bytes: &'a [u8], name: &'static str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8(name))
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8], name: &'static str) -> Result<(), DecodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::Repeated(name)),
    }
}

fn decode_time(bytes: &[u8]) -> Result<(i64, i32), DecodeError> {
    let (mut seconds, mut nanos) = (0, 0);
    for record in wire::records(bytes) {
        let record = record?;
        match (record.number, record.wire_type) {
            (1, wire::VARINT) => seconds = record.varint() as i64,
            (2, wire::VARINT) => nanos = record.varint() as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{int, len, Rng};

    fn full() -> PatchHead<'static> {
        PatchHead {
            key: b"dev-1",
            revision: 7,
            base_revision: 6,
            kind: Kind::Delta,
            type_name: "acme.Device",
            digest: 0x0102_0304_0506_0708,
            event_id: "id",
            event_source: "/source",
            event_time: Some((1_700_000_000, 5)),
            traceparent: "00-ab-cd-01",
            sequence: 300,
            epoch: 1_700_000_000_000,
            schema: u64::MAX,
        }
    }

    fn encoded(head: &PatchHead<'_>, mask: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(head, mask, data, &mut out);
        out
    }

    #[test]
    fn a_patch_comes_back_as_it_was() {
        let bytes = encoded(&full(), b"\x0a\x01a", b"\x08\x01");
        assert_eq!(decode(&bytes), Ok(Patch { head: full(), mask: b"\x0a\x01a", data: b"\x08\x01" }));
        for event_time in [None, Some((0, 0)), Some((-1, 999_999_999)), Some((i64::MIN, -1))] {
            let head = PatchHead { event_time, ..full() };
            assert_eq!(decode(&encoded(&head, b"", b"")).map(|patch| patch.head), Ok(head));
        }
    }

    #[test]
    fn fields_ascend_and_defaults_are_left_out() {
        assert!(encoded(&PatchHead::default(), b"", b"").is_empty());
        let bytes = encoded(&full(), b"\x0a\x01a", b"\x08\x01");
        let numbers: Vec<u32> = wire::records(&bytes).map(|record| record.expect("sound").number).collect();
        assert_eq!(numbers, (1..=15).collect::<Vec<u32>>());
    }

    #[test]
    fn the_mask_of_a_snapshot_is_a_star_and_that_of_a_delete_empty() {
        let snapshot = encoded(&PatchHead { kind: Kind::Snapshot, ..full() }, b"\x0a\x01a", b"");
        assert_eq!(decode(&snapshot).map(|patch| patch.mask), Ok(SNAPSHOT_MASK));
        let delete = encoded(&PatchHead { kind: Kind::Delete, ..full() }, b"\x0a\x01a", b"");
        assert_eq!(decode(&delete).map(|patch| patch.mask), Ok(&b""[..]));
    }

    #[test]
    fn later_fields_are_skipped_and_later_kinds_refused() {
        let bytes = [encoded(&full(), b"", b""), int(16, 5), len(1, "other")].concat();
        assert_eq!(decode(&bytes).map(|patch| patch.head), Ok(PatchHead { key: b"other", ..full() }));
        assert_eq!(decode(&int(4, 4)), Err(DecodeError::UnknownKind(4)));
    }

    #[test]
    fn what_is_no_patch_is_refused_by_name() {
        assert_eq!(decode(&len(9, b"\xff")), Err(DecodeError::NotUtf8("event_id")));
        assert_eq!(decode(&[len(6, ""), len(6, "")].concat()), Err(DecodeError::Repeated("mask")));
        assert_eq!(decode(b"\x0a\x05"), Err(DecodeError::Malformed));
        assert_eq!(decode(&len(11, b"\xff")), Err(DecodeError::Malformed));
    }

    #[test]
    fn cut_and_damaged_patches_never_panic() {
        let bytes = encoded(&full(), b"\x0a\x01a", b"\x08\x01");
        let mut rng = Rng::new(20_261_122);
        for at in 0..bytes.len() {
            let _ = decode(&bytes[..at]);
            for _ in 0..50 {
                let mut damaged = bytes.clone();
                damaged[at] = rng.next() as u8;
                let _ = decode(&damaged);
            }
        }
    }
}
