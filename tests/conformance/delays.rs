//! Delays computed by a real [`Retry`]. Shared by the adapters for delays.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::{Backoff, ConfigError, Policy, Retry};
use serde_json::Value;

use super::clock::TestClock;

/// Returns the delays before the first `count` retries of a call, without waiting.
pub(crate) fn delays(
    backoff: Backoff,
    count: u32,
    seed: u64,
) -> Result<Vec<Duration>, ConfigError> {
    let delays = Arc::new(Mutex::new(Vec::new()));
    let seen = delays.clone();
    let clock = TestClock::new();
    let retry = Retry::builder()
        .max_attempts(count.saturating_add(1))
        .backoff(backoff)
        .delay_with(move |retrying| {
            seen.lock().unwrap().push(retrying.delay());
            Duration::ZERO
        })
        .seed(seed)
        .clock(clock.clone())
        .build()?;
    let result = clock.block_on(retry.call(|| async { Err::<(), _>("down") }));
    assert!(result.is_err());
    let delays = delays.lock().unwrap().clone();
    assert_eq!(delays.len(), count as usize);
    Ok(delays)
}

/// Formats a delay as scenario files write it.
pub(crate) fn millis(delay: Duration) -> Value {
    match delay {
        Duration::MAX => "max_duration".into(),
        delay => (delay.as_nanos() as f64 / 1e6).into(),
    }
}

/// Returns a fixed delay; zero is no delay, as in the source.
pub(crate) const fn fixed(delay: Duration) -> Backoff {
    if delay.is_zero() {
        Backoff::NONE
    } else {
        Backoff::fixed(delay)
    }
}
