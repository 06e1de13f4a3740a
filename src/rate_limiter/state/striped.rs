//! A token bucket in parts, for threads that would fight for one.

use std::time::Duration;

use super::token_bucket::{Gcra, TokenBucket};
use super::{Grid, Inherit, Limit, Refusal, Standing};
use crate::instant::Instant;

/// A token bucket in several parts, so that threads do not fight for one cache line.
///
/// Each part earns its share of the rate and holds its share of the burst. A thread takes from a
/// part of its own, and from the others when that is empty, so no token is out of reach; the total
/// never exceeds the rate and the burst.
#[derive(Debug)]
pub(crate) struct Striped {
    parts: Box<[TokenBucket]>,
}

impl Striped {
    /// `parts` buckets for a limit of `tokens` per `period`; `burst` is at least one token each.
    pub(crate) fn new(rules: &[Gcra], now: Instant, initial: u64) -> Self {
        let mut left = initial;
        let parts = rules
            .iter()
            .map(|gcra| {
                let share = left.min(gcra.burst());
                left -= share;
                TokenBucket::new(gcra, gcra.holding(now, share))
            })
            .collect();
        Self { parts }
    }

    /// The rules of each part, for a whole limit on `grid` with `burst`.
    ///
    /// A token of a part costs as many times more units as there are parts.
    pub(crate) fn rules(tokens: u64, period: Duration, burst: u64, parts: u64) -> Vec<Gcra> {
        (0..parts)
            .map(|part| {
                let share = burst / parts + u64::from(part < burst % parts);
                let grid = Grid::shared(tokens, period, share, parts);
                Gcra::new(grid, share)
            })
            .collect()
    }

    fn from(&self, first: usize) -> impl Iterator<Item = &TokenBucket> {
        let count = self.parts.len();
        (0..count).map(move |offset| &self.parts[(first + offset) % count])
    }

    /// Takes `tokens` from one of the parts, beginning with the thread's own, `home`.
    #[inline]
    pub(crate) fn take(&self, home: usize, now: Instant, tokens: u64) -> Result<(), Refusal> {
        let home = home % self.parts.len();
        let mut refused = match self.parts[home].take(now, tokens) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        for part in self.from(home).skip(1) {
            match part.take(now, tokens) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = refused.min(refusal),
            }
        }
        Err(refused)
    }

    pub(crate) fn borrow(
        &self,
        home: usize,
        now: Instant,
        tokens: u64,
        debt: u64,
    ) -> (Result<(), Refusal>, Result<(), Refusal>) {
        if self.take(home, now, tokens).is_ok() {
            return (Ok(()), Ok(()));
        }
        let part = &self.parts[home % self.parts.len()];
        let (ready, _, paid) = part.borrow(now, tokens, debt / self.parts.len() as u64);
        (ready, paid)
    }

    pub(crate) fn give(&self, home: usize, tokens: u64) {
        self.parts[home % self.parts.len()].give(tokens);
    }

    /// A copy that can be asked what would be: the parts one after the other.
    pub(crate) fn copy(&self) -> Parts {
        Parts(self.parts.iter().map(TokenBucket::copy).collect())
    }

    pub(crate) fn replace(&self, now: Instant, new: &[Gcra], inherit: Inherit) {
        for (part, gcra) in self.parts.iter().zip(new) {
            part.replace(now, gcra, inherit);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }
}

/// A copy of a striped bucket: each part's rules and state.
#[derive(Clone, Debug)]
pub(crate) struct Parts(Vec<(Gcra, u64)>);

impl Parts {
    /// The part that has `tokens` first.
    fn best(&mut self, now: Instant, tokens: u64) -> Option<&mut (Gcra, u64)> {
        self.0
            .iter_mut()
            .min_by_key(|(gcra, tat)| match gcra.ready(*tat, now, tokens, 0) {
                Ok(()) => Instant::ORIGIN,
                Err(Refusal::Until(at)) => at,
                Err(Refusal::Never) => Instant::FAR_FUTURE,
            })
    }
}

impl Limit for Parts {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Refusal> {
        let mut refused = Refusal::Never;
        for (gcra, tat) in &self.0 {
            match gcra.ready(*tat, now, tokens, debt) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = refused.min(refusal),
            }
        }
        Err(refused)
    }

    fn put(&mut self, now: Instant, tokens: u64) {
        if let Some((gcra, tat)) = self.best(now, tokens) {
            *tat = gcra.put(*tat, now, tokens);
        }
    }

    fn give(&mut self, _: Instant, _: Option<Instant>, tokens: u64) {
        if let Some((gcra, tat)) = self.0.first_mut() {
            *tat = gcra.give(*tat, tokens);
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        let mut sum = Standing::new(0, 0, now);
        for (gcra, tat) in &self.0 {
            let standing = gcra.standing(*tat, now);
            sum.limit = sum.limit.saturating_add(standing.limit);
            sum.available = sum.available.saturating_add(standing.available);
            sum.full_at = sum.full_at.max(standing.full_at);
        }
        sum
    }
}
