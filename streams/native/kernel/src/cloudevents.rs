//! CloudEvents whose value is the whole event: as one Protobuf message, as JSON, and google.protobuf.Any inside and out.
//!
//! Sources: CloudEvents Protobuf format 1.0.2, JSON format 1.0.2, dataref extension.

use crate::attributes::{timestamp_message, timestamp_text};
use crate::envelope::{bad, utf8, Event, Reason, Recognition, Refusal, Sequence, Trace};
use crate::json;
use crate::schema::{Field, Kind, Schema, REPEATED};
use crate::wire::{self, LEN, VARINT};

/// What google.protobuf.Any's own helpers put before the name of a type.
const TYPE_URL: &[u8] = b"type.googleapis.com/";
const SPEC_VERSION: &[u8] = b"1.0";
/// The message that a structured event is.
pub(crate) const EVENT_NAME: &str = "io.cloudevents.v1.CloudEvent";

/// Whether bytes of the configured message could not be a CloudEvent's, decided by its descriptor: in a CloudEvent the
/// fields 1 to 4 are texts. What can hold text can be read so: strings, bytes, packed numbers, and messages, where the
/// text is not `1.0`, which no message is.
pub(crate) fn tells_cloudevents(schema: &Schema) -> bool {
    let root = schema.root();
    !(1..=4).all(|number| {
        root.field(number).is_some_and(|field| holds_text(field) || field.kind == Kind::Message && number != 3)
    })
}

/// Whether bytes of the configured message could not be a google.protobuf.Any's, whose field 1 is a text with a slash.
/// (No message begins with a type's name: `t` ends a group.)
pub(crate) fn tells_any(schema: &Schema) -> bool {
    !schema.root().field(1).is_some_and(holds_text)
}

fn holds_text(field: &Field) -> bool {
    matches!(field.kind, Kind::String | Kind::Bytes) || field.flags & REPEATED != 0 && field.kind.is_packable()
}

/// The name of a type: what follows `type.googleapis.com/`, which may be part of a URL; otherwise the text as it is.
pub(crate) fn named(text: &[u8]) -> &[u8] {
    let rest = [b"https://".as_slice(), b"//"].iter().find_map(|scheme| text.strip_prefix(*scheme)).unwrap_or(text);
    rest.strip_prefix(TYPE_URL).unwrap_or(text)
}

/// Attributes of a whole event that no patch carries as they are.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    /// The trace that the event began with.
    pub start: Trace<'a>,
    schema: &'a [u8],
    has_dataref: bool,
}

/// The data of an event: the last member of the oneof counts.
enum Data<'a> {
    None,
    Text,
    Binary(&'a [u8]),
    Proto(&'a [u8]),
}

/// Whether bytes without a header are a CloudEvent: all of its required attributes are there, a data member is, and
/// nothing else is.
pub(crate) fn is_event(value: &[u8]) -> bool {
    // The first record says no for almost all that is none.
    if !matches!(value.first(), Some(0x0a | 0x12 | 0x1a | 0x22 | 0x2a | 0x32 | 0x3a | 0x42)) {
        return false;
    }
    let mut seen = [false; 9];
    for field in wire::records(value) {
        let Ok(field) = field else { return false };
        if field.number > 8 || field.wire_type != LEN {
            return false;
        }
        seen[field.number as usize] = match field.number {
            3 if field.value != SPEC_VERSION => return false,
            1 | 2 | 4 => !field.value.is_empty() && std::str::from_utf8(field.value).is_ok(),
            _ => true,
        };
    }
    seen[1] && seen[2] && seen[3] && seen[4] && (seen[6] || seen[7] || seen[8])
}

impl<'a> Event<'a> {
    /// A CloudEvent as one Protobuf message: io.cloudevents.v1.CloudEvent.
    pub(crate) fn read_structured(
        &mut self,
        rules: &Recognition,
        value: &'a [u8],
        beside: &mut Beside<'a>,
    ) -> Result<(), Refusal> {
        let damaged = || bad("damaged CloudEvent: not a message of io.cloudevents.v1.CloudEvent");
        let mut data = Data::None;
        let mut event_type: &[u8] = b"";
        for field in wire::records(value) {
            let field = field.map_err(|_| damaged())?;
            match (field.number, field.wire_type) {
                (1, LEN) => self.id = utf8(field.value, "CloudEvent id")?,
                (2, LEN) => self.source = utf8(field.value, "CloudEvent source")?,
                (4, LEN) => event_type = field.value,
                (5, LEN) => self.read_attribute(field.value, beside).ok_or_else(damaged)?,
                (6, LEN) => data = Data::Binary(field.value),
                (7, LEN) => data = Data::Text,
                (8, LEN) => data = Data::Proto(field.value),
                _ => {}
            }
        }
        rules.judge(event_type, beside.schema)?;
        if beside.has_dataref {
            return Err(dataref());
        }
        self.data = match data {
            Data::None if self.id.is_empty() || self.source.is_empty() => {
                return Err(bad("no CloudEvent: it has no data, and no id or no source"));
            }
            Data::None => return Err(no_data()),
            Data::Text => {
                return Err(bad("CloudEvent with text_data; Protobuf travels in binary_data or proto_data"));
            }
            Data::Binary(bytes) => unwrapped(rules, bytes)?,
            Data::Proto(any) => proto_data(rules, any)?,
        };
        Ok(())
    }

    /// One entry of `attributes`; None when it is damaged.
    fn read_attribute(&mut self, entry: &'a [u8], beside: &mut Beside<'a>) -> Option<()> {
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
                match attribute.timestamp {
                    Some(message) => self.set_time(timestamp_message(message)),
                    None if attribute.text.is_empty() => {}
                    None => self.set_time(timestamp_text(attribute.text)),
                }
            }
            b"traceparent" => beside.start.traceparent = attribute(value)?.text,
            b"tracestate" => beside.start.tracestate = attribute(value)?.text,
            b"dataschema" => beside.schema = attribute(value)?.text,
            b"dataref" => beside.has_dataref = true,
            _ => {}
        }
        Some(())
    }

    /// A CloudEvent as one JSON object, its message in `data_base64`. `texts` and `data` are overwritten.
    pub(crate) fn read_json(
        &mut self,
        rules: &Recognition,
        members: &[(&'a [u8], json::Value<'a>)],
        data: &'a mut Vec<u8>,
        beside: &mut Beside<'a>,
    ) -> Result<(), Refusal> {
        use json::Value;
        if !has_required(members) {
            return Err(bad("a CloudEvent in JSON without id, source, specversion or type"));
        }
        let (mut event_type, mut base64): (&[u8], Option<Value<'_>>) = (b"", None);
        let mut has_json = false;
        for (name, value) in members {
            let (name, value) = (*name, *value);
            // A member that is null is not there (JSON format, 2.2).
            if value == Value::Null {
                continue;
            }
            let text = |what: &str| match value {
                Value::Text(text) => utf8(text, what),
                _ => Err(bad(&format!("CloudEvent in JSON whose {what} is no text"))),
            };
            match name {
                b"id" => self.id = text("id")?,
                b"source" => self.source = text("source")?,
                b"subject" => self.subject = text("subject")?,
                b"type" => event_type = text("type")?.as_bytes(),
                b"dataschema" => beside.schema = text("dataschema")?.as_bytes(),
                b"dataref" => beside.has_dataref = true,
                b"data" => has_json = true,
                b"data_base64" => base64 = Some(value),
                b"sequence" => {
                    self.sequence = match value {
                        Value::Text(text) | Value::Number(text) => Sequence::from_text(text),
                        _ => Sequence::Bad,
                    };
                }
                b"time" => match value {
                    Value::Text(b"") => {}
                    Value::Text(text) => self.set_time(timestamp_text(text)),
                    _ => self.set_time(None),
                },
                b"traceparent" => beside.start.traceparent = text("traceparent").map_or(b"-", str::as_bytes),
                b"tracestate" => beside.start.tracestate = text("tracestate").map_or(b"-", str::as_bytes),
                _ => {}
            }
        }
        rules.judge(event_type, beside.schema)?;
        if beside.has_dataref {
            return Err(dataref());
        }
        if has_json {
            return Err(bad("CloudEvent in JSON with data; Protobuf travels in data_base64"));
        }
        self.data = match base64 {
            None => return Err(no_data()),
            Some(Value::Text(text)) => {
                let data = json::base64(text, data);
                unwrapped(rules, data.ok_or_else(|| bad("CloudEvent in JSON whose data_base64 is no base64"))?)?
            }
            Some(_) => return Err(bad("CloudEvent in JSON whose data_base64 is no text")),
        };
        Ok(())
    }
}

/// Whether JSON without a header is a CloudEvent: as [`is_event`] has it.
pub(crate) fn is_json_event(members: &[(&[u8], json::Value<'_>)]) -> bool {
    has_required(members)
        && last(members, b"specversion") == Some(json::Value::Text(SPEC_VERSION))
        && (last(members, b"data").is_some() || last(members, b"data_base64").is_some())
}

/// Whether the attributes that every event has are texts.
fn has_required(members: &[(&[u8], json::Value<'_>)]) -> bool {
    let is_set = |name: &&[u8]| matches!(last(members, name), Some(json::Value::Text(text)) if !text.is_empty());
    [b"id".as_slice(), b"source", b"specversion", b"type"].iter().all(is_set)
}

fn last<'a>(members: &[(&[u8], json::Value<'a>)], wanted: &[u8]) -> Option<json::Value<'a>> {
    members.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}

fn no_data() -> Refusal {
    Refusal::new(Reason::NoData, "a structured CloudEvent without data; a DELETE is a record without a value")
}

pub(crate) fn dataref() -> Refusal {
    Refusal::new(Reason::Dataref, "the CloudEvent's data lies elsewhere (dataref), and is not fetched; send it inside")
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

/// The two fields of a google.protobuf.Any, and whether there is nothing else in it.
struct Any<'a> {
    url: &'a [u8],
    value: &'a [u8],
    is_exact: bool,
}

fn any(bytes: &[u8]) -> Option<Any<'_>> {
    let mut found = Any { url: &[], value: &[], is_exact: true };
    for field in wire::records(bytes) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, LEN) => found.url = field.value,
            (2, LEN) => found.value = field.value,
            _ => found.is_exact = false,
        }
    }
    Some(found)
}

/// Whether a type URL ends with a slash and this name.
fn names(url: &[u8], name: &str) -> bool {
    url.strip_suffix(name.as_bytes()).is_some_and(|before| before.last() == Some(&b'/'))
}

/// The name that a type URL ends with: what follows its last slash; None: no slash, no URL.
fn url_name(url: &[u8]) -> Option<&[u8]> {
    url.iter().rposition(|byte| *byte == b'/').map(|at| &url[at + 1..])
}

/// The message in a CloudEvent's `proto_data`: an Any of the configured type; or, as the Java SDK writes bytes of
/// `application/protobuf`, the message itself where an Any should be, which then has no type URL or more fields.
fn proto_data<'a>(rules: &Recognition, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
    let any = any(bytes).ok_or_else(|| bad("damaged google.protobuf.Any in proto_data"))?;
    if any.is_exact && names(any.url, &rules.type_name) {
        return Ok(any.value);
    }
    if std::str::from_utf8(any.url).is_err() {
        return Err(bad("damaged google.protobuf.Any in proto_data"));
    }
    match url_name(any.url) {
        Some(name) if any.is_exact => {
            rules.check_any(name)?;
            Ok(any.value)
        }
        _ => Ok(bytes),
    }
}

/// The message of a value that is an Any: unwrapped where the configured message cannot begin so. Where it can, an Any
/// of the message itself is refused: nothing tells which of the two it is.
pub(crate) fn unwrapped<'a>(rules: &Recognition, value: &'a [u8]) -> Result<&'a [u8], Refusal> {
    const LEAST: usize = 2 + TYPE_URL.len();
    // Almost every record ends here. A URL of 128 bytes or more has a length of two.
    let is_candidate = |start: usize| value[start..].starts_with(TYPE_URL);
    if value.first() != Some(&0x0a) || value.len() < LEAST || !(is_candidate(2) || is_candidate(3)) {
        return Ok(value);
    }
    let is_any = |any: &Any<'_>| any.is_exact && std::str::from_utf8(any.url).is_ok();
    let Some(any) = any(value).filter(is_any) else { return Ok(value) };
    let Some(name) = url_name(any.url) else { return Ok(value) };
    if rules.tells_any {
        rules.check_any(name)?;
        return Ok(any.value);
    }
    if name == rules.type_name.as_bytes() && name != b"google.protobuf.Any" {
        return Err(bad(&format!(
            "a google.protobuf.Any of {}, whose own field 1 is a text: nothing tells them apart; send the message itself",
            rules.type_name
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::testing::{data, reason, record, rules, with, STRUCTURED, TRACE};
    use crate::envelope::Format;

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
        wire::put_len(&mut event, 4, b"changed");
        attributes.iter().for_each(|entry| wire::put_len(&mut event, 5, entry));
        if member > 0 {
            wire::put_len(&mut event, member, data);
        }
        event
    }

    fn any_of(url: &str, value: &[u8]) -> Vec<u8> {
        let mut any = Vec::new();
        wire::put_len(&mut any, 1, url.as_bytes());
        wire::put_len(&mut any, 2, value);
        any
    }

    const JSON: (&str, &[u8]) = ("content-type", b"application/cloudevents+json; charset=utf-8");
    const OWN: &str = "type.googleapis.com/acme.Device";

    #[test]
    fn a_structured_cloudevent_gives_its_data_and_attributes() {
        let value = structured(
            &[
                attribute_entry("subject", 3, b"device-1"),
                attribute_entry("sequence", 3, b"41"),
                attribute_entry("time", 7, b"\x08\x05\x10\x06"),
                attribute_entry("traceparent", 3, TRACE.as_bytes()),
                attribute_entry("tracestate", 3, b"a=b"),
                attribute_entry("other", 3, b"\xff"),
            ],
            6,
            b"M",
        );
        with(&rules(Format::Auto), Some(&value), &[STRUCTURED, ("correlation-id", b"c")], |event| {
            let event = event.unwrap();
            assert_eq!((b"M".as_slice(), false, 0), (event.data, event.is_delete, event.unreadable));
            assert_eq!(
                ("id-1", "/source", "device-1", TRACE, "a=b"),
                (event.id, event.source, event.subject, event.traceparent, event.tracestate)
            );
            assert_eq!((Sequence::Number(41), Some((5, 6))), (event.sequence, event.time));
            assert_eq!(Some(b"c".as_slice()), event.correlation);
        });
    }

    #[test]
    fn proto_data_is_an_any_of_the_configured_type_or_the_message_itself() {
        let of = |any: &[u8]| structured(&[], 8, any);
        let mut rules = rules(Format::Auto);
        rules.types.names = vec!["acme.Other".to_owned()];
        let found = |any: &[u8]| data(&rules, &of(any), &[STRUCTURED]);
        assert_eq!(b"M".to_vec(), found(&any_of(OWN, b"M")));
        assert_eq!(b"M".to_vec(), found(&any_of("https://types.acme.example/acme.Device", b"M")));
        assert_eq!(b"".to_vec(), found(b""), "a message of defaults");
        assert_eq!(b"\x0a\x02k3".to_vec(), found(b"\x0a\x02k3"), "no slash, no URL");
        let message = b"\x0a\x03a/b\x12\x01c\x69\0\0\0\0\0\0\xe0\x3f";
        assert_eq!(message.to_vec(), found(message), "an Any has no field 13");
        let refused = |any: &[u8]| with(&rules, Some(&of(any)), &[STRUCTURED], |event| event.unwrap_err());
        assert_eq!(Reason::WrongSchema, refused(&any_of("type.googleapis.com/Device", b"M")).reason);
        let other = refused(&any_of("type.googleapis.com/acme.Other", b"M"));
        assert_eq!((Reason::WrongType, true), (other.reason, other.is_other_type));
        assert_eq!(Reason::BadEnvelope, refused(b"\x0a\x05k").reason);
        assert_eq!(Reason::BadEnvelope, refused(b"\x0a\x01\xff").reason);
    }

    #[test]
    fn a_value_that_is_an_any_is_unwrapped_where_the_message_cannot_begin_so() {
        let mut rules = rules(Format::Auto);
        rules.types.names = vec!["acme.Other".to_owned()];
        let own = any_of(OWN, b"M");
        assert_eq!(b"M".to_vec(), data(&rules, &own, &[]));
        assert_eq!(b"".to_vec(), data(&rules, &own[..own.len() - 3], &[]), "without a value: defaults");
        let refused =
            |rules: &Recognition, value: &[u8]| with(rules, Some(value), &[], |event| event.unwrap_err().reason);
        assert_eq!(Reason::WrongType, refused(&rules, &any_of("type.googleapis.com/acme.Other", b"M")));
        assert_eq!(Reason::WrongSchema, refused(&rules, &any_of("type.googleapis.com/acme.New", b"M")));
        let more = [own.as_slice(), b"\x18\x01"].concat();
        assert_eq!(more, data(&rules, &more, &[]), "an Any has no field 3");
        rules.tells_any = false;
        assert_eq!(Reason::BadEnvelope, refused(&rules, &own));
        let other = any_of("type.googleapis.com/acme.Other", b"M");
        assert_eq!(other, data(&rules, &other, &[]), "a message whose field 1 names a type");
        rules.type_name = "google.protobuf.Any".to_owned();
        let nested = any_of("type.googleapis.com/google.protobuf.Any", b"M");
        assert_eq!(nested, data(&rules, &nested, &[]));
        let mut rules = crate::envelope::testing::rules(Format::Plain);
        assert_eq!(
            Reason::BadEnvelope,
            refused(&rules, &own),
            "a fixed format unwraps none, and takes none for another"
        );
        assert_eq!(Reason::WrongSchema, refused(&rules, &other));
        rules.tells_any = false;
        assert_eq!(other, data(&rules, &other, &[]));
    }

    #[test]
    fn an_any_inside_a_structured_event_is_unwrapped_too() {
        let own = any_of(OWN, b"M");
        let json = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"CgR4Li95EgFN"}"#;
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), &structured(&[], 6, &own), &[STRUCTURED]));
        assert_eq!(b"\x0a\x04x./y\x12\x01M".to_vec(), data(&rules(Format::Auto), json, &[JSON]), "no type's URL");
    }

    #[test]
    fn a_structured_cloudevent_without_data_is_refused_and_so_is_one_with_text() {
        assert_eq!(Reason::NoData, reason(Format::Auto, &structured(&[], 0, b""), &[STRUCTURED]));
        let elsewhere = [attribute_entry("dataref", 5, b"https://x/y")];
        assert_eq!(Reason::Dataref, reason(Format::Auto, &structured(&elsewhere, 0, b""), &[STRUCTURED]));
        assert_eq!(Reason::Dataref, reason(Format::Auto, &structured(&elsewhere, 6, b"M"), &[STRUCTURED]));
        with(&rules(Format::Auto), Some(&structured(&[], 6, b"")), &[STRUCTURED], |event| {
            assert!(!event.unwrap().is_delete, "binary_data is there, and empty: a message of defaults");
        });
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, &structured(&[], 7, b"text"), &[STRUCTURED]));
        for content_type in [b"application/cloudevents-batch+protobuf".as_slice(), b"application/cloudevents+avro"] {
            assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"{}", &[("content-type", content_type)]));
        }
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"\x0a\x05", &[STRUCTURED]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"\x0a\x01\xff", &[STRUCTURED]));
        assert_eq!(Reason::BadEnvelope, reason(Format::Auto, b"", &[STRUCTURED]), "not even an id");
    }

    #[test]
    fn json_carries_the_message_in_base64() {
        let event = |rest: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{rest}}}"#);
        let full = event(
            r#","subject":"d","sequence":7,"time":"1970-01-01T00:00:01Z","tracestate":"a=b","data_base64":"TQ==","x":[{}]"#,
        );
        with(&rules(Format::Auto), Some(full.as_bytes()), &[JSON], |found| {
            let found = found.unwrap();
            assert_eq!((b"M".as_slice(), "1", "/s", "d"), (found.data, found.id, found.source, found.subject));
            assert_eq!((Sequence::Number(7), Some((1, 0)), ""), (found.sequence, found.time, found.tracestate));
        });
        let empty = event(r#","data_base64":"","sequence":null,"data":null"#);
        with(&rules(Format::CloudEvents), Some(empty.as_bytes()), &[JSON], |found| {
            let found = found.unwrap();
            assert_eq!((b"".as_slice(), false, Sequence::Absent), (found.data, found.is_delete, found.sequence));
        });
        for (wanted, rest) in [
            (Reason::NoData, ""),
            (Reason::NoData, r#","data":null"#),
            (Reason::Dataref, r#","dataref":"https://x/y""#),
            (Reason::BadEnvelope, r#","data":{}"#),
            (Reason::BadEnvelope, r#","data":{},"data_base64":"TQ==""#),
            (Reason::BadEnvelope, r#","data_base64":"TQ""#),
            (Reason::BadEnvelope, r#","data_base64":7"#),
            (Reason::BadEnvelope, r#","data_base64":"TQ==","source":7"#),
        ] {
            assert_eq!(wanted, reason(Format::Auto, event(rest).as_bytes(), &[JSON]), "{rest}");
        }
        for missing in ["specversion", "id", "source", "type"] {
            let rest = event(r#","data_base64":"TQ==""#).replace(&format!("{missing}\""), "x\"");
            assert_eq!(Reason::BadEnvelope, reason(Format::Auto, rest.as_bytes(), &[JSON]), "without {missing}");
        }
        for json in ["[]", "{}", r#"{"id":"1""#] {
            assert_eq!(Reason::BadEnvelope, reason(Format::Auto, json.as_bytes(), &[JSON]));
        }
        let bad = event(r#","sequence":1.5,"data_base64":"TQ==""#);
        with(&rules(Format::Auto), Some(bad.as_bytes()), &[JSON], |found| {
            assert_eq!(Sequence::Bad, found.unwrap().sequence);
        });
    }

    #[test]
    fn without_a_header_only_a_whole_event_is_one_and_only_where_the_message_cannot_be_read_so() {
        let whole = structured(&[attribute_entry("sequence", 3, b"7")], 6, b"M");
        let json = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"TQ=="}"#.to_vec();
        let mut own = rules(Format::Auto);
        let labelled: (&str, &[u8]) = ("content-type", b"application/protobuf");
        for (value, headers) in [(&whole, &[] as &[_]), (&json, &[]), (&json, &[labelled]), (&whole, &[labelled])] {
            assert_eq!(b"M".to_vec(), data(&own, value, headers));
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        wire::records(&whole).flatten().for_each(|field| {
            let mut part = Vec::new();
            wire::put_len(&mut part, field.number, field.value);
            parts.push(part);
        });
        parts.reverse();
        assert_eq!(b"M".to_vec(), data(&own, &parts.concat(), &[]), "in any order");
        for missing in [0, 2, 3, 4, 5] {
            let rest: Vec<u8> = (0..parts.len()).filter(|at| *at != missing).flat_map(|at| parts[at].clone()).collect();
            assert_eq!(rest, data(&own, &rest, &[]), "without part {missing}");
        }
        let more = [whole.as_slice(), b"\x48\x01"].concat();
        let old = String::from_utf8_lossy(&whole).replace("1.0", "0.3").into_bytes();
        let old_json = String::from_utf8_lossy(&json).replace("1.0", "0.3").into_bytes();
        for other in [&more, &old, &old_json, &b"{}".to_vec()] {
            assert_eq!(*other, data(&own, other, &[]));
        }
        own.tells_cloudevents = false;
        assert_eq!(whole, data(&own, &whole, &[]));
        assert_eq!(b"M".to_vec(), data(&own, &json, &[]), "no message is JSON");
        assert_eq!(b"M".to_vec(), data(&own, &whole, &[STRUCTURED]));
        assert_eq!(
            Reason::BadEnvelope,
            reason(Format::Plain, &whole, &[]),
            "no message, though nobody reads it as one"
        );
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
            (text(b"00000000000000000000000007"), Sequence::Number(7)),
            (text(b"+7"), Sequence::Bad),
            (text(b""), Sequence::Bad),
            (text(b"-1"), Sequence::Bad),
            (text(b"1.0"), Sequence::Bad),
        ] {
            let found = with(&rules(Format::Auto), Some(&value), &[STRUCTURED], |event| event.unwrap().sequence);
            assert_eq!(expected, found);
        }
    }

    #[test]
    fn a_type_is_named_with_and_without_its_url() {
        for text in ["acme.Other", "type.googleapis.com/acme.Other", "https://type.googleapis.com/acme.Other"] {
            assert_eq!(b"acme.Other", named(text.as_bytes()), "{text}");
        }
        for text in ["", "t", "https://registry/acme.Other", "type.googleapis.com", "order.type.googleapis.com/x"] {
            assert_eq!(text.as_bytes(), named(text.as_bytes()));
        }
    }

    #[test]
    fn any_bytes_give_an_event_or_a_refusal() {
        let mut state = 7u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let seeds: [&[u8]; 6] = [
            &structured(&[attribute_entry("time", 7, b"\x08\x05"), attribute_entry("sequence", 3, b"1")], 6, b"MM"),
            b"\0\0\0\0\x05\x04\x02\x04MMMM",
            &zstd::bulk::compress(b"message message message", 3).unwrap(),
            b"\x01\x0b\x0b\x0b\x0c\x0c\x0c",
            br#"{"specversion":"1.0","id":"\u00e9","source":"/s","type":"t","data_base64":"TQ=="}"#,
            &any_of(OWN, b"MM"),
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
            let trace: (&str, &[u8]) = ("traceparent", &value.clone());
            let binary: [(&str, &[u8]); 2] = [("ce_specversion", b"1.0"), ("ce_id", b"id-2")];
            for headers in
                [&[STRUCTURED] as &[_], &[], &[JSON], &[zstd], &[header, trace], &[binary[0], binary[1], time]]
            {
                with(&rules(Format::Auto), Some(&value), headers, |event| drop(event));
            }
        }
        assert_eq!(1, record(None, &[]).len());
    }
}
