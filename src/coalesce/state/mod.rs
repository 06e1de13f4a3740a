//! Flights: which keys are being executed, which calls wait for them, and which call takes over.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::priority::Priority;

/// The hash of a key, and a number that distinguishes keys with the same hash, and the flights of one key.
pub(super) type Place = (u64, u64);

/// The flights of some keys. `S` is the data that the calls of a flight share, including its key; `W` wakes a waiter.
///
/// It compares no keys and wakes no waiters. The caller does so outside the lock, and drops the returned values there.
#[derive(Debug)]
pub(super) struct Flights<S, W> {
    flights: BTreeMap<Place, Flight<S, W>>,
    next_number: u64,
}

#[derive(Debug)]
struct Flight<S, W> {
    shared: Arc<S>,
    /// The waiter that is to take over, if the leader has left.
    promoted: Option<u64>,
    /// By ticket, oldest first.
    waiters: BTreeMap<u64, Waiter<W>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter<W> {
    terms: Terms,
    /// `None`: it has not been polled yet.
    waker: Option<W>,
}

/// The properties of a call, besides the time, by which inner layers admit or reject it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) priority: Priority,
    pub(super) cost: u32,
}

impl Terms {
    /// Returns whether a layer may admit this call although it rejected the other one.
    fn may_fare_better_than(self, other: Self) -> bool {
        self.priority > other.priority || self.cost < other.cost
    }
}

/// The result of polling a waiter.
#[derive(Debug)]
pub(super) enum Standing<W> {
    /// The waiter still waits. Contains its previous waker, if any.
    Waits(Option<W>),
    /// The waiter leads from now on. Contains its unused wakers.
    Leads(W, Option<W>),
    /// The flight has landed. Contains the unused waker.
    Landed(W),
}

/// Work for the caller, outside the lock, after a call has left a flight.
#[derive(Debug)]
pub(super) struct Left<S, W> {
    /// The waiter to wake, which takes over.
    pub(super) wake: Option<W>,
    /// Values to drop.
    pub(super) dropped: (Option<W>, Option<Arc<S>>),
    /// Whether a waiter was newly promoted.
    pub(super) promoted: bool,
}

impl<S, W> Flights<S, W> {
    pub(super) const fn new() -> Self {
        Self {
            flights: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// Returns the first flight with this hash and a number of `after` or more. Increases `after` beyond it.
    pub(super) fn find(&self, hash: u64, after: &mut u64) -> Option<(Place, Arc<S>)> {
        let range = (hash, *after)..=(hash, u64::MAX);
        let (&place, flight) = self.flights.range(range).next()?;
        *after = place.1 + 1;
        Some((place, flight.shared.clone()))
    }

    /// Begins a flight led by the caller, unless there is one with this hash and a number of `after` or more.
    pub(super) fn begin(&mut self, hash: u64, after: u64, shared: &Arc<S>) -> Option<Place> {
        let range = (hash, after)..=(hash, u64::MAX);
        if self.flights.range(range).next().is_some() {
            return None;
        }
        let place = (hash, self.next_number);
        self.next_number += 1;
        let flight = Flight {
            shared: shared.clone(),
            promoted: None,
            waiters: BTreeMap::new(),
            next_ticket: 0,
        };
        self.flights.insert(place, flight);
        Some(place)
    }

    /// Adds a waiter. `None` if the flight has landed.
    pub(super) fn join(&mut self, place: Place, terms: Terms) -> Option<u64> {
        let flight = self.flights.get_mut(&place)?;
        let ticket = flight.next_ticket;
        flight.next_ticket += 1;
        let waiter = Waiter { terms, waker: None };
        flight.waiters.insert(ticket, waiter);
        Some(ticket)
    }

    /// Returns whether a waiter has nothing to do but wait, with a waker for which `is_same` holds.
    pub(super) fn is_waiting(
        &self,
        place: Place,
        ticket: u64,
        is_same: impl FnOnce(&W) -> bool,
    ) -> bool {
        let flight = self.flights.get(&place);
        let flight = flight.filter(|flight| flight.promoted != Some(ticket));
        let waiter = flight.and_then(|flight| flight.waiters.get(&ticket));
        waiter.is_some_and(|waiter| waiter.waker.as_ref().is_some_and(is_same))
    }

    /// Registers the waker of a waiter, or makes it the leader if it is promoted.
    pub(super) fn wait(&mut self, place: Place, ticket: u64, waker: W) -> Standing<W> {
        let Some(flight) = self.flights.get_mut(&place) else {
            return Standing::Landed(waker);
        };
        if flight.promoted == Some(ticket) {
            flight.promoted = None;
            let older = flight.waiters.remove(&ticket);
            return Standing::Leads(waker, older.and_then(|waiter| waiter.waker));
        }
        match flight.waiters.get_mut(&ticket) {
            Some(waiter) => Standing::Waits(waiter.waker.replace(waker)),
            None => Standing::Landed(waker),
        }
    }

    /// Ends a flight if it has no waiters, and returns its data.
    pub(super) fn land_alone(&mut self, place: Place) -> Option<Arc<S>> {
        let flight = self.flights.get(&place)?;
        if !flight.waiters.is_empty() {
            return None;
        }
        self.flights.remove(&place).map(|flight| flight.shared)
    }

    /// Ends a flight. Returns the waiters to wake and their shared data.
    pub(super) fn land(&mut self, place: Place) -> (Vec<W>, Option<Arc<S>>) {
        match self.flights.remove(&place) {
            Some(flight) => {
                let mut wakers = Vec::with_capacity(flight.waiters.len());
                let waiters = flight.waiters.into_values();
                wakers.extend(waiters.filter_map(|waiter| waiter.waker));
                (wakers, Some(flight.shared))
            }
            None => (Vec::new(), None),
        }
    }

    /// Removes a leader that has no result: the oldest waiter takes over.
    pub(super) fn abandon(&mut self, place: Place) -> Left<S, W> {
        self.pass_on(place, None)
    }

    /// Passes a flight to the oldest waiter that an inner layer may admit although it rejected the leader, whose terms
    /// are given. Returns `None`, and changes nothing, if there is no such waiter.
    pub(super) fn pass_to_better(&mut self, place: Place, terms: Terms) -> Option<Left<S, W>> {
        let flight = self.flights.get_mut(&place)?;
        let mut waiters = flight.waiters.iter_mut();
        let (&ticket, waiter) =
            waiters.find(|(_, waiter)| waiter.terms.may_fare_better_than(terms))?;
        flight.promoted = Some(ticket);
        Some(Left {
            wake: waiter.waker.take(),
            dropped: (None, None),
            promoted: true,
        })
    }

    /// Removes a waiter. If it was to take over, the next one does.
    pub(super) fn leave(&mut self, place: Place, ticket: u64) -> Left<S, W> {
        let Some(flight) = self.flights.get_mut(&place) else {
            return Left::NOTHING;
        };
        let dropped = flight.waiters.remove(&ticket);
        let dropped = dropped.and_then(|waiter| waiter.waker);
        if flight.promoted == Some(ticket) {
            self.pass_on(place, dropped)
        } else {
            Left {
                dropped: (dropped, None),
                ..Left::NOTHING
            }
        }
    }

    fn pass_on(&mut self, place: Place, dropped: Option<W>) -> Left<S, W> {
        let Some(flight) = self.flights.get_mut(&place) else {
            return Left::NOTHING;
        };
        let Some((&ticket, waiter)) = flight.waiters.iter_mut().next() else {
            let flight = self.flights.remove(&place);
            return Left {
                dropped: (dropped, flight.map(|flight| flight.shared)),
                ..Left::NOTHING
            };
        };
        flight.promoted = Some(ticket);
        Left {
            wake: waiter.waker.take(),
            dropped: (dropped, None),
            promoted: true,
        }
    }

    /// Returns the number of flights, and of waiters.
    pub(super) fn counts(&self) -> (usize, usize) {
        let waiters = self.flights.values().map(|flight| flight.waiters.len());
        (self.flights.len(), waiters.sum())
    }
}

impl<S, W> Left<S, W> {
    const NOTHING: Self = Self {
        wake: None,
        dropped: (None, None),
        promoted: false,
    };
}

#[cfg(test)]
mod tests;
