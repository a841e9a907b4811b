//! Rows that are owed: what an owner that was none any more wrote behind another one, and the right row stands above.
//!
//! The changelog's order says which they are, and a store's offset passes it: so the store keeps the list beside its rows,
//! until the right ones are committed. It lies under [`REPAIRS_KEY`]: format byte 0x52 (`R`), a format number, then
//! Protobuf wire: a message 1 per key, in it 1 the key and, where a version of it was passed over, 2 packed: its epoch,
//! revision, ordinal and offset, and the digest of its message.

use std::collections::BTreeMap;

use crate::row::Order;
use crate::wire;

/// Key in a store, never in a changelog.
pub const REPAIRS_KEY: &[u8] = b"\0streams/repairs";
const REPAIRS_MARK: u8 = 0x52;
const REPAIRS_FORMAT: u8 = 1;

/// The highest version of a key that was passed over: its order, and the digest of its message (0: a tombstone).
pub(crate) type Passed = Option<(Order, u64)>;
pub(crate) type Repairs = BTreeMap<Vec<u8>, Passed>;

/// The list as a store keeps it; None: nothing is owed.
pub(crate) fn encode<'a>(repairs: impl Iterator<Item = (&'a Vec<u8>, &'a Passed)>) -> Option<Vec<u8>> {
    let mut out = vec![REPAIRS_MARK, REPAIRS_FORMAT];
    let (mut entry, mut packed) = (Vec::new(), Vec::new());
    for (key, passed) in repairs {
        entry.clear();
        wire::put_len(&mut entry, 1, key);
        if let Some((order, content)) = passed {
            packed.clear();
            for number in [order.epoch, order.revision, u64::from(order.ordinal), order.offset as u64, *content] {
                wire::put_varint(&mut packed, number);
            }
            wire::put_len(&mut entry, 2, &packed);
        }
        wire::put_len(&mut out, 1, &entry);
    }
    (out.len() > 2).then_some(out)
}

/// None: it is no such list.
pub(crate) fn decode(stored: &[u8]) -> Option<Repairs> {
    let [REPAIRS_MARK, REPAIRS_FORMAT, body @ ..] = stored else { return None };
    let mut repairs = Repairs::new();
    for entry in wire::records(body) {
        let (mut key, mut passed) = (None, None);
        for field in wire::records(entry.ok()?.value) {
            let field = field.ok()?;
            match (field.number, field.wire_type) {
                (1, wire::LEN) => key = Some(field.value),
                (2, wire::LEN) => passed = Some(version(field.value)?),
                _ => {}
            }
        }
        repairs.insert(key?.to_vec(), passed);
    }
    Some(repairs)
}

fn version(packed: &[u8]) -> Option<(Order, u64)> {
    let mut at = 0;
    let mut next = || wire::read_varint(packed, &mut at).ok();
    let (epoch, revision, ordinal, offset) = (next()?, next()?, u32::try_from(next()?).ok()?, next()? as i64);
    Some((Order { epoch, revision, ordinal, offset }, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let order = Order { epoch: u64::MAX, revision: 0, ordinal: 3, offset: -1 };
        let repairs = Repairs::from([(vec![], None), (b"\0k".to_vec(), Some((order, 9)))]);

        assert_eq!(decode(&encode(repairs.iter()).unwrap()), Some(repairs));
        assert_eq!(encode(Repairs::new().iter()), None);
    }

    #[test]
    fn other_bytes_are_none() {
        for bytes in [&b""[..], b"R", b"R\x02", b"R\x01\x0a\x02\x12\x00", b"R\x01\x0a\xff", b"P\x01"] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
