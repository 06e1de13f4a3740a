//! Policies of one's own that decide before a call and look at its result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::context::Context;
use super::describe::Describe;
use super::operation::{Operation, Run};
use super::outcome::Outcome;
use super::{AtMostOnce, Policy};
use crate::clock::{ClockHandle, blocking};
use crate::error::Rejected;
use crate::event::{Event, Listener};

/// Decides before a call and looks at its result. [`Guarded`] makes a policy of it, without allocations.
///
/// # Example
///
/// A maintenance switch that counts failures:
///
/// ```
/// use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
/// use backstop::policy::{Guard, Guarded};
/// use backstop::{Context, ManualClock, Outcome, Policy, Reason, Rejected};
///
/// #[derive(Default)]
/// struct Maintenance { closed: AtomicBool, failures: AtomicU32 }
///
/// impl Guard for Maintenance {
///     type Permit = ();
///
///     fn enter(&self, _: &mut Context) -> Result<(), Rejected> {
///         match self.closed.load(Relaxed) {
///             true => Err(Rejected::new("maintenance", Reason::Isolated)),
///             false => Ok(()),
///         }
///     }
///
///     fn exit<T, E>(&self, (): (), outcome: &mut Outcome<T, E>) {
///         self.failures.fetch_add(outcome.result.is_err().into(), Relaxed);
///     }
/// }
///
/// let (clock, guarded) = (ManualClock::new(), Guarded(Maintenance::default()));
/// let _ = clock.block_on(guarded.call(|| async { Err::<(), _>("no") }));
/// guarded.0.closed.store(true, Relaxed);
/// let result = clock.block_on(guarded.call(|| async { Ok::<_, &str>(()) }));
/// assert!(result.unwrap_err().is_rejected());
/// assert_eq!(guarded.0.failures.into_inner(), 1);
/// ```
pub trait Guard {
    /// What an admitted call holds while it runs. Dropped without [`exit`](Self::exit) when the call is
    /// cancelled or panics, so a permit that must be given back has a `Drop`.
    type Permit;

    /// Decides whether a call may run. It may change the context, for example tighten its deadline.
    ///
    /// # Errors
    ///
    /// The rejection that the caller gets, and that the observer is told.
    fn enter(&self, cx: &mut Context) -> Result<Self::Permit, Rejected>;

    /// Looks at the outcome of a call, which it may change. The operation has been dropped by then.
    fn exit<T, E>(&self, permit: Self::Permit, outcome: &mut Outcome<T, E>);

    /// Returns the clock it reads, if it reads one.
    fn clock(&self) -> Option<ClockHandle> {
        None
    }
}

/// A [`Guard`] as a policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guarded<G>(
    /// The guard.
    pub G,
);

impl<G> Policy for Guarded<G> {}

impl<G> AtMostOnce for Guarded<G> {}

impl<G: Guard> Describe for Guarded<G> {
    fn clock(&self) -> Option<ClockHandle> {
        self.0.clock()
    }
}

impl<'a, G: Guard, Op: Operation> Run<Op> for &'a Guarded<G> {
    type Future = GuardFuture<'a, G, Op>;

    #[inline]
    fn run(self, op: Op, mut cx: Context) -> GuardFuture<'a, G, Op> {
        match blocking::outside(|| self.0.enter(&mut cx)) {
            Ok(permit) => GuardFuture::Running {
                attempt: op.attempt(cx),
                guard: &self.0,
                permit: Some(permit),
            },
            Err(rejected) => {
                if let Some(observer) = op.listener().observer() {
                    observer.on_event(&Event::rejected(&rejected));
                }
                GuardFuture::Rejected { rejected }
            }
        }
    }
}

pin_project! {
    /// A run of a [`Guarded`] policy.
    #[project = GuardProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum GuardFuture<'a, G: Guard, Op: Operation> {
        Rejected {
            rejected: Rejected,
        },
        Running {
            // Dropped before the permit.
            #[pin]
            attempt: Op::Attempt,
            guard: &'a G,
            permit: Option<G::Permit>,
        },
        Finished,
    }
}

impl<G: Guard, Op: Operation> Future for GuardFuture<'_, G, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.as_mut().project() {
            GuardProj::Rejected { rejected } => Poll::Ready(Outcome::rejected(*rejected)),
            GuardProj::Running {
                attempt,
                guard,
                permit,
            } => {
                let mut outcome = ready!(attempt.poll(task));
                let (guard, permit) = (*guard, permit.take());
                self.set(Self::Finished);
                if let Some(permit) = permit {
                    blocking::outside(|| guard.exit(permit, &mut outcome));
                }
                Poll::Ready(outcome)
            }
            GuardProj::Finished => Poll::Pending,
        }
    }
}

impl<G: Guard, Op: Operation> fmt::Debug for GuardFuture<'_, G, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
