//! User policies that decide before a call and inspect its result.

use std::fmt;

use super::calls::{AtMostOnce, Policy};
use super::context::Context;
use super::describe::{Describe, LayerKind};
use super::guarded::{self, Entered, Gate, GuardedFuture, NoWait, Permit};
use super::operation::{Operation, Run};
use super::outcome::Outcome;
use crate::blocking;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::{Event, Observer};

/// Decides before a call and inspects its result. [`Guarded`] turns it into a policy, without allocations.
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
///             true => Err(Rejected::new("maintenance", Reason::Custom)),
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
    /// The permit that an admitted call holds while it runs. If the call is cancelled or panics, it is dropped
    /// without [`exit`](Self::exit), so a permit that must be released needs a `Drop`.
    type Permit;

    /// Decides whether a call may run. It may change the context, for example tighten its deadline.
    ///
    /// # Errors
    ///
    /// The rejection that the caller and the observer receive.
    fn enter(&self, cx: &mut Context) -> Result<Self::Permit, Rejected>;

    /// Inspects the outcome of a call, and may change it. The operation has been dropped by then.
    fn exit<T, E>(&self, permit: Self::Permit, outcome: &mut Outcome<T, E>);

    /// Returns the clock that the guard reads, if any.
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

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Guard);
    }
}

impl<'a, G: Guard, Op: Operation> Run<Op> for &'a Guarded<G> {
    type Future = GuardedFuture<&'a Guarded<G>, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a, G: Guard> Gate for &'a Guarded<G> {
    type Ticket = G::Permit;
    type Permit = Held<'a, G>;
    type Entrance = NoWait<Held<'a, G>>;

    #[inline]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<G::Permit, Self::Entrance> {
        match blocking::outside(|| self.0.enter(cx)) {
            Ok(permit) => Entered::Admitted(permit),
            Err(rejected) => {
                if let Some(observer) = observer {
                    observer.on_event(&Event::rejected(&rejected));
                }
                Entered::Rejected(rejected)
            }
        }
    }

    #[inline]
    fn permit(self, permit: G::Permit) -> Held<'a, G> {
        Held {
            guard: &self.0,
            permit: Some(permit),
        }
    }
}

/// The permit of a user's guard.
pub struct Held<'a, G: Guard> {
    guard: &'a G,
    permit: Option<G::Permit>,
}

impl<G: Guard> Permit for Held<'_, G> {
    #[inline]
    fn take(&mut self) -> Self {
        Self {
            guard: self.guard,
            permit: self.permit.take(),
        }
    }

    #[inline]
    fn exit<T, E>(mut self, mut outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        if let Some(permit) = self.permit.take() {
            blocking::outside(|| self.guard.exit(permit, &mut outcome));
        }
        outcome
    }
}

impl<G: Guard> fmt::Debug for Held<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}
