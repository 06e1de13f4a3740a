//! The throttle as a policy.

use super::{Permit, Throttle};
use crate::clock::ClockHandle;
use crate::event::Observer;
use crate::life::Life;
use crate::policy::guarded::{self, Entered, Gate, GuardedFuture, NoWait};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

impl Policy for Throttle {}

impl AtMostOnce for Throttle {}

impl<'a, Op: Operation> Run<Op> for &'a Throttle {
    type Future = GuardedFuture<&'a Throttle, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl Describe for Throttle {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Throttle);
    }
}

impl<'a> Gate for &'a Throttle {
    type Ticket = Permit<'a>;
    type Permit = Permit<'a>;
    type Entrance = NoWait<Permit<'a>>;

    #[inline]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Permit<'a>, Self::Entrance> {
        let now = cx.now(&self.inner.base.clock);
        match self.inner.admit(now, Life::of_policy(), observer) {
            Ok(permit) => Entered::Admitted(permit),
            Err(rejected) => Entered::Rejected(rejected),
        }
    }

    #[inline]
    fn permit(self, permit: Permit<'a>) -> Permit<'a> {
        permit
    }
}

impl guarded::Permit for Permit<'_> {
    fn panicked(&mut self) {
        self.life.panicked();
    }

    #[inline]
    fn take(&mut self) -> Self {
        self.move_out()
    }

    #[inline]
    fn exit<T, E>(self, outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        outcome.shown_to(|verdict, finished| {
            self.record(verdict);
            finished
        })
    }
}
