//! Records of the files: one JSON object per line, which begins with a checksum of the rest of the line.
//!
//! ```text
//! {"crc":"0f1e2d3c","v":1,"id":7,"stored_at":"2026-11-27T09:13:05.123456Z", ... ,"request":{ ... }}
//! {"crc":"5a69788f","v":1,"id":7,"state":"delivered"}
//! ```
//!
//! Each record is one line: JSON escapes line breaks in strings. Readers ignore unknown fields and reject records
//! with a greater `v`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use super::crc::crc32;
use super::letter::{Content, FailedReplay, Letter, LetterId, Standing};
use super::timestamp::Timestamp;

/// The version of the format that is written.
pub(crate) const VERSION: u32 = 1;

/// The prefix of every record. JSON escapes quotes in strings, so it occurs nowhere else.
pub(crate) const START: &[u8] = b"{\"crc\":\"";
/// Offset of the bytes that the checksum of a record covers.
const COVERED: usize = START.len() + 8 + 2;

/// Returns a record with its checksum and line break.
fn seal(record: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(512);
    line.extend_from_slice(START);
    line.extend_from_slice(b"00000000\"");
    let brace = line.len();
    serde_json::to_writer(&mut line, record)?;
    // The rest of the object follows the checksum.
    line[brace] = b',';
    // A user's raw JSON may contain line breaks, which are whitespace outside strings.
    for byte in &mut line {
        if *byte == b'\n' {
            *byte = b' ';
        }
    }
    let crc = format!("{:08x}", crc32(&line[COVERED..]));
    line[START.len()..START.len() + 8].copy_from_slice(crc.as_bytes());
    line.push(b'\n');
    Ok(line)
}

/// Returns whether the checksum of a record, given without its line break, is correct.
pub(crate) fn is_intact(line: &[u8]) -> bool {
    let Some(rest) = line.get(COVERED..) else {
        return false;
    };
    let crc = &line[START.len()..START.len() + 8];
    line.starts_with(START)
        && &line[START.len() + 8..COVERED] == b"\","
        && crc == format!("{:08x}", crc32(rest)).as_bytes()
}

#[derive(Serialize)]
struct LetterOut<'a, R> {
    v: u32,
    id: u64,
    stored_at: Timestamp,
    reason: &'a str,
    error: &'a str,
    attempts: u32,
    first_failed_at: Timestamp,
    last_failed_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
    idempotency_key: &'a str,
    request: &'a R,
}

#[derive(Deserialize)]
struct LetterIn<'a> {
    id: u64,
    stored_at: Timestamp,
    reason: String,
    error: String,
    attempts: u32,
    first_failed_at: Timestamp,
    last_failed_at: Timestamp,
    key: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    idempotency_key: String,
    #[serde(borrow)]
    request: &'a RawValue,
}

/// Returns the line of a letter.
pub(crate) fn encode<R: Serialize>(content: &Content<R>) -> Result<Vec<u8>, serde_json::Error> {
    seal(&LetterOut {
        v: VERSION,
        id: content.id.get(),
        stored_at: content.stored_at,
        reason: &content.reason,
        error: &content.error,
        attempts: content.attempts,
        first_failed_at: content.first_failed_at,
        last_failed_at: content.last_failed_at,
        key: content.key.as_deref(),
        tags: &content.tags,
        idempotency_key: &content.idempotency_key,
        request: &content.request,
    })
}

/// Returns the letter of an intact line.
pub(crate) fn decode<R: de::DeserializeOwned>(line: &[u8]) -> Result<Letter<R>, serde_json::Error> {
    let letter: LetterIn<'_> = serde_json::from_slice(line)?;
    Ok(Letter::of_content(Content {
        id: LetterId::new(letter.id),
        reason: Cow::Owned(letter.reason),
        error: letter.error,
        attempts: letter.attempts,
        first_failed_at: letter.first_failed_at,
        last_failed_at: letter.last_failed_at,
        stored_at: letter.stored_at,
        key: letter.key,
        tags: letter.tags,
        idempotency_key: letter.idempotency_key,
        request: serde_json::from_str(letter.request.get())?,
    }))
}

/// Returns the first line of a segment. The line preserves the next number when all letters are removed.
pub(crate) fn header(next_id: LetterId) -> Vec<u8> {
    #[derive(Serialize)]
    struct Header {
        v: u32,
        next_id: u64,
    }
    let header = Header {
        v: VERSION,
        next_id: next_id.get(),
    };
    seal(&header).unwrap_or_default()
}

/// Metadata of an intact line of a segment, without the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Header { next_id: LetterId },
    Letter { id: LetterId, stored_at: Timestamp },
}

/// The reason why an intact line cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// A later version of the format.
    Version(u32),
    /// Not a record of a known version.
    Unknown,
}

/// Parses an intact line of a segment.
pub(crate) fn head(line: &[u8]) -> Result<Head, Unusable> {
    #[derive(Deserialize)]
    struct Fields {
        id: Option<u64>,
        stored_at: Option<Timestamp>,
        next_id: Option<u64>,
    }
    let fields: Fields = versioned(line)?;
    match (fields.id, fields.stored_at, fields.next_id) {
        (Some(id), Some(stored_at), _) => Ok(Head::Letter {
            id: LetterId::new(id),
            stored_at,
        }),
        (None, None, Some(next_id)) => Ok(Head::Header {
            next_id: LetterId::new(next_id),
        }),
        _ => Err(Unusable::Unknown),
    }
}

/// Reads an intact line, unless a later version has written it.
fn versioned<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Unusable> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Ok(Version { v }) = serde_json::from_slice(line) else {
        return Err(Unusable::Unknown);
    };
    if v > VERSION {
        return Err(Unusable::Version(v));
    }
    serde_json::from_slice(line).map_err(|_| Unusable::Unknown)
}

/// The state of a letter according to a record of the change log. The last record counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Kept(Standing),
    Gone(Gone),
}

/// How a removed letter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Delivered,
    Discarded,
    Evicted,
}

#[derive(Deserialize, Serialize)]
struct ChangeLine<'a> {
    v: u32,
    id: u64,
    state: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    replays: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'a, str>>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
const fn is_zero(replays: &u32) -> bool {
    *replays == 0
}

/// Returns the record of the change log for the current state of a letter.
pub(crate) fn change(id: LetterId, state: &State) -> Vec<u8> {
    let mut line = ChangeLine {
        v: VERSION,
        id: id.get(),
        state: Cow::Borrowed("waiting"),
        replays: 0,
        failed_at: None,
        error: None,
    };
    match state {
        State::Gone(Gone::Delivered) => line.state = Cow::Borrowed("delivered"),
        State::Gone(Gone::Discarded) => line.state = Cow::Borrowed("discarded"),
        State::Gone(Gone::Evicted) => line.state = Cow::Borrowed("evicted"),
        State::Kept(standing) => {
            if standing.parked {
                line.state = Cow::Borrowed("parked");
            }
            line.replays = standing.replays;
            if let Some(last) = &standing.last_replay {
                line.failed_at = Some(last.at);
                line.error = Some(Cow::Borrowed(&last.error));
            }
        }
    }
    seal(&line).unwrap_or_default()
}

/// Reads an intact line of the change log.
pub(crate) fn read_change(line: &[u8]) -> Result<(LetterId, State), Unusable> {
    let line: ChangeLine<'_> = versioned(line)?;
    let state = match &*line.state {
        "delivered" => State::Gone(Gone::Delivered),
        "discarded" => State::Gone(Gone::Discarded),
        "evicted" => State::Gone(Gone::Evicted),
        state @ ("waiting" | "parked") => State::Kept(Standing {
            replays: line.replays,
            parked: state == "parked",
            last_replay: line.failed_at.map(|at| {
                Box::new(FailedReplay {
                    at,
                    error: line.error.unwrap_or_default().into_owned(),
                })
            }),
        }),
        _ => return Err(Unusable::Unknown),
    };
    Ok((LetterId::new(line.id), state))
}

/// Serializes as RFC 3339 text.
#[cfg_attr(docsrs, doc(cfg(feature = "dead-letter-file")))]
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

/// Deserializes from RFC 3339 text.
#[cfg_attr(docsrs, doc(cfg(feature = "dead-letter-file")))]
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::NewLetter;
    use super::*;
    use proptest::prelude::*;

    fn letter(request: &str, error: &str, tags: BTreeMap<String, String>) -> Letter<String> {
        let mut letter = NewLetter::new(request.to_owned()).error(error).attempts(3);
        letter.tags = tags;
        letter.seal(LetterId::new(7), Timestamp::from_micros(1_000_001), || {
            "k".into()
        })
    }

    proptest! {
        #[test]
        fn letters_come_back(
            request in any::<String>(),
            error in any::<String>(),
            tags in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        ) {
            let letter = letter(&request, &error, tags);
            let line = encode(letter.content()).unwrap();
            let (&last, line) = line.split_last().unwrap();
            prop_assert_eq!(last, b'\n');
            prop_assert!(!line.contains(&b'\n') && is_intact(line));
            let found = head(line).unwrap();
            prop_assert_eq!(found, Head::Letter { id: letter.id(), stored_at: letter.stored_at() });
            let back: Letter<String> = decode(line).unwrap();
            prop_assert_eq!(back.request(), letter.request());
            prop_assert_eq!(format!("{back:?}"), format!("{letter:?}"));
        }

        #[test]
        fn a_flipped_bit_is_noticed(request in any::<String>(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut line = encode(letter(&request, "e", BTreeMap::new()).content()).unwrap();
            line.pop();
            let at = at.index(line.len());
            line[at] ^= 1_u8 << bit;
            prop_assert!(!is_intact(&line));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (is_intact(&line), head(&line), read_change(&line), decode::<String>(&line));
        }
    }

    #[test]
    fn changes_come_back() {
        let failed = Standing {
            replays: 2,
            parked: true,
            last_replay: Some(Box::new(FailedReplay {
                at: Timestamp::from_micros(5),
                error: "line\nbreak".into(),
            })),
        };
        for state in [
            State::Kept(Standing::default()),
            State::Kept(failed),
            State::Gone(Gone::Delivered),
            State::Gone(Gone::Discarded),
            State::Gone(Gone::Evicted),
        ] {
            let mut line = change(LetterId::new(9), &state);
            assert_eq!(line.pop(), Some(b'\n'));
            assert!(is_intact(&line));
            assert_eq!(read_change(&line), Ok((LetterId::new(9), state)));
        }
    }

    #[test]
    fn raw_json_with_line_breaks_stays_one_line() {
        let raw = RawValue::from_string("{\n  \"a\": \"x\\ny\"\n}".into()).unwrap();
        let letter = NewLetter::new(raw).seal(LetterId::new(1), Timestamp::default(), String::new);
        let line = encode(letter.content()).unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        assert!(!line.contains(&b'\n') && is_intact(line));
        let back: Letter<BTreeMap<String, String>> = decode(line).unwrap();
        assert_eq!(back.request()["a"], "x\ny");
    }

    #[test]
    fn later_fields_are_ignored_and_later_versions_rejected() {
        #[derive(Serialize)]
        struct Later {
            v: u32,
            id: u64,
            stored_at: Timestamp,
            color: &'static str,
        }
        let later = |v| {
            let stored_at = Timestamp::default();
            let mut line = seal(&Later {
                v,
                id: 1,
                stored_at,
                color: "red",
            })
            .unwrap();
            line.pop();
            head(&line)
        };
        assert!(later(VERSION).is_ok());
        assert_eq!(later(VERSION + 1), Err(Unusable::Version(VERSION + 1)));
    }
}
