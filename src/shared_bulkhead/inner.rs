//! State shared by the handles, the permits and the waiters of a shared bulkhead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use super::state::{Block, Request};
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, Panics, StoreEvent};
use crate::instant::Instant;
use crate::rng::SharedRng;
use crate::store::{Held, Hold, PermitStore, Reply, StoreError};
use crate::sync::lock;

pub(super) struct Inner {
    pub(super) base: Base,
    pub(super) store: Arc<dyn PermitStore>,
    pub(super) key: Arc<str>,
    pub(super) instance: Arc<str>,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
    pub(super) max_wait: Duration,
    pub(super) max_waiting: usize,
    pub(super) rejections: AtomicU64,
    pub(super) trips: AtomicU64,
    pub(super) streams: SharedRng,
    pub(super) state: Mutex<State>,
}

/// No user code runs under its lock.
pub(super) struct State {
    pub(super) block: Block,
    waiters: BTreeMap<u64, Waiter>,
    admitted: BTreeSet<u64>,
    next: u64,
    /// Permits that the waiters need.
    needed: u64,
    /// Number of the last request.
    requests: u64,
    pub(super) lost_since: Option<Instant>,
}

struct Waiter {
    permits: u64,
    /// Waits for its turn, and not only for a trip.
    is_patient: bool,
    waker: Option<Waker>,
}

/// What a call finds.
pub(super) enum Arrival {
    Admitted,
    Waits(u64),
    Rejected(Reason),
}

/// Whether a waiter goes on.
pub(super) enum Turn {
    Admitted,
    Rejected,
    LookAt(Instant),
}

#[derive(Default)]
struct After {
    wakers: Vec<Waker>,
    request: Option<(u64, Request, u64)>,
    event: Option<StoreEvent>,
}

impl State {
    pub(super) const fn new(block: Block) -> Self {
        Self {
            block,
            waiters: BTreeMap::new(),
            admitted: BTreeSet::new(),
            next: 0,
            needed: 0,
            requests: 0,
            lost_since: None,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    fn remove(&mut self, ticket: u64) -> Option<Waker> {
        let waiter = self.waiters.remove(&ticket)?;
        self.needed -= waiter.permits;
        waiter.waker
    }

    /// Admits waiters in their order, as far as there are permits.
    fn serve(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        while let Some((&ticket, waiter)) = self.waiters.iter().next() {
            if !self.block.admit(now, waiter.permits) {
                return;
            }
            wakers.extend(self.remove(ticket));
            self.admitted.insert(ticket);
        }
    }

    fn failed(&mut self, now: Instant, unit: f64) -> Option<StoreEvent> {
        self.block.failed(now, unit);
        let is_new = self.lost_since.is_none();
        self.lost_since.get_or_insert(now);
        is_new.then_some(StoreEvent::Lost)
    }
}

impl Inner {
    /// Runs `change` under the lock, and what follows from it after the lock.
    pub(super) fn with<R>(
        self: &Arc<Self>,
        now: Instant,
        change: impl FnOnce(&mut State, &mut Vec<Waker>) -> R,
    ) -> R {
        let mut after = After::default();
        let unit = self.streams.unit();
        let result = {
            let mut state = lock(&self.state);
            let state = &mut *state;
            let sent = state.block.request().map(|request| request.sent);
            if sent.is_some_and(|sent| now >= sent + self.timeout) {
                after.event = state.failed(now, unit);
            }
            let result = change(state, &mut after.wakers);
            self.end(state, now, &mut after);
            result
        };
        self.follow(after);
        result
    }

    fn end(&self, state: &mut State, now: Instant, after: &mut After) {
        state.serve(now, &mut after.wakers);
        if let Some(request) = state.block.plan(now, state.needed) {
            state.requests += 1;
            after.request = Some((state.requests, request, state.block.limit()));
        }
        if state.block.is_scarce(now) {
            // Those that do not wait for their turn look again, and are rejected.
            let waiters = state.waiters.values_mut();
            let impatient = waiters.filter(|waiter| !waiter.is_patient);
            after
                .wakers
                .extend(impatient.filter_map(|waiter| waiter.waker.take()));
        }
    }

    fn follow(self: &Arc<Self>, after: After) {
        let mut panics = Panics::default();
        for waker in after.wakers {
            panics.run(|| waker.wake());
        }
        if let Some((number, request, limit)) = after.request {
            panics.run(|| self.ask(number, request, limit));
        }
        if let Some(event) = after.event {
            let event = Event::Store {
                policy: self.base.name,
                pipeline: None,
                event,
                sequence: 0,
            };
            self.base.tell_in(&mut panics, event, None);
        }
        panics.resume();
    }

    fn ask(self: &Arc<Self>, number: u64, request: Request, limit: u64) {
        // Relaxed: a statistic.
        self.trips.fetch_add(1, Ordering::Relaxed);
        let inner = self.clone();
        let reply = Reply::new(move |answer| inner.answered(number, &request, answer));
        self.store
            .hold(self.hold(limit, request.permits, request.in_use), reply);
    }

    fn hold(&self, limit: u64, permits: u64, in_use: u64) -> Hold {
        Hold {
            key: self.key.clone(),
            instance: self.instance.clone(),
            limit,
            permits,
            in_use,
            ttl: self.ttl,
        }
    }

    fn answered(
        self: &Arc<Self>,
        number: u64,
        request: &Request,
        answer: Result<Held, StoreError>,
    ) {
        let now = self.base.now();
        let unit = self.streams.unit();
        let mut after = After::default();
        {
            let mut state = lock(&self.state);
            let state = &mut *state;
            let is_late = number != state.requests || state.block.request().is_none();
            match answer {
                // Late, it was executed before a later request, or it is all that is known.
                Ok(held) if number == state.requests => {
                    state.block.answered(now, request, held, unit);
                    let since = state.lost_since.take();
                    after.event = since.map(|since| StoreEvent::Back {
                        after: now.saturating_duration_since(since),
                    });
                }
                Err(_) if !is_late => after.event = state.failed(now, unit),
                _ => {}
            }
            self.end(state, now, &mut after);
            // It waits for the end of the request's time, and has another time to wait for now.
            let first = state.waiters.values_mut().next();
            after
                .wakers
                .extend(first.and_then(|first| first.waker.take()));
        }
        self.follow(after);
    }

    /// Decides a call that needs `permits`. If `waits` is set, it may join the queue.
    pub(super) fn arrive(self: &Arc<Self>, now: Instant, permits: u64, waits: bool) -> Arrival {
        self.with(now, |state, _| {
            if permits > state.block.limit() {
                return Arrival::Rejected(Reason::CostExceedsLimit);
            }
            if state.waiters.is_empty() && state.block.admit(now, permits) {
                return Arrival::Admitted;
            }
            let is_full = waits && state.waiters.len() >= self.max_waiting;
            if is_full || !waits && state.block.is_scarce(now) {
                return Arrival::Rejected(Reason::BulkheadFull);
            }
            let ticket = state.next;
            state.next += 1;
            state.needed += permits;
            let waiter = Waiter {
                permits,
                is_patient: waits,
                waker: None,
            };
            state.waiters.insert(ticket, waiter);
            Arrival::Waits(ticket)
        })
    }

    /// Looks again for a waiter.
    pub(super) fn turn(self: &Arc<Self>, now: Instant, ticket: u64, waker: &Waker) -> Turn {
        let waker = waker.clone();
        self.with(now, |_, _| ());
        // A second look: an answer may have come on this thread.
        let mut state = lock(&self.state);
        if state.admitted.remove(&ticket) {
            return Turn::Admitted;
        }
        let is_scarce = state.block.is_scarce(now);
        let look_at = match state.block.request() {
            Some(request) => request.sent + self.timeout,
            None => state.block.look_at(),
        };
        let Some(waiter) = state.waiters.get_mut(&ticket) else {
            return Turn::Rejected;
        };
        let is_patient = waiter.is_patient;
        let replaced = waiter.waker.replace(waker);
        drop(state);
        drop(replaced);
        match is_scarce && !is_patient {
            true => Turn::Rejected,
            false => Turn::LookAt(look_at.max(now.after(1_000))),
        }
    }

    /// Removes a waiter that was dropped or gave up, and takes back what it got.
    pub(super) fn leave(self: &Arc<Self>, now: Instant, ticket: u64, permits: u64) {
        self.with(now, |state, wakers| {
            wakers.extend(state.remove(ticket));
            if state.admitted.remove(&ticket) {
                state.block.release(permits);
            }
        });
    }

    pub(super) fn release(self: &Arc<Self>, permits: u64) {
        if permits > 0 {
            self.base.at_now_or(Instant::ORIGIN, |now| {
                self.with(now, |state, _| state.block.release(permits));
            });
        }
    }

    pub(super) fn reject(
        &self,
        reason: Reason,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Rejected> {
        // Relaxed: a statistic.
        self.rejections.fetch_add(1, Ordering::Relaxed);
        self.base
            .reject(Rejected::new(self.base.name, reason), observer)
    }
}

/// Gives all permits back, so that the others need not wait until they lapse.
impl Drop for Inner {
    fn drop(&mut self) {
        let give_back = |now| {
            let limit = {
                let state = lock(&self.state);
                (state.block.held(now) > 0).then(|| state.block.limit())
            };
            if let Some(limit) = limit {
                self.store.hold(self.hold(limit, 0, 0), Reply::new(|_| ()));
            }
        };
        self.base.at_now_or(Instant::ORIGIN, give_back);
    }
}
