//! A bounded wait queue in front of the permits.
//!
//! While no call waits, admission is a matter of the semaphore alone. A call without room takes the
//! lock, sets the semaphore's flag for waiters, and joins the queue. From then on each release hands
//! its permits to the next waiter before another call can take them.

use std::task::Waker;
use std::time::Duration;

use super::partition::Partition;
use super::permit_cache::PermitCache;
use super::state::{Settled, Taken, WaitList, Word};
use crate::clock::ClockHandle;
use crate::codel::Codel;
use crate::error::Reason;
use crate::event::Panics;
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::{Mutex, MutexGuard, lock_checked};

/// Which of several waiters is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueOrder {
    /// The one that has waited longest.
    #[default]
    Fifo,
    /// The newest: under overload its caller is the least likely to have given up.
    Lifo,
    /// The one with the highest [`Priority`]; among equals the one that has waited longest.
    Priority,
}

/// The rules of admission that do not change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// The most waiters.
    pub(super) capacity: usize,
    pub(super) order: QueueOrder,
    /// A cost above the limit counts as the limit.
    pub(super) clamp: bool,
    /// A partition below its share is admitted although all permits are in flight.
    pub(super) exceed: bool,
}

/// Permits with a bounded wait queue.
#[derive(Debug)]
pub(super) struct PermitQueue {
    permits: PermitCache,
    pub(super) rules: Rules,
    /// Read for CoDel only.
    clock: ClockHandle,
    has_codel: bool,
    /// Empty for a bulkhead without partitions. The first is for calls that belong to none.
    partitions: Box<[Partition]>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) list: WaitList<Waker>,
    codel: Option<Box<Codel>>,
}

/// Why a call was not admitted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All permits are in flight, or other calls wait for them.
    Busy,
    /// The call needs more permits than there are.
    TooLarge,
}

/// What a call asks for. Passed to functions out of line by field: in one value the fields are stored
/// one by one and loaded together, which stalls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrant {
    pub(super) cost: u32,
    pub(super) partition: u32,
    pub(super) priority: Priority,
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

    /// Reads the semaphore; permits in flight are exact only where none are cached.
    pub(super) fn read(&self) -> Word {
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

    pub(super) fn queued(&self) -> usize {
        self.lock().list.len()
    }

    pub(super) fn queued_in(&self, partition: usize) -> usize {
        self.lock().list.len_of(partition)
    }

    /// CoDel's load, 0 to 1; 0 without CoDel.
    pub(super) fn load(&self) -> f64 {
        self.lock().codel.as_ref().map_or(0.0, |codel| codel.load())
    }

    /// Changes CoDel's target and interval. `false` without CoDel.
    pub(super) fn retune(&self, target: Duration, interval: Duration) -> bool {
        let mut waiting = self.lock();
        let codel = waiting.codel.as_mut();
        codel.is_some_and(|codel| codel.retune(target, interval).is_ok())
    }

    /// Admits a call if there is room and no other call waits for it.
    #[inline(always)]
    pub(super) fn try_admit(&self, entrant: Entrant) -> Result<Taken, Full> {
        if entrant.cost == 1 && self.partitions.is_empty() {
            if let Some(taken) = self.permits.try_acquire_once() {
                return Ok(taken);
            }
        }
        self.try_admit_slowly(entrant.cost, entrant.partition)
    }

    #[inline(never)]
    fn try_admit_slowly(&self, cost: u32, partition: u32) -> Result<Taken, Full> {
        if !self.partitions.is_empty() {
            return self.try_admit_to_partition(cost, partition as usize);
        }
        let acquire = || match cost {
            1 => self.permits.try_acquire_one(),
            _ => self.permits.try_acquire(cost, self.rules.clamp),
        };
        match acquire() {
            Ok(taken) => Ok(taken),
            Err(word) if word.is_waiting() && word.has_room(cost) => {
                // The waiters for this room are about to be served; there may be more of it.
                self.serve();
                acquire().map_err(|word| self.why(cost, word))
            }
            Err(word) => Err(self.why(cost, word)),
        }
    }

    fn try_admit_to_partition(&self, cost: u32, partition: usize) -> Result<Taken, Full> {
        let waiting = self.lock();
        let word = self.read();
        let below = self.partitions[partition].is_below_share(cost, word.limit());
        // Waiters go first, but before a partition below its share only its own.
        let its_turn = waiting.list.len() == 0 || (below && waiting.list.len_of(partition) == 0);
        let taken = its_turn
            .then(|| self.take(cost, partition, false))
            .flatten();
        taken.ok_or_else(|| self.why(cost, word))
    }

    /// The permits that a call of this cost takes.
    fn clamped(&self, cost: u32, word: Word) -> u32 {
        if self.rules.clamp {
            cost.min(word.limit())
        } else {
            cost
        }
    }

    fn why(&self, cost: u32, word: Word) -> Full {
        if cost > word.limit() && !self.rules.clamp {
            Full::TooLarge
        } else {
            Full::Busy
        }
    }

    /// Takes permits for the next call. Under the lock, if there are partitions.
    #[inline]
    fn take(&self, cost: u32, partition: usize, last: bool) -> Option<Taken> {
        let taken = match self.permits.acquire_in_turn(cost, self.rules.clamp, last) {
            Ok(taken) => taken,
            Err(word) => {
                let below = self.rules.exceed
                    && self
                        .partitions
                        .get(partition)?
                        .is_below_share(cost, word.limit());
                below.then(|| self.permits.force(cost))?
            }
        };
        self.enter(partition, taken.cost());
        Some(taken)
    }

    /// Admits a call whatever the limit is.
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
            self.release_many(cost, partition);
        } else if self.permits.release_one() {
            self.serve();
        }
    }

    // Out of line: it stands wherever a permit may be dropped.
    #[inline(never)]
    fn release_many(&self, cost: u32, partition: u32) {
        self.release_all(cost, partition);
    }

    /// As [`release`](Self::release). Returns the semaphore just before, exact if no permits are cached.
    #[inline(always)]
    pub(super) fn release_all(&self, cost: u32, partition: u32) -> Word {
        if let Some(partition) = self.partitions.get(partition as usize) {
            // Before the permits, whose release publishes it: a call that finds them free finds the
            // partition free too.
            partition.leave(cost);
        }
        let before = self.permits.release(cost);
        if before.is_waiting() {
            self.serve();
        }
        before
    }

    /// Changes the limit, if it is another one. Returns the old one and the number of the change, in the order
    /// of the changes. Permits in flight stay so. [`serve_waiting`](Self::serve_waiting) must follow.
    pub(super) fn set_limit(&self, limit: u32, number: impl FnOnce() -> u64) -> Option<(u32, u64)> {
        // The lock keeps changes apart until they are numbered.
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

    /// Adds a waiter and returns its slot; `None` if the queue is full. The flag says whether its turn
    /// may have come already: then [`serve`](Self::serve) must follow.
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
            // A waker may be user code: it is dropped after the lock.
            drop(waiting);
            return None;
        }
        let rank = match self.rules.order {
            QueueOrder::Priority => u16::MAX - priority.as_u16(),
            QueueOrder::Fifo | QueueOrder::Lifo => 0,
        };
        let slot = waiting.list.push(partition, rank, cost, now, waker);
        let word = match waiting.list.len() {
            1 => self.permits.set_waiting(),
            // The flag is set already.
            _ => self.read(),
        };
        // Calls before it have no room; it may have, since some may have come since it was rejected.
        let may_be_next = !self.partitions.is_empty()
            || word.has_room(self.clamped(cost, word))
            || self.why(cost, word) == Full::TooLarge;
        Some((slot, may_be_next))
    }

    /// Serves the waiters as far as there is room. They are woken outside the lock.
    #[cold]
    pub(super) fn serve(&self) {
        // A clock may be user code: it is not read under the lock, and a waker or a clock that panics
        // costs no other waiter its turn.
        let (mut panics, mut now) = (Panics::default(), None);
        if self.has_codel {
            panics.run(|| now = Some(self.clock.now()));
        }
        loop {
            let mut waiting = self.lock();
            // Two at a time: usually the second has no turn, and one lock was enough.
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

    /// Ends the wait of the next waiter, if it can be ended. `now` is `None` without CoDel.
    fn settle_next(&self, waiting: &mut Waiting, now: Option<Instant>) -> Option<Waker> {
        if waiting.list.len() == 0 {
            return None;
        }
        let word = self.read();
        let partition = self.next_partition(waiting, word.limit())?;
        let mut newest_first = self.rules.order == QueueOrder::Lifo;
        if let (Some(codel), Some(now)) = (&mut waiting.codel, now) {
            // CoDel judges the oldest waiter when its turn could have come.
            let (slot, oldest) = waiting.list.first(partition)?;
            if word.has_room(self.clamped(oldest.cost, word))
                && codel.should_drop(now.saturating_duration_since(oldest.since), now)
            {
                let stale = Settled::Refused(Reason::QueueTimeout);
                return self.settle(waiting, partition, slot, stale);
            }
            newest_first |= codel.is_overloaded();
        }
        let (slot, waiter) = if newest_first {
            waiting.list.last(partition)?
        } else {
            waiting.list.first(partition)?
        };
        let settled = if self.why(waiter.cost, word) == Full::TooLarge {
            // The limit has shrunk below its cost: its turn would never come.
            Settled::Refused(Reason::CostExceedsLimit)
        } else {
            let last = waiting.list.len() == 1;
            Settled::Admitted(self.take(waiter.cost, partition, last)?)
        };
        self.settle(waiting, partition, slot, settled)
    }

    /// The partition whose head is next: one below its share if there is one, else the one whose head
    /// came first.
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
            let (rank, arrival) = waiter.place;
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
        slot: usize,
        settled: Settled,
    ) -> Option<Waker> {
        let waker = waiting.list.settle(partition, slot, settled)?;
        self.after_removal(waiting);
        Some(waker)
    }

    /// Clears the flag when the last waiter has left.
    pub(super) fn after_removal(&self, waiting: &mut Waiting) {
        if waiting.list.len() == 0 {
            // The last to be admitted has cleared it with its acquisition.
            if self.read().is_waiting() {
                self.permits.clear_waiting();
            }
            if let Some(codel) = &mut waiting.codel {
                codel.drained();
            }
        }
    }
}
