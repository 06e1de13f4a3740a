//! The state of a breaker in one word, for the fast path.
//!
//! ```text
//!   63               8         7       6     5          4       3       2       0
//!   │ generation     │ windows │ probe │ ... │ replaced │ timed │ phase │
//! ```
//!
//! The generation grows with every change, so one comparison detects the result of a call that was
//! admitted before a change.

use crate::event::State;

/// The phase, the generation, and which of the two window sets counts.
///
/// Tickets of probes have the same layout, with the number of the probe in place of the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedState(u64);

/// Phases. All that admit every call come first, up to [`DISABLED`].
pub(crate) const CLOSED: u64 = 0;
pub(crate) const METRICS_ONLY: u64 = 1;
pub(crate) const DISABLED: u64 = 2;
/// Closed, and admitting a growing share of the calls.
pub(crate) const RAMPING_UP: u64 = 3;
pub(crate) const OPEN: u64 = 4;
pub(crate) const HALF_OPEN: u64 = 5;
pub(crate) const ISOLATED: u64 = 6;

const PHASE: u64 = 7;
const TIMED: u64 = 1 << 3;
const REPLACED: u64 = 1 << 4;
const PROBE: u64 = 1 << 6;
const SECOND_WINDOWS: u64 = 1 << 7;
const GENERATION_SHIFT: u32 = 8;

impl PackedState {
    /// The state of calls whose results change nothing: generation zero is never current.
    pub(crate) const UNRECORDED: Self = Self(DISABLED);

    pub(crate) const fn new(generation: u64, second_windows: bool, phase: u64) -> Self {
        let windows = if second_windows { SECOND_WINDOWS } else { 0 };
        Self(generation << GENERATION_SHIFT | windows | phase)
    }

    /// Returns the ticket of the probe with this number.
    pub(crate) const fn of_probe(number: u64) -> Self {
        Self(number << GENERATION_SHIFT | PROBE | HALF_OPEN)
    }

    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) const fn phase(self) -> u64 {
        self.0 & PHASE
    }

    pub(crate) const fn state(self) -> State {
        match self.phase() {
            CLOSED | RAMPING_UP => State::Closed,
            OPEN => State::Open,
            HALF_OPEN => State::HalfOpen,
            ISOLATED => State::Isolated,
            DISABLED => State::Disabled,
            _ => State::MetricsOnly,
        }
    }

    /// Marks that calls must be timed, so that one load decides whether an admission reads the clock.
    pub(crate) const fn timed(self, timed: bool) -> Self {
        Self(if timed { self.0 | TIMED } else { self.0 })
    }

    /// Marks that another breaker has replaced this one.
    pub(crate) const fn replaced(self, replaced: bool) -> Self {
        Self(if replaced { self.0 | REPLACED } else { self.0 })
    }

    #[inline]
    pub(crate) const fn is_replaced(self) -> bool {
        self.0 & REPLACED != 0
    }

    /// Returns whether the circuit is closed and calls need not be timed.
    #[inline]
    pub(crate) const fn is_closed_and_untimed(self) -> bool {
        self.0 & (PHASE | TIMED) == CLOSED
    }

    #[inline]
    pub(crate) const fn admits_all(self) -> bool {
        self.phase() <= DISABLED
    }

    #[inline]
    pub(crate) const fn is_probe(self) -> bool {
        self.0 & PROBE != 0
    }

    #[inline]
    pub(crate) const fn uses_first_windows(self) -> bool {
        self.0 & SECOND_WINDOWS == 0
    }

    /// Returns whether a call is not a probe and counts in the first window set: one test for both.
    #[inline]
    pub(crate) const fn counts_in_first_windows(self) -> bool {
        self.0 & (PROBE | SECOND_WINDOWS) == 0
    }

    #[inline]
    pub(crate) const fn has_generation_of(self, other: Self) -> bool {
        (self.0 ^ other.0) >> GENERATION_SHIFT == 0
    }

    /// Returns the generation, or the number of the probe.
    #[inline]
    pub(crate) const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
}
