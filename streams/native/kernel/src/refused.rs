//! Why bytes are no message of a type, in words that lead to the cure: what they look like, or where they break. Never
//! what they hold.

use crate::schema::{Kind, Schema, UTF8};
use crate::wire;

/// What is wrong with bytes that Protobuf rejected.
pub(crate) fn why(schema: &Schema, bytes: &[u8]) -> String {
    let text = bytes.trim_ascii();
    if let (Some(b'{' | b'['), Some(b'}' | b']')) = (text.first(), text.last()) {
        return "it looks like JSON, wanted Protobuf's binary form".to_owned();
    }
    if text.len() > 2 && text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')) {
        return "it looks like text, wanted Protobuf's binary form".to_owned();
    }
    let mut path = String::new();
    broken(schema, 0, bytes, 0, &mut path).unwrap_or_else(|| "Protobuf refuses it".to_owned())
}

/// The first place where a message of type `index` breaks. `path` names the fields around it.
fn broken(schema: &Schema, index: usize, bytes: &[u8], depth: u32, path: &mut String) -> Option<String> {
    let message = schema.message(index);
    let place = |path: &str| if path.is_empty() { String::new() } else { format!(" in field {path}") };
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let next = wire::read_tag(bytes, &mut at).and_then(|tag| Ok((tag, wire::read_value(bytes, at, tag, 0)?)));
        let Ok((tag, value)) = next else {
            let what = if ends_early(&bytes[start..]) { "it ends early" } else { "it is damaged" };
            return Some(format!("{what}{}: no whole field begins at byte {start} of {}", place(path), bytes.len()));
        };
        let content = &bytes[value.start..value.end];
        if let Some(field) = message.field(tag >> 3).filter(|field| field.kind.wire_type() == tag & 7) {
            let length = path.len();
            path.push_str(if length == 0 { "" } else { "." });
            path.push_str(&field.name);
            if field.flags & UTF8 != 0 && std::str::from_utf8(content).is_err() {
                return Some(format!("field {path} ({}) is not UTF-8", field.number));
            }
            // A group is walked to find its end; walking what is in it again at every depth would cost its square.
            if field.kind == Kind::Message && depth < wire::DEPTH_MAX {
                let found = broken(schema, field.child, content, depth + 1, path);
                if found.is_some() {
                    return found;
                }
            }
            path.truncate(length);
        }
        at = value.next;
    }
    None
}

/// Whether more bytes could make the record at the beginning of `rest` whole.
fn ends_early(rest: &[u8]) -> bool {
    let is_cut = |bytes: &[u8]| bytes.len() < 10 && bytes.iter().all(|byte| *byte >= 0x80);
    let mut at = 0;
    let Ok(tag) = wire::read_tag(rest, &mut at) else { return rest.len() < 5 && is_cut(rest) };
    match tag & 7 {
        wire::VARINT => is_cut(&rest[at..]),
        wire::LEN => wire::read_varint(rest, &mut at).is_ok() || is_cut(&rest[at..]),
        wire::FIXED64 | wire::FIXED32 | wire::START_GROUP => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{FieldSpec, MessageSpec};

    /// 1 name (UTF-8), 2 raw (any bytes), 3 the message itself.
    fn schema() -> Schema {
        let field = |number, kind, flags, name: &str| FieldSpec {
            number,
            kind,
            flags,
            child: 0,
            oneof: -1,
            name: name.to_owned(),
            values: None,
        };
        let fields = vec![
            field(1, Kind::String, UTF8, "name"),
            field(2, Kind::String, 0, "raw"),
            field(3, Kind::Message, 0, "inner"),
        ];
        Schema::new(vec![MessageSpec { full_name: "acme.Device".to_owned(), fields }], &[]).unwrap()
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_named_without_what_it_holds() {
        for (bytes, wanted) in [
            (b" {\"name\": \"x\"}\n".as_slice(), "it looks like JSON, wanted Protobuf's binary form"),
            (b"name,raw\r\n", "it looks like text, wanted Protobuf's binary form"),
            (b"\x0a\x02M\xfc", "field name (1) is not UTF-8"),
            (b"\x12\x02M\xfc\x1a\x05\x1a\x03\x0a\x01\xfc", "field inner.inner.name (1) is not UTF-8"),
            (b"\x0a\x05M\x01", "it ends early: no whole field begins at byte 0 of 4"),
            (b"\x0a\x01M\x12", "it ends early: no whole field begins at byte 3 of 4"),
            (b"\x0a\x01M\x20\x80", "it ends early: no whole field begins at byte 3 of 5"),
            (b"\x0a\x01M\x29\0\0", "it ends early: no whole field begins at byte 3 of 6"),
            (b"\x0a\x01M\x80", "it ends early: no whole field begins at byte 3 of 4"),
            (b"\x0a\x01M\x2b\x08\x01", "it ends early: no whole field begins at byte 3 of 6"),
            (b"\x1a\x02\x0a\x05", "it ends early in field inner: no whole field begins at byte 0 of 2"),
            (b"\x0a\x01M\x00", "it is damaged: no whole field begins at byte 3 of 4"),
            (b"\x0f\x01\x02", "it is damaged: no whole field begins at byte 0 of 3"),
            (b"\x0c\x01\x02", "it is damaged: no whole field begins at byte 0 of 3"),
            (b"\x0a\x01M", "Protobuf refuses it"),
        ] {
            assert_eq!(wanted, why(&schema(), bytes));
        }
    }
}
