//! Points in time and durations in header fields.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::HeaderMap;
use ::http::header::{AGE, DATE};

/// Returns the server's time: that of the response's `Date`, or `now` without one.
pub(super) fn server_time(headers: &HeaderMap, now: SystemTime) -> SystemTime {
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    date.and_then(parse_http_date).unwrap_or(now)
}

/// Parses a date in one of the three HTTP formats, also one with a leap second or before 1970.
pub(super) fn parse_http_date(text: &str) -> Option<SystemTime> {
    /// The Gregorian calendar, with its days of the week, repeats after this time.
    const CENTURIES: Duration = Duration::from_secs(146_097 * 86_400);
    let text = text.trim_matches([' ', '\t']);
    let parse = |text: &str| httpdate::parse_http_date(text).ok();
    if let Some(at) = parse(text) {
        return Some(at);
    }
    // `httpdate` supports neither.
    if let Some((head, tail)) = text.split_once(":60 ") {
        return Some(parse(&format!("{head}:59 {tail}"))? + Duration::from_secs(1));
    }
    // The year is in the middle, or at the end of the format of `asctime`.
    let at = match text.ends_with("GMT") {
        true => 12..16,
        false => text.len().checked_sub(4)?..text.len(),
    };
    let year = whole_number(text.get(at.clone())?).filter(|year| (1570..1970).contains(year))?;
    let later = format!("{}{}{}", &text[..at.start], year + 400, &text[at.end..]);
    parse(&later)?.checked_sub(CENTURIES)
}

/// Returns whether the response comes from a cache. Its rate limit fields are then outdated, and may describe another
/// caller's limit.
pub(super) fn is_cached(headers: &HeaderMap) -> bool {
    let age = headers.get(AGE).and_then(|value| value.to_str().ok());
    age.and_then(whole_number).is_some_and(|age| age > 0)
}

/// Parses digits only; numbers beyond `u64` saturate.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Parses seconds, perhaps with a fraction. Numbers beyond `u64` saturate.
pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
    if let Some(seconds) = whole_number(text) {
        return Some(Duration::from_secs(seconds));
    }
    let (whole, fraction) = text.trim_matches([' ', '\t']).split_once('.')?;
    whole_number(whole).and(whole_number(fraction))?;
    let seconds = text.trim().parse().ok()?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Parses a `Reset` field: seconds, seconds or milliseconds since 1970, a duration such as `6m0s`, an RFC 3339 time,
/// or an HTTP date. Times are relative to `now`; past ones are zero.
pub(super) fn parse_reset(text: &str, now: SystemTime) -> Option<Duration> {
    /// Numbers from here on are times since 1970: as durations they would exceed 30 years.
    const EPOCH_SECONDS: f64 = 1e9;
    const EPOCH_MILLIS: f64 = 1e11;
    let text = text.trim_matches([' ', '\t']);
    let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        let number: f64 = text.parse().ok()?;
        if number < EPOCH_SECONDS {
            return Duration::try_from_secs_f64(number).ok();
        }
        let seconds = match number < EPOCH_MILLIS {
            true => number,
            false => number / 1e3,
        };
        let since_1970 = Duration::try_from_secs_f64(seconds).ok()?;
        return Some(until(UNIX_EPOCH.checked_add(since_1970)?));
    }
    parse_duration(text)
        .or_else(|| parse_rfc_3339(text).map(until))
        .or_else(|| parse_http_date(text).map(until))
}

/// Parses a duration with units, such as `1h2m3.5s` and `12ms`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|char: char| !(char.is_ascii_digit() || char == '.'))?;
        let unit = &rest[number..];
        let end = unit
            .find(|char: char| char.is_ascii_digit())
            .unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = rest[..number].parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &unit[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// Parses a time such as `2026-11-28T12:00:00.5+01:00`.
fn parse_rfc_3339(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        whole_number(std::str::from_utf8(bytes.get(range)?).ok()?)
    };
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !separators
        .iter()
        .all(|(at, byte)| bytes.get(*at) == Some(byte))
        || !matches!(bytes.get(10)?, b'T' | b't' | b' ')
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month)
        || !(1..=days_of(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut zone = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = zone.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let seconds: f64 = format!("0.{}", fraction.get(..digits)?).parse().ok()?;
        nanos = (seconds * 1e9) as u32;
        zone = fraction.get(digits..)?;
    }
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (whole_number(&zone[1..3])?, whole_number(&zone[4..6])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            let seconds = i64::try_from(minutes).ok()? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let of_day = i64::try_from(hour * 3600 + minute * 60 + second).ok()?;
    let seconds = days_since_1970(year, month, day) * 86_400 + of_day - offset;
    UNIX_EPOCH.checked_add(Duration::new(
        u64::try_from(seconds).ok()?,
        nanos.min(999_999_999),
    ))
}

/// Returns the length of a month in the Gregorian calendar.
const fn days_of(year: u64, month: u64) -> u64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + is_leap as u64,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 in the Gregorian calendar (Hinnant, `days_from_civil`).
fn days_since_1970(year: u64, month: u64, day: u64) -> i64 {
    // A year begins in March here, so that the leap day is its last day.
    let (year, month) = match month > 2 {
        true => (year as i64, month as i64 - 3),
        false => (year as i64 - 1, month as i64 + 9),
    };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day as i64 - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Returns a wait in whole seconds, rounded up, so that a caller that obeys is not too early.
pub(super) const fn seconds_rounded_up(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add((wait.subsec_nanos() > 0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28T12:00:00Z.
    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_867_200)
    }

    #[test]
    fn resets_are_read_in_every_shape() {
        let ms = Duration::from_millis;
        for (text, wait) in [
            ("0", ms(0)),
            ("30", ms(30_000)),
            (" 1.5 ", ms(1500)),
            ("1795867230", ms(30_000)),
            ("1795867230.5", ms(30_500)),
            ("1795867230500", ms(30_500)),
            ("1795860000", ms(0)),
            ("6m0s", ms(360_000)),
            ("12ms", ms(12)),
            ("1h2m3.5s", ms(3_723_500)),
            ("1d", ms(86_400_000)),
            ("2026-11-28T12:00:30Z", ms(30_000)),
            ("2026-11-28T13:00:30.250+01:00", ms(30_250)),
            ("2026-11-28t07:00:30-05:00", ms(30_000)),
            ("2026-11-28T11:00:00Z", ms(0)),
            ("2028-02-29T12:00:00Z", ms(458 * 86_400_000)),
            ("Sat, 28 Nov 2026 12:00:30 GMT", ms(30_000)),
        ] {
            let read = parse_reset(text, noon()).unwrap_or_else(|| panic!("{text} is not read"));
            let off = read.abs_diff(wait);
            assert!(off < ms(1), "{text}: {read:?}, not {wait:?}");
        }
    }

    #[test]
    fn malformed_resets_are_ignored() {
        for text in [
            "",
            "-1",
            "+5",
            "1.2.3",
            "5x",
            "2026-13-01T00:00:00Z",
            "2026-11-28T12:00:30",
            "m",
            "1ss",
            "2026-11-28T12:00:30+0100",
            "99999999999999999999999999999999999999999999",
            "é",
            "2026-11-28é12:00:00",
            "2026-11-31T12:00:30Z",
            "2027-02-29T12:00:30Z",
            "2100-02-29T12:00:30Z",
            "2026-11-28T12:00:30+24:00",
            "2026-11-28T12:00:30-01:60",
        ] {
            assert_eq!(parse_reset(text, noon()), None, "{text}");
        }
        assert_eq!(whole_number("99999999999999999999"), Some(u64::MAX));
    }
}
