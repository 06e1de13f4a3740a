//! The waiters of a limiter, behind the lock of the wait queue, and when each is served.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::quotas_in_force::QuotasInForce;
use super::state::{Limit, Limits, Unavailable};
use super::storage::Storage;
use super::wake_list::WakeList;
use crate::instant::{Instant, nanos};

/// Lateness of timers that costs waiters nothing: ten times the resolution of tokio's timer. After a longer stall,
/// such as a suspended process, one waiter, a burst, and what the rate earns in this time are served at once.
const LATENESS: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct QueueState {
    /// Waiters by ticket. Tickets only grow, so the order is that of arrival.
    pub(super) waiters: BTreeMap<u64, Waiter>,
    /// Tickets of waiters that were served and not polled since, with the instants as of which their tokens are
    /// taken.
    pub(super) served: BTreeMap<u64, Instant>,
    pub(super) next_ticket: u64,
    /// The sum of the costs of all waiters.
    pub(super) cost: u64,
    pub(super) in_force: QuotasInForce,
    /// The end of the pause.
    pub(super) paused_until: Instant,
    pub(super) plan: Option<Box<Plan>>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) cost: u64,
    pub(super) since: Instant,
    pub(super) waker: Option<Waker>,
    /// Whether its call was admitted without waiting, because of shadow mode.
    pub(super) detached: bool,
}

/// A forecast: the state of the limits after all waiters are served, and the time of that.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) at: Instant,
    /// Number of waiters that left since the forecast was made, which makes it too late, never too early.
    pub(super) outdated: usize,
}

impl QueueState {
    /// Returns whether a call may take tokens: there are no waiters and no pause.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.waiters.is_empty() && self.paused_until <= now
    }

    pub(super) fn first(&self) -> Option<u64> {
        let (ticket, _) = self.waiters.first_key_value()?;
        Some(*ticket)
    }

    /// Wakes the first waiter, so that it computes its turn again.
    pub(super) fn wake_first(&mut self, wakes: &mut WakeList) {
        if let Some(mut first) = self.waiters.first_entry() {
            wakes.push(first.get_mut().waker.take());
        }
    }

    /// Invalidates the plan after a change of the limits.
    pub(super) fn changed(&mut self, wakes: &mut WakeList) {
        self.plan = None;
        self.wake_first(wakes);
    }

    /// Serves the waiters whose turn has come. The first one is served however late it is. For those behind it,
    /// lateness beyond [`LATENESS`] is ignored, because the limits cannot hold more than when they are full.
    pub(super) fn serve(&mut self, storage: &Storage, now: Instant, wakes: &mut WakeList) {
        let oldest = now.as_nanos().saturating_sub(nanos(LATENESS));
        let mut earliest = self.paused_until;
        while let Some((&ticket, first)) = self.waiters.first_key_value() {
            let from = first.since.max(earliest);
            if from > now {
                return;
            }
            let Ok(taken) = storage.serve(from, now, first.cost) else {
                return;
            };
            // No timer serves a detached waiter, so it is never late.
            if !first.detached {
                earliest = earliest.max(Instant::from_nanos(oldest));
                self.served.insert(ticket, taken);
            }
            wakes.push(self.remove(ticket));
        }
    }

    /// Returns when the first waiter, which could not be served, has its turn.
    pub(super) fn first_turn(&self, storage: &Storage, now: Instant) -> Unavailable {
        let Some((_, first)) = self.waiters.first_key_value() else {
            return Unavailable::Until(now);
        };
        let from = first.since.max(self.paused_until).max(now);
        storage
            .ready(from, first.cost)
            .err()
            .unwrap_or(Unavailable::Until(from))
    }

    /// Returns the plan for all waiters.
    ///
    /// Most limits compute the state after all waiters in one step. For others, the waiters are simulated one by one,
    /// and the plan is kept. A long queue is simulated again only after many waiters have left, so that a
    /// cancellation costs a few steps instead of one for each waiter behind it.
    pub(super) fn plan(&mut self, storage: &Storage, now: Instant) -> &mut Plan {
        const STEPS: usize = 64;
        let start = self.paused_until.max(now);
        let last = self.waiters.last_key_value();
        let last = last.map_or(0, |(_, waiter)| waiter.cost);
        let new = |limits| Plan {
            limits,
            at: start,
            outdated: 0,
        };
        let mut limits = storage.copy();
        if limits.force_take_all(start, self.cost.saturating_sub(last)) {
            let mut plan = new(limits);
            if !self.waiters.is_empty() {
                let _ = plan.serve(last);
            }
            self.plan = Some(Box::new(plan));
        }
        let waiters = &self.waiters;
        self.plan.take_if(|plan| {
            plan.outdated > 0 && plan.outdated.saturating_mul(STEPS) >= waiters.len()
        });
        let plan = self.plan.get_or_insert_with(|| {
            let mut plan = new(storage.copy());
            for waiter in waiters.values() {
                let _ = plan.serve(waiter.cost);
            }
            Box::new(plan)
        });
        plan.at = plan.at.max(start);
        plan
    }

    /// Returns when `cost` tokens will be available behind all waiters.
    pub(super) fn unavailable(
        &mut self,
        storage: &Storage,
        now: Instant,
        cost: u64,
        debt: u64,
    ) -> Unavailable {
        let plan = self.plan(storage, now);
        match plan.limits.ready(plan.at, cost, debt) {
            Ok(()) => Unavailable::Until(plan.at),
            Err(unavailable) => unavailable,
        }
    }

    /// Adds a waiter to the plan if its turn comes by `latest`.
    pub(super) fn join(
        &mut self,
        storage: &Storage,
        now: Instant,
        cost: u64,
        latest: Instant,
    ) -> Result<(), Unavailable> {
        match self.unavailable(storage, now, cost, 0) {
            Unavailable::Until(turn) if turn <= latest => {
                // The call of `unavailable` has created the plan.
                if let Some(plan) = &mut self.plan {
                    let _ = plan.serve(cost);
                }
                Ok(())
            }
            unavailable => Err(unavailable),
        }
    }

    /// Returns when the queue will have room for `cost`.
    pub(super) fn room(
        &self,
        storage: &Storage,
        now: Instant,
        cost: u64,
        max_waiting: usize,
    ) -> Unavailable {
        let mut plan = Plan {
            limits: storage.copy(),
            at: self.paused_until.max(now),
            outdated: 0,
        };
        let (mut callers, mut waiting) = (self.waiters.len(), self.cost);
        for waiter in self.waiters.values() {
            if plan.serve(waiter.cost).is_err() {
                return Unavailable::Never;
            }
            callers -= 1;
            waiting = waiting.saturating_sub(waiter.cost);
            let fits = self
                .in_force
                .bound()
                .is_none_or(|bound| waiting.saturating_add(cost) <= bound);
            if callers < max_waiting && fits {
                return Unavailable::Until(plan.at);
            }
        }
        // If no call may wait, only the limits matter.
        match plan.serve(cost) {
            Ok(at) => Unavailable::Until(at),
            Err(unavailable) => unavailable,
        }
    }

    /// Removes a waiter. Returns its waker.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Waker> {
        let waiter = self.waiters.remove(&ticket)?;
        self.cost = self.cost.saturating_sub(waiter.cost);
        if self.waiters.is_empty() {
            self.plan = None;
        }
        waiter.waker
    }
}

impl Plan {
    /// Serves one more waiter as early as possible. Returns when that is.
    pub(super) fn serve(&mut self, cost: u64) -> Result<Instant, Unavailable> {
        #[cfg(test)]
        SERVED.set(SERVED.get() + 1);
        if let Err(unavailable) = self.limits.ready(self.at, cost, 0) {
            match unavailable {
                Unavailable::Until(at) => self.at = at,
                Unavailable::Never => return Err(Unavailable::Never),
            }
        }
        self.limits.force_take(self.at, cost);
        Ok(self.at)
    }
}

#[cfg(test)]
thread_local! {
    /// Number of waiters that plans of this thread have served.
    pub(super) static SERVED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
