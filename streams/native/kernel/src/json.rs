//! One JSON object, read strictly (RFC 8259) and no deeper than its members: what a CloudEvent in JSON needs.
//!
//! Texts lie in a buffer of the caller's, without escapes; numbers stay text; arrays and objects are checked and left out.

/// Nesting that is read; a CloudEvent needs one level. It bounds the stack.
const DEPTH_MAX: u32 = 1024;

/// Members of the object: a CloudEvent has a dozen attributes; a megabyte of empty ones would take twenty of memory.
const MEMBERS_MAX: usize = 1_000;

/// The bytes are no JSON object that is read here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// A member's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Text(&'a [u8]),
    Number(&'a [u8]),
    /// A boolean, an array or an object.
    Other,
}

/// Where a text lies in the buffer.
type Span = (usize, usize);

enum Found<'a> {
    Null,
    Text(Span),
    Number(&'a [u8]),
    Other,
}

/// Name and value of each member of the object, in order. `texts` is overwritten.
pub(crate) fn members<'a>(json: &'a [u8], texts: &'a mut Vec<u8>) -> Result<Vec<(&'a [u8], Value<'a>)>, NotJson> {
    texts.clear();
    let mut reader = Reader { json, at: 0, texts };
    let mut found: Vec<(Span, Found<'a>)> = Vec::new();
    reader.blanks();
    reader.object(1, &mut |name, value| {
        if found.len() == MEMBERS_MAX {
            return Err(NotJson);
        }
        found.push((name, value));
        Ok(())
    })?;
    reader.blanks();
    if reader.at != json.len() {
        return Err(NotJson);
    }
    let texts: &'a [u8] = texts;
    Ok(found
        .into_iter()
        .map(|((start, end), value)| {
            let value = match value {
                Found::Null => Value::Null,
                Found::Text((start, end)) => Value::Text(&texts[start..end]),
                Found::Number(text) => Value::Number(text),
                Found::Other => Value::Other,
            };
            (&texts[start..end], value)
        })
        .collect())
}

/// Takes a member of an object.
type Member<'f, 'a> = dyn FnMut(Span, Found<'a>) -> Result<(), NotJson> + 'f;

struct Reader<'a, 't> {
    json: &'a [u8],
    at: usize,
    texts: &'t mut Vec<u8>,
}

impl<'a> Reader<'a, '_> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> Result<(), NotJson> {
        if self.peek() != Some(wanted) {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.json[self.at..].starts_with(word) {
            return Err(NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: u32, member: &mut Member<'_, 'a>) -> Result<(), NotJson> {
        self.take(b'{')?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.blanks();
            let name = self.text()?;
            self.blanks();
            self.take(b':')?;
            let value = self.value(depth)?;
            member(name, value)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.take(b'}'),
            }
        }
    }

    fn array(&mut self, depth: u32) -> Result<(), NotJson> {
        self.take(b'[')?;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let before = self.texts.len();
            self.value(depth)?;
            self.texts.truncate(before);
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.take(b']'),
            }
        }
    }

    /// A value with the blanks around it.
    fn value(&mut self, depth: u32) -> Result<Found<'a>, NotJson> {
        self.blanks();
        let found = match self.peek() {
            Some(b'"') => Found::Text(self.text()?),
            Some(b'{' | b'[') if depth >= DEPTH_MAX => return Err(NotJson),
            Some(b'{') => {
                let before = self.texts.len();
                self.object(depth + 1, &mut |_, _| Ok(()))?;
                self.texts.truncate(before);
                Found::Other
            }
            Some(b'[') => {
                self.array(depth + 1)?;
                Found::Other
            }
            Some(b'n') => self.word(b"null").map(|()| Found::Null)?,
            Some(b't') => self.word(b"true").map(|()| Found::Other)?,
            Some(b'f') => self.word(b"false").map(|()| Found::Other)?,
            _ => Found::Number(self.number()?),
        };
        self.blanks();
        Ok(found)
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start {
            Ok(())
        } else {
            Err(NotJson)
        }
    }

    fn number(&mut self) -> Result<&'a [u8], NotJson> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.json[start..self.at])
    }

    fn text(&mut self) -> Result<Span, NotJson> {
        self.take(b'"')?;
        let start = self.texts.len();
        loop {
            let run = self.json[self.at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let run = &self.json[self.at..self.at + run.ok_or(NotJson)?];
            self.texts.extend_from_slice(run);
            self.at += run.len();
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(NotJson),
            }
        }
        self.at += 1;
        // Escapes give whole characters, so what is whole now was whole before.
        std::str::from_utf8(&self.texts[start..]).map_err(|_| NotJson)?;
        Ok((start, self.texts.len()))
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        let byte = *self.json.get(self.at + 1).ok_or(NotJson)?;
        self.at += 2;
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.character()?;
                let mut bytes = [0; 4];
                self.texts.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
                return Ok(());
            }
            _ => return Err(NotJson),
        };
        self.texts.push(plain);
        Ok(())
    }

    /// What stands behind `\u`; a high surrogate wants its low one.
    fn character(&mut self) -> Result<char, NotJson> {
        let first = self.hex4()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            self.word(b"\\u")?;
            let second = self.hex4()?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(NotJson);
            }
            0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or(NotJson)
    }

    fn hex4(&mut self) -> Result<u32, NotJson> {
        let digits = self.json.get(self.at..self.at + 4).ok_or(NotJson)?;
        self.at += 4;
        digits
            .iter()
            .try_fold(0, |code, digit| char::from(*digit).to_digit(16).map(|digit| code << 4 | digit).ok_or(NotJson))
    }
}

/// Standard base64 (RFC 4648, section 4) with its padding; None: it is none. `out` is overwritten.
pub(crate) fn base64<'o>(text: &[u8], out: &'o mut Vec<u8>) -> Option<&'o [u8]> {
    out.clear();
    if text.len() % 4 != 0 {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    for quad in text[..text.len() - padding].chunks(4) {
        let mut bits = 0u32;
        for byte in quad {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - quad.len());
        // Bits that no byte takes must be zero, or two texts would be the same bytes.
        let bytes = quad.len() * 6 / 8;
        let all = bits.to_be_bytes();
        if all[1 + bytes..].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(&all[1..1 + bytes]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Vec<(String, String)>> {
        let mut texts = Vec::new();
        let found = members(json.as_bytes(), &mut texts).ok()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some(
            found
                .iter()
                .map(|(name, value)| {
                    let value = match value {
                        Value::Null => "null".to_owned(),
                        Value::Text(bytes) => format!("text {}", text(bytes)),
                        Value::Number(bytes) => format!("number {}", text(bytes)),
                        Value::Other => "other".to_owned(),
                    };
                    (text(name), value)
                })
                .collect(),
        )
    }

    #[test]
    fn members_come_with_their_texts_unescaped() {
        let json =
            " {\"a\" : \"x\\u00e9\\ud83d\\ude00\\n\\\"/\", \"b\":-1.5e+3 ,\"c\":null,\"d\":{\"e\":[1,\"t\",{}]},\"f\":[],\"\":true}\n";
        let wanted = [
            ("a", "text x\u{e9}\u{1f600}\n\"/"),
            ("b", "number -1.5e+3"),
            ("c", "null"),
            ("d", "other"),
            ("f", "other"),
            ("", "other"),
        ];
        assert_eq!(Some(wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()), read(json));
        assert_eq!(Some(Vec::new()), read("{}"));
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1024), "]".repeat(1024));
        for wrong in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":1e}",
            "{\"a\":nul}",
            "{\"a\":NaN}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\ud800\\u0041\"}",
            "{\"a\":\"\\udc00\"}",
            "{\"a\":\"\\u00g0\"}",
            "{\"a\":\"",
            "{\"a\":[1 2]}",
            "\u{feff}{}",
            &deep,
        ] {
            assert_eq!(None, read(wrong), "{wrong}");
        }
        assert!(members(b"{\"a\":\"\xff\"}", &mut Vec::new()).is_err());
        let many = |count: usize| format!("{{{}}}", vec!["\"\":1"; count].join(","));
        assert!(read(&many(1_000)).is_some() && read(&many(1_001)).is_none());
        assert!(read(&format!("{{\"a\":{}}}", many(1_001))).is_some(), "only its own members are kept");
        assert!(read(&deep.replacen('[', "", 1).replacen(']', "", 1)).is_some());
    }

    #[test]
    fn base64_is_read_only_as_it_is_written() {
        let mut out = Vec::new();
        for (text, bytes) in
            [("", b"".as_slice()), ("TQ==", b"M"), ("TWE=", b"Ma"), ("TWFu", b"Man"), ("+/8=", b"\xfb\xff")]
        {
            assert_eq!(Some(bytes), base64(text.as_bytes(), &mut out), "{text}");
        }
        for wrong in ["T", "TQ", "TQ=", "TR==", "TWF=", "T===", "====", "-_8=", "TW Fu", "TQ==TQ=="] {
            assert_eq!(None, base64(wrong.as_bytes(), &mut out), "{wrong}");
        }
    }
}
