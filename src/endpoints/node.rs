//! The nodes that users put into a set, and the nodes that a set returns.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::state::stats::NodeStats;

/// A node to put into a set of endpoints: a name that is unique in the set, and a value such as an address
/// or a client.
///
/// The weight is 1 and the priority 0 unless set.
///
/// # Example
///
/// ```
/// use backstop::endpoints::Endpoint;
///
/// let nodes = [
///     Endpoint::new("a", "10.0.0.1:80").weight(2.0),
///     Endpoint::new("b", "10.0.0.2:80"),
///     Endpoint::new("other-region", "10.9.0.1:80").priority(1),
/// ];
/// # assert_eq!(nodes.len(), 3);
/// ```
#[derive(Clone, Debug)]
#[must_use = "an endpoint does nothing until it is in a set"]
pub struct Endpoint<N> {
    pub(super) name: Arc<str>,
    pub(super) value: N,
    pub(super) weight: f64,
    pub(super) priority: u32,
}

impl<N> Endpoint<N> {
    /// Returns an endpoint of weight 1 and priority 0.
    pub fn new(name: impl Into<Arc<str>>, value: N) -> Self {
        Self {
            name: name.into(),
            value,
            weight: 1.0,
            priority: 0,
        }
    }

    /// Sets its capacity compared with the others. Above 0 and at most 1 000 000.
    pub const fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Sets its priority. Calls go to the lowest number as long as enough of its endpoints are available.
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }
}

/// A node that a call goes to. Dereferences to the value it was made with.
///
/// Cheap to clone. A node that was removed from its set stays usable.
pub struct Node<N> {
    pub(super) member: Arc<NodeEntry<N>>,
}

/// A node as the set keeps it.
pub(super) struct NodeEntry<N> {
    pub(super) name: Arc<str>,
    pub(super) value: N,
    pub(super) weight: f64,
    pub(super) priority: u32,
    pub(super) address: NodeAddress,
    pub(super) stats: Arc<NodeStats>,
}

/// The index of a node in its set, and a number that no other node of the process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) index: u32,
    pub(super) number: u32,
}

impl NodeAddress {
    /// Packs the address for the context of an attempt. Never zero.
    pub(super) const fn id(self) -> u64 {
        (self.number as u64) << 32 | self.index as u64
    }

    /// Returns the index of a packed address.
    pub(super) const fn index_of(node_id: u64) -> u32 {
        node_id as u32
    }
}

impl<N> Node<N> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.member.name
    }

    /// Returns the value, as dereferencing does.
    pub fn value(&self) -> &N {
        &self.member.value
    }

    /// Returns the weight.
    pub fn weight(&self) -> f64 {
        self.member.weight
    }

    /// Returns the priority.
    pub fn priority(&self) -> u32 {
        self.member.priority
    }

    /// Returns the number of calls in flight.
    pub fn in_flight(&self) -> u32 {
        self.member.stats.in_flight()
    }
}

impl<N> Deref for Node<N> {
    type Target = N;

    fn deref(&self) -> &N {
        &self.member.value
    }
}

impl<N> Clone for Node<N> {
    fn clone(&self) -> Self {
        Self {
            member: self.member.clone(),
        }
    }
}

impl<N> fmt::Debug for Node<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.member.name)
            .field("weight", &self.member.weight)
            .field("priority", &self.member.priority)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
