//! The limit of one key: its lease and its wait queue.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::hub::Hub;
use super::queue::{Decided, Queue};
use super::state::lease::Lease;
use super::state::link::{Contact, Link};
use super::state::pocket::Pocket;
use super::state::request::Request;
use super::state::rules::Rules;
use crate::error::Reason;
use crate::event::{Panics, StoreEvent};
use crate::instant::Instant;
use crate::store::{Reply, StoreError, Take, Taken};
use crate::sync::lock;

/// The limit of one key.
pub(super) struct Entry {
    pub(super) hub: Arc<Hub>,
    pub(super) key: Arc<str>,
    pub(super) pocket: Pocket,
    state: Mutex<State>,
}

/// The state under the lock of a key. No user code runs under it: the store, wakers, and observers are called
/// afterwards.
pub(super) struct State {
    pub(super) lease: Lease,
    pub(super) queue: Queue,
    /// Tokens put into the pocket when it was last opened.
    published: u64,
    /// Number of the newest request to the store.
    requests: u64,
    /// The most other requests that were in flight together with the newest one, as far as was seen. Each gives it more
    /// time, also once it has timed out itself: it may have taken the time of this process until then.
    others: u32,
    /// Number of the request that last got more time because this process was busy.
    graced: u64,
    /// Requests about this key, while the store answers those about others.
    pub(super) own: Link,
    /// When a request about this key was answered last.
    answered_at: Instant,
    /// Whether the quota differs from the builder's.
    pub(super) is_changed: bool,
}

/// The decision about a call under the lock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival {
    Admitted,
    Waits(u64),
    Rejected(Reason, Instant),
    /// The call costs more than the burst.
    Never,
}

/// Work to do after the lock is released.
#[derive(Default)]
struct After {
    wakers: Vec<Waker>,
    request: Option<(u64, Request, Rules)>,
    event: Option<StoreEvent>,
}

impl State {
    /// Returns the availability of the store for this key: whether it answers at all, and about this key.
    fn contact(&self, hub: &Hub) -> Contact {
        hub.contact().or(self.own.contact())
    }

    /// Records a request that failed. Returns the event of a store that was up. There is no event if the store still
    /// answers requests about other keys.
    fn failed(&mut self, now: Instant, hub: &Hub, error: StoreError) -> Option<StoreEvent> {
        self.lease.failed();
        if hub.answers_others(now, self.answered_at) {
            self.own.failed(now, hub.unit());
            hub.note(error);
            return None;
        }
        hub.failed(now, error)
    }

    /// Records an answer to a request sent at `sent`. Returns the event of a store that was lost.
    fn answered(&mut self, now: Instant, sent: Instant, hub: &Hub) -> Option<StoreEvent> {
        self.answered_at = now;
        self.own.answered(now);
        hub.answered(now, sent)
    }

    /// Claims the probe that is due, if one is.
    fn claim_probe(&mut self, now: Instant, hub: &Hub) -> bool {
        match hub.lost_since() {
            Some(_) => hub.claim_probe(now),
            None => self.own.claim_probe(now, hub.timeout),
        }
    }

    /// Returns when the request in flight, sent at `sent`, times out.
    fn overdue_at(&mut self, sent: Instant, hub: &Hub) -> Instant {
        self.others = self.others.max(hub.others());
        hub.overdue_at(sent, self.others)
    }

    /// Returns whether the request in flight, sent at `sent`, has timed out. If this is noticed late, the process was
    /// suspended or has too many tasks that are ready to run, and the answer may have arrived but not been read. So all
    /// requests get as much extra time.
    fn is_lost(&mut self, now: Instant, sent: Instant, hub: &Hub) -> bool {
        let overdue_at = self.overdue_at(sent, hub);
        if now < overdue_at {
            return false;
        }
        let late = now.saturating_duration_since(overdue_at);
        let is_first = self.graced != self.requests;
        if late <= hub.timeout / 5 || !is_first && now >= hub.latest(sent) {
            return true;
        }
        self.graced = self.requests;
        hub.forgive(now + late.min(hub.timeout));
        false
    }
}

impl Entry {
    pub(super) fn new(hub: Arc<Hub>, key: Arc<str>, rules: Rules) -> Self {
        let now = hub.base.now();
        Self {
            hub,
            key,
            pocket: Pocket::new(),
            state: Mutex::new(State {
                lease: Lease::new(rules, now),
                queue: Queue::default(),
                published: 0,
                requests: 0,
                others: 0,
                graced: 0,
                own: Link::default(),
                answered_at: Instant::ORIGIN,
                is_changed: false,
            }),
        }
    }

    /// Runs `change` under the lock, then wakes waiters and sends requests after the lock is released.
    pub(super) fn with<R>(
        self: &Arc<Self>,
        now: Instant,
        change: impl FnOnce(&mut State, Contact, &mut Vec<Waker>) -> R,
    ) -> R {
        let (result, panics) = self.change(now, change);
        panics.resume();
        result
    }

    /// Like [`with`](Self::with), for results that must not get lost: also returns the panics of user code.
    fn change<R>(
        self: &Arc<Self>,
        now: Instant,
        change: impl FnOnce(&mut State, Contact, &mut Vec<Waker>) -> R,
    ) -> (R, Panics) {
        let mut after = After::default();
        let result = {
            let mut state = lock(&self.state);
            let state = &mut *state;
            self.begin(state, now, &mut after);
            let contact = state.contact(&self.hub);
            state.lease.sync(now, contact);
            let result = change(state, contact, &mut after.wakers);
            self.end(state, now, &mut after);
            result
        };
        (result, self.follow(after))
    }

    /// Puts back the tokens of a call that panics prevent.
    fn unless_prevented(self: &Arc<Self>, mut panics: Panics, now: Instant, cost: u64) {
        if !panics.is_empty() {
            panics.run(|| self.with(now, |state, _, _| state.lease.put_back(now, cost)));
        }
        panics.resume();
    }

    /// Closes the pocket, and fails a request that has timed out.
    fn begin(&self, state: &mut State, now: Instant, after: &mut After) {
        self.close(state, now);
        let sent = state.lease.in_flight().map(|request| request.sent);
        if sent.is_some_and(|sent| state.is_lost(now, sent, &self.hub)) {
            self.hub.ended();
            let error = StoreError::new("no answer in time");
            after.event = state.failed(now, &self.hub, error);
        }
    }

    /// Serves waiters, plans the next request, and opens the pocket.
    fn end(&self, state: &mut State, now: Instant, after: &mut After) {
        let contact = state.contact(&self.hub);
        let (lease, queue) = (&mut state.lease, &mut state.queue);
        lease.sync(now, contact);
        queue.serve(now, contact, lease, &mut after.wakers);
        let mut request = lease.plan(now, contact, queue.waiting());
        let is_lost = matches!(contact, Contact::Lost { .. });
        let probes = is_lost && lease.in_flight().is_none();
        if probes && state.claim_probe(now, &self.hub) {
            request = state.lease.probe(now);
        }
        if let Some(request) = request {
            // Counted here, because its time may be over before it is sent: wakers run first.
            self.hub.sent();
            state.requests += 1;
            state.others = 0;
            after.request = Some((state.requests, request, *state.lease.rules()));
        }
        if state.queue.is_empty() {
            let overdue_at = self.overdue_at(state).unwrap_or(now);
            let contents = state.lease.contents(now, contact, overdue_at);
            state.published = contents.tokens;
            self.pocket.open(contents);
        }
    }

    /// Wakes waiters, sends the request, and reports the event that a change has led to.
    fn follow(self: &Arc<Self>, after: After) -> Panics {
        let mut panics = Panics::default();
        for waker in after.wakers {
            panics.run(|| waker.wake());
        }
        if let Some((number, request, rules)) = after.request {
            panics.run(|| self.ask(number, request, &rules));
        }
        if let Some(event) = after.event {
            let hub = &self.hub;
            hub.base
                .report_in(&mut panics, hub.store_event(event), None);
        }
        panics
    }

    fn ask(self: &Arc<Self>, number: u64, request: Request, rules: &Rules) {
        let mut take = Take::new(self.key.clone(), rules.quota, request.ask);
        take.at_least = request.at_least;
        take.spent = request.spent;
        take.give_back = request.give_back;
        let entry = self.clone();
        let reply = Reply::new(move |answer: Result<Vec<Taken>, StoreError>| {
            let taken = answer.and_then(|taken| {
                let one: Result<[Taken; 1], _> = taken.try_into();
                let wrong = |_| StoreError::new("the answer is about another number of buckets");
                one.map(|[taken]| taken).map_err(wrong)
            });
            entry.answered(number, &request, taken);
        });
        self.hub.store.take(vec![take], reply);
    }

    fn answered(
        self: &Arc<Self>,
        number: u64,
        request: &Request,
        answer: Result<Taken, StoreError>,
    ) {
        let hub = &self.hub;
        let (now, unit) = (hub.base.now(), hub.unit());
        let mut after = After::default();
        {
            let mut state = lock(&self.state);
            let state = &mut *state;
            self.close(state, now);
            let is_late = number != state.requests || state.lease.in_flight().is_none();
            if !is_late {
                hub.ended();
            }
            match answer {
                Ok(taken) => {
                    after.event = state.answered(now, request.sent, hub);
                    let contact = state.contact(hub);
                    state.lease.sync(now, contact);
                    state.lease.answered(now, request, &taken, is_late, unit);
                    // Served before they expire: a trip may take longer than a lease lasts.
                    let (lease, queue) = (&mut state.lease, &mut state.queue);
                    queue.serve(now, contact, lease, &mut after.wakers);
                    queue.reject_late(now, contact, lease, &mut after.wakers);
                }
                Err(error) if !is_late => {
                    after.event = state.failed(now, hub, error);
                }
                Err(_) => {}
            }
            self.end(state, now, &mut after);
            // The first waiter sleeps until the request times out, so it must be woken to set a new timer.
            state.queue.wake_first(&mut after.wakers);
        }
        self.follow(after).resume();
    }

    /// Takes the tokens out of the pocket, and records what calls spent from it.
    fn close(&self, state: &mut State, now: Instant) {
        let (left, rejected) = self.pocket.close();
        let spent = std::mem::take(&mut state.published) - left;
        state.lease.reclaim(now, spent, rejected);
    }

    /// Decides whether a call gets `cost` tokens. If `until` is given, the call may wait for them until then.
    pub(super) fn arrive(
        self: &Arc<Self>,
        now: Instant,
        cost: u64,
        until: Option<Instant>,
    ) -> (Arrival, Panics) {
        let max_waiting = self.hub.max_waiting;
        self.change(now, |state, contact, _| {
            let (lease, queue) = (&mut state.lease, &mut state.queue);
            lease.arrive(cost);
            if cost > lease.rules().burst {
                return Arrival::Never;
            }
            if queue.is_empty() && lease.admit(now, cost) {
                return Arrival::Admitted;
            }
            let needed = queue.tokens() + cost;
            if lease.is_dry(now, needed.saturating_sub(lease.held())) {
                let ready = lease.ready_at(now, contact, needed);
                if until.is_none_or(|until| ready > until) {
                    return Arrival::Rejected(Reason::RateLimited, ready);
                }
            }
            if until.is_some() && queue.patient() >= max_waiting {
                let ready = lease.ready_at(now, contact, needed);
                return Arrival::Rejected(Reason::RateLimited, ready);
            }
            Arrival::Waits(queue.join(cost, until))
        })
    }

    /// Returns the decision about a waiter, or when to poll it again.
    pub(super) fn turn(
        self: &Arc<Self>,
        now: Instant,
        ticket: u64,
        waker: &Waker,
    ) -> Result<Decided, Instant> {
        let waker = waker.clone();
        self.with(now, |_, _, _| ());
        // Locks again: the store may have answered on this thread in between.
        let mut state = lock(&self.state);
        let replaced = state.queue.set_waker(ticket, waker);
        let decided = state.queue.decision(ticket);
        let poll_at = decided
            .is_none()
            .then(|| self.next_poll(&mut state, now, ticket));
        drop(state);
        drop(replaced);
        decided.ok_or(poll_at.unwrap_or(now))
    }

    /// Returns when the request in flight, if there is one, times out.
    fn overdue_at(&self, state: &mut State) -> Option<Instant> {
        let sent = state.lease.in_flight()?.sent;
        Some(state.overdue_at(sent, &self.hub))
    }

    /// Returns when a waiter must be polled again unless it is woken earlier.
    fn next_poll(&self, state: &mut State, now: Instant, ticket: u64) -> Instant {
        // Never at once, so that a waiter that cannot be served does not spin.
        let soon = now.after(1_000);
        if let Some(overdue_at) = self.overdue_at(state) {
            return overdue_at.max(soon);
        }
        if !state.queue.is_first(ticket) {
            return Instant::FAR_FUTURE;
        }
        let contact = state.contact(&self.hub);
        let first = state.queue.waiting().first;
        let asks = state.lease.asks_at(now, contact, first);
        let ready = match state.lease.is_local() {
            true => state.lease.ready_at(now, contact, first).min(asks),
            false => asks,
        };
        ready.max(soon)
    }

    /// Takes tokens for a call that does not wait for a request to the store.
    pub(super) fn take_held(
        self: &Arc<Self>,
        now: Instant,
        cost: u64,
    ) -> Result<(), (Reason, Option<Instant>)> {
        let timeout = self.hub.timeout;
        let (taken, panics) = self.change(now, |state, contact, _| {
            let (lease, queue) = (&mut state.lease, &state.queue);
            lease.arrive(cost);
            lease.reserve();
            if cost > lease.rules().burst {
                return Err((Reason::CostExceedsLimit, None));
            }
            if queue.is_empty() && lease.admit(now, cost) {
                return Ok(());
            }
            let needed = queue.tokens() + cost;
            let ready = lease.ready_at(now, contact, needed);
            // The request in flight, or the next one, may bring tokens.
            let trip = lease.trip_time().min(timeout);
            Err((Reason::RateLimited, Some(ready.max(now + trip))))
        });
        match taken {
            Ok(()) => self.unless_prevented(panics, now, cost),
            Err(_) => panics.resume(),
        }
        taken
    }

    /// Removes a waiter that was dropped or gave up, and returns tokens granted to it.
    pub(super) fn leave(self: &Arc<Self>, now: Instant, ticket: u64, cost: u64) {
        self.with(now, |state, _, wakers| {
            if state.queue.leave(ticket, wakers) {
                state.lease.put_back(now, cost);
            }
        });
    }

    /// Reads the state. `inspect` also gets the tokens spent from the pocket.
    pub(super) fn inspect(&self, inspect: impl FnOnce(&State, u64)) {
        let state = lock(&self.state);
        inspect(&state, state.published.saturating_sub(self.pocket.left()));
    }

    /// Requests more tokens if few are left, returns expired ones, and probes the store if it is lost. For a call that has
    /// taken `cost` tokens.
    // Out of line, so that a call that takes one of many tokens saves no registers for it.
    #[cold]
    #[inline(never)]
    pub(super) fn refresh(self: &Arc<Self>, now: Instant, cost: u64) {
        let ((), panics) = self.change(now, |_, _, _| ());
        self.unless_prevented(panics, now, cost);
    }
}
