//! How large what leaves the kernel may be, and how much of it one call makes.
//!
//! A record that enters is bounded by its topic; what comes of it is not, by itself: a key stands in the record, in the
//! patch and in the row, a compressed value is a thousand times itself, a request of ten bytes is answered with a whole
//! state. So each of them is measured here before anything of it leaves.

use std::collections::{HashMap, HashSet};

use crate::envelope::{Reason, Refusal};
use crate::records::{Record, Records};
use crate::sync::{asked, requested_key};

/// What Kafka's format adds to a record that is sent alone: 61 bytes of batch, the rest lengths, offset and time.
pub const RECORD_OVERHEAD_BYTES: usize = 128;
/// Two lengths of at most five bytes.
pub const HEADER_OVERHEAD_BYTES: usize = 10;
/// What a snapshot has beside its key, its type's name and its message: the record and its one header, tags, lengths and
/// numbers of a Patch. A row has more than a message, so that this is an upper bound.
const ANSWER_OVERHEAD_BYTES: usize = RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES + 128;
/// Outputs and rows that end a call, whose other records are for the next one: four times what a chunk of 8 MiB comes to.
/// Only compressed events and answers come to more.
pub const STEP_BYTES_MAX: usize = 64 << 20;
/// A requester's name comes back as a header of each answer: a group, a target, an app; never a document.
pub const REQUESTER_BYTES_MAX: usize = 512;
/// Whose answer is everybody's: several asked for the key at once, and one answer serves them all.
pub const EVERYBODY: &str = "*";

/// The two sizes that a topic's records are held to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A record of the output and of the changelog: key, value and headers.
    pub record_bytes_max: usize,
    /// An entity key. A patch's record has it twice, beside a message of any size that a source's record can have: twice
    /// the key leaves half of what these topics have above the source for everything else.
    pub key_bytes_max: usize,
}

impl Bounds {
    /// `source_bytes_max`: of a source record's value. `output_bytes_max`: of a record of the output and the changelog.
    pub fn new(source_bytes_max: usize, output_bytes_max: usize) -> Bounds {
        let room = output_bytes_max.saturating_sub(source_bytes_max);
        Bounds { record_bytes_max: output_bytes_max, key_bytes_max: room / 4 }
    }

    pub fn check_key(&self, key: &[u8]) -> Result<(), Refusal> {
        if key.len() <= self.key_bytes_max {
            return Ok(());
        }
        let text = format!("entity key of {} bytes, at most {} fit beside a message", key.len(), self.key_bytes_max);
        Err(Refusal::new(Reason::TooLarge, text))
    }

    /// Whether a state fits the topic of the patches when somebody asks for it, whatever patch it came with: with its key
    /// twice, and with the name of who asked. `row`: bytes of its row, which are more than those of its message.
    pub fn check_answer(&self, key: &[u8], row: usize, type_name: usize) -> Result<(), Refusal> {
        let bytes = ANSWER_OVERHEAD_BYTES + REQUESTER_BYTES_MAX + 2 * key.len() + type_name + row;
        if bytes <= self.record_bytes_max {
            return Ok(());
        }
        Err(self.too_large("snapshot", bytes))
    }

    /// Whether a record fits its topic; `what` it is of.
    pub fn check_record<'a>(
        &self,
        what: &str,
        key: &[u8],
        value: &[u8],
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), Refusal> {
        let header =
            |(name, value): (&[u8], Option<&[u8]>)| HEADER_OVERHEAD_BYTES + name.len() + value.map_or(0, <[u8]>::len);
        let headers: usize = headers.map(header).sum();
        let bytes = RECORD_OVERHEAD_BYTES + key.len() + value.len() + headers;
        if bytes <= self.record_bytes_max {
            return Ok(());
        }
        Err(self.too_large(what, bytes))
    }

    #[cold]
    fn too_large(&self, what: &str, bytes: usize) -> Refusal {
        let text = format!(
            "{what} of {bytes} bytes with key and headers, its topic takes {}; raise record_bytes_max, or make message, \
             key or headers smaller",
            self.record_bytes_max
        );
        Refusal::new(Reason::TooLarge, text)
    }
}

/// Where a run of records is cut so that what comes of a part stays within `bytes_max`, or the part is one record: a value
/// counts as long as it is once unpacked (at most `each_max`, which is also what one counts that does not say), a request
/// as the largest answer, `each_max`, once for each key.
pub fn cuts(records: &Records, bytes_max: usize, each_max: usize, are_requests: bool) -> Vec<usize> {
    let (mut found, mut bytes, mut first) = (Vec::new(), 0usize, 0);
    let mut asked: HashSet<&[u8]> = HashSet::new();
    for (at, record) in records.iter().enumerate() {
        let weight = match are_requests {
            true if asked.contains(record.key().unwrap_or_default()) => 0,
            true => each_max,
            false => unpacked_bytes(&record, each_max),
        };
        if at > first && bytes.saturating_add(weight) > bytes_max {
            found.push(at);
            (bytes, first) = (0, at);
            asked.clear();
        }
        if are_requests && asked.insert(record.key().unwrap_or_default()) {
            bytes += each_max;
        } else if !are_requests {
            bytes += weight;
        }
    }
    found
}

fn unpacked_bytes(record: &Record<'_>, each_max: usize) -> usize {
    const CODING: &[u8] = b"content-encoding";
    let Some(value) = record.value() else { return 0 };
    let is_packed = record.headers().any(|(name, coding)| {
        name.len() == CODING.len()
            && name.eq_ignore_ascii_case(CODING)
            && coding.is_some_and(|coding| coding.eq_ignore_ascii_case(b"zstd"))
    });
    if !is_packed {
        return value.len();
    }
    let claimed = zstd::zstd_safe::get_frame_content_size(value).ok().flatten();
    claimed.map_or(each_max, |claimed| usize::try_from(claimed).unwrap_or(each_max).min(each_max)).max(value.len())
}

/// Whom the answers of one call are for, by key: its one requester, or everybody.
pub struct Requesters<'a>(HashMap<&'a [u8], &'a str>);

impl<'a> Requesters<'a> {
    pub fn of(requests: &'a Records) -> Requesters<'a> {
        let mut found: HashMap<&[u8], &str> = HashMap::new();
        for request in requests.iter() {
            let asked = asked(request.value().unwrap_or_default());
            let (Some(key), Some(asked)) = (requested_key(&request), asked) else { continue };
            let name = asked.requester;
            if name.len() <= REQUESTER_BYTES_MAX {
                found
                    .entry(key)
                    .and_modify(|held| *held = if *held == name { name } else { EVERYBODY })
                    .or_insert(name);
            }
        }
        Requesters(found)
    }

    /// Empty where nobody gave a name.
    pub fn of_key(&self, key: &[u8]) -> &'a str {
        self.0.get(key).copied().unwrap_or_default()
    }
}
