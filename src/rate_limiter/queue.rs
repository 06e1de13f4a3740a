//! The wait queue of a limiter: waiters in the order in which they came.
//!
//! A waiter is served as soon as its turn has come, by whichever thread holds the queue's lock then: its
//! tokens are taken for it and it is woken. So nothing that comes later can have them, a late wake-up
//! serves all waiters whose turn has come meanwhile, and their tokens count as taken at their turns,
//! which follow each other at the rate. Only the first waiter watches the clock. Turns are not booked in
//! advance: a waiter that gives up simply leaves the queue.

use std::task::Waker;

use super::core::Core;
use super::line::{Line, Waiter};
use super::state::{Quota, Refusal};
use super::terms::Terms;
use super::token_bucket::Borrowed;
use super::wakes::Wakes;
use crate::instant::Instant;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock_checked};

#[derive(Debug)]
pub(super) struct Queue {
    /// The number of waiters, and [`PAUSED`]: zero when tokens may be taken without a look at the line.
    gate: AtomicUsize,
    line: Mutex<Line>,
    max_waiting: usize,
}

/// The bit of the gate that says that the limiter is paused.
const PAUSED: usize = !(usize::MAX >> 1);

/// What became of a caller that wanted tokens.
#[derive(Debug)]
pub(super) enum Entry {
    /// The line was empty, and there were enough tokens.
    Taken,
    /// It waits. Its place in the line.
    Queued(u64),
    /// Its turn would come too late, if at all.
    TooLate(Refusal),
    /// There is no room, at least until then.
    Full(Refusal),
}

/// What a waiter has to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// It has been served, with tokens that count as taken at this instant.
    Taken(Instant),
    /// It is the first, and has to wait for the limits.
    First(Refusal),
    /// Others are before it.
    Behind,
}

impl Queue {
    pub(super) fn new(max_waiting: usize, terms: Terms) -> Self {
        Self {
            gate: AtomicUsize::new(0),
            line: Mutex::new(Line {
                terms,
                ..Line::default()
            }),
            max_waiting,
        }
    }

    /// Whether there are waiters or a pause, so that no tokens may be taken past the line.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        // Relaxed: a thread that reads zero while a waiter is entering came before it.
        self.gate.load(Ordering::Relaxed) != 0
    }

    /// The number of waiters.
    pub(super) fn waiting(&self) -> usize {
        self.gate.load(Ordering::Relaxed) & !PAUSED
    }

    /// Serves the waiters whose turn has come, runs `act`, and serves those whose turn has come by that.
    fn with<R>(
        &self,
        core: &Core,
        now: Instant,
        act: impl FnOnce(&mut Line, &mut Wakes) -> R,
    ) -> R {
        self.with_undo(core, now, act, |_| ())
    }

    /// As [`with`](Self::with). If the waker of a waiter panics, its panic goes on to the caller, which will
    /// never see the result: `undo` gives back what that holds.
    fn with_undo<R>(
        &self,
        core: &Core,
        now: Instant,
        act: impl FnOnce(&mut Line, &mut Wakes) -> R,
        undo: impl FnOnce(&R),
    ) -> R {
        let mut wakes = Wakes::default();
        let result = self.locked(core, now, &mut wakes, act);
        let mut panics = wakes.wake();
        if !panics.is_empty() {
            panics.run(|| undo(&result));
        }
        panics.resume();
        result
    }

    fn locked<R>(
        &self,
        core: &Core,
        now: Instant,
        wakes: &mut Wakes,
        act: impl FnOnce(&mut Line, &mut Wakes) -> R,
    ) -> R {
        let mut line = lock_checked(&self.line);
        let first = line.first();
        line.serve(core, now, wakes);
        let result = act(&mut line, wakes);
        line.serve(core, now, wakes);
        if line.first() != first {
            line.wake_first(wakes);
        }
        self.publish(&mut line, now);
        result
    }

    /// Takes `cost` tokens, or a place in the queue if the turn comes at `latest` at the latest.
    ///
    /// Nothing waits for a `detached` place: it only keeps what comes after it from taking its tokens.
    pub(super) fn enter(
        &self,
        core: &Core,
        now: Instant,
        cost: u64,
        latest: Instant,
        detached: bool,
    ) -> Entry {
        let undo = |entry: &Entry| match entry {
            Entry::Taken => self.give_back(core, now, None, cost),
            Entry::Queued(ticket) => self.leave(core, now, *ticket, cost),
            Entry::TooLate(_) | Entry::Full(_) => {}
        };
        let enter = |line: &mut Line, _: &mut Wakes| {
            if line.is_open(now) {
                match core.take(now, cost) {
                    Ok(()) => return Entry::Taken,
                    Err(Refusal::Never) => return Entry::TooLate(Refusal::Never),
                    Err(Refusal::Until(_)) => {}
                }
            }
            let bound = line.terms.bound();
            let room = bound.is_none_or(|bound| cost <= bound - line.cost.min(bound));
            if line.waiters.len() >= self.max_waiting || !room {
                return Entry::Full(line.room(core, now, cost, self.max_waiting));
            }
            // A waiter without a deadline need not know its turn, but must not wait for ever.
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
            let waiter = Waiter {
                cost,
                since: now,
                waker: None,
                detached,
            };
            line.waiters.insert(ticket, waiter);
            Entry::Queued(ticket)
        };
        self.with_undo(core, now, enter, undo)
    }

    fn give_back(&self, core: &Core, now: Instant, taken: Option<Instant>, cost: u64) {
        self.change(core, now, |core, _| core.give(now, taken, cost));
    }

    /// Whether the waiter with this ticket has been served. Otherwise keeps `waker` for when it has to
    /// look again other than because of the time.
    ///
    /// The line is served by its first waiter, so that all notice in their order, or by one that waits no
    /// longer than until `latest`.
    pub(super) fn turn(
        &self,
        core: &Core,
        now: Instant,
        (ticket, latest): (u64, Instant),
        waker: Waker,
        wakes: &mut Wakes,
    ) -> Turn {
        let mut line = lock_checked(&self.line);
        let first = line.first();
        // It is being polled, and need not be woken.
        if let Some(waiter) = line.waiters.get_mut(&ticket) {
            wakes.replaced = waiter.waker.take();
        }
        if first == Some(ticket) || now >= latest {
            line.serve(core, now, wakes);
        }
        let mut turn = Turn::Behind;
        if line.first() == Some(ticket) {
            turn = Turn::First(line.first_turn(core, now));
        } else if line.first() != first {
            line.wake_first(wakes);
        }
        if let Some(waiter) = line.waiters.get_mut(&ticket) {
            waiter.waker = Some(waker);
        } else if let Some(taken) = line.served.remove(&ticket) {
            turn = Turn::Taken(taken);
        }
        self.publish(&mut line, now);
        turn
    }

    /// Gives up the place of `ticket`, or the `cost` tokens it was served with.
    pub(super) fn leave(&self, core: &Core, now: Instant, ticket: u64, cost: u64) {
        self.with(core, now, |line, wakes| {
            if line.waiters.contains_key(&ticket) {
                wakes.replaced = line.remove(ticket);
                if let Some(plan) = &mut line.plan {
                    plan.outdated += 1;
                }
            } else if let Some(taken) = line.served.remove(&ticket) {
                core.give(now, Some(taken), cost);
                line.changed(wakes);
            }
        });
    }

    /// Takes tokens without waiting, if there is no line.
    pub(super) fn take(&self, core: &Core, now: Instant, cost: u64) -> Result<(), Refusal> {
        let take = |line: &mut Line, _: &mut Wakes| match line.is_open(now) {
            true => core.take(now, cost),
            false => Err(line.refusal(core, now, cost, 0)),
        };
        self.with_undo(core, now, take, |taken| {
            if taken.is_ok() {
                self.give_back(core, now, None, cost);
            }
        })
    }

    /// As [`take`](Self::take), leaving no more than `debt` tokens in debt. `None` behind a line.
    pub(super) fn borrow(
        &self,
        core: &Core,
        now: Instant,
        cost: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Option<Borrowed>) {
        let borrow = |line: &mut Line, _: &mut Wakes| match line.is_open(now) {
            true => {
                let (ready, borrowed) = core.borrow(now, cost, debt);
                (ready, Some(borrowed))
            }
            false => (Err(line.refusal(core, now, cost, debt)), None),
        };
        self.with_undo(core, now, borrow, |borrowed| {
            if let (Ok(()), Some(borrowed)) = borrowed {
                self.give_back(core, now, Some(borrowed.taken), cost);
            }
        })
    }

    /// What [`take`](Self::take) would return, and whether there is a line.
    pub(super) fn forecast(
        &self,
        core: &Core,
        now: Instant,
        cost: u64,
    ) -> (Result<(), Refusal>, bool) {
        self.with(core, now, |line, _| match line.is_open(now) {
            true => (core.ready(now, cost), false),
            false => (Err(line.refusal(core, now, cost, 0)), true),
        })
    }

    /// Runs `change`, which changes what the limits hold or how, and has the waiters look again.
    ///
    /// Under the lock, so a waiter that is entering either sees the change or is seen here.
    pub(super) fn change<R>(
        &self,
        core: &Core,
        now: Instant,
        change: impl FnOnce(&Core, &mut Terms) -> R,
    ) -> R {
        self.with(core, now, |line, wakes| {
            let result = change(core, &mut line.terms);
            line.changed(wakes);
            result
        })
    }

    /// The quotas in force.
    pub(super) fn quotas(&self) -> Vec<Quota> {
        lock_checked(&self.line).terms.quotas().to_vec()
    }

    /// Whether the quotas are those it was built with.
    pub(super) fn has_first_quotas(&self) -> bool {
        !lock_checked(&self.line).terms.is_changed()
    }

    /// Admits nothing before `until`, unless a pause lasts longer already.
    pub(super) fn pause(&self, core: &Core, now: Instant, until: Instant) {
        self.with(core, now, |line, wakes| {
            line.paused_until = line.paused_until.max(until);
            line.changed(wakes);
        });
    }

    /// When the pause ends, if there is one.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        // Relaxed: as in `is_closed`.
        let paused = self.gate.load(Ordering::Relaxed) & PAUSED != 0;
        let until = paused.then(|| lock_checked(&self.line).paused_until);
        until.filter(|until| *until > now)
    }

    fn publish(&self, line: &mut Line, now: Instant) {
        if line.paused_until <= now {
            line.paused_until = Instant::ORIGIN;
        }
        let paused = line.paused_until > Instant::ORIGIN;
        let gate = line.waiters.len() | if paused { PAUSED } else { 0 };
        // Relaxed: see `is_closed`.
        self.gate.store(gate, Ordering::Relaxed);
    }
}
