//! What the algorithms have in common.

use std::time::Duration;

use crate::instant::Instant;

/// Why tokens cannot be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// They can be had from this instant on, if nothing else is taken.
    Until(Instant),
    /// There will never be that many at once.
    Never,
}

impl Unavailable {
    /// The later of two.
    pub(crate) fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(a), Self::Until(b)) => Self::Until(a.max(b)),
            _ => Self::Never,
        }
    }

    /// The earlier of two.
    pub(crate) fn min(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(a), Self::Until(b)) => Self::Until(a.min(b)),
            (Self::Never, other) => other,
            (this, Self::Never) => this,
        }
    }
}

/// Where a limit stands at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Availability {
    /// How many tokens it holds at most.
    pub(crate) limit: u64,
    /// How many it holds; below zero, how many it is owed.
    pub(crate) available: i64,
    /// When it is as good as new, if nothing is taken.
    pub(crate) full_at: Instant,
    /// The time that `limit` counts for.
    pub(crate) window: Duration,
}

impl Availability {
    pub(crate) fn new(limit: u64, used: u64, full_at: Instant, window: Duration) -> Self {
        let signed = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
        Self {
            limit,
            available: signed(limit).saturating_sub(signed(used)),
            full_at,
            window,
        }
    }

    /// How many tokens can be taken when `debt` tokens may be owed.
    pub(crate) fn room(&self, debt: u64) -> u64 {
        let room = i128::from(self.available) + i128::from(debt);
        u64::try_from(room.max(0)).unwrap_or(u64::MAX)
    }
}

/// What a limit that was in use hands over to the one that replaces it.
///
/// The past is never repriced: what has been earned until now was earned at the old rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Inherit {
    /// As many tokens as are available now, no more than the new limit holds.
    #[default]
    AsIs,
    /// The same share of the limit: half full stays half full.
    Proportional,
    /// A limit that grows by ten makes ten more tokens available at once; one that shrinks keeps what
    /// is available, no more than it holds.
    Additive,
    /// Nothing: the new limit starts as a new one does, full or with its
    /// [`initial`](crate::rate_limiter::Quota::initial) tokens.
    Reset,
}

impl Inherit {
    /// How much of the new limit counts as used; all in the same unit. `None`: as in a new one.
    pub(super) fn used(self, used: u64, old_limit: u64, new_limit: u64) -> Option<u64> {
        let (used, old, new) = (
            i128::from(used),
            i128::from(old_limit),
            i128::from(new_limit),
        );
        let used = match self {
            Self::Reset => return None,
            Self::Proportional => used * new / old.max(1),
            Self::Additive if new > old => used,
            Self::AsIs | Self::Additive => used + new - old,
        };
        Some(u64::try_from(used.max(0)).unwrap_or(u64::MAX))
    }
}

/// What every algorithm can do.
pub(crate) trait Limit {
    /// Whether `tokens` can be taken at `now`, leaving the limit no more than `debt` tokens in
    /// debt. Changes nothing.
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable>;

    /// Takes `tokens`, whether there are that many or not.
    fn force_take(&mut self, now: Instant, tokens: u64);

    /// Takes the tokens of many waiters in one step; `false`, and nothing is taken, when that would
    /// not leave the limit as it is after they have been served one by one.
    fn force_take_all(&mut self, _now: Instant, _tokens: u64) -> bool {
        false
    }

    /// Gives back `tokens` that were taken at `taken`, or at any time when that is `None`. The limit
    /// never holds more than when it is full, and a window that is over gets nothing back.
    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64);

    /// Records an attempt that was rejected: the limit is in demand.
    fn record_rejection(&mut self, _now: Instant) {}

    /// Where it stands.
    fn availability(&self, now: Instant) -> Availability;
}

/// The first whole multiple of `window` after `at`, counted from `origin`.
pub(super) fn next_multiple(origin: Instant, at: Instant, window: u64, further: u64) -> Instant {
    let index = at.as_nanos().saturating_sub(origin.as_nanos()) / window.max(1);
    let nanos = u128::from(index) + u128::from(further);
    let nanos = nanos * u128::from(window) + u128::from(origin.as_nanos());
    Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A window as a word, at least a nanosecond.
pub(super) fn window_nanos(window: Duration) -> u64 {
    crate::instant::nanos(window).max(1)
}
