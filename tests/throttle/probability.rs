use std::time::Duration;

use backstop::{ManualClock, Verdict};

use super::{MINUTE, builder, counts, fail, probability, rejections};

#[test]
fn calls_are_rejected_with_the_probability_of_the_snapshot() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    for call in 0..100 {
        let verdict = if call % 2 == 0 {
            Verdict::success()
        } else {
            Verdict::transient()
        };
        throttle.record(verdict);
    }
    let expected = (100.0 - 50.0 / 0.9) / 101.0;
    assert!((probability(&throttle) - expected).abs() < 1e-12);
    let share = f64::from(rejections(&throttle, 20_000)) / 20_000.0;
    assert!((share - expected).abs() < 0.015, "{share}");
    assert!(throttle.snapshot().rejected > 8_000);
}

#[test]
fn a_seed_reproduces_the_decisions() {
    let decisions = |seed| {
        let clock = ManualClock::new();
        let throttle = builder(&clock).seed(seed).build().unwrap();
        fail(&throttle, 15);
        let draw = |_| throttle.try_acquire().is_ok();
        (0..100).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(decisions(1), decisions(1));
    assert_ne!(decisions(1), decisions(2));
}

#[test]
fn the_probability_is_capped() {
    let clock = ManualClock::new();
    for cap in [0.0, 0.3, 0.9] {
        let throttle = builder(&clock).max_rejection(cap).build().unwrap();
        fail(&throttle, 10_000);
        assert_eq!(probability(&throttle), cap);
        let share = f64::from(rejections(&throttle, 10_000)) / 10_000.0;
        assert!((share - cap).abs() < 0.02, "{share}");
    }
}

#[test]
fn no_call_is_rejected_below_min_calls() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).max_rejection(1.0).build().unwrap();
    fail(&throttle, 9);
    assert_eq!(
        (probability(&throttle), rejections(&throttle, 100)),
        (0.0, 0)
    );
    fail(&throttle, 1);
    assert_eq!(probability(&throttle), 10.0 / 11.0);
}

#[test]
fn no_call_is_rejected_below_min_calls_per_second() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).min_calls_per_second(1.0).build().unwrap();
    fail(&throttle, 59);
    assert_eq!(probability(&throttle), 0.0);
    fail(&throttle, 1);
    assert_eq!(throttle.snapshot().calls_per_second, 1.0);
    assert_eq!(probability(&throttle), 0.9);
}

#[test]
fn failures_are_forgotten_after_one_window() {
    let clock = ManualClock::new();
    let throttle = builder(&clock).build().unwrap();
    fail(&throttle, 20);
    clock.advance(MINUTE - Duration::from_nanos(1));
    assert_eq!(probability(&throttle), 0.9);
    clock.advance(Duration::from_nanos(1));
    assert_eq!((probability(&throttle), counts(&throttle).0), (0.0, 0));
}
