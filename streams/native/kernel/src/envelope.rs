//! What a source record is: plain Protobuf, Confluent framing, a CloudEvent in either Kafka mode, compressed or not.
//!
//! Recognition is per record and calls nobody: no schema registry, no descriptor. What a record says is believed only
//! where it says it: a DELETE is a record without a value, a type that names another known message is not ours, and bytes
//! without a header are a CloudEvent only where they cannot be the message. It borrows everything from the record (or
//! from the scratch buffers) and copies nothing but JSON. Any bytes give an event or a [`Refusal`]; none give a panic.
//!
//! Sources: CloudEvents Kafka protocol binding 1.0.2; Confluent wire format with message indexes as in
//! confluent-kafka-python's `schema_registry/common/serde.py`; RFC 8878.

use std::fmt;

use crate::attributes::{correlation, decimal, timestamp_text, traceparent, tracestate};
use crate::cloudevents::{self, Beside};
use crate::confluent::{self, SchemaIndexes};
use crate::json;
use crate::records::Record;

/// Longest error text of a dead letter, in bytes: it rides in a header beside the original ones.
pub const ERROR_BYTES_MAX: usize = 1024;
/// Header of a dead letter that lacks its record's value, for its size or because it is sealed: how long that was.
pub const LETTER_LENGTH: &[u8] = b"dlq-length";

/// Headers of one record that are read: half of what librdkafka reads, above which it gives none of them. A copy and a dead
/// letter have some more.
pub const HEADERS_MAX: usize = 50_000;
/// Header that stands for those of a record which its reader could not read.
pub const HEADERS_UNREAD: &[u8] = b"dlq-headers-unread";

/// Why a record cannot become an event; its code is the `dlq-reason` header and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Undecodable,
    WrongSchema,
    MissingKey,
    BadSequence,
    TooDeep,
    RecordTooLarge,
    BadCompression,
    BadEnvelope,
    WrongType,
    NoData,
    Dataref,
    TooLarge,
    TooManyTombstones,
}

impl Reason {
    pub const ALL: [Reason; 13] = [
        Reason::Undecodable,
        Reason::WrongSchema,
        Reason::MissingKey,
        Reason::BadSequence,
        Reason::TooDeep,
        Reason::RecordTooLarge,
        Reason::BadCompression,
        Reason::BadEnvelope,
        Reason::WrongType,
        Reason::NoData,
        Reason::Dataref,
        Reason::TooLarge,
        Reason::TooManyTombstones,
    ];

    pub fn code(self) -> &'static str {
        match self {
            Reason::Undecodable => "undecodable",
            Reason::WrongSchema => "wrong-schema",
            Reason::MissingKey => "missing-key",
            Reason::BadSequence => "bad-sequence",
            Reason::TooDeep => "too-deep",
            Reason::RecordTooLarge => "record-too-large",
            Reason::BadCompression => "bad-compression",
            Reason::BadEnvelope => "bad-envelope",
            Reason::WrongType => "wrong-type",
            Reason::NoData => "no-data",
            Reason::Dataref => "dataref",
            Reason::TooLarge => "too-large",
            Reason::TooManyTombstones => "too-many-tombstones",
        }
    }
}

/// A record that goes to the dead letters. The text never holds payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub text: String,
    /// The record says that it holds another type than ours, one that is known or excluded by a setting.
    pub is_other_type: bool,
}

impl Refusal {
    pub fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason, text: text.into(), is_other_type: false }
    }

    pub(crate) fn of_another_type(self) -> Refusal {
        Refusal { is_other_type: true, ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.text)
    }
}

pub(crate) fn bad(text: &str) -> Refusal {
    Refusal::new(Reason::BadEnvelope, text)
}

/// How a topic's records are framed: by themselves, or fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Auto,
    Plain,
    Confluent,
    CloudEvents,
}

impl Format {
    /// The setting `format`, or None for a word it does not know.
    pub fn parse(word: &str) -> Option<Format> {
        match word {
            "auto" => Some(Format::Auto),
            "plain" => Some(Format::Plain),
            "confluent" => Some(Format::Confluent),
            "cloudevents" => Some(Format::CloudEvents),
            _ => None,
        }
    }
    fn reads_confluent(self) -> bool {
        matches!(self, Format::Auto | Format::Confluent)
    }
    pub(crate) fn reads_cloudevents(self) -> bool {
        matches!(self, Format::Auto | Format::CloudEvents)
    }
}

/// What the records of one topic may look like.
pub struct Recognition {
    pub format: Format,
    /// Full name of the message type.
    pub type_name: String,
    /// Confluent message indexes that name the configured message in its file, outermost first.
    pub message_index: Vec<i32>,
    /// Confluent schema ids that are accepted; empty: every id of the configured message.
    pub schema_ids: Vec<u32>,
    /// Bytes of a record's value, before and after decompression.
    pub record_bytes_max: usize,
    pub types: Types,
    /// Whether bytes of the message could be no CloudEvent's, and no google.protobuf.Any's.
    pub tells_cloudevents: bool,
    pub tells_any: bool,
}

/// How a record is told whose type it says to be.
#[derive(Debug, Default)]
pub struct Types {
    /// Full names of the other messages that the loaded descriptors hold, ascending.
    pub names: Vec<String>,
    /// The only event types that are accepted, besides the message's own name; empty: every one that names no other message.
    pub event_types: Vec<String>,
    /// Records of other types are passed over and counted, not dead letters.
    pub skips_others: bool,
    pub indexes: SchemaIndexes,
    /// Confluent message indexes that name the configured message too: without map entries, where nothing else is there.
    pub also: Vec<Vec<i32>>,
    /// Those of the other messages of its file.
    pub others: Vec<Vec<i32>>,
}

impl Recognition {
    /// Refuses an event whose type or schema names another message. A text that names none is a business name.
    pub(crate) fn judge(&self, event_type: &[u8], schema: &[u8]) -> Result<(), Refusal> {
        let own = self.type_name.as_bytes();
        if schema.is_empty() && (event_type.is_empty() || event_type == own) {
            return Ok(());
        }
        self.judge_text(event_type, schema)
    }

    #[inline(never)]
    fn judge_text(&self, event_type: &[u8], schema: &[u8]) -> Result<(), Refusal> {
        let own = self.type_name.as_bytes();
        for (what, text) in [("type", event_type), ("dataschema", schema)] {
            if text.is_empty() || text == own {
                continue;
            }
            let listed = &self.types.event_types;
            let is_listed = what == "type" && listed.iter().any(|listed| listed.as_bytes() == text);
            let name = cloudevents::named(text);
            if is_listed || name == own {
                continue;
            }
            if self.knows(name) {
                return Err(
                    self.other_type(&format!("the event's {what} names another message than {}", self.type_name))
                );
            }
            if what == "type" && !listed.is_empty() {
                return Err(self.other_type("the event's type is not in event_types"));
            }
        }
        Ok(())
    }

    /// Refuses a google.protobuf.Any of another message.
    pub(crate) fn check_any(&self, name: &[u8]) -> Result<(), Refusal> {
        if name == self.type_name.as_bytes() {
            return Ok(());
        }
        let text = format!("a google.protobuf.Any of another message than {}", self.type_name);
        Err(if self.knows(name) { self.other_type(&text) } else { Refusal::new(Reason::WrongSchema, text) })
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.types.names.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
    }

    fn other_type(&self, text: &str) -> Refusal {
        Refusal::new(Reason::WrongType, text).of_another_type()
    }
}

/// Sequence of an event as its source gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    Absent,
    Number(u64),
    /// Present, and not an unsigned decimal of 64 bits.
    Bad,
}

impl Sequence {
    pub(crate) fn from_text(text: &[u8]) -> Sequence {
        decimal(text).map_or(Sequence::Bad, Sequence::Number)
    }
}

/// Where a replayed dead letter first was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    pub topic: &'a [u8],
    pub partition: i64,
    pub offset: i64,
}

/// One event, borrowed. Empty text: the source did not say.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The message; empty for a DELETE.
    pub data: &'a [u8],
    pub id: &'a str,
    pub source: &'a str,
    pub subject: &'a str,
    pub sequence: Sequence,
    /// Seconds and nanoseconds since 1970; None where it was not given or cannot be read.
    pub time: Option<(i64, i32)>,
    /// The record's own `traceparent` header (this hop), else the CloudEvent's (its start).
    pub traceparent: &'a str,
    /// What came beside it.
    pub tracestate: &'a str,
    pub correlation: Option<&'a [u8]>,
    pub is_delete: bool,
    /// Which attributes were given and left out because they cannot be read: bits in the order of [`UNREADABLE`].
    pub unreadable: u8,
}

/// Attributes that cost an event nothing when they cannot be read, by bit.
pub const UNREADABLE: [&str; 4] = ["time", "traceparent", "tracestate", "correlation-id"];
const TIME: u8 = 1;
const TRACEPARENT: u8 = 2;
const TRACESTATE: u8 = 4;
const CORRELATION: u8 = 8;

/// A trace context as it came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trace<'a> {
    pub traceparent: &'a [u8],
    pub tracestate: &'a [u8],
}

/// Buffers of what a record does not hold as it is, one per table: decompressed bytes, texts and data of JSON.
#[derive(Default)]
pub struct Scratch {
    inflated: Inflated,
    texts: Vec<u8>,
    data: Vec<u8>,
}

/// Buffer and context of the decompressor.
#[derive(Default)]
struct Inflated {
    context: zstd::bulk::Decompressor<'static>,
    bytes: Vec<u8>,
}

/// Longest header name that is looked at in lower case.
const NAME_MAX: usize = 32;

#[derive(Default)]
pub(crate) struct Headers<'a> {
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    pub schema_id: Option<&'a [u8]>,
    hop: Trace<'a>,
    correlation: Option<&'a [u8]>,
    specversion: bool,
    id: Option<&'a [u8]>,
    source: &'a [u8],
    event_type: &'a [u8],
    schema: &'a [u8],
    subject: &'a [u8],
    sequence: Option<&'a [u8]>,
    time: &'a [u8],
    dataref: bool,
    is_unread: bool,
    start: Trace<'a>,
}

impl<'a> Headers<'a> {
    /// Whether the headers are those of a CloudEvent in binary mode.
    fn says_binary(&self) -> bool {
        self.specversion && self.id.is_some()
    }

    /// One pass over the headers. Names are compared without case; the last one of a name wins, as in Kafka's own clients.
    fn read(record: &Record<'a>) -> Headers<'a> {
        let mut found = Headers::default();
        for (name, value) in record.headers() {
            let Some(value) = value else { continue };
            if found.note(name, value) || name.len() > NAME_MAX || !name.iter().any(u8::is_ascii_uppercase) {
                continue;
            }
            let mut lower = [0; NAME_MAX];
            let lower = &mut lower[..name.len()];
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            found.note(lower, value);
        }
        found
    }

    /// Keeps a header that says something; `name` is in lower case.
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> bool {
        match name {
            // Spring writes `contentType`.
            b"content-type" | b"contenttype" => self.content_type = Some(value),
            b"content-encoding" => self.content_encoding = Some(value),
            b"__value_schema_id" => self.schema_id = Some(value),
            b"traceparent" => self.hop.traceparent = value,
            b"tracestate" => self.hop.tracestate = value,
            b"correlation-id" => self.correlation = Some(value),
            b"ce_specversion" => self.specversion = true,
            b"ce_id" => self.id = Some(value),
            b"ce_source" => self.source = value,
            b"ce_type" => self.event_type = value,
            b"ce_dataschema" => self.schema = value,
            b"ce_subject" => self.subject = value,
            b"ce_sequence" => self.sequence = Some(value),
            b"ce_time" => self.time = value,
            b"ce_dataref" => self.dataref = true,
            HEADERS_UNREAD => self.is_unread = true,
            b"ce_traceparent" => self.start.traceparent = value,
            b"ce_tracestate" => self.start.tracestate = value,
            _ => return false,
        }
        true
    }
}

/// Where a replayed dead letter first was; None: the record is none.
pub fn origin<'a>(record: &Record<'a>) -> Option<Origin<'a>> {
    if record.header_count() < 3 {
        return None;
    }
    let number = |name: &[u8]| i64::try_from(decimal(record.header(name)?)?).ok();
    let topic = record.header(b"dlq-origin-topic")?;
    Some(Origin { topic, partition: number(b"dlq-origin-partition")?, offset: number(b"dlq-origin-offset")? })
}

/// Recognises one record. `scratch` holds what the record does not hold as it is.
pub fn recognise<'a>(rules: &Recognition, record: &Record<'a>, scratch: &'a mut Scratch) -> Result<Event<'a>, Refusal> {
    let headers = Headers::read(record);
    if headers.is_unread || record.header_count() > HEADERS_MAX {
        return Err(too_many_headers());
    }
    let mut event = Event::new();
    // What a record says of itself holds in every format, also what that format has no use for.
    rules.judge(headers.event_type, headers.schema)?;
    let binary = headers.says_binary() && rules.format.reads_cloudevents();
    let mut beside = Beside::default();
    if binary {
        event.attributes_from(&headers)?;
        beside.start = headers.start;
    }
    match record.value() {
        Some(value) => event.read_value(rules, &headers, binary, value, scratch, &mut beside)?,
        // Its data is somewhere: nobody said that the entity is gone.
        None if headers.says_binary() && headers.dataref => return Err(cloudevents::dataref()),
        None if record.headers().any(|(name, _)| name == LETTER_LENGTH) => {
            return Err(Refusal::new(Reason::NoData, "the stub of a dead letter, which lacks its value: no DELETE"));
        }
        None => {
            if let (true, Some(prefix)) = (rules.format.reads_confluent(), headers.schema_id) {
                confluent::check_header(rules, prefix)?;
            }
            event.is_delete = true;
        }
    }
    event.note_correlation(headers.correlation);
    event.note_traces(headers.hop, beside.start);
    Ok(event)
}

/// Whether what a record says in its headers is not known, or too much to be kept.
pub(crate) fn has_too_many_headers(record: &Record<'_>) -> bool {
    record.header_count() > HEADERS_MAX || record.headers().any(|(name, _)| name == HEADERS_UNREAD)
}

#[cold]
fn too_many_headers() -> Refusal {
    Refusal::new(Reason::RecordTooLarge, format!("more than {HEADERS_MAX} headers, which nobody reads; send fewer"))
}

enum ContentType {
    StructuredProtobuf,
    StructuredJson,
    OtherCloudEvents,
    Other,
}

/// Media types are compared without case and without parameters (RFC 9110, 8.3.1). Spring may write them as JSON, in
/// quotes.
fn content_type(headers: &Headers<'_>) -> ContentType {
    let Some(value) = headers.content_type else { return ContentType::Other };
    if value == b"application/cloudevents+protobuf" {
        return ContentType::StructuredProtobuf;
    }
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let media = media.strip_prefix(b"\"").unwrap_or(media);
    let media = media.strip_suffix(b"\"").unwrap_or(media);
    const PREFIX: &[u8] = b"application/cloudevents";
    if media.len() < PREFIX.len() || !media[..PREFIX.len()].eq_ignore_ascii_case(PREFIX) {
        return ContentType::Other;
    }
    let form = &media[PREFIX.len()..];
    if form.eq_ignore_ascii_case(b"+protobuf") {
        ContentType::StructuredProtobuf
    } else if form.eq_ignore_ascii_case(b"+json") {
        ContentType::StructuredJson
    } else {
        ContentType::OtherCloudEvents
    }
}

impl Inflated {
    /// The content of exactly one zstd frame. One-shot decompression uses the output as its window, so that neither a
    /// claimed size nor a claimed window can take more memory than `bytes_max`.
    fn decompress(&mut self, frame: &[u8], bytes_max: usize) -> Result<&[u8], Refusal> {
        use zstd::zstd_safe;
        let damaged = |text: &str| Refusal::new(Reason::BadCompression, text);
        if !frame.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(damaged("content-encoding is zstd, the value is no zstd frame"));
        }
        if zstd_safe::get_dict_id_from_frame(frame).is_some() {
            return Err(damaged("a zstd frame made with a dictionary, which nobody has here; compress without one"));
        }
        match zstd_safe::find_frame_compressed_size(frame) {
            Ok(length) if length == frame.len() => {}
            Ok(_) => return Err(damaged("bytes after the zstd frame; the value must be exactly one frame")),
            Err(_) => return Err(damaged("truncated or damaged zstd frame")),
        }
        let claimed = zstd_safe::get_frame_content_size(frame).map_err(|_| damaged("damaged zstd frame header"))?;
        let too_large = || {
            let text = format!("decompressed value exceeds record_bytes_max of {bytes_max} bytes");
            Refusal::new(Reason::RecordTooLarge, text)
        };
        if claimed.is_some_and(|claimed| claimed > bytes_max as u64) {
            return Err(too_large());
        }
        let room = claimed.map_or(bytes_max, |claimed| claimed as usize);
        self.bytes.clear();
        self.bytes.reserve(room);
        match self.context.decompress_to_buffer(frame, &mut self.bytes) {
            Ok(length) if length <= bytes_max => Ok(&self.bytes),
            Ok(_) => Err(too_large()),
            // Without a claimed size, a full buffer is the only thing that tells a bomb from damage.
            Err(error) if claimed.is_none() && error.to_string().contains("too small") => Err(too_large()),
            Err(_) => Err(damaged("damaged zstd frame")),
        }
    }
}

impl<'a> Event<'a> {
    fn new() -> Event<'a> {
        Event {
            data: &[],
            id: "",
            source: "",
            subject: "",
            sequence: Sequence::Absent,
            time: None,
            traceparent: "",
            tracestate: "",
            correlation: None,
            is_delete: false,
            unreadable: 0,
        }
    }

    fn attributes_from(&mut self, headers: &Headers<'a>) -> Result<(), Refusal> {
        self.id = utf8(headers.id.unwrap_or_default(), "header ce_id")?;
        self.source = utf8(headers.source, "header ce_source")?;
        self.subject = utf8(headers.subject, "header ce_subject")?;
        self.sequence = headers.sequence.map_or(Sequence::Absent, Sequence::from_text);
        if !headers.time.is_empty() {
            self.set_time(timestamp_text(headers.time));
        }
        Ok(())
    }

    /// The message in a value, and what the value itself says about the event.
    fn read_value(
        &mut self,
        rules: &Recognition,
        headers: &Headers<'a>,
        binary: bool,
        value: &'a [u8],
        scratch: &'a mut Scratch,
        beside: &mut Beside<'a>,
    ) -> Result<(), Refusal> {
        if value.len() > rules.record_bytes_max {
            let text = format!("value of {} bytes, record_bytes_max is {}", value.len(), rules.record_bytes_max);
            return Err(Refusal::new(Reason::RecordTooLarge, text));
        }
        let Scratch { inflated, texts, data } = scratch;
        let value = match headers.content_encoding.map(<[u8]>::trim_ascii) {
            None => value,
            Some(coding) if coding.eq_ignore_ascii_case(b"identity") => value,
            Some(coding) if coding.eq_ignore_ascii_case(b"zstd") => {
                inflated.decompress(value, rules.record_bytes_max)?
            }
            Some(_) => {
                return Err(Refusal::new(Reason::BadCompression, "content-encoding is neither zstd nor identity"))
            }
        };
        let said = content_type(headers);
        if value.is_empty() && headers.dataref && headers.says_binary() && matches!(said, ContentType::Other) {
            return Err(cloudevents::dataref());
        }
        if !rules.format.reads_cloudevents() {
            let is_event = || rules.format == Format::Plain && rules.tells_cloudevents && cloudevents::is_event(value);
            // Where the message is a CloudEvent itself, it is what the record says.
            let is_said = !matches!(said, ContentType::Other) && rules.type_name != cloudevents::EVENT_NAME;
            if is_said || is_event() {
                return Err(bad("a CloudEvent in one piece, which the topic's format does not read; see `format`"));
            }
        } else {
            match said {
                ContentType::StructuredProtobuf => return self.read_structured(rules, value, beside),
                ContentType::StructuredJson => {
                    let members = json::members(value, texts);
                    let members =
                        members.map_err(|_| bad("content-type says a CloudEvent in JSON, the value is none"))?;
                    return self.read_json(rules, &members, data, beside);
                }
                ContentType::OtherCloudEvents => {
                    return Err(bad("content-type is a CloudEvents format other than +protobuf and +json"));
                }
                ContentType::Other if binary => {}
                ContentType::Other if rules.format == Format::CloudEvents => {
                    return Err(bad(
                        "no CloudEvent: neither content-type application/cloudevents+protobuf nor ce_ headers",
                    ));
                }
                ContentType::Other if headers.schema_id.is_some() => {}
                ContentType::Other => {
                    if rules.tells_cloudevents && cloudevents::is_event(value) {
                        return self.read_structured(rules, value, beside);
                    }
                    // No message is a JSON object: `{` begins a group, which only `|` ends.
                    if value.first() == Some(&b'{') {
                        if let Some(members) =
                            json::members(value, texts).ok().filter(|m| cloudevents::is_json_event(m))
                        {
                            return self.read_json(rules, &members, data, beside);
                        }
                    }
                }
            }
        }
        let value = if rules.format.reads_confluent() { confluent::unframe(rules, headers, value)? } else { value };
        self.data = cloudevents::unwrapped(rules, value)?;
        if !rules.format.reads_cloudevents() && self.data.len() != value.len() {
            return Err(bad("a google.protobuf.Any, which the topic's format does not unwrap; see `format`"));
        }
        Ok(())
    }

    /// A time that was given; None: it cannot be read, and is left out.
    pub(crate) fn set_time(&mut self, time: Option<(i64, i32)>) {
        self.time = time;
        self.unreadable = self.unreadable & !TIME | if time.is_none() { TIME } else { 0 };
    }

    fn note_correlation(&mut self, given: Option<&'a [u8]>) {
        let given = given.unwrap_or_default();
        self.correlation = correlation(given);
        if self.correlation.is_none() && !given.is_empty() {
            self.unreadable |= CORRELATION;
        }
    }

    /// The hop's trace, or where that is none, the one that the event began with.
    fn note_traces(&mut self, hop: Trace<'a>, start: Trace<'a>) {
        for Trace { traceparent: parent, tracestate: state } in [hop, start] {
            if parent.is_empty() {
                continue;
            }
            let Some(parent) = traceparent(parent) else {
                self.unreadable |= TRACEPARENT;
                continue;
            };
            self.traceparent = parent;
            if !state.is_empty() {
                self.tracestate = tracestate(state).unwrap_or_default();
                self.unreadable |= if self.tracestate.is_empty() { TRACESTATE } else { 0 };
            }
            return;
        }
    }
}

pub(crate) fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| bad(&format!("{what} is not UTF-8")))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::records::Records;

    pub const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    pub fn rules(format: Format) -> Recognition {
        Recognition {
            format,
            type_name: "acme.Device".to_owned(),
            message_index: vec![0],
            schema_ids: Vec::new(),
            record_bytes_max: 1_000,
            types: Types::default(),
            tells_cloudevents: true,
            tells_any: true,
        }
    }

    pub fn record(value: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Records {
        let mut records = Records::new();
        records.push(Some(b"key"), value, 7, 9).unwrap();
        for (name, value) in headers {
            records.push_header(name.as_bytes(), Some(value)).unwrap();
        }
        records
    }

    /// Recognises one record and hands the event, or the reason why there is none, to `look`.
    pub fn with<T>(
        rules: &Recognition,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        look: impl FnOnce(Result<Event<'_>, Refusal>) -> T,
    ) -> T {
        look(recognise(rules, &record(value, headers).get(0), &mut Scratch::default()))
    }

    pub fn reason(format: Format, value: &[u8], headers: &[(&str, &[u8])]) -> Reason {
        with(&rules(format), Some(value), headers, |event| event.unwrap_err().reason)
    }

    pub fn data(rules: &Recognition, value: &[u8], headers: &[(&str, &[u8])]) -> Vec<u8> {
        with(rules, Some(value), headers, |event| event.unwrap().data.to_vec())
    }

    pub const STRUCTURED: (&str, &[u8]) = ("content-type", b"Application/CloudEvents+Protobuf; charset=utf-8");
}

#[cfg(test)]
mod tests {
    use super::testing::{data, reason, record, rules, with, STRUCTURED, TRACE};
    use super::*;

    const BINARY: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"id-2"),
        ("ce_source", b"/binary"),
        ("ce_subject", b"device-2"),
        ("ce_sequence", b"00012"),
        ("ce_time", b"1970-01-01T00:00:01Z"),
    ];

    #[test]
    fn a_plain_value_is_the_message_an_empty_one_too_and_null_is_a_delete() {
        for format in [Format::Auto, Format::Plain] {
            assert_eq!(b"\x0a\x01x".to_vec(), data(&rules(format), b"\x0a\x01x", &[]));
            with(&rules(format), Some(b""), &[], |event| assert!(!event.unwrap().is_delete));
            with(&rules(format), None, &[], |event| assert!(event.unwrap().is_delete));
        }
    }

    #[test]
    fn a_fixed_format_reads_nothing_else_and_takes_no_event_for_the_message() {
        let event = b"\x0a\x011\x12\x02/s\x1a\x031.0\x22\x01t\x32\x01M";
        assert_eq!(Reason::BadEnvelope, reason(Format::Plain, event, &[]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Plain, b"\x0aM", &[STRUCTURED]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Confluent, b"\0\0\0\0\x05\0M", &[STRUCTURED]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Confluent, b"\x0aM", &[]));
        assert_eq!(Reason::BadEnvelope, reason(Format::CloudEvents, b"\x0aM", &[]));
        with(&rules(Format::Plain), Some(b"M"), &BINARY, |event| assert_eq!("", event.unwrap().id));
        with(&rules(Format::Confluent), Some(b"\0\0\0\0\x05\0M"), &BINARY, |event| {
            assert_eq!("", event.unwrap().id);
        });
    }

    #[test]
    fn a_binary_cloudevent_gives_its_headers_and_without_a_value_is_a_delete() {
        with(&rules(Format::Auto), Some(b"M"), &BINARY, |event| {
            let event = event.unwrap();
            assert_eq!((b"M".as_slice(), false), (event.data, event.is_delete));
            assert_eq!(("id-2", "/binary", "device-2"), (event.id, event.source, event.subject));
            assert_eq!((Sequence::Number(12), Some((1, 0))), (event.sequence, event.time));
        });
        with(&rules(Format::CloudEvents), Some(b""), &BINARY, |event| {
            let event = event.unwrap();
            assert_eq!((false, b"".as_slice()), (event.is_delete, event.data), "a message of defaults");
        });
        with(&rules(Format::Auto), None, &BINARY, |event| {
            let event = event.unwrap();
            assert_eq!((true, "id-2"), (event.is_delete, event.id));
        });
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), b"\0\0\0\0\x05\0M", &BINARY), "framed inside");
        let headers = [("ce_specversion", b"1.0".as_slice()), ("ce_id", b"\xff")];
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"M", &headers));
    }

    #[test]
    fn data_that_lies_elsewhere_is_no_delete() {
        let elsewhere = [BINARY[0], BINARY[1], ("ce_dataref", b"https://x/y".as_slice())];
        assert_eq!(Reason::Dataref, reason(Format::Auto, b"", &elsewhere));
        with(&rules(Format::Auto), None, &elsewhere, |event| {
            assert_eq!(Reason::Dataref, event.unwrap_err().reason);
        });
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), b"M", &elsewhere), "the data is here too");
        with(&rules(Format::Plain), None, &elsewhere, |event| {
            assert_eq!(Reason::Dataref, event.unwrap_err().reason);
        });
    }

    #[test]
    fn header_names_are_compared_without_case_and_the_last_one_counts() {
        let headers: [(&str, &[u8]); 6] = [
            ("CE_SpecVersion", b"1.0"),
            ("Ce_Id", b"id-1"),
            ("ce_id", b"id-2"),
            ("Ce_Source", b"/binary"),
            ("CONTENT-ENCODING", b" ZSTD "),
            ("TraceParent", TRACE.as_bytes()),
        ];
        let frame = zstd::bulk::compress(b"M", 3).unwrap();
        with(&rules(Format::Auto), Some(&frame), &headers, |event| {
            let event = event.unwrap();
            assert_eq!(
                (b"M".as_slice(), "id-2", "/binary", TRACE),
                (event.data, event.id, event.source, event.traceparent)
            );
        });
        let structured = b"\x0a\x011\x12\x02/s\x1a\x031.0\x22\x01t\x32\x01M";
        let content_types: [(&str, &[u8]); 5] = [
            ("Content-Type", b"application/cloudevents+protobuf"),
            ("contentType", b"application/cloudevents+protobuf"),
            ("contentType", b"\"application/cloudevents+protobuf;charset=utf-8\""),
            ("CONTENTTYPE", b" Application/CloudEvents+Protobuf ; charset=utf-8"),
            STRUCTURED,
        ];
        for header in content_types {
            let mut asks = rules(Format::Auto);
            asks.tells_cloudevents = false;
            assert_eq!(b"M".to_vec(), data(&asks, structured, &[header]), "{}", header.0);
            assert_eq!(b"M".to_vec(), data(&asks, structured, &[("content-type", b"text/plain"), header]));
        }
        with(&rules(Format::Auto), Some(b"M"), &[("Ce_\u{e9}", b"x"), (&"X".repeat(100), b"x")], |event| {
            assert_eq!(b"M", event.unwrap().data);
        });
    }

    #[test]
    fn a_type_that_names_another_known_message_is_refused_and_a_business_name_is_not() {
        let mut rules = rules(Format::Auto);
        rules.types.names = vec!["acme.Alarm".to_owned(), "acme.Order".to_owned()];
        let typed = |name: &'static str, text: &'static str| [BINARY[0], BINARY[1], (name, text.as_bytes())];
        let accepted = |rules: &Recognition, name: &'static str, text: &'static str, value: Option<&[u8]>| {
            with(rules, value, &typed(name, text), |event| event.map(|_| ()))
        };
        for value in [Some(b"M".as_slice()), Some(b""), None] {
            for name in ["ce_type", "Ce_DataSchema"] {
                for text in
                    ["", "acme.Device", "type.googleapis.com/acme.Device", "device.changed", "acme.Orders", "Order"]
                {
                    assert_eq!(Ok(()), accepted(&rules, name, text, value), "{name} {text}");
                }
                for text in ["acme.Order", "acme.Alarm", "type.googleapis.com/acme.Order"] {
                    let refusal = accepted(&rules, name, text, value).unwrap_err();
                    assert_eq!((Reason::WrongType, true), (refusal.reason, refusal.is_other_type), "{name} {text}");
                }
            }
        }
        rules.types.event_types = vec!["device.changed".to_owned(), "acme.Alarm".to_owned()];
        for text in ["", "device.changed", "acme.Device", "acme.Alarm"] {
            assert_eq!(Ok(()), accepted(&rules, "ce_type", text, None), "{text}");
        }
        assert_eq!(Ok(()), accepted(&rules, "ce_dataschema", "https://registry/7", None));
        for text in ["device.gone", "acme.Order"] {
            assert_eq!(Reason::WrongType, accepted(&rules, "ce_type", text, None).unwrap_err().reason);
        }
        for format in [Format::Plain, Format::Confluent, Format::CloudEvents] {
            rules.format = format;
            let refused = accepted(&rules, "ce_type", "acme.Order", Some(b"M")).unwrap_err();
            assert_eq!(Reason::WrongType, refused.reason, "in every format");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted_one_by_one() {
        let hop: (&str, &[u8]) = ("traceparent", TRACE.as_bytes());
        let state: (&str, &[u8]) = ("tracestate", b"a=b");
        let start: (&str, &[u8]) = ("ce_traceparent", TRACE.as_bytes());
        let id = [BINARY[0], BINARY[1]];
        let found = |headers: &[(&str, &[u8])]| {
            let all: Vec<_> = id.iter().chain(headers).copied().collect();
            with(&rules(Format::Auto), Some(b"M"), &all, |event| {
                let event = event.unwrap();
                let (parent, state) = (event.traceparent.to_owned(), event.tracestate.to_owned());
                (parent, state, event.time.is_some(), event.correlation.is_some(), event.unreadable)
            })
        };
        let (trace, none) = (TRACE.to_owned(), String::new());
        assert_eq!((trace.clone(), "a=b".to_owned(), false, false, 0), found(&[hop, state]));
        assert_eq!((trace.clone(), none.clone(), false, false, TRACESTATE), found(&[hop, ("tracestate", b"A=b")]));
        assert_eq!((none.clone(), none.clone(), false, false, TRACEPARENT), found(&[("traceparent", b"00-1"), state]));
        assert_eq!(
            (none.clone(), none.clone(), false, false, 0),
            found(&[state]),
            "a state without a parent is none's"
        );
        assert_eq!(
            (trace.clone(), none.clone(), false, false, 0),
            found(&[start, state]),
            "the hop's state is not the start's"
        );
        assert_eq!((trace, none.clone(), false, false, TRACEPARENT), found(&[("traceparent", b"00-1"), start]));
        assert_eq!((none.clone(), none.clone(), false, false, TIME), found(&[("ce_time", b"yesterday")]));
        assert_eq!((none.clone(), none.clone(), false, false, 0), found(&[("ce_time", b""), ("correlation-id", b"")]));
        assert_eq!((none.clone(), none, false, false, CORRELATION), found(&[("correlation-id", b"\x00")]));
    }

    #[test]
    fn the_hops_own_trace_wins_and_a_damaged_one_is_left_out() {
        let ce: (&str, &[u8]) = ("ce_traceparent", TRACE.as_bytes());
        let hop = TRACE.replace("0af7", "1af7");
        let headers = [BINARY[0], BINARY[1], ce, ("traceparent", hop.as_bytes())];
        with(&rules(Format::Auto), Some(b"M"), &headers, |event| assert_eq!(hop, event.unwrap().traceparent));
        let headers = [BINARY[0], BINARY[1], ce, ("traceparent", b"\xff".as_slice())];
        with(&rules(Format::Auto), Some(b"M"), &headers, |event| assert_eq!(TRACE, event.unwrap().traceparent));
    }

    #[test]
    fn one_zstd_frame_is_read_and_nothing_beside_it() {
        let zstd: (&str, &[u8]) = ("content-encoding", b"ZSTD");
        let frame = zstd::bulk::compress(b"message", 3).unwrap();
        assert_eq!(b"message".to_vec(), data(&rules(Format::Auto), &frame, &[zstd]));
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), b"M", &[("content-encoding", b"identity")]));
        for damaged in [&frame[..frame.len() - 1], &[frame.as_slice(), &frame].concat(), b"message", b""] {
            assert_eq!(Reason::BadCompression, reason(Format::Auto, damaged, &[zstd]));
        }
        for coding in [b"gzip".as_slice(), b"zstd, zstd", b""] {
            assert_eq!(Reason::BadCompression, reason(Format::Auto, &frame, &[("content-encoding", coding)]));
        }
        let skippable = [b"\x50\x2a\x4d\x18\x01\0\0\0x".as_slice(), &frame].concat();
        assert_eq!(Reason::BadCompression, reason(Format::Auto, &skippable, &[zstd]));
        // Dictionary id 7 in one byte, then an empty last block.
        let with_dictionary = b"\x28\xb5\x2f\xfd\x21\x07\x00\x01\x00\x00";
        with(&rules(Format::Auto), Some(with_dictionary), &[zstd], |event| {
            let refusal = event.unwrap_err();
            assert_eq!(Reason::BadCompression, refusal.reason);
            assert!(refusal.text.contains("dictionary"), "{}", refusal.text);
        });
    }

    #[test]
    fn a_bomb_stops_at_the_limit_whether_it_tells_its_size_or_not() {
        let zstd: (&str, &[u8]) = ("content-encoding", b"zstd");
        let bomb = vec![0u8; 10_000_000];
        let told = zstd::bulk::compress(&bomb, 3).unwrap();
        let mut untold = zstd::stream::encode_all(bomb.as_slice(), 3).unwrap();
        assert_eq!(Ok(None), zstd::zstd_safe::get_frame_content_size(&untold).map_err(|_| ()));
        assert_eq!(Reason::RecordTooLarge, reason(Format::Auto, &told, &[zstd]));
        assert_eq!(Reason::RecordTooLarge, reason(Format::Auto, &untold, &[zstd]));
        let fits = zstd::stream::encode_all(vec![0u8; 1_000].as_slice(), 3).unwrap();
        with(&rules(Format::Plain), Some(&fits), &[zstd], |event| assert_eq!(1_000, event.unwrap().data.len()));
        untold.truncate(20);
        assert_eq!(Reason::BadCompression, reason(Format::Auto, &untold, &[zstd]));
        assert_eq!(Reason::RecordTooLarge, reason(Format::Auto, &[1; 1_001], &[]));
    }

    #[test]
    fn a_replayed_dead_letter_tells_where_it_was() {
        let headers: [(&str, &[u8]); 3] =
            [("dlq-origin-topic", b"devices"), ("dlq-origin-partition", b"3"), ("dlq-origin-offset", b"17")];
        let records = record(None, &headers);
        assert_eq!(Some(Origin { topic: b"devices", partition: 3, offset: 17 }), origin(&records.get(0)));
        assert_eq!(None, origin(&record(None, &headers[..2]).get(0)));
        assert_eq!(None, origin(&record(None, &[headers[0], headers[1], ("dlq-origin-offset", b"-1")]).get(0)));
    }
}
