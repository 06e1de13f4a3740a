//! The limit of a key as a layer around an operation.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::super::state::Unavailable;
use super::acquire::KeyedAcquire;
use super::limited::Limited;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture, Permit};
use crate::policy::{
    AtMostOnce, Context, Describe, LayerKind, OnUnwind, Operation, Outcome, Policy, Run,
};

impl<Q: ToOwned + ?Sized> Policy for Limited<'_, Q> {}

impl<Q: ToOwned + ?Sized> AtMostOnce for Limited<'_, Q> {}

impl<'k, Q, Op> Run<Op> for &Limited<'k, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
    Op: Operation,
{
    type Future = GuardedFuture<Limited<'k, Q>, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(*self, op, cx)
    }
}

impl<Q: ToOwned + ?Sized> Describe for Limited<'_, Q> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::RateLimiter);
    }
}

impl<'k, Q> Gate for Limited<'k, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    type Ticket = ();
    type Permit = KeyedResultRecorder<'k, Q>;
    type Entrance = TokenWait<'k, Q>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, _: Option<&dyn Observer>) -> Entered<(), Self::Entrance> {
        let cost = u64::from(cx.cost());
        let now = cx.now(&self.inner.base.clock);
        match self.inner.take(self.hash, self.key, now, cost) {
            Ok(()) => Entered::Admitted(()),
            Err(unavailable) => Entered::Waits(TokenWait {
                stage: Stage::Missing {
                    limited: self,
                    unavailable,
                },
            }),
        }
    }

    #[inline(always)]
    fn permit(self, (): ()) -> KeyedResultRecorder<'k, Q> {
        KeyedResultRecorder::of(self)
    }
}

/// A running call. Its result is recorded if the limiter learns from results.
pub struct KeyedResultRecorder<'a, Q: ToOwned + ?Sized> {
    limited: Option<Limited<'a, Q>>,
}

impl<'a, Q> KeyedResultRecorder<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    #[inline(always)]
    fn of(limited: Limited<'a, Q>) -> Self {
        Self {
            limited: limited.inner.learns().then_some(limited),
        }
    }
}

impl<Q> Permit for KeyedResultRecorder<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    #[inline(always)]
    fn take(&mut self) -> Self {
        Self {
            limited: self.limited.take(),
        }
    }

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        let Some(Limited {
            inner, hash, key, ..
        }) = self.limited
        else {
            return outcome;
        };
        // A rejection by an inner layer says nothing about the dependency.
        if outcome.is_rejected() {
            return outcome;
        }
        outcome.shown_to(|verdict, mut finished| {
            inner.learn_from(hash, key, finished.on(&inner.base.clock), &verdict);
            finished
        })
    }
}

impl<Q: ToOwned + ?Sized> fmt::Debug for KeyedResultRecorder<'_, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedResultRecorder")
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The wait of a call that found too few tokens.
    pub struct TokenWait<'a, Q>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        #[pin]
        stage: Stage<'a, Q>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Q>
    where
        Q: Hash,
        Q: Eq,
        Q: ToOwned,
        Q: ?Sized,
        Q::Owned: Hash,
        Q::Owned: Eq,
    {
        // A separate variant because the wait is large: building it in `enter` would slow admitted calls.
        Missing {
            limited: Limited<'a, Q>,
            unavailable: Unavailable,
        },
        Waiting {
            #[pin]
            acquire: KeyedAcquire<'a, Q>,
            limited: Limited<'a, Q>,
        },
    }
}

impl<'a, Q> Entrance for TokenWait<'a, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    type Permit = KeyedResultRecorder<'a, Q>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<KeyedResultRecorder<'a, Q>, Rejected>> {
        let mut stage = self.project().stage;
        let mut is_first = false;
        if let StageProj::Missing {
            limited,
            unavailable,
        } = stage.as_mut().project()
        {
            let mut limited = *limited;
            limited.is_new_call = false;
            let inner = limited.inner;
            if inner.max_wait.is_zero() {
                let now = cx.now(&inner.base.clock);
                let admitted = inner.reject_for(now, *unavailable, observer);
                return Poll::Ready(admitted.map(|()| KeyedResultRecorder::of(limited)));
            }
            let acquire = KeyedAcquire::new(limited, u64::from(cx.cost()), inner.max_wait);
            is_first = true;
            stage.set(Stage::Waiting { acquire, limited });
        }
        let StageProj::Waiting { acquire, limited } = stage.project() else {
            return Poll::Pending;
        };
        let clock = &limited.inner.base.clock;
        let reading = match is_first {
            true => cx.now(clock),
            false => clock.now(),
        };
        let (deadline, cost) = (cx.deadline(clock), u64::from(cx.cost()));
        ready!(acquire.poll_with(task, reading, deadline, observer))?;
        let refund = OnUnwind::new(|| limited.give(cost));
        cx.refresh(clock);
        refund.disarm();
        Poll::Ready(Ok(KeyedResultRecorder::of(*limited)))
    }
}

impl<Q> fmt::Debug for TokenWait<'_, Q>
where
    Q: Hash + Eq + ToOwned + ?Sized,
    Q::Owned: Hash + Eq,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenWait").finish_non_exhaustive()
    }
}
