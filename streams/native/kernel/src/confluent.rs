//! Confluent's framing: magic, schema id or GUID, message indexes, the message. No registry is called.
//!
//! The indexes are the path of a message type in its file, each a zigzag varint behind their count; the path [0] is
//! written as an empty one. Whether entries of maps count as nested types differs between writers (Java's with
//! `normalize.schemas` leaves them out); older and odd writers are read by [`SchemaIndexes`].

use crate::envelope::{bad, Format, Headers, Reason, Recognition, Refusal};
use crate::wire;

/// How writers put down which message of its file a record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaIndexes {
    #[default]
    Standard,
    /// Varints without zigzag: confluent-kafka-python before 1.8.
    Plain,
    /// The innermost first: confluent-kafka-dotnet from 2.10.1.
    Reversed,
    /// None at all: kafkajs.
    None,
}

impl SchemaIndexes {
    /// The setting `schema_indexes`, or None for a word it does not know.
    pub fn parse(word: &str) -> Option<SchemaIndexes> {
        match word {
            "standard" => Some(SchemaIndexes::Standard),
            "plain" => Some(SchemaIndexes::Plain),
            "reversed" => Some(SchemaIndexes::Reversed),
            "none" => Some(SchemaIndexes::None),
            _ => None,
        }
    }
}

/// The message behind the framing, or the whole value where there is none.
pub(crate) fn unframe<'a>(rules: &Recognition, headers: &Headers<'a>, value: &'a [u8]) -> Result<&'a [u8], Refusal> {
    if let Some(prefix) = headers.schema_id {
        check_header(rules, prefix)?;
        return Ok(value);
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

/// The header `__value_schema_id` names the configured message and nothing follows.
pub(crate) fn check_header(rules: &Recognition, prefix: &[u8]) -> Result<(), Refusal> {
    if frame_length(rules, prefix)? == prefix.len() {
        Ok(())
    } else {
        Err(bad("bytes after header __value_schema_id's indexes"))
    }
}

/// Length of the prefix: magic, schema id or GUID, message indexes; refused where it names another message.
fn frame_length(rules: &Recognition, frame: &[u8]) -> Result<usize, Refusal> {
    let truncated = || bad("Confluent framing ends early");
    let at = match frame.first() {
        Some(0) => {
            let id = frame.get(1..5).ok_or_else(truncated)?;
            let id = u32::from_be_bytes([id[0], id[1], id[2], id[3]]);
            if !rules.schema_ids.is_empty() && !rules.schema_ids.contains(&id) {
                let text = format!("Confluent schema id {id} is not in schema_ids");
                return Err(Refusal::new(Reason::WrongSchema, text).of_another_type());
            }
            5
        }
        Some(1) if frame.len() < 17 => return Err(truncated()),
        Some(1) if rules.schema_ids.is_empty() => 17,
        Some(1) => {
            let text = "Confluent framing by GUID, schema_ids narrows to numeric ids";
            return Err(Refusal::new(Reason::WrongSchema, text).of_another_type());
        }
        _ => return Err(bad("Confluent framing has magic neither 0x00 nor 0x01")),
    };
    match rules.types.indexes {
        SchemaIndexes::None => Ok(at),
        _ => indexes_end(rules, frame, at),
    }
}

/// Position behind the message indexes at `at`; refused where they do not name the configured message.
fn indexes_end(rules: &Recognition, frame: &[u8], mut at: usize) -> Result<usize, Refusal> {
    let (types, wanted) = (&rules.types, &rules.message_index);
    let mut number = || {
        let raw = wire::read_varint(frame, &mut at).map_err(|_| bad("Confluent framing ends early"))?;
        Ok(match types.indexes {
            SchemaIndexes::Plain => i64::try_from(raw).unwrap_or(-1),
            _ => (raw >> 1) as i64 ^ -((raw & 1) as i64),
        })
    };
    let count = number()?;
    let all = || [wanted].into_iter().chain(&types.also).chain(&types.others);
    let mut came: Vec<i64> = Vec::with_capacity(wanted.len());
    match count {
        0 => came.push(0),
        // A count that no message has ends it: what follows may be the message.
        _ if !all().any(|path| path.len() as i64 == count) => {}
        _ => {
            for _ in 0..count {
                came.push(number()?);
            }
        }
    }
    if types.indexes == SchemaIndexes::Reversed {
        came.reverse();
    }
    let is = |path: &Vec<i32>| path.len() == came.len() && path.iter().zip(&came).all(|(a, b)| i64::from(*a) == *b);
    if is(wanted) || types.also.iter().any(is) {
        return Ok(at);
    }
    let name = &rules.type_name;
    if types.others.iter().any(is) {
        let text = format!("Confluent message indexes {came:?} name another message of the file of {name}");
        return Err(Refusal::new(Reason::WrongType, text).of_another_type());
    }
    let text = format!("Confluent message indexes name no message of the file of {name}, which is at {wanted:?}");
    Err(Refusal::new(Reason::WrongSchema, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::testing::{data, reason, rules, with};

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
        assert_eq!(
            Reason::WrongSchema,
            wrong(&rules, b"\0\0\0\0\x05\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01M"),
            "2^63-1"
        );
        rules.schema_ids = vec![5];
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\x02\x04M", &[]));
        assert_eq!(Reason::WrongSchema, wrong(&rules, b"\0\0\0\0\x06\x04\x02\x04M"));
        for length in 1..8 {
            assert_eq!(Reason::BadEnvelope, wrong(&rules, &b"\0\0\0\0\x05\x04\x02\x04"[..length]));
        }
    }

    #[test]
    fn indexes_of_another_message_of_the_file_name_another_type() {
        let mut rules = rules(Format::Auto);
        rules.message_index = vec![0, 1];
        rules.types.also = vec![vec![0, 0]];
        rules.types.others = vec![vec![0], vec![0, 2]];
        let refusal = |value: &[u8]| with(&rules, Some(value), &[], |event| event.unwrap_err());
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\0\x02M", &[]));
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\0\0M", &[]), "map entries left out");
        for other in [b"\0\0\0\0\x05\0M".as_slice(), b"\0\0\0\0\x05\x02\0M", b"\0\0\0\0\x05\x04\0\x04M"] {
            let refusal = refusal(other);
            assert_eq!((Reason::WrongType, true), (refusal.reason, refusal.is_other_type));
        }
        let nothing = refusal(b"\0\0\0\0\x05\x04\0\x06M");
        assert_eq!((Reason::WrongSchema, false), (nothing.reason, nothing.is_other_type));
    }

    #[test]
    fn older_writers_are_read_by_the_setting() {
        let mut rules = rules(Format::Auto);
        rules.message_index = vec![1, 2];
        rules.types.others = vec![vec![2, 1], vec![0]];
        rules.types.indexes = SchemaIndexes::Plain;
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x02\x01\x02M", &[]));
        rules.types.indexes = SchemaIndexes::Reversed;
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05\x04\x04\x02M", &[]));
        let turned = with(&rules, Some(b"\0\0\0\0\x05\x04\x02\x04M"), &[], |event| event.unwrap_err().reason);
        assert_eq!(Reason::WrongType, turned);
        rules.types.indexes = SchemaIndexes::None;
        assert_eq!(b"M".to_vec(), data(&rules, b"\0\0\0\0\x05M", &[]));
        assert_eq!(b"".to_vec(), data(&rules, b"\0\0\0\0\x05", &[]), "a message of defaults");
        rules.types.indexes = SchemaIndexes::Plain;
        rules.message_index = vec![0];
        for zero in [b"\0\0\0\0\x05\x01\0M".as_slice(), b"\0\0\0\0\x05\0M"] {
            assert_eq!(b"M".to_vec(), data(&rules, zero, &[]));
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
        assert_eq!(b"M".to_vec(), data(&rules(Format::Auto), b"M", &[("__key_schema_id", b"\x02")]), "the key's own");
        let narrowed = Recognition { schema_ids: vec![5], ..rules(Format::Auto) };
        with(&narrowed, Some(&framed), &[], |event| assert_eq!(Reason::WrongSchema, event.unwrap_err().reason));
    }

    #[test]
    fn a_delete_whose_header_names_another_message_is_none_of_ours() {
        let mut rules = rules(Format::Auto);
        rules.types.others = vec![vec![1]];
        let header: (&str, &[u8]) = ("__value_schema_id", b"\0\0\0\0\x05\x02\x02");
        with(&rules, None, &[header], |event| assert_eq!(Reason::WrongType, event.unwrap_err().reason));
        let own: (&str, &[u8]) = ("__value_schema_id", b"\0\0\0\0\x05\0");
        with(&rules, None, &[own], |event| assert!(event.unwrap().is_delete));
    }
}
