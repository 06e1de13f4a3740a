//! The state of a wait queue, behind its lock: which waiters there are, and when each is served.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use super::core::Core;
use super::state::{Limit, Limits, Refusal};
use super::terms::Terms;
use super::wakes::Wakes;
use crate::instant::{Instant, nanos};

/// The longest lateness of a timer that costs the waiters nothing: ten times the resolution of tokio's. After a
/// longer one, such as a process that was stopped for an hour, no more are served at once than one, the burst,
/// and what the rate earns in this time.
const LATENESS: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Line {
    /// By their tickets, which only grow.
    pub(super) waiters: BTreeMap<u64, Waiter>,
    /// Tickets of waiters that have been served and have not noticed yet, with the instants at which their
    /// tokens count as taken.
    pub(super) served: BTreeMap<u64, Instant>,
    pub(super) next_ticket: u64,
    /// The sum of what the waiters cost.
    pub(super) cost: u64,
    pub(super) terms: Terms,
    /// Nothing is admitted before this instant.
    pub(super) paused_until: Instant,
    pub(super) plan: Option<Box<Plan>>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) cost: u64,
    pub(super) since: Instant,
    pub(super) waker: Option<Waker>,
    /// Whether its call went ahead, as in shadow mode.
    pub(super) detached: bool,
}

/// Where the limits will be when all waiters have been served, and when that is.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) at: Instant,
    /// How many waiters have left since it was made. It is too late a time then, never too early.
    pub(super) outdated: usize,
}

impl Line {
    /// Whether tokens may be taken past the line.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.waiters.is_empty() && self.paused_until <= now
    }

    pub(super) fn first(&self) -> Option<u64> {
        let (ticket, _) = self.waiters.first_key_value()?;
        Some(*ticket)
    }

    /// Has the first waiter look again.
    pub(super) fn wake_first(&mut self, wakes: &mut Wakes) {
        if let Some(mut first) = self.waiters.first_entry() {
            wakes.push(first.get_mut().waker.take());
        }
    }

    /// The limits are no longer what they were.
    pub(super) fn changed(&mut self, wakes: &mut Wakes) {
        self.plan = None;
        self.wake_first(wakes);
    }

    /// Serves the waiters whose turn has come. The first has it however late it is, but those behind it
    /// only make up for [`LATENESS`]: the limits were full then, and no fuller.
    pub(super) fn serve(&mut self, core: &Core, now: Instant, wakes: &mut Wakes) {
        let oldest = now.as_nanos().saturating_sub(nanos(LATENESS));
        let mut earliest = self.paused_until;
        while let Some((&ticket, first)) = self.waiters.first_key_value() {
            let from = first.since.max(earliest);
            if from > now {
                return;
            }
            let Ok(taken) = core.serve(from, now, first.cost) else {
                return;
            };
            earliest = earliest.max(Instant::from_nanos(oldest));
            if !first.detached {
                self.served.insert(ticket, taken);
            }
            wakes.push(self.remove(ticket));
        }
    }

    /// When the first waiter, which could not be served, has its turn.
    pub(super) fn first_turn(&self, core: &Core, now: Instant) -> Refusal {
        let Some((_, first)) = self.waiters.first_key_value() else {
            return Refusal::Until(now);
        };
        let from = first.since.max(self.paused_until).max(now);
        core.ready(from, first.cost)
            .err()
            .unwrap_or(Refusal::Until(from))
    }

    /// The plan for all waiters.
    ///
    /// Most limits can be asked where a whole line leaves them. For the others the waiters are gone
    /// through one by one, and the plan is kept. A long line is gone through again only after many
    /// waiters have left: a cancellation costs a few steps then, not one for each of those behind it.
    pub(super) fn plan(&mut self, core: &Core, now: Instant) -> &mut Plan {
        const STEPS: usize = 64;
        let start = self.paused_until.max(now);
        let last = self.waiters.last_key_value();
        let last = last.map_or(0, |(_, waiter)| waiter.cost);
        let new = |limits| Plan {
            limits,
            at: start,
            outdated: 0,
        };
        let mut limits = core.copy();
        if limits.put_all(start, self.cost.saturating_sub(last)) {
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
            let mut plan = new(core.copy());
            for waiter in waiters.values() {
                let _ = plan.serve(waiter.cost);
            }
            Box::new(plan)
        });
        plan.at = plan.at.max(start);
        plan
    }

    /// When `cost` tokens could be taken behind all waiters.
    pub(super) fn refusal(&mut self, core: &Core, now: Instant, cost: u64, debt: u64) -> Refusal {
        let plan = self.plan(core, now);
        match plan.limits.ready(plan.at, cost, debt) {
            Ok(()) => Refusal::Until(plan.at),
            Err(refusal) => refusal,
        }
    }

    /// Adds a waiter to the plan, if its turn is no later than `latest`.
    pub(super) fn join(
        &mut self,
        core: &Core,
        now: Instant,
        cost: u64,
        latest: Instant,
    ) -> Result<(), Refusal> {
        match self.refusal(core, now, cost, 0) {
            Refusal::Until(turn) if turn <= latest => {
                // `refusal` has just made it.
                if let Some(plan) = &mut self.plan {
                    let _ = plan.serve(cost);
                }
                Ok(())
            }
            refusal => Err(refusal),
        }
    }

    /// When there will be room for `cost` in the line.
    pub(super) fn room(&self, core: &Core, now: Instant, cost: u64, max_waiting: usize) -> Refusal {
        let mut plan = Plan {
            limits: core.copy(),
            at: self.paused_until.max(now),
            outdated: 0,
        };
        let (mut callers, mut waiting) = (self.waiters.len(), self.cost);
        for waiter in self.waiters.values() {
            if plan.serve(waiter.cost).is_err() {
                return Refusal::Never;
            }
            callers -= 1;
            waiting = waiting.saturating_sub(waiter.cost);
            let fits = self
                .terms
                .bound()
                .is_none_or(|bound| waiting.saturating_add(cost) <= bound);
            if callers < max_waiting && fits {
                return Refusal::Until(plan.at);
            }
        }
        // No caller may wait at all: then it depends on the limits alone.
        match plan.serve(cost) {
            Ok(at) => Refusal::Until(at),
            Err(refusal) => refusal,
        }
    }

    /// Takes a waiter out of the line. Returns its waker.
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
    /// Serves one more as soon as it can be. Returns when that is.
    pub(super) fn serve(&mut self, cost: u64) -> Result<Instant, Refusal> {
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
