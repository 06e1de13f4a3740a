//! The rate limiter from outside: known faults of others, waiting, reservations, quotas, keys, and the policy.

mod consumed;
mod failing_clocks;
mod fairness;
mod feedback;
mod hostile_keys;
mod keyed;
mod keyed_feedback;
mod keyed_options;
mod keyed_pauses;
mod known_faults;
mod more;
mod overflow;
mod panics;
mod picture;
mod policy;
mod quotas;
mod stalls;
mod text;
#[path = "../hostile_keys/mod.rs"]
mod user_keys;
mod waiting;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop::rate_limiter::{Quota, RateLimiterBuilder};
use backstop::{Clock, Instant, ManualClock, RateLimiter, Sleep};
use futures::future::{Either, select};

const SECOND: Duration = Duration::from_secs(1);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn builder(clock: &ManualClock, quota: Quota) -> RateLimiterBuilder {
    RateLimiter::builder().quota(quota).clock(clock.clone())
}

fn limiter(clock: &ManualClock, quota: Quota) -> RateLimiter {
    builder(clock, quota).build().unwrap()
}

/// Takes single tokens until there are none. Returns how many there were.
fn drain(limiter: &RateLimiter) -> u64 {
    let mut taken = 0;
    while limiter.try_acquire().is_ok() {
        taken += 1;
    }
    taken
}

/// Runs a future on the clock, and fails if it would wait forever. `block_on` alone would not fail, since a
/// waiter that is never woken still holds a waker.
fn run<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    clock.block_on(async {
        match select(pin!(future), pin!(clock.sleep(FOR_EVER))).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => panic!("it is never woken"),
        }
    })
}

/// A clock that can jump backwards.
#[derive(Clone, Debug)]
struct Skewed {
    inner: ManualClock,
    back: Arc<AtomicU64>,
}

impl Skewed {
    fn new(inner: &ManualClock) -> Self {
        Self {
            inner: inner.clone(),
            back: Arc::default(),
        }
    }

    fn jump_back(&self, by: Duration) {
        self.back.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Skewed {
    fn now(&self) -> Instant {
        let back = self.back.load(Ordering::Relaxed);
        Instant::from_nanos(self.inner.now().as_nanos().saturating_sub(back))
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let wait = deadline.saturating_duration_since(self.now());
        self.inner.sleep(wait)
    }
}
