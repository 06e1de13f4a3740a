//! What zero means to breakers, throttles, shedders, and rate limiters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop::adaptive_rate::CubicRate;
use backstop::circuit_breaker::Trip;
use backstop::{
    Backoff, CircuitBreaker, Instant, Jitter, KeyedRateLimiter, LoadShedder, ManualClock, Policy,
    Priority, Quota, RateLimiter, Reason, Throttle, Verdict,
};

use super::{SECOND, ZERO, ms};

pub(super) fn there_is_no_ramp() {
    let admitted = |ramp_up| {
        let breaker = CircuitBreaker::builder().clock(ManualClock::new()).seed(1);
        let breaker = breaker.ramp_up(ramp_up).build().unwrap();
        breaker.trip();
        breaker.close();
        (0..100).filter(|_| breaker.try_acquire().is_ok()).count()
    };
    assert_eq!(admitted(ZERO), 100);
    assert!(admitted(SECOND) < 100);
}

pub(super) fn breakers_ignore_hints() {
    let rest = |max_hint| {
        let breaker = CircuitBreaker::builder().clock(ManualClock::new());
        let breaker = breaker.trip_on(Trip::consecutive(1)).max_hint(max_hint);
        let length = Backoff::fixed(SECOND).jitter(Jitter::None);
        let breaker = breaker.break_for(length).build().unwrap();
        let permit = breaker.try_acquire().unwrap();
        permit.record(Verdict::throttled(SECOND * 60));
        breaker.snapshot().retry_after
    };
    assert_eq!(rest(ZERO), Some(SECOND));
    assert_eq!(rest(SECOND * 300), Some(SECOND * 60));
}

pub(super) fn the_next_call_is_a_probe() {
    let breaker = CircuitBreaker::builder().clock(ManualClock::new());
    let breaker = breaker
        .trip_on(Trip::consecutive(1))
        .break_with(|_, _| ZERO);
    let breaker = breaker.build().unwrap();
    breaker.try_acquire().unwrap().failure();
    assert!(breaker.try_acquire().unwrap().is_probe());
}

fn failing(builder: backstop::throttle::ThrottleBuilder) -> usize {
    let clock = ManualClock::new();
    let throttle = builder.seed(1).clock(clock).build().unwrap();
    for _ in 0..100 {
        throttle.record(Verdict::transient());
    }
    (0..100).filter(|_| throttle.try_acquire().is_err()).count()
}

pub(super) fn any_rate_of_calls_is_throttled() {
    assert!(failing(Throttle::builder().min_calls_per_second(0.0)) > 50);
    assert_eq!(failing(Throttle::builder().min_calls_per_second(1e6)), 0);
}

pub(super) fn no_call_is_throttled() {
    assert_eq!(failing(Throttle::builder().max_rejection(0.0)), 0);
    assert!(failing(Throttle::builder().max_rejection(0.9)) > 50);
}

pub(super) fn calls_count_from_their_start() {
    let probability = |grace| {
        let throttle = Throttle::builder().clock(ManualClock::new()).grace(grace);
        let throttle = throttle.max_rejection(0.5).build().unwrap();
        let _permits: Vec<_> = (0..20).map(|_| throttle.try_acquire()).collect();
        throttle.snapshot().rejection_probability
    };
    assert!(probability(ZERO) > 0.0);
    assert_eq!(probability(SECOND), 0.0);
}

pub(super) fn shedding_ends_with_the_overload() {
    let falls = |cool_off| {
        let clock = ManualClock::new();
        let overloaded = Arc::new(AtomicBool::new(true));
        let read = overloaded.clone();
        let signal = move || f64::from(read.load(Ordering::Relaxed));
        let shedder = LoadShedder::builder()
            .signal(0.5, signal)
            .clock(clock.clone());
        let shedder = shedder.cool_off(cool_off).build().unwrap();
        let pass = |updates| {
            for _ in 0..updates {
                clock.advance(ms(100));
                let _ = shedder.try_acquire(Priority::NORMAL);
            }
            shedder.snapshot().shed_rate
        };
        let before = pass(10);
        overloaded.store(false, Ordering::Relaxed);
        pass(2) < before
    };
    assert!(falls(ZERO));
    assert!(!falls(SECOND));
}

const QUOTA: Quota = Quota::per_second(10);

pub(super) fn no_call_waits_for_a_rate() {
    let clock = ManualClock::new();
    let builder = || RateLimiter::builder().quota(QUOTA).clock(clock.clone());
    for builder in [builder().max_wait(ZERO), builder().max_waiting(0)] {
        let limiter = builder.build().unwrap();
        limiter.try_acquire_n(10).unwrap();
        let call = limiter.call(|| async { Ok::<_, ()>(()) });
        let error = clock.block_on(call).unwrap_err();
        assert_eq!(error.reason(), Some(Reason::RateLimited));
    }
    let limiter = builder().max_waiting(0).build().unwrap();
    limiter.try_acquire_n(10).unwrap();
    assert!(clock.block_on(limiter.acquire()).is_err());
    assert_eq!(backstop::Clock::now(&clock), Instant::ORIGIN);
}

pub(super) fn no_call_waits_for_a_key() {
    let clock = ManualClock::new();
    let builder = || {
        KeyedRateLimiter::<u8>::builder()
            .quota(QUOTA)
            .clock(clock.clone())
    };
    for builder in [builder().max_wait(ZERO), builder().max_waiting(0)] {
        let limiter = builder.build().unwrap();
        limiter.try_acquire_n(&1, 10).unwrap();
        let limited = limiter.get(&1);
        let error = clock.block_on(limited.call(|| async { Ok::<_, ()>(()) }));
        assert_eq!(error.unwrap_err().reason(), Some(Reason::RateLimited));
    }
    let limiter = builder().max_waiting(0).build().unwrap();
    limiter.try_acquire_n(&1, 10).unwrap();
    assert!(clock.block_on(limiter.acquire(&1)).is_err());
    assert_eq!(backstop::Clock::now(&clock), Instant::ORIGIN);
}

pub(super) fn there_is_no_debt() {
    let reserves = |debt| {
        let builder = RateLimiter::builder().quota(QUOTA).max_debt(debt);
        let limiter = builder.clock(ManualClock::new()).build().unwrap();
        limiter.try_acquire_n(10).unwrap();
        limiter.reserve(1).is_ok()
    };
    assert!(!reserves(0) && reserves(1));
    let reserves = |debt| {
        let builder = KeyedRateLimiter::<u8>::builder()
            .quota(QUOTA)
            .max_debt(debt);
        let limiter = builder.clock(ManualClock::new()).build().unwrap();
        limiter.try_acquire_n(&1, 10).unwrap();
        limiter.reserve(&1, 1).is_ok()
    };
    assert!(!reserves(0) && reserves(1));
}

pub(super) fn the_rate_drops_to_the_lowest() {
    let rate = CubicRate::builder().decrease_factor(0.0).min_rate(2.0);
    let mut rate = rate.build(Instant::ORIGIN).unwrap();
    let at = |millis| Instant::ORIGIN + Duration::from_millis(millis);
    for call in 0..100 {
        rate.on_response(at(call * 10), false);
    }
    assert_eq!(rate.on_response(at(1000), true), Some(2.0));
}
