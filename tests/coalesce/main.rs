//! Calls that share an execution.

mod flights;
mod user_code;
#[path = "../watchdog/mod.rs"]
mod watchdog;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use backstop::policy::{Guard, Guarded};
use backstop::{
    CallOptions, Coalesce, Error, Event, ManualClock, Pipeline, Policy, Priority, Reason, Rejected,
    Timeout,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

type Shared = Coalesce<u64, u64, &'static str>;

fn coalesce(clock: &ManualClock) -> Shared {
    Coalesce::builder().clock(clock.clone()).build().unwrap()
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
