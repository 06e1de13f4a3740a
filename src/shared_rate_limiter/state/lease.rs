//! The lease of a process on a shared limit: a pure machine that sizes requests to the store and admits calls meanwhile.
//!
//! A process spends only tokens that the store has granted, so the fleet never exceeds the limit while the store
//! answers. In any window of length `W` all processes together admit at most `rate * (W + life) + burst`, where
//! `life` is the time for which granted tokens may be spent. The number of processes does not matter.

use std::time::Duration;

mod outage;

use super::demand::Demand;
use super::level::Level;
use super::link::Contact;
use super::local::{Local, LocalBucket, LocalLimit};
use super::lots::Lots;
use super::pause::Pause;
use super::pocket::Contents;
use super::request::{Request, Waiting};
use super::rules::{LONGEST_PAUSE, Outage, Rules};
use super::scarcity::Scarcity;
use super::share::Share;
use crate::instant::Instant;
use crate::store::{StoreTime, Taken};

/// A lease. The handle keeps the wait queue; the lease only learns how many tokens waiters need.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    rules: Rules,
    lots: Lots,
    demand: Demand,
    share: Share,
    level: Option<Level>,
    store_time: StoreTime,
    pause: Pause,
    /// The last request for tokens: its size, when it was granted, and whether in full.
    asked: u64,
    granted_at: Instant,
    was_full: bool,
    scarcity: Scarcity,
    /// Average round-trip time, in nanoseconds.
    trip_time: f64,
    /// When the last request was sent.
    sent_at: Instant,
    in_flight: Option<Request>,
    give_back: Option<(u64, StoreTime)>,
    /// Whether a token is kept in reserve for callers that do not wait for a request.
    reserves: bool,
    local: Local,
    /// The bucket of [`Outage::Local`], kept between outages.
    insurance: Option<LocalBucket>,
    /// Tokens spent without the store that no request has paid for yet, and since when none was spent or forgiven.
    debt: u64,
    spent_at: Instant,
}

const MILLISECOND: f64 = 1e6;
/// With a demand below this many tokens per lease, a lease is taken only after one that was used up too soon.
const LEAST_DEMAND: f64 = 1.5;

impl Lease {
    pub(crate) fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            lots: Lots::default(),
            demand: Demand::new(now),
            share: Share::new(now),
            level: None,
            store_time: StoreTime::default(),
            pause: Pause::default(),
            asked: 0,
            granted_at: Instant::ORIGIN,
            was_full: false,
            scarcity: Scarcity::new(now),
            trip_time: MILLISECOND,
            sent_at: Instant::ORIGIN,
            in_flight: None,
            give_back: None,
            reserves: false,
            local: Local::Off,
            insurance: None,
            debt: 0,
            spent_at: now,
        }
    }

    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Replaces the rules. Granted tokens, those spent without the store, and the store's last level stay.
    pub(crate) fn set_rules(&mut self, now: Instant, rules: Rules) {
        self.rules = rules;
        self.pause = Pause::default();
        if let Local::On { number, .. } = self.local {
            self.limit_locally(now, number);
        }
        self.limit_debt(now);
    }

    /// Records the demand of a call.
    pub(crate) const fn arrive(&mut self, tokens: u64) {
        self.demand.arrive(tokens);
    }

    /// Keeps a token in reserve from now on, for callers that do not wait for a request.
    pub(crate) const fn reserve(&mut self) {
        self.reserves = true;
    }

    /// Records calls decided by the pocket: tokens spent, and tokens asked for by rejected calls.
    pub(crate) fn reclaim(&mut self, now: Instant, spent: u64, rejected: u64) {
        self.demand.arrive(spent + rejected);
        let missing = spent - self.lots.spend(spent);
        if let (Local::On { limit, .. }, 1..) = (&mut self.local, missing) {
            limit.debit(now, missing);
            self.debt = self.debt.saturating_add(missing);
            self.spent_at = now;
        }
    }

    /// Returns what the pocket may hand out while there are no waiters. `overdue_at` is when the request in flight
    /// times out.
    pub(crate) fn contents(
        &mut self,
        now: Instant,
        contact: Contact,
        overdue_at: Instant,
    ) -> Contents {
        let held = self.lots.held();
        if let Local::On { limit, .. } = &mut self.local {
            let tokens = held + limit.lend(now);
            let ready_at = self.ready_at(now, contact, tokens + 1);
            // Probes and debits happen under the lock, so calls must return to it when either is due.
            let expires = match (self.in_flight, contact) {
                (Some(_), _) => overdue_at,
                (None, Contact::Lost { probe_at, .. }) => probe_at,
                (None, Contact::Up { pace_until }) => {
                    let debit_at = self.sent_at.max(now).after(self.rules.every);
                    pace_until.min(debit_at)
                }
            };
            return Contents {
                tokens,
                expires,
                low: 0,
                closed_until: match tokens {
                    0 => ready_at.min(expires),
                    _ => Instant::ORIGIN,
                },
                ready_at,
            };
        }
        Contents {
            tokens: held,
            expires: self.lots.expires(self.life()),
            low: self.low(),
            // Rejects single tokens only, and only while none is held.
            closed_until: self.paused_until(1),
            ready_at: self.ready_at(now, contact, held + 1),
        }
    }

    /// Enters or leaves local mode as the contact with the store demands, and expires tokens. Call it before the
    /// other methods.
    pub(crate) fn sync(&mut self, now: Instant, contact: Contact) {
        match (contact, self.local) {
            (Contact::Lost { number, .. }, Local::On { number: known, .. }) if number == known => {
                self.limit_debt(now);
            }
            (Contact::Lost { number, .. }, _) => self.limit_locally(now, number),
            (Contact::Up { pace_until }, Local::On { limit, .. })
                if now >= pace_until || self.rules.outage != Outage::OwnShare =>
            {
                // Only shares add up with those of processes that have not noticed the end of the outage.
                self.local = Local::Off;
                self.keep(limit);
            }
            (Contact::Up { .. }, _) => {}
        }
        // During an outage, `limit_debt` takes what has refilled into account.
        if matches!(contact, Contact::Up { .. }) {
            self.forgive(now);
        }
        // Two requests may take as long as the tokens of the first one last. If those expired as the second one is
        // answered, a call that needs the tokens of both would never get them.
        let needs_all = self.in_flight.is_some_and(|request| request.is_on_top);
        if matches!(contact, Contact::Up { .. }) && !needs_all {
            let life = self.life();
            self.lots.expire_into(&mut self.give_back, now, life);
        }
    }

    /// Admits a call if there are tokens for it.
    pub(crate) fn admit(&mut self, now: Instant, tokens: u64) -> bool {
        let held = self.lots.held();
        if held >= tokens {
            self.lots.spend(tokens);
            return true;
        }
        let Local::On { limit, .. } = &mut self.local else {
            return false;
        };
        let missing = tokens - held;
        let admits = limit.take(now, missing);
        if admits {
            self.lots.spend(held);
            self.debt = self.debt.saturating_add(missing);
            self.spent_at = now;
        }
        admits
    }

    /// Returns the tokens of a call that was admitted and did not run.
    pub(crate) fn put_back(&mut self, now: Instant, tokens: u64) {
        match &mut self.local {
            Local::On {
                limit: LocalLimit::Bucket(bucket),
                ..
            } if self.debt >= tokens => {
                bucket.put_back(tokens);
                self.debt -= tokens;
            }
            Local::On {
                limit: LocalLimit::Open,
                ..
            } => self.debt = self.debt.saturating_sub(tokens),
            _ => self.lots.put_back(tokens, now, self.store_time),
        }
    }

    /// Returns whether a request for `tokens` would be in vain now.
    pub(crate) fn is_dry(&self, now: Instant, tokens: u64) -> bool {
        match self.local {
            Local::Off => now < self.paused_until(tokens),
            Local::On { .. } => true,
        }
    }

    /// Returns an estimate of when `tokens` will be available: those of a call and of the waiters ahead of it.
    pub(crate) fn ready_at(&mut self, now: Instant, contact: Contact, tokens: u64) -> Instant {
        let missing = tokens.saturating_sub(self.lots.held());
        if let Local::On { limit, .. } = self.local {
            return self.ready_locally(now, contact, limit, missing);
        }
        let ready_at = |tokens| {
            let paused = self.paused_until(tokens);
            self.refilled_at(tokens).max(paused).max(now)
        };
        let mut ready = ready_at(missing);
        // Tokens held that expire before do not count. The store does not credit them either: what was lacking beside
        // them has refilled meanwhile.
        for _ in 0..2 {
            let kept = self.lots.held_at(ready, self.life());
            ready = ready_at(tokens.saturating_sub(kept));
        }
        ready
    }

    /// Returns when the store has `tokens` at the earliest, by its last answer.
    pub(super) fn refilled_at(&self, tokens: u64) -> Instant {
        let tokens = self.with_debt(tokens);
        let refilled_at = |level: Level| level.refilled_at(tokens, self.rules.token);
        self.level.map_or(Instant::ORIGIN, refilled_at)
    }

    fn paused_until(&self, tokens: u64) -> Instant {
        self.pause
            .until(self.with_debt(tokens), self.refilled_at(tokens))
    }

    /// Returns when the next request may be sent for a call that costs `tokens`.
    pub(crate) fn asks_at(&self, now: Instant, contact: Contact, tokens: u64) -> Instant {
        match (contact, self.local) {
            (Contact::Lost { probe_at, .. }, _) => probe_at.max(now),
            (Contact::Up { pace_until }, Local::On { .. }) => pace_until.max(now),
            (Contact::Up { .. }, Local::Off) => {
                let missing = tokens.saturating_sub(self.lots.held());
                self.paused_until(missing).max(now)
            }
        }
    }

    /// Returns the request to send now, if one is due. `waiting` describes the wait queue.
    pub(crate) fn plan(
        &mut self,
        now: Instant,
        contact: Contact,
        waiting: Waiting,
    ) -> Option<Request> {
        let rate = self.demand.measure(now, self.rules.every);
        if self.in_flight.is_some() || matches!(contact, Contact::Lost { .. }) {
            return None;
        }
        if let Local::On { .. } = self.local {
            let next = self.sent_at.after(self.rules.every);
            return (self.debt > 0 && now >= next).then(|| self.pay(now));
        }
        let held = self.lots.held();
        let lease = self.size(now, rate);
        if waiting.all > 0 {
            if self.is_dry(now, waiting.first.saturating_sub(held)) {
                return self.settle(now);
            }
            let all = waiting.all.min(self.rules.burst);
            let owed = self.owed();
            let first = waiting.first.saturating_sub(held).max(1);
            let ask = all.max(lease).saturating_sub(held).max(first) + owed;
            // A debt is paid in parts.
            let at_least = if owed > 0 { 1 } else { first };
            let just_enough = self.rules.is_exact || self.rules.largest > 0 && lease <= all;
            let wanted = waiting.all.saturating_sub(held) + owed;
            let mut request = self.send(now, ask, at_least, just_enough && owed == 0);
            request.wanted = request.ask.max(wanted);
            request.is_on_top = held > 0;
            self.in_flight = Some(request);
            return Some(request);
        }
        let is_low = held <= self.low() && self.low() > 0 && now >= self.pause.end();
        let lacks_reserve = self.reserves && held == 0;
        let ask = lease.max(u64::from(lacks_reserve)).saturating_sub(held);
        if (is_low || lacks_reserve) && ask > 0 && !self.is_dry(now, 1) {
            return Some(self.send(now, ask + self.owed(), 1, false));
        }
        self.settle(now)
    }

    const fn send(&mut self, now: Instant, ask: u64, at_least: u64, just_enough: bool) -> Request {
        let spent = self.debt - self.owed();
        let request = Request {
            ask,
            at_least,
            spent,
            give_back: self.give_back.take(),
            sent: now,
            wanted: ask,
            just_enough,
            is_on_top: false,
        };
        self.debt -= spent;
        self.sent_at = now;
        self.in_flight = Some(request);
        request
    }

    /// Returns the number of tokens to hold.
    fn size(&self, now: Instant, rate: f64) -> u64 {
        let rules = &self.rules;
        let demand = rate * rules.every as f64;
        let by_demand = if demand < LEAST_DEMAND { 0.0 } else { demand };
        // A lease that was used up sooner than it should last was too small.
        let is_new = now < self.granted_at.after(rules.every);
        let grows = self.was_full && is_new;
        let by_growth = if grows { 2 * self.asked } else { 0 };
        let size = (by_demand.round() as u64).max(by_growth).min(rules.largest);
        match self.level {
            // Tokens held here are missing elsewhere: with a low level, each process takes a little less at a time.
            Some(Level { tokens, .. }) if self.scarcity.is_rare(now, rules.every) => {
                size.min((tokens as u64 / 2).max(size - size / 7))
            }
            _ => size,
        }
    }

    /// Returns the number of tokens at which more are requested: enough for two round trips. Zero while a request is
    /// in flight.
    fn low(&self) -> u64 {
        if self.in_flight.is_some() || self.asked < 4 || self.rules.largest == 0 {
            return 0;
        }
        let two_trips = self.demand.rate() * (2.0 * self.trip_time + MILLISECOND);
        (two_trips as u64).min(self.asked / 2)
    }

    /// Returns the request in flight.
    pub(crate) const fn in_flight(&self) -> Option<&Request> {
        self.in_flight.as_ref()
    }

    /// Records the answer to a request. `is_late` means that the request had been given up. `unit` is a random number
    /// in `[0, 1)`.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        request: &Request,
        taken: &Taken,
        is_late: bool,
        unit: f64,
    ) {
        if !is_late {
            self.in_flight = None;
            let trip = now.as_nanos().saturating_sub(request.sent.as_nanos()) as f64;
            self.trip_time += (trip - self.trip_time) / 8.0;
        }
        let taken = request.check(*taken, self.rules.token);
        // Tokens that were spent without the store are paid for first.
        let paid = taken.granted.min(self.debt);
        self.debt -= paid;
        self.lots.add(taken.granted - paid, request.sent, taken.now);
        self.store_time = taken.now;
        if self.is_local() {
            self.share.skip(taken.total);
        } else {
            let own = taken.granted + request.spent;
            let (token, burst) = (self.rules.token, self.rules.burst as f64);
            self.share
                .record(now, own, taken.total, token, token * burst);
        }
        self.level = Some(Level::new(now, request, &taken, self.rules.token));
        if request.wanted == 0 || is_late {
            return;
        }
        self.asked = request.ask - paid;
        self.was_full = taken.granted >= request.wanted;
        self.granted_at = now;
        if self.was_full {
            self.pause = Pause::default();
        } else {
            self.scarcity.record(now, self.rules.every);
            let gap = self.demand.gap();
            let short = (request, &taken);
            self.pause = Pause::new(now, short, &self.rules, &self.scarcity, gap, unit);
        }
    }

    /// Records that the request in flight failed or timed out.
    pub(crate) const fn failed(&mut self) {
        if let Some(request) = self.in_flight.take() {
            // The store may have executed it. Debiting twice is safe, returning tokens twice is not.
            self.debt += request.spent;
        }
    }

    /// Returns the tokens held.
    pub(crate) const fn held(&self) -> u64 {
        self.lots.held()
    }

    /// Returns how long leased tokens may be spent, in nanoseconds: at least two round trips. Those of which a call needs
    /// more do not expire before the request for the rest ends.
    pub(crate) fn life(&self) -> u64 {
        self.rules.life.max((2.0 * self.trip_time) as u64)
    }

    /// Returns whether the process admits calls without the store.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self.local, Local::On { .. })
    }

    /// Returns the average round-trip time.
    pub(crate) const fn trip_time(&self) -> Duration {
        Duration::from_nanos(self.trip_time as u64)
    }

    /// Returns the demand, in tokens per second.
    pub(crate) fn demand(&self) -> f64 {
        self.demand.rate() * 1e9
    }

    /// Returns this process's share of the fleet's tokens.
    pub(crate) fn share(&self) -> f64 {
        self.share.get()
    }

    /// Returns the whole tokens in the store at its last answer.
    pub(crate) fn level(&self) -> Option<u64> {
        self.level.map(|level| level.tokens.max(0.0) as u64)
    }

    /// Returns when the lease becomes indistinguishable from a new one, if no call comes until then.
    pub(crate) fn idle_at(&self) -> Option<Instant> {
        let is_local = matches!(self.local, Local::On { .. });
        if self.in_flight.is_some() || is_local || self.debt > 0 {
            return None;
        }
        let last = self.sent_at.max(self.granted_at).max(self.spent_at);
        Some(last.after(self.idle_time()).max(self.pause.end()))
    }

    /// Returns how long after its last use a lease no longer affects calls, in nanoseconds.
    fn idle_time(&self) -> u64 {
        self.life() + LONGEST_PAUSE as u64
    }
}
