//! What a sync job is configured with, and the rules that read an event by it: key, sequence, canonical form.

use std::borrow::Cow;
use std::sync::Arc;

use crate::attributes::decimal;
use crate::bounds::Bounds;
use crate::cloudevents::{tells_any, tells_cloudevents};
use crate::digest;
use crate::envelope::{Event, Format, Reason, Recognition, Refusal, Sequence, Types};
use crate::records::Record;
use crate::refused;
use crate::row::{schema_record, IDS_MAX, RESERVED_PREFIX};
use crate::schema::{Kind, Schema, IMPLICIT, REPEATED, SIGNED};
use crate::wire;

/// Parses a message of the configured type and serialises it deterministically.
pub trait Canonicaliser: Send + Sync {
    /// None: it is no such message. An error is a fault of the callback, never of the data; it stops the call.
    fn canonicalise(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String>;
}

/// Where the entity key comes from.
enum KeyRule {
    Record,
    Subject,
    Field(FieldRule),
}

/// Where the sequence comes from.
enum SequenceRule {
    Attribute,
    Field(FieldRule),
    None,
}

/// Who made a message canonical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Canonicalised {
    Already,
    Native,
    Upb,
}

/// A message after canonicalisation.
pub(crate) struct Canonical<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// False where even upb's form is none: such a message has no digest and serves as no base.
    pub is_canonical: bool,
    pub by: Canonicalised,
}

/// A top-level field that holds one value.
struct FieldRule {
    name: String,
    number: u32,
    kind: Kind,
    signed: bool,
    /// Absent means the default value, not "not given".
    implicit: bool,
}

/// What a job is configured with; see [`Job::new`].
pub struct JobSpec {
    pub schema: Arc<Schema>,
    /// Full name of the message type.
    pub type_name: String,
    /// Fingerprint of the descriptor, in rows and patches.
    pub fingerprint: u64,
    /// Serialised field table, kept beside the rows for a later worker to compare.
    pub field_table: Vec<u8>,
    /// The source topic.
    pub source: String,
    /// `record` | `subject` | `field:NAME`.
    pub key: String,
    /// `attribute` | `field:NAME` | `none`.
    pub sequence: String,
    /// `auto` | `plain` | `confluent` | `cloudevents`.
    pub format: String,
    /// Above 0: the source's partition count, and every key must lie in the partition that murmur2 gives it.
    pub partitions: u32,
    /// Of a source record's value, before and after decompression.
    pub record_bytes_max: usize,
    /// Of a record of the output and of the changelog, with key and headers.
    pub output_bytes_max: usize,
    pub tombstone_retention_ms: u64,
    /// Tombstones of a partition above which the DELETE of a key without a row leaves no further one.
    pub tombstones_max: usize,
    /// Ids that a row keeps, at least 1 and at most [`IDS_MAX`].
    pub ids_per_key: usize,
    /// The source holds copies that [`crate::sync::SyncTable::rekey`] made: they say where they came from.
    pub rekeyed: bool,
    pub schema_ids: Vec<u32>,
    pub message_index: Vec<i32>,
    pub types: Types,
    /// The type has privacy options: a record that cannot be decoded must not be written in the clear.
    pub sealed: bool,
    /// Of the index over the keys: another one in every process, see [`crate::table::Table::seeded`].
    pub seed: u64,
    pub canonicaliser: Box<dyn Canonicaliser>,
}

/// One sync job, immutable and shared by the tables of all its partitions.
pub struct Job {
    pub(crate) schema: Arc<Schema>,
    pub(crate) recognition: Recognition,
    pub(crate) fingerprint: u64,
    pub(crate) schema_record: Vec<u8>,
    pub(crate) source: String,
    pub(crate) key_text: String,
    key: KeyRule,
    sequence: SequenceRule,
    pub(crate) partitions: u32,
    pub(crate) tombstone_retention_ms: u64,
    pub(crate) tombstones_max: usize,
    pub(crate) ids_per_key: usize,
    pub(crate) rekeyed: bool,
    pub(crate) sealed: bool,
    pub(crate) seed: u64,
    pub(crate) bounds: Bounds,
    canonicaliser: Box<dyn Canonicaliser>,
}

impl Job {
    /// Checks the settings. The error names the setting, what came and what was wanted.
    pub fn new(spec: JobSpec) -> Result<Job, String> {
        let format = Format::parse(&spec.format)
            .ok_or_else(|| format!("format: came {:?}, wanted auto, plain, confluent or cloudevents", spec.format))?;
        let key = match spec.key.as_str() {
            "record" => KeyRule::Record,
            "subject" => KeyRule::Subject,
            other => KeyRule::Field(field_rule("key", other, "record, subject or field:NAME", &spec.schema)?),
        };
        let sequence = match spec.sequence.as_str() {
            "attribute" => SequenceRule::Attribute,
            "none" => SequenceRule::None,
            other => SequenceRule::Field(field_rule("sequence", other, "attribute, field:NAME or none", &spec.schema)?),
        };
        let mut types = spec.types;
        types.names.retain(|name| *name != spec.type_name);
        types.names.sort_unstable();
        if !(1..=IDS_MAX).contains(&spec.ids_per_key) {
            return Err(format!("ids_per_key: came {}, wanted 1 to {IDS_MAX}", spec.ids_per_key));
        }
        Ok(Job {
            recognition: Recognition {
                format,
                tells_cloudevents: tells_cloudevents(&spec.schema),
                tells_any: spec.type_name != "google.protobuf.Any" && tells_any(&spec.schema),
                types,
                type_name: spec.type_name,
                message_index: spec.message_index,
                schema_ids: spec.schema_ids,
                record_bytes_max: spec.record_bytes_max,
            },
            schema: spec.schema,
            fingerprint: spec.fingerprint,
            schema_record: schema_record(&spec.field_table),
            source: spec.source,
            key_text: spec.key,
            key,
            sequence,
            partitions: spec.partitions,
            tombstone_retention_ms: spec.tombstone_retention_ms,
            tombstones_max: spec.tombstones_max,
            ids_per_key: spec.ids_per_key,
            rekeyed: spec.rekeyed,
            sealed: spec.sealed,
            seed: spec.seed,
            bounds: Bounds::new(spec.record_bytes_max, spec.output_bytes_max),
            canonicaliser: spec.canonicaliser,
        })
    }
}

fn field_rule(setting: &str, text: &str, wanted: &str, schema: &Schema) -> Result<FieldRule, String> {
    let Some(name) = text.strip_prefix("field:") else {
        return Err(format!("{setting}: came {text:?}, wanted {wanted}"));
    };
    let root = schema.root();
    let Some(field) = root.field_by_name(name) else {
        return Err(format!("{setting}: {} has no field {name:?} at top level", root.full_name));
    };
    if field.flags & REPEATED != 0 || field.kind.is_message() || field.kind == Kind::Bool {
        return Err(format!("{setting}: field {name:?} holds no single string, bytes or integer"));
    }
    Ok(FieldRule {
        name: name.to_owned(),
        number: field.number,
        kind: field.kind,
        signed: field.flags & SIGNED != 0,
        implicit: field.flags & IMPLICIT != 0,
    })
}

/// Value of a field by rule.
enum Value<'a> {
    Bytes(&'a [u8]),
    Integer(i128),
}

impl FieldRule {
    /// The field's last value in a message that nobody has checked; None where it is absent.
    fn read<'a>(&self, message: &'a [u8]) -> Result<Option<Value<'a>>, Refusal> {
        let mut found = None;
        for record in wire::records(message) {
            let record = record
                .map_err(|_| Refusal::new(Reason::Undecodable, "the message is no Protobuf message of the type"))?;
            if record.number == self.number && record.wire_type == self.kind.wire_type() {
                found = Some(record);
            }
        }
        Ok(found.map(|record| self.value(&record)))
    }

    fn value<'a>(&self, record: &wire::Record<'a>) -> Value<'a> {
        let number = record.varint();
        let zigzag = (number >> 1) as i64 ^ -((number & 1) as i64);
        let fixed32 = || record.value.try_into().map_or(0, u32::from_le_bytes);
        Value::Integer(match (self.kind, self.signed) {
            (Kind::Uint32, true) => i128::from(zigzag as i32),
            (Kind::Uint64, true) => i128::from(zigzag),
            (Kind::Uint32, false) => i128::from(number as u32),
            (Kind::Uint64, false) => i128::from(number),
            (Kind::Int64, _) => i128::from(number as i64),
            (Kind::Fixed32, true) => i128::from(fixed32() as i32),
            (Kind::Fixed32, false) => i128::from(fixed32()),
            (Kind::Fixed64, true) => i128::from(record.fixed64() as i64),
            (Kind::Fixed64, false) => i128::from(record.fixed64()),
            (Kind::String | Kind::Bytes, _) => return Value::Bytes(record.value),
            // Int32 and enums of either sort: what is wider than 32 bits is cut, as parsers do.
            _ => i128::from(number as i32),
        })
    }
}

impl Job {
    pub fn tombstone_retention_ms(&self) -> u64 {
        self.tombstone_retention_ms
    }

    /// Whether the entity key is the record's own.
    pub(crate) fn is_keyed_by_record(&self) -> bool {
        matches!(self.key, KeyRule::Record)
    }

    /// The entity key of an event; integers go through `buffer` as decimal text.
    pub(crate) fn key_of<'a>(
        &self,
        record: &Record<'a>,
        event: &Event<'a>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Refusal> {
        let missing = |text: String| Err(Refusal::new(Reason::MissingKey, text));
        let key = match &self.key {
            KeyRule::Record => record.key().unwrap_or_default(),
            KeyRule::Subject => event.subject.as_bytes(),
            KeyRule::Field(rule) if event.is_delete => {
                return missing(format!("a DELETE has no message to take field {} from", rule.name));
            }
            KeyRule::Field(rule) => match rule.read(event.data)? {
                Some(Value::Bytes(bytes)) => bytes,
                Some(Value::Integer(number)) => {
                    buffer.clear();
                    buffer.extend_from_slice(number.to_string().as_bytes());
                    buffer
                }
                None => &[],
            },
        };
        if key.is_empty() {
            return missing(format!("no entity key: key = {:?} gives none", self.key_text));
        }
        if key.starts_with(RESERVED_PREFIX) {
            return missing("the entity key begins with 0x00 streams/, which is reserved".to_owned());
        }
        self.bounds.check_key(key)?;
        Ok(key)
    }

    /// The sequence of an event and whose it is: the hash of the source's name, or 0 for the entity itself.
    pub(crate) fn sequence_of(&self, event: &Event<'_>) -> Result<Option<(u64, u64)>, Refusal> {
        let refused = |text: String| Err(Refusal::new(Reason::BadSequence, text));
        match &self.sequence {
            SequenceRule::None => Ok(None),
            SequenceRule::Attribute => match event.sequence {
                Sequence::Absent => Ok(None),
                Sequence::Number(sequence) => Ok(Some((source_hash(event.source), sequence))),
                Sequence::Bad => refused("attribute sequence is no unsigned decimal of 64 bits".to_owned()),
            },
            // A DELETE has no message: the attribute, where it has one, is the entity's.
            SequenceRule::Field(_) if event.is_delete => match event.sequence {
                Sequence::Absent => Ok(None),
                Sequence::Number(sequence) => Ok(Some((0, sequence))),
                Sequence::Bad => refused("attribute sequence is no unsigned decimal of 64 bits".to_owned()),
            },
            SequenceRule::Field(rule) => {
                let sequence = match rule.read(event.data)? {
                    // Without presence, 0 is not on the wire.
                    None if rule.implicit => Some(0),
                    None => return Ok(None),
                    Some(Value::Integer(number)) => u64::try_from(number).ok(),
                    Some(Value::Bytes(text)) => decimal(text),
                };
                match sequence {
                    Some(sequence) => Ok(Some((0, sequence))),
                    None => refused(format!("field {} is no unsigned decimal of 64 bits", rule.name)),
                }
            }
        }
    }

    /// Whether protobuf refuses what stands in a message's extensions: to the schema they are unknown fields, which may
    /// hold anything, but a receiver whose runtime knows them could not read it. `held` was accepted before.
    pub(crate) fn is_refused(&self, held: Option<&[u8]>, message: &[u8]) -> Result<bool, String> {
        if !self.schema.has_extensions || !self.schema.has_other_unknown(held, message) {
            return Ok(false);
        }
        Ok(self.canonicaliser.canonicalise(message)?.is_none())
    }

    /// Why upb rejected a message.
    pub(crate) fn rejection(&self, message: &[u8]) -> Refusal {
        let name = &self.recognition.type_name;
        if self.nests_too_deep(message, 0, 0) {
            let text = format!("a message of {name} that nests deeper than {}", wire::DEPTH_MAX);
            return Refusal::new(Reason::TooDeep, text);
        }
        let why = refused::why(&self.schema, message);
        Refusal::new(Reason::Undecodable, format!("no message of {name}: {why}"))
    }

    /// Whether a message nests deeper than protobuf's parsers take.
    fn nests_too_deep(&self, message: &[u8], index: usize, depth: u32) -> bool {
        if depth > wire::DEPTH_MAX {
            return true;
        }
        let message_type = self.schema.message(index);
        wire::records(message).map_while(Result::ok).any(|record| {
            message_type.field(record.number).is_some_and(|field| {
                field.kind.is_message()
                    && record.wire_type == field.kind.wire_type()
                    && self.nests_too_deep(record.value, field.child, depth + 1)
            })
        })
    }

    /// The canonical form of a message, or the nearest thing to it; None: it is no message of the type.
    pub(crate) fn canonical<'a>(&self, message: &'a [u8]) -> Result<Option<Canonical<'a>>, String> {
        if self.schema.is_canonical(message) {
            return Ok(Some(Canonical {
                bytes: Cow::Borrowed(message),
                is_canonical: true,
                by: Canonicalised::Already,
            }));
        }
        self.recanonicalise(message)
    }

    /// The same for a message that is known not to be canonical.
    pub(crate) fn recanonicalise<'a>(&self, message: &'a [u8]) -> Result<Option<Canonical<'a>>, String> {
        let owned = |bytes, is_canonical, by| Canonical { bytes: Cow::Owned(bytes), is_canonical, by };
        if let Some(canonical) = self.schema.canonicalise(message) {
            return Ok(Some(owned(canonical, true, Canonicalised::Native)));
        }
        let Some(parsed) = self.canonicaliser.canonicalise(message)? else { return Ok(None) };
        // upb orders map entries its own way.
        Ok(Some(match self.schema.canonicalise(&parsed) {
            Some(canonical) => owned(canonical, true, Canonicalised::Upb),
            None => owned(parsed, false, Canonicalised::Upb),
        }))
    }
}

/// Hash of a source's name; 0 is kept for the entity's own sequence.
fn source_hash(source: &str) -> u64 {
    digest(source.as_bytes()).max(1)
}
