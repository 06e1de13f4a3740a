//! An admitted call, and its result.

use std::time::Duration;

use super::state::PackedState;
use crate::event::Observer;
use crate::instant::Instant;

/// An admitted call: the state under which it was admitted, or the number of its probe. One word, so
/// admissions are returned in registers.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(pub(super) PackedState);

impl Ticket {
    #[inline]
    pub(super) const fn is_probe(self) -> bool {
        self.0.is_probe()
    }
}

/// The details of a finished call, apart from its health.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// The duration, if the caller has measured it.
    pub(super) duration: Option<Duration>,
    /// The current time, if the clock has been read.
    pub(super) now: Option<Instant>,
    /// A server's hint, which may lengthen the break.
    pub(super) hint: Option<Duration>,
    /// The observer of the call, in addition to the breaker's own.
    pub(super) observer: Option<&'a dyn Observer>,
}

impl Finish<'_> {
    pub(super) const UNKNOWN: Self = Self {
        duration: None,
        now: None,
        hint: None,
        observer: None,
    };
}
