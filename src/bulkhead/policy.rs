//! The bulkhead around an operation.

use std::mem;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::Bulkhead;
use super::acquire::{Request, Wait};
use super::inner::Inner;
use super::permit_queue::Full;
use super::raw_permit::{Ending, RawPermit};
use crate::clock::ClockHandle;
use crate::error::{Reason, Rejected};
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture, Permit};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

impl Policy for Bulkhead {}

impl AtMostOnce for Bulkhead {}

impl<'a, Op: Operation> Run<Op> for &'a Bulkhead {
    type Future = GuardedFuture<&'a Bulkhead, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a> Gate for &'a Bulkhead {
    type Ticket = Ticket;
    type Permit = Running<'a>;
    type Entrance = Waiting<'a>;

    #[inline(always)]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Ticket, Waiting<'a>> {
        let inner = &*self.inner;
        let stage = match inner.try_enter(inner.entrant(cx, self.partition), cx, observer) {
            Ok(held) => return Entered::Admitted(Ticket(held)),
            Err(Full::Busy) if inner.may_wait() => Stage::Full,
            Err(full) => Stage::Rejected {
                reason: full.reason(),
            },
        };
        Entered::Waits(Waiting {
            bulkhead: self,
            stage,
        })
    }

    #[inline(always)]
    fn permit(self, Ticket(held): Ticket) -> Running<'a> {
        Running {
            inner: &self.inner,
            held,
        }
    }
}

impl Describe for Bulkhead {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Bulkhead {
            adaptive: self.inner.adaptive.is_some(),
        });
    }
}

/// What an admitted call has taken.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(RawPermit);

/// The permits of a call that runs; nothing once they have been taken out.
pub struct Running<'a> {
    inner: &'a Inner,
    held: RawPermit,
}

impl Permit for Running<'_> {
    #[inline(always)]
    fn take(&mut self) -> Self {
        Self {
            inner: self.inner,
            held: self.held.take().unwrap_or(RawPermit::NOTHING),
        }
    }

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, observer: Option<&dyn Observer>) -> Outcome<T, E> {
        let (inner, held) = (self.inner, self.held);
        // It holds nothing any more.
        mem::forget(self);
        if held.is_nothing() {
            return outcome;
        }
        if inner.adaptive.is_some() {
            return end_of_sample(inner, held, outcome, observer);
        }
        inner.release(held);
        outcome
    }
}

/// Ends a call whose duration and result an algorithm wants to know.
///
/// Out of line, and the outcome by value: taking its address, or that of the permit, would force every
/// call out of the registers.
#[inline(never)]
fn end_of_sample<T, E>(
    inner: &Inner,
    held: RawPermit,
    mut outcome: Outcome<T, E>,
    observer: Option<&dyn Observer>,
) -> Outcome<T, E> {
    let ending = Ending::of(&outcome.verdict);
    inner.leave(
        held,
        ending,
        || outcome.finished(&inner.base.clock),
        observer,
    );
    outcome
}

impl Drop for Running<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Only looked at: the words may have been written just now.
        if !self.held.is_nothing() {
            self.abandon();
        }
    }
}

impl Running<'_> {
    /// Ends a call that was dropped, or whose operation panicked.
    #[inline(never)]
    fn abandon(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        // A panic is a fault of the code, not a sign of load.
        let overload = self.inner.cancel_is_overload && !std::thread::panicking();
        let ending = if overload {
            Ending::Overloaded
        } else {
            Ending::Neutral
        };
        let now = || self.inner.base.clock.now();
        self.inner.leave(held, ending, now, None);
    }
}

impl std::fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The wait of a call that was not admitted at once.
    pub struct Waiting<'a> {
        bulkhead: &'a Bulkhead,
        #[pin]
        stage: Stage<'a>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a> {
        Rejected { reason: Reason },
        // On its way into the wait queue. Apart, because a wait with its timer is large: made in `enter`, it
        // costs time also if the call is admitted at once.
        Full,
        Waiting { #[pin] wait: Wait<'a> },
    }
}

impl<'a> Entrance for Waiting<'a> {
    type Permit = Running<'a>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        reads_time: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Running<'a>, Rejected>> {
        let this = self.project();
        let (bulkhead, mut stage) = (*this.bulkhead, this.stage);
        let inner = &*bulkhead.inner;
        if let StageProj::Full = stage.as_mut().project() {
            stage.set(Stage::Waiting { wait: Wait::new() });
        }
        let reason = match stage.project() {
            StageProj::Waiting { wait } => {
                let request = Request {
                    inner,
                    partition: bulkhead.partition,
                    reads_time,
                };
                // From the start, because a clock may panic when the permits are there.
                let mut running = Running {
                    inner,
                    held: RawPermit::NOTHING,
                };
                match ready!(wait.poll(request, cx, &mut running.held, observer, task)) {
                    Ok(()) => return Poll::Ready(Ok(running)),
                    Err(reason) => reason,
                }
            }
            StageProj::Rejected { reason } => *reason,
            StageProj::Full => return Poll::Pending,
        };
        Poll::Ready(Err(inner.reject(reason, observer)))
    }
}

impl std::fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
