//! The shared bulkhead around an operation.

use std::fmt;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::permit::Permit;
use super::{Acquire, SharedBulkhead};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

impl Policy for SharedBulkhead {}

impl AtMostOnce for SharedBulkhead {}

impl<'a, Op: Operation> Run<Op> for &'a SharedBulkhead {
    type Future = GuardedFuture<&'a SharedBulkhead, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a> Gate for &'a SharedBulkhead {
    type Ticket = Permit;
    type Permit = Permit;
    type Entrance = Waiting<'a>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, _: Option<&dyn Observer>) -> Entered<Permit, Waiting<'a>> {
        let permits = u64::from(cx.cost());
        Entered::Waits(Waiting {
            acquire: Acquire::new(&self.inner, permits, self.inner.max_wait),
        })
    }

    #[inline(always)]
    fn permit(self, ticket: Permit) -> Permit {
        ticket
    }
}

impl guarded::Permit for Permit {
    fn take(&mut self) -> Self {
        self.take()
    }

    fn exit<T, E>(self, outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        drop(self);
        outcome
    }
}

impl Describe for SharedBulkhead {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Bulkhead { adaptive: false });
    }
}

pin_project! {
    /// The wait of a call for its permits.
    pub struct Waiting<'a> {
        #[pin]
        acquire: Acquire<'a>,
    }
}

impl Entrance for Waiting<'_> {
    type Permit = Permit;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<Permit, Rejected>> {
        let mut acquire = self.project().acquire;
        let clock = acquire.clock();
        let waited = acquire.is_waiting();
        let now = match waited {
            true => clock.now(),
            false => cx.now(clock),
        };
        let deadline = cx.deadline(clock);
        let permit = ready!(acquire.as_mut().poll_with(task, now, deadline, observer))?;
        if waited {
            cx.refresh(clock);
        }
        Poll::Ready(Ok(permit))
    }
}

impl fmt::Debug for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
