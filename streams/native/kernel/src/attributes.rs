//! What an event says about itself, as text: time, number, trace context, correlation. What cannot be read must not cost
//! the event: it is left out, and counted.
//!
//! Sources: RFC 3339; W3C Trace Context (Level 2), sections 3.2 and 3.3.

use crate::wire::{self, VARINT};

/// Longest `traceparent` of a version that appends to version 00's 55 characters.
const TRACEPARENT_MAX: usize = 256;
/// What W3C demands that everybody passes on, and more than that nobody has to.
const TRACESTATE_BYTES_MAX: usize = 512;
const TRACESTATE_MEMBERS_MAX: usize = 32;
/// Longest `correlation-id` that is passed on: several UUIDs; it rides on every patch.
const CORRELATION_BYTES_MAX: usize = 256;

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

/// A `traceparent` that W3C's rules allow: version, trace id, parent id, flags, in lower-case hexadecimal.
pub(crate) fn traceparent(value: &[u8]) -> Option<&str> {
    let lower_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = |part: &[u8]| lower_hex(part) && part.iter().any(|byte| *byte != b'0');
    if !(55..=TRACEPARENT_MAX).contains(&value.len()) || value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
        return None;
    }
    let version = &value[..2];
    let tail = &value[55..];
    let is_valid = lower_hex(version)
        && version != b"ff"
        && id(&value[3..35])
        && id(&value[36..52])
        && lower_hex(&value[53..55])
        && (tail.is_empty() || version != b"00" && tail[0] == b'-' && tail.iter().all(u8::is_ascii_graphic));
    if is_valid {
        std::str::from_utf8(value).ok()
    } else {
        None
    }
}

/// A `tracestate` that W3C's rules allow: up to 32 members `key=value`, no key twice, 512 bytes in all.
pub(crate) fn tracestate(value: &[u8]) -> Option<&str> {
    if value.len() > TRACESTATE_BYTES_MAX {
        return None;
    }
    let mut keys: Vec<&[u8]> = Vec::with_capacity(4);
    for member in value.split(|byte| *byte == b',') {
        let member = trimmed(member);
        if member.is_empty() {
            continue;
        }
        let at = member.iter().position(|byte| *byte == b'=')?;
        let (key, text) = (&member[..at], &member[at + 1..]);
        if keys.len() == TRACESTATE_MEMBERS_MAX || !is_state_key(key) || !is_state_value(text) || keys.contains(&key) {
            return None;
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// Without the blanks and tabs that may stand around a member.
fn trimmed(mut member: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = member {
        member = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = member {
        member = rest;
    }
    member
}

/// `key`, or `tenant@system`.
fn is_state_key(key: &[u8]) -> bool {
    let part = |part: &[u8], most: usize, first: fn(&u8) -> bool| {
        (1..=most).contains(&part.len())
            && first(&part[0])
            && part.iter().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/')
            })
    };
    let letter: fn(&u8) -> bool = u8::is_ascii_lowercase;
    let letter_or_digit: fn(&u8) -> bool = |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match key.iter().position(|byte| *byte == b'@') {
        Some(at) => part(&key[..at], 241, letter_or_digit) && part(&key[at + 1..], 14, letter),
        None => part(key, 256, letter_or_digit),
    }
}

/// Printable ASCII without comma and equals sign; a blank does not end it (those were trimmed).
fn is_state_value(text: &[u8]) -> bool {
    (1..=256).contains(&text.len())
        && text.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'='))
}

/// A `correlation-id` of printable ASCII.
pub(crate) fn correlation(value: &[u8]) -> Option<&[u8]> {
    let is_valid =
        (1..=CORRELATION_BYTES_MAX).contains(&value.len()) && value.iter().all(|byte| matches!(byte, 0x20..=0x7e));
    is_valid.then_some(value)
}

/// Range of google.protobuf.Timestamp: years 0001 to 9999.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;

pub(crate) fn timestamp_message(message: &[u8]) -> Option<(i64, i32)> {
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

/// RFC 3339 date-time: with seconds and a zone, nothing shorter.
pub(crate) fn timestamp_text(text: &[u8]) -> Option<(i64, i32)> {
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

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

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
    fn a_traceparent_is_what_w3c_says_and_nothing_else() {
        let later = format!("cc{}-what-the-future-adds", &TRACE[2..]);
        for right in [TRACE, &TRACE.replace("-01", "-ff"), &format!("cc{}", &TRACE[2..]), &later] {
            assert_eq!(Some(right), traceparent(right.as_bytes()), "{right}");
        }
        for wrong in [
            String::new(),
            TRACE[..54].to_owned(),
            format!("{TRACE}0"),
            format!("{TRACE}-more"),
            format!("ff{}", &TRACE[2..]),
            TRACE.to_uppercase(),
            TRACE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            TRACE.replace("b7ad6b7169203331", &"0".repeat(16)),
            TRACE.replace('-', "_"),
            TRACE.replace("-01", "-0g"),
            format!(" {}", &TRACE[1..]),
            format!("cc{}.more", &TRACE[2..]),
            format!("cc{}-m re", &TRACE[2..]),
            format!("cc{}-{}", &TRACE[2..], "m".repeat(201)),
        ] {
            assert_eq!(None, traceparent(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(None, traceparent(&[0xff; 55]));
    }

    #[test]
    fn a_tracestate_has_32_members_512_bytes_and_its_grammar() {
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        let long = |count: usize| format!("a={},b={}", "v".repeat(256), "v".repeat(count));
        for right in [
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "rojo=1 , \tcongo=2,",
            "1key=v",
            "fw529a3039@dt=FfAAAA",
            "a_-*/=!~ x",
            &many(32),
            &long(251),
        ] {
            assert_eq!(Some(right), tracestate(right.as_bytes()), "{right}");
        }
        for wrong in [
            "",
            ",",
            " ",
            "key",
            "key=",
            "=v",
            "Key=v",
            "key=v,key=w",
            "key=a=b",
            "_key=v",
            "@dt=v",
            "a@=v",
            "a@1b=v",
            "a@b@c=v",
            "a@abcdefghijklmno=v",
            "key=\u{e9}",
            "key=a\tb",
            &many(33),
            &long(252),
            &format!("{}=v", "k".repeat(257)),
            &format!("k={}", "v".repeat(257)),
        ] {
            assert_eq!(None, tracestate(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_correlation_is_short_and_printable() {
        assert_eq!(Some(b"order 7".as_slice()), correlation(b"order 7"));
        for wrong in [b"".as_slice(), b"a\n", b"\xff", &[b'x'; 257]] {
            assert_eq!(None, correlation(wrong));
        }
    }
}
