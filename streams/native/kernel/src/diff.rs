//! The diff of two encodings of one message.

use crate::schema::Schema;

pub use crate::canonical::NotCanonical;

/// What changed, in the form that a patch carries it; also the diff's scratch memory, to be reused.
#[derive(Debug, Default)]
pub struct Delta {
    /// The body of a `google.protobuf.FieldMask`: the changed paths.
    pub mask: Vec<u8>,
    /// The partial message: the changed fields, with the (possibly empty) parents of dotted paths.
    pub data: Vec<u8>,
    /// How many paths there are in `mask`.
    pub paths: u32,
    /// How many of them are not ignored.
    pub significant: u32,
}

impl Delta {
    pub fn new() -> Delta {
        Delta::default()
    }

    pub fn clear(&mut self) {
        self.mask.clear();
        self.data.clear();
        self.paths = 0;
        self.significant = 0;
    }
}

/// The outcome of a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The messages are equal, bit for bit.
    None,
    /// Only ignored paths changed, or paths below them; the delta names them.
    Ignored,
    /// The delta names every change.
    Delta,
    /// Unknown fields changed at top level, which no path can name. The delta is meaningless.
    Snapshot,
}

impl Schema {
    /// Finds what leads from `old` to `new`. `old` must be canonical; `new` is checked.
    pub fn diff(&self, _old: &[u8], _new: &[u8], _out: &mut Delta) -> Result<Change, NotCanonical> {
        Err(NotCanonical)
    }
}
