//! Breakers and limiters that are replaced again and again, beside twins that never are.

use backstop::Clock;
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

/// Rules that differ in windows, and whose windows outlast the test.
fn rules() -> CircuitBreakerBuilder {
    let long = s(1_000_000);
    CircuitBreaker::builder()
        .slow_call(s(1))
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::exponential(s(2)).jitter(Jitter::None))
        .trip_on(Trip::failure_rate(0.5).within(long).min_calls(9))
        .trip_on(Trip::failures(12).within(long).slices(3))
        .trip_on(Trip::slow_rate(0.6).of_last(1000).min_calls(7))
        .trip_on(Trip::consecutive(4))
        .trip_on(Trip::success_average(0.4).within(s(30)))
        .trip_on(Trip::success_average(0.3).of_last(11))
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
        (0..60).for_each(|_| first.try_acquire().unwrap().success());
        (0..40).for_each(|_| first.try_acquire().unwrap().failure());
        let seen = first.snapshot();
        let smaller = rules(Trip::failure_rate(0.5).of_last(50));
        let second = replace(&standard, smaller.clone());
        let restored = with_breaker(&clock, smaller.restore(seen))
            .breaker()
            .unwrap();
        for breaker in [second, restored] {
            let now = breaker.snapshot();
            assert_eq!((now.calls, now.failures), (50, 20));
            // The oldest are successes.
            (0..4).for_each(|_| breaker.try_acquire().unwrap().failure());
            assert_eq!(breaker.state(), State::Closed);
            breaker.try_acquire().unwrap().failure();
            assert_eq!(breaker.state(), State::Open);
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

/// Code that runs once, when it is called.
#[derive(Clone, Default)]
struct Once(Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>);

impl Once {
    fn set(&self, code: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(code));
    }

    fn run(&self) {
        let code = self.0.lock().unwrap().take();
        code.into_iter().for_each(|code| code());
    }
}

#[test]
fn a_trip_opens_the_breaker_that_replaces_its_own_while_the_break_is_computed() {
    let clock = ManualClock::new();
    let once = Once::default();
    let rules = || {
        let once = once.clone();
        CircuitBreaker::builder().break_with(move |_, _| {
            once.run();
            s(7)
        })
    };
    let standard = with_breaker(&clock, rules());
    let first = standard.breaker().unwrap();
    let (stack, other) = (standard.clone(), rules().seed(1));
    once.set(move || {
        stack.reconfigure(stack.config().breaker(other)).unwrap();
    });
    first.trip();
    let second = standard.breaker().unwrap();
    assert_eq!(second.snapshot().retry_after, Some(s(7)));
    assert_eq!(first.snapshot(), second.snapshot());
}

#[test]
fn a_rule_and_a_break_of_user_code_may_replace_the_breaker() {
    for in_rule in [true, false] {
        let clock = ManualClock::new();
        let once = Once::default();
        let rules = || {
            let (in_trip, in_break) = (once.clone(), once.clone());
            let breaker = CircuitBreaker::builder().break_with(move |_, _| {
                if !in_rule {
                    in_break.run();
                }
                s(7)
            });
            let matches = move |counts: &backstop::circuit_breaker::Counts| {
                if in_rule {
                    in_trip.run();
                }
                counts.failures >= 2
            };
            breaker.trip_on(Trip::custom("two", matches).of_last(10).min_calls(1))
        };
        let standard = with_breaker(&clock, rules());
        let mut transitions = standard.breaker().unwrap().subscribe();
        let (stack, other) = (standard.clone(), rules().seed(1));
        once.set(move || {
            stack.reconfigure(stack.config().breaker(other)).unwrap();
            panic!("after the change");
        });
        let call = || clock.block_on(standard.call(|| async { Err::<(), _>("down") }));
        let call = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        if !in_rule {
            assert!(call().is_ok());
        }
        assert!(call().is_err(), "no panic");
        let second = standard.breaker().unwrap();
        assert_eq!(second.state(), State::Closed);
        // Both failures count in the new breaker.
        assert_eq!(second.snapshot().failures, 1 + u64::from(!in_rule));
        assert!(call().is_ok());
        assert_eq!(second.state(), State::Open);
        let change = transitions.try_next().unwrap();
        assert_eq!((change.from, change.to), (State::Closed, State::Open));
        assert!(transitions.try_next().is_none());
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
