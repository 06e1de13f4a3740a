//! The shedder as a policy.

use super::LoadShedder;
use super::inner::Source;
use crate::clock::ClockHandle;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Gate, GuardedFuture, NoWait};
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Policy, Run};

impl Policy for LoadShedder {}

impl AtMostOnce for LoadShedder {}

impl<'a, Op: Operation> Run<Op> for &'a LoadShedder {
    type Future = GuardedFuture<&'a LoadShedder, Op>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl Describe for LoadShedder {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::LoadShedder {
            queue_delay: matches!(self.inner.source, Source::QueueDelay(_)),
        });
    }
}

impl Gate for &LoadShedder {
    type Ticket = ();
    type Permit = ();
    type Entrance = NoWait<()>;

    #[inline]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<(), Self::Entrance> {
        let inner = &*self.inner;
        let now = cx.now(&inner.base.clock);
        let waited = now.saturating_duration_since(cx.start(&inner.base.clock));
        inner.observe_delay(waited, now);
        match inner.try_acquire(cx.priority(), now, observer) {
            Ok(()) => Entered::Admitted(()),
            Err(rejected) => Entered::Rejected(rejected),
        }
    }

    #[inline]
    fn permit(self, (): ()) {}
}
