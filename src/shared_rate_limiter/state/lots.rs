//! Tokens that a process holds, with their age.

use crate::instant::Instant;
use crate::store::StoreTime;

/// Tokens that were granted together.
#[derive(Clone, Copy, Debug, Default)]
struct Lot {
    tokens: u64,
    /// When they were requested.
    since: Instant,
    /// When the store granted them, on its clock.
    granted: StoreTime,
}

/// Up to two lots, because a new one is requested shortly before the old one is used up. The older one is spent
/// first, and there is no newer lot without an older one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lots {
    old: Lot,
    new: Lot,
}

impl Lots {
    pub(crate) const fn held(&self) -> u64 {
        self.old.tokens + self.new.tokens
    }

    /// Returns the tokens that will not have expired at `then`.
    pub(crate) fn held_at(&self, then: Instant, life: u64) -> u64 {
        let lots = [self.old, self.new].into_iter();
        let lasts = lots.filter(|lot| then < lot.since.after(life));
        lasts.map(|lot| lot.tokens).sum()
    }

    /// Adds a lot.
    pub(crate) fn add(&mut self, tokens: u64, since: Instant, granted: StoreTime) {
        if tokens == 0 {
            return;
        }
        let lot = Lot {
            tokens,
            since,
            granted,
        };
        if self.old.tokens == 0 {
            self.old = lot;
        } else {
            // A third lot is merged: the two older ones keep the age of the oldest.
            self.old.tokens += self.new.tokens;
            self.new = lot;
        }
    }

    /// Puts back tokens that were taken and not spent.
    pub(crate) fn put_back(&mut self, tokens: u64, now: Instant, store: StoreTime) {
        if self.new.tokens > 0 {
            self.new.tokens += tokens;
        } else if self.old.tokens > 0 {
            self.old.tokens += tokens;
        } else {
            self.add(tokens, now, store);
        }
    }

    /// Spends up to `tokens`. Returns how many were spent.
    pub(crate) fn spend(&mut self, tokens: u64) -> u64 {
        let mut missing = tokens;
        for lot in [&mut self.old, &mut self.new] {
            let spent = lot.tokens.min(missing);
            lot.tokens -= spent;
            missing -= spent;
        }
        if self.old.tokens == 0 {
            self.old = std::mem::take(&mut self.new);
        }
        tokens - missing
    }

    /// Returns when the older lot expires.
    pub(crate) fn expires(&self, life: u64) -> Instant {
        match self.old.tokens {
            0 => Instant::FAR_FUTURE,
            _ => self.old.since.after(life),
        }
    }

    /// Moves expired tokens to those that are returned to the store, with the time at which they were granted.
    pub(crate) fn expire_into(
        &mut self,
        returned: &mut Option<(u64, StoreTime)>,
        now: Instant,
        life: u64,
    ) {
        while let Some((tokens, granted)) = self.expire(now, life) {
            *returned = Some(match *returned {
                Some((others, before)) => (others + tokens, before.min(granted)),
                None => (tokens, granted),
            });
        }
    }

    /// Removes the older lot if it has expired. Returns its tokens and when they were granted.
    fn expire(&mut self, now: Instant, life: u64) -> Option<(u64, StoreTime)> {
        if self.old.tokens == 0 || now < self.expires(life) {
            return None;
        }
        let expired = std::mem::replace(&mut self.old, std::mem::take(&mut self.new));
        Some((expired.tokens, expired.granted))
    }
}
