//! The standard stack: its order, its contradictions, and what stays when it is reconfigured.

mod continued;
mod interrupted;
mod reconfigured;
mod reconfigured_breaker;
mod removed_layers;
mod replaced_breaker;
mod replaced_limiter;

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::circuit_breaker::{State, Trip};
use backstop::event::Ending;
use backstop::standard::{Config, StandardBuilder};
use backstop::{
    Backoff, CallOptions, CircuitBreaker, Classify, Error, Event, Jitter, Keyed, ManualClock,
    Pipeline, Policy, Quota, RateLimiter, Reason, Retry, RetryBudget, Standard, Verdict,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn standard(clock: &ManualClock) -> StandardBuilder {
    let backoff = Backoff::fixed(ms(100)).jitter(Jitter::None);
    let standard = Standard::builder().name("github").backoff(backoff);
    standard.clock(clock.clone())
}

/// Calls an operation that fails at once. The attempts it had, and its error.
fn fail(clock: &ManualClock, policy: &Standard) -> (u32, Error<&'static str>) {
    let report = clock.block_on(policy.call_reported(|| async { Err::<(), _>("down") }));
    (report.attempts, report.result.unwrap_err())
}

#[test]
fn the_defaults_are_those_of_its_page() {
    let clock = ManualClock::new();
    let standard = Standard::builder().clock(clock.clone()).build().unwrap();
    let seen = standard.snapshot();
    assert_eq!((seen.name, standard.name()), ("standard", "standard"));
    let timeouts = (seen.total_timeout, seen.attempt_timeout);
    assert_eq!(timeouts, (Some(s(30)), Some(s(10))));
    assert_eq!(seen.max_attempts, 3);
    assert_eq!(seen.limiter, None);
    assert_eq!(seen.budget.unwrap().available, 100.0);
    assert_eq!(seen.breaker.unwrap().min_calls, 20);
    assert_eq!(Pipeline::new(standard).check(), []);
}

#[test]
fn a_hanging_attempt_is_cut_retried_and_counted() {
    let clock = ManualClock::new();
    let standard = standard(&clock).build().unwrap();
    let report = clock.block_on(standard.call_reported(pending::<Result<(), ()>>));
    // Two attempts of 10 s, and what is left of 30 s for the third.
    assert_eq!((report.attempts, report.elapsed), (3, s(30)));
    let Err(Error::TimedOut(timed_out)) = report.result else {
        panic!("{:?}", report.result);
    };
    assert_eq!((timed_out.policy(), timed_out.limit()), ("github", s(30)));
    let breaker = standard.snapshot().breaker.unwrap();
    // The cut from outside says nothing about the dependency.
    assert_eq!((breaker.calls, breaker.failures), (2, 2));
}

#[test]
fn an_open_circuit_ends_the_retries() {
    let clock = ManualClock::new();
    let breaker = CircuitBreaker::builder().trip_on(Trip::consecutive(2));
    let standard = standard(&clock).breaker(breaker).max_attempts(5);
    let standard = standard.build().unwrap();
    let (attempts, error) = fail(&clock, &standard);
    assert_eq!((attempts, error), (2, Error::Operation("down")));
    let (attempts, error) = fail(&clock, &standard);
    assert_eq!(attempts, 0);
    let (policy, reason) = (error.policy(), error.reason());
    assert_eq!(
        (policy, reason),
        (Some("github"), Some(Reason::CircuitOpen))
    );
}

#[test]
fn the_limiter_counts_calls_and_not_attempts() {
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_minute(2))
        .build()
        .unwrap();
    assert_eq!(fail(&clock, &standard).0, 3);
    assert_eq!(fail(&clock, &standard).0, 3);
    let (attempts, error) = fail(&clock, &standard);
    assert_eq!((attempts, error.reason()), (0, Some(Reason::RateLimited)));
}

#[test]
fn the_budget_bounds_the_retries_of_all_calls() {
    let clock = ManualClock::new();
    let unbroken = || standard(&clock).without_breaker();
    let standard = unbroken().budget_share(0.5, 0).build().unwrap();
    let attempts = |standard: &Standard| (0..10).map(|_| fail(&clock, standard).0).sum::<u32>();
    assert_eq!(attempts(&standard), 15);
    let unlimited = unbroken().without_budget().build().unwrap();
    assert!(unlimited.budget().is_none());
    assert_eq!(attempts(&unlimited), 30);
    let empty = RetryBudget::tokens().capacity(0).build().unwrap();
    assert_eq!(
        attempts(&unbroken().budget(empty.clone()).build().unwrap()),
        10
    );
    let own = unbroken().retry(Retry::builder().budget(empty));
    assert_eq!(attempts(&own.build().unwrap()), 10);
}

#[test]
fn the_own_budget_has_the_name_of_the_stack_and_another_one_keeps_its_own() {
    let clock = ManualClock::new();
    let name = |stack: StandardBuilder| {
        let seen = stack.name("github").clock(clock.clone()).build().unwrap();
        seen.snapshot().budget.unwrap().name
    };
    assert_eq!(name(Standard::builder()), "github");
    assert_eq!(name(Standard::builder().budget_share(0.5, 1)), "github");
    let shared = RetryBudget::tokens().name("hosts").build().unwrap();
    assert_eq!(name(Standard::builder().budget(shared)), "hosts");
}

#[test]
fn each_layer_can_be_left_out() {
    let clock = ManualClock::new();
    let bare = standard(&clock)
        .quota(Quota::per_second(1))
        .without_limiter()
        .without_total_timeout()
        .without_retry()
        .without_breaker()
        .without_attempt_timeout()
        .build()
        .unwrap();
    assert_eq!(fail(&clock, &bare), (1, Error::Operation("down")));
    let mut layers = Vec::new();
    backstop::policy::Describe::describe(&bare, &mut layers);
    assert_eq!(layers, []);
    let slow = bare.call(|| async {
        clock.sleep(s(3600)).await;
        Ok::<_, ()>(7)
    });
    assert_eq!(clock.block_on(slow), Ok(7));
    let seen = bare.snapshot();
    assert_eq!((seen.max_attempts, seen.budget), (1, None));
    // A setting of a layer puts it back.
    bare.reconfigure(bare.config().max_attempts(2)).unwrap();
    assert_eq!(fail(&clock, &bare).0, 2);
}

#[test]
fn contradictions_and_wrong_settings_are_errors_that_name_them() {
    let clock = ManualClock::new();
    let text = |builder: StandardBuilder| builder.build().unwrap_err().to_string();
    let builder = || standard(&clock);
    let breaker = || CircuitBreaker::builder();
    let budget = || RetryBudget::tokens().build().unwrap();
    let table = [
        (
            builder().attempt_timeout(s(30)),
            "standard: attempt_timeout of 30s must be shorter than total_timeout of 30s",
        ),
        (
            builder().total_timeout(s(5)),
            "standard: attempt_timeout of 10s must be shorter than total_timeout of 5s",
        ),
        (
            builder().retry(Retry::builder().max_elapsed(s(60))),
            "standard: max_elapsed of 60s must be shorter than total_timeout of 30s",
        ),
        (
            builder().breaker(breaker().slow_call(s(10))),
            "standard: slow_call of 10s must be shorter than attempt_timeout of 10s",
        ),
        (
            builder().breaker(breaker().probe_lease(s(1))),
            "standard: probe_lease of 1s must not be shorter than attempt_timeout of 10s",
        ),
        (
            builder()
                .budget(budget())
                .retry(Retry::builder().budget(budget())),
            "standard: budget is set twice: in the retry, and for the stack",
        ),
        (
            builder().attempt_timeout(Duration::ZERO),
            "standard: attempt_timeout must be above zero, is 0s",
        ),
    ];
    for (builder, expected) in table {
        assert_eq!(text(builder), expected);
    }
    // Those of the layers, as their own builders say it.
    assert_eq!(
        text(builder().max_attempts(0)),
        Retry::builder()
            .max_attempts(0)
            .build()
            .unwrap_err()
            .to_string()
    );
    let limiter = RateLimiter::builder().clock(clock.clone());
    assert_eq!(
        text(builder().limiter(limiter.clone())),
        limiter.build().unwrap_err().to_string()
    );
    assert!(text(builder().budget_share(f64::NAN, 1)).contains("ratio"));
    // Without a retry, too, which could be added later.
    let unused = builder().without_retry();
    assert!(text(unused.budget_share(f64::NAN, 1)).contains("ratio"));
}

#[test]
fn one_observer_gets_the_events_of_every_layer_and_the_end_of_each_call() {
    let clock = ManualClock::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let standard = standard(&clock)
        .breaker(CircuitBreaker::builder().trip_on(Trip::consecutive(3)))
        .observer(move |event: &Event| {
            log.lock()
                .unwrap()
                .push((event.policy(), std::mem::discriminant(event)));
            if let Event::CallFinished {
                ending, attempts, ..
            } = event
            {
                assert_eq!((*ending, *attempts), (Ending::Failed, 3));
            }
        })
        .build()
        .unwrap();
    fail(&clock, &standard);
    let heard = heard.lock().unwrap();
    assert!(
        heard.iter().all(|(policy, _)| *policy == "github"),
        "{heard:?}"
    );
    // Two retries, a circuit that opens, a retry that stops, a call that ends.
    assert_eq!(heard.len(), 5, "{heard:?}");
}

#[test]
fn a_name_of_a_layers_own_stays() {
    let clock = ManualClock::new();
    let limiter = RateLimiter::builder()
        .quota(Quota::per_minute(1))
        .name("quota");
    let standard = standard(&clock).limiter(limiter).build().unwrap();
    fail(&clock, &standard);
    assert_eq!(fail(&clock, &standard).1.policy(), Some("quota"));
    let seen = standard.snapshot();
    assert_eq!((seen.name, seen.limiter.unwrap().name), ("github", "quota"));
    assert_eq!(standard.breaker().unwrap().name(), "github");
}

#[test]
fn options_and_stacks_for_one_call() {
    let clock = ManualClock::new();
    let standard = standard(&clock).build().unwrap();
    let once = standard.with(CallOptions::new().idempotent(false));
    let report = clock.block_on(once.call_reported(|| async { Err::<(), _>("down") }));
    assert_eq!(report.attempts, 1);
    let permanent = Classify::errors(|_: &&str| Verdict::permanent());
    let around = standard.around(permanent);
    let report = clock.block_on(around.call_reported(|| async { Err::<(), _>("no") }));
    assert_eq!(
        (
            report.attempts,
            standard.snapshot().breaker.unwrap().failures
        ),
        (1, 1)
    );
}

#[test]
fn each_key_has_a_stack_of_its_own() {
    let clock = ManualClock::new();
    let template =
        standard(&clock).breaker(CircuitBreaker::builder().trip_on(Trip::consecutive(3)));
    let hosts = Keyed::<String, _>::try_new(move || template.clone().build()).unwrap();
    fail(&clock, &hosts.get("a"));
    let state = |host| hosts.get(host).breaker().unwrap().state();
    assert_eq!((state("a"), state("b")), (State::Open, State::Closed));
}

#[test]
fn an_entry_is_evictable_once_its_layers_are() {
    use backstop::keyed::Evictable;
    let clock = ManualClock::new();
    let standard = standard(&clock)
        .quota(Quota::per_second(1))
        .build()
        .unwrap();
    assert_eq!(standard.evictable_in(), Some(Duration::ZERO));
    fail(&clock, &standard);
    let soon = standard.evictable_in().unwrap();
    assert!(soon > Duration::ZERO);
    clock.advance(soon);
    assert!(standard.is_evictable());
    let other = standard.clone();
    assert_eq!(standard.evictable_in(), None);
    drop(other);
    standard
        .reconfigure(standard.config().max_attempts(1))
        .unwrap();
    assert_eq!(
        standard.evictable_in(),
        None,
        "a new one would have three attempts"
    );
}

#[test]
fn it_has_one_type_and_no_generics() {
    struct Client {
        github: Standard,
        config: Config,
    }
    let clock = ManualClock::new();
    let github = standard(&clock).build().unwrap();
    let client = Client {
        config: github.config(),
        github,
    };
    assert!(client.config == client.github.config());
    assert!(
        format!("{:?}", client.github).starts_with("Standard { name: \"github\", config: Config")
    );
}
