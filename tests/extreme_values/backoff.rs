//! Backoffs and jitter.

use std::time::Duration;

use super::values::{COUNTS, NUMBERS, TIMES, check};
use backstop::{Backoff, ConfigError, Jitter, ManualClock, Retry};

use super::try_out;

fn build_with(backoff: &Backoff) -> Result<Retry, ConfigError> {
    let builder = || Retry::builder().clock(ManualClock::new());
    let throttled = builder().throttled_backoff(backoff.clone()).build();
    let built = builder().backoff(backoff.clone()).build();
    assert_eq!(built.is_ok(), throttled.is_ok());
    built
}

/// No delay of an accepted backoff is longer than `max`, and calls with it end.
fn stays_below(backoff: &Backoff, max: Duration) {
    let seeded = (0..5).flat_map(|seed| backoff.delays(seed).take(70));
    let numbered = COUNTS.map(|n| backoff.delay(n));
    for delay in seeded.chain(numbered) {
        assert!(delay <= max, "{backoff:?}: {delay:?}");
    }
}

#[test]
fn backoff_times() {
    for initial in TIMES {
        let shapes = [
            (Backoff::fixed(initial), initial.is_zero()),
            (Backoff::linear(initial, initial), initial.is_zero()),
            (Backoff::linear(TIMES[2], initial), false),
            (Backoff::exponential(initial), initial.is_zero()),
            (
                Backoff::exponential(initial).factor(1e30),
                initial.is_zero(),
            ),
            (Backoff::fibonacci(initial), initial.is_zero()),
            (Backoff::custom(move |_| initial), false),
        ];
        for (shape, is_error) in shapes {
            check(
                "backoff",
                &TIMES,
                |max| !is_error && !max.is_zero(),
                |max| {
                    let backoff = shape.clone().max(max);
                    build_with(&backoff).map(|_| (backoff, max))
                },
                |(backoff, max)| {
                    stays_below(&backoff, max);
                    stays_below(&backoff.jitter(Jitter::None), max);
                },
            );
        }
        if !initial.is_zero() {
            try_out(Retry::builder().backoff(Backoff::fixed(initial).max(initial)));
        }
    }
}

#[test]
fn backoff_factors() {
    let exponential = |factor| Backoff::exponential(TIMES[2]).factor(factor);
    let build = |factor| build_with(&exponential(factor)).map(|_| exponential(factor));
    check(
        "backoff",
        &NUMBERS,
        |factor| factor >= 1.0 && factor.is_finite(),
        build,
        |backoff| {
            stays_below(&backoff, Duration::from_secs(20));
            let endless = backoff.max(Duration::MAX).jitter(Jitter::None);
            try_out(Retry::builder().backoff(endless));
        },
    );
    // A factor that nothing is multiplied with is a mistake too.
    assert!(build_with(&Backoff::fixed(TIMES[2]).factor(2.0)).is_err());
}

#[test]
fn jitters() {
    let around = |fraction| Backoff::fixed(TIMES[2]).jitter(Jitter::PlusMinus(fraction));
    let build = |fraction| build_with(&around(fraction)).map(|_| around(fraction));
    let is_fraction = |fraction| (0.0..=1.0).contains(&fraction);
    check("backoff", &NUMBERS, is_fraction, build, |backoff| {
        stays_below(&backoff, Duration::from_secs(2));
    });

    let jitters = [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::PlusMinus(1.0),
        Jitter::Decorrelated,
        Jitter::DecorrelatedV2,
    ];
    for jitter in jitters {
        for (time, factor) in TIMES
            .into_iter()
            .flat_map(|t| [1.0, 2.0, f64::MAX].map(|f| (t, f)))
        {
            let backoff = Backoff::exponential(time).factor(factor).jitter(jitter);
            stays_below(&backoff.clone().max(time), time);
            stays_below(&backoff.max(Duration::MAX), Duration::MAX);
        }
    }
    assert!(build_with(&Backoff::fixed(TIMES[2]).jitter(Jitter::Decorrelated)).is_err());
}
