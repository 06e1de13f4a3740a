//! The limit algorithms, one sample at a time.

use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, Calibration, ConcurrencyLimit, Correlated, Fixed, Gradient, Gradient2, Sample, Vegas,
    Windowed,
};
use backstop::{Bulkhead, Instant};

use super::super::ms;
use super::{Limit, algorithms};

/// A long-term average above twice the latency falls by 5 % per sample, faster than its window of 600 samples.
#[test]
fn gradient2_forgets_an_overload_quickly() {
    let mut limit = Gradient2::builder().build().unwrap();
    let mut feed = |range: std::ops::Range<u64>, latency| {
        for tenth in range {
            limit.on_sample(&after(tenth * 100, ms(latency), limit.limit()));
        }
        limit.limit()
    };
    feed(0..20, 100);
    let before = feed(20..60, 10);
    // Four times what it is by now, and less than half of what it was.
    assert!(feed(60..62, 40) < before);
}

#[test]
fn vegas_shrinks_once_for_calls_that_time_out_together() {
    let ten_time_out = |every| {
        let vegas = Vegas::builder().every_sample(every);
        let mut limit = vegas.initial(50).build().unwrap();
        for _ in 0..10 {
            limit.on_sample(&after(100, ms(50), 50).overloaded());
        }
        let together = limit.limit();
        // A call that started after the decrease counts again.
        limit.on_sample(&after(150, ms(50), 50).overloaded());
        (together, limit.limit())
    };
    assert_eq!(ten_time_out(false), (49, 48));
    assert_eq!(ten_time_out(true), (40, 39));
}

#[test]
fn a_function_that_returns_nan_changes_nothing() {
    let nan = |_: f64| f64::NAN;
    let vegas = Vegas::builder().increase(nan).decrease(nan).beta(nan);
    let mut limit = vegas.threshold(|_| 10.0).build().unwrap();
    for millis in 1..100 {
        let sample = after(millis * 100, ms(10 + millis), 20);
        limit.on_sample(&sample);
        limit.on_sample(&sample.overloaded());
        assert_eq!(limit.limit(), 20);
    }
}

#[test]
fn algorithms_survive_any_sample() {
    let times = [0, 1, 1_000_000_000, u64::MAX / 2, u64::MAX, 0];
    for (name, mut algorithm) in algorithms() {
        for round in 0..200_u64 {
            for now in times.map(Instant::from_nanos) {
                for latency in [Duration::ZERO, ms(1), Duration::MAX] {
                    for in_flight in [0, 1, u32::MAX] {
                        let mut sample = Sample::new(now, latency, in_flight);
                        sample.overloaded = round % 3 == 0;
                        sample.full = round % 2 == 0;
                        sample.random = [0.0, 0.999_999, f64::NAN][(round % 3) as usize];
                        algorithm.on_sample(&sample);
                        assert!((1..=1000).contains(&algorithm.limit()), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn invalid_settings_of_algorithms_are_errors() {
    let numbers = [f64::NAN, f64::INFINITY, -1.0];
    for bad in numbers {
        assert_eq!(
            Aimd::builder()
                .decrease_factor(bad)
                .build()
                .unwrap_err()
                .setting(),
            "decrease_factor"
        );
        assert_eq!(
            Vegas::builder()
                .smoothing(bad)
                .build()
                .unwrap_err()
                .setting(),
            "smoothing"
        );
        let gradient2 = Gradient2::builder();
        assert_eq!(
            gradient2.smoothing(bad).build().unwrap_err().setting(),
            "smoothing"
        );
        assert_eq!(
            gradient2.tolerance(bad).build().unwrap_err().setting(),
            "tolerance"
        );
        assert_eq!(
            gradient2
                .decrease_factor(bad)
                .build()
                .unwrap_err()
                .setting(),
            "decrease_factor"
        );
        let gradient = Gradient::builder();
        assert_eq!(
            gradient.buffer(bad).build().unwrap_err().setting(),
            "buffer"
        );
        assert_eq!(
            gradient.quantile(bad).build().unwrap_err().setting(),
            "quantile"
        );
        let calibration = Calibration::default().jitter(bad);
        assert_eq!(
            gradient
                .calibration(calibration)
                .build()
                .unwrap_err()
                .setting(),
            "calibration"
        );
        let correlated = Correlated::builder().max_limit_factor(bad, 0.0, 1.2);
        assert_eq!(
            correlated.build().unwrap_err().setting(),
            "max_limit_factor"
        );
    }
    for bad in [f64::NAN, -0.1, 1.1] {
        let window = Windowed::builder()
            .overload_share(bad)
            .around(Fixed::new(1));
        assert_eq!(window.unwrap_err().setting(), "overload_share");
        let gradient = Gradient::builder().overload_share(bad).build();
        assert_eq!(gradient.unwrap_err().setting(), "overload_share");
    }
    for calibration in [
        Calibration::default().samples(0),
        Calibration::default().concurrency(0),
        Calibration::default().quantile(1.1),
    ] {
        let vegas = Vegas::builder().calibration(calibration).build();
        assert_eq!(vegas.unwrap_err().setting(), "calibration");
        let gradient = Gradient::builder().calibration(calibration).build();
        assert_eq!(gradient.unwrap_err().setting(), "calibration");
    }
    assert_eq!(
        Aimd::builder().min(9).max(8).build().unwrap_err().setting(),
        "max"
    );
    assert_eq!(
        Aimd::builder().initial(0).build().unwrap_err().setting(),
        "initial"
    );
    let huge = Aimd::builder()
        .initial(u32::MAX)
        .max(u32::MAX)
        .timeout(Duration::MAX)
        .build();
    let bulkhead = Bulkhead::builder().adaptive(huge.unwrap()).build().unwrap();
    bulkhead.try_acquire().unwrap().success();
    assert_eq!(bulkhead.limit(), (1 << 31) - 1);
    let _ = (
        Calibration::every(Duration::MAX),
        Calibration::default().samples(u32::MAX),
    );
}

fn after(millis: u64, latency: Duration, in_flight: u32) -> Sample {
    Sample::new(Instant::ORIGIN + ms(millis), latency, in_flight)
}

#[test]
fn correlated_reaches_its_bound_and_shrinks_to_it_by_steps() {
    let window = Windowed::builder()
        .window_between(ms(1), ms(1))
        .min_calls(1);
    let builder = Correlated::builder().windowed(window).initial(18);
    let mut limit = builder.max_limit_factor(5.0, 0.0, 1.2).build().unwrap();
    // The bound is five times four.
    for (second, expected) in [(1, 19), (2, 20), (3, 20), (4, 20)] {
        limit.on_sample(&after(second * 1000, ms(10), 4));
        assert_eq!(limit.limit(), expected);
    }
    for expected in (10..20).rev().chain([10]) {
        let second = 5 + u64::from(20 - expected);
        limit.on_sample(&after(second * 1000, ms(10), 2));
        assert_eq!(limit.limit(), expected);
    }
}

/// Nine calls and one that timed out are no overload, eight and two are one.
#[test]
fn a_window_is_an_overload_by_the_share_of_its_overloads() {
    for (share, fine, too_many) in [(0.1, 1, 2), (0.0, 0, 1), (0.5, 5, 6), (1.0, 10, 11)] {
        let window = Windowed::builder()
            .window_between(ms(1), ms(1))
            .min_calls(10)
            .overload_share(share);
        let aimd = Aimd::builder().every_sample(true).build().unwrap();
        let gradient2 = Gradient2::builder().decrease_factor(0.5).build().unwrap();
        let calibration = Calibration::default().samples(1);
        let gradient = Gradient::builder().min(10).calibration(calibration);
        let gradient = gradient.overload_share(share).build().unwrap();
        let limits: [(&str, Limit); 4] = [
            ("aimd", Box::new(window.around(aimd).unwrap())),
            ("gradient2", Box::new(window.around(gradient2).unwrap())),
            (
                "correlated",
                Box::new(Correlated::builder().windowed(window).build().unwrap()),
            ),
            ("gradient", Box::new(gradient)),
        ];
        for (name, mut limit) in limits {
            // Returns the limit after a window of ten calls.
            let mut feed = |second: u64, overloads: u64| {
                let mut before = 0;
                for call in 0..10 {
                    let mut sample = after(second * 1000 + call, ms(10), limit.limit());
                    sample.overloaded = call < overloads;
                    limit.on_sample(&sample);
                    // The gradient ends a window with the first call after it.
                    before = if call == 0 { limit.limit() } else { before };
                }
                limit.on_sample(&after(second * 1000 + 500, ms(10), limit.limit()));
                (before, limit.limit())
            };
            for second in 1..4 {
                feed(second, 0);
            }
            let (before, good) = feed(4, fine);
            assert!(good >= before, "{name}, {share}: {before} to {good}");
            if too_many <= 10 {
                let (before, bad) = feed(5, too_many);
                assert!(bad < before, "{name}, {share}: {before} to {bad}");
            }
        }
    }
}

/// A limit that changes several times before the first change shows would oscillate.
#[test]
fn gradient_waits_for_two_round_trips() {
    let calibration = Calibration::default().samples(1);
    let mut limit = Gradient::builder()
        .calibration(calibration)
        .build()
        .unwrap();
    limit.on_sample(&after(1000, ms(300), 3));
    assert_eq!(limit.baseline(), Some(ms(300)));
    for (millis, expected) in [(1300, 3), (1599, 3), (1600, 5), (2199, 5), (2200, 8)] {
        limit.on_sample(&after(millis, ms(300), limit.limit()));
        assert_eq!(limit.limit(), expected, "{millis}");
    }
}

/// During a calibration the limit may be at its minimum for more than five windows.
#[test]
fn a_running_calibration_continues_through_overloads() {
    let calibration = Calibration::every(Duration::from_secs(1))
        .samples(10)
        .jitter(0.0);
    let mut limit = Gradient::builder()
        .calibration(calibration)
        .build()
        .unwrap();
    for millis in (1..11).map(|call| call * 10) {
        limit.on_sample(&after(millis, ms(10), 3));
    }
    assert_eq!(limit.baseline(), Some(ms(10)));
    limit.on_sample(&after(1100, ms(10), 3));
    for millis in (2..13).map(|round| round * 1000) {
        assert!(limit.is_calibrating());
        limit.on_sample(&after(millis, ms(20), 3));
        for later in [10, 250, 500] {
            limit.on_sample(&after(millis + later, ms(20), 3).overloaded());
        }
    }
    assert_eq!(limit.baseline(), Some(ms(20)));
}

#[test]
fn gradient_calibrates_after_five_windows_at_its_minimum() {
    let calibration = Calibration::every(Duration::from_secs(60)).samples(1);
    let mut limit = Gradient::builder()
        .calibration(calibration)
        .build()
        .unwrap();
    let mut millis = 0;
    let mut window = |limit: &mut Gradient, latency: u64| {
        millis += 101;
        limit.on_sample(&after(millis, ms(latency), limit.limit()));
        limit.tick(Instant::ORIGIN + ms(millis + 101));
    };
    window(&mut limit, 10);
    assert_eq!(limit.baseline(), Some(ms(10)));
    window(&mut limit, 10);
    assert!(limit.limit() > 3);
    // The window that lowers the limit to the minimum is not one of the five.
    while limit.limit() > 3 {
        window(&mut limit, 100);
    }
    for _ in 0..5 {
        assert!(!limit.is_calibrating());
        window(&mut limit, 100);
    }
    assert!(limit.is_calibrating());
    assert_eq!(limit.limit(), 3);
}

#[test]
fn a_factor_below_its_own_minimum_is_an_error() {
    let built = |factor, min| {
        Correlated::builder()
            .max_limit_factor(factor, 0.0, min)
            .build()
    };
    let error = built(1.1, 1.2).unwrap_err();
    let text = "correlated: max_limit_factor must not have a factor below its min";
    assert_eq!(error.to_string(), text);
    assert!(built(1.2, 1.2).is_ok());
}
