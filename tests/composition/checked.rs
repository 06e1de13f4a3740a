//! `Pipeline::check` on stacks of real policies.

use backstop::policy::Describe;
use backstop::rate_limiter::Quota;
use backstop::{Bulkhead, CircuitBreaker, ManualClock, Pipeline, RateLimiter};

use super::{classify, retry, timeout};

fn breaker(clock: &ManualClock) -> CircuitBreaker {
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    breaker.build().unwrap()
}

fn limiter(clock: &ManualClock) -> RateLimiter {
    let limiter = RateLimiter::builder().quota(Quota::per_second(10));
    limiter.clock(clock.clone()).build().unwrap()
}

fn bulkhead(clock: &ManualClock) -> Bulkhead {
    let bulkhead = Bulkhead::builder().clock(clock.clone());
    bulkhead.build().unwrap()
}

fn mistakes(stack: impl Describe) -> Vec<String> {
    let found = Pipeline::new(stack).check();
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn the_recommended_stack_has_no_mistakes() {
    let c = &ManualClock::new();
    let github = (
        timeout(c, 10_000),
        retry(c),
        breaker(c),
        limiter(c),
        timeout(c, 2000),
    );
    assert_eq!(mistakes(github), [""; 0]);
    let with_classifier = (
        timeout(c, 10_000),
        retry(c),
        breaker(c),
        bulkhead(c),
        limiter(c),
        timeout(c, 2000),
        classify(),
    );
    assert_eq!(mistakes(with_classifier), [""; 0]);
}

#[test]
fn each_mistake_is_found_among_real_policies() {
    let c = &ManualClock::new();
    let short = (timeout(c, 3000), retry(c), breaker(c), timeout(c, 2000));
    let no_attempt_timeout = (timeout(c, 10_000), retry(c), breaker(c), limiter(c));
    let unread = (classify(), timeout(c, 10_000), retry(c));
    let tokens_first = (retry(c), limiter(c), bulkhead(c));
    for (found, start) in [
        (
            mistakes(short),
            "layer 3 (timeout) inside layer 0 (timeout): the total is shorter than two attempts",
        ),
        (
            mistakes(no_attempt_timeout),
            "layer 2 (circuit breaker) inside layer 0 (timeout): a call that is cut off from outside",
        ),
        (
            mistakes(unread),
            "layer 0 (classify): no layer outside of it reads verdicts",
        ),
        (
            mistakes(tokens_first),
            "layer 2 (bulkhead) inside layer 1 (rate limiter): calls that the bulkhead rejects",
        ),
    ] {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(start), "{found:?}");
        assert!(found[0].contains("; "), "says what to do: {found:?}");
    }
}
