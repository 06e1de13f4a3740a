use std::time::Duration;

use backstop::throttle::ThrottleBuilder;
use backstop::{ManualClock, Throttle};

use super::{builder, fail, probability, rejections};

#[test]
fn a_threshold_out_of_range_is_an_error_and_extreme_settings_are_not() {
    for bad in [0.0, -1.0, 1.000_001, f64::NAN, f64::INFINITY] {
        let error = Throttle::builder().success_threshold(bad).build();
        assert_eq!(error.unwrap_err().setting(), "success_threshold");
    }
    let clock = ManualClock::new();
    let throttle = builder(&clock)
        .success_threshold(f64::MIN_POSITIVE)
        .window(Duration::MAX)
        .grace(Duration::MAX)
        .probe_every(Duration::MAX)
        .aggression(f64::MAX)
        .min_calls_per_second(f64::MAX)
        .min_calls(u32::MAX)
        .build()
        .unwrap();
    fail(&throttle, 100);
    assert_eq!(probability(&throttle), 0.0);
    assert_eq!(rejections(&throttle, 10), 0);
}

#[test]
fn settings_of_zero_are_errors() {
    type Set = fn(ThrottleBuilder) -> ThrottleBuilder;
    let table: [(&str, Set); 4] = [
        ("min_calls", |b| b.min_calls(0)),
        ("slices", |b| b.slices(0)),
        ("window", |b| b.window(Duration::ZERO)),
        ("probe_every", |b| b.probe_every(Duration::ZERO)),
    ];
    for (setting, set) in table {
        let error = set(builder(&ManualClock::new())).build().unwrap_err();
        assert_eq!(error.setting(), setting);
    }
}

#[test]
fn debug_output_has_no_packed_values() {
    let throttle = builder(&ManualClock::new()).name("users").build().unwrap();
    let debug = format!("{throttle:?}");
    assert!(
        debug.starts_with("Throttle { name: \"users\", rule: "),
        "{debug}"
    );
    assert!(debug.contains("window: 60s"), "{debug}");
    assert_eq!(throttle.snapshot().name, "users");
}
