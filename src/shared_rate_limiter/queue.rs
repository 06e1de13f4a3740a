//! The wait queue of calls that wait for an answer of the store or for tokens.

use std::collections::BTreeMap;
use std::task::Waker;

use super::state::lease::Lease;
use super::state::link::Contact;
use super::state::request::Waiting;
use crate::error::Reason;
use crate::instant::Instant;

/// The FIFO wait queue of a key. All methods run under the lock of the key; wakers are woken and dropped outside it.
#[derive(Default)]
pub(super) struct Queue {
    waiters: BTreeMap<u64, Waiter>,
    decided: BTreeMap<u64, Decided>,
    next: u64,
    /// Sum of the tokens that the waiters need.
    tokens: u64,
    /// Number of waiters that wait for tokens, and not only for an answer of the store.
    patient: usize,
}

struct Waiter {
    cost: u64,
    /// Until when it waits for tokens; `None` if it waits only for an answer of the store.
    until: Option<Instant>,
    waker: Option<Waker>,
}

/// The decision about a waiter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decided {
    Admitted,
    Rejected(Reason, Instant),
    /// The call costs more than a lowered burst.
    Never,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Returns the number of calls that wait for tokens.
    pub(super) const fn patient(&self) -> usize {
        self.patient
    }

    /// Returns the sum of the tokens that the waiters need.
    pub(super) const fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn waiting(&self) -> Waiting {
        Waiting {
            first: self.waiters.values().next().map_or(0, |first| first.cost),
            all: self.tokens,
        }
    }

    pub(super) fn is_first(&self, ticket: u64) -> bool {
        self.waiters.keys().next() == Some(&ticket)
    }

    /// Adds a call at the end of the queue. `until` is the end of its wait for tokens, if it waits for them. Returns its
    /// ticket.
    pub(super) fn join(&mut self, cost: u64, until: Option<Instant>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.tokens += cost;
        self.patient += usize::from(until.is_some());
        let waiter = Waiter {
            cost,
            until,
            waker: None,
        };
        self.waiters.insert(ticket, waiter);
        ticket
    }

    /// Replaces the waker of a waiter. Returns the old one, to be dropped outside the lock.
    pub(super) fn set_waker(&mut self, ticket: u64, waker: Waker) -> Option<Waker> {
        match self.waiters.get_mut(&ticket) {
            Some(waiter) => waiter.waker.replace(waker),
            None => Some(waker),
        }
    }

    /// Removes a waiter. Returns its waker, to be dropped outside the lock.
    fn remove(&mut self, ticket: u64) -> Option<Waker> {
        let waiter = self.waiters.remove(&ticket)?;
        self.tokens -= waiter.cost;
        self.patient -= usize::from(waiter.until.is_some());
        waiter.waker
    }

    /// Removes and returns the decision about a waiter, if there is one.
    pub(super) fn decision(&mut self, ticket: u64) -> Option<Decided> {
        self.decided.remove(&ticket)
    }

    /// Removes a waiter that gave up. Returns whether it had been admitted.
    pub(super) fn leave(&mut self, ticket: u64, wakers: &mut Vec<Waker>) -> bool {
        let was_first = self.is_first(ticket);
        drop_later(self.remove(ticket), wakers);
        if was_first {
            self.wake_first(wakers);
        }
        matches!(self.decided.remove(&ticket), Some(Decided::Admitted))
    }

    /// Wakes the first waiter, so that it sets a new timer.
    pub(super) fn wake_first(&mut self, wakers: &mut Vec<Waker>) {
        if let Some((_, first)) = self.waiters.iter_mut().next() {
            wakers.extend(first.waker.take());
        }
    }

    /// Admits waiters in order while there are tokens. If the limit is used up, rejects those that do not wait for
    /// tokens. Adds the wakers to wake.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        contact: Contact,
        lease: &mut Lease,
        wakers: &mut Vec<Waker>,
    ) {
        let mut changed = false;
        while let Some((&ticket, waiter)) = self.waiters.iter().next() {
            let cost = waiter.cost;
            if lease.admit(now, cost) {
                self.decide(ticket, Decided::Admitted, wakers);
            } else if !lease.is_dry(now, cost.saturating_sub(lease.held())) {
                break;
            } else if waiter.until.is_some() {
                changed |= self.reject_behind(now, contact, lease, wakers);
                break;
            } else {
                // The next one may cost less.
                let ready = lease.ready_at(now, contact, cost);
                let rejected = Decided::Rejected(Reason::RateLimited, ready);
                self.decide(ticket, rejected, wakers);
            }
            changed = true;
        }
        if changed {
            self.wake_first(wakers);
        }
    }

    /// Rejects the calls that do not wait for tokens, behind a first one that does. Those that do are rejected only when they
    /// join, after an answer, or when they time out. Returns whether there were any.
    fn reject_behind(
        &mut self,
        now: Instant,
        contact: Contact,
        lease: &mut Lease,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        if self.waiters.len() == self.patient {
            return false;
        }
        let tickets: Vec<u64> = self.waiters.keys().copied().collect();
        let mut ahead = 0;
        for ticket in tickets {
            let waiter = &self.waiters[&ticket];
            let needed = ahead + waiter.cost;
            if waiter.until.is_some() {
                ahead = needed;
                continue;
            }
            let ready = lease.ready_at(now, contact, needed);
            let rejected = Decided::Rejected(Reason::RateLimited, ready);
            self.decide(ticket, rejected, wakers);
        }
        true
    }

    /// Rejects the waiters for tokens whose turn comes too late, as the store has just answered. A call that joined
    /// before may not have known.
    pub(super) fn reject_late(
        &mut self,
        now: Instant,
        contact: Contact,
        lease: &mut Lease,
        wakers: &mut Vec<Waker>,
    ) {
        let first = self.waiting().first;
        if self.patient == 0 || !lease.is_dry(now, first.saturating_sub(lease.held())) {
            return;
        }
        let waiters = self.waiters.iter();
        let waiters: Vec<_> = waiters
            .map(|(&ticket, it)| (ticket, it.cost, it.until))
            .collect();
        let mut ahead = 0;
        for (ticket, cost, until) in waiters {
            let ready = lease.ready_at(now, contact, ahead + cost);
            match until {
                Some(until) if ready > until => {
                    let rejected = Decided::Rejected(Reason::RateLimited, ready);
                    self.decide(ticket, rejected, wakers);
                }
                _ => ahead += cost,
            }
        }
    }

    /// Rejects the waiters that cost more than a new burst: they would block all others for good.
    pub(super) fn reject_above(&mut self, burst: u64, wakers: &mut Vec<Waker>) {
        let too_large = self.waiters.iter().filter(|(_, it)| it.cost > burst);
        let tickets: Vec<u64> = too_large.map(|(&ticket, _)| ticket).collect();
        for ticket in &tickets {
            self.decide(*ticket, Decided::Never, wakers);
        }
        if !tickets.is_empty() {
            self.wake_first(wakers);
        }
    }

    fn decide(&mut self, ticket: u64, decided: Decided, wakers: &mut Vec<Waker>) {
        drop_later(self.remove(ticket), wakers);
        self.decided.insert(ticket, decided);
    }
}

/// Defers dropping a waker until the lock is released. It is woken first, which is harmless.
fn drop_later(waker: Option<Waker>, wakers: &mut Vec<Waker>) {
    wakers.extend(waker);
}
