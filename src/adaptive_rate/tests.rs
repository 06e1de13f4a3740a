use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(millis: u64) -> Instant {
    Instant::ORIGIN + ms(millis)
}

/// A naive model, in seconds: recomputes rate and plateau from the whole history.
fn naive_model(answers: &[(u64, bool)]) -> (f64, f64) {
    let (mut measured, mut window, mut count) = (0.0, 0.0, 0.0);
    let (mut fill, mut max_rate, mut last_throttle) = (0.5_f64, 0.0_f64, 0.0);
    let mut limiting = false;
    for (millis, throttled) in answers {
        let now = *millis as f64 / 1000.0;
        count += 1.0;
        let this = (now * 2.0).floor() / 2.0;
        if this > window {
            measured = count / (this - window) * 0.8 + measured * 0.2;
            (window, count) = (this, 0.0);
        }
        let target = if *throttled {
            max_rate = if limiting {
                fill.min(measured)
            } else {
                measured
            };
            last_throttle = now;
            limiting = true;
            max_rate * 0.7
        } else {
            let k = (max_rate * 0.3 / 0.4).powf(1.0 / 3.0);
            0.4 * (now - last_throttle - k).powf(3.0) + max_rate
        };
        fill = target.min(2.0 * measured).max(0.5);
    }
    (measured, fill)
}

proptest! {
    #[test]
    fn answers_give_the_rate_of_the_naive_model(
        steps in prop::collection::vec((0_u64..2000, prop::bool::weighted(0.2)), 1..200)
    ) {
        let mut rate = CubicRate::builder().build(Instant::ORIGIN).unwrap();
        let mut answers = Vec::new();
        let mut millis = 0;
        for (pause, throttled) in steps {
            millis += pause;
            answers.push((millis, throttled));
            let limit = rate.on_response(at(millis), throttled);
            let (measured, fill) = naive_model(&answers);
            prop_assert!((rate.meter().rate() - measured).abs() <= 1e-9 * measured.max(1.0));
            prop_assert!((rate.bucket().rate() - fill).abs() <= 1e-6 * fill.max(1.0));
            let was_throttled = answers.iter().any(|(_, throttled)| *throttled);
            prop_assert_eq!(limit, was_throttled.then(|| rate.bucket().rate()));
        }
    }

    #[test]
    fn a_bucket_gives_no_more_than_a_burst_and_the_rate(
        rate in 0.1..1000.0_f64,
        steps in prop::collection::vec((0_u64..500, 0.0..5.0_f64), 1..200)
    ) {
        let mut bucket = RateBucket::new(Instant::ORIGIN, rate, 0.1);
        let (mut millis, mut given) = (0, 0.0);
        for (pause, tokens) in steps {
            millis += pause;
            let earned = bucket.capacity().min(millis as f64 / 1000.0 * rate);
            match bucket.try_take(at(millis), tokens) {
                Ok(()) => given += tokens,
                Err(wait) if tokens <= bucket.capacity() => {
                    let mut later = bucket;
                    prop_assert!(later.try_take(at(millis) + wait, tokens).is_ok());
                    prop_assert!(wait < ms(60_000));
                }
                Err(wait) => prop_assert_eq!(wait, Duration::MAX),
            }
            prop_assert!(given <= millis as f64 / 1000.0 * rate + 1e-6);
            prop_assert!(bucket.available() <= earned.max(bucket.capacity()));
        }
    }

    #[test]
    fn clocks_that_jump_do_no_harm(
        steps in prop::collection::vec((any::<u64>(), any::<bool>(), any::<f64>()), 1..50)
    ) {
        let mut rate = CubicRate::builder().build(Instant::ORIGIN).unwrap();
        for (nanos, throttled, tokens) in steps {
            let now = Instant::from_nanos(nanos);
            rate.on_response(now, throttled);
            let _ = rate.try_take(now, tokens);
            check(&rate);
        }
    }
}

/// Invariants of the rate and the bucket.
fn check(rate: &CubicRate) {
    let (fill, measured) = (rate.bucket().rate(), rate.meter().rate());
    assert!(fill.is_finite() && fill > 0.0, "{rate:?}");
    assert!(measured.is_finite() && measured >= 0.0, "{rate:?}");
    assert!(rate.bucket().available() >= 0.0, "{rate:?}");
    assert!(
        rate.bucket().available() <= rate.bucket().capacity(),
        "{rate:?}"
    );
    assert!(
        rate.interval().is_none_or(|interval| !interval.is_zero()),
        "{rate:?}"
    );
}

#[test]
fn extreme_values_fail_or_saturate() {
    let floats = [
        f64::NAN,
        f64::NEG_INFINITY,
        -1.0,
        -0.0,
        0.0,
        f64::MIN_POSITIVE,
        0.5,
        1.0,
        1e9,
        f64::MAX,
        f64::INFINITY,
    ];
    let windows = [
        Duration::ZERO,
        Duration::from_nanos(1),
        ms(500),
        Duration::MAX,
    ];
    let instants = [at(0), at(1), at(3_600_000), Instant::FAR_FUTURE, at(5)];
    let builder = CubicRate::builder;
    let mut built = 0;
    for value in floats {
        for window in windows {
            for builder in [
                builder().decrease_factor(value),
                builder().scale(value),
                builder().smoothing(value),
                builder().min_rate(value),
            ] {
                let Ok(mut rate) = builder.window(window).build(at(0)) else {
                    continue;
                };
                built += 1;
                for now in instants {
                    for throttled in [false, true, true, false] {
                        rate.on_response(now, throttled);
                        for tokens in floats {
                            let _ = rate.try_take(now, tokens);
                        }
                        check(&rate);
                    }
                }
            }
            // The parts accept any values.
            let mut meter = RateMeter::new(at(7), window, value);
            for now in instants {
                assert!(meter.record(now, u64::MAX).is_finite());
            }
        }
        for other in floats {
            let mut curve = CubicCurve::new(at(7), value, other, other);
            let mut bucket = RateBucket::new(at(7), value, other);
            for now in instants {
                for rate in [curve.on_success(now), curve.on_throttle(now, value)] {
                    assert!(rate.is_finite() && rate >= 0.0, "{curve:?}");
                }
                let _ = bucket.try_take(now, value);
                bucket.set_rate(now, other);
                assert!(!bucket.available().is_nan(), "{bucket:?}");
            }
        }
    }
    assert!(built > 0);
    let settings = [
        ("decrease_factor", builder().decrease_factor(f64::NAN)),
        ("decrease_factor", builder().decrease_factor(1.1)),
        ("scale", builder().scale(0.0)),
        ("scale", builder().scale(f64::INFINITY)),
        ("smoothing", builder().smoothing(0.0)),
        ("window", builder().window(Duration::ZERO)),
        ("min_rate", builder().min_rate(0.0)),
    ];
    for (setting, builder) in settings {
        assert_eq!(builder.build(at(0)).unwrap_err().setting(), setting);
    }
}

/// Simulates a client that sends whenever it may, to a dependency that accepts `per_tenth` calls per tenth of a
/// second and throttles the rest. Returns the answered and the throttled share of the second half.
fn steered(per_tenth: u32, tenths: u64) -> (f64, f64) {
    let mut rate = CubicRate::builder().build(at(0)).unwrap();
    let (mut good, mut throttled) = (0.0, 0.0);
    for tenth in 0..tenths {
        let mut room = per_tenth;
        // The demand is twenty times the capacity of the dependency.
        for call in 0..u64::from(per_tenth) * 20 {
            let now = at(tenth * 100) + Duration::from_micros(call * 5000 / u64::from(per_tenth));
            if rate.try_take(now, 1.0).is_err() {
                continue;
            }
            let refused = room == 0;
            room = room.saturating_sub(1);
            rate.on_response(now, refused);
            if tenth >= tenths / 2 {
                *(if refused { &mut throttled } else { &mut good }) += 1.0;
            }
        }
    }
    let seconds = tenths as f64 / 20.0;
    (good / seconds, throttled / seconds)
}

#[test]
fn the_rate_settles_near_what_the_dependency_takes() {
    for per_tenth in [1, 10, 40] {
        let capacity = f64::from(per_tenth) * 10.0;
        let (good, throttled) = steered(per_tenth, 1000);
        assert!(
            (0.6 * capacity..=capacity).contains(&good),
            "{capacity}/s: {good} good"
        );
        // Without the adaptive rate, most calls would be throttled.
        assert!(
            throttled < 0.4 * good,
            "{capacity}/s: {good} good, {throttled} throttled"
        );
    }
}

#[test]
fn nothing_is_limited_before_the_first_throttled_answer() {
    let mut rate = CubicRate::builder().build(at(0)).unwrap();
    for millis in 0..2000 {
        assert_eq!(rate.on_response(at(millis), false), None);
        assert_eq!(rate.try_take(at(millis), 1e9), Ok(()));
    }
    assert_eq!((rate.rate(), rate.interval()), (None, None));
    let limit = rate.on_response(at(2000), true).unwrap();
    assert_eq!(
        rate.interval().unwrap(),
        Duration::from_secs_f64(1.0 / limit)
    );
    assert!(rate.try_take(at(2000), 1e9).is_err());
}

#[test]
fn readings_out_of_order_earn_nothing_twice() {
    let mut bucket = RateBucket::new(at(0), 10.0, 1.0);
    let mut taken = 0;
    for tenth in 0..1000_u64 {
        // Two threads, one of which is always half a second late.
        for now in [100 * tenth + 500, 100 * tenth] {
            taken += u32::from(bucket.try_take(at(now), 1.0).is_ok());
        }
    }
    assert!((1000..=1006).contains(&taken), "{taken}");
}

#[test]
fn a_new_rate_does_not_reprice_the_past() {
    let mut bucket = RateBucket::new(at(0), 10.0, 1.0);
    bucket.set_rate(at(500), 100.0);
    assert!((bucket.available() - 5.0).abs() < 1e-9);
    assert!(bucket.try_take(at(500), 6.0).is_err());
    assert!(bucket.try_take(at(500), 5.0).is_ok());
    assert!(bucket.try_take(at(600), 10.0).is_ok());
    assert!(bucket.try_take(at(600), 1.0).is_err());
}
