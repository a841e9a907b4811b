//! The diff of two encodings of one message.
//!
//! Both sides are walked in runs of records; equal bytes are passed over without looking at the new side at all: the
//! old side is canonical, so what equals it is too. Two canonical messages are equal iff their bytes are.

use crate::canonical::{is_known, next_run, Run, UNKNOWN};
use crate::schema::{Field, Ignored, Message, Schema};
use crate::wire::{self, DEPTH_MAX};

pub use crate::canonical::NotCanonical;

type Checked<T = ()> = Result<T, NotCanonical>;

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
    /// The path to the message that is being compared, with its final dot.
    prefix: Vec<u8>,
}

/// The tag of `FieldMask.paths`.
const PATHS_TAG: u8 = 0x0a;

impl Delta {
    pub fn new() -> Delta {
        Delta::default()
    }

    pub fn clear(&mut self) {
        self.mask.clear();
        self.data.clear();
        self.prefix.clear();
        self.paths = 0;
        self.significant = 0;
    }

    #[inline]
    fn add_path(&mut self, field: &Field, ignored: bool) {
        self.mask.push(PATHS_TAG);
        wire::put_varint(&mut self.mask, (self.prefix.len() + field.name.len()) as u64);
        self.mask.extend_from_slice(&self.prefix);
        self.mask.extend_from_slice(field.name.as_bytes());
        self.paths += 1;
        self.significant += !ignored as u32;
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

/// The message type that is being compared, and where.
#[derive(Clone, Copy)]
struct Place<'s> {
    message: &'s Message,
    /// What of it is ignored.
    ignored: Option<&'s Ignored>,
    depth: u32,
}

impl<'s> Place<'s> {
    #[inline]
    fn ignored(&self, field: &Field) -> Option<&'s Ignored> {
        self.ignored?.field(field.number)
    }

    #[inline]
    fn is_ignored(&self, field: &Field) -> bool {
        self.ignored(field).is_some_and(Ignored::is_whole)
    }
}

/// How far one side has been walked: where its next run starts, and the number of the run before.
#[derive(Clone, Copy, Default)]
struct Cursor {
    pos: usize,
    last: u32,
}

impl Cursor {
    #[inline(always)]
    fn pass(&mut self, run: &Run) {
        *self = Cursor { pos: run.end, last: run.number };
    }
}

impl Schema {
    /// Finds what leads from `old` to `new`. `old` must be canonical; `new` is checked where it differs from it.
    pub fn diff(&self, old: &[u8], new: &[u8], out: &mut Delta) -> Result<Change, NotCanonical> {
        out.clear();
        let root = Place { message: self.root(), ignored: Some(&self.ignored), depth: 0 };
        if !self.diff_message(root, old, new, out)? {
            return Ok(Change::Snapshot);
        }
        Ok(match (out.paths, out.significant) {
            (0, _) => Change::None,
            (_, 0) => Change::Ignored,
            _ => Change::Delta,
        })
    }

    /// False: unknown fields differ, which only the whole message can express. `new` is checked in any case.
    fn diff_message(&self, place: Place, old: &[u8], new: &[u8], out: &mut Delta) -> Checked<bool> {
        if place.depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let (mut a, mut b) = (Cursor::default(), Cursor::default());
        loop {
            pass_equal_records(place, old, new, &mut a, &mut b)?;
            let was = next_run(place.message, old, a.pos, a.last, place.depth)?;
            let is = next_run(place.message, new, b.pos, b.last, place.depth)?;
            let Some(is) = is.filter(|is| was.is_none_or(|was| is.number <= was.number)) else {
                let Some(was) = was else { return Ok(true) };
                let Some(field) = was.field else { return Ok(false) };
                out.add_path(field, place.is_ignored(field));
                a.pass(&was);
                continue;
            };
            if let Some(was) = was.filter(|was| was.number == is.number) {
                if was.bytes(old) != is.bytes(new) {
                    let Some(field) = is.field else { return Ok(false) };
                    self.diff_field(place, field, was.value(old), new, &is, out)?;
                }
                a.pass(&was);
            } else {
                let Some(field) = is.field else { return Ok(false) };
                if field.oneof >= 0 {
                    check_only_member(place, field, new)?;
                }
                self.replace(place, field, new, &is, out)?;
            }
            b.pass(&is);
        }
    }

    /// A field that both sides have, with different bytes.
    #[inline]
    fn diff_field(&self, place: Place, field: &Field, was: &[u8], new: &[u8], is: &Run, out: &mut Delta) -> Checked {
        if field.is_single_message() {
            self.diff_nested(place, field, was, new, is, out)
        } else {
            self.replace(place, field, new, is, out)
        }
    }

    /// The whole field is new.
    #[inline]
    fn replace(&self, place: Place, field: &Field, new: &[u8], is: &Run, out: &mut Delta) -> Checked {
        self.check_run(field, new, is, place.depth)?;
        out.add_path(field, place.is_ignored(field));
        out.data.extend_from_slice(is.bytes(new));
        Ok(())
    }

    /// A message on both sides: dotted paths to what changed in it, or the whole of it where no path can say that.
    fn diff_nested(&self, place: Place, field: &Field, was: &[u8], new: &[u8], is: &Run, out: &mut Delta) -> Checked {
        let (mask_len, data_len, prefix_len) = (out.mask.len(), out.data.len(), out.prefix.len());
        let (paths, significant) = (out.paths, out.significant);
        let inner = Place { message: self.message(field.child), ignored: place.ignored(field), depth: place.depth + 1 };
        out.prefix.extend_from_slice(field.name.as_bytes());
        out.prefix.push(b'.');
        wire::put_varint(&mut out.data, field.tag as u64);
        let is_group = field.tag & 7 == wire::START_GROUP;
        let start = if is_group { 0 } else { wire::open_len(&mut out.data) };
        let nameable = self.diff_message(inner, was, is.value(new), out);
        out.prefix.truncate(prefix_len);
        match (nameable?, is_group) {
            (true, true) => wire::put_varint(&mut out.data, field.tag as u64 + 1),
            (true, false) => wire::close_len(&mut out.data, start),
            (false, _) => {
                out.mask.truncate(mask_len);
                out.data.truncate(data_len);
                (out.paths, out.significant) = (paths, significant);
                out.add_path(field, place.is_ignored(field));
                out.data.extend_from_slice(is.bytes(new));
            }
        }
        Ok(())
    }
}

/// Moves both sides behind the whole records that are equal byte by byte. Looks at the old side's tags only.
#[inline]
fn pass_equal_records(place: Place, old: &[u8], new: &[u8], a: &mut Cursor, b: &mut Cursor) -> Checked {
    let from = a.pos;
    let limit = from + common_prefix(&old[from..], &new[b.pos..]);
    let (mut pos, mut run_start, mut record, mut content, mut tag) = (from, from, from, from, 0);
    while pos < limit {
        let mut value = pos;
        let next_tag = wire::read_tag(old, &mut value)?;
        let next = wire::read_value(old, value, next_tag, place.depth)?.next;
        if next > limit {
            break;
        }
        if next_tag != tag {
            run_start = pos;
        }
        (tag, record, content, pos) = (next_tag, pos, value, next);
    }
    if pos == from {
        return Ok(());
    }
    let mut last = UNKNOWN;
    if let Some(field) = place.message.field(tag >> 3) {
        if is_known(field, tag, old, content)? {
            last = field.number;
            let tag_bytes = &old[record..content];
            let new_pos = b.pos + (pos - from);
            if field.has_runs() && (old[pos..].starts_with(tag_bytes) || new[new_pos..].starts_with(tag_bytes)) {
                // the run goes on and differs further on: it is compared as a whole
                pos = run_start;
                last = field.number - 1;
            }
        }
    }
    b.pos += pos - from;
    *a = Cursor { pos, last };
    b.last = last;
    Ok(())
}

/// A member of a oneof that was not there before must be the only one now.
#[cold]
fn check_only_member(place: Place, member: &Field, new: &[u8]) -> Checked {
    let mut at = Cursor::default();
    while let Some(run) = next_run(place.message, new, at.pos, at.last, place.depth)? {
        if run.field.is_some_and(|field| field.oneof == member.oneof && field.number != member.number) {
            return Err(NotCanonical);
        }
        at.pass(&run);
    }
    Ok(())
}

/// How many bytes `a` and `b` have in common at their start.
#[inline]
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = 8;
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD));
    let mut len = 0;
    for (x, y) in words {
        let differing = word(x) ^ word(y);
        if differing != 0 {
            return len + differing.trailing_zeros() as usize / 8;
        }
        len += WORD;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(x, y)| x == y).count()
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::mask_paths;
    use crate::zoo::{self, group, int, len, Rng};

    /// The change, its paths and its data.
    fn diff_ignoring(
        ignore: &[&str],
        old: &[Vec<u8>],
        new: &[Vec<u8>],
    ) -> Result<(Change, String, Vec<u8>), NotCanonical> {
        let mut delta = Delta::new();
        let change = zoo::schema_ignoring(ignore).diff(&old.concat(), &new.concat(), &mut delta)?;
        let paths: Vec<&str> = mask_paths(&delta.mask).map(|path| path.expect("sound")).collect();
        if change != Change::Snapshot {
            assert_eq!(delta.paths as usize, paths.len());
        }
        Ok((change, paths.join(" "), delta.data))
    }

    fn delta(old: &[Vec<u8>], new: &[Vec<u8>]) -> (String, Vec<u8>) {
        let (change, paths, data) = diff_ignoring(&[], old, new).expect("canonical");
        assert_eq!(change, Change::Delta);
        (paths, data)
    }

    fn change(old: &[Vec<u8>], new: &[Vec<u8>]) -> Result<Change, NotCanonical> {
        diff_ignoring(&[], old, new).map(|(change, ..)| change)
    }

    #[test]
    fn equal_messages_have_no_change() {
        let message = [int(1, 5), len(2, "a"), int(900, 1)];
        assert_eq!(change(&message, &message), Ok(Change::None));
        assert_eq!(change(&[], &[]), Ok(Change::None));
    }

    #[test]
    fn changed_added_and_removed_fields_are_named() {
        let old = [int(1, 5), len(2, "a"), int(3, 1)];
        assert_eq!(delta(&old, &[int(1, 6), len(2, "a"), int(3, 1)]), ("count".into(), int(1, 6)));
        assert_eq!(delta(&old, &[int(1, 5), int(3, 1)]), ("name".into(), vec![]));
        assert_eq!(delta(&old[..2], &old), ("total".into(), int(3, 1)));
        assert_eq!(delta(&old, &[len(2, "a"), int(3, 2)]), ("count total".into(), int(3, 2)));
    }

    #[test]
    fn a_message_on_both_sides_gives_dotted_paths_with_their_parents() {
        let old = [len(11, [int(1, 1), len(2, "a")].concat())];
        assert_eq!(delta(&old, &[len(11, [int(1, 2), len(2, "a")].concat())]), ("leaf.a".into(), len(11, int(1, 2))));
        assert_eq!(delta(&old, &[len(11, len(2, "a"))]), ("leaf.a".into(), len(11, "")));
        let deep = |a| [len(40, len(40, group(12, int(1, a))))];
        assert_eq!(delta(&deep(1), &deep(2)), ("inner.inner.pack.a".into(), deep(2).concat()));
    }

    #[test]
    fn a_message_on_one_side_is_named_whole() {
        let leaf = [len(11, [int(1, 1), len(2, "a")].concat())];
        assert_eq!(delta(&[], &leaf), ("leaf".into(), leaf.concat()));
        assert_eq!(delta(&leaf, &[]), ("leaf".into(), vec![]));
        assert_eq!(delta(&[], &[len(11, "")]), ("leaf".into(), len(11, "")));
    }

    #[test]
    fn repeated_and_map_fields_are_replaced_whole() {
        let tags = [len(14, "a"), len(14, "b"), len(14, "c")];
        let fewer = [len(14, "a"), len(14, "b")];
        assert_eq!(delta(&tags, &fewer), ("tags".into(), fewer.concat()));
        assert_eq!(delta(&fewer, &tags), ("tags".into(), tags.concat()));
        let map = |value| [len(18, [len(1, "k"), len(2, value)].concat())];
        assert_eq!(delta(&map("v"), &map("w")), ("labels".into(), map("w").concat()));
        let leaves = |a| [len(17, int(1, a))];
        assert_eq!(delta(&leaves(1), &leaves(2)), ("leaves".into(), leaves(2).concat()));
    }

    #[test]
    fn a_oneof_switch_names_both_members() {
        assert_eq!(delta(&[len(30, "a")], &[int(32, 0)]), ("word number".into(), int(32, 0)));
        assert_eq!(delta(&[int(32, 0)], &[len(30, "a")]), ("word number".into(), len(30, "a")));
        assert_eq!(change(&[len(30, "a")], &[len(30, "a"), int(32, 0)]), Err(NotCanonical));
        assert_eq!(change(&[int(32, 0)], &[len(30, "a"), int(32, 0)]), Err(NotCanonical));
    }

    #[test]
    fn unknown_fields_at_top_level_make_a_snapshot() {
        assert_eq!(change(&[int(1, 1)], &[int(1, 1), int(900, 1)]), Ok(Change::Snapshot));
        assert_eq!(change(&[int(1, 1), int(900, 1)], &[int(1, 2)]), Ok(Change::Snapshot));
        assert_eq!(change(&[int(900, 1)], &[int(900, 2)]), Ok(Change::Snapshot));
        assert_eq!(change(&[int(10, 99)], &[int(10, 98)]), Ok(Change::Snapshot));
        assert_eq!(change(&[int(900, 1)], &[int(900, 1), int(1, 1)]), Err(NotCanonical));
        assert_eq!(change(&[int(10, 99)], &[int(10, 99), len(11, "")]), Err(NotCanonical));
    }

    #[test]
    fn unknown_fields_below_replace_their_message_whole() {
        let old = [len(11, [int(1, 1), len(2, "a")].concat())];
        let new = [len(11, [int(1, 2), len(2, "a"), int(900, 1)].concat())];
        assert_eq!(delta(&old, &new), ("leaf".into(), new.concat()));
        assert_eq!(delta(&new, &old), ("leaf".into(), old.concat()));
    }

    #[test]
    fn other_changes_beside_unknown_fields_stay_minimal() {
        assert_eq!(delta(&[int(1, 1), int(900, 1)], &[int(1, 2), int(900, 1)]), ("count".into(), int(1, 2)));
    }

    #[test]
    fn a_change_of_ignored_paths_alone_is_ignored() {
        let outcome = |ignore: &[&str], old: &[Vec<u8>], new: &[Vec<u8>]| {
            diff_ignoring(ignore, old, new).map(|(change, paths, _)| (change, paths))
        };
        let leaf = |a, s| [len(11, [int(1, a), len(2, s)].concat())];
        assert_eq!(outcome(&["count"], &[int(1, 1)], &[int(1, 2)]), Ok((Change::Ignored, "count".into())));
        assert_eq!(
            outcome(&["count"], &[int(1, 1)], &[int(1, 2), len(2, "x")]),
            Ok((Change::Delta, "count name".into()))
        );
        assert_eq!(outcome(&["leaf.a"], &leaf(1, "x"), &leaf(2, "x")), Ok((Change::Ignored, "leaf.a".into())));
        assert_eq!(outcome(&["leaf.a"], &leaf(1, "x"), &leaf(2, "y")), Ok((Change::Delta, "leaf.a leaf.s".into())));
        assert_eq!(outcome(&["leaf"], &leaf(1, "x"), &leaf(2, "y")), Ok((Change::Ignored, "leaf.a leaf.s".into())));
        assert_eq!(outcome(&["leaf.a"], &[], &leaf(1, "x")), Ok((Change::Delta, "leaf".into())));
        assert_eq!(outcome(&["leaf"], &[], &leaf(1, "x")), Ok((Change::Ignored, "leaf".into())));
        let with_unknown = [len(11, [int(1, 1), int(900, 1)].concat())];
        assert_eq!(outcome(&["leaf.a"], &[len(11, int(1, 1))], &with_unknown), Ok((Change::Delta, "leaf".into())));
    }

    #[test]
    fn bits_count_not_numbers() {
        let level = |bits: u64| [zoo::fixed64(5, bits)];
        assert_eq!(change(&level(f64::NAN.to_bits()), &level(f64::NAN.to_bits())), Ok(Change::None));
        assert_eq!(delta(&[], &level((-0.0f64).to_bits())).0, "level");
    }

    #[test]
    fn the_new_side_is_checked_wherever_it_differs() {
        let old = [int(1, 5), len(14, "a"), len(14, "b")];
        for new in [
            vec![int(1, 5), int(1, 5), len(14, "a")],
            vec![int(1, 0)],
            vec![len(14, "a"), len(14, b"\xff")],
            vec![int(1, 5), len(14, "a"), len(13, [1])],
            vec![int(1, 5), len(11, int(1, 0))],
            vec![int(1, 5), len(18, "")],
            vec![int(1, 5), len(14, "a"), vec![0x72]],
        ] {
            assert_eq!(change(&old, &new), Err(NotCanonical), "{new:02x?}");
        }
    }

    #[test]
    fn the_scratch_memory_can_be_reused_after_a_refusal() {
        let (schema, mut delta) = (zoo::schema(), Delta::new());
        let refused = schema.diff(&len(40, len(40, int(1, 1))), &len(40, len(40, int(1, 0))), &mut delta);
        assert_eq!(refused, Err(NotCanonical));
        assert_eq!(schema.diff(&int(1, 1), &int(1, 2), &mut delta), Ok(Change::Delta));
        assert_eq!((delta.mask, delta.data), (zoo::mask(&["count"]), int(1, 2)));
    }

    #[test]
    fn the_common_prefix_is_found_at_every_length() {
        for len in 0..40 {
            let a = vec![7u8; len];
            assert_eq!(common_prefix(&a, &a), len);
            for at in 0..len {
                let mut b = a.clone();
                b[at] = 9;
                assert_eq!(common_prefix(&a, &b), at);
                assert_eq!(common_prefix(&a, &b[..at]), at);
            }
        }
    }

    #[test]
    fn cut_and_damaged_messages_never_panic_on_either_side() {
        let (schema, mut delta, seed) = (zoo::schema(), Delta::new(), 20_261_122);
        let mut rng = Rng::new(seed);
        for _ in 0..20 {
            let message = zoo::random(&schema, &mut rng);
            for at in 0..message.len() {
                let mut flipped = message.clone();
                flipped[at] ^= 1 << rng.below(8);
                for other in [&message[..at], &flipped] {
                    let _ = schema.diff(&message, other, &mut delta);
                    let _ = schema.diff(other, &message, &mut delta);
                }
            }
        }
    }
}
