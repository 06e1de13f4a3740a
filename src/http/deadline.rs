//! Deadlines in headers. They are relative, so the clocks of the two sides need not agree.

use std::time::Duration;

use ::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::date::{parse_duration, parse_seconds, whole_number};
use crate::clock::ClockHandle;
use crate::error::{Reason, Rejected};
use crate::policy::{Context, Guard, Guarded, Outcome};

/// gRPC's field: at most eight digits and a unit.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Envoy's field: milliseconds for the whole request, its retries included.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// A field of many services: seconds, perhaps with a fraction, or a duration such as `250ms`.
pub const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// Returns how long the sender of a request waits: the minimum of `grpc-timeout`, `x-envoy-expected-rq-timeout-ms`,
/// and `x-request-timeout`, also if one of them is given twice. Malformed fields are ignored.
///
/// ```
/// use std::time::Duration;
/// use backstop::http::deadline;
///
/// let mut headers = http::HeaderMap::new();
/// assert_eq!(deadline::read(&headers), None);
/// headers.insert("grpc-timeout", "2S".parse()?);
/// headers.insert("x-envoy-expected-rq-timeout-ms", "1500".parse()?);
/// assert_eq!(deadline::read(&headers), Some(Duration::from_millis(1500)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    read_with(headers, &REQUEST_TIMEOUT)
}

/// Like [`read`], with a field of your own in place of `x-request-timeout`.
pub fn read_with(headers: &HeaderMap, own: &HeaderName) -> Option<Duration> {
    let least = |name: &HeaderName, parse: fn(&str) -> Option<Duration>| {
        let values = headers.get_all(name).iter();
        values.filter_map(|value| parse(value.to_str().ok()?)).min()
    };
    let all = [
        least(&GRPC_TIMEOUT, parse_grpc),
        least(&EXPECTED_TIMEOUT, |text| {
            whole_number(text).map(Duration::from_millis)
        }),
        least(own, |text| {
            parse_seconds(text).or_else(|| parse_duration(text.trim()))
        }),
    ];
    all.into_iter().flatten().min()
}

/// Writes the time that the receiver of a request has: `remaining`, less 5 % and at least 1 ms for the round trip.
/// Writes `grpc-timeout` if the request is gRPC, and `x-envoy-expected-rq-timeout-ms` otherwise.
///
/// So each hop of a chain has less time than the previous one. The result is rounded down; zero means that no time is
/// left.
///
/// ```
/// use std::time::Duration;
/// use backstop::http::deadline;
///
/// let mut headers = http::HeaderMap::new();
/// deadline::write(&mut headers, Duration::from_secs(1));
/// assert_eq!(headers["x-envoy-expected-rq-timeout-ms"], "950");
/// ```
pub fn write(headers: &mut HeaderMap, remaining: Duration) {
    let allowance = (remaining / 20).max(Duration::from_millis(1));
    let left = remaining.saturating_sub(allowance);
    let content_type = headers.get(::http::header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        if let Ok(value) = HeaderValue::try_from(grpc_text(left)) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    } else {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, millis.into());
    }
}

/// Returns a policy that rejects a call with less than `least` left until its deadline
/// ([`Reason::DeadlineTooClose`]), so that no work starts whose result would come too late.
///
/// The deadline is that of the call ([`CallOptions::deadline`](crate::CallOptions::deadline)), of a
/// [`Timeout`](crate::Timeout) outside it, or the one in force for the task ([`deadline`](crate::deadline)). `clock`
/// must be the clock of the stack.
pub fn at_least(least: Duration, clock: impl Into<ClockHandle>) -> Guarded<AtLeast> {
    Guarded(AtLeast {
        least,
        clock: clock.into(),
    })
}

/// The guard of the policy returned by [`at_least`].
#[derive(Clone, Debug)]
pub struct AtLeast {
    least: Duration,
    clock: ClockHandle,
}

impl Guard for AtLeast {
    type Permit = ();

    fn enter(&self, cx: &mut Context) -> Result<(), Rejected> {
        cx.now(&self.clock);
        match cx.remaining() {
            Some(left) if left < self.least => {
                Err(Rejected::new("at least", Reason::DeadlineTooClose))
            }
            _ => Ok(()),
        }
    }

    fn exit<T, E>(&self, (): (), _: &mut Outcome<T, E>) {}

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.clock.clone())
    }
}

fn parse_grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || digits.contains([' ', '\t']) {
        return None;
    }
    let number = whole_number(digits)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Returns the time in the finest unit for which eight digits suffice, rounded down.
fn grpc_text(left: Duration) -> String {
    const DIGITS: u128 = 99_999_999;
    let nanos = left.as_nanos();
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
    ];
    for (unit, letter) in units {
        if nanos / unit <= DIGITS {
            return format!("{}{letter}", nanos / unit);
        }
    }
    format!("{}H", (nanos / 3_600_000_000_000).min(DIGITS))
}
