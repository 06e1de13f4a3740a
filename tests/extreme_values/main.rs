//! Zero, not-a-number, infinity, and the largest numbers in every setting of every builder: each is
//! rejected with an error that names the setting, or has a defined effect. Nothing panics, overflows,
//! or hangs.
//!
//! Patterns with a folder of tests have such a file there.

use std::cell::Cell;
use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use backstop::retry::RetryBuilder;
use backstop::{CallOptions, Classify, ManualClock, Pipeline, Policy, Verdict};
use values::TIMES;

mod backoff;
mod retry;
mod retry_budget;
mod time;
#[path = "../values/mod.rs"]
mod values;

/// A clock at its beginning, and one that is about to end.
fn clocks() -> [ManualClock; 2] {
    let old = ManualClock::new();
    old.advance(Duration::from_nanos(u64::MAX - 1000));
    [ManualClock::new(), old]
}

/// Whether a future ends by the end of time.
fn ends(clock: &ManualClock, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    (0..2).any(|_| {
        let ready = future.as_mut().poll(&mut cx).is_ready();
        clock.advance(Duration::MAX);
        ready
    })
}

/// Calls that fail twice, in every way and under every deadline, at both ends of time.
fn try_out(retry: RetryBuilder) {
    let hinted = TIMES.map(Verdict::throttled).into_iter();
    let failures = hinted.chain([Verdict::transient(), Verdict::timed_out()]);
    for (failure, within) in failures.flat_map(|f| TIMES.map(|time| (f, time))) {
        for clock in clocks() {
            let retry = retry.clone().clock(clock.clone()).build().unwrap();
            let stack = Pipeline::new((retry, Classify::errors(|verdict: &Verdict| *verdict)));
            let tries = Cell::new(0);
            let call = stack.with(CallOptions::new().deadline(within));
            let result = clock.block_on(call.call(|| {
                tries.set(tries.get() + 1);
                ready(if tries.get() > 2 {
                    Ok(())
                } else {
                    Err(failure)
                })
            }));
            assert_eq!(result.is_ok(), tries.get() > 2);
            assert_eq!(clock.sleepers(), 0);
        }
    }
}
