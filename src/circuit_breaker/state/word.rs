//! What the fast path needs to know, in one word.
//!
//! ```text
//!   63               8     7     6      5         4            3      2    0
//!   │ generation     │ tally │   │ tells │ counts good │ timed │ kind │
//! ```
//!
//! The generation grows with every change, so a result that carries an older one is recognised by
//! one comparison. The other bits are so that one look at the word, too, tells whether a call needs
//! more than to be let through.

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
/// Good calls are counted even when the tally holds nothing but good ones.
pub(crate) const COUNTS_GOOD: u64 = 1 << 4;

/// Somebody hears of each refusal.
pub(crate) const TELLS: u64 = 1 << 5;

/// Set in tickets only: the call was not let through by a word that [is plain](is_plain).
pub(crate) const NOT_PLAIN: u64 = 1 << 6;

const KIND: u64 = 7;
// The size of a tally, so that the bit is its place.
const TALLY: u32 = 7;
const GENERATION: u32 = 8;

pub(crate) const fn new(generation: u64, tally: bool, flags: u64, kind: u64) -> u64 {
    (generation << GENERATION) | ((tally as u64) << TALLY) | flags | kind
}

pub(crate) const fn kind(word: u64) -> u64 {
    word & KIND
}

/// Closed, and a good call changes nothing while there were only good ones.
#[inline]
pub(crate) const fn is_plain(word: u64) -> bool {
    word & (KIND | TIMED | COUNTS_GOOD) == CLOSED
}

/// Open, and nobody hears of refusals.
#[inline]
pub(crate) const fn refuses_quietly(word: u64) -> bool {
    word & (KIND | TELLS) == OPEN
}

#[inline]
pub(crate) const fn is_timed(word: u64) -> bool {
    word & TIMED != 0
}

/// Which of the two tallies counts.
#[inline]
pub(crate) const fn tally(word: u64) -> usize {
    (word >> TALLY & 1) as usize
}

pub(crate) const fn generation(word: u64) -> u64 {
    word >> GENERATION
}
