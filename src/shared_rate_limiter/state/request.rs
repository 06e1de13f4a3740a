//! What a lease asks the store for, and the calls that it asks for.

use crate::instant::Instant;
use crate::store::StoreTime;

/// What to ask the store for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) ask: u64,
    pub(crate) at_least: u64,
    pub(crate) spent: u64,
    pub(crate) give_back: Option<(u64, StoreTime)>,
    pub(crate) sent: Instant,
    /// Tokens that would have been of use: more than were asked for, if calls need more than a burst.
    pub(crate) wanted: u64,
    /// The tokens are for calls that wait, and no more.
    pub(crate) just_enough: bool,
}

/// Calls that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Tokens that the first one needs.
    pub(crate) first: u64,
    /// Tokens that all of them need.
    pub(crate) all: u64,
}
