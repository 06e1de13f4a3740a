//! The `RateLimit` and `RateLimit-Policy` fields, and their older dialects.
//!
//! Written and read as in draft-ietf-httpapi-ratelimit-headers-10:
//!
//! ```text
//! RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
//! RateLimit: "burst";r=50;t=30
//! ```
//!
//! A server writes the decision of its limiter with [`write()`]. A client reads the remaining quota with [`limits`],
//! which also supports the dialects of `X-RateLimit-*`. A stated quota is not a promise, and a malformed field is
//! ignored.

use std::fmt;
use std::time::Duration;

use ::http::header::{HeaderMap, HeaderName};

use super::date::seconds_rounded_up;
use super::structured::{Bare, Item, Text, parse_list};
use super::value::header_value;
use crate::rate_limiter::Decision;

pub use super::dialects::{Limit, limits};

/// The name of the field with the limits that apply.
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The name of the field with the remaining quota.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// A limit that applies: a member of `RateLimit-Policy`.
///
/// `Display` writes the member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaPolicy {
    /// The name that members of `RateLimit` refer to.
    pub name: String,
    /// Number of units in a window (`q`).
    pub quota: u64,
    /// The window (`w`), in whole seconds.
    pub window: Option<Duration>,
    /// The unit that is counted (`qu`): `requests` if absent, `content-bytes`, `concurrent-requests`, or another word.
    pub unit: Option<String>,
    /// The partition key (`pk`) of the limit, in base64.
    pub partition_key: Option<String>,
}

/// The remaining quota of a limit: a member of `RateLimit`.
///
/// `Display` writes the member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceLimit {
    /// The name of the limit.
    pub name: String,
    /// Number of units left (`r`).
    pub remaining: u64,
    /// The time until more quota is available, not necessarily all of it (`t`), in whole seconds.
    pub reset_after: Option<Duration>,
    /// The partition key (`pk`) of the limit, in base64.
    pub partition_key: Option<String>,
}

impl QuotaPolicy {
    /// Returns a limit of `quota` units per `window`.
    pub fn new(name: impl Into<String>, quota: u64, window: Duration) -> Self {
        Self {
            name: name.into(),
            quota,
            window: (!window.is_zero()).then_some(window),
            unit: None,
            partition_key: None,
        }
    }

    fn of(item: Item) -> Option<Self> {
        Some(Self {
            quota: natural(item.parameter("q"))?,
            window: match item.parameter("w") {
                None => None,
                // A window of zero is malformed.
                window => Some(seconds(window).filter(|window| !window.is_zero())?),
            },
            unit: match item.parameter("qu") {
                None => None,
                Some(Bare::Text(unit)) => Some(unit.clone()),
                Some(_) => return None,
            },
            partition_key: partition_key(&item)?,
            name: name(item)?,
        })
    }
}

impl ServiceLimit {
    /// Returns a limit with this many tokens left.
    pub fn new(name: impl Into<String>, remaining: u64, reset_after: Option<Duration>) -> Self {
        Self {
            name: name.into(),
            remaining,
            reset_after,
            partition_key: None,
        }
    }

    fn of(item: Item) -> Option<Self> {
        Some(Self {
            remaining: natural(item.parameter("r"))?,
            reset_after: match item.parameter("t") {
                None => None,
                reset => Some(seconds(reset)?),
            },
            partition_key: partition_key(&item)?,
            name: name(item)?,
        })
    }
}

impl fmt::Display for QuotaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = PolicyMember {
            name: &self.name,
            quota: self.quota,
            unit: self.unit.as_deref(),
            window: self.window,
        };
        member.fmt(f)?;
        match &self.partition_key {
            Some(key) => write!(f, ";pk=:{key}:"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ServiceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = LimitMember {
            name: &self.name,
            remaining: self.remaining,
            reset_after: self.reset_after,
        };
        member.fmt(f)?;
        match &self.partition_key {
            Some(key) => write!(f, ";pk=:{key}:"),
            None => Ok(()),
        }
    }
}

/// Displays a member of `RateLimit-Policy` without a partition key.
struct PolicyMember<'a> {
    name: &'a str,
    quota: u64,
    unit: Option<&'a str>,
    window: Option<Duration>,
}

impl fmt::Display for PolicyMember<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};q={}", Text(self.name), largest(self.quota))?;
        if let Some(unit) = self.unit {
            write!(f, ";qu={}", Text(unit))?;
        }
        match self.window {
            Some(window) => write!(f, ";w={}", largest(seconds_rounded_up(window))),
            None => Ok(()),
        }
    }
}

/// Displays a member of `RateLimit` without a partition key.
struct LimitMember<'a> {
    name: &'a str,
    remaining: u64,
    reset_after: Option<Duration>,
}

impl fmt::Display for LimitMember<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};r={}", Text(self.name), largest(self.remaining))?;
        match self.reset_after {
            Some(reset) => write!(f, ";t={}", largest(seconds_rounded_up(reset))),
            None => Ok(()),
        }
    }
}

/// Reads `RateLimit-Policy`. Empty if the field is absent or malformed; members without a quota are left out.
pub fn read_policies(headers: &HeaderMap) -> Vec<QuotaPolicy> {
    read_list(headers, &RATE_LIMIT_POLICY, QuotaPolicy::of)
}

/// Reads `RateLimit`. Empty if the field is absent or malformed; members without a remaining number are left out.
pub fn read(headers: &HeaderMap) -> Vec<ServiceLimit> {
    read_list(headers, &RATE_LIMIT, ServiceLimit::of)
}

/// Adds a limiter's decision to both fields. Members that are there already stay.
///
/// Durations are in whole seconds, rounded up. `t` is the wait of a rejected call, as in `Retry-After`, or otherwise
/// the time until the remaining number grows ([`Decision::more_after`]), not the time until the limit is full. With
/// several quotas, that is when all of them have more. A full limit has no `t`. A decision without a limit, for a key
/// that found the table full, writes nothing.
///
/// ```
/// use backstop::http::rate_limit;
/// use backstop::rate_limiter::{Quota, RateLimiter};
/// use backstop::ManualClock;
///
/// let limiter = RateLimiter::builder().quota(Quota::per_minute(100)).clock(ManualClock::new()).build()?;
/// let mut headers = http::HeaderMap::new();
/// rate_limit::write(&mut headers, "client", &limiter.decide(1));
/// assert_eq!(headers["ratelimit-policy"], "\"client\";q=100;w=60");
/// assert_eq!(headers["ratelimit"], "\"client\";r=99;t=1");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub fn write(headers: &mut HeaderMap, name: &str, decision: &Decision) {
    if decision.limit == 0 {
        return;
    }
    let policy = PolicyMember {
        name,
        quota: decision.limit,
        unit: None,
        window: (!decision.window.is_zero()).then_some(decision.window),
    };
    let more = decision.retry_after.or(decision.more_after);
    let left = LimitMember {
        name,
        remaining: decision.remaining,
        reset_after: more.filter(|more| !more.is_zero()),
    };
    for (field, value) in [
        (RATE_LIMIT_POLICY, header_value(&policy)),
        (RATE_LIMIT, header_value(&left)),
    ] {
        if let Some(value) = value {
            headers.append(field, value);
        }
    }
}

fn read_list<T>(headers: &HeaderMap, field: &HeaderName, of: fn(Item) -> Option<T>) -> Vec<T> {
    // A list may be split over several fields.
    let mut text = String::new();
    for value in headers.get_all(field) {
        let Ok(value) = value.to_str() else {
            return Vec::new();
        };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(value);
    }
    let items = parse_list(&text).unwrap_or_default();
    items.into_iter().filter_map(of).collect()
}

fn name(item: Item) -> Option<String> {
    match item.value {
        Bare::Text(name) => Some(name),
        _ => None,
    }
}

fn natural(bare: Option<&Bare>) -> Option<u64> {
    match bare {
        Some(Bare::Integer(number)) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn seconds(bare: Option<&Bare>) -> Option<Duration> {
    natural(bare).map(Duration::from_secs)
}

/// Returns the partition key, if there is one. `None` if it is malformed.
#[expect(clippy::option_option, reason = "malformed, absent, or present")]
fn partition_key(item: &Item) -> Option<Option<String>> {
    match item.parameter("pk") {
        None => Some(None),
        Some(Bare::Bytes(key)) => Some(Some(key.clone())),
        Some(_) => None,
    }
}

/// Caps a number: integers of structured fields have at most 15 digits.
fn largest(number: u64) -> u64 {
    number.min(999_999_999_999_999)
}
