//! Retries and their budgets through the public API, in virtual time.
#![cfg(feature = "tokio")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::event::StopReason;
use backstop::{Backoff, Clock, Event, Jitter, ManualClock, Retry, Timeout};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn elapsed(clock: &ManualClock) -> Duration {
    Duration::from_nanos(clock.now().as_nanos())
}

/// A retry on `clock` that waits exactly 100 ms, 200 ms, 400 ms, ...
fn doubling(clock: &ManualClock) -> backstop::retry::RetryBuilder {
    Retry::builder()
        .backoff(Backoff::exponential(ms(100)).jitter(Jitter::None))
        .clock(clock.clone())
}

fn total(clock: &ManualClock, limit: Duration) -> Timeout {
    let timeout = Timeout::builder().after(limit).clock(clock.clone());
    timeout.build().unwrap()
}

/// An observer that keeps why retries stopped, and one that looks at it.
fn stops() -> (Arc<Mutex<Vec<StopReason>>>, impl Fn(&Event) + Send + Sync) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let observer = move |event: &Event| {
        if let Event::RetryStopped { stop, .. } = event {
            keep.lock().unwrap().push(*stop);
        }
    };
    (kept, observer)
}

/// The instants at which a call that always fails makes its attempts.
macro_rules! attempts_of {
    ($clock:expr, $policy:expr) => {{
        let (clock, policy): (&ManualClock, _) = ($clock, $policy);
        let at = std::cell::RefCell::new(Vec::new());
        let start = $crate::elapsed(clock);
        let result = clock.block_on(policy.call(|| {
            at.borrow_mut().push($crate::elapsed(clock) - start);
            async { Err::<(), _>("down") }
        }));
        assert!(matches!(result, Err(backstop::Error::Operation("down"))));
        at.into_inner()
    }};
}

// After the macro that they use.
mod attempts;
mod budget;
mod delays;
mod limits;
mod rejections;
