//! Outages of the store: the local limit meanwhile, probes, and what is paid for afterwards.

use super::super::link::Contact;
use super::super::local::LocalLimit;
use super::{Lease, Local, Outage, Request};
use crate::instant::Instant;

impl Lease {
    /// Enters local mode for the outage of this number, or changes its limit.
    pub(super) fn limit_locally(&mut self, now: Instant, number: u64) {
        let before = self.local.limit();
        if let Some(limit) = before {
            self.keep(limit);
        }
        let share = self.share();
        let mut limit = LocalLimit::new(&self.rules, now, self.insurance, share, self.level);
        if self.rules.outage == Outage::OwnShare {
            limit.count_spent(now, before, self.debt);
        }
        self.local = Local::On { number, limit };
    }

    /// Returns an estimate of when a local limit has `missing` tokens, or the store once it decides again.
    pub(super) fn ready_locally(
        &self,
        now: Instant,
        contact: Contact,
        mut limit: LocalLimit,
        missing: u64,
    ) -> Instant {
        let ready = limit.ready_at(now, missing);
        let by_store = match contact {
            // The answer to a probe that is due comes a trip later. Never now, because the caller is not admitted now.
            Contact::Lost { probe_at, .. } => {
                let soon = now.after((self.trip_time as u64).max(1_000));
                return ready.unwrap_or(probe_at.max(soon).max(self.refilled_at(missing)));
            }
            Contact::Up { pace_until } => pace_until,
        };
        match ready {
            Some(ready) if ready < by_store => ready,
            _ => by_store.max(self.refilled_at(missing)),
        }
    }

    /// Returns the request that probes a lost store.
    pub(crate) fn probe(&mut self, now: Instant) -> Option<Request> {
        if self.in_flight.is_some() {
            return None;
        }
        // A probe debits nothing, because a paused store executes all probes later. The debt waits for the first
        // answer.
        let (debt, give_back) = (std::mem::take(&mut self.debt), self.give_back.take());
        let probe = self.send(now, 0, 0, false);
        (self.debt, self.give_back) = (debt, give_back);
        Some(probe)
    }

    /// Returns the request that returns unused tokens, or pays for those that were spent without the store.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Request> {
        let is_time = now >= self.sent_at.after(self.rules.every);
        let pays = self.debt > 0 && is_time && !self.is_dry(now, 1);
        (self.give_back.is_some() || pays).then(|| self.pay(now))
    }

    /// Returns a request for no call, which pays for tokens spent without the store.
    pub(super) fn pay(&mut self, now: Instant) -> Request {
        let owed = self.owed();
        let mut request = self.send(now, owed, owed.min(1), false);
        request.wanted = 0;
        self.in_flight = Some(request);
        request
    }

    /// Keeps the bucket of [`Outage::Local`] for the next outage.
    pub(super) const fn keep(&mut self, limit: LocalLimit) {
        if let (Outage::Local(_), LocalLimit::Bucket(bucket)) = (self.rules.outage, limit) {
            self.insurance = Some(bucket);
        }
    }

    /// Returns the tokens that grants must pay for first: a debit would be lost where others have emptied the bucket.
    /// Only a process that keeps to its share owes them.
    pub(in super::super) const fn owed(&self) -> u64 {
        match self.rules.outage {
            Outage::OwnShare => self.debt,
            _ => 0,
        }
    }

    /// Returns how many tokens must be granted before calls get this many.
    pub(super) fn with_debt(&self, tokens: u64) -> u64 {
        match tokens {
            0 => 0,
            _ => tokens.saturating_add(self.owed()),
        }
    }

    /// Limits what is owed to what this process's part of the bucket lacks. The rest has refilled since.
    pub(super) fn limit_debt(&mut self, now: Instant) {
        if self.owed() == 0 {
            return;
        }
        let missing = match self.local.limit() {
            Some(LocalLimit::Bucket(bucket)) => bucket.missing(now),
            _ => (self.share() * self.rules.burst as f64) as u64,
        };
        self.debt = self.debt.min(missing);
        // The same time must not count again after the outage.
        self.spent_at = now;
    }

    /// Drops what has refilled since the process became idle.
    pub(super) fn forgive(&mut self, now: Instant) {
        let last = self.sent_at.max(self.spent_at);
        let idle = now.as_nanos().saturating_sub(last.as_nanos());
        if self.owed() > 0 && idle > self.idle_time() {
            let refilled = (self.share() / self.rules.token * idle as f64) as u64;
            self.debt = self.debt.saturating_sub(refilled);
            if refilled > 0 {
                // The same time must not count again.
                self.spent_at = now;
            }
        }
    }
}
