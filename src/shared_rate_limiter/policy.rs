//! The shared limiter before an operation.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::entry::Entry;
use super::{Acquire, SharedRateLimiter};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Policy, Run};

impl Policy for SharedRateLimiter {}

impl AtMostOnce for SharedRateLimiter {}

impl<'a, Op: Operation> Run<Op> for &'a SharedRateLimiter {
    type Future = GuardedFuture<&'a SharedRateLimiter, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a> Gate for &'a SharedRateLimiter {
    type Ticket = ();
    type Permit = ();
    type Entrance = Tokens<'a>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, observer: Option<&dyn Observer>) -> Entered<(), Tokens<'a>> {
        let entry = &self.entry;
        let cost = u64::from(cx.cost());
        if cost == 0 {
            return Entered::Admitted(());
        }
        let now = cx.now(&entry.hub.base.clock);
        let waits = !entry.hub.max_wait.is_zero();
        match Acquire::try_held(entry, now, cost, waits, observer) {
            Some(Ok(())) => Entered::Admitted(()),
            Some(Err(rejected)) => Entered::Rejected(rejected),
            None => Entered::Waits(Tokens {
                stage: Stage::Missing { entry },
            }),
        }
    }

    #[inline(always)]
    fn permit(self, (): ()) {}
}

impl Describe for SharedRateLimiter {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.entry.hub.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::RateLimiter);
    }
}

pin_project! {
    /// The wait of a call for tokens.
    pub struct Tokens<'a> {
        #[pin]
        stage: Stage<'a>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a> {
        // Kept apart from the wait, which is large: building the wait in `enter` would slow admitted calls.
        Missing { entry: &'a Arc<Entry> },
        Waiting {
            #[pin]
            acquire: Acquire<'a>,
        },
    }
}

impl Entrance for Tokens<'_> {
    type Permit = ();

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Rejected>> {
        let mut stage = self.project().stage;
        if let StageProj::Missing { entry } = stage.as_mut().project() {
            let acquire = Acquire::new(entry, cx.cost().into(), entry.hub.max_wait);
            stage.set(Stage::Waiting { acquire });
        }
        let StageProj::Waiting { mut acquire } = stage.project() else {
            return Poll::Pending;
        };
        let clock = acquire.clock();
        let now = match acquire.is_waiting() {
            true => clock.now(),
            false => cx.now(clock),
        };
        let deadline = cx.deadline(clock);
        let waited = acquire.is_waiting();
        ready!(acquire.as_mut().poll_with(task, now, deadline, observer))?;
        if waited {
            cx.refresh(clock);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}
