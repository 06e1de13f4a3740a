//! The semaphore with a bounded wait queue.
//!
//! While no call waits, only the semaphore decides. A call that finds no free permits takes the lock, sets the
//! semaphore's flag for waiters, and joins the queue. From then on, each release hands its permits to the next
//! waiter before another call can acquire them.

use std::fmt;
use std::task::Waker;
use std::time::Duration;

use super::partition::Partition;
use super::permit_cache::PermitCache;
use super::state::{PackedState, Settled, Taken, WaitList};
use crate::clock::ClockHandle;
use crate::codel::Codel;
use crate::error::Reason;
use crate::event::Panics;
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::{Mutex, MutexGuard, cold_path, lock_checked};

/// The order in which waiters are admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueOrder {
    /// First in, first out.
    #[default]
    Fifo,
    /// Last in, first out. Under overload the newest caller is the least likely to have given up.
    Lifo,
    /// The highest [`Priority`] first. Calls of equal priority are admitted first in, first out.
    Priority,
}

/// Admission rules that never change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// Most waiters.
    pub(super) capacity: usize,
    pub(super) order: QueueOrder,
    /// Whether a cost above the limit counts as the limit.
    pub(super) clamp: bool,
    /// Whether partitions below their share are admitted while all permits are in flight.
    pub(super) exceed: bool,
}

/// A semaphore with a bounded wait queue.
#[derive(Debug)]
pub(super) struct PermitQueue {
    permits: PermitCache,
    pub(super) rules: Rules,
    /// Clock for CoDel, which is the only reader.
    clock: ClockHandle,
    has_codel: bool,
    /// Empty for a bulkhead without partitions. Otherwise the first one is for calls that belong to no partition.
    partitions: Box<[Partition]>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) list: WaitList<Waker>,
    codel: Option<Box<Codel>>,
}

/// Why a call was not admitted immediately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All permits are in flight, or other calls wait for them.
    Busy,
    /// The call needs more permits than the limit.
    TooLarge,
}

/// The request of a call. Passed to out-of-line functions field by field: passed as one value, the fields are
/// stored separately and loaded together, which stalls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrant {
    pub(super) cost: u32,
    pub(super) partition: u32,
    pub(super) priority: Priority,
}

impl QueueOrder {
    /// Returns the order as a label: `fifo`, `lifo`, or `priority`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Lifo => "lifo",
            Self::Priority => "priority",
        }
    }
}

impl fmt::Display for QueueOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fifo => "first in, first out",
            Self::Lifo => "last in, first out",
            Self::Priority => "by priority",
        })
    }
}

impl Full {
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Busy => Reason::BulkheadFull,
            Self::TooLarge => Reason::CostExceedsLimit,
        }
    }
}

impl PermitQueue {
    pub(super) fn new(
        permits: PermitCache,
        rules: Rules,
        partitions: Box<[Partition]>,
        codel: Option<Codel>,
        clock: ClockHandle,
    ) -> Self {
        let by_rank = rules.order == QueueOrder::Priority;
        Self {
            permits,
            rules,
            clock,
            has_codel: codel.is_some(),
            waiting: Mutex::new(Waiting {
                list: WaitList::new(partitions.len().max(1), by_rank),
                codel: codel.map(Box::new),
            }),
            partitions,
        }
    }

    #[cfg(all(test, backstop_loom))]
    pub(super) const fn permits(&self) -> &PermitCache {
        &self.permits
    }

    /// Reads the semaphore. The in-flight count is only exact if no permits are cached.
    pub(super) fn read(&self) -> PackedState {
        self.permits.read()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.permits.in_flight()
    }

    pub(super) const fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    pub(super) const fn has_codel(&self) -> bool {
        self.has_codel
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock_checked(&self.waiting)
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().list.len()
    }

    pub(super) fn waiting_in(&self, partition: usize) -> usize {
        self.lock().list.len_of(partition)
    }

    /// Returns CoDel's load from 0 to 1, or 0 without CoDel.
    pub(super) fn load(&self) -> f64 {
        self.lock().codel.as_ref().map_or(0.0, |codel| codel.load())
    }

    /// Changes CoDel's target and interval. Returns `false` without CoDel.
    pub(super) fn retune(&self, target: Duration, interval: Duration) -> bool {
        let mut waiting = self.lock();
        let codel = waiting.codel.as_mut();
        codel.is_some_and(|codel| codel.retune(target, interval).is_ok())
    }

    /// Admits a call if its permits are free and no call waits.
    #[inline(always)]
    pub(super) fn try_admit(&self, entrant: Entrant) -> Result<Taken, Full> {
        if entrant.cost == 1 && self.partitions.is_empty() {
            if let Some(taken) = self.permits.try_acquire_once() {
                return Ok(taken);
            }
        }
        cold_path();
        self.try_admit_slow(entrant.cost, entrant.partition)
    }

    #[inline(never)]
    fn try_admit_slow(&self, cost: u32, partition: u32) -> Result<Taken, Full> {
        if !self.partitions.is_empty() {
            return self.try_admit_to_partition(cost, partition as usize);
        }
        let acquire = || match cost {
            1 => self.permits.try_acquire_one(),
            _ => self.permits.try_acquire(cost, self.rules.clamp),
        };
        match acquire() {
            Ok(taken) => Ok(taken),
            Err(state) if state.is_waiting() && state.has_room(cost) => {
                // The waiters for these permits have not been served yet. Some permits may remain.
                self.serve();
                acquire().map_err(|state| self.full_reason(cost, state))
            }
            Err(state) => Err(self.full_reason(cost, state)),
        }
    }

    fn try_admit_to_partition(&self, cost: u32, partition: usize) -> Result<Taken, Full> {
        let waiting = self.lock();
        let state = self.read();
        let below = self.partitions[partition].is_below_share(cost, state.limit());
        // Waiters go first. Below its share, a partition only yields to its own waiters.
        let may_enter = waiting.list.len() == 0 || (below && waiting.list.len_of(partition) == 0);
        let taken = may_enter
            .then(|| self.take(cost, partition, false))
            .flatten();
        taken.ok_or_else(|| self.full_reason(cost, state))
    }

    /// Returns the number of permits that a call of this cost takes.
    fn clamped(&self, cost: u32, state: PackedState) -> u32 {
        if self.rules.clamp {
            cost.min(state.limit())
        } else {
            cost
        }
    }

    fn full_reason(&self, cost: u32, state: PackedState) -> Full {
        if cost > state.limit() && !self.rules.clamp {
            Full::TooLarge
        } else {
            Full::Busy
        }
    }

    /// Acquires the permits of the next call. With partitions, the lock must be held.
    #[inline]
    fn take(&self, cost: u32, partition: usize, last: bool) -> Option<Taken> {
        let taken = match self.permits.acquire_in_turn(cost, self.rules.clamp, last) {
            Ok(taken) => taken,
            Err(state) => {
                let below = self.rules.exceed
                    && self
                        .partitions
                        .get(partition)?
                        .is_below_share(cost, state.limit());
                below.then(|| self.permits.force(cost))?
            }
        };
        self.enter(partition, taken.cost());
        Some(taken)
    }

    /// Admits a call even above the limit.
    pub(super) fn force(&self, entrant: Entrant) -> Taken {
        let taken = self.permits.force(entrant.cost);
        self.enter(entrant.partition as usize, taken.cost());
        taken
    }

    fn enter(&self, partition: usize, cost: u32) {
        if let Some(partition) = self.partitions.get(partition) {
            partition.enter(cost);
        }
    }

    /// Releases a call's permits, to the next waiter if there is one.
    #[inline(always)]
    pub(super) fn release(&self, cost: u32, partition: u32) {
        if cost != 1 || !self.partitions.is_empty() {
            cold_path();
            self.release_many(cost, partition);
        } else if self.permits.release_one() {
            self.serve();
        }
    }

    // Out of line, because every drop of a permit contains a call of it.
    #[inline(never)]
    fn release_many(&self, cost: u32, partition: u32) {
        self.release_all(cost, partition);
    }

    /// Like [`release`](Self::release). Returns the previous state, which is exact if no permits are cached.
    #[inline(always)]
    pub(super) fn release_all(&self, cost: u32, partition: u32) -> PackedState {
        if let Some(partition) = self.partitions.get(partition as usize) {
            // Before the permits, whose release publishes it: a call that reads them as free also reads the
            // partition's count without them.
            partition.leave(cost);
        }
        let before = self.permits.release(cost);
        if before.is_waiting() {
            self.serve();
        }
        before
    }

    /// Changes the limit. Returns the old limit and the event number of the change, or `None` if the limit is the same.
    /// [`serve_waiting`](Self::serve_waiting) must follow.
    pub(super) fn set_limit(&self, limit: u32, number: impl FnOnce() -> u64) -> Option<(u32, u64)> {
        // Under the lock, so that event numbers follow the order of the changes.
        let _waiting = self.lock();
        let old = self.permits.set_limit(limit).limit();
        (old != limit).then(|| (old, number()))
    }

    /// Serves the waiters, if there are any.
    pub(super) fn serve_waiting(&self) {
        if self.read().is_waiting() {
            self.serve();
        }
    }

    /// Adds a waiter. Returns its cell, and whether it may be admitted immediately; if so, [`serve`](Self::serve)
    /// must follow. Returns `None` if the queue is full.
    pub(super) fn push(
        &self,
        cost: u32,
        partition: usize,
        priority: Priority,
        now: Instant,
        waker: Waker,
    ) -> Option<(usize, bool)> {
        let mut waiting = self.lock();
        if waiting.list.len() >= self.rules.capacity {
            // A waker may be user code, so it is dropped outside the lock.
            drop(waiting);
            return None;
        }
        let rank = match self.rules.order {
            QueueOrder::Priority => u16::MAX - priority.as_u16(),
            QueueOrder::Fifo | QueueOrder::Lifo => 0,
        };
        let cell = waiting.list.push(partition, rank, cost, now, waker);
        let state = match waiting.list.len() {
            1 => self.permits.set_waiting(),
            // The flag is set already.
            _ => self.read(),
        };
        // Permits may have been released since the call's fast path failed, or it may need fewer than earlier waiters.
        let may_be_next = !self.partitions.is_empty()
            || state.has_room(self.clamped(cost, state))
            || self.full_reason(cost, state) == Full::TooLarge;
        Some((cell, may_be_next))
    }

    /// Hands free permits to waiters, and wakes them outside the lock.
    #[cold]
    pub(super) fn serve(&self) {
        // A clock may be user code, so it is read outside the lock. If a waker or a clock panics, the other waiters
        // are still served.
        let (mut panics, mut now) = (Panics::default(), None);
        if self.has_codel {
            panics.run(|| now = Some(self.clock.now()));
        }
        loop {
            let mut waiting = self.lock();
            // Two waiters per lock: usually there is no second one, and the lock is taken once.
            let first = self.settle_next(&mut waiting, now);
            let second = match first {
                Some(_) if waiting.list.len() > 0 => self.settle_next(&mut waiting, now),
                _ => None,
            };
            drop(waiting);
            if let Some(waker) = first {
                panics.run(|| waker.wake());
            }
            match second {
                Some(waker) => panics.run(|| waker.wake()),
                None => break,
            };
        }
        panics.resume();
    }

    /// Admits or rejects the next waiter, if possible. `now` is `None` without CoDel.
    fn settle_next(&self, waiting: &mut Waiting, now: Option<Instant>) -> Option<Waker> {
        if waiting.list.len() == 0 {
            return None;
        }
        let state = self.read();
        let partition = self.next_partition(waiting, state.limit())?;
        let mut newest_first = self.rules.order == QueueOrder::Lifo;
        if let (Some(codel), Some(now)) = (&mut waiting.codel, now) {
            // CoDel checks the oldest waiter once permits are free for it.
            let (cell, oldest) = waiting.list.first(partition)?;
            if state.has_room(self.clamped(oldest.cost, state))
                && codel.should_drop(now.saturating_duration_since(oldest.since), now)
            {
                let stale = Settled::Rejected(Reason::QueueTimeout);
                return self.settle(waiting, partition, cell, stale);
            }
            newest_first |= codel.is_overloaded();
        }
        let (cell, waiter) = if newest_first {
            waiting.list.last(partition)?
        } else {
            waiting.list.first(partition)?
        };
        let settled = if self.full_reason(waiter.cost, state) == Full::TooLarge {
            // The limit has shrunk below the waiter's cost.
            Settled::Rejected(Reason::CostExceedsLimit)
        } else {
            let last = waiting.list.len() == 1;
            Settled::Admitted(self.take(waiter.cost, partition, last)?)
        };
        self.settle(waiting, partition, cell, settled)
    }

    /// Returns the partition whose head is served next. Partitions below their share precede the others. Among equals,
    /// the order of the queue decides.
    fn next_partition(&self, waiting: &Waiting, limit: u32) -> Option<usize> {
        if self.partitions.is_empty() {
            return Some(0);
        }
        let heads = (0..self.partitions.len()).filter_map(|partition| {
            let ((_, waiter), newest_first) = match self.rules.order {
                QueueOrder::Lifo => (waiting.list.last(partition)?, true),
                QueueOrder::Fifo | QueueOrder::Priority => (waiting.list.first(partition)?, false),
            };
            let below = self.partitions[partition].is_below_share(waiter.cost, limit);
            let (rank, arrival) = waiter.key;
            let arrival = if newest_first {
                u64::MAX - arrival
            } else {
                arrival
            };
            Some(((!below, rank, arrival), partition))
        });
        heads.min().map(|(_, partition)| partition)
    }

    fn settle(
        &self,
        waiting: &mut Waiting,
        partition: usize,
        cell: usize,
        settled: Settled,
    ) -> Option<Waker> {
        let waker = waiting.list.settle(partition, cell, settled)?;
        self.after_removal(waiting);
        Some(waker)
    }

    /// Clears the flag for waiters when the queue has become empty.
    pub(super) fn after_removal(&self, waiting: &mut Waiting) {
        if waiting.list.len() == 0 {
            // If the last waiter was admitted, its acquisition has cleared the flag.
            if self.read().is_waiting() {
                self.permits.clear_waiting();
            }
            if let Some(codel) = &mut waiting.codel {
                codel.drained();
            }
        }
    }
}
