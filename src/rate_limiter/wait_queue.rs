//! The wait queue of a limiter, in the order of arrival.
//!
//! A waiter is served once its turn has come, by any thread that holds the queue's lock: that thread takes the tokens
//! for it and wakes it. So later calls cannot take them, and a late wake-up serves all waiters whose turns have
//! passed. Tokens are taken as of the turns, which follow each other at the rate. Only the first waiter watches the
//! clock. Turns are not booked in advance, so a cancelled waiter simply leaves the queue.

use std::task::Waker;

use super::queue_state::{QueueState, Waiter};
use super::quotas_in_force::QuotasInForce;
use super::state::{Limit, Quota, Unavailable};
use super::storage::Storage;
use super::wake_list::WakeList;
use crate::instant::Instant;
use crate::sync::{AtomicUsize, Mutex, Ordering, lock_checked};

#[derive(Debug)]
pub(super) struct WaitQueue {
    /// The number of waiters, and [`PAUSED`]. If it is zero, calls may take tokens without the lock.
    closed: AtomicUsize,
    state: Mutex<QueueState>,
    max_waiting: AtomicUsize,
}

/// The bit of `closed` that marks a pause.
const PAUSED: usize = !(usize::MAX >> 1);

/// The result of joining the queue.
#[derive(Debug)]
pub(super) enum Joined {
    /// The queue was empty, and there were enough tokens.
    Taken,
    /// The call waits, with this ticket.
    Queued(u64),
    /// The turn would come too late, or never.
    TooLate(Unavailable),
    /// The queue is full, at least until this time.
    Full(Unavailable),
}

/// The state of a waiter.
#[derive(Debug)]
pub(super) enum Turn {
    /// The waiter was served. Its tokens are taken as of this instant.
    Taken(Instant),
    /// The waiter is the first, and the limits have too few tokens.
    First(Unavailable),
    /// There are waiters before this one.
    Behind,
}

impl WaitQueue {
    pub(super) fn new(max_waiting: usize, in_force: QuotasInForce) -> Self {
        Self {
            closed: AtomicUsize::new(0),
            state: Mutex::new(QueueState {
                in_force,
                ..QueueState::default()
            }),
            max_waiting: AtomicUsize::new(max_waiting),
        }
    }

    /// Changes how many calls may wait. Current waiters stay.
    pub(super) fn set_max_waiting(&self, calls: usize) {
        // Relaxed: the setting publishes nothing else.
        self.max_waiting.store(calls, Ordering::Relaxed);
    }

    /// Returns whether there are waiters or a pause, so that calls must not take tokens without the lock.
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        // Relaxed: a thread that reads zero while a waiter joins is ordered before the waiter.
        self.closed.load(Ordering::Relaxed) != 0
    }

    /// Returns the number of waiters.
    pub(super) fn waiting(&self) -> usize {
        self.closed.load(Ordering::Relaxed) & !PAUSED
    }

    /// Serves the detached waiters whose turns have come. Runs no user code, because they have no wakers.
    pub(super) fn settle(&self, storage: &Storage, now: Instant) {
        let mut state = lock_checked(&self.state);
        let first = state.waiters.first_key_value();
        if first.is_some_and(|(_, waiter)| waiter.detached) {
            // A limiter in shadow mode has no other waiters.
            state.serve(storage, now, &mut WakeList::default());
            self.publish(&mut state, now);
        }
    }

    /// Serves the waiters whose turns have come, runs `act`, and serves those whose turns have come
    /// because of it.
    fn with<R>(
        &self,
        storage: &Storage,
        now: Instant,
        act: impl FnOnce(&mut QueueState, &mut WakeList) -> R,
    ) -> R {
        self.with_undo(storage, now, act, |_| ())
    }

    /// Like [`with`](Self::with). If a waker panics, the panic propagates to the caller, which never sees the result.
    /// In that case, `undo` returns what the result holds.
    fn with_undo<R>(
        &self,
        storage: &Storage,
        now: Instant,
        act: impl FnOnce(&mut QueueState, &mut WakeList) -> R,
        undo: impl FnOnce(&R),
    ) -> R {
        let mut wakes = WakeList::default();
        let result = self.locked(storage, now, &mut wakes, act);
        let mut panics = wakes.wake();
        if !panics.is_empty() {
            panics.run(|| undo(&result));
        }
        panics.resume();
        result
    }

    fn locked<R>(
        &self,
        storage: &Storage,
        now: Instant,
        wakes: &mut WakeList,
        act: impl FnOnce(&mut QueueState, &mut WakeList) -> R,
    ) -> R {
        let mut state = lock_checked(&self.state);
        let first = state.first();
        state.serve(storage, now, wakes);
        let result = act(&mut state, wakes);
        state.serve(storage, now, wakes);
        if state.first() != first {
            state.wake_first(wakes);
        }
        self.publish(&mut state, now);
        result
    }

    /// Takes `cost` tokens, or joins the queue if the turn comes by `latest`.
    ///
    /// A `detached` waiter admits its call at once, and only keeps later calls from taking its tokens.
    pub(super) fn enter(
        &self,
        storage: &Storage,
        now: Instant,
        cost: u64,
        latest: Instant,
        detached: bool,
    ) -> Joined {
        let undo = |entry: &Joined| match entry {
            Joined::Taken => self.give_back(storage, now, None, cost),
            Joined::Queued(ticket) => self.leave(storage, now, *ticket, cost),
            Joined::TooLate(_) | Joined::Full(_) => {}
        };
        let enter = |state: &mut QueueState, _: &mut WakeList| {
            if state.is_open(now) {
                match storage.take(now, cost) {
                    Ok(()) => return Joined::Taken,
                    Err(Unavailable::Never) => return Joined::TooLate(Unavailable::Never),
                    Err(Unavailable::Until(_)) => {}
                }
            }
            let bound = state.in_force.bound();
            let room = bound.is_none_or(|bound| cost <= bound - state.cost.min(bound));
            let max_waiting = self.max_waiting.load(Ordering::Relaxed);
            if state.waiters.len() >= max_waiting || !room {
                return Joined::Full(state.room(storage, now, cost, max_waiting));
            }
            // A waiter without a deadline needs no forecast, but must not wait for tokens that never come.
            if latest < Instant::FAR_FUTURE {
                if let Err(unavailable) = state.join(storage, now, cost, latest) {
                    return Joined::TooLate(unavailable);
                }
            } else if let Err(Unavailable::Never) = storage.ready(now, cost) {
                return Joined::TooLate(Unavailable::Never);
            } else if let Some(plan) = &mut state.plan {
                plan.at = plan.at.max(now);
                let _ = plan.serve(cost);
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.cost = state.cost.saturating_add(cost);
            let waiter = Waiter {
                cost,
                since: now,
                waker: None,
                detached,
            };
            state.waiters.insert(ticket, waiter);
            Joined::Queued(ticket)
        };
        self.with_undo(storage, now, enter, undo)
    }

    fn give_back(&self, storage: &Storage, now: Instant, taken: Option<Instant>, cost: u64) {
        self.change(storage, now, |storage, _| storage.give(now, taken, cost));
    }

    /// Returns the state of a waiter. Keeps `waker`, to be woken when the state changes for a reason other than time.
    ///
    /// Every waiter that is polled serves the queue, not only the first one: a task that polls a later waiter may hold
    /// the first one without polling it.
    pub(super) fn turn(
        &self,
        storage: &Storage,
        now: Instant,
        ticket: u64,
        waker: Waker,
        wakes: &mut WakeList,
    ) -> Turn {
        let mut state = lock_checked(&self.state);
        let first = state.first();
        // The waiter is being polled, so it need not be woken.
        if let Some(waiter) = state.waiters.get_mut(&ticket) {
            wakes.replaced = waiter.waker.take();
        }
        state.serve(storage, now, wakes);
        let mut turn = Turn::Behind;
        if state.first() == Some(ticket) {
            turn = Turn::First(state.first_turn(storage, now));
        } else if state.first() != first {
            state.wake_first(wakes);
        }
        if let Some(waiter) = state.waiters.get_mut(&ticket) {
            waiter.waker = Some(waker);
        } else if let Some(taken) = state.served.remove(&ticket) {
            turn = Turn::Taken(taken);
        }
        self.publish(&mut state, now);
        turn
    }

    /// Removes the waiter with `ticket`, or returns the `cost` tokens it was served with.
    pub(super) fn leave(&self, storage: &Storage, now: Instant, ticket: u64, cost: u64) {
        self.with(storage, now, |state, wakes| {
            if state.waiters.contains_key(&ticket) {
                wakes.replaced = state.remove(ticket);
                if let Some(plan) = &mut state.plan {
                    plan.outdated += 1;
                }
            } else if let Some(taken) = state.served.remove(&ticket) {
                storage.give(now, Some(taken), cost);
                state.changed(wakes);
            }
        });
    }

    /// Takes tokens without waiting, if there are no waiters and no pause.
    pub(super) fn take(
        &self,
        storage: &Storage,
        now: Instant,
        cost: u64,
    ) -> Result<(), Unavailable> {
        let take = |state: &mut QueueState, _: &mut WakeList| match state.is_open(now) {
            true => storage.take(now, cost),
            false => Err(state.unavailable(storage, now, cost, 0)),
        };
        self.with_undo(storage, now, take, |taken| {
            if taken.is_ok() {
                self.give_back(storage, now, None, cost);
            }
        })
    }

    /// Like [`Storage::borrow`]. The state is `None` behind waiters or during a pause.
    pub(super) fn borrow<R>(
        &self,
        storage: &Storage,
        now: Instant,
        (cost, debt): (u64, u64),
        read: impl Fn(&dyn Limit, Instant) -> R,
    ) -> (Result<Instant, Unavailable>, Option<R>) {
        let borrow = |state: &mut QueueState, _: &mut WakeList| match state.is_open(now) {
            true => {
                let (taken, read) = storage.borrow(now, (cost, debt), read);
                (taken, Some(read))
            }
            false => (Err(state.unavailable(storage, now, cost, debt)), None),
        };
        self.with_undo(storage, now, borrow, |borrowed| {
            if let (Ok(taken), _) = borrowed {
                self.give_back(storage, now, Some(*taken), cost);
            }
        })
    }

    /// Returns what [`take`](Self::take) would return, and whether there are waiters or a pause. If so, a call may
    /// leave `debt` tokens of debt.
    pub(super) fn forecast(
        &self,
        storage: &Storage,
        now: Instant,
        cost: u64,
        debt: u64,
    ) -> (Result<(), Unavailable>, bool) {
        self.with(storage, now, |state, _| match state.is_open(now) {
            true => (storage.ready(now, cost), false),
            false => (Err(state.unavailable(storage, now, cost, debt)), true),
        })
    }

    /// Runs `change`, which changes the limits, and serves the waiters again.
    ///
    /// Runs under the lock, so that a waiter that joins meanwhile either sees the change or is seen by it.
    pub(super) fn change<R>(
        &self,
        storage: &Storage,
        now: Instant,
        change: impl FnOnce(&Storage, &mut QuotasInForce) -> R,
    ) -> R {
        self.with(storage, now, |state, wakes| {
            let result = change(storage, &mut state.in_force);
            state.changed(wakes);
            result
        })
    }

    /// Returns the quotas in force.
    pub(super) fn quotas(&self) -> Vec<Quota> {
        lock_checked(&self.state).in_force.quotas().to_vec()
    }

    /// Returns whether the quotas are those that the limiter was built with.
    pub(super) fn has_first_quotas(&self) -> bool {
        !lock_checked(&self.state).in_force.is_changed()
    }

    /// Admits nothing before `until`, unless an existing pause lasts longer.
    pub(super) fn pause(&self, storage: &Storage, now: Instant, until: Instant) {
        self.with(storage, now, |state, wakes| {
            state.paused_until = state.paused_until.max(until);
            state.changed(wakes);
        });
    }

    /// Returns the end of the pause, if there is one.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        // Relaxed: as in `is_closed`.
        let paused = self.closed.load(Ordering::Relaxed) & PAUSED != 0;
        let until = paused.then(|| lock_checked(&self.state).paused_until);
        until.filter(|until| *until > now)
    }

    fn publish(&self, state: &mut QueueState, now: Instant) {
        if state.paused_until <= now {
            state.paused_until = Instant::ORIGIN;
        }
        let paused = state.paused_until > Instant::ORIGIN;
        let closed = state.waiters.len() | if paused { PAUSED } else { 0 };
        // Relaxed: see `is_closed`.
        self.closed.store(closed, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use std::time::Duration;

    use super::super::queue_state::SERVED;
    use super::super::state::limits;
    use super::super::storage::Locked;
    use super::*;

    #[test]
    fn a_cancellation_in_a_long_queue_costs_a_few_steps() {
        const WAITERS: usize = 10_000;
        const CANCELLED: usize = 1000;

        let now = Instant::ORIGIN;
        let quotas = vec![Quota::per_second(1).sliding_log()];
        let storage = Storage::Locked(Mutex::new(Locked::new(limits(&quotas, now, 0), now)));
        let queue = WaitQueue::new(usize::MAX, QuotasInForce::new(quotas));
        let latest = now + Duration::from_secs(86_400);
        let join = || match queue.enter(&storage, now, 1, latest, false) {
            Joined::Queued(ticket) => Some(ticket),
            _ => None,
        };
        let tickets: Vec<_> = (0..=WAITERS).filter_map(|_| join()).collect();
        assert_eq!(tickets.len(), WAITERS);
        SERVED.set(0);
        for ticket in &tickets[..CANCELLED] {
            queue.leave(&storage, now, *ticket, 1);
            assert!(join().is_some());
        }
        let each = SERVED.get() / CANCELLED;
        assert!(
            each < 100,
            "{each} waiters were simulated for each cancellation"
        );
    }
}
