//! Interned policy names, and serde formats of snapshot fields.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

use crate::sync::lock;

/// Interned names, kept until the process ends. Names are `&'static str`, so that events are `Copy`.
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Interns the name of a policy.
pub(crate) fn interned(text: &str) -> &'static str {
    let mut names = lock(&NAMES);
    match names.get(text) {
        Some(name) => name,
        None => {
            let name: &'static str = Box::leak(text.into());
            names.insert(name);
            name
        }
    }
}

/// Deserializes the name of a policy. Fields with it have the type `&'static std::primitive::str`: if it is spelled
/// `&str`, serde derives a borrow from the input.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    String::deserialize(deserializer).map(|name| interned(&name))
}

/// Deserializes a value from its text form.
pub(crate) fn parsed<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// Implements serde's traits by means of `Display` and `FromStr`.
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::forms::parsed(deserializer)
            }
        }
    };
}
pub(crate) use as_text;

/// The text of the longest duration, which has no exact one.
const UNLIMITED: &str = "unlimited";

fn text_of(duration: Duration) -> String {
    match duration {
        Duration::MAX => UNLIMITED.into(),
        duration => humantime::format_duration(duration).to_string(),
    }
}

fn duration_of(text: &str) -> Result<Duration, humantime::DurationError> {
    match text {
        UNLIMITED => Ok(Duration::MAX),
        text => humantime::parse_duration(text),
    }
}

/// Serializes durations as strings such as `1s 500ms`.
pub(crate) mod duration {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text_of(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration_of(&text).map_err(D::Error::custom)
    }
}

/// Serializes optional durations as strings.
pub(crate) mod optional_duration {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(&text_of(*value)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let duration = text.map(|text| duration_of(&text).map_err(D::Error::custom));
        duration.transpose()
    }
}

/// Serializes shared strings.
pub(crate) mod shared_text {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Arc<str>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Into::into)
    }
}
