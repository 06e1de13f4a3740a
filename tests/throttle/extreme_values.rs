//! Zero, not-a-number, infinity, and the largest numbers in every setting.

use std::time::Duration;

use backstop::throttle::ThrottleBuilder;
use backstop::{ConfigError, ManualClock, Throttle, Verdict};

use super::values::{COUNTS, NUMBERS, TIMES, check};

/// A clock at its beginning, and one that is about to end.
fn clocks() -> [ManualClock; 2] {
    let old = ManualClock::new();
    old.advance(Duration::from_nanos(u64::MAX - 1000));
    [ManualClock::new(), old]
}

/// A throttle at both ends of time: many calls that end in every way, with snapshots in between.
fn drive(throttle: ThrottleBuilder) {
    for clock in clocks() {
        let throttle = throttle.clone().seed(1).clock(clock.clone());
        let throttle = throttle.build().unwrap();
        for time in TIMES {
            for verdict in [Verdict::failure(), Verdict::success(), Verdict::ignore()] {
                for _ in 0..4 {
                    throttle.record(verdict);
                    let open = throttle.try_acquire();
                    let seen = throttle.snapshot();
                    assert!(seen.rejection_probability >= 0.0, "{seen:?}");
                    assert!(seen.rejection_probability <= seen.max_rejection, "{seen:?}");
                    assert!(seen.calls_per_second.is_finite(), "{seen:?}");
                    let parts = seen.accepts + seen.failures + seen.in_flight;
                    assert_eq!(seen.calls, parts, "{seen:?}");
                    if let Ok(permit) = open {
                        permit.record(verdict);
                    }
                }
            }
            clock.advance(time);
        }
    }
}

#[test]
fn throttles() {
    let throttle = || Throttle::builder().clock(ManualClock::new());
    /// Builds it to see whether it can be, and hands on the builder.
    fn built(builder: ThrottleBuilder) -> Result<ThrottleBuilder, ConfigError> {
        builder.clone().build().map(|_| builder)
    }
    let is_threshold = |share: f64| share > 0.0 && share <= 1.0;
    check(
        "success_threshold",
        &NUMBERS,
        is_threshold,
        |n| built(throttle().success_threshold(n)),
        drive,
    );
    check(
        "max_rejection",
        &NUMBERS,
        |n| (0.0..=1.0).contains(&n),
        |n| built(throttle().max_rejection(n)),
        drive,
    );
    check(
        "aggression",
        &NUMBERS,
        |n| n >= 1.0 && n.is_finite(),
        |n| built(throttle().aggression(n)),
        drive,
    );
    check(
        "min_calls_per_second",
        &NUMBERS,
        |n| n >= 0.0 && n.is_finite(),
        |n| built(throttle().min_calls_per_second(n)),
        drive,
    );
    check(
        "min_calls",
        &COUNTS,
        |n| n > 0,
        |n| built(throttle().min_calls(n)),
        drive,
    );
    check(
        "slices",
        &COUNTS,
        |n| (1..=1024).contains(&n),
        |n| built(throttle().slices(n)),
        drive,
    );
    for slices in [1, 20, 1024] {
        check(
            "window",
            &TIMES,
            |time| time >= Duration::from_micros(100) * slices,
            |time| built(throttle().slices(slices).window(time)),
            drive,
        );
    }
    check(
        "probe_every",
        &TIMES,
        |time| !time.is_zero(),
        |time| built(throttle().probe_every(time)),
        drive,
    );
    for time in TIMES {
        drive(throttle().grace(time));
        drive(throttle().grace(time).window(Duration::MAX));
        drive(
            throttle()
                .grace(time)
                .window(Duration::from_micros(100))
                .slices(1),
        );
    }
    let harshest = throttle()
        .success_threshold(f64::MIN_POSITIVE)
        .aggression(f64::MAX)
        .max_rejection(1.0)
        .min_calls(1);
    drive(harshest.clone());
    drive(harshest.success_threshold(1.0).count_rejected(true));
}

#[test]
fn an_endless_window_is_printed_and_bounds_the_eviction() {
    let builder = Throttle::builder().clock(ManualClock::new());
    let throttle = builder.window(Duration::MAX).build().unwrap();
    throttle.record(Verdict::failure());
    assert!(format!("{throttle:?}").contains("window"));
    let evictable_in = backstop::keyed::Evictable::evictable_in(&throttle);
    assert_eq!(evictable_in, Some(Duration::MAX));
}
