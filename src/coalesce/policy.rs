//! Coalescing around an operation.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::ForKey;
use super::inner::{Entered, Inner, Leader, Seen, Waiting};
use super::state::Terms;
use crate::clock::ClockHandle;
use crate::event::{Event, Listener};
use crate::instant::Instant;
use crate::policy::{AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run};

impl<Q: ?Sized, K, T, E> Policy for ForKey<'_, Q, K, T, E> {}

/// A call executes its own operation at most once.
impl<Q: ?Sized, K, T, E> AtMostOnce for ForKey<'_, Q, K, T, E> {}

impl<Q: ?Sized, K, T, E> Describe for ForKey<'_, Q, K, T, E> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.coalesce.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Coalesce);
    }
}

impl<'r, Q, K, T, E, Op> Run<Op> for &'r ForKey<'_, Q, K, T, E>
where
    K: Borrow<Q>,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    T: Clone,
    E: Clone,
    Op: Operation<Value = T, Error = E>,
{
    type Future = CoalesceFuture<'r, K, T, E, Op>;

    fn run(self, op: Op, mut cx: Context) -> Self::Future {
        let inner: &'r Inner<K, T, E> = &self.coalesce.inner;
        let terms = Terms {
            priority: cx.priority(),
            cost: cx.cost(),
        };
        match inner.enter(self.key, terms) {
            Entered::Leads(leading) => CoalesceFuture::Leads {
                attempt: op.attempt(cx),
                leading: Some(leading),
            },
            Entered::Waits(waiting) => CoalesceFuture::Waits {
                since: cx.now(&inner.clock),
                waiting: Some(waiting),
                inner,
                op,
                cx,
            },
        }
    }
}

pin_project! {
    /// A run of a [`Coalesce`](super::Coalesce).
    #[project = CoalesceProj]
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub enum CoalesceFuture<'a, K, T, E, Op>
    where
        Op: Operation,
    {
        /// The call executes the operation.
        Leads {
            // Declared first, so that it is dropped first.
            #[pin]
            attempt: Op::Attempt,
            leading: Option<Leader<'a, K, T, E>>,
        },
        /// The call waits for the result of another one.
        Waits {
            waiting: Option<Waiting<'a, K, T, E>>,
            inner: &'a Inner<K, T, E>,
            op: Op,
            cx: Context,
            since: Instant,
        },
        /// The call has ended.
        Finished,
    }
}

impl<K, T, E, Op> Future for CoalesceFuture<'_, K, T, E, Op>
where
    T: Clone,
    E: Clone,
    Op: Operation<Value = T, Error = E>,
{
    type Output = Outcome<T, E>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                CoalesceProj::Leads { attempt, leading } => {
                    let outcome = ready!(attempt.poll(task));
                    let leading = leading.take();
                    // Drops the attempt before the result is published.
                    self.set(Self::Finished);
                    if let Some(leading) = leading {
                        leading.land(&outcome);
                    }
                    return Poll::Ready(outcome.moved_by_field());
                }
                CoalesceProj::Waits { .. } => {
                    if let Some(outcome) = ready!(self.as_mut().poll_wait(task)) {
                        return Poll::Ready(outcome);
                    }
                }
                CoalesceProj::Finished => return Poll::Pending,
            }
        }
    }
}

impl<K, T, E, Op> CoalesceFuture<'_, K, T, E, Op>
where
    T: Clone,
    E: Clone,
    Op: Operation<Value = T, Error = E>,
{
    /// Waits for the result of another call. Ready with `None` if this call must execute the operation itself.
    #[cold]
    fn poll_wait(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Outcome<T, E>>> {
        let CoalesceProj::Waits {
            waiting,
            inner,
            op,
            cx,
            since,
        } = self.as_mut().project()
        else {
            return Poll::Ready(None);
        };
        let Some(waits) = waiting else {
            return Poll::Pending;
        };
        let (inner, observer) = (*inner, op.listener().observer());
        let policy = inner.name;
        match waits.poll(task) {
            Seen::Pending => Poll::Pending,
            Seen::Leads(leading) => {
                // If the observer or the operation panics, another waiting call takes over.
                if let Some(observer) = observer {
                    observer.on_event(&Event::LeaderPromoted {
                        policy,
                        pipeline: None,
                    });
                }
                cx.refresh(&inner.clock);
                let attempt = op.attempt(*cx);
                let leading = Some(leading);
                self.set(Self::Leads { attempt, leading });
                Poll::Ready(None)
            }
            Seen::Landed => {
                let Some(outcome) = waits.outcome() else {
                    return Poll::Pending;
                };
                if let Some(observer) = observer {
                    let waited = inner.clock.now().saturating_duration_since(*since);
                    observer.on_event(&Event::Coalesced {
                        policy,
                        pipeline: None,
                        waited,
                    });
                }
                self.set(Self::Finished);
                Poll::Ready(Some(outcome))
            }
        }
    }
}

impl<K, T, E, Op: Operation> fmt::Debug for CoalesceFuture<'_, K, T, E, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leads { .. } => "Leads",
            Self::Waits { .. } => "Waits",
            Self::Finished => "Finished",
        })
    }
}
