//! The throttle through its public API, in virtual time.

use std::time::Duration;

use backstop::throttle::ThrottleBuilder;
use backstop::{ManualClock, Throttle, Verdict};

mod clock;
mod extreme_values;
mod overload;
mod probability;
mod probes;
mod rejections;
mod results;
mod settings;
#[path = "../values/mod.rs"]
mod values;
mod window;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn builder(clock: &ManualClock) -> ThrottleBuilder {
    Throttle::builder().seed(1).clock(clock.clone())
}

/// A throttle that rejects as many calls as possible after the first failure, and forces no probes.
fn strict(clock: &ManualClock) -> ThrottleBuilder {
    builder(clock)
        .success_threshold(1.0)
        .min_calls(1)
        .max_rejection(1.0)
        .probe_every(Duration::MAX)
}

fn counts(throttle: &Throttle) -> (u64, u64, u64, u64) {
    let seen = throttle.snapshot();
    (seen.calls, seen.accepts, seen.failures, seen.in_flight)
}

fn probability(throttle: &Throttle) -> f64 {
    throttle.snapshot().rejection_probability
}

fn fail(throttle: &Throttle, times: u32) {
    for _ in 0..times {
        throttle.record(Verdict::failure());
    }
}

/// Makes calls and returns how many are rejected. The permits of the others are dropped.
fn rejections(throttle: &Throttle, calls: u32) -> u32 {
    (0..calls)
        .map(|_| u32::from(throttle.try_acquire().is_err()))
        .sum()
}
