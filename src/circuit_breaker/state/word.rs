//! The state for the fast path, packed into one word.
//!
//! ```text
//!   63               8     7       6       3     2    0
//!   │ generation     │ tally │ probe │   │ timed │ kind │
//! ```
//!
//! The generation grows with every change, so one comparison recognizes the result of a call that
//! was admitted before. The other bits let one load decide whether an admission needs more than that.

pub(crate) const CLOSED: u64 = 0;
pub(crate) const METRICS_ONLY: u64 = 1;
pub(crate) const DISABLED: u64 = 2;
/// Closed, and letting a growing share through.
pub(crate) const RAMPING: u64 = 3;
pub(crate) const OPEN: u64 = 4;
pub(crate) const HALF_OPEN: u64 = 5;
pub(crate) const ISOLATED: u64 = 6;

/// Calls must be timed.
pub(crate) const TIMED: u64 = 1 << 3;
/// Set in the tickets of probes, which have their number in place of a generation.
pub(crate) const PROBE: u64 = 1 << 6;
const KIND: u64 = 7;
const TALLY: u32 = 7;
const GENERATION: u32 = 8;

pub(crate) const fn new(generation: u64, tally: bool, flags: u64, kind: u64) -> u64 {
    (generation << GENERATION) | ((tally as u64) << TALLY) | flags | kind
}

pub(crate) const fn kind(word: u64) -> u64 {
    word & KIND
}

/// Closed, and calls need not be timed.
#[inline]
pub(crate) const fn is_plain(word: u64) -> bool {
    word & (KIND | TIMED) == CLOSED
}

/// Whether all calls are admitted.
#[inline]
pub(crate) const fn admits_all(word: u64) -> bool {
    word & KIND <= DISABLED
}

#[inline]
pub(crate) const fn is_timed(word: u64) -> bool {
    word & TIMED != 0
}

#[inline]
pub(crate) const fn is_probe(ticket: u64) -> bool {
    ticket & PROBE != 0
}

/// Which of the two tallies counts.
#[inline]
pub(crate) const fn has_first_tally(word: u64) -> bool {
    word & 1 << TALLY == 0
}

/// The ticket of a call that counts in the first tally, and no probe's. One test for both.
#[inline]
pub(crate) const fn is_in_first_tally(ticket: u64) -> bool {
    ticket & (PROBE | 1 << TALLY) == 0
}

#[inline]
pub(crate) const fn generation(word: u64) -> u64 {
    word >> GENERATION
}
