//! Types of settings, and how they are read and written.

use std::time::Duration;

use super::scope::Scope;
use super::value::Value;
use crate::bulkhead::QueueOrder;
use crate::circuit_votes::Follow;
use crate::dead_letter::WhenFull;
use crate::event::State;
use crate::keyed::Overflow;
use crate::shared_rate_limiter::SyncMode;
use crate::verdict::Health;

/// A type of settings.
pub(crate) trait Setting: Sized + Clone {
    /// Reads a value. Returns `None` if it is wrong, and reports that to `at`.
    fn read(value: &Value, at: &mut Scope) -> Option<Self>;

    fn write(&self) -> Value;

    /// Returns the value with all defaults filled in.
    fn effective(self) -> Self {
        self
    }

    /// Returns the effective value of a setting. `_default` is the default of the key.
    fn over(self, _default: Self) -> Self {
        self.effective()
    }

    /// Returns the schema of the values that [`read`](Self::read) accepts.
    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema;
}

/// Reports that a value violates a rule. Returns `None`.
pub(super) fn expected<T>(rule: impl Into<String>, value: &Value, at: &mut Scope) -> Option<T> {
    at.report(rule, Some(value));
    None
}

impl Setting for bool {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            other => expected("must be true or false", other, at),
        }
    }

    fn write(&self) -> Value {
        Value::Bool(*self)
    }

    #[cfg(feature = "schema")]
    fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean" })
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(value: &Value, at: &mut Scope) -> Option<Self> {
                let whole = match value {
                    Value::Integer(value) => Self::try_from(*value).ok(),
                    _ => None,
                };
                whole.or_else(|| {
                    let rule = format!("must be a whole number from 0 to {}", Self::MAX);
                    expected(rule, value, at)
                })
            }

            fn write(&self) -> Value {
                Value::Integer(*self as i128)
            }

            #[cfg(feature = "schema")]
            fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "integer", "minimum": 0, "maximum": Self::MAX })
            }
        }
    )*};
}

integers!(u32, u64, usize);

impl Setting for f64 {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        match value {
            Value::Float(value) => Some(*value),
            Value::Integer(value) => Some(*value as Self),
            other => expected("must be a number", other, at),
        }
    }

    fn write(&self) -> Value {
        Value::Float(*self)
    }

    #[cfg(feature = "schema")]
    fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number" })
    }
}

impl Setting for String {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        match value {
            Value::Text(value) => Some(value.clone()),
            other => expected("must be a string", other, at),
        }
    }

    fn write(&self) -> Value {
        Value::Text(self.clone())
    }

    #[cfg(feature = "schema")]
    fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

/// The text of a duration without a limit.
pub(super) const UNLIMITED: &str = "unlimited";

impl Setting for Duration {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        const RULE: &str = "must be a duration such as \"1h30m\", \"1.5s\", or \"unlimited\"";
        let text = match value {
            Value::Text(text) if text == UNLIMITED => return Some(Self::MAX),
            Value::Text(text) => text.trim().to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            other => return expected(RULE, other, at),
        };
        // `humantime` accepts `0` without a unit.
        if text.parse::<f64>().is_ok() {
            let with_unit = format!("{text}s");
            let rule = match humantime::parse_duration(&with_unit) {
                Ok(_) => format!("must be a duration with its unit: say \"{with_unit}\""),
                Err(_) => RULE.to_owned(),
            };
            return expected(rule, value, at);
        }
        match humantime::parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(_) => expected(RULE, value, at),
        }
    }

    fn write(&self) -> Value {
        Value::Text(match *self {
            Self::MAX => UNLIMITED.into(),
            duration => humantime::format_duration(duration).to_string(),
        })
    }

    #[cfg(feature = "schema")]
    fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "a duration such as \"1h30m\" or \"1.5s\", or \"unlimited\"",
            "pattern": r"^(unlimited|\s*(\d+(\.\d+)?\s*[a-zµM]+\s*)+)$",
        })
    }
}

/// Reads one value, or a list of values.
impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        let Value::List(values) = value else {
            return Some(vec![T::read(value, at)?]);
        };
        let values = values.iter().enumerate();
        let read = values.map(|(index, value)| at.at_index(index, |at| T::read(value, at)));
        let read: Vec<_> = read.collect();
        read.into_iter().collect()
    }

    fn write(&self) -> Value {
        match &self[..] {
            [one] => one.write(),
            values => Value::List(values.iter().map(T::write).collect()),
        }
    }

    fn effective(self) -> Self {
        self.into_iter().map(T::effective).collect()
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = T::schema(generator);
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// Implements [`Setting`] for an enum whose values are written as identifiers.
macro_rules! identifiers {
    ($($type:ty: $($value:expr),+ => $text:expr;)+) => {$(
        impl Setting for $type {
            fn read(value: &Value, at: &mut Scope) -> Option<Self> {
                let text: fn(&Self) -> &'static str = $text;
                let all = [$($value),+];
                if let Value::Text(given) = value {
                    if let Some(found) = all.iter().find(|one| text(one) == given) {
                        return Some(found.clone());
                    }
                }
                let names: Vec<&str> = all.iter().map(text).collect();
                expected($crate::config::setting::one_of(&names), value, at)
            }

            fn write(&self) -> Value {
                let text: fn(&Self) -> &'static str = $text;
                Value::Text(text(self).into())
            }

            #[cfg(feature = "schema")]
            fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let text: fn(&Self) -> &'static str = $text;
                let names: Vec<&str> = [$($value),+].iter().map(text).collect();
                schemars::json_schema!({ "type": "string", "enum": names })
            }
        }
    )+};
}
pub(super) use identifiers;

/// Returns the text of the rule that a value must be one of `names`.
pub(super) fn one_of(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    match &names[..] {
        [one] => format!("must be {one}"),
        [first @ .., last] => format!("must be {} or {last}", first.join(", ")),
        [] => "has no value".into(),
    }
}

identifiers! {
    Health: Self::Healthy, Self::Unhealthy, Self::Neutral => |health| health.as_str();
    State: Self::Open, Self::Closed => |state| state.as_str();
    Overflow: Self::Reject, Self::Shared, Self::Evict => |overflow| overflow.as_str();
    QueueOrder: Self::Fifo, Self::Lifo, Self::Priority => |order| order.as_str();
    SyncMode: Self::Leased, Self::Exact => |mode| mode.as_str();
    Follow: Self::Sooner, Self::AtOnce => |follow| match follow {
        Follow::Sooner => "sooner",
        Follow::AtOnce => "at_once",
    };
    WhenFull: Self::Reject, Self::EvictOldest => |when| match when {
        WhenFull::Reject => "reject",
        WhenFull::EvictOldest => "evict_oldest",
    };
}

/// Returns the key most similar to an unknown one, if any is similar.
pub(super) fn nearest<'a>(key: &str, keys: &[&'a str]) -> Option<&'a str> {
    let distances = keys.iter().map(|other| (distance(key, other), *other));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    let is_part = nearest.contains(key) || key.contains(nearest);
    (distance <= key.len().max(nearest.len()) / 2 || is_part).then_some(nearest)
}

/// Returns the edit distance of two words: letters to insert, remove, replace, or swap with their neighbor. A long text
/// is no word, and not compared: that would cost the product of the lengths.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 200;
    if a.len().max(b.len()) > LONGEST {
        return a.len().max(b.len());
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_with_the_fewest_letters_changed() {
        let keys = ["max_attempts", "max_elapsed", "backoff"];
        for (key, near) in [
            ("max_attempt", Some("max_attempts")),
            ("maxAttempts", Some("max_attempts")),
            ("attempts", Some("max_attempts")),
            ("back_off", Some("backoff")),
            ("backfof", Some("backoff")),
            ("color", None),
        ] {
            assert_eq!(nearest(key, &keys), near, "{key}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }
}
