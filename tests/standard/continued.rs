//! Breakers and limiters that are replaced again and again, beside twins that never are.

use backstop::Clock;
use backstop::adaptive_rate::CubicRate;
use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, Snapshot};
use backstop::rate_limiter::{Algorithm, RateLimiterBuilder};

use super::*;

/// Random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn with_breaker(clock: &ManualClock, breaker: CircuitBreakerBuilder) -> Standard {
    let standard = standard(clock).without_retry().breaker(breaker);
    standard.build().unwrap()
}

/// Replaces the breaker by one with other rules.
fn replace(standard: &Standard, breaker: CircuitBreakerBuilder) -> CircuitBreaker {
    let config = standard.config().breaker(breaker);
    standard.reconfigure(config).unwrap();
    standard.breaker().unwrap()
}

/// Rules over windows of many kinds.
fn rules() -> CircuitBreakerBuilder {
    let long = s(1_000_000);
    CircuitBreaker::builder()
        .slow_call(s(1))
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::exponential(s(2)).jitter(Jitter::None))
        .trip_on(Trip::failures(12).within(s(12)).slices(3))
        .trip_on(Trip::slow_rate(0.6).of_last(1000).min_calls(7))
        .trip_on(Trip::failures(9).of_last(20))
        .trip_on(Trip::failure_rate(0.6).within(s(20)).min_calls(5))
        .trip_on(Trip::failures(7).within(s(15)).from_first_call())
        .trip_on(Trip::consecutive(4))
        .trip_on(Trip::success_average(0.4).within(s(30)))
        .trip_on(Trip::success_average(0.3).of_last(11))
        .trip_on(Trip::failure_rate(0.5).within(long).min_calls(9))
}

/// Apart from how often it changed, and probes, of which a new breaker has new ones.
fn essence(seen: Snapshot) -> String {
    let counts = (seen.calls, seen.failures, seen.slow, seen.slow_failures);
    format!(
        "{:?} for {:?} {:?} {counts:?} {} {} {} {}",
        (seen.state, seen.underlying),
        seen.in_state,
        seen.retry_after,
        seen.consecutive_trips,
        seen.consecutive_failures,
        seen.rejected,
        seen.generation,
    )
}

#[test]
fn a_breaker_that_is_replaced_by_the_same_rules_behaves_like_one_that_is_not() {
    let mut opened = 0;
    for seed in 1..=200 {
        let mut random = Random(seed * 0x9e37_79b9);
        let clock = ManualClock::new();
        let twins = [0, 1].map(|_| with_breaker(&clock, rules()));
        let mut renewed = 0;
        let kept = twins[0].breaker().unwrap();
        for step in 0..120 {
            match random.below(12) {
                0..2 => clock.advance(ms(random.below(4000))),
                2 => (0..=random.below(3)).for_each(|_| {
                    renewed += 1;
                    replace(&twins[0], rules().seed(renewed));
                }),
                3 if random.below(8) == 0 => {
                    let change = [
                        CircuitBreaker::trip,
                        CircuitBreaker::close,
                        CircuitBreaker::disable,
                        CircuitBreaker::metrics_only,
                        CircuitBreaker::half_open,
                        CircuitBreaker::reset,
                    ][random.below(6) as usize];
                    change(&kept);
                    change(&twins[1].breaker().unwrap());
                }
                call => {
                    let lasts = s(2 * u64::from(call == 4));
                    let failed = random.below(5) < 2;
                    let admitted = [0, 1].map(|twin: usize| {
                        let breaker = twins[twin].breaker().unwrap();
                        breaker.try_acquire().is_ok_and(|permit| {
                            let verdict = match failed {
                                true => Verdict::transient(),
                                false => Verdict::success(),
                            };
                            permit.record_with_duration(verdict, lasts);
                            true
                        })
                    });
                    assert_eq!(admitted[0], admitted[1], "seed {seed}, step {step}");
                }
            }
            let [one, other] =
                [0, 1].map(|twin: usize| essence(twins[twin].breaker().unwrap().snapshot()));
            opened += u32::from(one.starts_with("(Open"));
            assert_eq!(one, other, "seed {seed}, step {step}");
            assert_eq!(essence(kept.snapshot()), one, "seed {seed}, step {step}");
        }
    }
    assert!(opened > 1000, "{opened}");
}

#[test]
fn no_change_of_the_windows_opens_a_circuit_with_few_failures() {
    // A window of another kind starts with the failures last, and they count longer then.
    let of_calls = [
        |rule: Trip| rule.of_last(20),
        |rule: Trip| rule.of_last(50),
        |rule: Trip| rule.of_last(500),
        |rule: Trip| rule.of_last(1000),
    ];
    let of_time = [
        |rule: Trip| rule.within(s(1)),
        |rule: Trip| rule.within(s(10)).from_first_call(),
        |rule: Trip| rule.within(s(100)).slices(7),
        |rule: Trip| rule.within(Duration::MAX),
    ];
    for seed in 1..=200 {
        let mut random = Random(seed * 0x9e37_79b9);
        let clock = ManualClock::new();
        let windows = if seed % 2 == 0 { of_calls } else { of_time };
        let mut rules = move |number: u64| {
            let mut rules = CircuitBreaker::builder().seed(number);
            if random.below(2) == 0 {
                rules = rules.slow_call(s(1));
            }
            for _ in 0..=random.below(3) {
                let window = windows[random.below(4) as usize];
                rules = rules.trip_on(window(Trip::failure_rate(0.5)).min_calls(20));
            }
            (rules, random.below(100), ms(random.below(40)))
        };
        let standard = with_breaker(&clock, rules(0).0);
        for number in 1..30 {
            let (rules, calls, pause) = rules(number);
            let breaker = standard.breaker().unwrap();
            for call in 0..calls {
                clock.advance(pause);
                let permit = breaker.try_acquire().unwrap();
                match call % 4 {
                    3 => permit.failure(),
                    _ => permit.success(),
                }
            }
            let before = breaker.snapshot();
            assert_eq!(before.state, State::Closed, "seed {seed}, change {number}");
            let after = replace(&standard, rules).snapshot();
            assert_eq!(after.state, State::Closed, "seed {seed}, change {number}");
        }
    }
}

#[test]
fn a_window_with_millions_of_calls_keeps_its_rates() {
    let clock = ManualClock::new();
    let rules = || {
        let breaker = CircuitBreaker::builder().slow_call(s(1));
        breaker.trip_on(Trip::failure_rate(0.3).within(s(30)))
    };
    let mut seen = with_breaker(&clock, rules()).snapshot().breaker.unwrap();
    (seen.calls, seen.failures, seen.slow, seen.slow_failures) =
        (10_000_000, 2_000_000, 1_500_000, 1_200_000);
    let standard = with_breaker(&clock, rules().restore(seen));
    let counts = |breaker: &CircuitBreaker| {
        let now = breaker.snapshot();
        (now.calls, now.failures, now.slow, now.slow_failures)
    };
    let restored = standard.breaker().unwrap();
    let replaced = replace(&standard, rules().seed(1));
    for breaker in [restored, replaced] {
        assert_eq!(
            counts(&breaker),
            (10_000_000, 2_000_000, 1_500_000, 1_200_000)
        );
        breaker.try_acquire().unwrap().failure();
        assert_eq!(breaker.state(), State::Closed);
    }
    // A file may contain any number.
    (seen.calls, seen.failures, seen.slow, seen.slow_failures) =
        (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    let standard = with_breaker(&clock, rules().restore(seen));
    standard.breaker().unwrap().try_acquire().unwrap().failure();
    assert_eq!(standard.breaker().unwrap().state(), State::Open);
}

#[test]
fn a_smaller_window_of_calls_starts_with_the_rates_of_the_former_one() {
    let clock = ManualClock::new();
    let formers = [
        Trip::failure_rate(0.5).of_last(100),
        Trip::failure_rate(0.5).within(s(30)),
    ];
    for former in formers {
        let rules = |trip: Trip| CircuitBreaker::builder().trip_on(trip.min_calls(10));
        let standard = with_breaker(&clock, rules(former));
        let first = standard.breaker().unwrap();
        for call in 0..100 {
            match call % 5 {
                3 | 4 => first.try_acquire().unwrap().failure(),
                _ => first.try_acquire().unwrap().success(),
            }
        }
        let seen = first.snapshot();
        let smaller = rules(Trip::failure_rate(0.5).of_last(50));
        let second = replace(&standard, smaller.clone());
        let restored = with_breaker(&clock, smaller.restore(seen))
            .breaker()
            .unwrap();
        for breaker in [second, restored] {
            let now = breaker.snapshot();
            assert_eq!((now.calls, now.failures), (50, 20));
            (0..4).for_each(|_| breaker.try_acquire().unwrap().failure());
            assert_eq!(breaker.state(), State::Closed);
        }
    }
}

#[test]
fn slow_failures_count_as_failures_once_slow_calls_count_no_more() {
    let clock = ManualClock::new();
    let rules = || {
        let breaker = CircuitBreaker::builder();
        breaker.trip_on(Trip::failures(9).within(s(30)))
    };
    let standard = with_breaker(&clock, rules().slow_call(s(1)));
    let first = standard.breaker().unwrap();
    for verdict in [Verdict::transient(), Verdict::success()] {
        let permit = first.try_acquire().unwrap();
        permit.record_with_duration(verdict, s(2));
    }
    let second = replace(&standard, rules());
    let seen = second.snapshot();
    assert_eq!((seen.calls, seen.failures, seen.slow), (2, 1, 0));
}

#[test]
fn an_average_of_successes_continues() {
    let clock = ManualClock::new();
    let averages = [
        Trip::success_average(0.5).of_last(10),
        Trip::success_average(0.5).within(s(10)).min_calls(10),
    ];
    for average in averages {
        let rules = || CircuitBreaker::builder().trip_on(average.clone());
        let standard = with_breaker(&clock, rules());
        let first = standard.breaker().unwrap();
        let fail = |breaker: &CircuitBreaker| {
            clock.advance(s(1));
            breaker.try_acquire().unwrap().failure();
        };
        for _ in 0..10 {
            clock.advance(s(1));
            first.try_acquire().unwrap().success();
        }
        (0..4).for_each(|_| fail(&first));
        // Two thirds. Seven failures leave half.
        let second = replace(&standard, rules().seed(1));
        fail(&second);
        assert_eq!(second.state(), State::Closed, "{average:?}");
        fail(&second);
        assert_eq!(second.state(), State::Closed, "{average:?}");
        fail(&second);
        assert_eq!(second.state(), State::Open, "{average:?}");
    }
}

#[test]
fn an_average_that_is_new_starts_with_the_rate_of_its_window() {
    let clock = ManualClock::new();
    let average = || CircuitBreaker::builder().trip_on(Trip::success_average(0.5).of_last(10));
    let rate = Trip::failure_rate(1.0).of_last(10);
    let standard = with_breaker(&clock, CircuitBreaker::builder().trip_on(rate));
    let first = standard.breaker().unwrap();
    (0..10).for_each(|_| first.try_acquire().unwrap().success());
    let restored = with_breaker(&clock, average().restore(first.snapshot()));
    let replaced = replace(&standard, average());
    for breaker in [restored.breaker().unwrap(), replaced] {
        (0..6).for_each(|_| breaker.try_acquire().unwrap().failure());
        assert_eq!(breaker.state(), State::Closed);
        breaker.try_acquire().unwrap().failure();
        assert_eq!(breaker.state(), State::Open);
    }
}

#[test]
fn a_limiter_that_is_replaced_never_has_more_than_one_that_is_not() {
    let quotas = [
        Quota::per_second(10),
        Quota::per_second(10).burst(3),
        Quota::per_second(5).leaky_bucket(4),
        Quota::per_second(7).fixed_window(),
        Quota::per_second(7).fixed_window_from_first(),
        Quota::per_second(8).sliding_log(),
        Quota::per_second(8).sliding_counter(),
        Quota::per_second(20).warm_up(s(3), 3),
        Quota::per_minute(60).initial(20),
        Quota::new(3, Duration::MAX),
    ];
    let mut admitted = 0;
    for seed in 1..=400 {
        let mut random = Random(seed * 0x9e37_79b9);
        let clock = ManualClock::new();
        let mut settings = RateLimiter::builder().max_debt(random.below(3) * 10);
        let count = 1 + random.below(3);
        let mut is_exact = count > 1;
        for _ in 0..count {
            let quota = quotas[random.below(quotas.len() as u64) as usize];
            is_exact |= quota.algorithm() != Algorithm::TokenBucket;
            settings = settings.quota(quota);
        }
        if count == 1 && random.below(2) == 0 {
            settings = RateLimiter::builder()
                .quota(Quota::per_second(40))
                .stripes(4);
            is_exact = false;
        }
        let shape = format!("{settings:?}");
        let build = |settings: RateLimiterBuilder| standard(&clock).limiter(settings).build();
        let (Ok(one), Ok(other)) = (build(settings.clone()), build(settings.clone())) else {
            continue;
        };
        let twins = [one, other];
        let (began, mut taken) = (clock.now(), 0);
        let mut pause = 0;
        for step in 0..100 {
            match random.below(10) {
                // Odd times, because a change rounds the turn of a warm-up to a nanosecond.
                0..3 => clock.advance(Duration::from_nanos(random.below(700_000_000))),
                3 => {
                    pause += 1;
                    let settings = settings.clone().pause_on_hint(s(pause));
                    let config = twins[0].config().limiter(settings);
                    twins[0].reconfigure(config).unwrap();
                }
                _ => {
                    let tokens = 1 + random.below(4);
                    let [one, other] = [0, 1].map(|twin: usize| twins[twin].limiter().unwrap());
                    let admits = one.try_acquire_n(tokens).is_ok();
                    admitted += u32::from(admits);
                    taken += tokens * u64::from(admits);
                    if shape.contains("stripes: 4") {
                        // Tokens that a full stripe loses may be earned in others, but never more than the quota.
                        let earned = clock.now().saturating_duration_since(began);
                        assert!(taken as f64 <= 40.0 + 40.0 * earned.as_secs_f64(), "{seed}");
                        continue;
                    }
                    // A rejected call warms a limit up.
                    if admits || is_exact {
                        let as_before = other.try_acquire_n(tokens).is_ok();
                        let message = format!("seed {seed}, step {step}, {tokens} of {shape}");
                        assert_eq!(admits, as_before, "{message}");
                    }
                }
            }
            let [one, other] =
                [0, 1].map(|twin: usize| twins[twin].snapshot().limiter.unwrap().available);
            let may_be = |(one, other): (&i64, &i64)| {
                one == other || (!is_exact && one < other) || shape.contains("stripes: 4")
            };
            assert!(
                one.iter().zip(&other).all(may_be),
                "seed {seed}, step {step}: {one:?} {other:?} of {shape}"
            );
        }
    }
    assert!(admitted > 5000, "{admitted}");
}

#[test]
fn an_adaptive_limiter_that_is_replaced_again_and_again_has_no_more() {
    for seed in 1..=100 {
        let mut random = Random(seed * 0x9e37_79b9);
        let clock = ManualClock::new();
        let settings = || RateLimiter::builder().adaptive(CubicRate::builder());
        let build = || standard(&clock).limiter(settings()).build().unwrap();
        let twins = [build(), build()];
        for step in 1..200 {
            let of = |twin: usize| twins[twin].limiter().unwrap();
            match random.below(10) {
                0..4 => clock.advance(ms(random.below(300))),
                4 => {
                    let settings = settings().pause_on_hint(s(step));
                    let config = twins[0].config().limiter(settings);
                    twins[0].reconfigure(config).unwrap();
                }
                _ => {
                    if of(0).try_acquire().is_ok() {
                        assert!(of(1).try_acquire().is_ok(), "seed {seed}, step {step}");
                        let verdict = match random.below(8) {
                            0 => Verdict::throttled(None),
                            _ => Verdict::success(),
                        };
                        of(0).record(&verdict);
                        of(1).record(&verdict);
                    }
                }
            }
            let [one, other] = [0, 1].map(|twin| of(twin).snapshot());
            // A change of less than 1 % is applied only when the limiter is replaced.
            assert!(
                one.available[0] <= other.available[0] + 1,
                "seed {seed}, step {step}: {one:?} {other:?}"
            );
        }
    }
}
