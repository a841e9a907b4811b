//! SQLite's write-ahead log, looked at before SQLite reads it.
//!
//! SQLite ends a log at the first frame whose checksum does not fit, and takes what follows for the torn tail of a crash.
//! A flipped bit in the middle so takes back every transaction behind it without a word. What follows tells the two
//! apart: nothing intact is behind a torn tail.
//!
//! The format, in big-endian words: a header of magic, version, page size, checkpoint, two salts, checksum of these; then
//! frames of page number, pages of the database (not 0: a transaction ends here), the salts, checksum of those two words
//! and of the page, going on from the frame before; then the page.

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Magic; its last bit says in which order the bytes of the words lie that checksums are made of.
const MAGIC: u32 = 0x377f_0682;
/// Pages are a power of two in this range.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;

type Sum = (u32, u32);

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes(four.try_into().unwrap_or_default()))
}

fn sum(bytes: &[u8], (mut one, mut two): Sum, is_big: bool) -> Sum {
    let read = if is_big { u32::from_be_bytes } else { u32::from_le_bytes };
    for pair in bytes.chunks_exact(8) {
        one = one.wrapping_add(read([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(two);
        two = two.wrapping_add(read([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(one);
    }
    (one, two)
}

/// One frame, as far as its own header goes.
struct Frame {
    ends_transaction: bool,
    salts: Sum,
    /// Whether its checksum follows from the frame before it.
    follows: bool,
}

/// Byte at which acknowledged transactions are cut off by damage; None: the log is whole, or ends as a crash leaves it.
///
/// `in_order`: since it was written the machine has not lost power, so that what was written last is there only with
/// all before it. Else each transaction was synced before the next began, and the last one may lack any part of itself.
pub fn damage(wal: &[u8], in_order: bool) -> Option<usize> {
    if wal.len() < HEADER {
        return None;
    }
    let page = word(wal, 8) as usize;
    let stored = (word(wal, 24), word(wal, 28));
    let is_big = word(wal, 0) & 1 == 1;
    let is_right = word(wal, 0) & !1 == MAGIC && sum(&wal[..24], (0, 0), is_big) == stored;
    if !is_right || !page.is_power_of_two() || !PAGE_BYTES.contains(&page) {
        // Nothing of the log will be read. A header is written at once, and before anything that follows it.
        return (in_order || wal[..HEADER].iter().any(|byte| *byte != 0)).then_some(0);
    }
    let frames = frames(&wal[HEADER..], page, stored, is_big);
    let salts = (word(wal, 16), word(wal, 20));
    let broken = frames.iter().position(|frame| !frame.follows || frame.salts != salts)?;
    let at = HEADER + broken * (FRAME_HEADER + page);
    let behind = match in_order {
        true => broken + 1,
        false => {
            let is_end = |frame: &Frame| frame.ends_transaction && frame.salts == salts;
            broken + 1 + frames[broken..].iter().position(is_end)?
        }
    };
    // What was rolled back may lie behind the end, but never with the end of a transaction.
    let ends = |frame: &Frame| frame.ends_transaction && frame.salts == salts && frame.follows;
    let is_last = in_order && broken + 1 == frames.len() && wal.len() == at + FRAME_HEADER + page;
    let is_cut = is_last && frames[broken].ends_transaction && frames[broken].salts == salts;
    (is_cut || frames.get(behind..)?.iter().any(ends)).then_some(at)
}

fn frames(body: &[u8], page: usize, stored: Sum, is_big: bool) -> Vec<Frame> {
    let sum_after = |frame: &[u8], before| sum(&frame[FRAME_HEADER..], sum(&frame[..8], before, is_big), is_big);
    // As it stands in the frame before, and as it should: the bit that flipped may be one of the checksum itself.
    let (mut before, mut right) = (stored, stored);
    body.chunks_exact(FRAME_HEADER + page)
        .map(|frame| {
            let found = (word(frame, 16), word(frame, 20));
            let made = sum_after(frame, before);
            let follows = made == found || (right != before && sum_after(frame, right) == found);
            (before, right) = (found, made);
            Frame { ends_transaction: word(frame, 4) != 0, salts: (word(frame, 8), word(frame, 12)), follows }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const FRAME: usize = FRAME_HEADER + PAGE;
    const SALTS: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn put(out: &mut Vec<u8>, (one, two): Sum) {
        out.extend_from_slice(&one.to_be_bytes());
        out.extend_from_slice(&two.to_be_bytes());
    }

    /// A log of frames; true: the frame ends a transaction.
    fn wal(ends: &[bool]) -> Vec<u8> {
        let mut wal = Vec::new();
        for number in [MAGIC, 3_007_000, PAGE as u32, 0] {
            wal.extend_from_slice(&number.to_be_bytes());
        }
        wal.extend_from_slice(&SALTS);
        let mut before = sum(&wal, (0, 0), false);
        put(&mut wal, before);
        for (number, end) in ends.iter().enumerate() {
            let mut head = Vec::new();
            put(&mut head, (number as u32 + 1, 77 * u32::from(*end)));
            let data = [number as u8 + 7; PAGE];
            before = sum(&data, sum(&head, before, false), false);
            wal.extend_from_slice(&head);
            wal.extend_from_slice(&SALTS);
            put(&mut wal, before);
            wal.extend_from_slice(&data);
        }
        wal
    }

    #[test]
    fn a_bit_that_flips_before_the_last_transaction_is_damage_at_its_frame() {
        let whole = wal(&[true, false, true, true, false, true]);
        for in_order in [true, false] {
            assert_eq!(None, damage(&whole, in_order));
            for bit in 0..8 * (HEADER + 4 * FRAME) {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let at = (bit / 8).checked_sub(HEADER).map_or(0, |byte| HEADER + byte / FRAME * FRAME);
                // With other salts it looks like a frame that was never written over, of the transaction after it.
                let is_told = in_order || !(HEADER + 3 * FRAME + 8..HEADER + 3 * FRAME + 16).contains(&(bit / 8));
                assert_eq!(is_told.then_some(at), damage(&flipped, in_order), "bit {bit}");
            }
        }
    }

    #[test]
    fn in_the_last_transaction_it_is_damage_where_power_was_not_lost() {
        let whole = wal(&[true, false, true]);
        for bit in 8 * (HEADER + FRAME)..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let is_page = (bit / 8 - HEADER) % FRAME >= FRAME_HEADER;
            assert!(!is_page || damage(&flipped, false).is_none(), "it may never have been synced: bit {bit}");
            let in_last_head = (HEADER + 2 * FRAME + 8..HEADER + 2 * FRAME + 16).contains(&(bit / 8));
            assert!(in_last_head || damage(&flipped, true).is_some(), "bit {bit}");
        }
    }

    #[test]
    fn what_a_crash_leaves_is_no_damage() {
        let whole = wal(&[true, true, false, true]);
        for in_order in [true, false] {
            for length in 0..whole.len() {
                assert_eq!(None, damage(&whole[..length], in_order));
            }
            // What was rolled back lies behind the end, under the same salts, and so does a log before this one.
            let longer = wal(&[true, false, false, false, false]);
            let mixed = [&whole[..HEADER + 2 * FRAME], &longer[HEADER + 2 * FRAME..]].concat();
            assert_eq!(None, damage(&mixed, in_order));
            let mut older = wal(&[true; 5]);
            for frame in older[HEADER..].chunks_exact_mut(FRAME) {
                frame[8] ^= 1;
            }
            let restarted = [&whole[..], &older[HEADER + 4 * FRAME..]].concat();
            assert_eq!(None, damage(&restarted, in_order));
        }
        assert_eq!(None, damage(&[0; 5_000], false), "room that was given before a power loss, and not written");
    }
}
