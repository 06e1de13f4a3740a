//! Verdicts of responses.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

use ::http::header::{HeaderMap, RETRY_AFTER};
use ::http::{Method, StatusCode};

use super::idempotency::has_key;
use super::{deadline, rate_limit, retry_after};
use crate::policy::CallOptions;
use crate::verdict::{ErrorClass, Health, Verdict};

/// Whether a request may be sent again although it may have been executed, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Idempotence {
    /// Its method is idempotent (RFC 9110): `GET`, `HEAD`, `OPTIONS`, `TRACE`, `PUT`, or `DELETE`.
    Method,
    /// The request has an `Idempotency-Key`, so the server executes it once.
    Key,
    /// The request must not be sent again.
    None,
}

impl Idempotence {
    /// Returns the idempotence of a request, by method and headers.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        match has_key(headers) {
            true => Self::Key,
            false => Self::of_method(method),
        }
    }

    /// Returns the idempotence of a method, ignoring headers.
    pub fn of_method(method: &Method) -> Self {
        match method.is_idempotent() {
            true => Self::Method,
            false => Self::None,
        }
    }

    /// Returns whether the request may be sent again although it may have been executed.
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::None)
    }

    /// Returns the verdict on a response to the request. The table is on the [module page](super).
    pub fn verdict(self, status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Verdict {
        // 409 with a key means that the first attempt is still running.
        if status == StatusCode::CONFLICT && self == Self::Key {
            return with_hint(Verdict::transient(), retry_after::read(headers, now));
        }
        self.restrict(of_response(status, headers, now))
    }

    /// Returns the verdict on a request that failed, for example by a reset, after part of it was sent.
    pub const fn interrupted(self) -> Verdict {
        self.restrict(Verdict::transient())
    }

    /// Returns the verdict on a request that was not sent: the connection or the handshake failed, or the server
    /// stated that it did not process it (HTTP/2 `REFUSED_STREAM`). Any request may be retried then.
    pub const fn not_sent(self) -> Verdict {
        Verdict::transient().not_executed()
    }

    /// Forbids the retry of a request that must not be executed twice.
    const fn restrict(self, verdict: Verdict) -> Verdict {
        if self.is_idempotent() || !verdict.may_have_been_executed() {
            verdict
        } else {
            verdict.with_retry(false)
        }
    }
}

/// Returns the verdict on a response to a request with this method and without an idempotency key.
///
/// `now` is the wall-clock time, for dates in a response without a `Date`. For requests with a key, use
/// [`Idempotence::verdict`].
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use backstop::http;
/// use backstop::{Health, RetryAdvice, Verdict};
/// use ::http::{HeaderMap, Method, StatusCode};
///
/// let now = SystemTime::now();
/// let mut headers = HeaderMap::new();
/// let verdict = http::verdict(&Method::POST, StatusCode::BAD_GATEWAY, &headers, now);
/// assert_eq!((verdict.health(), verdict.retry()), (Health::Unhealthy, RetryAdvice::No));
///
/// headers.insert("retry-after", "5".parse()?);
/// let verdict = http::verdict(&Method::POST, StatusCode::TOO_MANY_REQUESTS, &headers, now);
/// // It was not executed, and says nothing about the health of the server.
/// assert_eq!(verdict.health(), Health::Neutral);
/// assert_eq!(verdict.retry(), RetryAdvice::After(Duration::from_secs(5)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verdict(
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Verdict {
    Idempotence::of_method(method).verdict(status, headers, now)
}

/// Returns the options of a call that sends a request: its deadline from the
/// [headers](super::deadline::read), and whether it is idempotent.
pub fn call_options(method: &Method, headers: &HeaderMap) -> CallOptions {
    let options = CallOptions::new().idempotent(Idempotence::of(method, headers).is_idempotent());
    match deadline::read(headers) {
        Some(within) => options.deadline(within),
        None => options,
    }
}

/// Returns the verdict on an error without a response, from the I/O error in its chain of sources: an attempt
/// without a connection (`ConnectionRefused`) was not executed, and any other may have been. An unreachable host or
/// network is not a proof: Linux reports it for established connections too.
///
/// If a client has a better answer, use that: reqwest's `is_connect` was not executed, and `is_builder` and `is_redirect`
/// are permanent. Here all errors without an I/O error are transient.
pub fn transport_error(error: &(dyn StdError + 'static)) -> Verdict {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let unsent = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable
            );
            if unsent {
                return Verdict::transient().not_executed();
            }
            // `source` skips the error inside an I/O error: it returns the source of that error.
            if let Some(inner) = error.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = error.source();
    }
    Verdict::transient()
}

/// Returns the verdict on a response to an idempotent request.
pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Verdict {
    if status.as_u16() < 400 {
        return Verdict::success();
    }
    // Envoy answered itself, before the request reached the server.
    if headers.contains_key("x-envoy-ratelimited") {
        return caller_over_limit(hint(headers, now));
    }
    if headers.contains_key("x-envoy-overloaded") {
        return Verdict::throttled(hint(headers, now)).not_executed();
    }
    let after = retry_after::read(headers, now);
    match status.as_u16() {
        429 => caller_over_limit(hint(headers, now)),
        403 if after.is_some() || is_used_up(headers, now) => caller_over_limit(hint(headers, now)),
        413 if after.is_some() => caller_over_limit(after),
        421 => Verdict::transient().not_executed(),
        425 => with_hint(Verdict::transient().not_executed(), after),
        503 => match after {
            Some(after) => Verdict::throttled(after),
            None => Verdict::transient(),
        },
        501 | 505 => Verdict::permanent(),
        408 => with_hint(Verdict::transient(), after),
        500.. => Verdict::transient(),
        _ => Verdict::permanent(),
    }
}

/// Returns the verdict on a caller that exceeds its own limit: nothing was executed, and other callers are not
/// affected.
fn caller_over_limit(after: Option<Duration>) -> Verdict {
    Verdict::throttled(after)
        .with_health(Health::Neutral)
        .with_class(ErrorClass::Throttled)
        .not_executed()
}

fn with_hint(verdict: Verdict, after: Option<Duration>) -> Verdict {
    match after {
        Some(after) => verdict.after(after),
        None => verdict,
    }
}

/// Returns the wait of a throttled caller: that of `Retry-After`, or otherwise the time until all exhausted limits
/// have been replenished.
pub fn hint(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if headers.contains_key(RETRY_AFTER) {
        if let Some(after) = retry_after::read(headers, now) {
            return Some(after);
        }
    }
    let limits = rate_limit::limits(headers, now).into_iter();
    let used_up = limits.filter(|limit| limit.remaining == Some(0));
    used_up.filter_map(|limit| limit.reset_after).max()
}

fn is_used_up(headers: &HeaderMap, now: SystemTime) -> bool {
    let limits = rate_limit::limits(headers, now);
    limits.iter().any(|limit| limit.remaining == Some(0))
}
