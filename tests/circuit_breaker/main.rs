//! The circuit breaker through its public API.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::circuit_breaker::{CircuitBreakerBuilder, HalfOpen, Trip};
use backstop::{Backoff, CircuitBreaker, Clock, Instant, Jitter, ManualClock, Sleep};

mod breaks;
mod clock;
mod events;
mod half_open;
mod health_check;
mod keyed;
mod locks;
mod manual;
mod model;
mod model_steps;
mod neighbors;
mod panics;
mod pause;
mod races;
mod rules;
mod settings;
mod snapshot;
#[path = "../watchdog/mod.rs"]
mod watchdog;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A breaker whose breaks are 5 s, on a manual clock.
fn builder(clock: &ManualClock) -> CircuitBreakerBuilder {
    CircuitBreaker::builder()
        .break_for(Backoff::fixed(secs(5)).jitter(Jitter::None))
        .clock(clock.clone())
}

/// Records calls: `.` is a success, `x` a failure, `s` a success and `S` a failure that took a
/// second.
fn feed(breaker: &CircuitBreaker, clock: &ManualClock, calls: &str) {
    for call in calls.chars() {
        let permit = breaker.try_acquire().expect("the call is admitted");
        if call == 's' || call == 'S' {
            clock.advance(secs(1));
        }
        match call {
            '.' | 's' => permit.success(),
            _ => permit.failure(),
        }
    }
}

/// A clock that can go backwards.
#[derive(Clone, Debug, Default)]
struct Skewed {
    nanos: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Skewed {
    fn set(&self, at: Duration) {
        let nanos = u64::try_from(at.as_nanos()).unwrap();
        self.nanos.store(nanos, std::sync::atomic::Ordering::SeqCst);
    }

    fn advance(&self, by: Duration) {
        self.set(Duration::from_nanos(self.now().as_nanos()) + by);
    }
}

impl Clock for Skewed {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn sleep_until(&self, _: Instant) -> Sleep {
        Sleep::never()
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A breaker whose break is over, and which then admits one probe.
fn one_probe(clock: &ManualClock) -> CircuitBreaker {
    let breaker = builder(clock)
        .trip_on(Trip::consecutive(1))
        .half_open(HalfOpen::successes(1))
        .build()
        .unwrap();
    feed(&breaker, clock, "x");
    clock.advance(secs(5));
    breaker
}
