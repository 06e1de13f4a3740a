//! Reading and writing `Retry-After`.

use std::time::{Duration, SystemTime};

use ::http::header::{HeaderMap, HeaderValue, RETRY_AFTER};

use super::date::{parse_http_date, seconds_rounded_up, server_time, whole_number};

/// Returns the wait that `Retry-After` asks for.
///
/// The field holds seconds, as digits, or a date in one of the three HTTP formats. A date is relative to the
/// response's `Date`, so that the clocks of client and server need not agree, or to `now` without one; a past date is
/// zero. A malformed field is ignored. Very large numbers saturate: the retry's [hint rule](crate::HintRule) decides
/// about a wait that is too long.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use backstop::http::retry_after;
/// use http::HeaderMap;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("date", "Sat, 28 Nov 2026 13:00:00 GMT".parse()?);
/// headers.insert("retry-after", "Sat, 28 Nov 2026 13:00:30 GMT".parse()?);
/// assert_eq!(retry_after::read(&headers, SystemTime::now()), Some(Duration::from_secs(30)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Some(seconds) = whole_number(text) {
        return Some(Duration::from_secs(seconds));
    }
    let wait = parse_http_date(text)?.duration_since(server_time(headers, now));
    Some(wait.unwrap_or_default())
}

/// Writes `Retry-After` in seconds, rounded up and at least 1, so that a client that obeys is not too early.
///
/// ```
/// use std::time::Duration;
/// use backstop::http::retry_after;
///
/// let mut headers = http::HeaderMap::new();
/// retry_after::write(&mut headers, Duration::from_millis(500));
/// assert_eq!(headers["retry-after"], "1");
/// ```
pub fn write(headers: &mut HeaderMap, wait: Duration) {
    let seconds = seconds_rounded_up(wait).max(1);
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
}
