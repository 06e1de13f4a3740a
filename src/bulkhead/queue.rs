//! The permits and the queue in front of them.
//!
//! Admission is one atomic addition while nobody waits. Whoever finds no room takes the lock, says in
//! the permits' own word that somebody waits, and lines up. From then on each release hands its
//! permits to the next in line before anybody else can take them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;
use std::time::Duration;

pub(super) use self::lane::Lane;
pub(super) use self::ticket::Ticket;
use super::permits::{Added, Permits};
use super::state::{Lines, Settled, Taken, Word};
use crate::clock::ClockHandle;
use crate::codel::Codel;
use crate::error::Reason;
use crate::instant::Instant;
use crate::priority::Priority;
use crate::sync::{Mutex, lock_checked};

mod lane;
mod ticket;

/// Who is next when several wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueOrder {
    /// The one who has waited longest.
    #[default]
    Fifo,
    /// The one who came last: under overload its caller is the least likely to have given up.
    Lifo,
    /// The one with the highest [`Priority`]; among equals the one who has waited longest.
    Priority,
}

/// The rules of admission that do not change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// How many may wait.
    pub(super) capacity: usize,
    pub(super) order: QueueOrder,
    /// A cost above the limit counts as the limit.
    pub(super) clamp: bool,
    /// A partition below its share is admitted although all permits are out.
    pub(super) exceed: bool,
}

/// Permits with a bounded queue.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Permits,
    rules: Rules,
    /// Tells CoDel the time, and nobody else.
    clock: ClockHandle,
    has_codel: bool,
    /// Empty for a bulkhead without partitions. The first is for calls that belong to none.
    lanes: Box<[Lane]>,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    lines: Lines<Waker>,
    codel: Option<Codel>,
}

/// Why a call was not admitted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All permits are out, or others wait for them.
    Busy,
    /// It needs more permits than there are.
    TooLarge,
}

/// Who wants in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrant {
    pub(super) cost: u32,
    pub(super) lane: usize,
    pub(super) priority: Priority,
}

impl Gate {
    pub(super) fn new(
        limit: u32,
        rules: Rules,
        lanes: Box<[Lane]>,
        codel: Option<Codel>,
        clock: ClockHandle,
        exact: bool,
    ) -> Self {
        let lines = Lines::new(lanes.len().max(1), rules.order == QueueOrder::Priority);
        Self {
            permits: Permits::new(limit, exact || !lanes.is_empty()),
            rules,
            clock,
            has_codel: codel.is_some(),
            lanes,
            queue: Mutex::new(Queue { lines, codel }),
        }
    }

    /// With other permits than a builder would give it.
    #[cfg(all(test, backstop_loom))]
    pub(super) fn with(self, permits: Permits) -> Self {
        Self { permits, ..self }
    }

    /// What is out is in it exactly if the gate was made so.
    pub(super) fn read(&self) -> Word {
        self.permits.read()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.permits.in_flight()
    }

    pub(super) const fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    pub(super) const fn has_codel(&self) -> bool {
        self.has_codel
    }

    pub(super) fn queued(&self) -> usize {
        lock_checked(&self.queue).lines.len()
    }

    pub(super) fn queued_in(&self, lane: usize) -> usize {
        lock_checked(&self.queue).lines.len_of(lane)
    }

    /// CoDel's load, 0 to 1; 0 without CoDel.
    pub(super) fn load(&self) -> f64 {
        lock_checked(&self.queue)
            .codel
            .as_ref()
            .map_or(0.0, Codel::load)
    }

    /// Changes CoDel's target and interval. `false` without CoDel.
    pub(super) fn retune(&self, target: Duration, interval: Duration) -> bool {
        let mut queue = lock_checked(&self.queue);
        let codel = queue.codel.as_mut();
        codel.is_some_and(|codel| codel.retune(target, interval).is_ok())
    }

    /// Admits a call if there is room and nobody waits for it.
    #[inline(always)]
    pub(super) fn try_admit(&self, entrant: Entrant) -> Result<Taken, Full> {
        if !self.lanes.is_empty() {
            return self.try_admit_to_lane(entrant);
        }
        if entrant.cost != 1 {
            return self.try_admit_larger(entrant.cost);
        }
        match self.permits.take_one_quickly() {
            Ok(taken) => Ok(taken),
            Err(added) => self.admit_slowly(added),
        }
    }

    #[inline(never)]
    fn admit_slowly(&self, added: Added) -> Result<Taken, Full> {
        match self.permits.take_one_slowly(added) {
            Ok(taken) => Ok(taken),
            Err((word, added)) => self.unless_served(1, word, added),
        }
    }

    #[inline(never)]
    fn try_admit_larger(&self, cost: u32) -> Result<Taken, Full> {
        match self.permits.try_take(cost, self.rules.clamp) {
            Ok(taken) => Ok(taken),
            Err(word) => self.unless_served(cost, word, false),
        }
    }

    /// Refuses a call, if it is true that somebody waits.
    #[inline]
    fn unless_served(&self, cost: u32, word: Word, added: bool) -> Result<Taken, Full> {
        if word.waiting() && word.has_room(cost) {
            if let Some(taken) = self.look_again(cost, added) {
                return Ok(taken);
            }
        }
        Err(self.why(cost, word))
    }

    /// The flag may say that somebody waits who has just been served. And who has added a permit for
    /// a moment may have kept out the next in line.
    #[cold]
    fn look_again(&self, cost: u32, added: bool) -> Option<Taken> {
        let queue = lock_checked(&self.queue);
        if queue.lines.len() == 0 {
            if let Ok(taken) = self.permits.take_in_turn(cost, self.rules.clamp, true) {
                return Some(taken);
            }
        }
        drop(queue);
        if added {
            self.hand_out();
        }
        None
    }

    /// What a call of this cost takes.
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

    #[inline(never)]
    fn try_admit_to_lane(&self, entrant: Entrant) -> Result<Taken, Full> {
        let queue = lock_checked(&self.queue);
        let Entrant { cost, lane, .. } = entrant;
        let word = self.read();
        let below = self.lanes[lane].is_below_share(cost, word.limit());
        // Those in line go first, but for a lane below its share only its own.
        let its_turn = queue.lines.len() == 0 || (below && queue.lines.len_of(lane) == 0);
        let taken = its_turn.then(|| self.take(cost, lane, false)).flatten();
        taken.ok_or_else(|| self.why(cost, word))
    }

    /// Takes permits for whoever's turn it is. Under the queue's lock, if there are lanes.
    #[inline]
    fn take(&self, cost: u32, lane: usize, last: bool) -> Option<Taken> {
        let taken = match self.permits.take_in_turn(cost, self.rules.clamp, last) {
            Ok(taken) => taken,
            Err(word) => {
                let below =
                    self.rules.exceed && self.lanes.get(lane)?.is_below_share(cost, word.limit());
                below.then(|| self.permits.force(cost))?
            }
        };
        self.enter(lane, taken.cost());
        Some(taken)
    }

    /// Admits a call whatever the limit says.
    pub(super) fn force(&self, entrant: Entrant) -> Taken {
        let taken = self.permits.force(entrant.cost);
        self.enter(entrant.lane, taken.cost());
        taken
    }

    fn enter(&self, lane: usize, cost: u32) {
        if let Some(lane) = self.lanes.get(lane) {
            lane.enter(cost);
        }
    }

    /// Gives a call's permits back, to the next in line if there is one.
    #[inline(always)]
    pub(super) fn give_back(&self, cost: u32, lane: usize) {
        if cost != 1 || !self.lanes.is_empty() {
            self.give_all_back(cost, lane);
        } else if self.permits.give_one_back().is_some_and(Word::waiting) {
            self.hand_out();
        }
    }

    /// As [`give_back`](Self::give_back). Returns what was out just before, exactly if the gate was
    /// made so.
    #[inline(always)]
    pub(super) fn give_all_back(&self, cost: u32, lane: usize) -> Word {
        if let Some(lane) = self.lanes.get(lane) {
            // Before the permits, whose release publishes it: whoever finds them free finds the lane
            // free too.
            lane.leave(cost);
        }
        let before = self.permits.give_back(cost);
        if before.waiting() {
            self.hand_out();
        }
        before
    }

    /// Changes the limit and returns the old one. Permits that are out stay out.
    pub(super) fn set_limit(&self, limit: u32) -> u32 {
        let old = self.permits.set_limit(limit);
        if old.waiting() {
            self.hand_out();
        }
        old.limit()
    }

    /// Gets in line, or says that the line is full. With the ticket comes whether its turn may have
    /// come already; otherwise the waker is in place and there is nothing to poll for.
    #[inline]
    pub(super) fn line_up(
        &self,
        entrant: Entrant,
        now: Instant,
        waker: &Waker,
    ) -> Option<(Ticket<'_>, bool)> {
        // A waker may be the user's code: not under the lock.
        let waker = waker.clone();
        let Entrant { cost, lane, .. } = entrant;
        let (slot, word) = {
            let mut queue = lock_checked(&self.queue);
            if queue.lines.len() >= self.rules.capacity {
                return None;
            }
            let rank = match self.rules.order {
                QueueOrder::Priority => u16::MAX - entrant.priority.as_u16(),
                QueueOrder::Fifo | QueueOrder::Lifo => 0,
            };
            let slot = queue.lines.push(lane, rank, cost, now, waker);
            // Where others wait everybody knows: who gives a permit back will look here.
            let word = match queue.lines.len() {
                1 => self.permits.somebody_waits(),
                _ => self.permits.read(),
            };
            (slot, word)
        };
        // Those before it have no room; it may have, as some may have come since the caller looked.
        let may_be_next = !self.lanes.is_empty()
            || word.has_room(self.clamped(cost, word))
            || self.why(cost, word) == Full::TooLarge;
        // First of all: should a waker panic, the place is given up.
        let ticket = Ticket::new(self, lane, slot);
        if may_be_next {
            self.hand_out();
        }
        Some((ticket, may_be_next))
    }

    /// Serves those in line as far as there is room. They are woken outside the lock.
    #[cold]
    fn hand_out(&self) {
        // A clock may be the user's code: not under the lock.
        let now = if self.has_codel {
            self.clock.now()
        } else {
            Instant::ORIGIN
        };
        let mut panic = Ok(());
        // A waker that panics does not cost the others their turn.
        let mut wake = |waker: Waker| {
            let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            if woken.is_err() {
                panic = woken;
            }
        };
        loop {
            let mut queue = lock_checked(&self.queue);
            // Two at a time: when the second has no turn, which is usual, one lock was enough.
            let first = self.settle_next(&mut queue, now);
            let second = match first {
                Some(_) if queue.lines.len() > 0 => self.settle_next(&mut queue, now),
                _ => None,
            };
            drop(queue);
            if let Some(waker) = first {
                wake(waker);
            }
            match second {
                Some(waker) => wake(waker),
                None => break,
            }
        }
        if let Err(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Ends the waiting of the next in line, if it can be ended.
    fn settle_next(&self, queue: &mut Queue, now: Instant) -> Option<Waker> {
        if queue.lines.len() == 0 {
            return None;
        }
        let word = self.read();
        let lane = self.next_lane(queue, word.limit())?;
        if let Some(settled) = self.drop_stale(queue, lane, word, now) {
            return Some(settled);
        }
        let newest_first = self.rules.order == QueueOrder::Lifo
            || queue.codel.as_ref().is_some_and(Codel::is_overloaded);
        let (slot, waiter) = if newest_first {
            queue.lines.last(lane)?
        } else {
            queue.lines.first(lane)?
        };
        let settled = if self.why(waiter.cost, word) == Full::TooLarge {
            // The limit has shrunk below its cost: its turn would never come.
            Settled::Refused(Reason::CostExceedsLimit)
        } else {
            Settled::Admitted(self.take(waiter.cost, lane, queue.lines.len() == 1)?)
        };
        self.settle(queue, lane, slot, settled)
    }

    /// The lane whose head is next: one below its share if there is one, else the one that came
    /// first.
    fn next_lane(&self, queue: &Queue, limit: u32) -> Option<usize> {
        if self.lanes.is_empty() {
            return Some(0);
        }
        let heads = (0..queue.lines.lanes()).filter_map(|lane| {
            let (_, waiter) = match self.rules.order {
                QueueOrder::Lifo => queue.lines.last(lane)?,
                QueueOrder::Fifo | QueueOrder::Priority => queue.lines.first(lane)?,
            };
            let below = self.lanes[lane].is_below_share(waiter.cost, limit);
            let (rank, seq) = waiter.place;
            let seq = match self.rules.order {
                QueueOrder::Lifo => u64::MAX - seq,
                QueueOrder::Fifo | QueueOrder::Priority => seq,
            };
            Some(((!below, rank, seq), lane))
        });
        heads.min().map(|(_, lane)| lane)
    }

    /// Lets CoDel judge the oldest of the lane, when its turn could have come.
    fn drop_stale(
        &self,
        queue: &mut Queue,
        lane: usize,
        word: Word,
        now: Instant,
    ) -> Option<Waker> {
        let codel = queue.codel.as_mut()?;
        let (slot, waiter) = queue.lines.first(lane)?;
        if !word.has_room(self.clamped(waiter.cost, word)) {
            return None;
        }
        let stale = codel.should_drop(now.saturating_duration_since(waiter.since), now);
        stale
            .then(|| self.settle(queue, lane, slot, Settled::Refused(Reason::QueueTimeout)))
            .flatten()
    }

    fn settle(
        &self,
        queue: &mut Queue,
        lane: usize,
        slot: usize,
        settled: Settled,
    ) -> Option<Waker> {
        let waker = queue.lines.settle(lane, slot, settled)?;
        self.one_less(queue);
        Some(waker)
    }

    /// Somebody has left the line.
    fn one_less(&self, queue: &mut Queue) {
        if queue.lines.len() == 0 {
            // The last to be admitted has taken the flag along.
            if self.read().waiting() {
                self.permits.nobody_waits();
            }
            if let Some(codel) = &mut queue.codel {
                codel.drained();
            }
        }
    }
}
