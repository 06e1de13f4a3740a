//! Those who wait for tokens, in the order they came.
//!
//! Only the first of them watches the clock; the others sleep until they have become the first, or
//! until their own time is up. So one is woken at a time, and nothing runs in the background. Turns
//! are not booked in advance: a caller that gives up simply leaves the line.

use std::collections::BTreeMap;
use std::task::Waker;

use super::Core;
use super::state::{Limit, Limits, Refusal};
use crate::instant::Instant;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock_checked};

#[derive(Debug)]
pub(super) struct Queue {
    /// How many wait, to be read without the lock.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    max_waiting: usize,
}

#[derive(Debug)]
struct Line {
    /// By their tickets, which only grow.
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    /// The sum of what they cost.
    cost: u64,
    /// The largest such sum, if there is one.
    bound: Option<u64>,
    plan: Option<Plan>,
}

#[derive(Debug)]
struct Waiter {
    cost: u64,
    waker: Option<Waker>,
}

/// Where the limits will be when all who wait have been served, and when that is.
#[derive(Debug)]
struct Plan {
    limits: Limits,
    at: Instant,
}

/// What became of a caller that wanted tokens.
#[derive(Debug)]
pub(super) enum Entry {
    /// There was nobody before it, and there were enough tokens.
    Taken,
    /// It waits. Its place in the line.
    Queued(u64),
    /// Its turn would come too late, if at all.
    TooLate(Refusal),
    /// There is no room, at least until then.
    Full(Refusal),
}

/// What a caller that waits has to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// Its turn has come, and it has the tokens. The next may be woken.
    Taken(Option<Waker>),
    /// It is the first, and has to wait for the limits.
    First(Refusal),
    /// Others are before it.
    Behind,
}

impl Queue {
    pub(super) fn new(max_waiting: usize, bound: Option<u64>) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            line: Mutex::new(Line {
                waiters: BTreeMap::new(),
                next_ticket: 0,
                cost: 0,
                bound,
                plan: None,
            }),
            max_waiting,
        }
    }

    /// Whether somebody waits, so that who comes now must not overtake.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        // Relaxed: a hint. Who reads zero while somebody is entering came before.
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes `cost` tokens, or a place in the line if the turn comes at `latest` at the latest.
    pub(super) fn enter(&self, core: &Core, now: Instant, cost: u64, latest: Instant) -> Entry {
        let mut line = lock_checked(&self.line);
        if line.waiters.is_empty() {
            match core.take(now, cost) {
                Ok(()) => return Entry::Taken,
                Err(Refusal::Never) => return Entry::TooLate(Refusal::Never),
                Err(Refusal::Until(_)) => {}
            }
        }
        let room = line
            .bound
            .is_none_or(|bound| cost <= bound - line.cost.min(bound));
        if line.waiters.len() >= self.max_waiting || !room {
            return Entry::Full(line.room(core, now, cost, self.max_waiting));
        }
        // Who waits as long as it takes need not know for how long, but must not wait for ever.
        if latest < Instant::FAR_FUTURE {
            if let Err(refusal) = line.join(core, now, cost, latest) {
                return Entry::TooLate(refusal);
            }
        } else if let Err(Refusal::Never) = core.ready(now, cost) {
            return Entry::TooLate(Refusal::Never);
        } else if let Some(plan) = &mut line.plan {
            plan.at = plan.at.max(now);
            let _ = plan.serve(cost);
        }
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.cost = line.cost.saturating_add(cost);
        line.waiters.insert(ticket, Waiter { cost, waker: None });
        self.publish(&line);
        Entry::Queued(ticket)
    }

    /// Takes the tokens if it is the turn of `ticket`. Keeps `waker` for when it has to look again
    /// other than because of the time.
    pub(super) fn turn(&self, core: &Core, now: Instant, ticket: u64, waker: Waker) -> Turn {
        let mut line = lock_checked(&self.line);
        let first = line.waiters.first_key_value().map(|(ticket, _)| *ticket);
        let Some(waiter) = line.waiters.get_mut(&ticket) else {
            return Turn::Behind;
        };
        let cost = waiter.cost;
        // Replaced wakers are dropped after the lock: that may be anybody's code.
        let old = waiter.waker.replace(waker);
        let turn = if first == Some(ticket) {
            match core.take(now, cost) {
                Ok(()) => Turn::Taken(None),
                Err(refusal) => Turn::First(refusal),
            }
        } else {
            Turn::Behind
        };
        let turn = match turn {
            Turn::Taken(_) => {
                let (own, next) = line.remove(ticket);
                self.publish(&line);
                drop(line);
                drop(own);
                Turn::Taken(next)
            }
            turn => {
                drop(line);
                turn
            }
        };
        drop(old);
        turn
    }

    /// Gives up the place of `ticket`, if it still has one. Returns whom to wake.
    pub(super) fn leave(&self, ticket: u64) -> Option<Waker> {
        let mut line = lock_checked(&self.line);
        let was_first = line.waiters.first_key_value().map(|(ticket, _)| *ticket) == Some(ticket);
        if !line.waiters.contains_key(&ticket) {
            return None;
        }
        let (own, next) = line.remove(ticket);
        // Those behind move up: what was planned for them is no longer true.
        line.plan = None;
        self.publish(&line);
        drop(line);
        drop(own);
        next.filter(|_| was_first)
    }

    /// Whom to wake after the limits have changed in favour of those who wait.
    pub(super) fn first(&self) -> Option<Waker> {
        if !self.is_busy() {
            return None;
        }
        let mut line = lock_checked(&self.line);
        line.plan = None;
        line.first_waker()
    }

    /// Changes how much may wait.
    pub(super) fn rebound(&self, bound: Option<u64>) {
        let mut line = lock_checked(&self.line);
        line.bound = bound;
        line.plan = None;
    }

    /// When somebody who came now would get `cost` tokens.
    pub(super) fn forecast(&self, core: &Core, now: Instant, cost: u64) -> Result<(), Refusal> {
        let mut line = lock_checked(&self.line);
        if line.waiters.is_empty() {
            return core.ready(now, cost);
        }
        let plan = line.plan(core, now);
        match plan.limits.ready(plan.at, cost, 0) {
            Ok(()) if plan.at <= now => Ok(()),
            Ok(()) => Err(Refusal::Until(plan.at)),
            Err(refusal) => Err(refusal),
        }
    }

    fn publish(&self, line: &Line) {
        // Relaxed: see `is_busy`.
        self.waiting.store(line.waiters.len(), Ordering::Relaxed);
    }
}

impl Line {
    /// The plan for all who wait, made anew if it is not known.
    fn plan(&mut self, core: &Core, now: Instant) -> &mut Plan {
        let waiters = &self.waiters;
        let plan = self.plan.get_or_insert_with(|| {
            let mut plan = Plan {
                limits: core.copy(),
                at: now,
            };
            for waiter in waiters.values() {
                let _ = plan.serve(waiter.cost);
            }
            plan
        });
        plan.at = plan.at.max(now);
        plan
    }

    /// Adds one to the plan, if its turn is no later than `latest`.
    fn join(
        &mut self,
        core: &Core,
        now: Instant,
        cost: u64,
        latest: Instant,
    ) -> Result<(), Refusal> {
        let plan = self.plan(core, now);
        let turn = match plan.limits.ready(plan.at, cost, 0) {
            Ok(()) => plan.at,
            Err(Refusal::Until(at)) => at,
            Err(Refusal::Never) => return Err(Refusal::Never),
        };
        if turn > latest {
            return Err(Refusal::Until(turn));
        }
        plan.serve(cost).map(|_| ())
    }

    /// When there will be room for `cost` in the line.
    fn room(&self, core: &Core, now: Instant, cost: u64, max_waiting: usize) -> Refusal {
        let mut plan = Plan {
            limits: core.copy(),
            at: now,
        };
        let (mut callers, mut waiting) = (self.waiters.len(), self.cost);
        for waiter in self.waiters.values() {
            if plan.serve(waiter.cost).is_err() {
                return Refusal::Never;
            }
            callers -= 1;
            waiting = waiting.saturating_sub(waiter.cost);
            let fits = self
                .bound
                .is_none_or(|bound| waiting.saturating_add(cost) <= bound);
            if callers < max_waiting && fits {
                return Refusal::Until(plan.at);
            }
        }
        // Nobody may wait at all: then it is the limits themselves.
        match plan.serve(cost) {
            Ok(at) => Refusal::Until(at),
            Err(refusal) => refusal,
        }
    }

    /// Removes one, and tells who is the first now.
    fn remove(&mut self, ticket: u64) -> (Option<Waiter>, Option<Waker>) {
        let own = self.waiters.remove(&ticket);
        if let Some(waiter) = &own {
            self.cost = self.cost.saturating_sub(waiter.cost);
        }
        if self.waiters.is_empty() {
            self.plan = None;
        }
        (own, self.first_waker())
    }

    fn first_waker(&self) -> Option<Waker> {
        let (_, first) = self.waiters.first_key_value()?;
        first.waker.clone()
    }
}

impl Plan {
    /// Serves one more as soon as it can be. Returns when that is.
    fn serve(&mut self, cost: u64) -> Result<Instant, Refusal> {
        if let Err(refusal) = self.limits.ready(self.at, cost, 0) {
            match refusal {
                Refusal::Until(at) => self.at = at,
                Refusal::Never => return Err(Refusal::Never),
            }
        }
        self.limits.put(self.at, cost);
        Ok(self.at)
    }
}
