//! A JSON object that tracks which of its keys were read, so that none is silently ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Number, Value};

use super::harness::{Check, Failure, failed, inexpressible};

/// Keys for human readers only.
const REMARKS: [&str; 4] = ["note", "notes", "comment", "source"];
/// Units as suffixes of names, in nanoseconds. A tick is .NET's.
const UNITS: [(&str, i128); 5] = [
    ("_ns", 1),
    ("_ticks", 100),
    ("_us", 1_000),
    ("_ms", 1_000_000),
    ("_s", 1_000_000_000),
];

/// The keys and values of a configuration or of a step.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Fields {
    pub(crate) fn new(map: Map<String, Value>) -> Self {
        let fields = Self {
            map,
            read: RefCell::default(),
        };
        fields.forget_reads();
        fields
    }

    /// Creates fields whose keys are all unread, except remarks.
    pub(crate) fn forget_reads(&self) {
        let remarks = self.map.keys();
        let remarks =
            remarks.filter(|key| REMARKS.contains(&key.as_str()) || key.starts_with("info_"));
        *self.read.borrow_mut() = remarks.cloned().collect();
    }

    /// Returns the value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let value = self.map.get(key)?;
        self.read.borrow_mut().insert(key.to_owned());
        Some(value)
    }

    /// Returns whether the key exists. Does not mark it as read.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Returns a number, integer or not.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.get(key)
            .map(|value| value.as_f64().ok_or_else(|| odd(key, value)))
            .transpose()
    }

    /// Returns a non-negative whole number, also if written `5.0`.
    pub(crate) fn count(&self, key: &str) -> Result<Option<u64>, Failure> {
        self.get(key)
            .map(|value| {
                let whole = |n: f64| (n >= 0.0 && n.fract() == 0.0).then_some(n as u64);
                value
                    .as_u64()
                    .or_else(|| value.as_f64().and_then(whole))
                    .ok_or_else(|| odd(key, value))
            })
            .transpose()
    }

    /// Returns a whole number, saturated to 32 bits.
    pub(crate) fn count_u32(&self, key: &str) -> Result<Option<u32>, Failure> {
        let count = self.count(key)?;
        Ok(count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// Returns a string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Failure> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| odd(key, value)))
            .transpose()
    }

    /// Returns a Boolean.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        self.get(key)
            .map(|value| value.as_bool().ok_or_else(|| odd(key, value)))
            .transpose()
    }

    /// Returns a time in nanoseconds, possibly negative: `nanos("wait")` finds `wait_ms`, `wait_ns`, `wait_s`,
    /// `wait_us`, and `wait_ticks`.
    pub(crate) fn nanos(&self, name: &str) -> Result<Option<i128>, Failure> {
        for (suffix, unit) in UNITS {
            let key = format!("{name}{suffix}");
            let Some(value) = self.get(&key) else {
                continue;
            };
            let nanos = match (value.as_i64(), value.as_f64()) {
                (Some(whole), _) => i128::from(whole) * unit,
                (None, Some(number)) => (number * unit as f64).round() as i128,
                (None, None) => return Err(odd(&key, value)),
            };
            return Ok(Some(nanos));
        }
        Ok(None)
    }

    /// Returns a time as a [`Duration`], found like [`nanos`](Self::nanos). Negative times are not expressible; too long
    /// ones saturate.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, Failure> {
        match self.nanos(name)? {
            Some(nanos) if nanos < 0 => inexpressible(format!("`{name}` is negative")),
            Some(nanos) => Ok(Some(
                u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos),
            )),
            None => Ok(None),
        }
    }

    /// Compares `actual` with the value of `key`, if present.
    ///
    /// Numbers may differ by `tol`. In an object, every expected key is compared; a key that `actual` lacks is not
    /// expressible.
    pub(crate) fn check(&self, key: &str, actual: impl Into<Value>) -> Check {
        let tolerance = self.number("tol")?.unwrap_or(0.0);
        match self.get(key) {
            Some(expected) => compare(key, expected, &actual.into(), tolerance),
            None => Ok(()),
        }
    }

    /// Returns the unread keys.
    pub(crate) fn unread(&self) -> Vec<&str> {
        let read = self.read.borrow();
        self.map
            .keys()
            .filter(|key| !read.contains(*key))
            .map(String::as_str)
            .collect()
    }

    /// Fails as not expressible if a key is unread; `what` names the object.
    pub(crate) fn finish(&self, what: &str) -> Check {
        match self.unread()[..] {
            [] => Ok(()),
            ref keys => inexpressible(format!("{what} `{}`", keys.join("`, `"))),
        }
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64()
}

fn odd(key: &str, value: &Value) -> Failure {
    Failure::NotExpressible(format!("`{key}` is {value}"))
}

fn compare(key: &str, expected: &Value, actual: &Value, tolerance: f64) -> Check {
    let same = match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (name, expected) in expected {
                let path = format!("{key}.{name}");
                match actual.get(name) {
                    Some(actual) => compare(&path, expected, actual, tolerance)?,
                    None => return inexpressible(format!("`{path}`")),
                }
            }
            true
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{key}[{index}]"), a, b, tolerance)?;
            }
            true
        }
        // Exact; a float would lose digits.
        (Value::Number(a), Value::Number(b)) if tolerance == 0.0 && is_whole(a) && is_whole(b) => {
            a == b
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (
                a.as_f64().unwrap_or(f64::NAN),
                b.as_f64().unwrap_or(f64::NAN),
            );
            (a - b).abs() <= tolerance + 1e-9 * a.abs().max(1.0)
        }
        (a, b) => a == b,
    };
    match same {
        true => Ok(()),
        false => failed(format!("{key}: expected {expected}, got {actual}")),
    }
}
