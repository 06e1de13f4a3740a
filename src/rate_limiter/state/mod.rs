//! The five algorithms, and the ramp of a cold start, as pure machines: they take the time as an
//! argument and know neither clocks nor locks.
//!
//! All of them answer the same questions ([`Limit`]), so the handle, the queue and several limits
//! at once need no more than these. Only the token bucket also comes as an atomic
//! ([`TokenBucket`]); the others need exclusive access.

use std::time::Duration;

use crate::instant::Instant;

mod fixed_window;
mod grid;
mod leaky_bucket;
mod sliding_counter;
mod sliding_log;
mod striped;
mod token_bucket;
mod warm_up;

pub(crate) use self::fixed_window::FixedWindow;
pub(crate) use self::grid::{Grid, REACH};
pub(crate) use self::leaky_bucket::LeakyBucket;
pub(crate) use self::sliding_counter::SlidingCounter;
pub(crate) use self::sliding_log::SlidingLog;
pub(crate) use self::striped::{Parts, Striped};
pub(crate) use self::token_bucket::{Gcra, TokenBucket};
pub(crate) use self::warm_up::WarmUp;

#[cfg(test)]
mod tests;

/// Why tokens cannot be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// They can be had from this instant on, if nobody else takes any.
    Until(Instant),
    /// There will never be that many at once.
    Never,
}

impl Refusal {
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
pub(crate) struct Standing {
    /// How many tokens it holds at most.
    pub(crate) limit: u64,
    /// How many it holds; below zero, how many it is owed.
    pub(crate) available: i64,
    /// When it is as good as new, if nobody takes anything.
    pub(crate) full_at: Instant,
}

impl Standing {
    pub(crate) fn new(limit: u64, used: u64, full_at: Instant) -> Self {
        let signed = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
        Self {
            limit,
            available: signed(limit).saturating_sub(signed(used)),
            full_at,
        }
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
    /// What has been used stays used: a limit raised by ten makes ten tokens available at once.
    Additive,
    /// Nothing: the new limit starts full.
    Reset,
}

impl Inherit {
    /// What counts as used of the new limit; all in the same unit.
    fn used(self, used: u64, old_limit: u64, new_limit: u64) -> u64 {
        let (used, old, new) = (
            i128::from(used),
            i128::from(old_limit),
            i128::from(new_limit),
        );
        let used = match self {
            Self::AsIs => used + new - old,
            Self::Proportional => used * new / old.max(1),
            Self::Additive => used,
            Self::Reset => 0,
        };
        u64::try_from(used.clamp(0, i128::from(REACH))).unwrap_or(REACH)
    }
}

/// What every algorithm can do.
pub(crate) trait Limit {
    /// Whether `tokens` can be taken at `now`, leaving the limit no more than `debt` tokens in
    /// debt. Changes nothing.
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal>;

    /// Takes `tokens`, whether there are that many or not.
    fn put(&mut self, now: Instant, tokens: u64);

    /// Gives back `tokens` that were taken at `taken`, or at any time when that is `None`. The limit
    /// never holds more than when it is full, and a window that is over gets nothing back.
    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64);

    /// Where it stands.
    fn standing(&self, now: Instant) -> Standing;
}

/// One limit, whatever its algorithm.
#[derive(Clone, Debug)]
pub(crate) enum Machine {
    Token { gcra: Gcra, tat: u64 },
    Parts(Parts),
    Leaky(LeakyBucket),
    Fixed(FixedWindow),
    Log(SlidingLog),
    Counter(SlidingCounter),
    WarmUp(WarmUp),
}

impl Machine {
    fn limit(&self) -> &dyn Limit {
        match self {
            Self::Token { .. } => self,
            Self::Parts(limit) => limit,
            Self::Leaky(limit) => limit,
            Self::Fixed(limit) => limit,
            Self::Log(limit) => limit,
            Self::Counter(limit) => limit,
            Self::WarmUp(limit) => limit,
        }
    }

    /// Replaces its settings by those of `new`, a machine of the same algorithm; `false`, and
    /// nothing changed, when it is not.
    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) -> bool {
        match (self, new) {
            (Self::Token { gcra, tat }, Self::Token { gcra: new, .. }) => {
                *tat = gcra.inherit(*tat, now, &new, inherit);
                *gcra = new;
            }
            (Self::Leaky(old), Self::Leaky(new)) => old.replace(now, new, inherit),
            (Self::Fixed(old), Self::Fixed(new)) => old.replace(now, new, inherit),
            (Self::Log(old), Self::Log(new)) => old.replace(now, new, inherit),
            (Self::Counter(old), Self::Counter(new)) => old.replace(now, new, inherit),
            (Self::WarmUp(old), Self::WarmUp(new)) => old.replace(now, new, inherit),
            _ => return false,
        }
        true
    }
}

impl Limit for Machine {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        match self {
            Self::Token { gcra, tat } => gcra.ready(*tat, now, tokens, debt),
            _ => self.limit().ready(now, tokens, debt),
        }
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        match self {
            Self::Token { gcra, tat } => *tat = gcra.put(*tat, now, tokens),
            Self::Parts(limit) => limit.put(now, tokens),
            Self::Leaky(limit) => limit.put(now, tokens),
            Self::Fixed(limit) => limit.put(now, tokens),
            Self::Log(limit) => limit.put(now, tokens),
            Self::Counter(limit) => limit.put(now, tokens),
            Self::WarmUp(limit) => limit.put(now, tokens),
        }
    }

    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64) {
        match self {
            Self::Token { gcra, tat } => *tat = gcra.give(*tat, tokens),
            Self::Parts(limit) => limit.give(now, taken, tokens),
            Self::Leaky(limit) => limit.give(now, taken, tokens),
            Self::Fixed(limit) => limit.give(now, taken, tokens),
            Self::Log(limit) => limit.give(now, taken, tokens),
            Self::Counter(limit) => limit.give(now, taken, tokens),
            Self::WarmUp(limit) => limit.give(now, taken, tokens),
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        match self {
            Self::Token { gcra, tat } => gcra.standing(*tat, now),
            _ => self.limit().standing(now),
        }
    }
}

/// Several limits that a call must fit all at once, or one.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Vec<Machine>);

impl Limits {
    pub(crate) const fn new(machines: Vec<Machine>) -> Self {
        Self(machines)
    }

    /// Takes `tokens` from all limits, or from none.
    pub(crate) fn take(&mut self, now: Instant, tokens: u64) -> Result<(), Refusal> {
        self.borrow(now, tokens, 0)
    }

    /// As [`take`](Self::take), leaving each limit no more than `debt` tokens in debt.
    pub(crate) fn borrow(&mut self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        self.ready(now, tokens, debt)?;
        self.put(now, tokens);
        Ok(())
    }

    /// The limit that has the least to give.
    pub(crate) fn tightest(&self, now: Instant) -> Standing {
        let standings = self.0.iter().map(|machine| machine.standing(now));
        let mut tightest = standings
            .reduce(|a, b| match b.available < a.available {
                true => b,
                false => a,
            })
            .unwrap_or(Standing::new(0, 0, now));
        // As good as new are all of them only when the last one is.
        for machine in &self.0 {
            tightest.full_at = tightest.full_at.max(machine.standing(now).full_at);
        }
        tightest
    }

    pub(crate) fn standings(&self, now: Instant) -> Vec<Standing> {
        self.0.iter().map(|limit| limit.standing(now)).collect()
    }

    /// Replaces the settings of each; `false`, and nothing changed, when they do not match.
    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) -> bool {
        let mut replaced = self.0.clone();
        let matching = replaced.len() == new.0.len()
            && replaced
                .iter_mut()
                .zip(new.0)
                .all(|(old, new)| old.replace(now, new, inherit));
        if matching {
            self.0 = replaced;
        }
        matching
    }
}

impl Limit for Limits {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        let mut at = now;
        // Waiting for one limit never makes another one worse, but what a window earns comes in
        // steps, so the latest of all may have to be asked again.
        loop {
            let mut refused: Option<Refusal> = None;
            for machine in &self.0 {
                if let Err(refusal) = machine.ready(at, tokens, debt) {
                    refused = Some(refused.map_or(refusal, |other| other.max(refusal)));
                }
            }
            match refused {
                None if at == now => return Ok(()),
                None => return Err(Refusal::Until(at)),
                Some(Refusal::Until(later)) if later > at && later != Instant::FAR_FUTURE => {
                    at = later;
                }
                Some(refusal) => return Err(refusal),
            }
        }
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        for machine in &mut self.0 {
            machine.put(now, tokens);
        }
    }

    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64) {
        for machine in &mut self.0 {
            machine.give(now, taken, tokens);
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        self.tightest(now)
    }
}

/// The first whole multiple of `window` after `at`, counted from `origin`.
fn next_multiple(origin: Instant, at: Instant, window: u64, further: u64) -> Instant {
    let index = at.as_nanos().saturating_sub(origin.as_nanos()) / window.max(1);
    let nanos = u128::from(index) + u128::from(further);
    let nanos = nanos * u128::from(window) + u128::from(origin.as_nanos());
    Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A window as a word, at least a nanosecond.
fn window_nanos(window: Duration) -> u64 {
    crate::instant::nanos(window).max(1)
}
