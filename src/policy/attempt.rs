//! The attempt that an operation makes.

use std::time::Duration;

use super::context::Context;
use crate::priority::Priority;

/// The attempt that an operation makes. Passed to the closure of
/// [`Policy::call_with`](super::Policy::call_with).
///
/// # Example
///
/// An operation that sends the time it has to the server:
///
/// ```
/// use std::time::Duration;
/// use backstop::{ManualClock, Policy, Timeout};
///
/// let clock = ManualClock::new();
/// let timeout = Timeout::builder().after(Duration::from_secs(2)).clock(clock.clone()).build()?;
///
/// let result = clock.block_on(timeout.call_with(|attempt| async move {
///     let millis = attempt.remaining().map_or(0, |left| left.as_millis());
///     Ok::<_, ()>(format!("grpc-timeout: {millis}m"))
/// }));
/// assert_eq!(result.unwrap(), "grpc-timeout: 2000m");
/// # Ok::<(), backstop::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    cx: Context,
}

impl Attempt {
    pub(crate) const fn new(cx: Context) -> Self {
        Self { cx }
    }

    /// Returns the number of the attempt, from 1.
    pub const fn number(&self) -> u32 {
        self.cx.attempt()
    }

    /// Returns whether this is a further copy of an attempt that still runs.
    pub const fn is_hedge(&self) -> bool {
        self.cx.is_hedge()
    }

    /// Returns how much time the attempt had left when it started; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.cx.remaining()
    }

    /// Returns the priority of the call.
    pub const fn priority(&self) -> Priority {
        self.cx.priority()
    }

    /// Returns the cost of the call.
    pub const fn cost(&self) -> u32 {
        self.cx.cost()
    }

    pub(crate) const fn endpoint(&self) -> u64 {
        self.cx.endpoint()
    }
}
