#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/endpoints.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Spreads calls over a set of nodes, and ejects nodes that fail."
)]

use std::fmt;
use std::sync::Arc;

use crate::error::Rejected;
use crate::life::Life;
use crate::policy::Attempt;

mod check;
mod config;
mod drain;
mod flight;
mod inner;
mod node;
mod permit;
mod pick;
mod plan;
mod policy;
mod snapshot;
mod state;
mod update;

pub use self::config::EndpointsBuilder;
pub use self::drain::Drain;
pub use self::node::{Endpoint, Node};
pub use self::permit::Permit;
pub use self::policy::Sticky;
pub use self::snapshot::{NodeSnapshot, NodeState, PrioritySnapshot, Snapshot};
pub use self::update::Changes;
#[doc(no_inline)]
pub use crate::event::{EjectionCause, EndpointEvent, NodeName, Unenforced};

use self::inner::Inner;
use self::state::tried::TriedNodes;

/// A set of nodes that calls are spread over. See the [module page](self).
///
/// Cheap to clone; clones share the set.
pub struct Endpoints<N> {
    inner: Arc<Inner<N>>,
}

impl<N> Endpoints<N> {
    /// Returns the name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Converts an operation on a node into one for [`Policy::call_with`](crate::Policy::call_with), for stacks that
    /// contain this set.
    ///
    /// # Panics
    ///
    /// The operation panics if the stack does not contain this set.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Endpoints, ManualClock, Policy, Retry};
    ///
    /// let clock = ManualClock::new();
    /// let endpoints = Endpoints::builder().node("a", 1).node("b", 2).clock(clock.clone()).build()?;
    /// let stack = (Retry::builder().clock(clock.clone()).build()?, endpoints.clone());
    ///
    /// let result = clock.block_on(stack.call_with(endpoints.each(|node| async move {
    ///     if *node == 1 { Err("down") } else { Ok(*node) }
    /// })));
    /// assert_eq!(result, Ok(2));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn each<'s, F, Fut>(&'s self, op: F) -> impl Fn(Attempt) -> Fut + use<'s, N, F, Fut>
    where
        F: Fn(Node<N>) -> Fut,
    {
        move |attempt| match self.node(&attempt) {
            Some(node) => op(node),
            None => panic!("the stack of this call does not contain `{}`", self.name()),
        }
    }

    /// Returns the node of an attempt, for operations that also need the [`Attempt`].
    ///
    /// `None` if the stack of the call does not contain this set, or contains another set inside it, or if
    /// the attempt has ended.
    pub fn node(&self, attempt: &Attempt) -> Option<Node<N>> {
        let member = self.inner.find(attempt.endpoint())?;
        Some(Node { member })
    }

    /// Picks a node for one call. Use it for code that is not a closure.
    ///
    /// # Errors
    ///
    /// [`Reason::NoEndpoint`](crate::Reason::NoEndpoint) if no node takes calls, with the time until the
    /// first one does again, if it is known.
    pub fn try_acquire(&self) -> Result<Permit<'_, N>, Rejected> {
        let now = self.inner.base.clock.now();
        let life = Life::of_handle();
        let flight = self.inner.pick(now, TriedNodes::NONE, None, life, None)?;
        Ok(Permit { flight })
    }

    /// Returns the node of this name.
    pub fn get(&self, name: &str) -> Option<Node<N>> {
        let core = self.inner.core();
        let member = core.member(core.index_of(name)?)?.clone();
        Some(Node { member })
    }
}

impl<N> Clone for Endpoints<N> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<N> fmt::Debug for Endpoints<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
