//! Attempt numbers in headers.

use ::http::header::{HeaderMap, HeaderName};

use super::date::whole_number;
use super::deadline;
use crate::policy::Attempt;

/// Envoy's field: 1 for the first attempt. Servers send it back in their responses.
pub const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// gRPC's field: the number of attempts before this one. Absent in the first.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Returns the attempt number of a request, from 1; `None` without a valid field.
pub fn read(headers: &HeaderMap) -> Option<u32> {
    let number = |name: &HeaderName| whole_number(headers.get(name)?.to_str().ok()?);
    let number =
        number(&ATTEMPT_COUNT).or_else(|| Some(number(&PREVIOUS_ATTEMPTS)?.saturating_add(1)))?;
    u32::try_from(number).ok().filter(|number| *number > 0)
}

/// Writes the attempt number, and the [deadline](deadline::write) if there is one. Replaces the number of a request that
/// is forwarded.
///
/// ```
/// use std::time::Duration;
/// use backstop::http::attempt;
/// use backstop::{ManualClock, Policy, Timeout};
///
/// let clock = ManualClock::new();
/// let timeout = Timeout::builder().after(Duration::from_secs(2)).clock(clock.clone()).build()?;
/// let headers = clock.block_on(timeout.call_with(|attempt| async move {
///     let mut headers = http::HeaderMap::new();
///     attempt::write(&mut headers, &attempt);
///     Ok::<_, ()>(headers)
/// }));
/// let headers = headers.unwrap();
/// assert_eq!(headers["x-envoy-attempt-count"], "1");
/// assert_eq!(headers["x-envoy-expected-rq-timeout-ms"], "1900");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub fn write(headers: &mut HeaderMap, attempt: &Attempt) {
    headers.insert(ATTEMPT_COUNT, attempt.number().into());
    let before = attempt.number().saturating_sub(1);
    let content_type = headers.get(::http::header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc && before > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, before.into());
    } else {
        // A forwarded request still has the number of its caller.
        headers.remove(PREVIOUS_ATTEMPTS);
    }
    if let Some(remaining) = attempt.remaining() {
        deadline::write(headers, remaining);
    }
}
