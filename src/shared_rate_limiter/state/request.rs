//! Requests of a lease to the store, and the waiters that they are for.

use crate::instant::Instant;
use crate::store::StoreTime;

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
}

/// The waiters, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Tokens that the first waiter needs.
    pub(crate) first: u64,
    /// Tokens that all waiters need.
    pub(crate) all: u64,
}
