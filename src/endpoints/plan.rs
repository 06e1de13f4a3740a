//! What a call reads to find its node, published in stripes.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::node::{Member, NodeAddress};
use super::state::routes::Routes;
use crate::striped::thread_index;
use crate::sync::lock;

/// The nodes of a set by slot.
pub(super) type Members<N> = Vec<Option<Arc<Member<N>>>>;

/// The routes of a set, and its nodes. Immutable.
pub(super) struct Plan<N> {
    pub(super) routes: Routes,
    pub(super) members: Arc<Members<N>>,
}

impl<N> Plan<N> {
    /// Finds a node by the word in the context of an attempt.
    pub(super) fn find(&self, word: u64) -> Option<&Arc<Member<N>>> {
        let slot = NodeAddress::slot_of(word) as usize;
        let member = self.members.get(slot)?.as_ref()?;
        (member.address.word() == word).then_some(member)
    }
}

/// The current plan, once for each of a few groups of threads.
///
/// A thread reads the copy of its own stripe, so readers do not contend. It holds the stripe for the few
/// nanoseconds of a pick, in which no user code runs. If another thread holds it, the reader takes the next
/// stripe: it waits only if all of them are taken.
pub(super) struct Published<N> {
    stripes: Box<[Stripe<N>]>,
}

/// On cache lines of its own.
#[repr(align(128))]
struct Stripe<N>(Mutex<Arc<Plan<N>>>);

/// Plans that were replaced. Dropped outside all locks: they may be the last that hold values of users.
pub(super) type Replaced<N> = Vec<Arc<Plan<N>>>;

const STRIPES: usize = 8;

impl<N> Published<N> {
    pub(super) fn new(plan: Plan<N>) -> Self {
        let plan = Arc::new(plan);
        let stripes = (0..STRIPES).map(|_| Stripe(Mutex::new(plan.clone())));
        Self {
            stripes: stripes.collect(),
        }
    }

    /// Calls `read` with the current plan.
    #[inline]
    pub(super) fn read<T>(&self, read: impl FnOnce(&Plan<N>) -> T) -> T {
        let home = thread_index() % STRIPES;
        let held = match self.stripes[home].0.try_lock() {
            Ok(plan) => plan,
            Err(_) => self.lock_any(home),
        };
        read(&held)
    }

    /// Locks a stripe that no other thread holds, or waits for that of the thread.
    #[cold]
    fn lock_any(&self, home: usize) -> MutexGuard<'_, Arc<Plan<N>>> {
        for step in 0..STRIPES {
            match self.stripes[(home + step) % STRIPES].0.try_lock() {
                Ok(plan) => return plan,
                Err(TryLockError::Poisoned(plan)) => return plan.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        lock(&self.stripes[home].0)
    }

    /// Makes a plan the current one.
    pub(super) fn publish(&self, plan: Plan<N>) -> Replaced<N> {
        let plan = Arc::new(plan);
        let stripes = self.stripes.iter();
        stripes
            .map(|stripe| std::mem::replace(&mut *lock(&stripe.0), plan.clone()))
            .collect()
    }
}
