//! Limits of keys for which the word of a token bucket does not suffice.

use super::super::RateLimiter;
use super::super::decision::Decision;
use super::super::state::Gcra;
use super::call_time::CallTime;
use crate::instant::Instant;

/// The limit of a key that has a quota of its own, another algorithm, waiters, or a pause.
#[derive(Clone, Debug)]
pub(super) struct OwnLimit {
    /// Whether it follows changes of the default quota.
    pub(super) is_default: bool,
    pub(super) paused_until: Instant,
    pub(super) limit: KeyLimit,
}

#[derive(Clone, Debug)]
pub(super) enum KeyLimit {
    /// A token bucket.
    Bucket { gcra: Gcra, tat: u64 },
    /// Any other algorithm, several quotas, a warm-up, an adaptive rate, or waiters.
    Limiter(RateLimiter),
}

impl OwnLimit {
    pub(super) const fn new(is_default: bool, limit: KeyLimit) -> Self {
        Self {
            is_default,
            paused_until: Instant::ORIGIN,
            limit,
        }
    }

    /// Returns the decision about a call that costs one token. Called outside all locks.
    pub(super) fn peek(&self, time: CallTime) -> Decision {
        let time = time.paused_until(self.paused_until);
        match &self.limit {
            KeyLimit::Bucket { gcra, tat } => time.peek_bucket(*tat, gcra, 1),
            KeyLimit::Limiter(limiter) => time.peek_limiter(limiter, 1),
        }
    }

    /// Returns when the key will be indistinguishable from a new one if it is not used until then. `None`
    /// while a call waits or holds a reservation, and once the key has found a rate.
    pub(super) fn fresh_at(&self, now: Instant) -> Option<Instant> {
        match &self.limit {
            KeyLimit::Bucket { gcra, tat } => {
                Some(gcra.availability(*tat, now).full_at.max(self.paused_until))
            }
            KeyLimit::Limiter(limiter) => Some(limiter.fresh_at(now)?.max(self.paused_until)),
        }
    }
}

/// The [`OwnLimit`]s of one table, by number.
#[derive(Debug, Default)]
pub(super) struct OwnLimits {
    all: Vec<Option<OwnLimit>>,
    free: Vec<u32>,
}

impl OwnLimits {
    pub(super) fn insert(&mut self, own_limit: OwnLimit) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            (self.all.len() - 1) as u32
        });
        self.all[number as usize] = Some(own_limit);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&OwnLimit> {
        self.all.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut OwnLimit> {
        self.all.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) {
        self.all[number as usize] = None;
        self.free.push(number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.len() == self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &OwnLimit> {
        self.all.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut OwnLimit> {
        self.all.iter_mut().flatten()
    }
}
