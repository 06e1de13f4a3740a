//! The shedder around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::LoadShedder;
use super::inner::Source;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for LoadShedder {
    #[inline]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
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

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::LoadShedder {
            queue_delay: matches!(self.inner.source, Source::QueueDelay(_)),
        });
    }
}

pin_project! {
    #[project = SheddingProj]
    enum Shedding<Fut> {
        Refused { rejected: Rejected },
        Running { #[pin] attempt: Fut },
    }
}

impl<T, E, Fut: Future<Output = Outcome<T, E>>> Future for Shedding<Fut> {
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        match self.project() {
            SheddingProj::Refused { rejected } => Poll::Ready(Outcome::rejected(*rejected)),
            SheddingProj::Running { attempt } => attempt.poll(task),
        }
    }
}
