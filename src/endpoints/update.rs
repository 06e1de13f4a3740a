//! Changes of the nodes of a set.

use std::collections::HashMap;
use std::sync::Arc;

use super::Endpoints;
use super::config::NAME;
use super::inner::{Core, Effect, Inner};
use super::node::{Endpoint, NodeAddress, NodeEntry};
use super::plan::NodeTable;
use super::state::record::Record;
use super::state::rendezvous::hash_of;
use super::state::stats::NodeStats;
use crate::error::ConfigError;
use crate::event::Panics;
use crate::instant::Instant;

/// The changes that an update made. Returned by [`Endpoints::update`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Nodes that are new.
    pub added: usize,
    /// Nodes that are no longer in the list. Calls in flight on them continue.
    pub removed: usize,
    /// Nodes that stay, with their statistics.
    pub kept: usize,
}

impl<N> Endpoints<N> {
    /// Replaces the nodes of the set.
    ///
    /// Nodes are identified by name. A node that stays keeps its latency, ejection, health, and calls in flight, and
    /// gets the new value, weight, and priority. New nodes have a slow start. Calls in flight on removed nodes
    /// continue. A drained node that stays in the list remains drained.
    ///
    /// # Errors
    ///
    /// If two nodes have the same name, or a weight is outside its range. Nothing has changed then.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::endpoints::{Endpoint, Endpoints};
    /// use backstop::ManualClock;
    ///
    /// let endpoints = Endpoints::builder()
    ///     .nodes([Endpoint::new("a", 1), Endpoint::new("b", 2)])
    ///     .clock(ManualClock::new())
    ///     .build()?;
    /// let changes = endpoints.update([Endpoint::new("b", 2), Endpoint::new("c", 3)])?;
    /// assert_eq!((changes.added, changes.removed, changes.kept), (1, 1, 1));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn update(
        &self,
        nodes: impl IntoIterator<Item = Endpoint<N>>,
    ) -> Result<Changes, ConfigError> {
        // Outside the lock, because the iterator is user code.
        let nodes: Vec<Endpoint<N>> = nodes.into_iter().collect();
        self.inner.set(nodes, Some(self.inner.base.clock.now()))
    }
}

impl<N> Inner<N> {
    /// Replaces the nodes. Nodes that are new since `new_since` are in slow start.
    pub(super) fn set(
        &self,
        nodes: Vec<Endpoint<N>>,
        new_since: Option<Instant>,
    ) -> Result<Changes, ConfigError> {
        check(&nodes)?;
        let now = self.base.clock.now();
        let mut changes = Changes::default();
        let mut reopened = Vec::new();
        let change = |core: &mut Core<N>| {
            // Current plans still hold the replaced nodes, so none is dropped under the lock.
            (changes, reopened) = core.set(nodes, new_since);
            Effect::Reroute(core.machine.admit_last(now))
        };
        let mut panics = Panics::default();
        panics.run(|| self.change(now, None, change));
        self.wake_drains_in(&mut panics, &reopened);
        panics.resume();
        Ok(changes)
    }
}

impl<N> Core<N> {
    /// Makes the set consist of these nodes. Returns the changes, and the nodes that were removed and come back
    /// while calls were in flight on them.
    fn set(
        &mut self,
        nodes: Vec<Endpoint<N>>,
        new_since: Option<Instant>,
    ) -> (Changes, Vec<Arc<NodeStats>>) {
        let (mut changes, mut reopened) = (Changes::default(), Vec::new());
        let mut members = NodeTable::clone(&self.members);
        let known = members.iter().flatten();
        let mut gone: HashMap<Arc<str>, u32> = known
            .map(|member| (member.name.clone(), member.address.index))
            .collect();
        for node in nodes {
            let index = match gone.remove(&node.name) {
                Some(index) => {
                    let record = self.machine.get_mut(index);
                    let back = record.and_then(|it| keep(it, &node, new_since, &mut changes));
                    reopened.extend(back);
                    index
                }
                None => {
                    changes.added += 1;
                    let hash = hash_of(&*node.name);
                    let record = Record::new(node.weight, node.priority, hash, new_since);
                    self.machine.insert(record)
                }
            };
            let Some(record) = self.machine.get(index) else {
                continue;
            };
            let address = NodeAddress {
                index,
                number: record.number,
            };
            let stats = record.stats.clone();
            let member = NodeEntry {
                name: node.name,
                value: node.value,
                weight: node.weight,
                priority: node.priority,
                address,
                stats,
            };
            let place = index as usize;
            if members.len() <= place {
                members.resize_with(place + 1, || None);
            }
            members[place] = Some(Arc::new(member));
        }
        for index in gone.into_values() {
            if let Some(record) = self.machine.get_mut(index) {
                if !record.is_leaving {
                    changes.removed += 1;
                    record.is_leaving = true;
                }
            }
        }
        self.members = Arc::new(members);
        (changes, reopened)
    }
}

/// Keeps a node. Returns its counters if it was removed and comes back.
fn keep<N>(
    record: &mut Record,
    node: &Endpoint<N>,
    new_since: Option<Instant>,
    changes: &mut Changes,
) -> Option<Arc<NodeStats>> {
    record.weight = node.weight;
    record.priority = node.priority;
    if !record.is_leaving {
        changes.kept += 1;
        return None;
    }
    changes.added += 1;
    record.is_leaving = false;
    record.is_drained = false;
    record.new_since = new_since;
    record.stats.open();
    Some(record.stats.clone())
}

/// Checks a list of nodes.
fn check<N>(nodes: &[Endpoint<N>]) -> Result<(), ConfigError> {
    let fail = |problem| Err(ConfigError::new(NAME, "nodes", problem));
    if nodes.len() > MAX_NODES {
        return fail("must be at most 1 000 000");
    }
    if !nodes
        .iter()
        .all(|node| node.weight > 0.0 && node.weight <= MAX_WEIGHT)
    {
        return fail("must have weights above 0 and at most 1 000 000");
    }
    let mut names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return fail("must have different names");
    }
    Ok(())
}

const MAX_NODES: usize = 1_000_000;
const MAX_WEIGHT: f64 = 1e6;
