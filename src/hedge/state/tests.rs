//! Tests of the estimator against sorted lists, and of the rules row by row.

use std::time::Duration;

use proptest::prelude::*;

use super::decision::{CopyEffect, LaunchFacts, effect_of, verdict_of_both};
use super::delay::LatencyDelay;
use super::histogram::Histogram;
use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::event::NotSent;
use crate::instant::Instant;
use crate::verdict::{ErrorClass, Verdict};

const WINDOW: u64 = 1_000_000_000;

/// Computes the quantile of Kaplan and Meier, one sample after the other.
fn quantile_of(samples: &[(u64, bool)], quantile: f64) -> Option<u64> {
    let mut sorted = samples.to_vec();
    // At equal times, exact samples come before censored ones.
    sorted.sort_unstable();
    let mut share = 1.0;
    for (at, &(nanos, censored)) in sorted.iter().enumerate() {
        if !censored {
            share *= 1.0 - 1.0 / (sorted.len() - at) as f64;
            if share <= 1.0 - quantile + 1e-9 {
                return Some(nanos);
            }
        }
    }
    sorted.last().map(|&(nanos, _)| nanos)
}

fn sample() -> impl Strategy<Value = (u64, bool)> {
    let nanos = prop_oneof![0_u64..100, 1_000_000_u64..2_000_000, 0_u64..1 << 36];
    (nanos, prop::bool::weighted(0.2))
}

proptest! {
    #[test]
    fn a_quantile_is_as_exact_as_a_bucket_is_wide(
        samples in prop::collection::vec(sample(), 1..300),
        quantile in 0.01_f64..0.999,
    ) {
        let histogram = Histogram::new(WINDOW);
        for &(nanos, censored) in &samples {
            histogram.record(Instant::ORIGIN, nanos, censored);
        }
        let (found, known) = histogram.quantile(Instant::ORIGIN, quantile);
        let found = found.unwrap();
        prop_assert_eq!(known, samples.iter().filter(|(_, censored)| !censored).count() as u64);
        // Samples in one bucket count as simultaneous. Apart from that, the quantile lies between the two that
        // censored samples allow.
        let without: Vec<_> = samples.iter().copied().filter(|(_, censored)| !censored).collect();
        if without.len() == samples.len() {
            let exact = quantile_of(&samples, quantile).unwrap();
            prop_assert!(found.abs_diff(exact) <= exact / 32 + 1, "{} for {}", found, exact);
        } else {
            let longest = samples.iter().map(|&(nanos, _)| nanos).max().unwrap();
            prop_assert!(found <= longest);
            if let Some(plain) = quantile_of(&without, quantile) {
                // Lost copies, which would have taken longer, never shorten the quantile.
                prop_assert!(found + found / 32 + 1 >= plain.min(longest), "{} for {}", found, plain);
            }
        }
    }

    #[test]
    fn equal_latencies_are_exact_to_the_nanosecond(nanos in 0_u64..1 << 37, quantile in 0.0_f64..1.0) {
        let histogram = Histogram::new(WINDOW);
        for _ in 0..50 {
            histogram.record(Instant::ORIGIN, nanos, false);
        }
        prop_assert_eq!(histogram.quantile(Instant::ORIGIN, quantile), (Some(nanos), 50));
    }

    #[test]
    fn samples_of_two_windows_count(
        steps in prop::collection::vec((0_u64..WINDOW, 1_u64..1000), 1..20),
    ) {
        let histogram = Histogram::new(WINDOW);
        let (mut now, mut all) = (0, Vec::new());
        for (pause, nanos) in steps {
            now += pause;
            histogram.record(Instant::from_nanos(now), nanos, false);
            all.push(now / WINDOW);
            for later in [0, WINDOW / 2, WINDOW, 3 * WINDOW] {
                let at = now + later;
                let inside = all.iter().filter(|&&window| at / WINDOW - window <= 1);
                prop_assert_eq!(histogram.known(Instant::from_nanos(at)), inside.count() as u64);
            }
        }
        let forgotten = histogram.forgotten_at(Instant::from_nanos(now));
        prop_assert_eq!(histogram.known(forgotten), 0);
        prop_assert!(histogram.known(Instant::from_nanos(forgotten.as_nanos() - 1)) > 0);
    }
}

#[test]
fn a_dropped_loser_counts_until_it_was_dropped() {
    // Half of the calls take 10, and the others were dropped at 20: the median is 10, and higher quantiles are
    // unknown.
    let histogram = Histogram::new(WINDOW);
    for at in 0..100 {
        histogram.record(
            Instant::ORIGIN,
            if at % 2 == 0 { 10 } else { 20 },
            at % 2 == 1,
        );
    }
    assert_eq!(histogram.quantile(Instant::ORIGIN, 0.5), (Some(10), 50));
    assert_eq!(histogram.quantile(Instant::ORIGIN, 0.9).0, Some(20));
    // Copies that were dropped right after their start say nothing.
    for _ in 0..1000 {
        histogram.record(Instant::ORIGIN, 1, true);
    }
    assert_eq!(histogram.quantile(Instant::ORIGIN, 0.5).0, Some(10));
}

#[test]
fn a_quantile_between_latencies_is_interpolated() {
    // A bucket of this size is 512 wide.
    let histogram = Histogram::new(WINDOW);
    for offset in 0..=100 {
        histogram.record(Instant::ORIGIN, (1 << 14) + offset, false);
    }
    let of = |quantile| histogram.quantile(Instant::ORIGIN, quantile).0.unwrap() - (1 << 14);
    assert_eq!((of(0.1), of(0.5), of(0.98)), (10, 50, 98));
}

#[test]
fn a_delay_needs_enough_calls_and_follows_them() {
    let window = Duration::from_secs(30);
    let delay = LatencyDelay::new(0.95, 20, window);
    let now = Instant::ORIGIN;
    for call in 1..=19 {
        delay.record(now, call * 1_000_000, false);
        assert_eq!(delay.get(now), None);
    }
    delay.record(now, 99, true);
    assert_eq!(delay.get(now), None, "a loser is not an answer");
    delay.record(now, 20_000_000, false);
    assert_eq!(
        (delay.get(now), delay.peek(now)),
        (Some(19_000_000), Some(19_000_000))
    );
    // No samples for two windows.
    let later = now + window * 2;
    assert_eq!(delay.get(later), None);
    assert_eq!(delay.known(later), 0);
}

#[test]
fn the_end_of_a_copy_means_what_its_verdict_says() {
    let second = Duration::from_secs(1);
    let error = || Err::<(), _>(Error::Operation(()));
    let rejected = |reason| Err(Error::Rejected(Rejected::new("x", reason)));
    let table = [
        (Ok(()), Verdict::success(), CopyEffect::Answer),
        (error(), Verdict::permanent(), CopyEffect::Answer),
        (error(), Verdict::ignore(), CopyEffect::Answer),
        (error(), Verdict::transient(), CopyEffect::Lost),
        (Ok(()), Verdict::transient(), CopyEffect::Lost),
        (error(), Verdict::failure(), CopyEffect::LastOne),
        (Ok(()), Verdict::failure(), CopyEffect::LastOne),
        (
            error(),
            Verdict::throttled(None),
            CopyEffect::Throttled(None),
        ),
        (
            error(),
            Verdict::throttled(second),
            CopyEffect::Throttled(Some(second)),
        ),
        (
            error(),
            Verdict::pushback(second),
            CopyEffect::Throttled(Some(second)),
        ),
        (
            Err(Error::TimedOut(TimedOut::new("x", second))),
            Verdict::timed_out(),
            CopyEffect::Lost,
        ),
        (
            Err(Error::TimedOut(TimedOut::by_deadline(second))),
            Verdict::ignore(),
            CopyEffect::Answer,
        ),
        (
            rejected(Reason::CircuitOpen),
            Verdict::ignore(),
            CopyEffect::LastOne,
        ),
        (
            rejected(Reason::BulkheadFull),
            Verdict::transient(),
            CopyEffect::LastOne,
        ),
        (
            rejected(Reason::Throttled),
            Verdict::transient(),
            CopyEffect::Throttled(None),
        ),
    ];
    for (result, verdict, effect) in table {
        assert_eq!(
            effect_of(&result, &verdict),
            effect,
            "{result:?} {verdict:?}"
        );
    }
}

#[test]
fn each_reason_keeps_a_copy_back() {
    let at = |nanos| Instant::from_nanos(nanos);
    let facts = LaunchFacts {
        idempotent: true,
        repeatable: true,
        nested: false,
        probe: false,
        deadline: Instant::FAR_FUTURE,
        paused_until: Instant::ORIGIN,
    };
    assert_eq!(facts.may_launch(at(5)), Ok(()));
    let table = [
        (
            LaunchFacts {
                idempotent: false,
                ..facts
            },
            NotSent::NotIdempotent,
        ),
        (
            LaunchFacts {
                repeatable: false,
                ..facts
            },
            NotSent::NotRepeatable,
        ),
        (
            LaunchFacts {
                nested: true,
                ..facts
            },
            NotSent::Nested,
        ),
        (
            LaunchFacts {
                probe: true,
                ..facts
            },
            NotSent::HalfOpen,
        ),
        (
            LaunchFacts {
                deadline: at(5),
                ..facts
            },
            NotSent::Deadline,
        ),
        (
            LaunchFacts {
                paused_until: at(6),
                ..facts
            },
            NotSent::Throttled,
        ),
    ];
    for (facts, reason) in table {
        assert_eq!(facts.may_launch(at(5)), Err(reason));
    }
    assert_eq!(
        LaunchFacts {
            deadline: at(6),
            paused_until: at(5),
            ..facts
        }
        .may_launch(at(5)),
        Ok(())
    );
}

#[test]
fn a_throttled_copy_slows_down_the_retry_of_its_call() {
    let (throttled, transient) = (Verdict::throttled(None), Verdict::transient());
    for (earlier, later) in [(throttled, transient), (transient, throttled)] {
        let both = verdict_of_both(earlier, Duration::ZERO, later);
        assert_eq!(both.class(), ErrorClass::Throttled);
        assert!(both.is_retryable());
    }
}

#[test]
fn a_hint_that_has_just_passed_is_none() {
    let second = Duration::from_secs(1);
    let verdict = |waited| {
        let earlier = Verdict::transient().after(second);
        verdict_of_both(earlier, waited, Verdict::transient()).hint()
    };
    assert_eq!(verdict(second / 4), Some(second * 3 / 4));
    assert_eq!(verdict(second), None);
    assert_eq!(verdict(second * 2), None);
}

#[test]
fn a_delay_follows_its_quantile_at_once_and_is_unknown_before_enough_latencies() {
    let delay = LatencyDelay::new(0.5, 20, Duration::from_secs(30));
    let now = Instant::from_nanos(1);
    for latency in 1..=19 {
        delay.record(now, latency * 1_000_000, false);
    }
    assert_eq!((delay.peek(now), delay.get(now)), (None, None));
    delay.record(now, 20_000_000, false);
    let median = delay.get(now).unwrap();
    assert_eq!(delay.peek(now), Some(median));
    delay.set_quantile(0.95);
    assert!(delay.get(now).unwrap() > median * 3 / 2);
}
