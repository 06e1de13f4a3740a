//! Requests of a lease to the store, and the waiters that they are for.

use std::time::Duration;

use crate::instant::Instant;
use crate::store::{StoreTime, Taken};

/// A request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) ask: u64,
    pub(crate) at_least: u64,
    pub(crate) spent: u64,
    pub(crate) give_back: Option<(u64, StoreTime)>,
    pub(crate) sent: Instant,
    /// Tokens that could be used: more than `ask` if the waiters need more than the burst.
    pub(crate) wanted: u64,
    /// Whether the tokens are for waiters only.
    pub(crate) just_enough: bool,
    /// Whether the first waiter also needs the tokens held, which do not expire meanwhile.
    pub(crate) is_on_top: bool,
}

impl Request {
    /// Returns an answer to it that is consistent: a user's store may grant more than was requested, or reject without
    /// a time, and the request would be repeated at once. `token` is the time that the rate takes for one token, in
    /// nanoseconds.
    pub(crate) fn check(&self, mut taken: Taken, token: f64) -> Taken {
        taken.granted = taken.granted.min(self.ask);
        if taken.granted < self.ask {
            let most = match taken.granted {
                0 => self.at_least.max(1) - 1,
                _ => 0,
            };
            taken.remaining = taken.remaining.min(most);
            if taken.granted < self.at_least && taken.retry_after.is_zero() {
                taken.retry_after = Duration::from_nanos(token.ceil() as u64);
            }
        }
        taken
    }
}

/// Calls that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Tokens that the first waiter needs.
    pub(crate) first: u64,
    /// Tokens that all waiters need.
    pub(crate) all: u64,
}
