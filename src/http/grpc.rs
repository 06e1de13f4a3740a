//! Verdicts from gRPC status codes and metadata. Codes are numbers, so no gRPC crate is needed.

use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::HeaderName;

use crate::verdict::{Health, Verdict};

/// The field in which a server asks for a retry delay, in milliseconds. A negative number forbids retries.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Returns the verdict on a status. `metadata` is that of the status or the trailers. With tonic:
/// `grpc::verdict(status.code() as i32, status.metadata().as_ref())`.
///
/// | code | verdict |
/// |---|---|
/// | 0 `OK` | success |
/// | 14 `UNAVAILABLE` | transient |
/// | 8 `RESOURCE_EXHAUSTED` | throttled; it is about this caller, so neutral |
/// | 2 `UNKNOWN`, 4 `DEADLINE_EXCEEDED`, 13 `INTERNAL`, 15 `DATA_LOSS` | transient; 4 is a timeout |
/// | 1 `CANCELLED` | ignored |
/// | others, such as 10 `ABORTED`, which is to be retried at a higher level | permanent |
///
/// `grpc-retry-pushback-ms` replaces the delay of a retry and resets the backoff. A negative or malformed value, or
/// more than one, forbids the retry. The delay in a `RetryInfo` is not read; [`Verdict::after`] adds it.
///
/// tonic ends a call with `CANCELLED`, and not with `DEADLINE_EXCEEDED`, when the time of `Request::set_timeout` is over. So
/// that a server that hangs counts as a failure, and its calls are retried, the timeout of the policy must end the call: set
/// that of the request to a little more than [`Attempt::remaining`](crate::Attempt::remaining), such as 10 ms.
///
/// A call with any of these codes may have been executed, so set whether it is [idempotent](crate::CallOptions::idempotent).
pub fn verdict(code: i32, metadata: &HeaderMap) -> Verdict {
    let verdict = match code {
        0 => return Verdict::success(),
        1 => return Verdict::ignore(),
        14 | 2 | 13 | 15 => Verdict::transient(),
        4 => Verdict::timed_out(),
        8 => Verdict::throttled(None).with_health(Health::Neutral),
        _ => return Verdict::permanent(),
    };
    match read_pushback(metadata) {
        None => verdict,
        Some(Pushback::After(after)) => Verdict::pushback(after)
            .with_class(verdict.class())
            .with_health(verdict.health()),
        Some(Pushback::Never) => verdict.with_retry(false),
    }
}

/// A server's instruction on when the client may retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pushback {
    /// The client may retry after this time.
    After(Duration),
    /// The client must not retry.
    Never,
}

/// Reads the server's pushback; `None` without the field.
pub fn read_pushback(metadata: &HeaderMap) -> Option<Pushback> {
    let mut values = metadata.get_all(PUSHBACK).iter();
    let value = values.next()?;
    if values.next().is_some() {
        // Two instructions may contradict each other.
        return Some(Pushback::Never);
    }
    // gRPC parses it as an `i32`, without a plus sign.
    let text = value.to_str().ok().filter(|text| !text.starts_with('+'));
    let millis = text.and_then(|text| text.parse::<i32>().ok());
    Some(match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => Pushback::After(Duration::from_millis(millis)),
        None => Pushback::Never,
    })
}
