//! The shedder around an operation.

use crate::clock::ClockHandle;
use crate::observe::Listener;
use crate::policy::{Context, Operation, Outcome, Policy};

use super::LoadShedder;

impl<T, E> Policy<T, E> for LoadShedder {
    async fn run<Op: Operation<T, E>>(&self, op: Op, mut cx: Context) -> Outcome<T, E> {
        let inner = &*self.inner;
        let now = cx.now(&inner.clock);
        let waited = now.saturating_duration_since(cx.start(&inner.clock));
        inner.observe_delay(waited, now);
        match inner.admit(cx.priority(), now, op.listener().observer()) {
            Ok(()) => op.attempt(cx).await,
            Err(rejected) => Outcome::rejected(rejected),
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }
}
