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
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture};
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Policy, Run};

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

// Derived, these would ask for `K: Copy`.
impl<K, Q: ?Sized> Clone for Limited<'_, K, Q> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, Q: ?Sized> Copy for Limited<'_, K, Q> {}

impl<K, Q: ?Sized> Policy for Limited<'_, K, Q> {}

impl<K, Q: ?Sized> AtMostOnce for Limited<'_, K, Q> {}

impl<'k, K, Q, Op> Run<Op> for &Limited<'k, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    Op: Operation,
{
    type Future = GuardedFuture<Limited<'k, K, Q>, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(*self, op, cx)
    }
}

impl<'k, K, Q> Gate for Limited<'k, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    type Ticket = ();
    type Permit = ();
    type Entrance = Tokens<'k, K, Q>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, _: Option<&dyn Observer>) -> Entered<(), Self::Entrance> {
        let inner = &*self.limiter.inner;
        let cost = u64::from(cx.cost());
        let now = cx.now(&inner.outside.clock);
        match inner.take(self.key, now, cost) {
            Ok(()) => Entered::Admitted(()),
            Err(refusal) => Entered::Waits(Tokens {
                stage: Stage::Missing {
                    limited: self,
                    refusal,
                },
            }),
        }
    }

    #[inline(always)]
    fn begin<A>(self, (): (), attempt: impl FnOnce() -> A) -> (A, ()) {
        (attempt(), ())
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
    /// The wait for a key's tokens of a call that found too few.
    pub struct Tokens<'a, K, Q>
    where
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        #[pin]
        stage: Stage<'a, K, Q>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, K, Q>
    where
        K: Hash,
        K: Eq,
        K: Borrow<Q>,
        Q: Hash,
        Q: Eq,
        Q: ?Sized,
    {
        // Apart from the wait, because a turn with its timer is large: made in `enter`, it costs time also if
        // the call is admitted.
        Missing {
            limited: Limited<'a, K, Q>,
            // `None`: there is no room for the key.
            refusal: Option<Refusal>,
        },
        Waiting {
            #[pin]
            turn: Turn<'a, K, Q>,
            limited: Limited<'a, K, Q>,
        },
    }
}

impl<K, Q> Entrance for Tokens<'_, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
{
    type Permit = ();

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Rejected>> {
        let mut stage = self.project().stage;
        if let StageProj::Missing { limited, refusal } = stage.as_mut().project() {
            let limited = *limited;
            let Limited { limiter, key } = limited;
            let inner = &*limiter.inner;
            let (longest, cost) = (inner.outside.max_wait, u64::from(cx.cost()));
            let clock = &inner.outside.clock;
            let (reading, deadline) = (cx.now(clock), cx.deadline(clock));
            if longest.is_zero() {
                let now = reading;
                return Poll::Ready(inner.refuse(now, cost, *refusal, observer));
            }
            match limiter.book(key, cost, longest, (reading, deadline), observer)? {
                None => return Poll::Ready(Ok(())),
                Some(turn) => stage.set(Stage::Waiting { turn, limited }),
            }
        }
        let StageProj::Waiting { turn, limited } = stage.project() else {
            return Poll::Pending;
        };
        ready!(turn.poll(task));
        cx.refresh(&limited.limiter.inner.outside.clock);
        Poll::Ready(Ok(()))
    }
}

impl<K, Q> std::fmt::Debug for Tokens<'_, K, Q>
where
    K: Hash + Eq + Borrow<Q>,
    Q: Hash + Eq + ?Sized,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}
