//! Clocks: tokio's paused clock, and clocks that jump back by an hour, which change no duration.

use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, State, Trip};
use backstop::{Backoff, CircuitBreaker, Jitter};

use super::{Skewed, secs};

const HOUR: Duration = secs(3600);

/// A breaker whose breaks are 5 s.
fn builder(clock: &Skewed) -> CircuitBreakerBuilder {
    clock.set(HOUR);
    CircuitBreaker::builder()
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .seed(7)
        .clock(clock.clone())
}

#[test]
fn a_backward_jump_does_not_change_a_break() {
    let clock = Skewed::default();
    let breaker = builder(&clock).build().unwrap();
    breaker.trip();
    clock.set(secs(1));
    for left in [5, 4, 3, 2, 1] {
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(secs(left)));
        clock.advance(secs(1));
    }
    assert!(breaker.try_acquire().is_ok());
}

#[test]
fn a_backward_jump_does_not_change_a_ramp_up() {
    let clock = Skewed::default();
    let breaker = builder(&clock).ramp_up(secs(10)).build().unwrap();
    breaker.half_open();
    breaker.try_acquire().unwrap().success();
    clock.set(secs(1));
    let admitted = || (0..1000).filter(|_| breaker.try_acquire().is_ok()).count();
    let first = admitted();
    assert!((60..140).contains(&first), "a tenth, not {first}");
    clock.advance(secs(5));
    let half_way = admitted();
    assert!((500..600).contains(&half_way), "{half_way}");
    clock.advance(secs(5));
    assert_eq!(admitted(), 1000);
}

#[test]
fn a_backward_jump_does_not_change_a_lease() {
    let clock = Skewed::default();
    let breaker = builder(&clock).probe_lease(secs(2)).build().unwrap();
    breaker.half_open();
    let _hung = breaker.try_acquire().unwrap();
    clock.set(secs(1));
    assert!(breaker.try_acquire().is_err());
    clock.advance(secs(2));
    let rejected = breaker.try_acquire().unwrap_err();
    assert_eq!(breaker.state(), State::Open, "a lost probe is a failure");
    assert_eq!(rejected.retry_after(), Some(secs(5)));
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn breaks_follow_the_paused_clock_of_tokio() {
    let breaker = CircuitBreaker::builder().build().unwrap();
    breaker.trip();
    assert!(breaker.try_acquire().is_err());
    tokio::time::advance(secs(3600)).await;
    assert!(breaker.try_acquire().is_ok());
}
