//! Zero, not-a-number, infinity and the largest numbers in every setting: each is rejected with an
//! error that names the setting, or has a defined effect.

use std::time::Duration;

use backstop::bulkhead::limit::{
    Aimd, Calibration, ConcurrencyLimit, Correlated, ExpAverage, Fixed, Gradient, Gradient2,
    Sample, Vegas, Windowed,
};
use backstop::codel::Codel;
use backstop::{Bulkhead, Clock, Instant, ManualClock};

use super::on;
use super::values::{COUNTS, NUMBERS, TIMES, check};

/// Passes samples with extreme times, latencies, and in-flight counts.
fn feed(mut limit: impl ConcurrencyLimit) {
    for now in TIMES {
        for latency in TIMES {
            for in_flight in COUNTS {
                for (overloaded, full) in [(false, false), (true, true), (false, true)] {
                    let mut sample = Sample::new(Instant::ORIGIN + now, latency, in_flight);
                    sample.overloaded = overloaded;
                    sample.full = full;
                    limit.on_sample(&sample);
                    assert!(limit.limit() >= 1, "{limit:?}");
                }
            }
        }
    }
    // A bulkhead must bear an algorithm after such samples.
    try_out(
        Bulkhead::builder()
            .adaptive(limit)
            .clock(ManualClock::new())
            .build()
            .unwrap(),
    );
}

fn try_out(bulkhead: Bulkhead) {
    for limit in COUNTS {
        assert_eq!(bulkhead.set_limit(limit).is_ok(), limit > 0);
        let permit = bulkhead.try_acquire().unwrap();
        permit.overloaded();
        bulkhead.try_acquire().unwrap().success();
        drop(bulkhead.try_acquire().unwrap());
        assert_eq!(bulkhead.snapshot().in_flight, 0);
        assert!(bulkhead.limit() >= 1);
    }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

#[test]
fn bulkheads() {
    let clock = ManualClock::new();
    let builder = || on(&clock);
    let above_zero = |count: u32| count > 0;
    check(
        "max_concurrent",
        &COUNTS,
        above_zero,
        |n| builder().max_concurrent(n).build(),
        try_out,
    );
    check(
        "queue",
        &[0, 1, usize::MAX],
        |_| true,
        |n| builder().max_waiting(n).build(),
        try_out,
    );
    check(
        "max_wait",
        &TIMES,
        |_| true,
        |time| builder().max_waiting(1).max_wait(time).build(),
        try_out,
    );
    check(
        "partition",
        &NUMBERS,
        |share| is_share(share) && share > 0.0,
        |share| builder().partition("a", share).build(),
        |bulkhead| try_out(bulkhead.partition("a").unwrap()),
    );
    let is_interval = |time: Duration| time > Duration::from_nanos(1);
    check(
        "codel",
        &TIMES,
        is_interval,
        |time| {
            builder()
                .max_waiting(1)
                .codel(Duration::from_nanos(1), time)
                .build()
        },
        try_out,
    );
}

#[test]
fn codels() {
    let clock = ManualClock::new();
    let feed = |mut codel: Codel| {
        for now in TIMES {
            for delay in TIMES {
                codel.should_drop(delay, Instant::ORIGIN + now);
                assert!((0.0..=1.0).contains(&codel.load()), "{codel:?}");
            }
        }
    };
    let build = || Codel::builder().interval(Duration::MAX);
    let is_target = |time: Duration| !time.is_zero() && time < Duration::MAX;
    check(
        "target",
        &TIMES,
        is_target,
        |time| build().target(time).build(clock.now()),
        feed,
    );
    check(
        "stale_after",
        &COUNTS,
        |count| count > 0,
        |count| build().stale_after(count).build(clock.now()),
        feed,
    );
}

/// Checks the bounds of an algorithm.
macro_rules! bounds {
    ($algorithm:ident, $finish:expr) => {
        let finish = $finish;
        check(
            "initial",
            &COUNTS,
            |n| n > 0,
            |n| finish($algorithm::builder().initial(n)),
            feed,
        );
        check(
            "min",
            &COUNTS,
            |n| n > 0,
            |n| finish($algorithm::builder().min(n).max(u32::MAX)),
            feed,
        );
        check(
            "max",
            &COUNTS,
            |n| n > 0,
            |n| finish($algorithm::builder().max(n)),
            feed,
        );
    };
}

#[test]
fn algorithms_that_watch_overload() {
    feed(Fixed::new(1));
    feed(Fixed::new(u32::MAX));
    bounds!(Aimd, |aimd: backstop::bulkhead::limit::AimdBuilder| aimd
        .build());
    check(
        "decrease_factor",
        &NUMBERS,
        is_share,
        |n| {
            Aimd::builder()
                .decrease_factor(n)
                .every_sample(true)
                .build()
        },
        feed,
    );
    check(
        "increase_by",
        &COUNTS,
        |n| n > 0,
        |n| Aimd::builder().increase_by(n).every_sample(true).build(),
        feed,
    );
    for timeout in TIMES {
        feed(Aimd::builder().timeout(timeout).build().unwrap());
    }
}

#[test]
fn algorithms_that_watch_latency() {
    use backstop::bulkhead::limit::{CorrelatedBuilder, Gradient2Builder, VegasBuilder};
    bounds!(Vegas, |vegas: VegasBuilder| vegas
        .every_sample(true)
        .build());
    bounds!(Gradient2, |gradient: Gradient2Builder| gradient.build());
    bounds!(Correlated, |correlated: CorrelatedBuilder| correlated
        .build());
    check(
        "smoothing",
        &NUMBERS,
        |n| n > 0.0 && n <= 1.0,
        |n| Vegas::builder().smoothing(n).every_sample(true).build(),
        feed,
    );
    check(
        "max_baseline_age",
        &TIMES,
        |time| !time.is_zero(),
        |time| Vegas::builder().max_baseline_age(time).build(),
        feed,
    );
    // Functions of the limit are user code.
    for number in NUMBERS {
        let vegas = Vegas::builder()
            .alpha(move |_| number)
            .beta(move |_| number);
        let vegas = vegas.increase(move |_| number).decrease(move |_| number);
        feed(vegas.every_sample(true).build().unwrap());
    }
    check(
        "smoothing",
        &NUMBERS,
        |n| n > 0.0 && n <= 1.0,
        |n| Gradient2::builder().smoothing(n).build(),
        feed,
    );
    check(
        "tolerance",
        &NUMBERS,
        |n| (1.0..=f64::MAX).contains(&n),
        |n| Gradient2::builder().tolerance(n).build(),
        feed,
    );
    check(
        "recovery",
        &NUMBERS,
        |n| n > 0.0 && n <= 1.0,
        |n| Gradient2::builder().recovery(n).build(),
        feed,
    );
    check(
        "decrease_factor",
        &NUMBERS,
        is_share,
        |n| Gradient2::builder().decrease_factor(n).build(),
        feed,
    );
    check(
        "long_window",
        &COUNTS,
        |n| n > 0,
        |n| Gradient2::builder().long_window(n).queue_size(n).build(),
        feed,
    );
    check(
        "long_window",
        &COUNTS,
        |n| n > 0,
        |n| Correlated::builder().long_window(n).build(),
        feed,
    );
    check(
        "max_limit_factor",
        &NUMBERS,
        |n| (1.0..=f64::MAX).contains(&n),
        |n| Correlated::builder().max_limit_factor(n, 1.0, n).build(),
        feed,
    );
    check(
        "correlation_window",
        &[0, 1, 9, 10, 1000, 1001, usize::MAX],
        |n| n == 0 || (10..=1000).contains(&n),
        |n| Correlated::builder().correlation_window(n).build(),
        feed,
    );
    for (size, time) in [0, 10, 1000].into_iter().zip(TIMES.into_iter().rev()) {
        let correlated = Correlated::builder()
            .correlation_window(size)
            .baseline(time);
        feed(correlated.max_limit_stabilization(time).build().unwrap());
    }
}

#[test]
fn gradients_windows_and_calibrations() {
    check(
        "min",
        &COUNTS,
        |n| n > 0,
        |n| Gradient::builder().min(n).max(u32::MAX).build(),
        feed,
    );
    check(
        "update_interval",
        &TIMES,
        |time| !time.is_zero(),
        |time| Gradient::builder().update_interval(time).build(),
        feed,
    );
    check(
        "quantile",
        &NUMBERS,
        is_share,
        |n| Gradient::builder().quantile(n).build(),
        feed,
    );
    check(
        "buffer",
        &NUMBERS,
        |n| (0.0..=f64::MAX).contains(&n),
        |n| Gradient::builder().buffer(n).build(),
        feed,
    );
    let calibrated =
        |calibration: Calibration| Gradient::builder().calibration(calibration).build();
    check(
        "calibration",
        &NUMBERS,
        is_share,
        |n| calibrated(Calibration::default().jitter(n).quantile(n)),
        feed,
    );
    check(
        "calibration",
        &COUNTS,
        |n| n > 0,
        |n| calibrated(Calibration::every(Duration::ZERO).samples(n).concurrency(n)),
        feed,
    );
    check(
        "calibration",
        &TIMES,
        |_| true,
        |time| calibrated(Calibration::every(time).samples(1)),
        feed,
    );
    let around = |window: backstop::bulkhead::limit::WindowedBuilder| {
        window.around(Aimd::builder().build().unwrap())
    };
    check(
        "window_between",
        &TIMES,
        |time| time <= Duration::from_secs(1),
        |time| around(Windowed::builder().window_between(time, Duration::from_secs(1))),
        feed,
    );
    check(
        "min_calls",
        &COUNTS,
        |n| n > 0,
        |n| around(Windowed::builder().min_calls(n)),
        feed,
    );
    check(
        "quantile",
        &NUMBERS,
        is_share,
        |n| around(Windowed::builder().quantile(n)),
        feed,
    );
    for time in TIMES {
        feed(around(Windowed::builder().min_latency(time)).unwrap());
    }
}

#[test]
fn the_average_of_a_constant_is_the_constant() {
    for count in COUNTS {
        let mut average = ExpAverage::new(count, count);
        for _ in 0..20 {
            assert_eq!(average.add(7.0), 7.0);
        }
    }
}
