//! State shared by the clones of a coalescing policy.

use std::borrow::Borrow;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Waker};

use super::snapshot::Snapshot;
use super::state::{Flights, Left, Place, Standing, Terms};
use crate::clock::ClockHandle;
use crate::error::{Error, Reason};
use crate::event::Panics;
use crate::policy::Outcome;
use crate::sync::{AtomicU64, Mutex, Ordering, lock_checked};
use crate::verdict::Verdict;

pub(super) struct Inner<K, T, E> {
    pub(super) name: &'static str,
    pub(super) clock: ClockHandle,
    hasher: RandomState,
    /// Keys are compared and dropped, and waiters are woken, after the lock is released.
    shards: Box<[Mutex<FlightMap<K, T, E>>]>,
    /// Set if keys of a set share this policy: each call then executes its own operation. A plain flag, set before the
    /// first use.
    is_shared: AtomicBool,
    executed: AtomicU64,
    shared: AtomicU64,
    promoted: AtomicU64,
}

type FlightMap<K, T, E> = Flights<Shared<K, T, E>, Waker>;

type Flight<K, T, E> = (Place, Arc<Shared<K, T, E>>);

/// Data shared by the calls of a flight.
pub(super) struct Shared<K, T, E> {
    key: K,
    /// Set by the leader if there are waiters.
    result: OnceLock<(Result<T, Error<E>>, Verdict)>,
}

#[cfg(not(backstop_loom))]
const SHARDS: usize = 16;
#[cfg(backstop_loom)]
const SHARDS: usize = 1;

/// The role of a call in a flight.
pub(super) enum Entered<'a, K, T, E> {
    Leads(Leader<'a, K, T, E>),
    Waits(Waiting<'a, K, T, E>),
}

/// The call that executes the operation. If it is dropped without a result, a waiter takes over.
pub(super) struct Leader<'a, K, T, E> {
    inner: &'a Inner<K, T, E>,
    // `None` once the flight has ended, and for a call that shares nothing.
    flight: Option<Flight<K, T, E>>,
    terms: Terms,
}

/// A call that waits for the result of another one.
pub(super) struct Waiting<'a, K, T, E> {
    inner: &'a Inner<K, T, E>,
    place: Place,
    ticket: u64,
    shared: Arc<Shared<K, T, E>>,
    terms: Terms,
    // Whether the wait has ended, so that the drop has nothing to undo.
    is_over: bool,
}

/// The next step of a waiting call.
pub(super) enum Seen<'a, K, T, E> {
    /// The call still waits.
    Pending,
    /// The call executes the operation itself.
    Leads(Leader<'a, K, T, E>),
    /// The result is available.
    Landed,
}

impl<K, T, E> Inner<K, T, E> {
    pub(super) fn new(name: &'static str, clock: ClockHandle) -> Self {
        Self {
            name,
            clock,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(Flights::new())).collect(),
            is_shared: AtomicBool::new(false),
            executed: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            promoted: AtomicU64::new(0),
        }
    }

    fn shard(&self, hash: u64) -> &Mutex<FlightMap<K, T, E>> {
        &self.shards[hash as usize % self.shards.len()]
    }

    /// Makes each call execute its own operation from now on.
    pub(super) fn share_among_keys(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// Joins the flight of `key`, or begins one.
    pub(super) fn enter<Q>(&self, key: &Q, terms: Terms) -> Entered<'_, K, T, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        // Relaxed: the set published the policy after the flag was set.
        if self.is_shared.load(Ordering::Relaxed) {
            self.executed.fetch_add(1, Ordering::Relaxed);
            return Entered::Leads(Leader {
                inner: self,
                flight: None,
                terms,
            });
        }
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let (mut after, mut own) = (0, None);
        loop {
            let found = lock_checked(shard).find(hash, &mut after);
            if let Some((place, shared)) = found {
                if shared.key.borrow() != key {
                    continue;
                }
                let ticket = lock_checked(shard).join(place, terms);
                if let Some(ticket) = ticket {
                    return Entered::Waits(Waiting {
                        inner: self,
                        place,
                        ticket,
                        shared,
                        terms,
                        is_over: false,
                    });
                }
                // The flight has landed since. A newer flight of the key has a greater number.
                continue;
            }
            let shared = own.get_or_insert_with(|| {
                Arc::new(Shared {
                    key: key.to_owned(),
                    result: OnceLock::new(),
                })
            });
            let begun = lock_checked(shard).begin(hash, after, shared);
            if let Some(place) = begun {
                self.executed.fetch_add(1, Ordering::Relaxed);
                return Entered::Leads(Leader {
                    inner: self,
                    flight: Some((place, shared.clone())),
                    terms,
                });
            }
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let (mut flights, mut waiting) = (0, 0);
        for shard in &self.shards {
            let counts = lock_checked(shard).counts();
            flights += counts.0;
            waiting += counts.1;
        }
        // Relaxed, here and below: the counters are only read for display.
        let [executed, shared, promoted] = [&self.executed, &self.shared, &self.promoted]
            .map(|count| count.load(Ordering::Relaxed));
        Snapshot {
            name: self.name,
            flights,
            waiting,
            executed,
            shared,
            promoted,
        }
    }

    /// Wakes waiters and drops the data of a flight that a call has left, outside the lock.
    fn after_leaving(&self, left: Left<Shared<K, T, E>, Waker>) {
        if left.promoted {
            self.promoted.fetch_add(1, Ordering::Relaxed);
        }
        let mut panics = Panics::default();
        panics.wake(left.wake);
        panics.run(|| drop(left.dropped));
        panics.resume();
    }
}

impl<K, T: Clone, E: Clone> Leader<'_, K, T, E> {
    /// Ends the flight and gives the result to the calls that wait for it.
    pub(super) fn land(mut self, outcome: &Outcome<T, E>) {
        let Some((place, shared)) = &self.flight else {
            return;
        };
        let shard = self.inner.shard(place.0);
        let alone = lock_checked(shard).land_alone(*place);
        if alone.is_some() {
            self.flight = None;
            return;
        }
        if is_by_own_deadline(outcome) {
            // Ends without a result, so that a waiter with a later deadline executes the operation.
            return;
        }
        if outcome.is_rejected() {
            // Waiters on equal terms share the rejection. If each of them tried, they would wait for one another.
            let left = lock_checked(shard).pass_to_better(*place, self.terms);
            if let Some(left) = left {
                self.flight = None;
                return self.inner.after_leaving(left);
            }
        }
        // If a clone panics, a waiter takes over.
        let result = (outcome.result.clone(), outcome.verdict);
        // Cannot fail: only the leader of the flight sets the result.
        drop(shared.result.set(result));
        let (wakers, landed) = lock_checked(shard).land(*place);
        self.flight = None;
        let mut panics = Panics::default();
        panics.wake(wakers);
        panics.run(|| drop(landed));
        panics.resume();
    }
}

/// Returns whether a result is due to the leader's own deadline.
fn is_by_own_deadline<T, E>(outcome: &Outcome<T, E>) -> bool {
    match &outcome.result {
        Err(Error::TimedOut(timed_out)) => timed_out.is_by_deadline(),
        Err(error) => error.reason() == Some(Reason::DeadlineTooClose),
        Ok(_) => false,
    }
}

impl<K, T, E> Drop for Leader<'_, K, T, E> {
    fn drop(&mut self) {
        if let Some((place, shared)) = self.flight.take() {
            let left = lock_checked(self.inner.shard(place.0)).abandon(place);
            drop(shared);
            self.inner.after_leaving(left);
        }
    }
}

impl<'a, K, T, E> Waiting<'a, K, T, E> {
    /// Returns the next step. Registers the task if the call still waits.
    pub(super) fn poll(&mut self, task: &TaskContext<'_>) -> Seen<'a, K, T, E> {
        if self.shared.result.get().is_some() {
            self.count();
            return Seen::Landed;
        }
        let shard = self.inner.shard(self.place.0);
        let is_same = |waker: &Waker| waker.will_wake(task.waker());
        if lock_checked(shard).is_waiting(self.place, self.ticket, is_same) {
            return Seen::Pending;
        }
        // Wakers are cloned and dropped outside the lock: both are user code.
        let waker = task.waker().clone();
        let standing = lock_checked(shard).wait(self.place, self.ticket, waker);
        match standing {
            Standing::Waits(_) => Seen::Pending,
            Standing::Leads(..) => {
                self.is_over = true;
                self.inner.executed.fetch_add(1, Ordering::Relaxed);
                Seen::Leads(Leader {
                    inner: self.inner,
                    flight: Some((self.place, self.shared.clone())),
                    terms: self.terms,
                })
            }
            // The leader sets the result before it wakes the waiters.
            Standing::Landed(_) => {
                self.count();
                Seen::Landed
            }
        }
    }

    fn count(&self) {
        self.inner.shared.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the result of the flight, once it has landed.
    pub(super) fn outcome(&self) -> Option<Outcome<T, E>>
    where
        T: Clone,
        E: Clone,
    {
        let (result, verdict) = self.shared.result.get()?;
        Some(Outcome::new(result.clone(), *verdict))
    }
}

impl<K, T, E> Drop for Waiting<'_, K, T, E> {
    fn drop(&mut self) {
        if !self.is_over {
            let left = lock_checked(self.inner.shard(self.place.0)).leave(self.place, self.ticket);
            self.inner.after_leaving(left);
        }
    }
}
