//! An admitted call, and its end.

use std::time::Duration;

use super::state::word;
use crate::event::Observer;
use crate::instant::Instant;

/// The observer of a call, beside the breaker's own.
pub(super) type Listener<'a> = Option<&'a dyn Observer>;

/// An admitted call: the word it was admitted under, or of a probe its number above the bit
/// [`PROBE`](word::PROBE). One word, so that admissions are returned in registers.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(pub(super) u64);

impl Ticket {
    pub(super) const fn of_probe(probe: u64, flags: u64) -> Self {
        Self(word::new(
            probe,
            false,
            flags | word::PROBE,
            word::HALF_OPEN,
        ))
    }

    #[inline]
    pub(super) const fn is_probe(self) -> bool {
        word::is_probe(self.0)
    }
}

/// What is known of the end of a call beside its health.
#[derive(Clone, Copy, Default)]
pub(super) struct End<'a> {
    /// The duration, if it is known better than from the permit.
    pub(super) took: Option<Duration>,
    /// The current time, if the clock has been read.
    pub(super) now: Option<Instant>,
    /// A hint of the server, for the length of the break.
    pub(super) hint: Option<Duration>,
    pub(super) listener: Listener<'a>,
}

impl End<'_> {
    pub(super) const UNKNOWN: Self = Self {
        took: None,
        now: None,
        hint: None,
        listener: None,
    };
}
