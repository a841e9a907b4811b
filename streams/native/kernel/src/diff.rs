//! The diff of two encodings of one message.
//!
//! Both sides are walked in runs of records; equal bytes are passed over without looking at the new side at all: the
//! old side is canonical, so what equals it is too. Two canonical messages are equal iff their bytes are.

use std::collections::HashSet;

use crate::canonical::{is_known, next_run, Chosen, Run, UNKNOWN};
use crate::patch;
use crate::schema::{Field, Ignored, Message, Schema};
use crate::wire::{self, DEPTH_MAX};

pub use crate::canonical::NotCanonical;

type Checked<T = ()> = Result<T, NotCanonical>;

/// What changed, in the form that a patch carries it; also the diff's scratch memory, to be reused.
#[derive(Debug, Default)]
pub struct Delta {
    /// The body of a `google.protobuf.FieldMask`: the changed paths.
    pub mask: Vec<u8>,
    /// Records of `Patch.numbers`: the same paths as field numbers.
    pub numbers: Vec<u8>,
    /// The partial message: the changed fields, with the (possibly empty) parents of dotted paths.
    pub data: Vec<u8>,
    /// How many paths there are in `mask`.
    pub paths: u32,
    /// How many of them are not ignored.
    pub significant: u32,
    /// Whether unknown fields differ, or may, at whatever level: their order alone may, see [`Schema::align`].
    pub unknown_differ: bool,
    /// The path to the message that is being compared, with its final dot, and as varints.
    prefix: Vec<u8>,
    prefix_numbers: Vec<u8>,
    /// More bytes of paths than this are not written: the patch will be a SNAPSHOT in any case.
    mask_bytes_max: usize,
}

/// Bytes of paths that are written whatever the size of the message. Beyond it, no more than the message has: paths
/// repeat the names above them, so that a deep message could cost many times its own size.
const MASK_BYTES_MIN: usize = 65_536;

/// The tag of `FieldMask.paths`.
const PATHS_TAG: u8 = 0x0a;

impl Delta {
    pub fn new() -> Delta {
        Delta::default()
    }

    pub fn clear(&mut self) {
        self.mask.clear();
        self.numbers.clear();
        self.data.clear();
        self.prefix.clear();
        self.prefix_numbers.clear();
        self.unknown_differ = false;
        self.paths = 0;
        self.significant = 0;
    }

    #[inline]
    fn add_path(&mut self, field: &Field, ignored: bool) {
        self.paths += 1;
        self.significant += !ignored as u32;
        if self.mask.len() > self.mask_bytes_max {
            return;
        }
        if self.prefix.is_empty() {
            self.mask.extend_from_slice(&field.path_record);
            self.numbers.extend_from_slice(&field.numbers_record);
            return;
        }
        self.mask.push(PATHS_TAG);
        wire::put_varint(&mut self.mask, (self.prefix.len() + field.name.len()) as u64);
        self.mask.extend_from_slice(&self.prefix);
        self.mask.extend_from_slice(field.name.as_bytes());
        patch::put_field_path(&mut self.numbers, &self.prefix_numbers, field.number);
    }

    /// Notes that unknown fields differ; false, for [`Schema::diff_message`].
    #[cold]
    fn differ_in_unknown(&mut self) -> bool {
        self.unknown_differ = true;
        false
    }

    /// Where it stands, to go back to with [`Delta::rewind`].
    fn mark(&self) -> Mark {
        let (mask, numbers, data) = (self.mask.len(), self.numbers.len(), self.data.len());
        Mark { mask, numbers, data, paths: self.paths, significant: self.significant }
    }

    fn rewind(&mut self, to: Mark) {
        self.mask.truncate(to.mask);
        self.numbers.truncate(to.numbers);
        self.data.truncate(to.data);
        (self.paths, self.significant) = (to.paths, to.significant);
    }
}

#[derive(Clone, Copy)]
struct Mark {
    mask: usize,
    numbers: usize,
    data: usize,
    paths: u32,
    significant: u32,
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
    /// Unknown fields changed at top level, or a field changed that unknown ones belong to: no path can say that. Or there
    /// are more paths than anybody wants. The delta is meaningless.
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

/// Where two sides meet again that had different fields.
enum Apart<'s> {
    /// Both have the same field here.
    Met(Run<'s>, Run<'s>),
    /// Both are at their end.
    Ended,
    /// One of them has unknown fields here, the other one has not.
    Unknown,
}

impl Schema {
    /// Finds what leads from `old` to `new`. `old` must be canonical; `new` is checked where it differs from it.
    ///
    /// Takes time for every byte and every field once per level of nesting, whatever the messages hold.
    pub fn diff(&self, old: &[u8], new: &[u8], out: &mut Delta) -> Result<Change, NotCanonical> {
        out.clear();
        out.mask_bytes_max = new.len().max(MASK_BYTES_MIN);
        let root = Place { message: self.root(), ignored: Some(&self.ignored), depth: 0 };
        if !self.diff_message(root, old, new, out)? {
            let is_ignored = !out.unknown_differ && out.significant == 0;
            return Ok(if is_ignored { Change::Ignored } else { Change::Snapshot });
        }
        Ok(match (out.paths, out.significant) {
            (0, _) => Change::None,
            (_, 0) => Change::Ignored,
            _ if out.mask.len() > out.mask_bytes_max => Change::Snapshot,
            _ => Change::Delta,
        })
    }

    /// False: unknown fields are part of the change, which only the whole message can express. `new` is checked in any
    /// case but that of unknown fields that differ, behind which nothing known may follow.
    fn diff_message(&self, place: Place, old: &[u8], new: &[u8], out: &mut Delta) -> Checked<bool> {
        if place.depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let (mut a, mut b) = (Cursor::default(), Cursor::default());
        let (named_before, mut members_are_checked) = (out.paths, false);
        loop {
            pass_equal_records(place, old, new, &mut a, &mut b)?;
            let was = next_run(place.message, old, a.pos, a.last, place.depth)?;
            let is = next_run(place.message, new, b.pos, b.last, place.depth)?;
            let (was, is) = match (was, is) {
                (Some(was), Some(is)) if was.number == is.number => (was, is),
                (None, None) => break,
                apart => match self.catch_up(place, old, new, apart, &mut members_are_checked, out)? {
                    Apart::Met(was, is) => (was, is),
                    Apart::Ended => break,
                    Apart::Unknown => return Ok(out.differ_in_unknown()),
                },
            };
            if was.bytes(old) != is.bytes(new) {
                let Some(field) = is.field else { return Ok(out.differ_in_unknown()) };
                self.diff_field(place, field, was.value(old), new, &is, out)?;
            }
            a.pass(&was);
            b.pass(&is);
        }
        let has_unknown = a.last == UNKNOWN && out.paths != named_before;
        Ok(!(has_unknown && changes_beside_unknown(place, old, new)?))
    }

    /// Names what one side alone has, from two runs of different fields on, up to a field that both have. The run of one
    /// side waits meanwhile: read anew for each field that the other one has before it, it would cost its length as often.
    #[inline(never)]
    fn catch_up<'s>(
        &self,
        place: Place<'s>,
        old: &[u8],
        new: &[u8],
        (mut was, mut is): (Option<Run<'s>>, Option<Run<'s>>),
        members_are_checked: &mut bool,
        out: &mut Delta,
    ) -> Checked<Apart<'s>> {
        loop {
            match (&was, &is) {
                (Some(old_run), Some(new_run)) if old_run.number == new_run.number => {
                    return Ok(Apart::Met(*old_run, *new_run));
                }
                (old_run, Some(new_run)) if old_run.as_ref().is_none_or(|run| new_run.number < run.number) => {
                    let Some(field) = new_run.field else { return Ok(Apart::Unknown) };
                    if field.oneof >= 0 && !*members_are_checked {
                        check_members(place, new)?;
                        *members_are_checked = true;
                    }
                    self.replace(place, field, new, new_run, out)?;
                    is = next_run(place.message, new, new_run.end, new_run.number, place.depth)?;
                }
                (Some(old_run), _) => {
                    let Some(field) = old_run.field else { return Ok(Apart::Unknown) };
                    out.add_path(field, place.is_ignored(field));
                    was = next_run(place.message, old, old_run.end, old_run.number, place.depth)?;
                }
                (None, _) => return Ok(Apart::Ended),
            }
        }
    }

    /// A field that both sides have, with different bytes.
    #[inline]
    fn diff_field(&self, place: Place, field: &Field, was: &[u8], new: &[u8], is: &Run, out: &mut Delta) -> Checked {
        if !field.is_single_message() {
            // In lists and maps, which are named whole, nobody looks for unknown fields before it is asked for.
            out.unknown_differ |= self.has_extensions && field.kind.is_message();
            self.replace(place, field, new, is, out)
        } else if field.is_named_whole {
            self.diff_closed(place, field, was, new, is, out)
        } else {
            self.diff_nested(place, field, was, new, is, out)
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
        let (mark, prefix, prefix_numbers) = (out.mark(), out.prefix.len(), out.prefix_numbers.len());
        let inner = Place { message: self.message(field.child), ignored: place.ignored(field), depth: place.depth + 1 };
        out.prefix.extend_from_slice(field.name.as_bytes());
        out.prefix.push(b'.');
        wire::put_varint(&mut out.prefix_numbers, field.number as u64);
        wire::put_varint(&mut out.data, field.tag as u64);
        let is_group = field.tag & 7 == wire::START_GROUP;
        let start = if is_group { 0 } else { wire::open_len(&mut out.data) };
        let nameable = self.diff_message(inner, was, is.value(new), out);
        out.prefix.truncate(prefix);
        out.prefix_numbers.truncate(prefix_numbers);
        match (nameable?, is_group) {
            (true, true) => wire::put_varint(&mut out.data, field.tag as u64 + 1),
            (true, false) => wire::close_len(&mut out.data, start),
            (false, _) => {
                // Beside unknown fields that stay as they are, what changed may be ignored all the same.
                let ignored = place.is_ignored(field) || (!out.unknown_differ && out.significant == mark.significant);
                out.rewind(mark);
                out.add_path(field, ignored);
                out.data.extend_from_slice(is.bytes(new));
            }
        }
        Ok(())
    }

    /// The same for a message that no path leads into: it is named whole, ignored iff all that changed in it is.
    fn diff_closed(&self, place: Place, field: &Field, was: &[u8], new: &[u8], is: &Run, out: &mut Delta) -> Checked {
        if place.ignored(field).is_none() {
            return self.replace(place, field, new, is, out);
        }
        let mark = out.mark();
        self.diff_nested(place, field, was, new, is, out)?;
        let ignored = out.significant == mark.significant;
        out.rewind(mark);
        out.add_path(field, ignored);
        out.data.extend_from_slice(is.bytes(new));
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
fn check_members(place: Place, new: &[u8]) -> Checked {
    let (mut at, mut chosen) = (Cursor::default(), Chosen::default());
    while let Some(run) = next_run(place.message, new, at.pos, at.last, place.depth)? {
        if let Some(member) = run.field.filter(|field| field.oneof >= 0) {
            chosen.add(place.message, member)?;
        }
        at.pass(&run);
    }
    Ok(())
}

/// Whether a field differs whose number also stands among the unknown fields, or whose oneof has such a member: values
/// that a closed enum here does not declare. Whoever knows them takes them for the field's own, and would clear them
/// with it. The unknown fields of both sides are equal.
#[cold]
fn changes_beside_unknown(place: Place, old: &[u8], new: &[u8]) -> Checked<bool> {
    let mut at = Cursor::default();
    let mut tail = &new[new.len()..];
    while let Some(run) = next_run(place.message, new, at.pos, at.last, place.depth)? {
        if run.field.is_none() {
            tail = run.bytes(new);
        }
        at.pass(&run);
    }
    let known = wire::records(tail).filter_map(|record| place.message.field(record.ok()?.number));
    let (mut numbers, mut oneofs) = (HashSet::new(), HashSet::new());
    for field in known {
        numbers.insert(field.number);
        oneofs.extend((field.oneof >= 0).then_some(field.oneof));
    }
    if numbers.is_empty() {
        return Ok(false);
    }
    let touched = |field: &Field| numbers.contains(&field.number) || oneofs.contains(&field.oneof);
    Ok(runs_of(place, old, touched)? != runs_of(place, new, touched)?)
}

/// The bytes of the fields of one message that `wanted` takes.
fn runs_of<'b>(place: Place, message: &'b [u8], wanted: impl Fn(&Field) -> bool) -> Checked<Vec<&'b [u8]>> {
    let (mut at, mut runs) = (Cursor::default(), Vec::new());
    while let Some(run) = next_run(place.message, message, at.pos, at.last, place.depth)? {
        if run.field.is_some_and(&wanted) {
            runs.push(run.bytes(message));
        }
        at.pass(&run);
    }
    Ok(runs)
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
    fn a_field_is_never_named_whose_number_stands_among_the_unknown_ones() {
        let undeclared = |number| int(number, 99);
        for (old, new) in [
            (vec![int(15, 1), undeclared(15)], vec![int(15, 1), int(15, 2), undeclared(15)]),
            (vec![int(15, 1), undeclared(15)], vec![undeclared(15)]),
            (vec![undeclared(15)], vec![int(15, 1), undeclared(15)]),
            (vec![len(16, [1]), undeclared(16)], vec![len(16, [1, 2]), undeclared(16)]),
            (vec![int(10, 1), undeclared(10)], vec![int(10, 2), undeclared(10)]),
            (vec![int(10, 1), undeclared(10)], vec![undeclared(10)]),
        ] {
            assert_eq!(change(&old, &new), Ok(Change::Snapshot), "{old:02x?} {new:02x?}");
            let (inner_old, inner_new) = ([len(40, old.concat())], [len(40, new.concat())]);
            assert_eq!(delta(&inner_old, &inner_new).0, "inner");
            let ignoring =
                |ignore: &[&str], old: &[Vec<u8>], new: &[Vec<u8>]| diff_ignoring(ignore, old, new).map(|it| it.0);
            let names = ["grade", "grades", "marks"];
            assert_eq!(ignoring(&names, &old, &new), Ok(Change::Ignored));
            let below = names.map(|name| format!("inner.{name}"));
            let below: Vec<&str> = below.iter().map(String::as_str).collect();
            assert_eq!(ignoring(&below, &inner_old, &inner_new), Ok(Change::Ignored));
        }
        let beside = |count| [int(1, count), int(15, 1), undeclared(15)];
        assert_eq!(delta(&beside(1), &beside(2)), ("count".into(), int(1, 2)), "another field may change");
    }

    #[test]
    fn a_member_of_a_oneof_is_not_named_beside_an_unknown_member() {
        let old = [len(30, "a"), len(32, "no number")];
        let new = [len(30, "b"), len(32, "no number")];
        assert_eq!(change(&old, &new), Ok(Change::Snapshot));
        assert_eq!(change(&old[1..], &new), Ok(Change::Snapshot));
    }

    #[test]
    fn numbers_tell_the_same_paths() {
        let numbers_of = |old: &[Vec<u8>], new: &[Vec<u8>]| {
            let (schema, mut delta) = (zoo::schema(), Delta::new());
            assert_eq!(schema.diff(&old.concat(), &new.concat(), &mut delta), Ok(Change::Delta));
            patch::field_paths(&delta.numbers).flatten().collect::<Vec<_>>()
        };
        assert_eq!(numbers_of(&[int(1, 1)], &[int(1, 2), int(3000, 1)]), [vec![1], vec![3000]]);
        let deep = |a| [len(40, len(40, group(12, int(1, a))))];
        assert_eq!(numbers_of(&deep(1), &deep(2)), [vec![40, 40, 12, 1]]);
        let unknown = [len(11, [int(1, 2), int(900, 1)].concat())];
        assert_eq!(numbers_of(&[len(11, int(1, 1))], &unknown), [vec![11]]);
    }

    #[test]
    fn no_path_leads_into_a_type_of_protobufs_own() {
        let time = |ignore: &[&str], seconds, nanos| {
            let mut specs = zoo::specs();
            specs[1].full_name = "google.protobuf.Leaf".into();
            let ignore: Vec<String> = ignore.iter().map(|path| path.to_string()).collect();
            let schema = crate::schema::Schema::new(specs, &ignore).expect("sound");
            let leaf = |a, s: &str| len(11, [int(1, a), len(2, s)].concat());
            let mut delta = Delta::new();
            let change = schema.diff(&leaf(1, "x"), &leaf(seconds, nanos), &mut delta).expect("canonical");
            let whole = delta.data == leaf(seconds, nanos) && delta.mask == zoo::mask(&["leaf"]);
            (change, whole)
        };
        assert_eq!(time(&[], 2, "x"), (Change::Delta, true));
        assert_eq!(time(&["leaf.a"], 2, "x"), (Change::Ignored, true));
        assert_eq!(time(&["leaf.a"], 2, "y"), (Change::Delta, true));
        assert_eq!(time(&["leaf"], 2, "y"), (Change::Ignored, true));
    }

    #[test]
    fn paths_that_outgrow_the_message_are_not_written_on() {
        let name = "n".repeat(300);
        let field = |number, kind, flags, child, name: &str| crate::schema::FieldSpec {
            number,
            kind,
            flags,
            child,
            oneof: -1,
            name: name.into(),
            values: None,
        };
        use crate::schema::{Kind, MessageSpec, IMPLICIT};
        let mut fields: Vec<_> =
            (2..2_000).map(|number| field(number, Kind::Int32, IMPLICIT, 0, &format!("f{number}"))).collect();
        fields.push(field(1, Kind::Message, 0, 0, &name));
        let schema = Schema::new(vec![MessageSpec { full_name: "a.B".into(), fields }], &[]).expect("sound");
        let nested = |value| (0..20).fold((2..2_000).flat_map(|n| int(n, value)).collect(), |inner, _| len(1, inner));
        let (mut delta, old, new): (_, Vec<u8>, Vec<u8>) = (Delta::new(), nested(1), nested(2));
        assert_eq!(schema.diff(&old, &new, &mut delta), Ok(Change::Snapshot));
        assert_eq!(delta.paths, 1_998);
        assert!(delta.mask.len() < MASK_BYTES_MIN + 20 * 302 + 10, "{} bytes of paths", delta.mask.len());
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
