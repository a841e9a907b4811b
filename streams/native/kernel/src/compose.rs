//! Two patches of one key as one.

use std::fmt;

use crate::apply::ApplyError;
use crate::patch::Patch;
use crate::schema::Schema;

/// Why two patches cannot become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComposeError {
    /// They belong to different keys.
    Key,
    /// They belong to different epochs, message types or descriptors, and the second one is a DELTA.
    Lineage,
    /// The second DELTA does not apply to what the first one leaves: the revision of the first, then base revision and
    /// revision of the second.
    Revisions(u64, u64, u64),
    /// One of them has no kind.
    Kind,
    /// The second one cannot be applied to the first one's data.
    Apply(ApplyError),
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComposeError::Key => f.write_str("the patches have different keys"),
            ComposeError::Lineage => f.write_str("the patches have different epochs, types or schemas"),
            ComposeError::Revisions(held, base, revision) => write!(
                f,
                "the second patch leads from revision {base} to {revision}, expected one that applies to revision {held}"
            ),
            ComposeError::Kind => f.write_str("a patch has no kind, expected DELTA, SNAPSHOT or DELETE"),
            ComposeError::Apply(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ComposeError {}

impl Schema {
    /// Appends to `out` the one patch that does what `first` and then `second` do.
    pub fn compose(&self, _first: &Patch<'_>, _second: &Patch<'_>, _out: &mut Vec<u8>) -> Result<(), ComposeError> {
        Err(ComposeError::Kind)
    }
}
