//! Tests of the pure state against a naive model that keeps every call.

use std::time::Duration;

use proptest::prelude::*;

use super::state::{Admission, NEVER, RejectionRule, State, Totals};
use crate::instant::Instant;
use crate::window::Slice;

const RULE: RejectionRule = RejectionRule {
    success_threshold: 0.9,
    aggression: 1.0,
    max_rejection: 0.9,
    min_calls: 10,
    min_calls_per_second: 0.0,
};

const fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn seen(requests: u64, accepts: u64) -> Totals {
    Totals {
        requests,
        accepts,
        ..Totals::default()
    }
}

#[test]
fn the_probability_is_that_of_the_sre_book() {
    let book = RejectionRule {
        success_threshold: 0.5,
        max_rejection: 1.0,
        min_calls: 0,
        ..RULE
    };
    // With K = 2, no call is rejected while half of them are accepted.
    for (requests, accepts, probability) in [
        (0, 0, 0.0),
        (1, 0, 0.5),
        (100, 50, 0.0),
        (100, 25, 50.0 / 101.0),
        (100, 0, 100.0 / 101.0),
        (u64::MAX, 0, 1.0),
    ] {
        assert_eq!(book.probability(seen(requests, accepts)), probability);
    }
}

#[test]
fn few_calls_low_rates_and_calls_in_grace_are_not_rejected() {
    assert_eq!(RULE.probability(seen(9, 0)), 0.0);
    assert_eq!(RULE.probability(seen(10, 0)), 0.9);
    let with_rate = RejectionRule {
        min_calls_per_second: 5.0,
        ..RULE
    };
    let of = |per_second, in_grace| Totals {
        per_second,
        in_grace,
        ..seen(100, 0)
    };
    assert_eq!(with_rate.probability(of(4.9, 0)), 0.0);
    assert_eq!(with_rate.probability(of(5.0, 0)), 0.9);
    assert_eq!(with_rate.probability(of(5.0, 91)), 0.0);
    assert_eq!(with_rate.probability(of(5.0, 90)), 0.9);
    assert_eq!(with_rate.probability(of(5.0, 200)), 0.0);
}

#[test]
fn aggression_raises_the_probability() {
    let probability = |aggression| {
        let rule = RejectionRule { aggression, ..RULE };
        rule.probability(seen(99, 45)) // 0.49 without
    };
    assert!((probability(1.0) - 0.49).abs() < 1e-12);
    assert!((probability(2.0) - 0.7).abs() < 1e-12);
    assert_eq!(probability(f64::MAX), 0.9);
}

/// A model that keeps every call.
#[derive(Default)]
struct Naive {
    /// When each call began, and its result; `None` in flight.
    calls: Vec<(u64, Option<bool>)>,
}

const SLICE: u64 = 50;
const SLICES: u64 = 4;

impl Naive {
    fn seen(&self, now: u64, grace_slices: Option<u64>) -> Totals {
        let age = |began: u64| now / SLICE - began / SLICE;
        let live = || self.calls.iter().filter(|call| age(call.0) < SLICES);
        let count = |health| live().filter(|call| call.1 == health).count() as u64;
        let in_grace = |call: &&(u64, Option<bool>)| {
            call.1.is_none() && grace_slices.is_some_and(|before| age(call.0) <= before)
        };
        Totals {
            requests: live().count() as u64,
            accepts: count(Some(true)),
            failures: count(Some(false)),
            in_flight: count(None),
            in_grace: live().filter(in_grace).count() as u64,
            per_second: live().count() as f64 / 0.2,
        }
    }

    /// The formula as written in the SRE book.
    fn probability(seen: Totals, rule: &RejectionRule) -> f64 {
        let requests = (seen.requests - seen.in_grace) as f64;
        let k = 1.0 / rule.success_threshold;
        let unlimited = (requests - k * seen.accepts as f64) / (requests + 1.0);
        if requests < f64::from(rule.min_calls) || seen.per_second < rule.min_calls_per_second {
            return 0.0;
        }
        let powered = unlimited.max(0.0).powf(1.0 / rule.aggression);
        powered.min(rule.max_rejection)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Begin,
    /// Finishes one of the calls in flight.
    End(prop::sample::Index, Option<bool>),
    Record(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let health = prop_oneof![Just(None), any::<bool>().prop_map(Some)];
    let step = prop_oneof![
        2 => (0_u64..120).prop_map(Step::Wait),
        5 => Just(Step::Begin),
        4 => (any::<prop::sample::Index>(), health).prop_map(|(i, h)| Step::End(i, h)),
        1 => any::<bool>().prop_map(Step::Record),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #[test]
    fn the_state_equals_a_naive_model(
        steps in steps(),
        (threshold, aggression, cap) in (0.05_f64..=1.0, 1.0_f64..4.0, 0.0_f64..=1.0),
        (min_calls, min_calls_per_second) in (0_u32..15, 0.0_f64..60.0),
        grace in 0_u64..250,
    ) {
        let rule = RejectionRule {
            success_threshold: threshold,
            aggression,
            max_rejection: cap,
            min_calls,
            min_calls_per_second,
        };
        let ms = Duration::from_millis;
        let state = State::new(rule, ms(SLICE * SLICES), SLICES as u32, ms(grace), Duration::MAX);
        let grace_slices = (grace > 0).then(|| grace.div_ceil(SLICE));
        let mut naive = Naive::default();
        let mut in_flight: Vec<(usize, Slice)> = Vec::new();
        let mut now = 1_000;
        for step in steps {
            match step {
                Step::Wait(millis) => now += millis,
                Step::Begin => {
                    in_flight.push((naive.calls.len(), state.start(at(now))));
                    naive.calls.push((now, None));
                }
                Step::End(_, _) if in_flight.is_empty() => {}
                Step::End(index, accepted) => {
                    let (call, slice) = in_flight.remove(index.index(in_flight.len()));
                    state.finish(slice, accepted);
                    match accepted {
                        Some(_) => naive.calls[call].1 = accepted,
                        // A withdrawn call is dated so long ago that no window contains it.
                        None => naive.calls[call] = (0, None),
                    }
                }
                Step::Record(accepted) => {
                    state.record(accepted, at(now));
                    naive.calls.push((now, Some(accepted)));
                }
            }
            let seen = state.totals(at(now));
            let expected = naive.seen(now, grace_slices);
            prop_assert!((seen.per_second - expected.per_second).abs() < 1e-9);
            prop_assert_eq!(seen, Totals { per_second: seen.per_second, ..expected });
            let probability = state.rule.probability(seen);
            let expected = Naive::probability(expected, &rule);
            // A root magnifies rounding errors near zero.
            prop_assert!((probability - expected).abs() < 1e-3, "{} {}", probability, expected);
            prop_assert!((0.0..=cap).contains(&probability));
            // Exactly the draws below the probability are rejections.
            if probability > 0.0 {
                let just_below = probability * (1.0 - 1e-9);
                prop_assert_eq!(state.admit(at(now), || probability), Admission::Admitted);
                prop_assert_eq!(state.admit(at(now), || just_below), Admission::Rejected);
            } else {
                prop_assert_eq!(state.admit(at(now), || unreachable!()), Admission::Admitted);
            }
        }
    }
}

/// Returns a state that rejects all calls except one probe a second.
fn rejecting() -> State {
    let rule = RejectionRule {
        max_rejection: 1.0,
        min_calls: 1,
        ..RULE
    };
    let second = Duration::from_secs(1);
    let state = State::new(rule, 60 * second, 20, Duration::ZERO, second);
    for _ in 0..100 {
        state.record(false, at(100_000));
    }
    state
}

#[test]
fn of_two_racing_calls_the_second_is_not_a_probe() {
    let state = rejecting();
    let mut first = None;
    // The first call is decided while the second draws its number.
    let second = state.admit(at(100_000), || {
        first = Some(state.admit(at(100_000), || 0.0));
        0.0
    });
    assert_eq!(
        (first, second),
        (
            Some(Admission::Probe {
                last_admitted: NEVER
            }),
            Admission::Rejected
        )
    );
}

#[test]
fn a_reset_clears_the_last_probe() {
    let state = rejecting();
    let admit = || state.admit(at(100_000), || 0.0);
    assert_eq!(
        admit(),
        Admission::Probe {
            last_admitted: NEVER
        }
    );
    assert_eq!(admit(), Admission::Rejected);
    state.reset();
    assert_eq!(admit(), Admission::Admitted);
    for _ in 0..100 {
        state.record(false, at(100_000));
    }
    assert_eq!(
        admit(),
        Admission::Probe {
            last_admitted: NEVER
        }
    );
}
