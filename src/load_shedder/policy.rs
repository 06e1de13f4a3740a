//! The shedder around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::LoadShedder;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{AtMostOnce, Context, Describe, Operation, Outcome, Policy, Run};

impl Policy for LoadShedder {}

impl AtMostOnce for LoadShedder {}

impl<Op: Operation> Run<Op> for &LoadShedder {
    type Future = Shedding<Op>;

    #[inline]
    fn run(self, op: Op, mut cx: Context) -> Shedding<Op> {
        let inner = &*self.inner;
        let now = cx.now(&inner.clock);
        let waited = now.saturating_duration_since(cx.start(&inner.clock));
        inner.observe_delay(waited, now);
        match inner.admit(cx.priority(), now, op.listener().observer()) {
            Ok(()) => Shedding::Running {
                attempt: op.attempt(cx),
            },
            Err(rejected) => Shedding::Refused { rejected },
        }
    }
}

impl Describe for LoadShedder {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }
}

pin_project! {
    #[project = SheddingProj]
    pub enum Shedding<Op: Operation> {
        Refused { rejected: Rejected },
        Running { #[pin] attempt: Op::Attempt },
    }
}

impl<Op: Operation> Future for Shedding<Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.project() {
            SheddingProj::Refused { rejected } => Poll::Ready(Outcome::rejected(*rejected)),
            SheddingProj::Running { attempt } => attempt.poll(task),
        }
    }
}
