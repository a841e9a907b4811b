//! Applying a delta to a message.

use std::fmt;

use crate::schema::Schema;

/// Why a delta cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// The mask names a path that the schema does not have (or that leads through lists, maps or numbers).
    UnknownPath(String),
    /// The mask is no FieldMask.
    DamagedMask,
    /// The partial message is not canonical.
    DataNotCanonical,
    /// The message to apply it to is not canonical.
    StateNotCanonical,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::UnknownPath(path) => write!(f, "the schema has no path {path:?}"),
            ApplyError::DamagedMask => f.write_str("the mask is no FieldMask"),
            ApplyError::DataNotCanonical => f.write_str("the partial message is not canonical"),
            ApplyError::StateNotCanonical => f.write_str("the message to apply it to is not canonical"),
        }
    }
}

impl std::error::Error for ApplyError {}

impl Schema {
    /// Appends to `out` what `state` is after a delta: the masked paths cleared, then `data` merged. Canonical in,
    /// canonical out.
    pub fn apply(&self, _state: &[u8], _mask: &[u8], _data: &[u8], _out: &mut Vec<u8>) -> Result<(), ApplyError> {
        Err(ApplyError::DamagedMask)
    }

    /// Whether every path of the mask is one of this schema.
    pub fn knows(&self, _mask: &[u8]) -> bool {
        false
    }
}
