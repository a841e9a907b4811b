//! Applying a delta to a message: clear the masked paths, then merge the partial message.
//!
//! One walk over both canonical encodings, so that canonical bytes come out. It does what a stock Protobuf library does
//! that walks each path to its parent (and stops where that is absent), clears the field, and merges `data`. Beyond that
//! it follows the numbers of a path into fields that this schema does not know: their records stand among the unknown
//! fields, and are cleared and merged there.

use std::collections::HashMap;
use std::fmt;

use crate::canonical::{entry_parts, next_run, Chosen, NotCanonical, Run, UNKNOWN};
use crate::patch::{self, field_paths};
use crate::schema::{Field, Message, Schema};
use crate::wire::{self, DEPTH_MAX};

/// Why a delta cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// The mask names a path that the schema does not have, or that leads through a list, a map or a scalar.
    UnknownPath(String),
    /// The mask is no FieldMask, or its field numbers are none, or not as many as its paths.
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

/// The paths of masks as field numbers, each with its name. A path below another one is left out: clearing the upper one
/// clears it too.
#[derive(Debug, Default)]
pub(crate) struct Paths<'m> {
    /// Ascending by number, none a prefix of another.
    paths: Vec<Path<'m>>,
    /// Whether the patches said these numbers themselves. Else they are of known fields, and unknown ones stay.
    are_given: bool,
}

/// One path; equal and ordered by its numbers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path<'m> {
    numbers: Vec<u32>,
    /// As the mask has it, which is as the patch's owner calls it.
    name: &'m str,
}

impl<'m> Paths<'m> {
    /// Resolves masks (bodies of FieldMasks), each with its records of `Patch.numbers`; empty: by the schema's names.
    pub(crate) fn resolve(schema: &Schema, masks: &[(&'m [u8], &[u8])]) -> Result<Paths<'m>, ApplyError> {
        let mut paths = Vec::new();
        let are_given = masks.iter().all(|(_, numbers)| !numbers.is_empty());
        for (mask, numbers) in masks {
            let mut numbers = (!numbers.is_empty()).then(|| field_paths(numbers));
            for name in mask_paths(mask) {
                let name = name.ok_or(ApplyError::DamagedMask)?;
                let numbers = match &mut numbers {
                    Some(given) => schema.leads_on(given.next().flatten().ok_or(ApplyError::DamagedMask)?),
                    None => schema.path_numbers(name),
                };
                paths.push(Path { numbers: numbers.ok_or_else(|| ApplyError::UnknownPath(name.into()))?, name });
            }
            if numbers.is_some_and(|mut left| left.next().is_some()) {
                return Err(ApplyError::DamagedMask);
            }
        }
        // The sort is stable, so that of two names of one path the later one can be kept.
        paths.sort_by(|one, other| one.numbers.cmp(&other.numbers));
        paths.dedup_by(|path, above| {
            if path.numbers == above.numbers {
                above.name = path.name;
            }
            path.numbers.starts_with(&above.numbers)
        });
        Ok(Paths { paths, are_given })
    }

    /// Whether a path leads into a field that one of `whole` names.
    pub(crate) fn lead_into(&self, whole: &Paths) -> bool {
        self.paths.iter().any(|path| {
            let at = whole.paths.partition_point(|other| other.numbers <= path.numbers);
            let above = whole.paths[..at].last();
            above.is_some_and(|above| above.numbers < path.numbers && path.numbers.starts_with(&above.numbers))
        })
    }

    /// Appends two partial messages as one, by the wire format alone: what `self` names of the first one cleared, then the
    /// second one merged. All fields of both are named by paths, so that ascending numbers are their canonical order.
    pub(crate) fn merge_partial(&self, first: &[u8], second: &[u8], out: &mut Vec<u8>) -> Result<(), ApplyError> {
        let cleared = Cleared { paths: &self.paths, level: 0, are_given: true };
        merge_named(0, first, cleared, second, out).map_err(|NotCanonical| ApplyError::DataNotCanonical)
    }

    /// Appends the same as the body of a FieldMask, and as records of `Patch.numbers`.
    pub(crate) fn encode(&self, mask: &mut Vec<u8>, numbers: &mut Vec<u8>) {
        for path in &self.paths {
            wire::put_len(mask, 1, path.name.as_bytes());
            patch::put_path(numbers, &path.numbers);
        }
    }
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
    ///
    /// `numbers` are the records of `Patch.numbers`; where there are none, the names of the paths decide.
    pub fn apply(
        &self,
        state: &[u8],
        mask: &[u8],
        numbers: &[u8],
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ApplyError> {
        let paths = Paths::resolve(self, &[(mask, numbers)])?;
        self.apply_paths(state, &paths, data, out)
    }

    /// The same by the wire format alone, for bytes that are not canonical here: what this schema does not know may lie
    /// among what it knows. The result holds the right fields, not in canonical form.
    ///
    /// Right for what an owner emits: every field of `data` is named by a path, or leads to one that is.
    pub fn splice(
        &self,
        state: &[u8],
        mask: &[u8],
        numbers: &[u8],
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ApplyError> {
        let paths = Paths::resolve(self, &[(mask, numbers)])?;
        let cleared = Cleared { paths: &paths.paths, level: 0, are_given: true };
        merge_unknown(None, 0, state, cleared, data, out).map_err(|NotCanonical| ApplyError::StateNotCanonical)
    }

    /// Whether every path of `mask` (the body of a FieldMask) can be followed: by its name, or by its `numbers`.
    pub fn knows(&self, mask: &[u8], numbers: &[u8]) -> bool {
        Paths::resolve(self, &[(mask, numbers)]).is_ok()
    }

    /// The path, if it does not lead through a field that is here a list, a map or a scalar: what is below such a one
    /// cannot be cleared. A field that is not known leads on.
    fn leads_on(&self, numbers: Vec<u32>) -> Option<Vec<u32>> {
        let (_, parents) = numbers.split_last()?;
        let mut message = Some(self.root());
        for number in parents {
            let field = message.and_then(|message| message.field(*number));
            if field.is_some_and(|field| !field.is_single_message()) {
                return None;
            }
            message = field.map(|field| self.message(field.child));
        }
        Some(numbers)
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
        let cleared = Cleared { paths: &paths.paths, level: 0, are_given: paths.are_given };
        self.merge(place, state, cleared, data, out).map_err(|NotCanonical| ApplyError::StateNotCanonical)
    }

    /// Appends `state` without what is cleared, merged with `data`.
    fn merge(&self, place: Place, state: &[u8], cleared: Cleared, data: &[u8], out: &mut Vec<u8>) -> Checked {
        if place.depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let chosen = chosen_members(place, data)?;
        let (mut held, mut held_last) = (0, 0);
        let (mut come, mut come_last) = (0, 0);
        // Runs that are read and not yet passed, so that none is read twice.
        let (mut held_run, mut come_run) = (None, None);
        loop {
            if held_run.is_none() {
                held_run = next_run(place.message, state, held, held_last, place.depth)?;
            }
            if come_run.is_none() {
                come_run = next_run(place.message, data, come, come_last, place.depth)?;
            }
            let Some(number) = held_run.iter().chain(&come_run).map(|run| run.number).min() else { return Ok(()) };
            let was = held_run.take_if(|run| run.number == number);
            let is = come_run.take_if(|run| run.number == number);
            if let Some(run) = was {
                (held, held_last) = (run.end, number);
            }
            if let Some(run) = is {
                (come, come_last) = (run.end, number);
            }
            let Some(field) = place.message.field(number).filter(|_| number != UNKNOWN) else {
                let (was, is) =
                    (was.map_or(&[][..], |run| run.bytes(state)), is.map_or(&[][..], |run| run.bytes(data)));
                merge_unknown(Some(place.message), place.depth, was, cleared, is, out)?;
                continue;
            };
            let inside = cleared.below(number);
            let was = was.filter(|_| !inside.is_whole() && !chosen.displaces(field));
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
    paths: &'p [Path<'p>],
    level: usize,
    are_given: bool,
}

impl<'p> Cleared<'p> {
    /// The paths that lead to the field `number` or into it.
    fn below(self, number: u32) -> Cleared<'p> {
        let start = self.paths.partition_point(|path| path.numbers[self.level] < number);
        let end = start + self.paths[start..].partition_point(|path| path.numbers[self.level] <= number);
        Cleared { paths: &self.paths[start..end], level: self.level + 1, are_given: self.are_given }
    }

    /// Whether the field itself is cleared. Then it is the only path: see [`Paths`].
    fn is_whole(self) -> bool {
        self.paths.first().is_some_and(|path| path.numbers.len() == self.level)
    }
}

/// The members of oneofs that `data` sets: merging it clears the others.
fn chosen_members(place: Place, data: &[u8]) -> Checked<Chosen> {
    let mut chosen = Chosen::default();
    if place.message.oneofs == 0 {
        return Ok(chosen);
    }
    let (mut pos, mut last) = (0, 0);
    while let Some(run) = next_run(place.message, data, pos, last, place.depth)? {
        if let Some(member) = run.field.filter(|field| field.oneof >= 0) {
            chosen.add(place.message, member)?;
        }
        (pos, last) = (run.end, run.number);
    }
    Ok(chosen)
}

/// Appends unknown fields without what is cleared, merged with those that came. A record that a path leads into becomes
/// one with the partial message that came; every other one stays as it is. `message` is the type that they are unknown to.
fn merge_unknown(
    message: Option<&Message>,
    depth: u32,
    state: &[u8],
    cleared: Cleared,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Checked {
    if cleared.paths.is_empty() || !cleared.are_given {
        out.extend_from_slice(state);
        out.extend_from_slice(data);
        return Ok(());
    }
    let mut came = split(data, depth)?;
    let mut partials: HashMap<u32, usize> = HashMap::new();
    for (at, record) in came.iter().enumerate() {
        partials.entry(record.tag).or_insert(at);
    }
    for record in split(state, depth)? {
        let inside = cleared.below(record.number);
        let is_known = message.is_some_and(|message| message.field(record.number).is_some());
        if inside.is_whole() {
            continue;
        }
        if inside.paths.is_empty() || is_known || !record.may_be_message() {
            out.extend_from_slice(record.bytes);
            continue;
        }
        let mut content = &[][..];
        if let Some(partial) = partials.remove(&record.tag).map(|at| &mut came[at]) {
            (content, partial.is_merged) = (partial.value, true);
        }
        record.merge(depth, inside, content, out)?;
    }
    for partial in came.into_iter().filter(|partial| !partial.is_merged) {
        out.extend_from_slice(partial.bytes);
    }
    Ok(())
}

/// Appends the fields of two partial messages ascending by number, without what is cleared in the first one.
fn merge_named(depth: u32, first: &[u8], cleared: Cleared, second: &[u8], out: &mut Vec<u8>) -> Checked {
    let (mut before, mut after) = (split(first, depth)?, split(second, depth)?);
    before.sort_by_key(|record| record.number);
    after.sort_by_key(|record| record.number);
    let (mut before, mut after) = (before.as_slice(), after.as_slice());
    while let Some(number) = before.first().into_iter().chain(after.first()).map(|record| record.number).min() {
        let of_number = |records: &[Unknown]| records.partition_point(|record| record.number <= number);
        let (was, is);
        (was, before) = before.split_at(of_number(before));
        (is, after) = after.split_at(of_number(after));
        let inside = cleared.below(number);
        match (was, is) {
            ([was], [] | [_]) if !inside.paths.is_empty() && !inside.is_whole() && was.may_be_message() => {
                was.merge_with(out, |out| {
                    merge_named(depth + 1, was.value, inside, is.first().map_or(&[], |is| is.value), out)
                })?;
            }
            _ => {
                let kept = was.iter().filter(|_| !inside.is_whole());
                kept.chain(is).for_each(|record| out.extend_from_slice(record.bytes));
            }
        }
    }
    Ok(())
}

/// One record of unknown fields.
struct Unknown<'b> {
    number: u32,
    tag: u32,
    bytes: &'b [u8],
    value: &'b [u8],
    /// Whether it was merged into a record that was held.
    is_merged: bool,
}

impl Unknown<'_> {
    fn may_be_message(&self) -> bool {
        matches!(self.tag & 7, wire::LEN | wire::START_GROUP)
    }

    /// Appends the message that it holds, without what is cleared in it, merged with `data`.
    fn merge(&self, depth: u32, cleared: Cleared, data: &[u8], out: &mut Vec<u8>) -> Checked {
        if depth >= DEPTH_MAX {
            return Err(NotCanonical);
        }
        self.merge_with(out, |out| merge_unknown(None, depth + 1, self.value, cleared, data, out))
    }

    /// Appends the record with what `content` appends in it.
    fn merge_with(&self, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>) -> Checked) -> Checked {
        wire::put_varint(out, u64::from(self.tag));
        if self.tag & 7 == wire::START_GROUP {
            content(out)?;
            wire::put_varint(out, u64::from(self.tag) + 1);
        } else {
            let start = wire::open_len(out);
            content(out)?;
            wire::close_len(out, start);
        }
        Ok(())
    }
}

/// The records of unknown fields.
fn split(bytes: &[u8], depth: u32) -> Checked<Vec<Unknown<'_>>> {
    let (mut pos, mut records) = (0, Vec::new());
    while pos < bytes.len() {
        let start = pos;
        let tag = wire::read_tag(bytes, &mut pos)?;
        let value = wire::read_value(bytes, pos, tag, depth)?;
        let (content, whole) = (&bytes[value.start..value.end], &bytes[start..value.next]);
        records.push(Unknown { number: tag >> 3, tag, bytes: whole, value: content, is_merged: false });
        pos = value.next;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::Delta;
    use crate::zoo::{self, group, int, len, mask, Rng};

    fn apply(state: &[Vec<u8>], paths: &[&str], data: &[Vec<u8>]) -> Result<Vec<u8>, ApplyError> {
        let mut out = Vec::new();
        zoo::schema().apply(&state.concat(), &mask(paths), &[], &data.concat(), &mut out)?;
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

    /// The zoo's root as another descriptor has it: with none of its fields but those in `known`.
    fn less(known: &[u32]) -> Schema {
        let mut specs = zoo::specs();
        specs[0].fields.retain(|field| known.contains(&field.number));
        Schema::new(specs, &[]).expect("sound")
    }

    fn numbers(paths: &[&[u32]]) -> Vec<u8> {
        let mut records = Vec::new();
        paths.iter().for_each(|path| patch::put_path(&mut records, path));
        records
    }

    #[test]
    fn numbers_find_fields_that_the_schema_lacks_or_calls_otherwise() {
        let schema = less(&[1, 11]);
        let apply = |state: &[Vec<u8>], paths: &[&str], path_numbers: &[&[u32]], data: &[Vec<u8>]| {
            let mut out = Vec::new();
            let numbers = numbers(path_numbers);
            schema.apply(&state.concat(), &mask(paths), &numbers, &data.concat(), &mut out).map(|()| out)
        };
        let state = [int(1, 1), len(11, int(1, 1)), int(3, 1), len(40, [int(1, 1), int(3, 1)].concat())];
        assert_eq!(
            apply(&state[..3], &["total"], &[&[3]], &[int(3, 2)]),
            Ok([&state[..2], &[int(3, 2)]].concat().concat())
        );
        assert_eq!(apply(&state[..3], &["total"], &[&[3]], &[]), Ok(state[..2].concat()));
        assert_eq!(apply(&state[..2], &["renamed"], &[&[1]], &[int(1, 9)]), Ok([int(1, 9), state[1].clone()].concat()));
        let inner = |count: i64| len(40, [int(3, 1), int(1, count)].concat());
        assert_eq!(
            apply(&state, &["inner.count"], &[&[40, 1]], &[len(40, int(1, 7))]),
            Ok([&state[..3], &[inner(7)]].concat().concat())
        );
        assert_eq!(
            apply(&state, &["inner.count"], &[&[40, 1]], &[len(40, [])]),
            Ok([&state[..3], &[len(40, int(3, 1))]].concat().concat())
        );
        assert_eq!(
            apply(&state[..3], &["inner.count"], &[&[40, 1]], &[len(40, int(1, 7))]),
            Ok([&state[..3], &[len(40, int(1, 7))]].concat().concat())
        );
        assert_eq!(apply(&state, &["leaf.x"], &[&[11, 77]], &[len(11, int(77, 5))]), {
            Ok([int(1, 1), len(11, [int(1, 1), int(77, 5)].concat()), int(3, 1), state[3].clone()].concat())
        });
    }

    #[test]
    fn numbers_clear_values_that_a_closed_enum_lacks_and_names_leave_them() {
        let schema = zoo::schema();
        let state = [int(15, 1), int(15, 99), int(900, 1)].concat();
        let apply = |numbers: &[u8]| {
            let mut out = Vec::new();
            schema.apply(&state, &mask(&["grades"]), numbers, &int(15, 2), &mut out).map(|()| out)
        };
        assert_eq!(apply(&numbers(&[&[15]])), Ok([int(15, 2), int(900, 1)].concat()));
        assert_eq!(apply(&[]), Ok([int(15, 2), int(15, 99), int(900, 1)].concat()));
    }

    #[test]
    fn numbers_that_lead_nowhere_are_refused() {
        let apply = |paths: &[&str], path_numbers: &[&[u32]]| {
            zoo::schema().apply(&[], &mask(paths), &numbers(path_numbers), &[], &mut Vec::new())
        };
        assert_eq!(apply(&["count"], &[&[1]]), Ok(()));
        assert_eq!(apply(&["count"], &[&[1], &[2]]), Err(ApplyError::DamagedMask));
        assert_eq!(apply(&["count", "name"], &[&[1]]), Err(ApplyError::DamagedMask));
        assert_eq!(apply(&["count"], &[&[]]), Err(ApplyError::DamagedMask));
        for through in [&[1, 2][..], &[14, 1], &[17, 1], &[18, 1], &[40, 17, 1]] {
            assert_eq!(apply(&["x"], &[through]), Err(ApplyError::UnknownPath("x".into())), "{through:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_canonical_here_are_spliced() {
        let schema = zoo::schema();
        let splice = |state: &[Vec<u8>], paths: &[&[u32]], data: &[Vec<u8>]| {
            let (mut out, names) = (Vec::new(), vec!["x"; paths.len()]);
            schema.splice(&state.concat(), &mask(&names), &numbers(paths), &data.concat(), &mut out).map(|()| out)
        };
        let state = [int(3, 1), int(1, 0), group(12, [int(2, 5), int(1, 1)].concat())];
        assert_eq!(
            splice(&state, &[&[1]], &[int(1, 2)]),
            Ok([&state[0], &state[2], &int(1, 2)].map(Clone::clone).concat())
        );
        assert_eq!(
            splice(&state, &[&[12, 1]], &[group(12, int(1, 9))]),
            Ok([&state[..2], &[group(12, [int(2, 5), int(1, 9)].concat())]].concat().concat())
        );
        assert_eq!(splice(&[vec![0x0a, 5]], &[&[3]], &[]), Err(ApplyError::StateNotCanonical));
    }

    #[test]
    fn an_unknown_path_and_a_damaged_mask_are_refused() {
        for path in ["nothing", "leaf.nothing", "tags.x", "labels.key", "name.x", "", "*"] {
            assert_eq!(apply(&[], &[path], &[]), Err(ApplyError::UnknownPath(path.into())));
            assert!(!zoo::schema().knows(&mask(&[path]), &[]));
        }
        assert!(zoo::schema().knows(&mask(&["leaf.a", "tags", "labels"]), &[]));
        for damaged in [&b"\x0a\x05"[..], b"\x0a\x01\xff"] {
            assert_eq!(zoo::schema().apply(&[], damaged, &[], &[], &mut Vec::new()), Err(ApplyError::DamagedMask));
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
                schema.apply(&old, &delta.mask, &delta.numbers, &delta.data, &mut out).expect("its own delta");
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
            let _ = schema.apply(&state[..cut], &paths, &[], &data, &mut Vec::new());
        }
        for cut in 0..data.len() {
            let _ = schema.apply(&state, &paths, &[], &data[..cut], &mut Vec::new());
        }
        for cut in 0..paths.len() {
            let _ = schema.apply(&state, &paths[..cut], &[], &data, &mut Vec::new());
        }
    }
}
