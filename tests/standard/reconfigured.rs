//! What changes and what stays when a stack is reconfigured.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Barrier;

use backstop::BoxPolicy;
use backstop::rate_limiter::Algorithm;
use futures::FutureExt;
use futures::future::join;

use super::*;

pub(super) fn fail_times(clock: &ManualClock, standard: &Standard, times: u32) {
    for _ in 0..times {
        fail(clock, standard);
    }
}

fn in_flight<'a>(
    clock: &'a ManualClock,
    standard: &'a Standard,
    attempts: &'a Rc<Cell<u32>>,
) -> impl Future<Output = Result<(), Error<&'static str>>> + 'a {
    standard.call(|| {
        attempts.set(attempts.get() + 1);
        async {
            clock.sleep(ms(10)).await;
            Err("down")
        }
    })
}

#[test]
fn calls_in_flight_keep_what_they_started_with() {
    let clock = ManualClock::new();
    let standard = standard(&clock).max_attempts(4).build().unwrap();
    let attempts = Rc::new(Cell::new(0));
    let mut call = Box::pin(in_flight(&clock, &standard, &attempts));
    assert!(call.as_mut().now_or_never().is_none());
    let strict = Config::new()
        .max_attempts(1)
        .total_timeout(ms(2))
        .attempt_timeout(ms(1))
        .without_breaker();
    standard.reconfigure(strict).unwrap();
    // And on, more often than any table of fixed size could hold.
    for millis in 10..1000 {
        standard
            .reconfigure(standard.config().total_timeout(ms(millis)))
            .unwrap();
    }
    assert_eq!(clock.block_on(call), Err(Error::Operation("down")));
    assert_eq!(attempts.get(), 4);
    // A call that starts now runs under the new ones.
    attempts.set(0);
    let call = in_flight(&clock, &standard, &attempts);
    assert!(clock.block_on(call).unwrap_err().is_timeout());
    assert_eq!(attempts.get(), 1);
}

#[test]
fn tokens_stay_when_quotas_change() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_minute(10))
        .build()
        .unwrap();
    for _ in 0..7 {
        fail(&clock, &standard);
    }
    let remaining = || standard.snapshot().limiter.unwrap().remaining;
    let before = remaining();
    standard
        .reconfigure(standard.config().quota(Quota::per_minute(100)))
        .unwrap();
    let seen = standard.snapshot().limiter.unwrap();
    assert_eq!((seen.remaining, seen.quotas[0].limit()), (before, 100));
    // Another algorithm needs another limiter, which starts with as many.
    let window = Quota::per_minute(50).fixed_window();
    standard
        .reconfigure(standard.config().quota(window))
        .unwrap();
    let seen = standard.snapshot().limiter.unwrap();
    assert_eq!(
        (seen.remaining, seen.quotas[0].algorithm()),
        (before, Algorithm::FixedWindow)
    );
    // And so it does after it was off.
    standard
        .reconfigure(standard.config().without_limiter())
        .unwrap();
    assert_eq!(standard.snapshot().limiter, None);
    standard
        .reconfigure(standard.config().quota(window))
        .unwrap();
    assert_eq!(remaining(), before);
}

#[test]
fn a_pause_continues_in_a_new_limiter() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_minute(10))
        .build()
        .unwrap();
    standard.limiter().unwrap().pause_for(s(20));
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(10))
        .stripes(2);
    standard
        .reconfigure(standard.config().limiter(limiter))
        .unwrap();
    assert_eq!(fail(&clock, &standard).1.retry_after(), Some(s(20)));
}

#[test]
fn calls_that_wait_for_the_limiter_stay_in_its_queue() {
    let clock = ManualClock::new();
    let quota = |rate| RateLimiter::builder().quota(Quota::per_second(rate).burst(1));
    let waits = |rate| quota(rate).max_wait(s(10)).max_waiting(5);
    let standard = standard(&clock).limiter(waits(1)).build().unwrap();
    fail(&clock, &standard);
    let attempts = Rc::new(Cell::new(0));
    let call = in_flight(&clock, &standard, &attempts);
    let change = async {
        assert_eq!(standard.snapshot().limiter.unwrap().waiting, 1);
        standard
            .reconfigure(standard.config().limiter(waits(100).max_waiting(1)))
            .unwrap();
        assert_eq!(standard.snapshot().limiter.unwrap().waiting, 1);
        // The queue has become shorter.
        let full = standard.call(|| async { Ok::<_, &str>(()) }).await;
        assert_eq!(full.unwrap_err().reason(), Some(Reason::RateLimited));
    };
    let start = backstop::Clock::now(&clock);
    clock.block_on(join(call, change)).0.unwrap_err();
    let took = backstop::Clock::now(&clock).saturating_duration_since(start);
    // The rest of the old second would have been most of one; then three attempts.
    assert!(took < ms(300), "{took:?}");
    // And calls wait no longer at all.
    standard
        .reconfigure(standard.config().limiter(quota(1)))
        .unwrap();
    fail(&clock, &standard);
    assert_eq!(fail(&clock, &standard).0, 0);
}

#[test]
fn a_limiter_gets_another_algorithm() {
    let clock = ManualClock::new();
    let quota = Quota::per_second(3);
    let algorithms = [
        quota.fixed_window(),
        quota.sliding_log(),
        quota,
        quota.sliding_counter(),
        quota.leaky_bucket(3),
        quota.warm_up(s(1), 2),
    ];
    let standard = standard(&clock).quota(quota).build().unwrap();
    for quota in algorithms {
        standard
            .reconfigure(standard.config().quota(quota))
            .unwrap();
        assert_eq!(standard.snapshot().limiter.unwrap().quotas, [quota]);
    }
}

#[test]
fn a_budget_of_ones_own_is_replaced_and_removed() {
    let clock = ManualClock::new();
    let empty = || RetryBudget::tokens().capacity(0).build().unwrap();
    let standard = standard(&clock).budget(empty()).build().unwrap();
    assert_eq!(fail(&clock, &standard).0, 1);
    let change = |config| standard.reconfigure(config).unwrap();
    change(standard.config().without_budget());
    assert_eq!(fail(&clock, &standard).0, 3);
    change(standard.config().budget(empty()));
    assert_eq!(fail(&clock, &standard).0, 1);
    change(
        standard
            .config()
            .budget(RetryBudget::tokens().build().unwrap()),
    );
    assert_eq!(fail(&clock, &standard).0, 3);
}

#[test]
fn the_budget_stays_when_its_share_changes() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .without_breaker()
        .budget_share(0.0, 1)
        .build()
        .unwrap();
    let available = || standard.snapshot().budget.unwrap().available;
    assert_eq!(available(), 10.0);
    fail_times(&clock, &standard, 4);
    assert_eq!(available(), 2.0);
    standard
        .reconfigure(standard.config().budget_share(0.0, 2))
        .unwrap();
    assert_eq!(available(), 12.0);
    standard
        .reconfigure(standard.config().budget_share(1.0, 0))
        .unwrap();
    assert_eq!(available(), 0.0, "four calls have paid for eight retries");
    assert_eq!(fail(&clock, &standard).0, 1);
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_minute(10))
        .build()
        .unwrap();
    let config = standard.config();
    let wrong = config
        .clone()
        .quota(Quota::per_minute(99))
        .budget_share(0.7, 7)
        .max_attempts(0);
    assert!(standard.reconfigure(wrong).is_err());
    assert!(standard.config() == config);
    let seen = standard.snapshot();
    assert_eq!(
        (seen.limiter.unwrap().quotas[0].limit(), seen.max_attempts),
        (10, 3)
    );
    assert_eq!(seen.budget.unwrap().available, 100.0);
}

#[test]
fn configurations_compare_by_their_settings() {
    let config = Config::new;
    let delay = Backoff::custom(|_| s(1));
    let equal = [
        (config(), Config::default()),
        (config(), config().budget_share(0.2, 10)),
        (config().backoff(delay.clone()), config().backoff(delay)),
        (
            config().quota(Quota::per_second(1)),
            config()
                .quota(Quota::per_second(2))
                .quota(Quota::per_second(1)),
        ),
    ];
    for (one, other) in equal {
        assert!(one == other, "{one:?}, {other:?}");
    }
    let rule = || Trip::custom("rule", |_| true).of_last(9);
    let budget = || RetryBudget::tokens().build().unwrap();
    let different = [
        config().total_timeout(s(31)),
        config().attempt_timeout(s(9)),
        config().without_retry(),
        config().max_attempts(4),
        config().backoff(Backoff::fixed(s(1))),
        config().backoff(Backoff::custom(|_| s(1))),
        config().retry(Retry::builder().on_retry(|_| ())),
        config().retry(Retry::builder().retry_open_circuit(true)),
        config().budget_share(0.3, 10),
        config().budget(budget()),
        config().budget(budget()),
        config().without_budget(),
        config().without_breaker(),
        config().breaker(CircuitBreaker::builder().shadow(true)),
        config().breaker(CircuitBreaker::builder().trip_on(rule())),
        config().breaker(CircuitBreaker::builder().trip_on(rule())),
        config().breaker(CircuitBreaker::builder().break_for(Backoff::fixed(s(1)))),
        config().quota(Quota::per_second(1)),
        config().quota(Quota::per_second(2)),
        config().limiter(
            RateLimiter::builder()
                .quota(Quota::per_second(2))
                .max_waiting(1),
        ),
    ];
    for (n, one) in different.iter().enumerate() {
        assert!(*one == one.clone() && *one != config(), "{one:?}");
        for other in &different[n + 1..] {
            assert!(one != other, "{one:?}, {other:?}");
        }
    }
}

#[test]
fn reconfiguring_while_calls_run_fails_none_and_mixes_no_configurations() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_second(1_000_000).burst(1_000_000))
        .build()
        .unwrap();
    // In each of them total timeout, attempts, and quota go together.
    let config = |n: u32| {
        let quota = Quota::per_second(1_000_000).burst(1_000_000 + u64::from(n));
        let config = Config::new().quota(quota).max_attempts(n);
        config.total_timeout(s(100 + u64::from(n)))
    };
    standard.reconfigure(config(1)).unwrap();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (standard, start) = (&standard, &start);
            scope.spawn(move || {
                start.wait();
                for n in 1..200 {
                    standard.reconfigure(config(n * 2 + thread)).unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (standard, start) = (&standard, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..2000 {
                    let left = standard
                        .call_with(|attempt| async move { Ok::<_, ()>(attempt.remaining()) });
                    assert!(left.now_or_never().expect("it is ready").is_ok());
                    let seen = standard.snapshot();
                    assert_eq!(
                        seen.total_timeout,
                        Some(s(100 + u64::from(seen.max_attempts)))
                    );
                }
            });
        }
    });
    let seen = standard.snapshot();
    let limit = seen.limiter.unwrap().quotas[0].limit();
    assert_eq!(
        limit,
        1_000_000 + u64::from(seen.max_attempts),
        "the last one has the last word"
    );
}

#[test]
fn it_can_be_boxed_and_shared() {
    let clock = ManualClock::new();
    let standard = standard(&clock).build().unwrap();
    let boxed: BoxPolicy<u32, String> = BoxPolicy::new(standard.clone());
    assert_eq!(clock.block_on(boxed.call(|| async { Ok(7) })), Ok(7));
    let shared = Arc::new((standard.clone(), Some(standard)));
    assert_eq!(
        clock.block_on(shared.call(|| async { Ok::<_, ()>(7) })),
        Ok(7)
    );
}

#[test]
fn a_limiter_that_is_replaced_passes_on_the_numbers_of_its_events() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let limiter = |debt| {
        let limiter = RateLimiter::builder().quota(Quota::per_hour(1));
        limiter.max_debt(debt)
    };
    let observer = move |event: &Event| {
        if let Event::Rejected { sequence, .. } = event {
            log.lock().unwrap().push(*sequence);
        }
    };
    let standard = standard(&clock).limiter(limiter(0)).observer(observer);
    let standard = standard.build().unwrap();
    let call = || clock.block_on(standard.call(|| async { Ok::<_, ()>(()) }));
    assert!(call().is_ok());
    for debt in [1, 2] {
        assert!(call().is_err());
        let config = standard.config().limiter(limiter(debt));
        standard.reconfigure(config).unwrap();
    }
    assert!(call().is_err());
    assert_eq!(*heard.lock().unwrap(), [1, 2, 3]);
}
