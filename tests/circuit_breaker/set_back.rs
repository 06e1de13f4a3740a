use backstop::circuit_breaker::{HalfOpen, Trip};
use backstop::{Backoff, CircuitBreaker, Jitter};

use super::{Skewed, secs};

/// Holds behind the clock's border, which makes time monotonic for all patterns.
#[test]
fn a_clock_set_back_by_an_hour_neither_freezes_nor_bursts() {
    let clock = Skewed::default();
    clock.set(secs(3600));
    let breaker = CircuitBreaker::builder()
        .trip_on(Trip::failures(2).within(secs(10)))
        .half_open(HalfOpen::successes(1))
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .clock(clock.clone())
        .build()
        .unwrap();
    breaker.trip();
    clock.set(secs(1));
    for left in [5, 4, 3, 2, 1] {
        let rejected = breaker.try_acquire().unwrap_err();
        assert_eq!(rejected.retry_after(), Some(secs(left)));
        clock.advance(secs(1));
    }
    // One probe, and then windows that go on.
    breaker.try_acquire().unwrap().success();
    breaker.try_acquire().unwrap().failure();
    clock.advance(secs(11));
    breaker.try_acquire().unwrap().failure();
    assert!(breaker.try_acquire().is_ok());
    breaker.try_acquire().unwrap().failure();
    assert!(breaker.try_acquire().is_err());
}
