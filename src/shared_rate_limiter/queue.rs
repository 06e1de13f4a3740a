//! Calls that wait for a trip to the store, or for their turn.

use std::collections::BTreeMap;
use std::task::Waker;

use super::state::lease::Lease;
use super::state::link::Contact;
use super::state::request::Waiting;
use crate::error::Reason;
use crate::instant::Instant;

/// The wait queue of a key, first come, first served. All of it runs under the lock of the key; wakers are
/// woken and dropped outside.
#[derive(Default)]
pub(super) struct Queue {
    waiters: BTreeMap<u64, Waiter>,
    decided: BTreeMap<u64, Decided>,
    next: u64,
    /// Tokens that the waiters need.
    tokens: u64,
    /// Waiters that wait for their turn.
    patient: usize,
}

struct Waiter {
    cost: u64,
    /// Whether it waits for its turn, and not only for a trip.
    is_patient: bool,
    waker: Option<Waker>,
}

/// The decision about a waiter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decided {
    Admitted,
    Rejected(Reason, Instant),
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Returns the number of calls that wait for their turn.
    pub(super) const fn patient(&self) -> usize {
        self.patient
    }

    /// Tokens that the waiters need.
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

    /// Joins the end of the queue.
    pub(super) fn join(&mut self, cost: u64, is_patient: bool) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.tokens += cost;
        self.patient += usize::from(is_patient);
        let waiter = Waiter {
            cost,
            is_patient,
            waker: None,
        };
        self.waiters.insert(ticket, waiter);
        ticket
    }

    /// Exchanges the waker of a waiter. Returns what to drop outside the lock.
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
        self.patient -= usize::from(waiter.is_patient);
        waiter.waker
    }

    /// Returns what was decided about a waiter, once.
    pub(super) fn decision(&mut self, ticket: u64) -> Option<Decided> {
        self.decided.remove(&ticket)
    }

    /// Removes a waiter that gave up. Returns whether it had been admitted, and the wakers to wake or drop.
    pub(super) fn leave(&mut self, ticket: u64, wakers: &mut Vec<Waker>) -> bool {
        let was_first = self.is_first(ticket);
        drop_later(self.remove(ticket), wakers);
        if was_first {
            self.wake_first(wakers);
        }
        matches!(self.decided.remove(&ticket), Some(Decided::Admitted))
    }

    /// Has the first waiter look again.
    pub(super) fn wake_first(&mut self, wakers: &mut Vec<Waker>) {
        if let Some((_, first)) = self.waiters.iter_mut().next() {
            wakers.extend(first.waker.take());
        }
    }

    /// Admits waiters in their order, as far as there are tokens. If the limit is used up, rejects those that
    /// do not wait for their turn. Adds the wakers to wake.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        contact: Contact,
        lease: &mut Lease,
        wakers: &mut Vec<Waker>,
    ) {
        let mut changed = false;
        while let Some((&ticket, waiter)) = self.waiters.iter().next() {
            if !lease.admit(now, waiter.cost) {
                break;
            }
            self.decide(ticket, Decided::Admitted, wakers);
            changed = true;
        }
        let first = self.waiting().first;
        let is_dry = |lease: &Lease| lease.is_dry(now, first.saturating_sub(lease.held()));
        // The others are rejected when they join, or when their time is over.
        if self.waiters.len() > self.patient && is_dry(lease) {
            let tickets: Vec<u64> = self.waiters.keys().copied().collect();
            let mut ahead = 0;
            for ticket in tickets {
                let waiter = &self.waiters[&ticket];
                let needed = ahead + waiter.cost;
                if waiter.is_patient {
                    ahead = needed;
                    continue;
                }
                let ready = lease.ready_at(now, contact, needed);
                self.decide(
                    ticket,
                    Decided::Rejected(Reason::RateLimited, ready),
                    wakers,
                );
                changed = true;
            }
        }
        if changed {
            self.wake_first(wakers);
        }
    }

    fn decide(&mut self, ticket: u64, decided: Decided, wakers: &mut Vec<Waker>) {
        drop_later(self.remove(ticket), wakers);
        self.decided.insert(ticket, decided);
    }
}

/// A waker that is woken although its task has nothing to wait for does no harm, so all go the same way.
fn drop_later(waker: Option<Waker>, wakers: &mut Vec<Waker>) {
    wakers.extend(waker);
}
