//! State shared by the handles of a voter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::state::Rules;
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::ClockHandle;
use crate::store::{StoreError, Tally, VoteStore};

pub(super) struct Inner {
    pub(super) breaker: CircuitBreaker,
    pub(super) store: Arc<dyn VoteStore>,
    pub(super) clock: ClockHandle,
    pub(super) key: Arc<str>,
    pub(super) instance: Arc<str>,
    pub(super) every: Duration,
    pub(super) rules: Rules,
    pub(super) seen: Mutex<Seen>,
}

#[derive(Clone, Default)]
pub(super) struct Seen {
    pub(super) tally: Tally,
    pub(super) error: Option<StoreError>,
    /// Number of times that a quorum opened the breaker.
    pub(super) followed: u64,
}

impl Inner {
    /// Returns the breaker, or the one that has replaced it.
    pub(super) fn breaker(&self) -> CircuitBreaker {
        self.breaker.in_force()
    }
}
