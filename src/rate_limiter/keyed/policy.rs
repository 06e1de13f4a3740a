//! One key's limit before an operation.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::super::state::Refusal;
use super::KeyedRateLimiter;
use super::acquire::Turn;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Outcome, Policy, Run};

/// One key's limit as a policy. Made by [`KeyedRateLimiter::of`].
#[derive(Debug)]
pub struct Limited<'a, K, Q: ?Sized> {
    limiter: &'a KeyedRateLimiter<K>,
    key: &'a Q,
}

impl<'a, K, Q: ?Sized> Limited<'a, K, Q> {
    pub(super) const fn new(limiter: &'a KeyedRateLimiter<K>, key: &'a Q) -> Self {
        Self { limiter, key }
    }
}

impl<K, Q: ?Sized> Policy for Limited<'_, K, Q> {}

impl<K, Q: ?Sized> AtMostOnce for Limited<'_, K, Q> {}

impl<'k, K, Q, Op> Run<Op> for &Limited<'k, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    Op: Operation,
{
    type Future = LimitedFuture<'k, K, Q, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> Self::Future {
        let inner = &*self.limiter.inner;
        let cost = u64::from(cx.cost());
        let now = cx.now(&inner.outside.clock);
        // Each end makes a future of its own: in one that both share, the fields of the other are written
        // too.
        match inner.take(self.key, now, cost) {
            Ok(()) => LimitedFuture {
                stage: Stage::Running {
                    attempt: op.attempt(cx),
                },
            },
            Err(refusal) => LimitedFuture {
                stage: Stage::Refused {
                    limiter: self.limiter,
                    key: self.key,
                    refusal,
                    op,
                    cx,
                },
            },
        }
    }
}

impl<K, Q: ?Sized> Describe for Limited<'_, K, Q> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.limiter.inner.outside.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}

pin_project! {
    pub struct LimitedFuture<'a, K, Q, Op>
    where
        Op: Operation,
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        #[pin]
        stage: Stage<'a, K, Q, Op>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, K, Q, Op>
    where
        Op: Operation,
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        // Not let through at once. Apart from who waits, because a turn with its timer is large: made in
        // `run`, it costs time also where a call is let through.
        Refused {
            limiter: &'a KeyedRateLimiter<K>,
            key: &'a Q,
            // `None`: there is no room for the key.
            refusal: Option<Refusal>,
            op: Op,
            cx: Context,
        },
        Waiting {
            #[pin]
            turn: Turn<'a, K, Q>,
            limiter: &'a KeyedRateLimiter<K>,
            op: Op,
            cx: Context,
        },
        Running {
            #[pin]
            attempt: Op::Attempt,
        },
    }
}

impl<K, Q, Op> Future for LimitedFuture<'_, K, Q, Op>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    Op: Operation,
{
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let StageProj::Running { attempt } = this.stage.as_mut().project() {
                return attempt.poll(task);
            }
            match ready!(this.stage.as_mut().poll_acquire(task)) {
                Ok((op, cx)) => {
                    let attempt = op.attempt(cx);
                    this.stage.set(Stage::Running { attempt });
                }
                Err(rejected) => return Poll::Ready(Outcome::rejected(rejected)),
            }
        }
    }
}

impl<K, Q, Op> Stage<'_, K, Q, Op>
where
    Op: Operation,
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    /// Refuses a call that was not let through at once, or waits for its turn.
    #[cold]
    fn poll_acquire(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Rejected>> {
        if let StageProj::Refused {
            limiter,
            key,
            refusal,
            op,
            cx,
        } = self.as_mut().project()
        {
            let (limiter, key, op, mut cx) = (*limiter, *key, *op, *cx);
            let inner = &*limiter.inner;
            let (longest, cost) = (inner.outside.max_wait, u64::from(cx.cost()));
            let (reading, deadline) = (
                cx.now(&inner.outside.clock),
                cx.deadline(&inner.outside.clock),
            );
            let observer = op.listener().observer();
            if longest.is_zero() {
                inner.refuse(reading, cost, *refusal, observer)?;
                return Poll::Ready(Ok((op, cx)));
            }
            match limiter.book(key, cost, longest, (reading, deadline), observer)? {
                None => return Poll::Ready(Ok((op, cx))),
                Some(turn) => self.set(Stage::Waiting {
                    turn,
                    limiter,
                    op,
                    cx,
                }),
            }
        }
        match self.project() {
            StageProj::Waiting {
                turn,
                limiter,
                op,
                cx,
            } => {
                ready!(turn.poll(task));
                cx.refresh(&limiter.inner.outside.clock);
                Poll::Ready(Ok((*op, *cx)))
            }
            StageProj::Refused { .. } | StageProj::Running { .. } => Poll::Pending,
        }
    }
}
