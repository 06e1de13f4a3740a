use std::time::Duration;

use backstop::http::{rate_limit, retry_after};
use backstop::{ManualClock, Quota, RateLimiter};
use http::HeaderMap;

use crate::{headers, noon, seconds};

fn read(value: &str) -> Option<Duration> {
    retry_after::read(&headers(&[("retry-after", value)]), noon())
}

#[test]
fn all_three_date_formats_are_read() {
    for date in [
        "Sat, 28 Nov 2026 12:00:30 GMT",
        "Saturday, 28-Nov-26 12:00:30 GMT",
        "Sat Nov 28 12:00:30 2026",
    ] {
        assert_eq!(read(date), Some(seconds(30)), "{date}");
    }
}

#[test]
fn seconds_are_digits_only() {
    assert_eq!(read("0"), Some(seconds(0)));
    assert_eq!(read(" 120 "), Some(seconds(120)));
    // 10^20 is valid, and saturates.
    assert_eq!(read("100000000000000000000"), Some(seconds(u64::MAX)));
    for malformed in [
        "+5",
        "-1",
        "1.5",
        "",
        "5s",
        "0x5",
        "soon",
        "Sat, 99 Nov 2026 12:00:30 GMT",
    ] {
        assert_eq!(read(malformed), None, "{malformed}");
    }
    let not_text = http::HeaderValue::from_bytes(b"\xff").unwrap();
    let map = HeaderMap::from_iter([(http::header::RETRY_AFTER, not_text)]);
    assert_eq!(retry_after::read(&map, noon()), None);
    assert_eq!(retry_after::read(&HeaderMap::new(), noon()), None);
}

#[test]
fn a_past_date_is_zero() {
    assert_eq!(read("Sat, 28 Nov 2026 11:00:00 GMT"), Some(seconds(0)));
    assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(seconds(0)));
    for before_1970 in [
        "Mon, 01 Jan 1601 00:00:00 GMT",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        "Thu Feb 29 12:00:00 1968",
    ] {
        assert_eq!(read(before_1970), Some(seconds(0)), "{before_1970}");
    }
}

#[test]
fn a_leap_second_ends_a_minute() {
    for date in [
        "Sat, 28 Nov 2026 12:00:60 GMT",
        "Saturday, 28-Nov-26 12:00:60 GMT",
        "Sat Nov 28 12:00:60 2026",
    ] {
        assert_eq!(read(date), Some(seconds(60)), "{date}");
    }
    for malformed in [
        "Sat, 28 Nov 2026 12:60:00 GMT",
        "Sat, 28 Nov 2026 12:00:61 GMT",
        "Sat, 28 Nov 2026 :60 GMT",
        "Sat, 28 Nov 1600",
        "Sat, 28 Nov 1026 12:00:00 GMT",
        "Mon, 28 Nov 2026 12:00:00 GMT",
    ] {
        assert_eq!(read(malformed), None, "{malformed}");
    }
}

#[test]
fn dates_are_measured_by_the_clock_of_the_server() {
    // The server's clock is an hour ahead.
    let ahead = headers(&[
        ("date", "Sat, 28 Nov 2026 13:00:00 GMT"),
        ("retry-after", "Sat, 28 Nov 2026 13:00:30 GMT"),
    ]);
    assert_eq!(retry_after::read(&ahead, noon()), Some(seconds(30)));
    let before_1970 = headers(&[
        ("date", "Mon, 01 Jan 1601 00:00:00 GMT"),
        ("retry-after", "Mon, 01 Jan 1601 00:00:30 GMT"),
    ]);
    assert_eq!(retry_after::read(&before_1970, noon()), Some(seconds(30)));
    let malformed = headers(&[
        ("date", "today"),
        ("retry-after", "Sat, 28 Nov 2026 12:00:30 GMT"),
    ]);
    assert_eq!(retry_after::read(&malformed, noon()), Some(seconds(30)));
}

#[test]
fn the_writer_rounds_up() {
    for (wait, text) in [
        (Duration::ZERO, "1"),
        (Duration::from_millis(500), "1"),
        (seconds(1), "1"),
        (Duration::from_nanos(1_000_000_001), "2"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let mut map = HeaderMap::new();
        retry_after::write(&mut map, wait);
        assert_eq!(map["retry-after"], text);
    }
}

#[test]
fn a_client_that_obeys_is_admitted() {
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_second(2).burst(1))
        .clock(clock.clone())
        .build()
        .unwrap();
    assert!(limiter.decide(1).allowed);
    let decision = limiter.decide(1);
    assert_eq!(decision.retry_after, Some(Duration::from_millis(500)));
    let mut map = HeaderMap::new();
    retry_after::write(&mut map, decision.retry_after.unwrap());
    rate_limit::write(&mut map, "api", &decision);
    assert_eq!(
        (&map["retry-after"], &map["ratelimit"]),
        (&"1".parse().unwrap(), &"\"api\";r=0;t=1".parse().unwrap())
    );
    clock.advance(retry_after::read(&map, noon()).unwrap());
    assert!(limiter.decide(1).allowed);
}
