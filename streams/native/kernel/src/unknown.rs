//! Unknown fields, extensions among them: which there are, and whether they differ by more than their order.
//!
//! Protobuf's runtimes write extensions in an order of their own, which says nothing. Two messages that differ in it
//! alone are one: the new one is brought into the old one's order, so that it has the old one's bytes and digest.

use crate::canonical::{next_run, NotCanonical, Run};
use crate::schema::{Message, Schema};
use crate::wire::{self, DEPTH_MAX};

type Checked<T = ()> = Result<T, NotCanonical>;

impl Schema {
    /// `new` with its unknown fields in the order that they have in `old`, wherever they are the same but for their order;
    /// None: there is no such place. Both are canonical; so is what comes out, and the same message as `new`.
    pub fn align(&self, old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
        let mut aligned = new.to_vec();
        self.align_message(self.root(), old, &mut aligned, 0).ok()?.then_some(aligned)
    }

    /// Aligns one message in its place: records change places, none its length. True: something did.
    fn align_message(&self, message: &Message, old: &[u8], new: &mut [u8], depth: u32) -> Checked<bool> {
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let mut is_changed = false;
        let (mut was, mut is) = (next_run(message, old, 0, 0, depth)?, next_run(message, new, 0, 0, depth)?);
        while let (Some(old_run), Some(new_run)) = (&was, &is) {
            if old_run.number == new_run.number && old_run.bytes(old) != new_run.bytes(new) {
                let (before, after) = (old_run.bytes(old), &mut new[new_run.start..new_run.end]);
                is_changed |= match new_run.field {
                    None => reorder(before, after, depth)?,
                    Some(field) if field.kind.is_message() => {
                        self.align_values(self.message(field.child), before, after, depth)?
                    }
                    Some(_) => false,
                };
            }
            let (passes_old, passes_new) = (old_run.number <= new_run.number, new_run.number <= old_run.number);
            let behind = |run: &Run, bytes: &[u8]| next_run(message, bytes, run.end, run.number, depth);
            let (next_old, next_new) =
                (passes_old.then(|| behind(old_run, old)), passes_new.then(|| behind(new_run, new)));
            if let Some(next) = next_old {
                was = next?;
            }
            if let Some(next) = next_new {
                is = next?;
            }
        }
        Ok(is_changed)
    }

    /// Aligns the messages of two runs of one field, one by one. Of what is paired wrongly, a map's entries for example,
    /// only the order of unknown fields could change.
    fn align_values(&self, message: &Message, old: &[u8], new: &mut [u8], depth: u32) -> Checked<bool> {
        let (mut old_pos, mut new_pos, mut is_changed) = (0, 0, false);
        while old_pos < old.len() && new_pos < new.len() {
            let was = value_at(old, &mut old_pos, depth)?;
            let is = value_at(new, &mut new_pos, depth)?;
            is_changed |= self.align_message(message, &old[was], &mut new[is], depth + 1)?;
        }
        Ok(is_changed)
    }

    /// Whether `new` has unknown fields, at whatever level, that are not just those of `old`.
    pub(crate) fn has_other_unknown(&self, old: Option<&[u8]>, new: &[u8]) -> bool {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let is_read = self.gather(self.root(), new, 0, &mut after).is_ok();
        is_read && !after.is_empty() && {
            let is_held = old.is_some_and(|old| self.gather(self.root(), old, 0, &mut before).is_ok());
            !is_held || before != after
        }
    }

    /// Appends the unknown fields of a message and of all in it, as they lie.
    fn gather(&self, message: &Message, bytes: &[u8], depth: u32, out: &mut Vec<u8>) -> Checked {
        if depth > DEPTH_MAX {
            return Err(NotCanonical);
        }
        let mut pos = 0;
        while pos < bytes.len() {
            let start = pos;
            let tag = wire::read_tag(bytes, &mut pos)?;
            let value = wire::read_value(bytes, pos, tag, depth)?;
            match message.field(tag >> 3).filter(|field| field.kind.is_message()) {
                Some(field) if tag & 7 == field.kind.wire_type() => {
                    self.gather(self.message(field.child), &bytes[value.start..value.end], depth + 1, out)?;
                }
                None if message.field(tag >> 3).is_some() => {}
                _ => out.extend_from_slice(&bytes[start..value.next]),
            }
            pos = value.next;
        }
        Ok(())
    }
}

/// Where the value of the record at `pos` lies; moves `pos` behind the record.
fn value_at(bytes: &[u8], pos: &mut usize, depth: u32) -> Checked<std::ops::Range<usize>> {
    let tag = wire::read_tag(bytes, pos)?;
    let value = wire::read_value(bytes, *pos, tag, depth)?;
    *pos = value.next;
    Ok(value.start..value.end)
}

/// Gives `new` the bytes of `old` if it has the same records, those of one number in the same order.
fn reorder(old: &[u8], new: &mut [u8], depth: u32) -> Checked<bool> {
    if old.len() != new.len() || by_number(old, depth)? != by_number(new, depth)? {
        return Ok(false);
    }
    new.copy_from_slice(old);
    Ok(true)
}

/// The records of unknown fields, ascending by number, those of one number as they came.
fn by_number(bytes: &[u8], depth: u32) -> Checked<Vec<(u32, &[u8])>> {
    let (mut pos, mut records) = (0, Vec::new());
    while pos < bytes.len() {
        let start = pos;
        let number = wire::read_tag(bytes, &mut { pos })? >> 3;
        value_at(bytes, &mut pos, depth)?;
        records.push((number, &bytes[start..pos]));
    }
    records.sort_by_key(|(number, _)| *number);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use crate::zoo::{self, group, int, len, Rng};

    fn align(old: &[Vec<u8>], new: &[Vec<u8>]) -> Option<Vec<u8>> {
        zoo::schema().align(&old.concat(), &new.concat())
    }

    #[test]
    fn unknown_fields_in_another_order_come_into_the_old_one() {
        let old = [int(1, 1), len(901, "b"), int(900, 1), len(901, "c")];
        let new = [int(1, 2), int(900, 1), len(901, "b"), len(901, "c")];
        assert_eq!(align(&old, &new), Some([&[int(1, 2)], &old[1..]].concat().concat()));
        for wrap in [|inner| len(40, inner), |inner| group(12, inner), |inner| [len(17, ""), len(17, inner)].concat()] {
            let [old, new] = [&old, &new].map(|fields: &[Vec<u8>; 4]| wrap(fields[1..].concat()));
            assert_eq!(align(std::slice::from_ref(&old), &[new]), Some(old));
        }
    }

    #[test]
    fn in_the_values_of_maps_too() {
        let entry = |inner: &[Vec<u8>]| len(19, [int(1, 5), len(2, inner.concat())].concat());
        let (old, new) = (entry(&[int(900, 1), int(901, 1)]), entry(&[int(901, 1), int(900, 1)]));
        assert_eq!(align(std::slice::from_ref(&old), &[new]), Some(old));
    }

    #[test]
    fn other_records_or_another_order_of_one_number_stay() {
        let old = [len(901, "b"), len(901, "c"), int(900, 1)];
        for new in [
            [int(900, 1), len(901, "c"), len(901, "b")],
            [int(900, 2), len(901, "b"), len(901, "c")],
            [int(902, 1), len(901, "b"), len(901, "c")],
        ] {
            assert_eq!(align(&old, &new), None);
        }
        assert_eq!(align(&old, &old), None);
    }

    #[test]
    fn what_is_aligned_is_the_same_message() {
        let (schema, mut rng) = (zoo::schema(), Rng::new(20_261_127));
        for _ in 0..300 {
            let (old, new) = (zoo::random(&schema, &mut rng), zoo::random(&schema, &mut rng));
            if let Some(aligned) = schema.align(&old, &new) {
                assert!(schema.is_canonical(&aligned));
                assert_eq!(schema.align(&new, &aligned).map(|back| back == new), Some(true));
            }
        }
    }

    #[test]
    fn unknown_fields_are_found_at_every_level() {
        let schema = zoo::schema();
        let other = |old: Option<&[u8]>, new: &[u8]| schema.has_other_unknown(old, new);
        assert!(!other(None, &[int(1, 1), len(11, int(1, 1))].concat()));
        for wrap in
            [|inner: Vec<u8>| inner, |inner| len(40, inner), |inner| len(19, [int(1, 5), len(2, inner)].concat())]
        {
            let (one, two) = (wrap(int(900, 1)), wrap(int(900, 2)));
            assert!(other(None, &one) && other(Some(&two), &one) && other(Some(&[]), &one));
            assert!(!other(Some(&one), &[int(1, 1), one.clone()].concat()) && !other(Some(&one), &[]));
        }
    }
}
