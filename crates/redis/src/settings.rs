//! Settings of a store from files.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::RedisStoreBuilder;

/// Settings of a [`RedisStore`](crate::RedisStore), by the setters of [`RedisStoreBuilder`]. Feature `config`.
///
/// A key that is not given has its default. Deserializing rejects unknown keys. The address of the server is part of
/// the client, whose crate reads it from a URL.
///
/// ```
/// use backstop_redis::{RedisStore, RedisStoreSettings};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let settings: RedisStoreSettings = serde_json::from_str(r#"{ "prefix": "shop:", "response_timeout": "2s" }"#)?;
/// let builder = settings.apply_to(RedisStore::builder()); // then `connect`
/// # drop(builder);
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisStoreSettings {
    /// The prefix of all keys in Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The most requests that are sent before the first of them is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<NonZeroUsize>,
    /// The time after which a request without an answer marks the connection as broken, such as `1s`.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration")]
    pub response_timeout: Option<Duration>,
}

impl RedisStoreSettings {
    /// Passes the settings to the setters of a builder.
    pub fn apply_to(&self, mut builder: RedisStoreBuilder) -> RedisStoreBuilder {
        if let Some(prefix) = &self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(requests) = self.max_in_flight {
            builder = builder.max_in_flight(requests);
        }
        if let Some(timeout) = self.response_timeout {
            builder = builder.response_timeout(timeout);
        }
        builder
    }
}

/// Durations as in backstop's other settings: strings with a unit, or `unlimited`.
mod duration {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    const UNLIMITED: &str = "unlimited";

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            None => serializer.serialize_none(),
            Some(Duration::MAX) => serializer.serialize_str(UNLIMITED),
            Some(duration) => serializer.collect_str(&humantime::format_duration(*duration)),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        // A bare `0` is accepted too.
        let has_unit = text.trim().parse::<f64>().is_err();
        let parsed = match text.as_str() {
            UNLIMITED => Some(Duration::MAX),
            text => humantime::parse_duration(text).ok().filter(|_| has_unit),
        };
        let wrong = "must be a duration such as \"1.5s\", or \"unlimited\"";
        parsed.map(Some).ok_or(D::Error::custom(wrong))
    }
}
