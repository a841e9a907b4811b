//! What a source record is: plain Protobuf, Confluent framing, a CloudEvent in either Kafka mode, compressed or not.
//!
//! Recognition is per record and calls nobody: no schema registry, no descriptor. It borrows everything from the record
//! (or from the scratch buffer of the decompressor) and copies nothing. Any bytes give an event or a [`Refusal`]; none
//! give a panic.
//!
//! Sources: CloudEvents Kafka protocol binding 1.0.2 and Protobuf event format 1.0.2; Confluent wire format with message
//! indexes as in confluent-kafka-python's `schema_registry/common/serde.py`; RFC 3339; RFC 8878.

use std::fmt;

use crate::records::Record;
use crate::wire::{self, LEN, VARINT};

/// Longest error text of a dead letter, in bytes: it rides in a header beside the original ones.
pub const ERROR_BYTES_MAX: usize = 1024;

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
}

impl Reason {
    pub const ALL: [Reason; 8] = [
        Reason::Undecodable,
        Reason::WrongSchema,
        Reason::MissingKey,
        Reason::BadSequence,
        Reason::TooDeep,
        Reason::RecordTooLarge,
        Reason::BadCompression,
        Reason::BadEnvelope,
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
        }
    }
}

/// A record that goes to the dead letters. The text never holds payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub text: String,
}

impl Refusal {
    pub fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.text)
    }
}

fn bad(text: &str) -> Refusal {
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
    fn reads_cloudevents(self) -> bool {
        matches!(self, Format::Auto | Format::CloudEvents)
    }
}

/// What the records of one topic may look like.
pub struct Recognition {
    pub format: Format,
    /// Full name of the message type, compared with a CloudEvent's `type_url`.
    pub type_name: String,
    /// Confluent message indexes that name the configured message in its file, outermost first.
    pub message_index: Vec<i32>,
    /// Confluent schema ids that are accepted; empty: every id of the configured message.
    pub schema_ids: Vec<u32>,
    /// Bytes of a record's value, before and after decompression.
    pub record_bytes_max: usize,
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
    fn from_text(text: &[u8]) -> Sequence {
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
    pub correlation: Option<&'a [u8]>,
    pub is_delete: bool,
}

/// Buffer and context of the decompressor, one per table.
#[derive(Default)]
pub struct Scratch {
    context: zstd::bulk::Decompressor<'static>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Headers<'a> {
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    schema_id: Option<&'a [u8]>,
    traceparent: &'a [u8],
    correlation: Option<&'a [u8]>,
    specversion: bool,
    id: Option<&'a [u8]>,
    source: &'a [u8],
    subject: &'a [u8],
    sequence: Option<&'a [u8]>,
    time: &'a [u8],
    ce_traceparent: &'a [u8],
}

impl<'a> Headers<'a> {
    /// One pass over the headers; the last one of a name wins, as in Kafka's own clients.
    fn read(record: &Record<'a>) -> Headers<'a> {
        let mut found = Headers::default();
        for (name, value) in record.headers() {
            let Some(value) = value else { continue };
            match name {
                b"content-type" => found.content_type = Some(value),
                b"content-encoding" => found.content_encoding = Some(value),
                b"__value_schema_id" => found.schema_id = Some(value),
                b"traceparent" => found.traceparent = value,
                b"correlation-id" => found.correlation = Some(value),
                b"ce_specversion" => found.specversion = true,
                b"ce_id" => found.id = Some(value),
                b"ce_source" => found.source = value,
                b"ce_subject" => found.subject = value,
                b"ce_sequence" => found.sequence = Some(value),
                b"ce_time" => found.time = value,
                b"ce_traceparent" => found.ce_traceparent = value,
                _ => {}
            }
        }
        found
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

/// Recognises one record. `scratch` holds the decompressed value, where the record is compressed.
pub fn recognise<'a>(rules: &Recognition, record: &Record<'a>, scratch: &'a mut Scratch) -> Result<Event<'a>, Refusal> {
    let headers = Headers::read(record);
    let mut event = Event {
        data: &[],
        id: "",
        source: "",
        subject: "",
        sequence: Sequence::Absent,
        time: None,
        traceparent: trace(headers.traceparent),
        correlation: headers.correlation,
        is_delete: false,
    };
    let binary = rules.format.reads_cloudevents() && headers.specversion && headers.id.is_some();
    if binary {
        event.attributes_from(&headers)?;
    }
    let value = record.value();
    event.is_delete = value.is_none_or(|value| value.is_empty() && binary);
    let Some(value) = value else { return Ok(event) };
    if event.is_delete {
        return Ok(event);
    }
    if value.len() > rules.record_bytes_max {
        let text = format!("value of {} bytes, record_bytes_max is {}", value.len(), rules.record_bytes_max);
        return Err(Refusal::new(Reason::RecordTooLarge, text));
    }
    let value = match headers.content_encoding {
        None => value,
        Some(coding) if coding.eq_ignore_ascii_case(b"identity") => value,
        Some(coding) if coding.eq_ignore_ascii_case(b"zstd") => scratch.decompress(value, rules.record_bytes_max)?,
        Some(_) => return Err(Refusal::new(Reason::BadCompression, "content-encoding is neither zstd nor identity")),
    };
    if rules.format.reads_cloudevents() {
        match content_type(&headers) {
            ContentType::StructuredProtobuf => {
                event.read_structured(value, &rules.type_name)?;
                return Ok(event);
            }
            ContentType::OtherCloudEvents => {
                return Err(bad("content-type is a CloudEvents format other than application/cloudevents+protobuf"));
            }
            ContentType::Other if rules.format == Format::CloudEvents && !binary => {
                return Err(bad(
                    "no CloudEvent: neither content-type application/cloudevents+protobuf nor ce_ headers",
                ));
            }
            ContentType::Other => {}
        }
    }
    event.data = if rules.format.reads_confluent() { unframe(rules, &headers, value)? } else { value };
    Ok(event)
}

enum ContentType {
    StructuredProtobuf,
    OtherCloudEvents,
    Other,
}

/// Media types are compared without case and without parameters (RFC 9110, 8.3.1).
fn content_type(headers: &Headers<'_>) -> ContentType {
    let Some(value) = headers.content_type else { return ContentType::Other };
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if media.eq_ignore_ascii_case(b"application/cloudevents+protobuf") {
        return ContentType::StructuredProtobuf;
    }
    const PREFIX: &[u8] = b"application/cloudevents";
    if media.len() >= PREFIX.len() && media[..PREFIX.len()].eq_ignore_ascii_case(PREFIX) {
        return ContentType::OtherCloudEvents;
    }
    ContentType::Other
}

impl Scratch {
    /// The content of exactly one zstd frame. One-shot decompression uses the output as its window, so that neither a
    /// claimed size nor a claimed window can take more memory than `bytes_max`.
    fn decompress(&mut self, frame: &[u8], bytes_max: usize) -> Result<&[u8], Refusal> {
        use zstd::zstd_safe;
        let damaged = |text: &str| Refusal::new(Reason::BadCompression, text);
        if !frame.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(damaged("content-encoding is zstd, the value is no zstd frame"));
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

/// The message behind Confluent's framing, or the whole value where there is none.
fn unframe<'a>(rules: &Recognition, headers: &Headers<'a>, value: &'a [u8]) -> Result<&'a [u8], Refusal> {
    if let Some(prefix) = headers.schema_id {
        let length = frame_length(rules, prefix)?;
        return if length == prefix.len() {
            Ok(value)
        } else {
            Err(bad("bytes after header __value_schema_id's indexes"))
        };
    }
    match value.first() {
        // No Protobuf message starts with 0x00 or 0x01: they would be tags of field 0.
        Some(0 | 1) => Ok(&value[frame_length(rules, value)?..]),
        _ if rules.format == Format::Confluent => {
            Err(bad("no Confluent framing: first byte is neither 0x00 nor 0x01, and no header __value_schema_id"))
        }
        _ => Ok(value),
    }
}

/// Length of the prefix: magic, schema id or GUID, message indexes; refused where it names another message.
fn frame_length(rules: &Recognition, frame: &[u8]) -> Result<usize, Refusal> {
    let truncated = || bad("Confluent framing ends early");
    let mut at = match frame.first() {
        Some(0) => {
            let id = frame.get(1..5).ok_or_else(truncated)?;
            let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
            if !rules.schema_ids.is_empty() && !rules.schema_ids.contains(&id) {
                let text = format!("Confluent schema id {id} is not in schema_ids");
                return Err(Refusal::new(Reason::WrongSchema, text));
            }
            5
        }
        Some(1) if frame.len() < 17 => return Err(truncated()),
        Some(1) if rules.schema_ids.is_empty() => 17,
        Some(1) => {
            let text = "Confluent framing by GUID, schema_ids narrows to numeric ids";
            return Err(Refusal::new(Reason::WrongSchema, text));
        }
        _ => return Err(bad("Confluent framing has magic neither 0x00 nor 0x01")),
    };
    let mut index = || {
        let raw = wire::read_varint(frame, &mut at).map_err(|_| truncated())?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    };
    let count = index()?;
    let wanted = &rules.message_index;
    let same = match count {
        0 => wanted.as_slice() == [0],
        _ if count != wanted.len() as i64 => false,
        _ => {
            let mut same = true;
            for wanted in wanted {
                same &= index()? == i64::from(*wanted);
            }
            same
        }
    };
    if !same {
        let text = format!("Confluent message indexes name another message than {} at {wanted:?}", rules.type_name);
        return Err(Refusal::new(Reason::WrongSchema, text));
    }
    Ok(at)
}

impl<'a> Event<'a> {
    fn attributes_from(&mut self, headers: &Headers<'a>) -> Result<(), Refusal> {
        self.id = utf8(headers.id.unwrap_or_default(), "header ce_id")?;
        self.source = utf8(headers.source, "header ce_source")?;
        self.subject = utf8(headers.subject, "header ce_subject")?;
        self.sequence = headers.sequence.map_or(Sequence::Absent, Sequence::from_text);
        self.time = timestamp_text(headers.time);
        if self.traceparent.is_empty() {
            self.traceparent = trace(headers.ce_traceparent);
        }
        Ok(())
    }

    /// A CloudEvent as one Protobuf message: io.cloudevents.v1.CloudEvent.
    fn read_structured(&mut self, value: &'a [u8], type_name: &str) -> Result<(), Refusal> {
        let damaged = || bad("damaged CloudEvent: not a message of io.cloudevents.v1.CloudEvent");
        self.is_delete = true;
        for field in wire::records(value) {
            let field = field.map_err(|_| damaged())?;
            match (field.number, field.wire_type) {
                (1, LEN) => self.id = utf8(field.value, "CloudEvent id")?,
                (2, LEN) => self.source = utf8(field.value, "CloudEvent source")?,
                (5, LEN) => self.read_attribute(field.value).ok_or_else(damaged)?,
                // The data members are a oneof: the last one counts.
                (6, LEN) => (self.data, self.is_delete) = (field.value, false),
                (7, LEN) => {
                    return Err(bad("CloudEvent with text_data; Protobuf travels in binary_data or proto_data"))
                }
                (8, LEN) => (self.data, self.is_delete) = (any_value(field.value, type_name)?, false),
                _ => {}
            }
        }
        Ok(())
    }

    /// One entry of `attributes`; None when it is damaged.
    fn read_attribute(&mut self, entry: &'a [u8]) -> Option<()> {
        let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
        for field in wire::records(entry) {
            let field = field.ok()?;
            match (field.number, field.wire_type) {
                (1, LEN) => name = field.value,
                (2, LEN) => value = field.value,
                _ => {}
            }
        }
        match name {
            b"subject" => self.subject = std::str::from_utf8(attribute(value)?.text).ok()?,
            b"sequence" => {
                let attribute = attribute(value)?;
                self.sequence = match attribute.integer {
                    Some(number) => u64::try_from(number).map_or(Sequence::Bad, Sequence::Number),
                    None => Sequence::from_text(attribute.text),
                };
            }
            b"time" => {
                let attribute = attribute(value)?;
                self.time = match attribute.timestamp {
                    Some(message) => timestamp_message(message),
                    None => timestamp_text(attribute.text),
                };
            }
            b"traceparent" if self.traceparent.is_empty() => self.traceparent = trace(attribute(value)?.text),
            _ => {}
        }
        Some(())
    }
}

/// The `oneof attr` of CloudEventAttributeValue: the last member counts.
#[derive(Default)]
struct Attribute<'a> {
    integer: Option<i32>,
    text: &'a [u8],
    timestamp: Option<&'a [u8]>,
}

fn attribute(value: &[u8]) -> Option<Attribute<'_>> {
    let mut found = Attribute::default();
    for field in wire::records(value) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (2, VARINT) => found = Attribute { integer: Some(field.varint() as i32), ..Attribute::default() },
            // ce_string, ce_uri, ce_uri_ref
            (3 | 5 | 6, LEN) => found = Attribute { text: field.value, ..Attribute::default() },
            (7, LEN) => found = Attribute { timestamp: Some(field.value), ..Attribute::default() },
            _ => {}
        }
    }
    Some(found)
}

/// `value` of a google.protobuf.Any that holds the configured type.
fn any_value<'a>(any: &'a [u8], type_name: &str) -> Result<&'a [u8], Refusal> {
    let (mut url, mut data): (&[u8], &[u8]) = (&[], &[]);
    for field in wire::records(any) {
        let field = field.map_err(|_| bad("damaged google.protobuf.Any in proto_data"))?;
        match (field.number, field.wire_type) {
            (1, LEN) => url = field.value,
            (2, LEN) => data = field.value,
            _ => {}
        }
    }
    // Any: the name is what follows the last slash.
    if url.rsplit(|byte| *byte == b'/').next() != Some(type_name.as_bytes()) {
        let text = format!("proto_data holds another type than {type_name}");
        return Err(Refusal::new(Reason::WrongSchema, text));
    }
    Ok(data)
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| bad(&format!("{what} is not UTF-8")))
}

/// W3C trace context: printable ASCII, 55 characters in version 00, later versions may append. Anything else is dropped:
/// a damaged trace must not cost the event.
fn trace(value: &[u8]) -> &str {
    if !(55..=256).contains(&value.len()) || !value.iter().all(u8::is_ascii_graphic) {
        return "";
    }
    std::str::from_utf8(value).unwrap_or_default()
}

/// An unsigned decimal of 64 bits; leading zeros are fine (the CloudEvents sequence extension pads with them).
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Range of google.protobuf.Timestamp: years 0001 to 9999.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

fn timestamp_message(message: &[u8]) -> Option<(i64, i32)> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    for field in wire::records(message) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, VARINT) => seconds = field.varint() as i64,
            (2, VARINT) => nanos = field.varint() as i64,
            _ => {}
        }
    }
    let valid = (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    valid.then_some((seconds, nanos as i32))
}

/// RFC 3339 date-time.
fn timestamp_text(text: &[u8]) -> Option<(i64, i32)> {
    if text.len() < 20 {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to).and_then(decimal).map(|number| number as i64);
    let punctuation = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if punctuation.iter().any(|(at, byte)| text[*at] != *byte) || !matches!(text[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days_in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second (60) is counted as the first of the next minute, as POSIX time does.
    if year < 1 || day < 1 || day > days_in_month || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0i32;
    if text[at] == b'.' {
        let digits = text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..9 {
            let digit = if place < digits { i32::from(text[at + 1 + place] - b'0') } else { 0 };
            nanos = nanos * 10 + digit;
        }
        at += 1 + digits;
    }
    let zone = text.get(at..)?;
    let shift_minutes = match zone {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (decimal(&zone[1..3])? as i64, decimal(&zone[4..6])? as i64);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let shift = hours * 60 + minutes;
            if *sign == b'+' {
                shift
            } else {
                -shift
            }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - shift_minutes * 60;
    (SECONDS_MIN..=SECONDS_MAX).contains(&seconds).then_some((seconds, nanos))
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn rules(format: Format) -> Recognition {
        Recognition {
            format,
            type_name: "acme.Device".to_owned(),
            message_index: vec![0],
            schema_ids: Vec::new(),
            record_bytes_max: 1_000,
        }
    }

    fn record(value: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Records {
        let mut records = Records::new();
        records.push(Some(b"key"), value, 7, 9).unwrap();
        for (name, value) in headers {
            records.push_header(name.as_bytes(), Some(value)).unwrap();
        }
        records
    }

    /// Recognises one record and hands the event, or the reason why there is none, to `look`.
    fn with<T>(
        rules: &Recognition,
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        look: impl FnOnce(Result<Event<'_>, Refusal>) -> T,
    ) -> T {
        look(recognise(rules, &record(value, headers).get(0), &mut Scratch::default()))
    }

    fn reason(format: Format, value: &[u8], headers: &[(&str, &[u8])]) -> Reason {
        with(&rules(format), Some(value), headers, |event| event.unwrap_err().reason)
    }

    fn data(rules: &Recognition, value: &[u8], headers: &[(&str, &[u8])]) -> Vec<u8> {
        with(rules, Some(value), headers, |event| event.unwrap().data.to_vec())
    }

    fn attribute_entry(name: &str, member: u32, value: &[u8]) -> Vec<u8> {
        let (mut inner, mut entry) = (Vec::new(), Vec::new());
        wire::put_len(&mut inner, member, value);
        wire::put_len(&mut entry, 1, name.as_bytes());
        wire::put_len(&mut entry, 2, &inner);
        entry
    }

    fn structured(attributes: &[Vec<u8>], member: u32, data: &[u8]) -> Vec<u8> {
        let mut event = Vec::new();
        wire::put_len(&mut event, 1, b"id-1");
        wire::put_len(&mut event, 2, b"/source");
        wire::put_len(&mut event, 3, b"1.0");
        attributes.iter().for_each(|entry| wire::put_len(&mut event, 5, entry));
        if member > 0 {
            wire::put_len(&mut event, member, data);
        }
        event
    }

    const STRUCTURED: (&str, &[u8]) = ("content-type", b"Application/CloudEvents+Protobuf; charset=utf-8");
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
    fn confluent_frames_must_name_the_configured_message() {
        let mut rules = rules(Format::Auto);
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\0M", &[]));
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x02\0M", &[]), "[0] written out");
        let wrong = |rules: &Recognition, value: &[u8]| with(rules, Some(value), &[], |e| e.unwrap_err().reason);
        assert_eq!(Reason::WrongSchema, wrong(&rules, b"\0\0\0\0\x05\x02\x02M"));
        rules.message_index = vec![1, 2];
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\x02\x04M", &[]));
        assert_eq!(Reason::WrongSchema, wrong(&rules, b"\0\0\0\0\x05\0M"));
        assert_eq!(Reason::WrongSchema, wrong(&rules, b"\0\0\0\0\x05\x01M"), "a negative count");
        rules.schema_ids = vec![5];
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\x02\x04M", &[]));
        assert_eq!(Reason::WrongSchema, wrong(&rules, b"\0\0\0\0\x06\x04\x02\x04M"));
        for length in 1..8 {
            assert_eq!(Reason::BadEnvelope, wrong(&rules, &b"\0\0\0\0\x05\x04\x02\x04"[..length]));
        }
    }

    #[test]
    fn the_guid_form_lies_in_the_value_or_in_a_header() {
        let mut frame = vec![1u8; 17];
        frame.push(0);
        let header: (&str, &[u8]) = ("__value_schema_id", &frame.clone());
        let framed = [frame.as_slice(), b"M"].concat();
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), &framed, &[]));
        assert_eq!(b"\x0aM".to_vec(), data(&rules(Format::Confluent), b"\x0aM", &[header]));
        let longer: (&str, &[u8]) = ("__value_schema_id", &framed);
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"M", &[longer]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"M", &[("__value_schema_id", b"\x02")]));
        let narrowed = Recognition { schema_ids: vec![5], ..rules(Format::Auto) };
        with(&narrowed, Some(&framed), &[], |event| assert_eq!(Reason::WrongSchema, event.unwrap_err().reason));
    }

    #[test]
    fn a_fixed_format_reads_nothing_else() {
        assert_eq!(Reason::BadEnvelope, reason(Format::Confluent, b"\x0aM", &[]));
        assert_eq!(Reason::BadEnvelope, reason(Format::CloudEvents, b"\x0aM", &[]));
        assert_eq!(b"\0\0".to_vec(), data(&rules(Format::Plain), b"\0\0", &[STRUCTURED]));
        with(&rules(Format::Plain), Some(b"M"), &BINARY, |event| assert_eq!("", event.unwrap().id));
        with(&rules(Format::Confluent), Some(b"\0\0\0\0\x05\0M"), &BINARY, |event| {
            assert_eq!("", event.unwrap().id);
        });
    }

    #[test]
    fn a_structured_cloudevent_gives_its_data_and_attributes() {
        let value = structured(
            &[
                attribute_entry("subject", 3, b"device-1"),
                attribute_entry("sequence", 3, b"41"),
                attribute_entry("time", 7, b"\x08\x05\x10\x06"),
                attribute_entry("traceparent", 3, TRACE.as_bytes()),
                attribute_entry("other", 3, b"\xff"),
            ],
            6,
            b"M",
        );
        with(&rules(Format::Auto), Some(&value), &[STRUCTURED, ("correlation-id", b"c")], |event| {
            let event = event.unwrap();
            assert_eq!((b"M".as_slice(), false), (event.data, event.is_delete));
            assert_eq!(
                ("id-1", "/source", "device-1", TRACE),
                (event.id, event.source, event.subject, event.traceparent)
            );
            assert_eq!((Sequence::Number(41), Some((5, 6))), (event.sequence, event.time));
            assert_eq!(Some(b"c".as_slice()), event.correlation);
        });
    }

    #[test]
    fn proto_data_must_hold_the_configured_type() {
        let any = |url: &str| {
            let mut any = Vec::new();
            wire::put_len(&mut any, 1, url.as_bytes());
            wire::put_len(&mut any, 2, b"M");
            structured(&[], 8, &any)
        };
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), &any("type.googleapis.com/acme.Device"), &[STRUCTURED]));
        assert_eq!(Reason::WrongSchema, reason(Format::Auto, &any("type.googleapis.com/Device"), &[STRUCTURED]));
        assert_eq!(Reason::WrongSchema, reason(Format::Auto, &structured(&[], 8, b""), &[STRUCTURED]));
    }

    #[test]
    fn a_structured_cloudevent_without_data_is_a_delete_and_one_with_text_is_refused() {
        with(&rules(Format::Auto), Some(&structured(&[], 0, b"")), &[STRUCTURED], |event| {
            assert!(event.unwrap().is_delete);
        });
        with(&rules(Format::Auto), Some(&structured(&[], 6, b"")), &[STRUCTURED], |event| {
            assert!(!event.unwrap().is_delete, "binary_data is there, and empty: a message of defaults");
        });
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, &structured(&[], 7, b"text"), &[STRUCTURED]));
        for content_type in [b"application/cloudevents+json".as_slice(), b"application/cloudevents-batch+protobuf"] {
            assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"{}", &[("content-type", content_type)]));
        }
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"\x0a\x05", &[STRUCTURED]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"\x0a\x01\xff", &[STRUCTURED]));
    }

    #[test]
    fn a_binary_cloudevent_gives_its_headers_and_without_data_is_a_delete() {
        with(&rules(Format::Auto), Some(b"M"), &BINARY, |event| {
            let event = event.unwrap();
            assert_eq!((b"M".as_slice(), false), (event.data, event.is_delete));
            assert_eq!(("id-2", "/binary", "device-2"), (event.id, event.source, event.subject));
            assert_eq!((Sequence::Number(12), Some((1, 0))), (event.sequence, event.time));
        });
        with(&rules(Format::CloudEvents), Some(b""), &BINARY, |event| assert!(event.unwrap().is_delete));
        with(&rules(Format::Auto), None, &BINARY, |event| {
            let event = event.unwrap();
            assert_eq!((true, "id-2"), (event.is_delete, event.id));
        });
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), b"\0\0\0\0\x05\0M", &BINARY), "framed inside");
        let headers = [("ce_specversion", b"1.0".as_slice()), ("ce_id", b"\xff")];
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"M", &headers));
    }

    #[test]
    fn the_sequence_is_an_unsigned_decimal_whatever_carries_it() {
        let integer = |number: u64| {
            let (mut inner, mut entry) = (Vec::new(), Vec::new());
            wire::put_uint(&mut inner, 2, number);
            wire::put_len(&mut entry, 1, b"sequence");
            wire::put_len(&mut entry, 2, &inner);
            structured(&[entry], 6, b"")
        };
        let text = |text: &[u8]| structured(&[attribute_entry("sequence", 3, text)], 6, b"");
        for (value, expected) in [
            (integer(7), Sequence::Number(7)),
            (integer(-7i64 as u64), Sequence::Bad),
            (text(b"18446744073709551615"), Sequence::Number(u64::MAX)),
            (text(b"18446744073709551616"), Sequence::Bad),
            (text(b""), Sequence::Bad),
            (text(b"-1"), Sequence::Bad),
            (text(b"1.0"), Sequence::Bad),
        ] {
            let found = with(&rules(Format::Auto), Some(&value), &[STRUCTURED], |event| event.unwrap().sequence);
            assert_eq!(expected, found);
        }
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
        assert_eq!(Reason::BadCompression, reason(Format::Auto, b"M", &[("content-encoding", b"gzip")]));
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
    fn rfc_3339_times_are_read_to_the_nanosecond() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, 0))),
            ("2024-02-29T23:59:59.123456789Z", Some((1_709_251_199, 123_456_789))),
            ("2024-02-29T23:59:59.1234567891Z", Some((1_709_251_199, 123_456_789))),
            ("2000-01-01t01:00:00.5+01:00", Some((946_684_800, 500_000_000))),
            ("1969-12-31T23:59:59.25z", Some((-1, 250_000_000))),
            ("1999-12-31T23:30:00-00:30", Some((946_684_800, 0))),
            ("2016-12-31T23:59:60Z", Some((1_483_228_800, 0))),
            ("9999-12-31T23:59:59Z", Some((SECONDS_MAX, 0))),
            ("0001-01-01T00:00:00Z", Some((SECONDS_MIN, 0))),
            ("0001-01-01T00:00:00+00:01", None),
            ("2023-02-29T00:00:00Z", None),
            ("2023-01-01T24:00:00Z", None),
            ("2023-01-01T00:00:00", None),
            ("2023-01-01T00:00:00.Z", None),
            ("2023-01-01T00:00:00+1:00", None),
            ("2023-01-01", None),
            ("\u{e9}023-01-01T00:00:00Z", None),
        ] {
            assert_eq!(expected, timestamp_text(text.as_bytes()), "{text}");
        }
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

    #[test]
    fn any_bytes_give_an_event_or_a_refusal() {
        let mut state = 7u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let seeds: [&[u8]; 4] = [
            &structured(&[attribute_entry("time", 7, b"\x08\x05"), attribute_entry("sequence", 3, b"1")], 6, b"MM"),
            b"\0\0\0\0\x05\x04\x02\x04MMMM",
            &zstd::bulk::compress(b"message message message", 3).unwrap(),
            b"\x01\x0b\x0b\x0b\x0c\x0c\x0c",
        ];
        for round in 0..20_000 {
            let mut value = seeds[round % seeds.len()].to_vec();
            for _ in 0..=random() % 3 {
                let at = random() % value.len();
                value[at] = random() as u8;
            }
            value.truncate(value.len() - random() % value.len().min(4));
            let zstd: (&str, &[u8]) = ("content-encoding", b"zstd");
            let header: (&str, &[u8]) = ("__value_schema_id", &value.clone());
            let time: (&str, &[u8]) = ("ce_time", &value.clone());
            for headers in [&[STRUCTURED] as &[_], &[], &[zstd], &[header], &[BINARY[0], BINARY[1], time]] {
                with(&rules(Format::Auto), Some(&value), headers, |event| drop(event));
            }
        }
    }
}
