//! The routes and nodes of a set, as calls read them.

use std::sync::{Arc, PoisonError, RwLock, TryLockError};

use super::node::{NodeAddress, NodeEntry};
use super::state::routes::Routes;
use crate::striped::thread_index;

/// The nodes of a set by index.
pub(super) type NodeTable<N> = Vec<Option<Arc<NodeEntry<N>>>>;

/// The routes of a set, and its nodes. Immutable.
pub(super) struct Plan<N> {
    pub(super) routes: Routes,
    pub(super) members: Arc<NodeTable<N>>,
}

impl<N> Plan<N> {
    /// Finds a node by its packed address, which the context of an attempt has.
    pub(super) fn find(&self, node_id: u64) -> Option<&Arc<NodeEntry<N>>> {
        let index = NodeAddress::index_of(node_id) as usize;
        let member = self.members.get(index)?.as_ref()?;
        (member.address.id() == node_id).then_some(member)
    }
}

/// The current plan, in several copies so that readers on different threads do not contend.
///
/// A reader uses the copy of its thread. Readers share a copy, and a writer holds one copy at a time, for as
/// long as it takes to exchange a pointer. A reader that finds its copy locked by a writer uses the next one, so
/// a pick never blocks.
pub(super) struct Published<N> {
    copies: Box<[PlanCopy<N>]>,
}

/// Aligned to two cache lines against false sharing.
#[repr(align(128))]
struct PlanCopy<N>(RwLock<Arc<Plan<N>>>);

/// Plans and nodes that were replaced. Dropped after all locks are released, because they may hold the last references
/// to values of users.
pub(super) struct Replaced<N> {
    plans: Vec<Arc<Plan<N>>>,
    members: Vec<Arc<NodeTable<N>>>,
}

impl<N> Default for Replaced<N> {
    fn default() -> Self {
        Self {
            plans: Vec::new(),
            members: Vec::new(),
        }
    }
}

impl<N> Replaced<N> {
    pub(super) fn push_members(&mut self, members: Arc<NodeTable<N>>) {
        self.members.push(members);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.plans.extend(other.plans);
        self.members.extend(other.members);
    }
}

const COPIES: usize = 8;

impl<N> Published<N> {
    pub(super) fn new(plan: Plan<N>) -> Self {
        let plan = Arc::new(plan);
        let copies = (0..COPIES).map(|_| PlanCopy(RwLock::new(plan.clone())));
        Self {
            copies: copies.collect(),
        }
    }

    /// Calls `read` with the current plan. The plan stays current until `read` returns.
    #[inline]
    pub(super) fn read<T>(&self, read: impl FnOnce(&Plan<N>) -> T) -> T {
        let home = thread_index() % COPIES;
        match self.copies[home].0.try_read() {
            Ok(plan) => read(&plan),
            Err(_) => self.read_any(home, read),
        }
    }

    /// Reads a copy that no writer holds.
    #[cold]
    fn read_any<T>(&self, home: usize, read: impl FnOnce(&Plan<N>) -> T) -> T {
        // One writer publishes at a time, and in order, so in two rounds at most two attempts fail.
        for step in 1..2 * COPIES {
            match self.copies[(home + step) % COPIES].0.try_read() {
                Ok(plan) => return read(&plan),
                Err(TryLockError::Poisoned(plan)) => return read(&plan.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let plan = self.copies[home].0.read();
        read(&plan.unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a plan the current one. When it returns, no reader uses an earlier plan.
    pub(super) fn publish(&self, plan: Plan<N>) -> Replaced<N> {
        let plan = Arc::new(plan);
        let replace = |copy: &PlanCopy<N>| {
            let mut current = copy.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, plan.clone())
        };
        Replaced {
            plans: self.copies.iter().map(replace).collect(),
            members: Vec::new(),
        }
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn readers_do_not_wait_for_each_other() {
        fn nested(published: &Published<()>, depth: usize) -> usize {
            match depth {
                0 => 0,
                _ => published.read(|_| 1 + nested(published, depth - 1)),
            }
        }
        let routes = Routes::empty();
        let members = Arc::new(NodeTable::new());
        let published = Published::<()>::new(Plan { routes, members });
        // More concurrent readers than copies.
        assert_eq!(nested(&published, 3 * COPIES), 3 * COPIES);
    }
}
