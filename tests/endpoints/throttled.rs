//! Answers that are throttled, and rejections by layers inside.

use backstop::endpoints::NodeState;
use backstop::{CircuitBreaker, Classify, ManualClock, Policy, Verdict};

use crate::{SECOND, of, rotating, state};

#[test]
fn a_throttled_answer_that_is_neutral_counts_as_slow() {
    // A node that throttles one tenant in a millisecond must not attract its calls.
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 1).build().unwrap();
    let neutral = Verdict::throttled(8 * SECOND).with_health(backstop::Health::Neutral);
    endpoints.try_acquire().unwrap().record(neutral);
    let node = of(&endpoints.snapshot(), 0);
    assert_eq!(node.latency, Some(8 * SECOND));
    assert_eq!(
        (node.state, node.calls, node.failures),
        (NodeState::Available, 0, 0)
    );
}

#[test]
fn a_429_counts_as_slow_and_a_rejection_by_a_layer_inside_does_not() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 1).build().unwrap();
    let latency = || of(&endpoints.snapshot(), 0).latency;
    let breaker = CircuitBreaker::builder().clock(clock.clone());
    let breaker = breaker.build().unwrap();
    let isolation = breaker.isolate();
    let stack = (&endpoints, &breaker);
    assert!(
        clock
            .block_on(stack.call(|| async { Ok::<_, ()>(()) }))
            .is_err()
    );
    assert_eq!(latency(), None);
    drop(isolation);
    let throttled = Verdict::throttled(8 * SECOND).with_health(backstop::Health::Neutral);
    let classify = Classify::errors(move |(): &()| throttled.not_executed());
    let stack = (&endpoints, &breaker, classify);
    assert!(
        clock
            .block_on(stack.call(|| async { Err::<(), _>(()) }))
            .is_err()
    );
    assert_eq!(latency(), Some(8 * SECOND));
    assert_eq!(state(&endpoints, 0), NodeState::Available);
}
