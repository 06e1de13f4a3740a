//! The system's clock, for programs without a runtime.

use std::sync::Arc;

use super::{Clock, Sleep, system};
use crate::blocking::outside;
use crate::event::{Event, Observer};
use crate::instant::Instant;

pub(crate) use super::sleep::blocking::block_on;

/// The system's monotonic clock, whose sleeps park the thread.
///
/// Meant for programs without a runtime: build policies with it and use them through
/// [`call_blocking`](crate::Policy::call_blocking). Anywhere else, polling a sleep parks the thread until the sleep
/// ends, so keep it out of async executors.
///
/// # Example
///
/// ```
/// use backstop::{BlockingClock, Policy, Retry};
///
/// let retry = Retry::builder().clock(BlockingClock).build()?;
/// let text = retry.call_blocking(|| std::fs::read_to_string("Cargo.toml"));
/// assert!(text.is_ok());
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockingClock;

impl Clock for BlockingClock {
    #[inline]
    fn now(&self) -> Instant {
        system::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep::blocking(deadline)
    }
}

/// Wraps an observer that may start a runtime. See [`outside`].
pub(crate) fn shielded(observer: impl Observer + 'static) -> Arc<dyn Observer> {
    Arc::new(Shielded(observer))
}

struct Shielded<O>(O);

impl<O: Observer> Observer for Shielded<O> {
    fn on_event(&self, event: &Event) {
        outside(|| self.0.on_event(event));
    }

    fn includes(&self, address: *const ()) -> bool {
        self.0.includes(address)
    }

    fn on_event_after(&self, heard: &dyn Observer, event: &Event) {
        outside(|| self.0.on_event_after(heard, event));
    }
}
