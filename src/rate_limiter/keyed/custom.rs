//! Keys whose state is more than the word of a token bucket with the default quota.

use super::super::RateLimiter;
use super::super::state::{Gcra, Standing};
use crate::instant::Instant;

/// The limit of a key that has a quota of its own, another algorithm, or is paused.
#[derive(Debug)]
pub(super) struct Custom {
    /// Whether it follows changes of the default quota.
    pub(super) is_default: bool,
    pub(super) paused_until: Instant,
    pub(super) limit: Limit,
}

#[derive(Debug)]
pub(super) enum Limit {
    /// A token bucket.
    Bucket { gcra: Gcra, tat: u64 },
    /// Any other algorithm, several quotas, or a warm-up.
    Limiter(RateLimiter),
}

impl Custom {
    pub(super) const fn new(is_default: bool, limit: Limit) -> Self {
        Self {
            is_default,
            paused_until: Instant::ORIGIN,
            limit,
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut standing = match &self.limit {
            Limit::Bucket { gcra, tat } => gcra.standing(*tat, now),
            Limit::Limiter(limiter) => limiter.standing(now),
        };
        standing.full_at = standing.full_at.max(self.paused_until);
        standing
    }

    /// Returns when the key will be indistinguishable from a new one if it is not used until then;
    /// `None` while a caller waits or holds a reservation.
    pub(super) fn fresh_at(&self, now: Instant) -> Option<Instant> {
        match &self.limit {
            Limit::Limiter(limiter) if !limiter.is_unused() => None,
            _ => Some(self.standing(now).full_at),
        }
    }
}

/// The customs of one table, by number.
#[derive(Debug, Default)]
pub(super) struct Customs {
    all: Vec<Option<Custom>>,
    free: Vec<u32>,
}

impl Customs {
    pub(super) fn insert(&mut self, custom: Custom) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            (self.all.len() - 1) as u32
        });
        self.all[number as usize] = Some(custom);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Custom> {
        self.all.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Custom> {
        self.all.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) {
        self.all[number as usize] = None;
        self.free.push(number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.len() == self.free.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Custom> {
        self.all.iter_mut().flatten()
    }
}
