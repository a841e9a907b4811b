//! Two patches of one key as one.

use std::fmt;

use crate::apply::{ApplyError, Paths};
use crate::patch::{self, Kind, Patch, PatchHead};
use crate::schema::Schema;

/// Why two patches cannot become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComposeError {
    /// They belong to different keys.
    Key,
    /// The second one is a DELTA of another epoch or another message type.
    Lineage,
    /// The second one does not follow: the revision of the first, then base revision and revision of the second.
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
            ComposeError::Lineage => f.write_str("the patches have different epochs or message types"),
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

impl From<ApplyError> for ComposeError {
    fn from(error: ApplyError) -> ComposeError {
        ComposeError::Apply(error)
    }
}

impl Schema {
    /// Appends to `out` the one patch that does what `first` and then `second` do, from every revision of the span.
    ///
    /// A DELTA on a DELTA gives a DELTA with the paths of both, on a SNAPSHOT the SNAPSHOT after it, and on a DELETE
    /// the SNAPSHOT of what it makes of an empty message. A SNAPSHOT or a DELETE replaces whatever was before it, and
    /// may repeat the revision of `first`. All but the base revision is that of `second`.
    pub fn compose(&self, first: &Patch<'_>, second: &Patch<'_>, out: &mut Vec<u8>) -> Result<(), ComposeError> {
        check_order(&first.head, &second.head)?;
        let composed = |kind, base_revision| PatchHead { kind, base_revision, ..second.head };
        match (first.head.kind, second.head.kind) {
            (_, Kind::Snapshot) => patch::encode(&composed(Kind::Snapshot, 0), &[], second.data, out),
            (_, Kind::Delete) => {
                patch::encode(&composed(Kind::Delete, first.head.base_revision), &[], &[], out);
            }
            (Kind::Delta, _) => {
                let mut data = Vec::new();
                self.apply_paths(first.data, &Paths::resolve(self, &[second.mask])?, second.data, &mut data)?;
                let mut mask = Vec::new();
                Paths::resolve(self, &[first.mask, second.mask])?.encode(self, &mut mask);
                patch::encode(&composed(Kind::Delta, first.head.base_revision), &mask, &data, out);
            }
            (before, _) => {
                let state = if before == Kind::Snapshot { first.data } else { &[] };
                let mut data = Vec::new();
                self.apply(state, second.mask, second.data, &mut data)?;
                patch::encode(&composed(Kind::Snapshot, 0), &[], &data, out);
            }
        }
        Ok(())
    }
}

/// Whether `second` may come after `first`.
fn check_order(first: &PatchHead<'_>, second: &PatchHead<'_>) -> Result<(), ComposeError> {
    if first.key != second.key {
        return Err(ComposeError::Key);
    }
    if first.kind == Kind::Unspecified || second.kind == Kind::Unspecified {
        return Err(ComposeError::Kind);
    }
    let held = (first.epoch, first.revision);
    let follows = match second.kind {
        Kind::Delta if first.epoch != second.epoch || first.type_name != second.type_name => {
            return Err(ComposeError::Lineage);
        }
        Kind::Delta => second.base_revision <= first.revision && first.revision < second.revision,
        _ => held <= (second.epoch, second.revision),
    };
    if follows {
        Ok(())
    } else {
        Err(ComposeError::Revisions(first.revision, second.base_revision, second.revision))
    }
}
