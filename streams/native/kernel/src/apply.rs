//! Applying a delta to a message: clear the masked paths, then merge the partial message.
//!
//! One walk over both canonical encodings, so that canonical bytes come out. It does what a stock Protobuf library does
//! that walks each path to its parent (and stops where that is absent), clears the field, and merges `data`.

use std::fmt;

use crate::canonical::{entry_parts, next_run, NotCanonical, Run, UNKNOWN};
use crate::schema::{Field, Message, Schema};
use crate::wire::{self, DEPTH_MAX};

/// Why a delta cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// The mask names a path that the schema does not have, or that leads through a list, a map or a scalar.
    UnknownPath(String),
    /// The mask is no FieldMask.
    DamagedMask,
    /// The partial message is not canonical; what upb makes of it may be.
    DataNotCanonical,
    /// The message to apply it to is not canonical; what upb makes of it may be.
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

/// The paths of a mask as field numbers. A path below another one is left out: clearing the upper one clears it too.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    /// Ascending, none a prefix of another.
    numbers: Vec<Vec<u32>>,
}

impl Paths {
    /// Resolves the bodies of FieldMasks.
    pub(crate) fn resolve(schema: &Schema, masks: &[&[u8]]) -> Result<Paths, ApplyError> {
        let mut numbers = Vec::new();
        for mask in masks {
            for path in mask_paths(mask) {
                let path = path.ok_or(ApplyError::DamagedMask)?;
                numbers.push(schema.path_numbers(path).ok_or_else(|| ApplyError::UnknownPath(path.into()))?);
            }
        }
        numbers.sort();
        numbers.dedup_by(|path, above| path.starts_with(above));
        Ok(Paths { numbers })
    }

    /// The same as the body of a FieldMask.
    pub(crate) fn encode(&self, schema: &Schema, out: &mut Vec<u8>) {
        let mut path = String::new();
        for numbers in &self.numbers {
            path.clear();
            let mut message = schema.root();
            for field in numbers.iter().map_while(|number| message_step(schema, &mut message, *number)) {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&field.name);
            }
            wire::put_len(out, 1, path.as_bytes());
        }
    }
}

fn message_step<'s>(schema: &'s Schema, message: &mut &'s Message, number: u32) -> Option<&'s Field> {
    let field = message.field(number)?;
    if field.is_single_message() {
        *message = schema.message(field.child);
    }
    Some(field)
}

/// The paths in the body of a FieldMask; None for damage.
pub fn mask_paths(mask: &[u8]) -> impl Iterator<Item = Option<&str>> {
    wire::records(mask).filter_map(|record| match record {
        Ok(record) if (record.number, record.wire_type) == (1, wire::LEN) => {
            Some(std::str::from_utf8(record.value).ok())
        }
        Ok(_) => None,
        Err(_) => Some(None),
    })
}

impl Schema {
    /// Appends to `out` what `state` is after a delta: the paths of `mask` (the body of a FieldMask) cleared, then
    /// `data` merged. Both must be canonical; then the result is. After an error the rest of `out` is meaningless.
    pub fn apply(&self, state: &[u8], mask: &[u8], data: &[u8], out: &mut Vec<u8>) -> Result<(), ApplyError> {
        let paths = Paths::resolve(self, &[mask])?;
        self.apply_paths(state, &paths, data, out)
    }

    /// Whether every path of `mask` (the body of a FieldMask) is one of this schema.
    pub fn knows(&self, mask: &[u8]) -> bool {
        Paths::resolve(self, &[mask]).is_ok()
    }

    pub(crate) fn apply_paths(
        &self,
        state: &[u8],
        paths: &Paths,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ApplyError> {
        if !self.is_canonical(data) {
            return Err(ApplyError::DataNotCanonical);
        }
        let place = Place { message: self.root(), depth: 0 };
        self.merge(place, state, Cleared { paths: &paths.numbers, level: 0 }, data, out)
            .map_err(|NotCanonical| ApplyError::StateNotCanonical)
    }

    /// Appends `state` without what is cleared, merged with `data`.
    fn merge(&self, place: Place, state: &[u8], cleared: Cleared, data: &[u8], out: &mut Vec<u8>) -> Checked {
        if place.depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let chosen = chosen_members(place, data)?;
        let (mut held, mut held_last) = (0, 0);
        let (mut come, mut come_last) = (0, 0);
        loop {
            let was = next_run(place.message, state, held, held_last, place.depth)?;
            let is = next_run(place.message, data, come, come_last, place.depth)?;
            let Some(number) = was.iter().chain(&is).map(|run| run.number).min() else { return Ok(()) };
            let was = was.filter(|run| run.number == number);
            let is = is.filter(|run| run.number == number);
            if let Some(run) = was {
                (held, held_last) = (run.end, number);
            }
            if let Some(run) = is {
                (come, come_last) = (run.end, number);
            }
            let Some(field) = place.message.field(number).filter(|_| number != UNKNOWN) else {
                out.extend_from_slice(was.map_or(&[], |run| run.bytes(state)));
                out.extend_from_slice(is.map_or(&[], |run| run.bytes(data)));
                continue;
            };
            let inside = cleared.below(number);
            let displaced = chosen.iter().any(|member| member.oneof == field.oneof && member.number != number);
            let was = was.filter(|_| !inside.is_whole() && !displaced);
            self.merge_field(place, field, was.map(|run| (state, run)), inside, is.map(|run| (data, run)), out)?;
        }
    }

    fn merge_field(
        &self,
        place: Place,
        field: &Field,
        was: Option<(&[u8], Run)>,
        inside: Cleared,
        is: Option<(&[u8], Run)>,
        out: &mut Vec<u8>,
    ) -> Checked {
        match (was, is) {
            (Some((state, was)), is) if field.is_single_message() && (is.is_some() || !inside.paths.is_empty()) => {
                let data = is.map_or(&[][..], |(data, is)| is.value(data));
                let inner = Place { message: self.message(field.child), depth: place.depth + 1 };
                wire::put_varint(out, field.tag as u64);
                if field.tag & 7 == wire::START_GROUP {
                    self.merge(inner, was.value(state), inside, data, out)?;
                    wire::put_varint(out, field.tag as u64 + 1);
                } else {
                    let start = wire::open_len(out);
                    self.merge(inner, was.value(state), inside, data, out)?;
                    wire::close_len(out, start);
                }
            }
            (Some((state, was)), Some((data, is))) if field.is_map() => {
                self.merge_maps(place, field, was.bytes(state), is.bytes(data), out)?;
            }
            (Some((state, was)), Some((data, is))) if field.is_packed() => {
                let (before, after) = (was.value(state), is.value(data));
                wire::put_varint(out, field.tag as u64);
                wire::put_varint(out, (before.len() + after.len()) as u64);
                out.extend_from_slice(before);
                out.extend_from_slice(after);
            }
            (Some((state, was)), Some((data, is))) if field.has_runs() => {
                out.extend_from_slice(was.bytes(state));
                out.extend_from_slice(is.bytes(data));
            }
            (_, Some((data, is))) => out.extend_from_slice(is.bytes(data)),
            (Some((state, was)), None) => out.extend_from_slice(was.bytes(state)),
            (None, None) => {}
        }
        Ok(())
    }

    /// Appends the entries of two maps in the order of their keys; of two with one key the second map's.
    fn merge_maps(&self, place: Place, field: &Field, before: &[u8], after: &[u8], out: &mut Vec<u8>) -> Checked {
        let parts = self.message(field.child).fields();
        let entry_at = |map: &'_ [u8], start: usize| -> Checked<(usize, usize)> {
            let mut pos = start;
            wire::read_tag(map, &mut pos)?;
            let value = wire::read_value(map, pos, field.tag, place.depth)?;
            Ok((value.start, value.next))
        };
        let (mut a, mut b) = (0, 0);
        while a < before.len() && b < after.len() {
            let (a_start, a_next) = entry_at(before, a)?;
            let (b_start, b_next) = entry_at(after, b)?;
            let (a_key, ..) = entry_parts(&before[a_start..a_next], parts, place.depth + 1)?;
            let (b_key, ..) = entry_parts(&after[b_start..b_next], parts, place.depth + 1)?;
            if a_key < b_key {
                out.extend_from_slice(&before[a..a_next]);
            } else {
                out.extend_from_slice(&after[b..b_next]);
                b = b_next;
            }
            if a_key <= b_key {
                a = a_next;
            }
        }
        out.extend_from_slice(&before[a..]);
        out.extend_from_slice(&after[b..]);
        Ok(())
    }
}

type Checked<T = ()> = Result<T, NotCanonical>;

/// The message type that is being merged, and how deep it is nested.
#[derive(Clone, Copy)]
struct Place<'s> {
    message: &'s Message,
    depth: u32,
}

/// The cleared paths that lead into the message at hand: all alike in their first `level` numbers.
#[derive(Clone, Copy)]
struct Cleared<'p> {
    paths: &'p [Vec<u32>],
    level: usize,
}

impl<'p> Cleared<'p> {
    /// The paths that lead to the field `number` or into it.
    fn below(self, number: u32) -> Cleared<'p> {
        let start = self.paths.partition_point(|path| path[self.level] < number);
        let end = self.paths.partition_point(|path| path[self.level] <= number);
        Cleared { paths: &self.paths[start..end], level: self.level + 1 }
    }

    /// Whether the field itself is cleared. Then it is the only path: see [`Paths`].
    fn is_whole(self) -> bool {
        self.paths.first().is_some_and(|path| path.len() == self.level)
    }
}

/// The members of oneofs that `data` sets: merging it clears the others.
fn chosen_members<'s>(place: Place<'s>, data: &[u8]) -> Checked<Vec<&'s Field>> {
    let mut chosen = Vec::new();
    if !place.message.has_oneofs {
        return Ok(chosen);
    }
    let (mut pos, mut last) = (0, 0);
    while let Some(run) = next_run(place.message, data, pos, last, place.depth)? {
        chosen.extend(run.field.filter(|field| field.oneof >= 0));
        (pos, last) = (run.end, run.number);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Delta;
    use crate::zoo::{self, group, int, len, mask, Rng};

    fn apply(state: &[Vec<u8>], paths: &[&str], data: &[Vec<u8>]) -> Result<Vec<u8>, ApplyError> {
        let mut out = Vec::new();
        zoo::schema().apply(&state.concat(), &mask(paths), &data.concat(), &mut out)?;
        Ok(out)
    }

    fn label(key: &str, value: &str) -> Vec<u8> {
        len(18, [len(1, key), len(2, value)].concat())
    }

    #[test]
    fn masked_fields_are_cleared_and_data_is_merged() {
        let state = [int(1, 1), len(2, "a"), int(3, 1)];
        assert_eq!(apply(&state, &["count", "name"], &[int(1, 2)]), Ok([int(1, 2), int(3, 1)].concat()));
        assert_eq!(apply(&state, &[], &[]), Ok(state.concat()));
        assert_eq!(apply(&[], &["count"], &[]), Ok(vec![]));
    }

    #[test]
    fn a_dotted_path_clears_inside_its_parent_and_stops_where_that_is_absent() {
        let leaf = |a: &[Vec<u8>]| len(11, a.concat());
        let state = [leaf(&[int(1, 1), len(2, "s")])];
        assert_eq!(apply(&state, &["leaf.a"], &[leaf(&[])]), Ok(leaf(&[len(2, "s")])));
        assert_eq!(apply(&state, &["leaf.a"], &[leaf(&[int(1, 2)])]), Ok(leaf(&[int(1, 2), len(2, "s")])));
        assert_eq!(apply(&state, &["leaf.a", "leaf.s"], &[]), Ok(leaf(&[])));
        assert_eq!(apply(&[], &["leaf.a", "inner.inner.leaf.a"], &[]), Ok(vec![]));
        let deep = |a| [len(40, [int(3, 1), group(12, int(1, a))].concat())];
        assert_eq!(apply(&deep(1), &["inner.pack.a"], &[len(40, group(12, int(1, 2)))]), Ok(deep(2).concat()));
    }

    #[test]
    fn a_path_covers_those_below_it() {
        let state = [len(11, [int(1, 1), len(2, "s")].concat())];
        for paths in [&["leaf", "leaf.a"], &["leaf.a", "leaf"]] {
            assert_eq!(apply(&state, paths, &[]), Ok(vec![]));
            assert_eq!(apply(&state, paths, &[len(11, int(1, 3))]), Ok(len(11, int(1, 3))));
        }
    }

    #[test]
    fn setting_a_member_of_a_oneof_clears_the_others() {
        assert_eq!(apply(&[len(30, "a")], &[], &[int(32, 1)]), Ok(int(32, 1)));
        assert_eq!(apply(&[int(32, 1)], &["number"], &[len(31, "")]), Ok(len(31, "")));
        assert_eq!(apply(&[len(31, int(1, 1))], &["word"], &[len(31, len(2, "s"))]), {
            Ok(len(31, [int(1, 1), len(2, "s")].concat()))
        });
    }

    #[test]
    fn unmasked_lists_grow_and_unmasked_maps_are_united() {
        assert_eq!(apply(&[len(13, [1])], &[], &[len(13, [2])]), Ok(len(13, [1, 2])));
        assert_eq!(apply(&[len(14, "a")], &[], &[len(14, "b")]), Ok([len(14, "a"), len(14, "b")].concat()));
        assert_eq!(apply(&[len(14, "a")], &["tags"], &[len(14, "b")]), Ok(len(14, "b")));
        let united = apply(&[label("a", "1"), label("c", "1")], &[], &[label("b", "2"), label("c", "2")]);
        assert_eq!(united, Ok([label("a", "1"), label("b", "2"), label("c", "2")].concat()));
    }

    #[test]
    fn unknown_fields_stay_at_the_end() {
        let state = [int(1, 1), int(900, 1)];
        assert_eq!(apply(&state, &["count"], &[int(3, 1)]), Ok([int(3, 1), int(900, 1)].concat()));
        assert_eq!(apply(&state, &[], &[int(901, 1)]), Ok([int(1, 1), int(900, 1), int(901, 1)].concat()));
    }

    #[test]
    fn an_unknown_path_and_a_damaged_mask_are_refused() {
        for path in ["nothing", "leaf.nothing", "tags.x", "labels.key", "name.x", "", "*"] {
            assert_eq!(apply(&[], &[path], &[]), Err(ApplyError::UnknownPath(path.into())));
            assert!(!zoo::schema().knows(&mask(&[path])));
        }
        assert!(zoo::schema().knows(&mask(&["leaf.a", "tags", "labels"])));
        for damaged in [&b"\x0a\x05"[..], b"\x0a\x01\xff"] {
            assert_eq!(zoo::schema().apply(&[], damaged, &[], &mut Vec::new()), Err(ApplyError::DamagedMask));
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        assert_eq!(apply(&[], &[], &[int(1, 0)]), Err(ApplyError::DataNotCanonical));
        assert_eq!(apply(&[int(3, 1), int(1, 1)], &[], &[]), Err(ApplyError::StateNotCanonical));
    }

    #[test]
    fn a_delta_leads_from_the_old_message_to_the_new_one() {
        let (schema, mut delta, mut out) = (zoo::schema(), Delta::new(), Vec::new());
        let mut rng = Rng::new(20_261_122);
        let mut old = zoo::random(&schema, &mut rng);
        for _ in 0..500 {
            let new = zoo::evolve(&schema, schema.root(), &old, &mut rng, 0);
            if schema.diff(&old, &new, &mut delta) != Ok(crate::diff::Change::Snapshot) {
                out.clear();
                schema.apply(&old, &delta.mask, &delta.data, &mut out).expect("its own delta");
                assert_eq!(out, new);
            }
            old = new;
        }
    }

    #[test]
    fn cut_input_never_panics() {
        let schema = zoo::schema();
        let mut rng = Rng::new(20_261_122);
        let (state, data) = (zoo::random(&schema, &mut rng), zoo::random(&schema, &mut rng));
        let paths = mask(&["leaf.sub.s", "pack", "tags", "inner.by_id"]);
        for cut in 0..state.len() {
            let _ = schema.apply(&state[..cut], &paths, &data, &mut Vec::new());
        }
        for cut in 0..data.len() {
            let _ = schema.apply(&state, &paths, &data[..cut], &mut Vec::new());
        }
        for cut in 0..paths.len() {
            let _ = schema.apply(&state, &paths[..cut], &data, &mut Vec::new());
        }
    }
}
