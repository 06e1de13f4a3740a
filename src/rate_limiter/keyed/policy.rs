//! One key's limit before an operation.

use std::future::Future;
use std::hash::Hash;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::super::state::Refusal;
use super::acquire::KeyedAcquire;
use super::limited::Limited;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E, Q> Policy<T, E> for Limited<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    #[inline(always)]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let cost = u64::from(cx.cost());
        let outside = &self.inner.outside;
        let now = outside.steady(cx.now(&outside.clock));
        let make = |op: Op, cx: Context| op.attempt(cx);
        // Each branch makes a future of its own: in one that both share, the fields of the other are
        // written too.
        match self.inner.take(self.hash, self.key, now, cost) {
            Ok(()) => LimitedFuture {
                stage: Stage::Running {
                    attempt: op.attempt(cx),
                },
                make,
                outcome: PhantomData,
            },
            Err(refusal) => LimitedFuture {
                stage: Stage::Refused {
                    limited: *self,
                    refusal,
                    op,
                    cx,
                },
                make,
                outcome: PhantomData,
            },
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.outside.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}

pin_project! {
    struct LimitedFuture<'a, Q, Op, Make, Fut, T, E>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        #[pin]
        stage: Stage<'a, Q, Op, Fut>,
        // Makes an attempt. A closure of no size, so that the attempt's type needs no name.
        make: Make,
        outcome: PhantomData<fn() -> (T, E)>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Q, Op, Fut>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        // Not admitted at once. Apart from `Waiting`, because that is large: made in `run`, it would cost
        // time also where a call is admitted.
        Refused {
            limited: Limited<'a, Q>,
            refusal: Refusal,
            op: Op,
            cx: Context,
        },
        Waiting {
            #[pin]
            acquire: KeyedAcquire<'a, Q>,
            limited: Limited<'a, Q>,
            op: Op,
            cx: Context,
        },
        Running {
            #[pin]
            attempt: Fut,
        },
    }
}

impl<T, E, Q, Op, Make, Fut> Future for LimitedFuture<'_, Q, Op, Make, Fut, T, E>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
    Op: Operation<T, E>,
    Make: Fn(Op, Context) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        loop {
            if let StageProj::Running { attempt } = this.stage.as_mut().project() {
                return attempt.poll(task);
            }
            match ready!(this.stage.as_mut().poll_acquire::<T, E>(task)) {
                Ok((op, cx)) => {
                    let attempt = (this.make)(op, cx);
                    this.stage.set(Stage::Running { attempt });
                }
                Err(rejected) => return Poll::Ready(Outcome::rejected(rejected)),
            }
        }
    }
}

impl<Q, Op, Fut> Stage<'_, Q, Op, Fut>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    /// Rejects a call that was not admitted at once, or waits for its turn.
    #[cold]
    fn poll_acquire<T, E>(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Rejected>>
    where
        Op: Operation<T, E>,
    {
        let mut is_first = false;
        if let StageProj::Refused {
            limited,
            refusal,
            op,
            cx,
        } = self.as_mut().project()
        {
            let (mut limited, op, mut cx) = (*limited, *op, *cx);
            limited.is_new_call = false;
            let outside = &limited.inner.outside;
            if outside.max_wait.is_zero() {
                let now = outside.steady(cx.now(&outside.clock));
                let observer = op.listener().observer();
                limited.inner.refuse(now, *refusal, observer)?;
                return Poll::Ready(Ok((op, cx)));
            }
            let acquire = KeyedAcquire::new(limited, u64::from(cx.cost()), outside.max_wait);
            is_first = true;
            self.set(Stage::Waiting {
                acquire,
                limited,
                op,
                cx,
            });
        }
        match self.project() {
            StageProj::Waiting {
                acquire,
                limited,
                op,
                cx,
            } => {
                let clock = &limited.inner.outside.clock;
                let reading = match is_first {
                    true => cx.now(clock),
                    false => clock.now(),
                };
                let deadline = cx.deadline(clock);
                let observer = op.listener().observer();
                ready!(acquire.poll_with(task, reading, deadline, observer))?;
                cx.refresh(clock);
                Poll::Ready(Ok((*op, *cx)))
            }
            StageProj::Refused { .. } | StageProj::Running { .. } => Poll::Pending,
        }
    }
}
