//! The interface of all algorithms.

use std::fmt;
use std::time::Duration;

use crate::instant::Instant;

/// The reason why tokens are not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// They will be available at this instant, if no other tokens are taken.
    Until(Instant),
    /// The limit never holds that many.
    Never,
}

impl Unavailable {
    /// Returns the later of two results.
    pub(crate) fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(a), Self::Until(b)) => Self::Until(a.max(b)),
            _ => Self::Never,
        }
    }

    /// Returns the earlier of two.
    pub(crate) fn min(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(a), Self::Until(b)) => Self::Until(a.min(b)),
            (Self::Never, other) => other,
            (this, Self::Never) => this,
        }
    }
}

/// The state of a limit at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Availability {
    /// Tokens in a full limit.
    pub(crate) limit: u64,
    /// Tokens available; below zero, the debt.
    pub(crate) available: i64,
    /// When the limit is full, if no tokens are taken.
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

    /// Returns how many tokens can be taken, leaving no more than `debt` tokens of debt.
    pub(crate) fn room(&self, debt: u64) -> u64 {
        let room = i128::from(self.available) + i128::from(debt);
        u64::try_from(room.max(0)).unwrap_or(u64::MAX)
    }
}

/// The state that a limit inherits from the limit it replaces.
///
/// Tokens earned so far were earned at the old rate. A quota with a warm-up counts time and no tokens, as Guava's does:
/// except with [`Reset`](Self::Reset), the next call has its turn when it would have had it, and later ones follow at the
/// new rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Inherit {
    /// The tokens available now, up to what the new limit holds.
    #[default]
    AsIs,
    /// The same share of the limit: a half-full limit stays half full.
    Proportional,
    /// A limit that grows by ten makes ten more tokens available at once; a limit that shrinks keeps the tokens
    /// available, up to what it holds.
    Additive,
    /// Nothing: the new limit starts full, or with its [`initial`](crate::rate_limiter::Quota::initial)
    /// tokens.
    Reset,
}

impl Inherit {
    /// Returns the rule as an identifier for logs and configuration, such as `as_is`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AsIs => "as_is",
            Self::Proportional => "proportional",
            Self::Additive => "additive",
            Self::Reset => "reset",
        }
    }

    /// Returns how much of the new limit is used, in the unit of the arguments. `None` means as in a new limit.
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

impl fmt::Display for Inherit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsIs => "as is",
            other => other.as_str(),
        })
    }
}

/// A limit of any algorithm.
pub(crate) trait Limit {
    /// Returns whether `tokens` can be taken at `now`, leaving no more than `debt` tokens of debt. Changes
    /// nothing.
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable>;

    /// Takes `tokens`, even if there are too few.
    fn force_take(&mut self, now: Instant, tokens: u64);

    /// Takes the tokens of many waiters in one step. Returns `false`, and takes nothing, if that would
    /// differ from serving them one by one.
    fn force_take_all(&mut self, _now: Instant, _tokens: u64) -> bool {
        false
    }

    /// Returns `tokens` that were taken at `taken`, or at an unknown time. Has no effect on a full limit, or on a
    /// window that has ended.
    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64);

    /// Records a rejected call, which shows demand.
    fn record_rejection(&mut self, _now: Instant) {}

    /// Returns the state at `now`.
    fn availability(&self, now: Instant) -> Availability;

    /// Returns whether more than `tokens` are available at `now`, or when they will be if no tokens are taken.
    fn has_more(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        // Some limits take a call that costs more than they hold.
        if tokens >= self.availability(now).limit {
            return Err(Unavailable::Never);
        }
        self.ready(now, tokens + 1, 0)
    }
}

/// Returns the first instant from `after` to `by` at which `holds` is true. Once true, it must stay so.
pub(crate) fn first_instant(
    after: Instant,
    by: Instant,
    holds: impl Fn(Instant) -> bool,
) -> Option<Instant> {
    let (mut early, mut late) = (after.as_nanos(), by.as_nanos());
    if !holds(by) {
        return None;
    }
    while early < late {
        let middle = early + (late - early) / 2;
        match holds(Instant::from_nanos(middle)) {
            true => late = middle,
            false => early = middle + 1,
        }
    }
    Some(Instant::from_nanos(late))
}

/// Returns the nanoseconds of a window, at least one.
pub(super) fn window_nanos(window: Duration) -> u64 {
    crate::instant::nanos(window).max(1)
}
