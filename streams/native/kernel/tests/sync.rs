//! The rules between an event and its patch, one by one, through the kernel's public face.

use std::sync::Arc;

use streams_kernel::digest;
use streams_kernel::envelope::Types;
use streams_kernel::job::{Canonicaliser, Job, JobSpec};
use streams_kernel::owner::Assignment;
use streams_kernel::partition::{LogId, PARTITION_KEY};
use streams_kernel::patch::{self, Kind as PatchKind, Patch};
use streams_kernel::records::{murmur2_partition, Records};
use streams_kernel::row::{Row, SCHEMA_KEY};
use streams_kernel::schema::{FieldSpec, Kind, MessageSpec, Schema, IMPLICIT, SIGNED, UTF8};
use streams_kernel::sync::{Failure, Step, SyncTable, EXPIRE_MAX, STUCK_DROPS};
use streams_kernel::wire::put_len;

const NOW: u64 = 1_700_000_000_000;
const RETENTION: u64 = 1_000;
const LOG: LogId = [1; 16];
const OUTPUT: LogId = [2; 16];

/// Stands in for upb: drops field 15, so that a message with it is one that only upb can make canonical.
struct Upb;

impl Canonicaliser for Upb {
    fn canonicalise(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match message {
            [0x7a, 1, b'-', ..] => Ok(None),
            [0x7a, 1, b'!', ..] => Err("broken".to_owned()),
            // A form that stays non-canonical, whatever is tried.
            [0x7a, 1, b'?', rest @ ..] => Ok(Some([rest, b"\x0a\x01?"].concat())),
            [0x7a, 1, _, rest @ ..] => Ok(Some(rest.to_vec())),
            _ => Ok(None),
        }
    }
}

fn field(number: u32, kind: Kind, flags: u8, name: &str) -> FieldSpec {
    FieldSpec { number, kind, flags, child: 0, oneof: -1, name: name.to_owned(), values: None }
}

/// 1 name, 2 count, 3 seen (ignored), 4 version, 5 place (zigzag), 6 the message itself.
fn schema() -> Arc<Schema> {
    let fields = vec![
        field(1, Kind::String, IMPLICIT | UTF8, "name"),
        field(2, Kind::Int64, IMPLICIT, "count"),
        field(3, Kind::Uint64, IMPLICIT, "seen"),
        field(4, Kind::Uint64, IMPLICIT, "version"),
        field(5, Kind::Uint32, IMPLICIT | SIGNED, "place"),
        field(6, Kind::Message, 0, "inner"),
    ];
    let message = MessageSpec { full_name: "acme.Device".to_owned(), fields };
    Arc::new(Schema::new(vec![message], &["seen".to_owned()]).unwrap())
}

fn spec() -> JobSpec {
    JobSpec {
        schema: schema(),
        type_name: "acme.Device".to_owned(),
        fingerprint: 77,
        field_table: b"table".to_vec(),
        source: "devices".to_owned(),
        key: "record".to_owned(),
        sequence: "attribute".to_owned(),
        format: "auto".to_owned(),
        partitions: 0,
        record_bytes_max: 10_000,
        output_bytes_max: 20_000,
        tombstone_retention_ms: RETENTION,
        tombstones_max: 1_000_000,
        ids_per_key: 8,
        rekeyed: false,
        schema_ids: Vec::new(),
        message_index: vec![0],
        types: Types::default(),
        sealed: false,
        seed: 1,
        canonicaliser: Box::new(Upb),
    }
}

fn table(change: impl FnOnce(&mut JobSpec)) -> SyncTable {
    let mut spec = spec();
    change(&mut spec);
    SyncTable::new(Arc::new(Job::new(spec).unwrap()), 0, true)
}

fn message(name: &str, count: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_len(&mut bytes, 1, name.as_bytes());
    bytes.extend_from_slice(&[0x10, count]);
    bytes
}

/// Key (`null`: none), value, headers.
type Input<'a> = (&'a str, Option<&'a [u8]>, &'a [(&'a str, &'a str)]);

/// Records with offsets 0, 1, 2, ...
fn chunk(records: &[Input<'_>]) -> Records {
    let mut chunk = Records::new();
    for (offset, (key, value, headers)) in (0..).zip(records) {
        chunk.push((*key != "null").then_some(key.as_bytes()), *value, 5, offset).unwrap();
        for (name, value) in *headers {
            chunk.push_header(name.as_bytes(), Some(value.as_bytes())).unwrap();
        }
    }
    chunk
}

fn at(mut chunk: Records, first: i64) -> Records {
    chunk.assign(first, -1);
    chunk
}

fn patches(step: &Step) -> Vec<Patch<'_>> {
    step.patches.iter().map(|record| patch::decode(record.value().unwrap()).unwrap()).collect()
}

fn kinds(step: &Step) -> Vec<(PatchKind, u64, u64)> {
    patches(step).iter().map(|patch| (patch.head.kind, patch.head.base_revision, patch.head.revision)).collect()
}

fn header<'a>(records: &'a Records, index: usize, name: &str) -> Option<&'a str> {
    records.get(index).header(name.as_bytes()).map(|value| std::str::from_utf8(value).unwrap())
}

fn reasons(step: &Step) -> Vec<&str> {
    (0..step.dead_letters.len()).map(|index| header(&step.dead_letters, index, "dlq-reason").unwrap()).collect()
}

#[test]
fn the_first_event_is_a_snapshot_and_the_next_a_delta() {
    let mut table = table(|_| {});
    let (one, two) = (message("a long enough name", 1), message("a long enough name", 2));
    let step = table.process(&chunk(&[("k", Some(&one), &[]), ("k", Some(&two), &[])]), NOW).unwrap();
    assert_eq!(vec![(PatchKind::Snapshot, 0, 1), (PatchKind::Delta, 1, 2)], kinds(&step));
    let found = patches(&step);
    assert_eq!(
        (b"\x0a\x01*".as_slice(), one.as_slice(), digest(&one)),
        (found[0].mask, found[0].data, found[0].head.digest)
    );
    assert_eq!((b"\x0a\x05count".as_slice(), b"\x10\x02".as_slice()), (found[1].mask, found[1].data));
    let head = found[1].head;
    assert_eq!((digest(&two), NOW, 77, "acme.Device"), (head.digest, head.epoch, head.schema, head.type_name));
    assert_eq!(("0/1", "devices", b"k".as_slice()), (head.event_id, head.event_source, head.key));
    assert_eq!((2, 1), (step.counts.patches, step.counts.rows));
}

#[test]
fn a_delta_that_is_no_smaller_than_its_snapshot_is_sent_as_one() {
    let mut table = table(|_| {});
    let step =
        table.process(&chunk(&[("k", Some(&message("a", 1)), &[]), ("k", Some(&message("a", 2)), &[])]), NOW).unwrap();
    assert_eq!(vec![(PatchKind::Snapshot, 0, 1), (PatchKind::Snapshot, 0, 2)], kinds(&step));
}

#[test]
fn equal_and_ignored_changes_move_the_row_and_publish_nothing() {
    let mut table = table(|_| {});
    let one = message("name", 1);
    let seen = [one.as_slice(), b"\x18\x09"].concat();
    let step =
        table.process(&chunk(&[("k", Some(&one), &[]), ("k", Some(&one), &[]), ("k", Some(&seen), &[])]), NOW).unwrap();
    assert_eq!((1, 1, 1), (step.counts.patches, step.counts.unchanged, step.counts.ignored));
    table.table_mut().commit(step.mark).unwrap();
    let row = Row::read(table.table().get(b"k").unwrap()).unwrap();
    assert_eq!((one.as_slice(), 2, 1), (row.message, row.header.offset, row.header.revision));
}

#[test]
fn events_are_dropped_by_offset_id_and_the_sequence_of_their_source() {
    let mut table = table(|_| {});
    let attributes = |id, source, sequence| {
        [("ce_specversion", "1.0"), ("ce_id", id), ("ce_source", source), ("ce_sequence", sequence)]
    };
    let values: Vec<_> = (1..6).map(|count| message("name", count)).collect();
    let chunk = chunk(&[
        ("k", Some(&values[0]), &attributes("1", "a", "5")),
        ("k", Some(&values[1]), &attributes("1", "a", "6")),
        ("k", Some(&values[2]), &attributes("2", "a", "5")),
        ("k", Some(&values[3]), &attributes("3", "b", "1")),
        ("k", Some(&values[4]), &attributes("4", "a", "6")),
    ]);
    let step = table.process(&chunk, NOW).unwrap();
    assert_eq!((1, 1, 3), (step.counts.dropped_id, step.counts.dropped_sequence, step.counts.patches));
    let sequences: Vec<_> = patches(&step).iter().map(|patch| patch.head.sequence).collect();
    assert_eq!(vec![5, 1, 6], sequences);
    let again = table.process(&chunk, NOW).unwrap();
    assert_eq!((5, 0), (again.counts.dropped_offset, again.counts.patches));
}

#[test]
fn a_key_that_only_drops_is_named_once() {
    let mut table = table(|_| {});
    let ce = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "a")];
    let value = message("name", 1);
    let one = chunk(&[("k", Some(&value), &ce)]);
    let mut named = Vec::new();
    for offset in 0..3 * i64::from(STUCK_DROPS) {
        named.extend(table.process(&at(one.clone(), offset), NOW).unwrap().stuck);
    }
    assert_eq!(vec![(b"k".to_vec(), i64::from(STUCK_DROPS))], named);
}

#[test]
fn delete_leaves_a_tombstone_that_remembers_and_the_key_comes_back_in_its_epoch() {
    let mut table = table(|_| {});
    let ce = |id, sequence| [("ce_specversion", "1.0"), ("ce_id", id), ("ce_source", "a"), ("ce_sequence", sequence)];
    let value = message("name", 1);
    let step = table
        .process(
            &chunk(&[
                ("k", Some(&value), &ce("1", "50")),
                ("k", None, &[]),
                ("k", None, &[]),
                ("other", None, &[]),
                ("k", Some(&value), &ce("2", "50")),
                ("k", Some(&value), &ce("1", "51")),
                ("k", Some(&value), &ce("2", "51")),
            ]),
            NOW,
        )
        .unwrap();
    assert_eq!((1, 1), (step.counts.dropped_sequence, step.counts.dropped_id));
    assert_eq!(vec![(PatchKind::Snapshot, 0, 1), (PatchKind::Delete, 1, 2), (PatchKind::Snapshot, 0, 3)], kinds(&step));
    assert_eq!((2, 1), (step.counts.delete_unknown, step.counts.deletes));
    let found = patches(&step);
    assert!(found[1].mask.is_empty() && found[1].data.is_empty() && found[1].head.digest == 0);
    assert!(found.iter().all(|patch| patch.head.epoch == NOW));
}

#[test]
fn after_its_retention_a_tombstone_goes_and_the_key_gets_a_higher_epoch() {
    let mut table = table(|_| {});
    let value = message("name", 1);
    let made = table.process(&chunk(&[("k", Some(&value), &[]), ("k", None, &[])]), NOW).unwrap();
    table.table_mut().commit(made.mark).unwrap();
    let early = table.process(&Records::new(), NOW + RETENTION - 1).unwrap();
    assert_eq!(0, early.counts.expired);
    let step = table.process(&Records::new(), NOW + RETENTION).unwrap();
    assert_eq!((1, 1), (step.counts.expired, step.counts.rows));
    let rows = table.table().changelog(early.mark, step.mark).unwrap();
    assert_eq!((1, None), (rows.len(), rows.get(0).value()));
    // Even a clock that was set back gives a higher epoch.
    let back = table.process(&at(chunk(&[("k", Some(&value), &[])]), 9), NOW - 5).unwrap();
    assert_eq!((vec![(PatchKind::Snapshot, 0, 1)], NOW + 1), (kinds(&back), patches(&back)[0].head.epoch));
}

#[test]
fn only_so_many_tombstones_expire_at_once() {
    let mut table = table(|_| {});
    let value = message("name", 1);
    let keys: Vec<String> = (0..EXPIRE_MAX + 1).map(|key| key.to_string()).collect();
    let mut records = Records::new();
    for (offset, key) in (0..).zip(&keys) {
        records.push(Some(key.as_bytes()), Some(&value), 1, 2 * offset).unwrap();
        records.push(Some(key.as_bytes()), None, 1, 2 * offset + 1).unwrap();
    }
    let made = table.process(&records, NOW).unwrap();
    table.table_mut().commit(made.mark).unwrap();
    let expired = |table: &mut SyncTable| table.process(&Records::new(), NOW + RETENTION).unwrap().counts.expired;
    assert_eq!((EXPIRE_MAX as u64, 1, 0), (expired(&mut table), expired(&mut table), expired(&mut table)));
}

#[test]
fn messages_are_made_canonical_by_the_kernel_or_by_upb_or_are_dead_letters() {
    let mut table = table(|_| {});
    let (one, two) = (message("a long enough name", 1), message("a long enough name", 2));
    let through_upb = [b"\x7a\x01u".as_slice(), &two].concat();
    let step = table
        .process(
            &chunk(&[("k", Some(&one), &[]), ("k", Some(&through_upb), &[]), ("k", Some(b"\x7a\x01-\x0a\x01x"), &[])]),
            NOW,
        )
        .unwrap();
    // Field 15 is unknown and in front, so upb was asked.
    assert_eq!((1, 0), (step.counts.fallback_upb, step.counts.non_canonical));
    assert_eq!(vec![(PatchKind::Snapshot, 0, 1), (PatchKind::Delta, 1, 2)], kinds(&step));
    assert_eq!(vec!["undecodable"], reasons(&step));
    let failure = table.process(&at(chunk(&[("k", Some(b"\x7a\x01!\x0a\x01x"), &[])]), 9), NOW).err();
    assert_eq!(Some(Failure("broken".to_owned())), failure);
}

#[test]
fn what_stays_non_canonical_is_sent_whole_without_digest_until_it_is_canonical_again() {
    let mut table = table(|_| {});
    let good = message("a long enough name", 1);
    let odd = [b"\x7a\x01?".as_slice(), &good].concat();
    let step = table
        .process(
            &chunk(&[
                ("k", Some(&good), &[]),
                ("k", Some(&odd), &[]),
                ("k", Some(&odd), &[]),
                ("k", Some(&good), &[]),
                ("k", Some(&message("a long enough name", 2)), &[]),
            ]),
            NOW,
        )
        .unwrap();
    let expected = vec![
        (PatchKind::Snapshot, 0, 1),
        (PatchKind::Snapshot, 0, 2),
        (PatchKind::Snapshot, 0, 3),
        (PatchKind::Delta, 3, 4),
    ];
    assert_eq!(expected, kinds(&step));
    assert_eq!((1, 1), (step.counts.non_canonical, step.counts.unchanged));
    let digests: Vec<bool> = patches(&step).iter().map(|patch| patch.head.digest != 0).collect();
    assert_eq!(vec![true, false, true, true], digests);
}

#[test]
fn a_row_of_another_descriptor_is_read_anew_and_its_next_patch_is_a_snapshot() {
    let mut old = table(|_| {});
    let (one, two) = (message("a long enough name", 1), message("a long enough name", 2));
    let step = old.process(&chunk(&[("k", Some(&one), &[])]), NOW).unwrap();
    let changelog = old.table().changelog(0, step.mark).unwrap();

    let mut new = table(|spec| (spec.fingerprint, spec.field_table) = (78, b"newer".to_vec()));
    new.restore(&changelog).unwrap();
    let step = new
        .process(&at(chunk(&[("k", Some(&one), &[]), ("k", Some(&two), &[]), ("k", Some(&one), &[])]), 1), NOW)
        .unwrap();
    assert_eq!(vec![(PatchKind::Snapshot, 0, 2), (PatchKind::Delta, 2, 3)], kinds(&step));
    assert_eq!((1, 78), (step.counts.unchanged, patches(&step)[0].head.schema));
    new.table_mut().commit(step.mark).unwrap();
    assert_eq!(Some(b"Snewer".as_slice()), new.table().get(SCHEMA_KEY));
}

#[test]
fn bad_records_become_dead_letters_with_their_own_headers() {
    let mut table = table(|spec| spec.record_bytes_max = 100);
    let ce = |sequence| [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_sequence", sequence)];
    let deep = (0..101).fold(Vec::new(), |inner, _| {
        let mut outer = Vec::new();
        put_len(&mut outer, 6, &inner);
        outer
    });
    let mut large = table_for_large();
    let step = table
        .process(
            &chunk(&[
                ("null", Some(&message("n", 1)), &[("mine", "1"), ("dlq-reason", "old"), ("dlq-replay-count", "2")]),
                ("k", Some(b"\x08"), &[]),
                ("k", Some(&message("n", 1)), &ce("-1")),
                ("k", Some(&[9; 101]), &[]),
                ("k", Some(b"x"), &[("content-encoding", "br")]),
                ("k", Some(b"\0\0\0\0\x01\x02\x02x"), &[]),
                ("k", Some(b"{}"), &[("content-type", "application/cloudevents+json")]),
            ]),
            NOW,
        )
        .unwrap();
    let expected = [
        "missing-key",
        "undecodable",
        "bad-sequence",
        "record-too-large",
        "bad-compression",
        "wrong-schema",
        "bad-envelope",
    ];
    assert_eq!(expected.as_slice(), reasons(&step));
    let letters = &step.dead_letters;
    assert_eq!((None, Some(message("n", 1).as_slice())), (letters.get(0).key(), letters.get(0).value()));
    let names: Vec<_> = letters.get(0).headers().map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect();
    let family = ["topic", "partition", "offset", "timestamp"].map(|name| format!("dlq-origin-{name}"));
    let expected: Vec<String> = ["mine", "dlq-replay-count"]
        .map(str::to_owned)
        .into_iter()
        .chain(family)
        .chain(["dlq-reason", "dlq-error", "dlq-format"].map(str::to_owned))
        .collect();
    assert_eq!(expected, names);
    assert_eq!(
        (Some("devices"), Some("0")),
        (header(letters, 1, "dlq-origin-topic"), header(letters, 1, "dlq-origin-partition"))
    );
    assert_eq!(
        (Some("1"), Some("5")),
        (header(letters, 1, "dlq-origin-offset"), header(letters, 1, "dlq-origin-timestamp"))
    );
    assert_eq!(0, step.counts.patches);
    let step = large.process(&chunk(&[("k", Some(&deep), &[])]), NOW).unwrap();
    assert_eq!(vec!["too-deep"], reasons(&step));
}

fn table_for_large() -> SyncTable {
    table(|spec| (spec.record_bytes_max, spec.output_bytes_max) = (1 << 20, 2 << 20))
}

#[test]
fn a_sealed_dead_letter_holds_no_value() {
    let mut table = table(|spec| spec.sealed = true);
    let step = table.process(&chunk(&[("k", Some(b"\x08"), &[])]), NOW).unwrap();
    assert_eq!(None, step.dead_letters.get(0).value());
    assert_eq!(Some("1"), header(&step.dead_letters, 0, "dlq-length"));
    assert_eq!(Some(format!("{:016x}", digest(b"\x08")).as_str()), header(&step.dead_letters, 0, "dlq-xxh3"));
}

#[test]
fn a_replayed_dead_letter_is_judged_by_its_origin() {
    let mut table = table(|_| {});
    let values: Vec<_> = (1..4).map(|count| message("name", count)).collect();
    table.process(&at(chunk(&[("k", Some(&values[0]), &[])]), 10), NOW).unwrap();
    let replay = |offset| {
        [
            ("dlq-origin-topic", "devices"),
            ("dlq-origin-partition", "0"),
            ("dlq-origin-offset", offset),
            ("dlq-replay-count", "1"),
        ]
    };
    let step = table
        .process(
            &at(
                chunk(&[
                    ("k", Some(&values[1]), &replay("9")),
                    ("k", Some(&values[2]), &replay("11")),
                    ("k", Some(b"\x08"), &replay("12")),
                ]),
                50,
            ),
            NOW,
        )
        .unwrap();
    assert_eq!((1, 0, 1), (step.counts.dropped_superseded, step.counts.dropped_offset, step.counts.patches));
    assert_eq!("0/11", patches(&step)[0].head.event_id);
    assert_eq!(
        (Some("12"), Some("1")),
        (header(&step.dead_letters, 0, "dlq-origin-offset"), header(&step.dead_letters, 0, "dlq-replay-count"))
    );
    // From elsewhere, or from the future: judged by its own offset.
    let elsewhere = [("dlq-origin-topic", "others"), ("dlq-origin-partition", "0"), ("dlq-origin-offset", "1")];
    let step = table
        .process(&at(chunk(&[("k", Some(&values[1]), &elsewhere), ("k", Some(&values[0]), &replay("99999"))]), 60), NOW)
        .unwrap();
    assert_eq!(2, step.counts.patches);
}

#[test]
fn a_replayed_dead_letter_below_the_last_sequence_is_superseded() {
    let mut table = table(|_| {});
    let event =
        |id, sequence| vec![("ce_specversion", "1.0"), ("ce_id", id), ("ce_source", "a"), ("ce_sequence", sequence)];
    let replayed = |id, sequence, offset| {
        let origin = [("dlq-origin-topic", "devices"), ("dlq-origin-partition", "0"), ("dlq-origin-offset", offset)];
        [event(id, sequence), origin.to_vec()].concat()
    };
    let values: Vec<_> = (1..6).map(|count| message("name", count)).collect();
    table.process(&at(chunk(&[("k", Some(&values[0]), &event("1", "5"))]), 10), NOW).unwrap();
    let step = table
        .process(
            &at(
                chunk(&[
                    ("k", Some(&values[1]), &replayed("2", "4", "11")),
                    ("k", Some(&values[2]), &replayed("1", "6", "12")),
                    ("k", Some(&values[3]), &event("3", "5")),
                    ("k", Some(&values[4]), &replayed("4", "6", "13")),
                ]),
                50,
            ),
            NOW,
        )
        .unwrap();
    let counts = &step.counts;
    assert_eq!((1, 1, 1, 1), (counts.dropped_superseded, counts.dropped_id, counts.dropped_sequence, counts.patches));
}

#[test]
fn replays_that_come_too_late_do_not_name_their_key() {
    let mut table = table(|_| {});
    let value = message("name", 1);
    table.process(&at(chunk(&[("k", Some(&value), &[])]), 10), NOW).unwrap();
    let origin = [("dlq-origin-topic", "devices"), ("dlq-origin-partition", "0"), ("dlq-origin-offset", "9")];
    let replays = vec![("k", Some(value.as_slice()), origin.as_slice()); usize::from(STUCK_DROPS)];
    let step = table.process(&at(chunk(&replays), 50), NOW).unwrap();
    assert_eq!((u64::from(STUCK_DROPS), 0), (step.counts.dropped_superseded, step.counts.stuck_keys));
}

#[test]
fn keys_come_from_the_record_the_subject_or_a_field() {
    let value = message("name", 1);
    let ce = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_subject", "subject")];
    for (rule, value, expected) in [
        ("record", value.as_slice(), "k"),
        ("subject", &value, "subject"),
        ("field:name", b"\x0a\x01x\x0a\x04last", "last"),
        ("field:count", b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "-1"),
        ("field:version", b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "18446744073709551615"),
        ("field:place", b"\x28\x03", "-2"),
    ] {
        let spec = JobSpec { key: rule.to_owned(), ..spec() };
        let mut table = SyncTable::new(Arc::new(Job::new(spec).unwrap()), 0, false);
        let keys = table.missing(&chunk(&[("k", Some(value), &ce)]), false);
        assert_eq!(vec![expected.as_bytes().to_vec()], keys, "{rule}");
    }
    for (rule, value) in [("subject", Some(value.as_slice())), ("field:version", Some(&value)), ("field:name", None)] {
        let mut table = table(|spec| spec.key = rule.to_owned());
        let step = table.process(&chunk(&[("k", value, &[])]), NOW).unwrap();
        assert_eq!(vec!["missing-key"], reasons(&step), "{rule}");
    }
    let mut table = table(|_| {});
    let step = table.process(&chunk(&[("\0streams/schema", Some(&value), &[])]), NOW).unwrap();
    assert_eq!(vec!["missing-key"], reasons(&step));
}

#[test]
fn a_sequence_field_is_the_entitys_across_sources() {
    let mut table = table(|spec| spec.sequence = "field:version".to_owned());
    let versioned = |count: u8, version: u8| [message("name", count).as_slice(), &[0x20, version]].concat();
    let source = |id, source| [("ce_specversion", "1.0"), ("ce_id", id), ("ce_source", source), ("ce_sequence", "x")];
    let step = table
        .process(
            &chunk(&[
                ("k", Some(&message("name", 1)), &source("1", "a")),
                ("k", Some(&versioned(2, 2)), &source("2", "a")),
                ("k", Some(&versioned(3, 2)), &source("3", "b")),
                ("k", Some(&versioned(4, 3)), &source("4", "b")),
                ("k", Some(&message("name", 5)), &source("5", "c")),
            ]),
            NOW,
        )
        .unwrap();
    assert_eq!((3, 2, 0), (step.counts.patches, step.counts.dropped_sequence, step.dead_letters.len()));
}

#[test]
fn a_key_in_the_wrong_partition_stops_the_worker_and_nothing_of_the_chunk_counts() {
    let wrong = (0..).map(|key: u32| key.to_string()).find(|key| murmur2_partition(key.as_bytes(), 4) == 3).unwrap();
    let right = (0..).map(|key: u32| key.to_string()).find(|key| murmur2_partition(key.as_bytes(), 4) == 0).unwrap();
    let mut table = table(|spec| spec.partitions = 4);
    let value = message("name", 1);
    let first = table.process(&chunk(&[(&right, Some(&value), &[])]), NOW).unwrap();
    let step = table
        .process(&at(chunk(&[(&right, Some(&message("name", 2)), &[]), (&wrong, Some(&value), &[])]), 7), NOW)
        .unwrap();
    let text = step.fatal.unwrap();
    for part in ["topic devices", "partition 0", "offset 8", "partition 3 of 4", "partitioning = \"repartition\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(step.patches.is_empty() && step.mark == 0 && step.counts.events == 0);
    assert_eq!(0, table.table().changelog(first.mark, u64::MAX).unwrap().len());
    let again = table.process(&at(chunk(&[(&right, Some(&message("name", 2)), &[])]), 7), NOW).unwrap();
    assert_eq!((first.mark + 1, 1), (again.mark, again.counts.patches));
}

#[test]
fn snapshots_answer_rows_tombstones_and_unknown_keys_and_change_nothing() {
    let mut table = table(|_| {});
    let value = message("name", 1);
    let ce = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_time", "1970-01-01T00:00:05.000001Z")];
    let step = table
        .process(&chunk(&[("live", Some(&value), &ce), ("dead", Some(&value), &[]), ("dead", None, &[])]), NOW)
        .unwrap();
    let mut requester = Vec::new();
    put_len(&mut requester, 1, "büro".as_bytes());
    put_len(&mut requester, 5, &OUTPUT);
    table.assigned(&Assignment { log: LOG, output: OUTPUT, ..Assignment::default() }).unwrap();
    let requests = chunk(&[
        ("live", Some(&requester), &[]),
        ("live", Some(&requester), &[]),
        ("live", Some(b"\xff"), &[]),
        ("dead", Some(&requester), &[]),
        ("unknown", Some(&requester), &[]),
        ("elsewhere", None, &[]),
        ("null", Some(&requester), &[]),
    ]);
    let answers = table.snapshots(&requests, NOW + 9).unwrap();
    let expected = vec![(PatchKind::Snapshot, 0, 1), (PatchKind::Delete, 0, 2), (PatchKind::Delete, 0, 1)];
    assert_eq!(expected, kinds(&answers));
    let found = patches(&answers);
    assert_eq!(
        (value.as_slice(), digest(&value), Some((5, 1_000))),
        (found[0].data, found[0].head.digest, found[0].head.event_time)
    );
    assert_eq!((NOW, NOW, NOW + 9), (found[0].head.epoch, found[1].head.epoch, found[2].head.epoch));
    assert_eq!(Some("büro"), header(&answers.patches, 0, "resync-for"));
    assert_eq!((1, 1, 0), (answers.counts.requests_damaged, answers.counts.requests_without_key, answers.counts.rows));
    assert_eq!(1, answers.counts.requests_unknown);
    assert!(answers.mark > step.mark);
    let changed = table.table().changelog(step.mark, answers.mark).unwrap();
    assert_eq!((1, Some(PARTITION_KEY)), (changed.len(), changed.get(0).key()), "the epoch of the answer");
    // The key that is created later is above what was answered.
    let created = table.process(&at(chunk(&[("unknown", Some(&value), &[])]), 20), NOW + 9).unwrap();
    assert_eq!(NOW + 10, patches(&created)[0].head.epoch);
}

#[test]
fn a_request_can_reset_the_sequences_of_a_key() {
    let mut table = table(|_| {});
    let ce = |id, sequence| [("ce_specversion", "1.0"), ("ce_id", id), ("ce_source", "a"), ("ce_sequence", sequence)];
    let (one, two) = (message("name", 1), message("name", 2));
    table.process(&chunk(&[("k", Some(&one), &ce("1", "50"))]), NOW).unwrap();
    let reset = table.snapshots(&chunk(&[("k", None, &[("reset-sequence", "")])]), NOW).unwrap();
    assert_eq!((1, 1), (reset.counts.sequence_resets, reset.counts.rows));
    let step = table.process(&at(chunk(&[("k", Some(&two), &ce("1", "1"))]), 1), NOW).unwrap();
    assert_eq!(1, step.counts.patches);
}

#[test]
fn requests_for_a_key_of_another_partition_are_left_to_its_owner() {
    let foreign = (0..).map(|key: u32| key.to_string()).find(|key| murmur2_partition(key.as_bytes(), 4) == 3).unwrap();
    let mut table = table(|spec| spec.partitions = 4);
    let step = table.snapshots(&chunk(&[(&foreign, None, &[])]), NOW).unwrap();
    assert_eq!((1, 0), (step.counts.requests_foreign, step.patches.len()));
}

#[test]
fn traces_times_and_correlations_are_passed_on() {
    let mut table = table(|_| {});
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_time", "1970-01-01T00:00:05Z"),
        ("traceparent", trace),
        ("correlation-id", "c"),
    ];
    let value = message("name", 1);
    let step = table.process(&chunk(&[("a", Some(&value), &headers), ("b", Some(&value), &[])]), NOW).unwrap();
    let head = patches(&step)[0].head;
    assert_eq!((trace, Some((5, 0)), "1"), (head.traceparent, head.event_time, head.event_id));
    assert_eq!(
        (Some(trace), Some("c")),
        (header(&step.patches, 0, "traceparent"), header(&step.patches, 0, "correlation-id"))
    );
    assert_eq!((5, 5), (step.patches.get(0).timestamp_ms(), step.patches.get(1).timestamp_ms()));
    assert_eq!(0, step.patches.get(1).header_count());
}

#[test]
fn a_table_over_a_store_asks_for_what_it_lacks_and_fails_without() {
    let mut spec = spec();
    spec.key = "field:name".to_owned();
    let mut table = SyncTable::new(Arc::new(Job::new(spec).unwrap()), 0, false);
    let (a, b) = (message("a", 1), message("b", 1));
    let records = chunk(&[("x", Some(&a), &[]), ("y", Some(&a), &[]), ("z", Some(&b), &[]), ("z", Some(b"\x08"), &[])]);
    assert_eq!(vec![b"a".to_vec(), b"b".to_vec()], table.missing(&records, false));
    let failure = table.process(&records, NOW).err().unwrap();
    assert!(failure.0.contains("offset 0") && failure.0.contains("load()"));
    table.load([(b"a".as_slice(), None), (b"b".as_slice(), None)].into_iter()).unwrap();
    let step = table.process(&records, NOW).unwrap();
    assert_eq!((2, 1), (step.counts.patches, step.dead_letters.len()));
    assert_eq!(4, table.commit(step.mark).unwrap().len(), "two rows, the schema record and the partition record");
    assert_eq!(vec![b"q".to_vec()], table.missing(&chunk(&[("q", None, &[])]), true));
}

#[test]
fn settings_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut JobSpec)| {
        let mut spec = spec();
        change(&mut spec);
        Job::new(spec).err().unwrap()
    };
    assert!(refused(&|spec| spec.format = "json".to_owned()).starts_with("format: came \"json\""));
    assert!(refused(&|spec| spec.key = "name".to_owned()).starts_with("key: came \"name\""));
    assert!(refused(&|spec| spec.key = "field:nope".to_owned()).contains("acme.Device has no field \"nope\""));
    assert!(refused(&|spec| spec.key = "field:inner".to_owned()).contains("no single string"));
    assert!(refused(&|spec| spec.sequence = "field:".to_owned()).starts_with("sequence: "));
}
