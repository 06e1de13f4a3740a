//! A deadline that nested calls of one task inherit.
//!
//! A [`Timeout`](crate::Timeout) sets it: other policies that its operation calls have no more time than the timeout
//! leaves. [`scope_on`] does the same for a deadline from elsewhere, such as a request header.
//!
//! The deadline belongs to the task, not to the thread: it is set while the future is polled and restored afterwards.
//! So the closure given to a policy, which only creates the future, does not see the deadline of that policy; the
//! future does.
//!
//! Spawned tasks do not inherit it. To pass it on, spawn a scope without a limit of its own, which captures the
//! deadline where it is created: `tokio::spawn(deadline::scope(Duration::MAX, task))`.
//!
//! # Clocks
//!
//! Calls on the same clock inherit the deadline exactly. Between the tokio, fast, and blocking clocks, the time left
//! is carried over. A deadline on a [`ManualClock`](crate::ManualClock) or a clock of your own applies only to calls
//! on that clock, and hides an outer deadline on another clock. So a program should use one clock.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Error, ManualClock, Policy, Timeout, deadline};
//!
//! let clock = ManualClock::new();
//! let ten_seconds = Timeout::builder()
//!     .after(Duration::from_secs(10))
//!     .clock(clock.clone())
//!     .build()?;
//!
//! // The client said it waits for 500 ms.
//! let handler = deadline::scope_on(clock.clone(), Duration::from_millis(500), async {
//!     ten_seconds.call(std::future::pending::<Result<(), ()>>).await
//! });
//! let error = clock.block_on(handler).unwrap_err();
//! assert!(error.is_timeout());
//! assert_eq!(clock.block_on(async { deadline::current() }), None);
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::clock::{ClockHandle, ClockId};
use crate::coop;
use crate::error::Reason;
use crate::instant::Instant;

thread_local! {
    static CURRENT: Cell<Deadline> = const { Cell::new(Deadline::NEVER) };
}

/// A deadline and its clock.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    clock: ClockId,
    at: Instant,
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}

impl Deadline {
    const NEVER: Self = Self {
        clock: ClockId::NONE,
        at: Instant::FAR_FUTURE,
    };

    #[inline]
    pub(crate) fn new(clock: &ClockHandle, at: Instant) -> Self {
        Self {
            clock: clock.id(),
            at,
        }
    }

    /// Returns the deadline on another clock. `now` is a reading of `clock`.
    #[cold]
    fn on(self, clock: &ClockHandle, now: Instant) -> Instant {
        if self.clock == clock.id() {
            return self.at;
        }
        match self.clock.handle() {
            Some(own) => now + self.at.saturating_duration_since(own.now()),
            None => Instant::FAR_FUTURE,
        }
    }

    /// Returns this deadline, or the one in force if that is known to be earlier. `clock` is the clock of this one.
    fn or_earlier(self, clock: &ClockHandle) -> Self {
        let outer = CURRENT.get();
        if outer.at == Instant::FAR_FUTURE {
            return self;
        }
        let outer = match outer.clock == self.clock {
            true => outer.at,
            false => outer.on(clock, clock.now()),
        };
        Self {
            at: self.at.min(outer),
            ..self
        }
    }

    /// Puts this deadline in force on this thread, until the guard is dropped.
    #[inline]
    pub(crate) fn enter(self) -> Entered {
        Entered {
            outer: CURRENT.replace(self),
        }
    }
}

/// Restores the outer deadline, even if the operation panics.
#[derive(Debug)]
pub(crate) struct Entered {
    outer: Deadline,
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// Returns the deadline that a call starting now inherits. `now` is a reading of `clock`.
#[inline]
pub(crate) fn inherited(clock: &ClockHandle, now: Instant) -> Instant {
    let deadline = CURRENT.get();
    if deadline.at == Instant::FAR_FUTURE {
        Instant::FAR_FUTURE
    } else {
        deadline.on(clock, now)
    }
}

/// Polls an acquisition outside any policy, within the budget of its task. Only its first poll (`starts`) inherits the
/// deadline in force. `poll` gets the current time on `clock`, and the deadline.
#[inline(always)]
pub(crate) fn poll_inheriting<T>(
    clock: &ClockHandle,
    starts: bool,
    task: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>, Instant, Instant) -> Poll<T>,
) -> Poll<T> {
    coop::poll_within(task, |task| {
        let now = clock.now();
        let deadline = match starts {
            true => inherited(clock, now),
            false => Instant::FAR_FUTURE,
        };
        poll(task, now, deadline)
    })
}

/// Returns when a wait that starts now ends at the latest, and the reason of a rejection at that time.
pub(crate) fn end_of_wait(now: Instant, longest: Duration, deadline: Instant) -> (Instant, Reason) {
    let end = now + longest;
    match deadline <= end {
        true => (deadline, Reason::DeadlineTooClose),
        false => (end, Reason::QueueTimeout),
    }
}

/// Returns the time left until the deadline in force; `None` without one, or when it is on a
/// [`ManualClock`](crate::ManualClock) or a clock of your own, for which there is [`current_on`].
pub fn current() -> Option<Duration> {
    let Deadline { clock, at } = CURRENT.get();
    if at == Instant::FAR_FUTURE {
        return None;
    }
    Some(at.saturating_duration_since(clock.handle()?.now()))
}

/// Returns the time left until the deadline in force for a policy on `clock`.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use backstop::{ManualClock, Policy, Timeout, deadline};
///
/// let clock = ManualClock::new();
/// let two_seconds = Duration::from_secs(2);
/// let timeout = Timeout::builder().after(two_seconds).clock(clock.clone()).build()?;
/// let left = clock.block_on(timeout.call(|| async {
///     Ok::<_, ()>(deadline::current_on(clock.clone()))
/// }));
/// assert_eq!(left, Ok(Some(two_seconds)));
/// # Ok::<(), backstop::ConfigError>(())
/// ```
pub fn current_on(clock: impl Into<ClockHandle>) -> Option<Duration> {
    let clock = clock.into();
    let now = clock.now();
    match inherited(&clock, now) {
        Instant::FAR_FUTURE => None,
        at => Some(at.saturating_duration_since(now)),
    }
}

/// Runs `future` with a deadline for its calls through policies: `within` from now, on tokio's clock.
///
/// See [`scope_on`], which does the same on any clock.
#[cfg(feature = "tokio")]
pub fn scope<F: Future>(within: Duration, future: F) -> Scope<F> {
    scope_on(crate::clock::TokioClock, within, future)
}

/// Runs `future` with a deadline for its calls through policies: `within` from now, on `clock`.
///
/// It does not end the future: put a [`Timeout`](crate::Timeout) inside or around it for that. An earlier deadline
/// stays in force, both one at the creation of the scope and one where it is polled. [`Duration::MAX`] adds no limit
/// of its own.
///
/// # Cancel safety
///
/// Dropping it drops `future`. Nothing needs restoring, because the deadline is set only while the future is polled.
pub fn scope_on<F: Future>(clock: impl Into<ClockHandle>, within: Duration, future: F) -> Scope<F> {
    let clock = clock.into();
    let now = clock.now();
    let at = (now + within).min(inherited(&clock, now));
    Scope {
        deadline: Deadline::new(&clock, at),
        clock,
        future,
    }
}

pin_project! {
    /// A future whose calls inherit a deadline. Returned by [`scope_on`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct Scope<F> {
        deadline: Deadline,
        // Kept alive because a deadline identifies its clock by its address, which must not be reused.
        clock: ClockHandle,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.deadline.or_earlier(this.clock).enter();
        this.future.poll(cx)
    }
}
