//! Field tables: what the kernel knows of a message type and of everything that it reaches.

use std::collections::HashMap;
use std::fmt;

use crate::patch;
use crate::wire;

/// How the values of a field lie on the wire. The numbers are those of the Python face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `int32`, and every open enum.
    Int32 = 0,
    Int64 = 1,
    /// `uint32` and `sint32`.
    Uint32 = 2,
    /// `uint64` and `sint64`.
    Uint64 = 3,
    Bool = 4,
    /// `fixed32`, `sfixed32` and `float`.
    Fixed32 = 5,
    /// `fixed64`, `sfixed64` and `double`.
    Fixed64 = 6,
    String = 7,
    Bytes = 8,
    /// A length-delimited message.
    Message = 9,
    /// A group, or a message with the editions' DELIMITED encoding.
    Group = 10,
    /// An enum that takes its declared values only; others become unknown fields.
    ClosedEnum = 11,
}

impl Kind {
    /// The kind with the number `number`; None: there is none.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        let kinds = [Int32, Int64, Uint32, Uint64, Bool, Fixed32, Fixed64, String, Bytes, Message, Group, ClosedEnum];
        kinds.get(number as usize).copied()
    }

    /// Whether a value is a message of its own, with a field table.
    pub fn is_message(self) -> bool {
        matches!(self, Kind::Message | Kind::Group)
    }

    /// Whether repeated values may be packed into one record.
    pub fn is_packable(self) -> bool {
        !matches!(self, Kind::String | Kind::Bytes | Kind::Message | Kind::Group)
    }

    /// The wire type of one value.
    pub fn wire_type(self) -> u32 {
        match self {
            Kind::Fixed32 => wire::FIXED32,
            Kind::Fixed64 => wire::FIXED64,
            Kind::String | Kind::Bytes | Kind::Message => wire::LEN,
            Kind::Group => wire::START_GROUP,
            _ => wire::VARINT,
        }
    }
}

/// Flag: any number of values.
pub const REPEATED: u8 = 1;
/// Flag: the values lie in one record.
pub const PACKED: u8 = 2;
/// Flag: no presence, a default value is not on the wire.
pub const IMPLICIT: u8 = 4;
/// Flag: a map; the child message is its entry.
pub const MAP: u8 = 8;
/// Flag: the bytes must be valid UTF-8.
pub const UTF8: u8 = 16;
/// Flag: `sint32`, `sint64` (zigzag), `sfixed32`, `sfixed64`: as the key of a map, ordered as a signed number.
pub const SIGNED: u8 = 32;

/// The highest field number that Protobuf knows.
pub(crate) const NUMBER_MAX: u32 = (1 << 29) - 1;
/// Numbers below it are found by index, the rest by binary search: real messages stay far below it.
const DENSE_MAX: u32 = 256;
const ABSENT: u16 = u16::MAX;
/// No path leads into these messages: languages map them to types of their own, and hand out copies of what is in them.
const CLOSED_PACKAGE: &str = "google.protobuf.";

/// One field as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpec {
    pub number: u32,
    pub kind: Kind,
    /// [`REPEATED`] | [`PACKED`] | [`IMPLICIT`] | [`MAP`] | [`UTF8`] | [`SIGNED`].
    pub flags: u8,
    /// Index of the child message in the table; only for messages and groups.
    pub child: u32,
    /// Which oneof of its message the field belongs to; -1: none.
    pub oneof: i32,
    pub name: String,
    /// The declared values of a closed enum.
    pub values: Option<Vec<i32>>,
}

/// One message type as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSpec {
    pub full_name: String,
    pub fields: Vec<FieldSpec>,
}

/// A field table or an ignored path is wrong; the text names it, what came and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError(pub String);

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SchemaError {}

/// A field of a checked schema.
#[derive(Debug)]
pub struct Field {
    pub number: u32,
    pub kind: Kind,
    pub flags: u8,
    /// Index of the child message; only for messages and groups.
    pub child: usize,
    /// The oneof among those of its message that have several members, which are counted from 0; -1: none of them.
    pub oneof: i32,
    /// One message that is named whole, whatever changes in it: see [`CLOSED_PACKAGE`].
    pub(crate) is_named_whole: bool,
    pub name: Box<str>,
    /// The tag of its canonical records.
    pub tag: u32,
    /// The declared values of a closed enum, ascending; empty otherwise.
    pub(crate) values: Box<[i32]>,
    /// The field as a path from the root: a record of a FieldMask, and one of `Patch.numbers`.
    pub(crate) path_record: Box<[u8]>,
    pub(crate) numbers_record: Box<[u8]>,
}

impl Field {
    /// Whether a closed enum has the value.
    #[inline]
    pub(crate) fn declares(&self, value: i32) -> bool {
        self.values.binary_search(&value).is_ok()
    }

    #[inline(always)]
    pub fn is_map(&self) -> bool {
        self.flags & MAP != 0
    }

    #[inline(always)]
    pub fn is_packed(&self) -> bool {
        self.flags & PACKED != 0
    }

    /// Whether its values take one record each.
    #[inline(always)]
    pub(crate) fn has_runs(&self) -> bool {
        self.flags & (REPEATED | PACKED) == REPEATED
    }

    /// Whether a path may lead through it: one message, not many.
    #[inline(always)]
    pub fn is_single_message(&self) -> bool {
        self.flags & REPEATED == 0 && self.kind.is_message()
    }
}

/// A message type of a checked schema.
#[derive(Debug)]
pub struct Message {
    pub full_name: Box<str>,
    fields: Box<[Field]>,
    /// Position in `fields` by number.
    dense: Box<[u16]>,
    /// Positions in `fields`, ascending by name.
    by_name: Box<[u16]>,
    /// How many oneofs have several members.
    pub(crate) oneofs: usize,
    /// Whether a map lies in it, at any depth.
    pub(crate) has_maps: bool,
}

impl Message {
    /// The fields, ascending by number.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    #[inline(always)]
    pub fn field(&self, number: u32) -> Option<&Field> {
        match self.dense.get(number as usize) {
            Some(&at) => self.fields.get(at as usize),
            None => self.sparse_field(number),
        }
    }

    #[cold]
    fn sparse_field(&self, number: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(&self.fields[at])
    }

    pub fn field_by_name(&self, name: &str) -> Option<&Field> {
        let named = |at: &u16| self.fields[*at as usize].name.as_ref();
        let at = self.by_name.binary_search_by_key(&name, named).ok()?;
        Some(&self.fields[self.by_name[at] as usize])
    }
}

/// A part of the tree of ignored paths.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    number: u32,
    /// The path ends here: the field and all below it is ignored.
    whole: bool,
    below: Vec<Ignored>,
}

impl Ignored {
    /// What of the field `number` is ignored; `None`: nothing.
    #[inline]
    pub(crate) fn field(&self, number: u32) -> Option<&Ignored> {
        if self.whole {
            return Some(self);
        }
        self.below.iter().find(|part| part.number == number)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }
}

/// The field tables of a root message and of all that it reaches, checked once. Immutable, shared by threads.
#[derive(Debug)]
pub struct Schema {
    messages: Box<[Message]>,
    pub(crate) ignored: Ignored,
    /// Whether protobuf reads some of its unknown fields as extensions, and so may refuse what is in them.
    pub(crate) has_extensions: bool,
    pub(crate) has_closed_enums: bool,
    /// As in `Patch.schema`; 0: not known, and every patch is taken for one of this schema.
    fingerprint: u64,
}

impl Schema {
    /// Checks `messages` (the root is the first) and the paths in `ignore`, whose changes alone give no patch.
    pub fn new(messages: Vec<MessageSpec>, ignore: &[String]) -> Result<Schema, SchemaError> {
        if messages.is_empty() {
            return Err(SchemaError("the field table has no message, expected at least the root".into()));
        }
        for message in &messages {
            check_message(message, &messages)?;
        }
        let mut messages: Box<[Message]> = messages.into_iter().map(build_message).collect();
        mark_maps(&mut messages);
        mark_named_whole(&mut messages);
        let mut fields = messages.iter().flat_map(|message| message.fields.iter());
        let has_closed_enums = fields.any(|field| field.kind == Kind::ClosedEnum);
        let mut schema =
            Schema { messages, ignored: Ignored::default(), has_extensions: false, has_closed_enums, fingerprint: 0 };
        for path in ignore {
            schema.ignore(path)?;
        }
        Ok(schema)
    }

    /// The same schema, of messages that may be extended: protobuf has to see what their unknown fields hold.
    pub fn with_extensions(self) -> Schema {
        Schema { has_extensions: true, ..self }
    }

    /// The same schema, which knows patches of another descriptor by their fingerprint.
    pub fn with_fingerprint(self, fingerprint: u64) -> Schema {
        Schema { fingerprint, ..self }
    }

    /// Whether a patch with this fingerprint may be of another descriptor.
    pub(crate) fn is_foreign(&self, fingerprint: u64) -> bool {
        self.fingerprint != 0 && fingerprint != 0 && fingerprint != self.fingerprint
    }

    /// The message that events carry.
    pub fn root(&self) -> &Message {
        &self.messages[0]
    }

    #[inline(always)]
    pub fn message(&self, index: usize) -> &Message {
        &self.messages[index]
    }

    /// The field that the dotted `path` names; None: a part is unknown, or leads through a field that is not one message.
    pub fn field_by_path(&self, path: &str) -> Option<&Field> {
        let mut last = None;
        self.walk(path, |field| last = Some(field)).ok()?;
        last
    }

    /// The field numbers along the dotted `path`; None as for [`Schema::field_by_path`].
    pub fn path_numbers(&self, path: &str) -> Option<Vec<u32>> {
        let mut numbers = Vec::new();
        self.walk(path, |field| numbers.push(field.number)).ok()?;
        Some(numbers)
    }

    /// Visits the fields along a path; the error says which part leads nowhere.
    pub(crate) fn walk<'s>(&'s self, path: &str, mut visit: impl FnMut(&'s Field)) -> Result<(), SchemaError> {
        let mut at = Some(self.root());
        for name in path.split('.') {
            let Some(message) = at else {
                return Err(SchemaError(format!(
                    "path {path:?}: {name:?} lies behind a list, a map or a scalar, expected single messages before it"
                )));
            };
            let Some(field) = message.field_by_name(name) else {
                return Err(SchemaError(format!("path {path:?}: {} has no field {name:?}", message.full_name)));
            };
            at = field.is_single_message().then(|| self.message(field.child));
            visit(field);
        }
        Ok(())
    }

    fn ignore(&mut self, path: &str) -> Result<(), SchemaError> {
        let mut numbers = Vec::new();
        self.walk(path, |field| numbers.push(field.number))?;
        let mut part = &mut self.ignored;
        for number in numbers {
            let at = part.below.iter().position(|below| below.number == number).unwrap_or_else(|| {
                part.below.push(Ignored { number, ..Ignored::default() });
                part.below.len() - 1
            });
            part = &mut part.below[at];
        }
        part.whole = true;
        Ok(())
    }
}

fn check_message(message: &MessageSpec, all: &[MessageSpec]) -> Result<(), SchemaError> {
    let name = &message.full_name;
    if message.fields.len() >= ABSENT as usize {
        let count = message.fields.len();
        return Err(SchemaError(format!("{name}: {count} fields, expected fewer than {ABSENT}")));
    }
    let (mut numbers, mut names) = (HashMap::new(), HashMap::new());
    for field in &message.fields {
        check_field(field, all)
            .map_err(|wrong| SchemaError(format!("{name}: field {} ({:?}) {wrong}", field.number, field.name)))?;
        let (by_number, by_name) = (numbers.insert(field.number, field), names.insert(&field.name, field));
        if let Some(twin) = by_number.or(by_name) {
            return Err(SchemaError(format!(
                "{name}: fields {} ({:?}) and {} ({:?}) share a number or a name",
                twin.number, twin.name, field.number, field.name
            )));
        }
    }
    Ok(())
}

fn check_field(field: &FieldSpec, all: &[MessageSpec]) -> Result<(), String> {
    if field.number == 0 || field.number > NUMBER_MAX {
        return Err(format!("has a number out of range, expected 1 to {NUMBER_MAX}"));
    }
    if field.name.is_empty() || field.name.contains('.') {
        return Err("has no usable name, expected one without dots".into());
    }
    if field.kind.is_message() && field.child as usize >= all.len() {
        return Err(format!("names message {} of {}", field.child, all.len()));
    }
    if field.flags & PACKED != 0 && !(field.flags & REPEATED != 0 && field.kind.is_packable()) {
        return Err("is packed, expected that of repeated numbers only".into());
    }
    if (field.kind == Kind::ClosedEnum) != field.values.is_some() {
        return Err("has enum values or lacks them, expected them for closed enums and nothing else".into());
    }
    if field.flags & MAP != 0 {
        let entry = &all.get(field.child as usize).map_or(&[][..], |message| &message.fields);
        if field.flags & REPEATED == 0 || field.kind != Kind::Message || !is_map_entry(entry) {
            return Err("is a map, expected repeated messages with a key (1) and a value (2)".into());
        }
    }
    Ok(())
}

fn is_map_entry(fields: &[FieldSpec]) -> bool {
    let is_key = |kind: Kind| (kind.is_packable() && kind != Kind::ClosedEnum) || kind == Kind::String;
    let mut ascending: Vec<&FieldSpec> = fields.iter().collect();
    ascending.sort_by_key(|field| field.number);
    match ascending[..] {
        [key, value] => {
            key.number == 1 && value.number == 2 && (key.flags | value.flags) & REPEATED == 0 && is_key(key.kind)
        }
        _ => false,
    }
}

fn build_message(spec: MessageSpec) -> Message {
    let oneofs = shared_oneofs(&spec.fields);
    let index_of = |oneof: i32| oneofs.binary_search(&oneof).map_or(-1, |at| at as i32);
    let oneof_of: Vec<i32> = spec.fields.iter().map(|field| index_of(field.oneof)).collect();
    let mut fields: Vec<Field> = spec.fields.into_iter().zip(oneof_of).map(build_field).collect();
    fields.sort_by_key(|field| field.number);
    let dense_len = fields.iter().map(|field| field.number).filter(|number| *number < DENSE_MAX).max().unwrap_or(0) + 1;
    let mut dense = vec![ABSENT; dense_len as usize];
    for (at, field) in fields.iter().enumerate() {
        if let Some(slot) = dense.get_mut(field.number as usize) {
            *slot = at as u16;
        }
    }
    let mut by_name: Vec<u16> = (0..fields.len() as u16).collect();
    by_name.sort_by(|a, b| fields[*a as usize].name.cmp(&fields[*b as usize].name));
    Message {
        full_name: spec.full_name.into(),
        oneofs: oneofs.len(),
        has_maps: fields.iter().any(Field::is_map),
        fields: fields.into(),
        dense: dense.into(),
        by_name: by_name.into(),
    }
}

/// The oneofs with several members, ascending: one of a single member (proto3 `optional`) excludes nothing.
fn shared_oneofs(fields: &[FieldSpec]) -> Vec<i32> {
    let mut named: Vec<i32> = fields.iter().map(|field| field.oneof).filter(|oneof| *oneof >= 0).collect();
    named.sort_unstable();
    let mut shared: Vec<i32> = named.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    shared.dedup();
    shared
}

fn build_field((spec, oneof): (FieldSpec, i32)) -> Field {
    let wire_type = if spec.flags & PACKED != 0 { wire::LEN } else { spec.kind.wire_type() };
    let mut values = spec.values.unwrap_or_default();
    values.sort_unstable();
    let (mut path_record, mut numbers_record) = (Vec::new(), Vec::new());
    wire::put_len(&mut path_record, 1, spec.name.as_bytes());
    patch::put_field_path(&mut numbers_record, &[], spec.number);
    Field {
        number: spec.number,
        kind: spec.kind,
        flags: spec.flags,
        child: spec.child as usize,
        oneof,
        is_named_whole: false,
        name: spec.name.into(),
        tag: spec.number << 3 | wire_type,
        values: values.into(),
        path_record: path_record.into(),
        numbers_record: numbers_record.into(),
    }
}

/// Marks the single messages that are of [`CLOSED_PACKAGE`].
fn mark_named_whole(messages: &mut [Message]) {
    let closed: Vec<bool> = messages.iter().map(|message| message.full_name.starts_with(CLOSED_PACKAGE)).collect();
    for field in messages.iter_mut().flat_map(|message| message.fields.iter_mut()) {
        field.is_named_whole = field.is_single_message() && closed[field.child];
    }
}

/// Spreads `has_maps` from the messages with map fields to those that reach them.
fn mark_maps(messages: &mut [Message]) {
    loop {
        let reaches = |message: &Message| {
            message.fields.iter().any(|field| field.kind.is_message() && messages[field.child].has_maps)
        };
        let found: Vec<usize> =
            (0..messages.len()).filter(|at| !messages[*at].has_maps && reaches(&messages[*at])).collect();
        if found.is_empty() {
            return;
        }
        for at in found {
            messages[at].has_maps = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn refusal(change: impl FnOnce(&mut Vec<MessageSpec>)) -> String {
        let mut specs = zoo::specs();
        change(&mut specs);
        Schema::new(specs, &[]).expect_err("the table is wrong").0
    }

    #[test]
    fn fields_are_found_by_number_name_and_path() {
        let schema = zoo::schema();
        assert_eq!(schema.root().field(2).map(|field| &*field.name), Some("name"));
        assert_eq!(schema.root().field(3000).map(|field| &*field.name), Some("far"));
        assert_eq!(schema.root().field_by_name("slots").map(|field| field.number), Some(13));
        assert_eq!(schema.field_by_path("inner.leaf.s").map(|field| field.number), Some(2));
        assert_eq!(schema.path_numbers("inner.leaf.s"), Some(vec![40, 11, 2]));
        for number in [0, 25, 255, 256, 2999, 3001, u32::MAX] {
            assert!(schema.root().field(number).is_none());
        }
    }

    #[test]
    fn a_path_leads_through_single_messages_only() {
        let schema = zoo::schema();
        for path in ["", ".", "nothing", "leaf.", "leaf.nothing", "name.x", "leaves.a", "labels.key", "by_id.value"] {
            assert!(schema.field_by_path(path).is_none(), "{path:?}");
            assert!(schema.path_numbers(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn an_unknown_ignored_path_is_named() {
        let error = Schema::new(zoo::specs(), &["leaf.lat".into()]).expect_err("no such path");
        assert_eq!(error.0, "path \"leaf.lat\": zoo.Leaf has no field \"lat\"");
        let error = Schema::new(zoo::specs(), &["labels.key".into()]).expect_err("no such path");
        assert!(error.0.contains("\"key\" lies behind a list, a map or a scalar"), "{error}");
    }

    #[test]
    fn a_wrong_table_is_refused_by_message_and_field() {
        assert!(Schema::new(Vec::new(), &[]).is_err());
        assert_eq!(refusal(|t| t[0].fields[10].child = 99), "zoo.All: field 11 (\"leaf\") names message 99 of 7");
        assert!(refusal(|t| t[0].fields[0].number = 0).contains("out of range"));
        assert!(refusal(|t| t[0].fields[0].number = 1 << 29).contains("out of range"));
        assert!(refusal(|t| t[0].fields[0].number = 2).contains("share a number or a name"));
        assert!(refusal(|t| t[0].fields[0].name = "name".into()).contains("share a number or a name"));
        assert!(refusal(|t| t[0].fields[1].flags |= PACKED).contains("packed"));
        assert!(refusal(|t| t[0].fields[9].values = None).contains("enum values"));
        assert!(refusal(|t| t[2].fields[1].number = 3).contains("is a map"));
        assert!(refusal(|t| t[1].fields[0].name = String::new()).contains("no usable name"));
    }

    #[test]
    fn a_oneof_of_one_member_excludes_nothing() {
        let mut specs = zoo::specs();
        specs[0].fields[2].oneof = 7;
        let schema = Schema::new(specs, &[]).expect("sound");
        assert_eq!(schema.root().field(3).map(|field| field.oneof), Some(-1));
        assert_eq!(schema.root().field(30).map(|field| field.oneof), Some(0));
    }

    #[test]
    fn maps_are_known_at_every_depth() {
        let schema = zoo::schema();
        assert!(schema.root().has_maps && schema.message(1).has_maps && schema.message(3).has_maps);
        assert!(!schema.message(2).has_maps);
    }
}
