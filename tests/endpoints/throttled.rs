//! Answers that are throttled, hints, failed probes, and rejections by layers inside.

use std::time::Duration;

use backstop::endpoints::NodeState;
use backstop::{CircuitBreaker, Classify, ManualClock, Policy, Verdict};

use crate::{Heard, SECOND, fail, of, rotating, state};

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

#[test]
fn a_hint_of_zero_parks_no_node() {
    let clock = ManualClock::new();
    let heard = Heard::default();
    let endpoints = rotating(&clock, 3).observer(heard.observer());
    let endpoints = endpoints.build().unwrap();
    let permit = endpoints.try_acquire().unwrap();
    permit.record(Verdict::failure().after(Duration::ZERO));
    assert!(heard.take().is_empty());
}

#[test]
fn a_failed_probe_counts_as_one_ejection() {
    let clock = ManualClock::new();
    let endpoints = rotating(&clock, 10).eject_after(1).build().unwrap();
    fail(&endpoints, 3, 1);
    for (waited, next) in [(30, 60), (60, 90)] {
        clock.advance(waited * SECOND);
        let probe = endpoints.try_acquire().unwrap();
        assert_eq!(**probe.node(), 3);
        probe.failure();
        let node = of(&endpoints.snapshot(), 3);
        assert_eq!(node.retry_after, Some(next * SECOND));
        assert_eq!(u64::from(node.ejections), u64::from(next / 30));
    }
}
