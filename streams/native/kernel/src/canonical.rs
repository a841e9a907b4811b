//! The canonical form: one byte string per message value.

use crate::schema::Schema;

/// The bytes are not canonical: another encoding of a message, or no message at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCanonical;

/// The digest that patches carry: XXH3-64 of the canonical bytes.
pub fn digest(canonical: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(canonical)
}

impl Schema {
    /// Whether `message` is a canonical encoding of the root type.
    pub fn is_canonical(&self, _message: &[u8]) -> bool {
        false
    }

    /// The canonical bytes where only the order of map entries is not canonical (or nothing at all);
    /// None: ask upb, then call this once more on what it gives, because upb orders map entries otherwise.
    pub fn canonicalise(&self, _message: &[u8]) -> Option<Vec<u8>> {
        None
    }
}
