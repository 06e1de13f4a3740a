//! Endpoints around an operation.

use std::fmt;
use std::future::Future;
use std::hash::Hash;

use super::Endpoints;
use super::flight::Flight;
use super::inner::Inner;
use super::node::{Node, NodeAddress};
use super::state::rendezvous::hash_of;
use super::state::tried::TriedNodes;
use crate::clock::ClockHandle;
use crate::error::Error;
use crate::event::Observer;
use crate::life::Life;
use crate::policy::guarded::{self, Entered, Gate, GuardedFuture, NoWait};
use crate::policy::operation::forward_attempts;
use crate::policy::{
    AtMostOnce, Context, Describe, LayerKind, Operation, Outcome, Policy, Run, Tried,
};
use crate::verdict::Verdict;

impl<N> Policy for Endpoints<N> {}

impl<N> AtMostOnce for Endpoints<N> {}

impl<'a, N, Op: Operation> Run<Op> for &'a Endpoints<N> {
    type Future = GuardedFuture<Pick<'a, N>, Routed<Op>>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        run(&self.inner, None, op, cx)
    }
}

impl<N> Describe for Endpoints<N> {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Endpoints);
    }
}

impl<N> Endpoints<N> {
    /// Calls `op` with a node, once.
    ///
    /// To try further nodes, put the set into a stack and the operation into [`each`](Self::each).
    ///
    /// # Errors
    ///
    /// As for [`Policy::call`]; rejected with [`Reason::NoEndpoint`](crate::Reason::NoEndpoint) if no node
    /// takes calls.
    ///
    /// # Cancel safety
    ///
    /// A dropped call is no longer in flight. Its elapsed time is a lower bound of the latency of its node; it counts
    /// neither as a success nor as a failure.
    pub fn call<'s, F, Fut, T, E>(
        &'s self,
        op: F,
    ) -> impl Future<Output = Result<T, Error<E>>> + use<'s, N, F, Fut, T, E>
    where
        F: Fn(Node<N>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.call_with(self.each(op))
    }

    /// Returns this set as a policy that sends all calls of a key to one node, as long as that node takes
    /// calls: rendezvous hashing. Adding or removing a node moves only the keys of that node.
    ///
    /// Each pick visits all nodes.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Endpoints, ManualClock, Policy};
    ///
    /// let clock = ManualClock::new();
    /// let endpoints = Endpoints::builder().node("a", 1).node("b", 2).clock(clock.clone()).build()?;
    /// let of_user = endpoints.sticky("user-7");
    /// let call = || clock.block_on(of_user.call_with(endpoints.each(|node| async move { Ok::<_, ()>(*node) })));
    /// assert_eq!(call(), call());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn sticky<K: Hash + ?Sized>(&self, key: &K) -> Sticky<'_, N> {
        Sticky::new(self, hash_of(key))
    }
}

/// Endpoints for the calls of one key. Returned by [`Endpoints::sticky`].
pub struct Sticky<'e, N> {
    endpoints: &'e Endpoints<N>,
    key: u64,
}

impl<'e, N> Sticky<'e, N> {
    pub(super) const fn new(endpoints: &'e Endpoints<N>, key: u64) -> Self {
        Self { endpoints, key }
    }
}

// Derived implementations would require `N: Copy`.
impl<N> Clone for Sticky<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<N> Copy for Sticky<'_, N> {}

impl<N> fmt::Debug for Sticky<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl<N> Policy for Sticky<'_, N> {}

impl<N> AtMostOnce for Sticky<'_, N> {}

impl<'a, N, Op: Operation> Run<Op> for &'a Sticky<'_, N> {
    type Future = GuardedFuture<Pick<'a, N>, Routed<Op>>;

    #[inline]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        run(&self.endpoints.inner, Some(self.key), op, cx)
    }
}

impl<N> Describe for Sticky<'_, N> {
    fn clock(&self) -> Option<ClockHandle> {
        self.endpoints.clock()
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        self.endpoints.describe(layers);
    }
}

#[inline]
fn run<N, Op: Operation>(
    inner: &Inner<N>,
    key: Option<u64>,
    op: Op,
    cx: Context,
) -> GuardedFuture<Pick<'_, N>, Routed<Op>> {
    let tried = TriedNodes::from_bits(op.tried().bits());
    guarded::run(Pick { inner, key, tried }, Routed { op }, cx)
}

/// The pick of a node for one attempt.
pub struct Pick<'a, N> {
    inner: &'a Inner<N>,
    key: Option<u64>,
    /// Nodes that the call has tried.
    tried: TriedNodes,
}

impl<N> Clone for Pick<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<N> Copy for Pick<'_, N> {}

impl<N> fmt::Debug for Pick<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick").finish_non_exhaustive()
    }
}

impl<'a, N> Gate for Pick<'a, N> {
    type Ticket = Flight<'a, N>;
    type Permit = Flight<'a, N>;
    type Entrance = NoWait<Flight<'a, N>>;

    #[inline(always)]
    fn enter(
        self,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Entered<Flight<'a, N>, Self::Entrance> {
        let now = cx.now(&self.inner.base.clock);
        let life = Life::of_policy();
        match self.inner.pick(now, self.tried, self.key, life, observer) {
            Ok(flight) => {
                cx.set_endpoint(flight.node().map_or(0, |node| node.member.address.id()));
                Entered::Admitted(flight)
            }
            Err(rejected) => Entered::Rejected(rejected),
        }
    }

    #[inline]
    fn permit(self, flight: Flight<'a, N>) -> Flight<'a, N> {
        flight
    }
}

impl<N> guarded::Permit for Flight<'_, N> {
    fn panicked(&mut self) {
        self.life.panicked();
    }

    #[inline]
    fn take(&mut self) -> Self {
        self.move_out()
    }

    #[inline]
    fn exit<T, E>(
        mut self,
        outcome: Outcome<T, E>,
        observer: Option<&dyn Observer>,
    ) -> Outcome<T, E> {
        // A rejection by a layer inside, which never reached the node, is not a throttled answer.
        let is_rejected = outcome.is_rejected();
        outcome.shown_to(|verdict, mut finished| {
            let verdict = match is_rejected {
                true => Verdict::ignore().not_executed(),
                false => verdict,
            };
            let now = finished.on(&self.inner().base.clock);
            self.end(verdict, now, observer);
            finished
        })
    }
}

/// An operation that records the nodes its attempts went to.
#[derive(Clone, Copy, Debug)]
pub struct Routed<Op> {
    op: Op,
}

impl<Op: Operation> Operation for Routed<Op> {
    type Value = Op::Value;
    type Error = Op::Error;
    type Attempt = Op::Attempt;
    type Listener = Op::Listener;

    const READS_TIME: bool = Op::READS_TIME;

    #[inline]
    fn attempt(self, cx: Context) -> Op::Attempt {
        let index = NodeAddress::index_of(cx.endpoint());
        let tried = TriedNodes::from_bits(self.op.tried().bits());
        // A node is picked again only once all have been tried: then the next round begins.
        let tried = match tried.contains(index) {
            true => TriedNodes::NONE.with(index),
            false => tried.with(index),
        };
        self.op.keep_tried(Tried::from_bits(tried.bits()));
        self.op.attempt(cx)
    }

    #[inline]
    fn listener(self) -> Op::Listener {
        self.op.listener()
    }

    forward_attempts!();

    fn discard(self, error: Error<Op::Error>) {
        self.op.discard(error);
    }
}
