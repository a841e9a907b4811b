//! The bytes of `streams.v1.Patch`.

use crate::schema::NUMBER_MAX;
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

/// All of a patch but its mask, numbers and data. Meanings are in `proto/streams/v1/patch.proto`.
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
    pub tracestate: &'a str,
}

/// A decoded patch; borrows from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patch<'a> {
    pub head: PatchHead<'a>,
    /// The body of the FieldMask.
    pub mask: &'a [u8],
    /// From the first record of `numbers` to the end of the last one; read it with [`field_paths`].
    pub numbers: &'a [u8],
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

/// The tag of `Patch.numbers`, as it is on the wire.
const NUMBERS_TAG: [u8; 2] = [0x8a, 0x01];
/// The tag of `FieldPath.numbers`, which are packed.
const PATH_TAG: u8 = 0x0a;

/// Appends one record of `Patch.numbers`: the path along `above`, which are varints already, to the field `number`.
#[inline]
pub(crate) fn put_field_path(out: &mut Vec<u8>, above: &[u8], number: u32) {
    let length = above.len() + wire::varint_len(number as u64);
    out.extend_from_slice(&NUMBERS_TAG);
    wire::put_varint(out, (1 + wire::varint_len(length as u64) + length) as u64);
    out.push(PATH_TAG);
    wire::put_varint(out, length as u64);
    out.extend_from_slice(above);
    wire::put_varint(out, number as u64);
}

/// Appends one record of `Patch.numbers`, of a path that may be none.
pub fn put_path(out: &mut Vec<u8>, path: &[u32]) {
    let Some((last, parents)) = path.split_last() else { return wire::put_len(out, 17, &[]) };
    let mut above = Vec::new();
    parents.iter().for_each(|number| wire::put_varint(&mut above, u64::from(*number)));
    put_field_path(out, &above, *last);
}

/// The paths in [`Patch::numbers`], as field numbers; None for damage.
pub fn field_paths(numbers: &[u8]) -> impl Iterator<Item = Option<Vec<u32>>> + '_ {
    wire::records(numbers).filter_map(|record| match record {
        Ok(record) if (record.number, record.wire_type) == (17, wire::LEN) => Some(field_path(record.value)),
        Ok(_) => None,
        Err(_) => Some(None),
    })
}

/// The numbers of one `FieldPath`, packed or not; None: it names no field, or numbers that no field has.
fn field_path(path: &[u8]) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for record in wire::records(path) {
        let record = record.ok()?;
        match (record.number, record.wire_type) {
            (1, wire::VARINT) => numbers.push(record.varint()),
            (1, wire::LEN) => {
                let mut pos = 0;
                while pos < record.value.len() {
                    numbers.push(wire::read_varint(record.value, &mut pos).ok()?);
                }
            }
            _ => {}
        }
    }
    let is_path = !numbers.is_empty() && numbers.iter().all(|number| (1..=u64::from(NUMBER_MAX)).contains(number));
    is_path.then(|| numbers.into_iter().map(|number| number as u32).collect())
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> DecodeError {
        DecodeError::Malformed
    }
}

/// Appends the patch to `out`, canonically. The mask of a SNAPSHOT is always `*` and that of a DELETE empty, and neither
/// has numbers, whatever `mask` (the body of a FieldMask) and `numbers` (records of that field) say.
pub fn encode(head: &PatchHead<'_>, mask: &[u8], numbers: &[u8], data: &[u8], out: &mut Vec<u8>) {
    let (mask, numbers) = match head.kind {
        Kind::Snapshot => (SNAPSHOT_MASK, &[][..]),
        Kind::Delete => (&[][..], &[][..]),
        _ => (mask, numbers),
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
    wire::put_bytes(out, 16, head.tracestate.as_bytes());
    out.extend_from_slice(numbers);
}

/// Reads a patch. Unknown fields are skipped, of a scalar that comes twice the last one wins.
pub fn decode(bytes: &[u8]) -> Result<Patch<'_>, DecodeError> {
    let mut patch = Patch::default();
    let head = &mut patch.head;
    let (mut mask, mut time) = (None, None);
    let mut numbers = 0..0;
    let mut records = wire::records(bytes);
    loop {
        let start = records.pos();
        let Some(record) = records.next() else { break };
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
            (16, wire::LEN) => head.tracestate = text(record.value, "tracestate")?,
            (17, wire::LEN) => {
                numbers = if numbers.is_empty() { start..records.pos() } else { numbers.start..records.pos() };
            }
            _ => {}
        }
    }
    head.event_time = time.map(decode_time).transpose()?;
    patch.mask = mask.unwrap_or_default();
    patch.numbers = &bytes[numbers];
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
            tracestate: "acme=1",
        }
    }

    fn encoded(head: &PatchHead<'_>, mask: &[u8], data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(head, mask, &[], data, &mut out);
        out
    }

    /// Records of `Patch.numbers`.
    fn numbers(paths: &[&[u32]]) -> Vec<u8> {
        let mut out = Vec::new();
        for path in paths {
            put_path(&mut out, path);
        }
        out
    }

    #[test]
    fn a_patch_comes_back_as_it_was() {
        let bytes = encoded(&full(), b"\x0a\x01a", b"\x08\x01");
        assert_eq!(decode(&bytes), Ok(Patch { head: full(), mask: b"\x0a\x01a", numbers: &[], data: b"\x08\x01" }));
        for event_time in [None, Some((0, 0)), Some((-1, 999_999_999)), Some((i64::MIN, -1))] {
            let head = PatchHead { event_time, ..full() };
            assert_eq!(decode(&encoded(&head, b"", b"")).map(|patch| patch.head), Ok(head));
        }
    }

    #[test]
    fn fields_ascend_and_defaults_are_left_out() {
        assert!(encoded(&PatchHead::default(), b"", b"").is_empty());
        let mut bytes = Vec::new();
        encode(&full(), b"\x0a\x01a", &numbers(&[&[1]]), b"\x08\x01", &mut bytes);
        let found: Vec<u32> = wire::records(&bytes).map(|record| record.expect("sound").number).collect();
        assert_eq!(found, (1..=17).collect::<Vec<u32>>());
    }

    #[test]
    fn the_numbers_of_paths_come_back_as_they_were() {
        let deep: Vec<u32> = (1..=100).map(|level| level * 5_000_000).collect();
        let paths: [&[u32]; 4] = [&[1], &[11, 2], &[NUMBER_MAX], &deep];
        let mut bytes = Vec::new();
        encode(&full(), b"\x0a\x01a", &numbers(&paths), b"", &mut bytes);
        let found: Vec<Vec<u32>> = decode(&bytes).map(|patch| field_paths(patch.numbers).flatten().collect()).unwrap();
        assert_eq!(found, paths);
    }

    #[test]
    fn numbers_may_come_unpacked_and_between_other_fields() {
        let bytes = [len(17, [int(1, 3), int(1, 4)].concat()), int(13, 5), len(17, len(1, [7, 8])), int(2, 9)].concat();
        let patch = decode(&bytes).expect("a patch");
        assert_eq!((patch.head.sequence, patch.head.revision), (5, 9));
        assert_eq!(field_paths(patch.numbers).collect::<Vec<_>>(), [Some(vec![3, 4]), Some(vec![7, 8])]);
    }

    #[test]
    fn numbers_that_name_no_field_are_damage() {
        for path in
            [&b""[..], b"\x0a\x00", b"\x0a\x01\x00", b"\x0a\x01\x80", b"\x08\x00", b"\x0a\x05\x80\x80\x80\x80\x02"]
        {
            assert_eq!(field_paths(&len(17, path)).collect::<Vec<_>>(), [None], "{path:02x?}");
        }
    }

    #[test]
    fn neither_a_snapshot_nor_a_delete_has_numbers() {
        for kind in [Kind::Snapshot, Kind::Delete] {
            let mut bytes = Vec::new();
            encode(&PatchHead { kind, ..full() }, b"\x0a\x01a", &numbers(&[&[1]]), b"", &mut bytes);
            assert_eq!(decode(&bytes).map(|patch| patch.numbers), Ok(&b""[..]));
        }
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
        let bytes = [encoded(&full(), b"", b""), int(18, 5), len(1, "other")].concat();
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
