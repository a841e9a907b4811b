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
    /// They are of another descriptor, by which alone what they make together can be written canonically.
    Descriptor,
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
            ComposeError::Descriptor => f.write_str("the patches are of another descriptor, which is needed to compose them"),
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
    ///
    /// The result has the digest of `second`, so its data must be what the owner would write. Two deltas of an owner with
    /// another descriptor can be composed by their field numbers as long as only named fields come together; what lies in
    /// a SNAPSHOT, or in a message that the first one names whole, has unknown fields whose place the owner alone knows.
    pub fn compose(&self, first: &Patch<'_>, second: &Patch<'_>, out: &mut Vec<u8>) -> Result<(), ComposeError> {
        check_order(&first.head, &second.head)?;
        let composed = |kind, base_revision| PatchHead { kind, base_revision, ..second.head };
        match (first.head.kind, second.head.kind) {
            (_, Kind::Snapshot) => patch::encode(&composed(Kind::Snapshot, 0), &[], &[], second.data, out),
            (_, Kind::Delete) => {
                patch::encode(&composed(Kind::Delete, first.head.base_revision), &[], &[], &[], out);
            }
            (Kind::Delta | Kind::Snapshot, _)
                if self.is_foreign(first.head.schema) || self.is_foreign(second.head.schema) =>
            {
                let (before, after) = ((first.mask, first.numbers), (second.mask, second.numbers));
                let (later, earlier) = (Paths::resolve(self, &[after])?, Paths::resolve(self, &[before]));
                if first.head.kind == Kind::Snapshot
                    || first.head.schema != second.head.schema
                    || later.lead_into(&earlier?)
                {
                    return Err(ComposeError::Descriptor);
                }
                let (mut data, mut mask, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
                later.merge_partial(first.data, second.data, &mut data)?;
                Paths::resolve(self, &[before, after])?.encode(&mut mask, &mut numbers);
                patch::encode(&composed(Kind::Delta, first.head.base_revision), &mask, &numbers, &data, out);
            }
            (Kind::Delta, _) => {
                let (before, after) = ((first.mask, first.numbers), (second.mask, second.numbers));
                let mut data = Vec::new();
                self.apply_paths(first.data, &Paths::resolve(self, &[after])?, second.data, &mut data)?;
                let (mut mask, mut numbers) = (Vec::new(), Vec::new());
                Paths::resolve(self, &[before, after])?.encode(&mut mask, &mut numbers);
                patch::encode(&composed(Kind::Delta, first.head.base_revision), &mask, &numbers, &data, out);
            }
            (before, _) => {
                let state = if before == Kind::Snapshot { first.data } else { &[] };
                let mut data = Vec::new();
                self.apply(state, second.mask, second.numbers, second.data, &mut data)?;
                patch::encode(&composed(Kind::Snapshot, 0), &[], &[], &data, out);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mask_paths;
    use crate::zoo::{self, int, len, mask};

    fn head(kind: Kind, base_revision: u64, revision: u64) -> PatchHead<'static> {
        PatchHead { key: b"k", epoch: 9, type_name: "zoo.All", kind, base_revision, revision, ..PatchHead::default() }
    }

    /// Kind, base revision, paths and data of the composed patch.
    fn compose(first: &Patch<'_>, second: &Patch<'_>) -> Result<(Kind, u64, String, Vec<u8>), ComposeError> {
        let mut out = Vec::new();
        zoo::schema().compose(first, second, &mut out)?;
        let patch = patch::decode(&out).expect("a patch");
        assert_eq!((patch.head.revision, patch.head.digest), (second.head.revision, second.head.digest));
        let paths: Vec<&str> = mask_paths(patch.mask).map(|path| path.expect("sound")).collect();
        Ok((patch.head.kind, patch.head.base_revision, paths.join(" "), patch.data.to_vec()))
    }

    /// What two deltas, given by paths and data, become.
    fn deltas(first: (&[&str], Vec<u8>), second: (&[&str], Vec<u8>)) -> (String, Vec<u8>) {
        let (first_mask, second_mask) = (mask(first.0), mask(second.0));
        let first = Patch { head: head(Kind::Delta, 1, 2), mask: &first_mask, numbers: &[], data: &first.1 };
        let second = Patch { head: head(Kind::Delta, 2, 3), mask: &second_mask, numbers: &[], data: &second.1 };
        let (kind, base, paths, data) = compose(&first, &second).expect("they follow each other");
        assert_eq!((kind, base), (Kind::Delta, 1));
        (paths, data)
    }

    #[test]
    fn no_path_is_dropped_and_the_later_value_wins() {
        let composed = deltas((&["count", "name"], int(1, 1)), (&["count", "total"], int(1, 2)));
        assert_eq!(composed, ("count name total".into(), int(1, 2)));
        assert_eq!(deltas((&["count"], int(1, 1)), (&["count"], vec![])), ("count".into(), vec![]));
    }

    #[test]
    fn a_whole_message_covers_what_changes_in_it_later() {
        let leaf = |fields: &[Vec<u8>]| len(11, fields.concat());
        let whole = leaf(&[int(1, 1), len(2, "s")]);
        assert_eq!(
            deltas((&["leaf"], whole.clone()), (&["leaf.a"], leaf(&[int(1, 2)]))),
            ("leaf".into(), leaf(&[int(1, 2), len(2, "s")]))
        );
        assert_eq!(deltas((&["leaf"], whole.clone()), (&["leaf.a"], leaf(&[]))), ("leaf".into(), leaf(&[len(2, "s")])));
        assert_eq!(deltas((&["leaf.a"], leaf(&[int(1, 2)])), (&["leaf"], vec![])), ("leaf".into(), vec![]));
        assert_eq!(deltas((&["leaf.a"], leaf(&[int(1, 2)])), (&["leaf"], whole.clone())), ("leaf".into(), whole));
    }

    #[test]
    fn parents_of_dotted_paths_stay() {
        let leaf = |fields: Vec<u8>| len(11, fields);
        assert_eq!(
            deltas((&["leaf.a"], leaf(int(1, 1))), (&["leaf.a"], leaf(vec![]))),
            ("leaf.a".into(), leaf(vec![]))
        );
    }

    #[test]
    fn an_absolute_patch_replaces_what_was_before_it() {
        let paths = mask(&["count"]);
        let (one, two) = (int(1, 1), int(1, 2));
        let delta = Patch { head: head(Kind::Delta, 1, 2), mask: &paths, numbers: &[], data: &one };
        let snapshot = Patch { head: head(Kind::Snapshot, 0, 3), mask: patch::SNAPSHOT_MASK, numbers: &[], data: &two };
        let delete = Patch { head: head(Kind::Delete, 2, 3), ..Patch::default() };
        assert_eq!(compose(&delta, &snapshot), Ok((Kind::Snapshot, 0, "*".into(), two.clone())));
        assert_eq!(compose(&delete, &snapshot), Ok((Kind::Snapshot, 0, "*".into(), two.clone())));
        assert_eq!(compose(&snapshot, &snapshot), Ok((Kind::Snapshot, 0, "*".into(), two.clone())));
        assert_eq!(compose(&delta, &delete), Ok((Kind::Delete, 1, String::new(), vec![])));
    }

    #[test]
    fn a_delta_on_a_snapshot_gives_the_snapshot_after_it() {
        let paths = mask(&["count"]);
        let (state, one) = ([int(1, 5), len(2, "a")].concat(), int(1, 1));
        let snapshot =
            Patch { head: head(Kind::Snapshot, 0, 2), mask: patch::SNAPSHOT_MASK, numbers: &[], data: &state };
        let delta = Patch { head: head(Kind::Delta, 2, 3), mask: &paths, numbers: &[], data: &one };
        assert_eq!(compose(&snapshot, &delta), Ok((Kind::Snapshot, 0, "*".into(), [int(1, 1), len(2, "a")].concat())));
        let delete = Patch { head: head(Kind::Delete, 1, 2), ..Patch::default() };
        assert_eq!(compose(&delete, &delta), Ok((Kind::Snapshot, 0, "*".into(), one.clone())));
    }

    #[test]
    fn a_delta_that_does_not_follow_is_refused() {
        let first = Patch { head: head(Kind::Delta, 3, 5), ..Patch::default() };
        let refused = |second: PatchHead<'_>| compose(&first, &Patch { head: second, ..Patch::default() }).err();
        assert_eq!(refused(head(Kind::Delta, 5, 6)), None);
        assert_eq!(refused(head(Kind::Delta, 4, 6)), None, "its span covers revision 5");
        assert_eq!(refused(head(Kind::Delta, 6, 7)), Some(ComposeError::Revisions(5, 6, 7)));
        assert_eq!(refused(head(Kind::Delta, 4, 5)), Some(ComposeError::Revisions(5, 4, 5)));
        assert_eq!(refused(head(Kind::Snapshot, 0, 4)), Some(ComposeError::Revisions(5, 0, 4)));
        assert_eq!(refused(PatchHead { key: b"other", ..head(Kind::Delta, 5, 6) }), Some(ComposeError::Key));
        assert_eq!(refused(PatchHead { epoch: 10, ..head(Kind::Delta, 5, 6) }), Some(ComposeError::Lineage));
        assert_eq!(refused(PatchHead { type_name: "a.B", ..head(Kind::Delta, 5, 6) }), Some(ComposeError::Lineage));
        assert_eq!(refused(head(Kind::Unspecified, 5, 6)), Some(ComposeError::Kind));
        assert_eq!(refused(PatchHead { epoch: 10, ..head(Kind::Snapshot, 0, 1) }), None);
    }

    #[test]
    fn numbers_are_united_with_their_names_whatever_this_schema_calls_them() {
        let (first_mask, second_mask) = (mask(&["count", "brand_new"]), mask(&["inner.newer", "renamed"]));
        let numbers = |paths: &[&[u32]]| {
            let mut records = Vec::new();
            paths.iter().for_each(|path| patch::put_path(&mut records, path));
            records
        };
        let (first_numbers, second_numbers) = (numbers(&[&[1], &[700]]), numbers(&[&[40, 800], &[1]]));
        let (one, two) = ([int(1, 1), int(700, 5)].concat(), [int(1, 2), len(40, int(800, 6))].concat());
        let first = Patch { head: head(Kind::Delta, 1, 2), mask: &first_mask, numbers: &first_numbers, data: &one };
        let second = Patch { head: head(Kind::Delta, 2, 3), mask: &second_mask, numbers: &second_numbers, data: &two };
        let mut out = Vec::new();
        zoo::schema().compose(&first, &second, &mut out).expect("they follow each other");
        let composed = patch::decode(&out).expect("a patch");
        let paths: Vec<&str> = mask_paths(composed.mask).flatten().collect();
        assert_eq!(paths, ["renamed", "inner.newer", "brand_new"]);
        let found: Vec<Vec<u32>> = patch::field_paths(composed.numbers).flatten().collect();
        assert_eq!(found, [vec![1], vec![40, 800], vec![700]]);
        assert_eq!(composed.data, [int(1, 2), len(40, int(800, 6)), int(700, 5)].concat());
    }

    #[test]
    fn deltas_of_another_descriptor_are_composed_by_their_numbers_or_not_at_all() {
        let schema = zoo::schema().with_fingerprint(5);
        let numbers = |paths: &[&[u32]]| {
            let mut records = Vec::new();
            paths.iter().for_each(|path| patch::put_path(&mut records, path));
            records
        };
        let (mask, other) = (mask(&["x"]), mask(&["y"]));
        let composed = |first: (&[u32], Vec<u8>), second: (&[u32], Vec<u8>), kind, schemas: [u64; 2]| {
            let (first_numbers, second_numbers) = (numbers(&[first.0]), numbers(&[second.0]));
            let head = |kind, base, revision, schema| PatchHead { schema, ..head(kind, base, revision) };
            let first =
                Patch { head: head(kind, 1, 2, schemas[0]), mask: &mask, numbers: &first_numbers, data: &first.1 };
            let second = Patch {
                head: head(Kind::Delta, 2, 3, schemas[1]),
                mask: &other,
                numbers: &second_numbers,
                data: &second.1,
            };
            let mut out = Vec::new();
            schema.compose(&first, &second, &mut out)?;
            Ok(patch::decode(&out).expect("a patch").data.to_vec())
        };
        let delta = |first, second| composed(first, second, Kind::Delta, [9, 9]);
        // 25 is unknown here and lies among known ones
        assert_eq!(delta((&[25], int(25, 1)), (&[30], len(30, "a"))), Ok([int(25, 1), len(30, "a")].concat()));
        assert_eq!(delta((&[30], len(30, "a")), (&[25], int(25, 1))), Ok([int(25, 1), len(30, "a")].concat()));
        assert_eq!(delta((&[25], int(25, 1)), (&[25], int(25, 2))), Ok(int(25, 2)));
        let inner = |fields: Vec<u8>| len(26, fields);
        assert_eq!(
            delta((&[26, 7], inner(int(7, 1))), (&[26, 3], inner(int(3, 1)))),
            Ok(inner([int(3, 1), int(7, 1)].concat()))
        );
        assert_eq!(delta((&[26, 7], inner(int(7, 1))), (&[26, 7], inner(vec![]))), Ok(inner(vec![])));
        assert_eq!(delta((&[26, 7], inner(int(7, 1))), (&[26], vec![])), Ok(vec![]));
        assert_eq!(delta((&[26], inner(int(7, 1))), (&[26, 7], inner(vec![]))), Err(ComposeError::Descriptor));
        assert_eq!(
            composed((&[25], int(1, 1)), (&[25], int(25, 1)), Kind::Snapshot, [9, 9]),
            Err(ComposeError::Descriptor)
        );
        assert_eq!(composed((&[25], vec![]), (&[25], vec![]), Kind::Delta, [9, 8]), Err(ComposeError::Descriptor));
        assert_eq!(composed((&[1], int(1, 1)), (&[1], int(1, 2)), Kind::Snapshot, [5, 5]), Ok(int(1, 2)));
    }

    #[test]
    fn a_path_that_the_schema_lacks_is_refused() {
        let paths = mask(&["nothing"]);
        let first = Patch { head: head(Kind::Delta, 1, 2), ..Patch::default() };
        let second = Patch { head: head(Kind::Delta, 2, 3), mask: &paths, numbers: &[], data: &[] };
        let expected = ComposeError::Apply(ApplyError::UnknownPath("nothing".into()));
        assert_eq!(compose(&first, &second), Err(expected));
    }
}
