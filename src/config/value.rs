//! Settings as data, independent of the file format.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// Settings as they are in a file, of any format that serde reads: TOML, JSON, YAML.
///
/// `Display` writes one line, for messages.
///
/// # Examples
///
/// ```
/// use backstop::config::Value;
///
/// let toml: Value = toml::from_str("retry = { max_attempts = 4 }").unwrap();
/// let json: Value = serde_json::from_str(r#"{ "retry": { "max_attempts": 4 } }"#).unwrap();
/// assert_eq!(toml, json);
/// assert_eq!(toml.to_string(), "{ retry = { max_attempts = 4 } }");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `null` of JSON and YAML. No setting accepts it.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// Keys and values, in the order of the file.
    Table(Vec<(String, Self)>),
}

impl Value {
    /// Returns the value of a key; `None` if this is not a table or has no such key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Table(entries) = self else {
            return None;
        };
        let found = entries.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value)
    }

    /// Returns an empty table.
    pub(super) const fn table() -> Self {
        Self::Table(Vec::new())
    }

    /// Returns the value with missing keys taken from `defaults`, table by table. A table whose `kind` differs from
    /// that of the defaults inherits nothing.
    pub(super) fn over(self, defaults: &Self) -> Self {
        let (mut own, inherited) = match (self, defaults) {
            (Self::Table(own), Self::Table(inherited)) => (own, inherited),
            (own, _) => return own,
        };
        let kind = |entries: &[(String, Self)]| {
            let kind = entries.iter().find(|(key, _)| key == "kind");
            kind.map(|(_, kind)| kind.clone())
        };
        if kind(&own).is_some_and(|own| kind(inherited).is_some_and(|other| own != other)) {
            return Self::Table(own);
        }
        for (key, default) in inherited {
            match own.iter_mut().find(|(name, _)| name == key) {
                Some((_, value)) => {
                    let mine = std::mem::replace(value, Self::Null);
                    *value = mine.over(default);
                }
                None => own.push((key.clone(), default.clone())),
            }
        }
        Self::Table(own)
    }
}

/// Returns a key as in a path: in quotes, unless it is a plain word.
pub(super) fn step(key: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-');
    match !key.is_empty() && key.chars().all(is_plain) {
        true => key.into(),
        false => format!("{key:?}").into(),
    }
}

/// The longest text of a value in a message, in characters.
const MAX_SHOWN: usize = 80;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.line();
        match text.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => write!(f, "{}…", &text[..end]),
            None => f.write_str(&text),
        }
    }
}

impl Value {
    fn line(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => format!("{value:?}"),
            Self::Text(value) => format!("{value:?}"),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(Self::line).collect();
                format!("[{}]", values.join(", "))
            }
            Self::Table(entries) if entries.is_empty() => "{}".into(),
            Self::Table(entries) => {
                let entries = entries.iter();
                let entries: Vec<String> = entries
                    .map(|(key, value)| format!("{} = {}", step(key), value.line()))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            // TOML has only 64-bit integers.
            Self::Integer(value) => match i64::try_from(*value) {
                Ok(value) => serializer.serialize_i64(value),
                Err(_) => serializer.serialize_u64(u64::try_from(*value).unwrap_or(u64::MAX)),
            },
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(value)?;
                }
                list.end()
            }
            Self::Table(entries) => {
                let mut table = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    table.serialize_entry(key, value)?;
                }
                table.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// The key of the table that the crate `toml` makes of a date or a time.
const TOML_DATE: &str = "$__toml_private_datetime";

/// The key of the table that `serde_json` makes of a number, if any crate of a program turns on its feature
/// `arbitrary_precision`.
const JSON_NUMBER: &str = "$serde_json::private::Number";

fn number(text: &str) -> Value {
    match (text.parse(), text.parse()) {
        (Ok(whole), _) => Value::Integer(whole),
        (_, Ok(fraction)) => Value::Float(fraction),
        _ => Value::Text(text.to_owned()),
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut keys = HashSet::new();
        while let Some((key, value)) = table.next_entry::<String, Value>()? {
            if !keys.insert(key.clone()) {
                return Err(de::Error::custom(format!("the key `{key}` is given twice")));
            }
            entries.push((key, value));
        }
        Ok(match &entries[..] {
            [(key, Value::Text(text))] if key == TOML_DATE => Value::Text(text.clone()),
            [(key, Value::Text(text))] if key == JSON_NUMBER => number(text),
            _ => Value::Table(entries),
        })
    }
}
