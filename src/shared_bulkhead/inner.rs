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
    /// The first number of a request, greater than those of an earlier instance of this name.
    pub(super) first_number: u64,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
    pub(super) max_wait: Duration,
    pub(super) max_waiting: usize,
    pub(super) rejections: AtomicU64,
    pub(super) trips: AtomicU64,
    pub(super) streams: SharedRng,
    pub(super) state: Mutex<State>,
}

/// State under the lock. No user code runs under it.
pub(super) struct State {
    pub(super) block: Block,
    waiters: BTreeMap<u64, Waiter>,
    admitted: BTreeSet<u64>,
    next: u64,
    /// Sum of the permits that the waiters need.
    needed: u64,
    /// Number of the newest request to the store.
    requests: u64,
    pub(super) lost_since: Option<Instant>,
}

struct Waiter {
    permits: u64,
    /// Whether it waits until permits are free, and not only for the answer to a request.
    is_patient: bool,
    waker: Option<Waker>,
}

/// The decision about an arriving call. `Waits` has its ticket in the wait queue.
pub(super) enum Arrival {
    Admitted,
    Waits(u64),
    Rejected(Reason),
}

/// The decision about a waiter that was polled.
pub(super) enum Turn {
    Admitted,
    Rejected,
    PollAt(Instant),
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

    /// Admits waiters in order while there are permits for the first.
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
    /// Runs `change` under the lock, then wakes waiters and sends requests after the lock is released.
    pub(super) fn with<R>(
        self: &Arc<Self>,
        now: Instant,
        change: impl FnOnce(&mut State, &mut Vec<Waker>) -> R,
    ) -> R {
        let (result, panics) = self.change(now, change);
        panics.resume();
        result
    }

    /// Like [`with`](Self::with), for results that must not get lost: also returns the panics of user code.
    pub(super) fn change<R>(
        self: &Arc<Self>,
        now: Instant,
        change: impl FnOnce(&mut State, &mut Vec<Waker>) -> R,
    ) -> (R, Panics) {
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
        (result, self.follow(after))
    }

    fn end(&self, state: &mut State, now: Instant, after: &mut After) {
        state.serve(now, &mut after.wakers);
        let first = state.waiters.values().next();
        let first = first.map_or(0, |waiter| waiter.permits);
        if let Some(request) = state.block.plan(now, state.needed, first) {
            state.requests += 1;
            after.request = Some((state.requests, request, state.block.limit()));
        }
        if state.block.is_scarce(now) {
            // Wakes the waiters that do not wait until permits are free: their next poll rejects them.
            let waiters = state.waiters.values_mut();
            let impatient = waiters.filter(|waiter| !waiter.is_patient);
            after
                .wakers
                .extend(impatient.filter_map(|waiter| waiter.waker.take()));
        }
    }

    fn follow(self: &Arc<Self>, after: After) -> Panics {
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
            self.base.report_in(&mut panics, event, None);
        }
        panics
    }

    fn ask(self: &Arc<Self>, number: u64, request: Request, limit: u64) {
        // Relaxed: a statistic.
        self.trips.fetch_add(1, Ordering::Relaxed);
        let inner = self.clone();
        let reply = Reply::new(move |answer| inner.answered(number, &request, answer));
        self.store.hold(
            self.hold(number, limit, request.permits, request.in_use),
            reply,
        );
    }

    fn hold(&self, number: u64, limit: u64, permits: u64, in_use: u64) -> Hold {
        Hold {
            key: self.key.clone(),
            instance: self.instance.clone(),
            limit,
            permits,
            in_use,
            ttl: self.ttl,
            number: self.first_number.saturating_add(number),
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
                // A late answer to the newest request still holds: no later request has changed what the store
                // granted.
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
            // The first waiter sleeps until the request times out, so it must be woken to set a new timer.
            let first = state.waiters.values_mut().next();
            after
                .wakers
                .extend(first.and_then(|first| first.waker.take()));
        }
        self.follow(after).resume();
    }

    /// Decides whether a call that needs `permits` is admitted. If `waits` is true, it may wait until permits are free.
    pub(super) fn arrive(
        self: &Arc<Self>,
        now: Instant,
        permits: u64,
        waits: bool,
    ) -> (Arrival, Panics) {
        self.change(now, |state, _| {
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

    /// Decides whether a waiter that is polled is admitted, and registers its waker if it still waits.
    pub(super) fn turn(self: &Arc<Self>, now: Instant, ticket: u64, waker: &Waker) -> Turn {
        let waker = waker.clone();
        self.with(now, |_, _| ());
        // Locks again: the store may have answered on this thread in between.
        let mut state = lock(&self.state);
        if state.admitted.remove(&ticket) {
            return Turn::Admitted;
        }
        let is_scarce = state.block.is_scarce(now);
        let poll_at = match state.block.request() {
            Some(request) => request.sent + self.timeout,
            None => state.block.poll_at(now),
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
            false => Turn::PollAt(poll_at.max(now.after(1_000))),
        }
    }

    /// Removes a waiter that was dropped or gave up, and releases permits granted to it.
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

/// Gives all permits back, so that other processes can use them, and the part of this one, before they expire.
impl Drop for Inner {
    fn drop(&mut self) {
        let give_back = |now| {
            let limit = {
                let state = lock(&self.state);
                let number = state.requests + 1;
                state
                    .block
                    .is_known(now)
                    .then(|| (number, state.block.limit()))
            };
            if let Some((number, limit)) = limit {
                self.store
                    .hold(self.hold(number, limit, 0, 0), Reply::new(|_| ()));
            }
        };
        self.base.at_now_or(Instant::ORIGIN, give_back);
    }
}
