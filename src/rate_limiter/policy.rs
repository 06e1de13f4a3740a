//! The limiter before an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::{Acquire, RateLimiter};
use crate::clock::ClockHandle;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for RateLimiter {
    #[inline]
    fn run<Op: Operation<T, E>>(&self, op: Op, cx: Context) -> impl Future<Output = Outcome<T, E>> {
        Limited {
            stage: Stage::Start,
            make: move |cx| op.attempt(cx),
            limiter: self,
            op,
            cx,
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}

pin_project! {
    struct Limited<'a, Op, Make, Fut> {
        #[pin]
        stage: Stage<'a, Fut>,
        make: Make,
        limiter: &'a RateLimiter,
        op: Op,
        cx: Context,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Fut> {
        // Nothing is taken before the first poll, so nothing is lost if that never comes.
        Start,
        Waiting { #[pin] acquire: Acquire<'a> },
        Running { #[pin] attempt: Fut },
    }
}

impl<T, E, Op, Make, Fut> Future for Limited<'_, Op, Make, Fut>
where
    Op: Operation<T, E>,
    Make: Fn(Context) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        let inner = &*this.limiter.inner;
        loop {
            match this.stage.as_mut().project() {
                StageProj::Running { attempt } => return attempt.poll(task),
                StageProj::Start => {
                    let cost = u64::from(this.cx.cost());
                    let now = inner.steady(this.cx.now(&inner.clock));
                    match inner.take(now, cost) {
                        Ok(()) => {}
                        Err(_) if inner.max_wait > Duration::ZERO && !inner.shadow => {
                            let acquire = this.limiter.acquire_within(cost, inner.max_wait);
                            this.stage.set(Stage::Waiting { acquire });
                            continue;
                        }
                        Err(refusal) => {
                            if let Err(rejected) = inner.refuse(now, refusal, this.op.observer()) {
                                return Poll::Ready(Outcome::rejected(rejected));
                            }
                        }
                    }
                }
                StageProj::Waiting { acquire } => {
                    let reading = match acquire.is_queued() {
                        true => inner.clock.now(),
                        false => this.cx.now(&inner.clock),
                    };
                    let deadline = this.cx.deadline(&inner.clock);
                    let observer = this.op.observer();
                    let acquired = ready!(acquire.poll_with(task, reading, deadline, observer));
                    if let Err(rejected) = acquired {
                        return Poll::Ready(Outcome::rejected(rejected));
                    }
                    this.cx.refresh(&inner.clock);
                }
            }
            let attempt = (this.make)(*this.cx);
            this.stage.set(Stage::Running { attempt });
        }
    }
}
