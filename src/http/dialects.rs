//! The remaining quota that a server states, in all dialects.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use ::http::HeaderMap;

use super::date::{is_cached, parse_reset, server_time, whole_number};
use super::rate_limit;

/// One limit as a server described it, in any dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// The name of the limit in the standard field, `requests` or `tokens` in dialects that have one field for each,
    /// otherwise empty.
    pub name: String,
    /// The limit, if the response states it.
    pub limit: Option<u64>,
    /// The units left, if the response states them.
    pub remaining: Option<u64>,
    /// The time until the quota is replenished, if the response states it.
    pub reset_after: Option<Duration>,
}

/// Prefixes of field names, before `limit`, `remaining`, or `reset`.
const PREFIXES: [(&str, &str); 7] = [
    // Drafts up to 06, and Envoy's ratelimit service.
    ("ratelimit-", ""),
    ("x-ratelimit-", ""),
    ("x-rate-limit-", ""),
    ("anthropic-ratelimit-requests-", "requests"),
    ("anthropic-ratelimit-tokens-", "tokens"),
    ("anthropic-ratelimit-input-tokens-", "input-tokens"),
    ("anthropic-ratelimit-output-tokens-", "output-tokens"),
];

/// Suffixes of field names (OpenAI).
const SUFFIXES: [&str; 2] = ["requests", "tokens"];

/// Reads the remaining quota that a server states: from `RateLimit` and `RateLimit-Policy`, or otherwise from the
/// older fields. The policy of a limit has its name, and its partition key or none.
///
/// | fields | `Reset` | servers |
/// |---|---|---|
/// | `RateLimit`, `RateLimit-Policy` | seconds | draft 10 |
/// | `RateLimit-Limit`, `-Remaining`, `-Reset` | seconds | drafts up to 06, Envoy |
/// | `X-RateLimit-*`, `X-Rate-Limit-*` | seconds, seconds or milliseconds since 1970, a duration, a date | GitHub and many others |
/// | `x-ratelimit-*-requests`, `-tokens` | a duration such as `6m0s` | OpenAI |
/// | `anthropic-ratelimit-requests-*`, `-tokens-*` | an RFC 3339 time | Anthropic |
///
/// Times are relative to the response's `Date`, or to `now` without one. Negative numbers, and a limit of 0, mean
/// unknown; fractions, as Reddit sends them, are rounded down. Returns nothing for a response from a cache (`Age`
/// above 0), because its fields are outdated.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use backstop::http::rate_limit;
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("x-ratelimit-remaining-tokens", "0".parse()?);
/// headers.insert("x-ratelimit-reset-tokens", "6m0s".parse()?);
/// let limits = rate_limit::limits(&headers, SystemTime::now());
/// assert_eq!((limits[0].name.as_str(), limits[0].remaining), ("tokens", Some(0)));
/// assert_eq!(limits[0].reset_after, Some(Duration::from_secs(360)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn limits(headers: &HeaderMap, now: SystemTime) -> Vec<Limit> {
    if is_cached(headers) {
        return Vec::new();
    }
    let standard = standard(headers);
    if standard.iter().any(|limit| limit.remaining.is_some()) {
        return standard;
    }
    // Servers that state only their policies in the standard way state the rest in the older one.
    let older = older(headers, server_time(headers, now));
    if older.is_empty() { standard } else { older }
}

fn older(headers: &HeaderMap, now: SystemTime) -> Vec<Limit> {
    let mut limits = Vec::new();
    for (prefix, name) in PREFIXES {
        limits.extend(dialect(headers, now, name, |word| {
            format!("{prefix}{word}")
        }));
        if prefix.starts_with("x-rate") {
            for suffix in SUFFIXES {
                let field = |word: &str| format!("{prefix}{word}-{suffix}");
                limits.extend(dialect(headers, now, suffix, field));
            }
        }
    }
    limits
}

fn standard(headers: &HeaderMap) -> Vec<Limit> {
    let policies = rate_limit::read_policies(headers);
    // By name and partition. The policy of a name without a partition applies to all of its partitions.
    let quotas: HashMap<_, _> = policies
        .iter()
        .map(|policy| {
            (
                (&*policy.name, policy.partition_key.as_deref()),
                policy.quota,
            )
        })
        .collect();
    let limits = rate_limit::read(headers);
    let stated: HashSet<&str> = limits.iter().map(|limit| &*limit.name).collect();
    let others = policies
        .iter()
        .filter(|policy| !stated.contains(&*policy.name))
        .map(|policy| Limit {
            name: policy.name.clone(),
            limit: Some(policy.quota),
            remaining: None,
            reset_after: None,
        });
    let limits = limits.iter().map(|left| {
        let partition = left.partition_key.as_deref();
        let own = quotas.get(&(&*left.name, partition));
        Limit {
            name: left.name.clone(),
            limit: own.or_else(|| quotas.get(&(&*left.name, None))).copied(),
            remaining: Some(left.remaining),
            reset_after: left.reset_after,
        }
    });
    limits.chain(others).collect()
}

fn dialect(
    headers: &HeaderMap,
    now: SystemTime,
    name: &str,
    field: impl Fn(&str) -> String,
) -> Option<Limit> {
    let text = |word| headers.get(field(word))?.to_str().ok();
    // Early drafts append the windows to the limit: `100, 100;w=60`.
    let number = |text: &str| rounded_down(text.split([',', ';']).next()?);
    let (limit, remaining) = (text("limit"), text("remaining"));
    // Azure sends -1 or 0 for an unknown limit; the remaining number is unknown then too.
    let is_unknown =
        limit.is_some_and(|text| text.trim_start().starts_with('-') || number(text) == Some(0));
    let limit = Limit {
        name: name.to_owned(),
        limit: limit.and_then(number).filter(|limit| *limit > 0),
        remaining: remaining.and_then(number).filter(|_| !is_unknown),
        reset_after: text("reset").and_then(|text| parse_reset(text, now)),
    };
    let is_known = limit.limit.is_some() || limit.remaining.is_some();
    is_known.then_some(limit)
}

/// Parses digits, perhaps with a fraction, which is dropped.
fn rounded_down(text: &str) -> Option<u64> {
    match text.trim_matches([' ', '\t']).split_once('.') {
        Some((whole, fraction)) => whole_number(fraction).and(whole_number(whole)),
        None => whole_number(text),
    }
}
