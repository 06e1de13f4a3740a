//! Quotas as text, fractional rates, and settings that contradict each other.

use std::time::Duration;

use backstop::ManualClock;
use backstop::rate_limiter::{Inherit, Quota};
use proptest::prelude::*;

use super::{SECOND, builder, ms};

#[test]
fn quotas_are_read_from_text() {
    let table = [
        ("300/1s", Quota::per_second(300)),
        ("10/min, burst 5", Quota::per_minute(10).burst(5)),
        ("1000/h,sliding log", Quota::per_hour(1000).sliding_log()),
        (" 5 / 250ms ", Quota::new(5, ms(250))),
        (
            "7/2 days, fixed window",
            Quota::new(7, 2 * 86_400 * SECOND).fixed_window(),
        ),
        (
            "8/second, leaky bucket 20",
            Quota::per_second(8).leaky_bucket(20),
        ),
        ("8/s, initial 0", Quota::per_second(8).initial(0)),
        (
            "8/s, warm up 1min x3",
            Quota::per_second(8).warm_up(60 * SECOND, 3),
        ),
    ];
    for (text, quota) in table {
        assert_eq!(text.parse(), Ok(quota), "{text}");
    }
    for text in [
        "",
        "10",
        "10/",
        "/s",
        "10/fortnight",
        "-1/s",
        "10/s burst 5",
        "10/s, burst",
        "0/s",
        "1/0s",
        "10/s, sliding log, burst 5",
        "10/s, sliding log, fixed window",
        "99999999999999999999/s",
        "1/340282366920938463463374607431768211456s",
        "1/99999999999999999999999days",
    ] {
        let error = text.parse::<Quota>().unwrap_err();
        assert_eq!(error.setting(), "quota", "{text}");
    }
}

#[test]
fn fractional_rates_are_exact() {
    let second = |rate| Quota::per_second_f64(rate);
    let table = [
        (second(100.0), Quota::per_second(100).burst(100)),
        (second(2.5), Quota::new(25, 10 * SECOND).burst(3)),
        (second(0.1), Quota::new(1, 10 * SECOND).burst(1)),
        (second(1.0 / 86_400.0), Quota::new(1, 86_400 * SECOND)),
    ];
    for (quota, expected) in table {
        assert_eq!(quota, expected);
    }
    let clock = ManualClock::new();
    for rate in [
        0.0,
        -1.0,
        f64::NAN,
        f64::INFINITY,
        f64::MIN_POSITIVE * 0.0,
        1e300,
    ] {
        assert!(builder(&clock, second(rate)).build().is_err(), "{rate}");
    }
    assert!(builder(&clock, second(1e-300)).build().is_ok());
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    let clock = ManualClock::new();
    let one = Quota::per_second(5);
    for quota in [
        one.leaky_bucket(10).burst(3),
        one.burst(3).leaky_bucket(10),
        one.fixed_window().sliding_log(),
        one.sliding_log().leaky_bucket(3),
        one.sliding_counter().warm_up(SECOND, 3),
    ] {
        let error = builder(&clock, quota).build().unwrap_err();
        assert_eq!(error.setting(), "quota", "{quota:?}");
    }
    let error = builder(&clock, one).max_waiting(0).max_wait(SECOND);
    assert_eq!(error.build().unwrap_err().setting(), "max_wait");
    assert!(
        builder(&clock, one.sliding_log().sliding_log())
            .build()
            .is_ok()
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        tokens in 1_u64..1000,
        nanos in prop_oneof![1000_u64.., Just(1_000_000_000), Just(60_000_000_000), Just(90_000_000)],
        burst in prop::option::of(1_u64..1000),
        kind in 0..7,
    ) {
        let quota = Quota::new(tokens, Duration::from_nanos(nanos));
        let burst = burst.unwrap_or(tokens);
        let quota = match kind {
            0 => quota.burst(burst),
            1 => quota.leaky_bucket(burst),
            2 => quota.fixed_window().burst(burst).initial(burst / 2),
            3 => quota.fixed_window_from_first(),
            4 => quota.sliding_log(),
            5 => quota.sliding_counter().initial(tokens),
            _ => quota.warm_up(Duration::from_nanos(nanos), 3),
        };
        prop_assert_eq!(quota.to_string().parse(), Ok(quota));
    }
}

#[test]
fn labels_are_in_snake_case_and_display_in_words() {
    let algorithm = Quota::per_second(1).fixed_window_from_first().algorithm();
    assert_eq!(algorithm.as_str(), "fixed_window_from_first");
    assert_eq!(algorithm.to_string(), "fixed window from first");
    assert_eq!(Inherit::AsIs.as_str(), "as_is");
    assert_eq!(Inherit::AsIs.to_string(), "as is");
    assert_eq!(Inherit::Proportional.to_string(), "proportional");
    let quota = Quota::per_minute(10).burst(5);
    assert_eq!(format!("{quota:?}"), "Quota(10/min, burst 5)");
}
