//! A striped token bucket, for threads that would contend for one.

use super::state::{Gcra, Inherit, Limit, StripedCopy, Unavailable, first_instant};
use super::token_bucket::TokenBucket;
use crate::instant::Instant;

/// A token bucket in several stripes, so that threads do not contend for one cache line.
///
/// Each stripe earns its share of the rate and holds its share of the burst. A thread takes from its home stripe, or
/// from the others if that is empty, so all tokens can be reached. The total never exceeds the rate and the burst.
#[derive(Debug)]
pub(super) struct StripedBucket {
    parts: Box<[Part]>,
}

/// Aligned to two cache lines, because processors prefetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Part(TokenBucket);

/// Divides `tokens` among buckets with these rules.
fn shares(rules: &[Gcra], now: Instant, tokens: u64) -> impl Iterator<Item = (&Gcra, u64)> {
    let mut left = tokens;
    rules.iter().map(move |gcra| {
        let share = left.min(gcra.burst());
        left -= share;
        (gcra, gcra.with_initial(now, share))
    })
}

/// Divides a debt evenly among parts.
fn debts(debt: u64, parts: usize) -> impl Iterator<Item = u64> {
    let parts = parts as u64;
    (0..parts).map(move |part| debt / parts + u64::from(part < debt % parts))
}

impl StripedBucket {
    /// Returns stripes with these rules, which hold `initial` tokens together.
    pub(super) fn new(rules: &[Gcra], now: Instant, initial: u64) -> Self {
        let parts =
            shares(rules, now, initial).map(|(gcra, tat)| Part(TokenBucket::new(gcra, tat)));
        Self {
            parts: parts.collect(),
        }
    }

    /// Returns the parts, beginning with the home part.
    fn from(&self, home: usize) -> impl Iterator<Item = &TokenBucket> {
        let count = self.parts.len();
        (0..count).map(move |offset| &self.parts[(home + offset) % count].0)
    }

    /// Tries `act` with one stripe after another. If none has the tokens, returns the earliest time that one will.
    #[inline]
    fn any(
        &self,
        home: usize,
        act: impl Fn(&TokenBucket) -> Result<(), Unavailable>,
    ) -> Result<(), Unavailable> {
        let mut earliest = Unavailable::Never;
        for part in self.from(home) {
            match act(part) {
                Ok(()) => return Ok(()),
                Err(unavailable) => earliest = earliest.min(unavailable),
            }
        }
        Err(earliest)
    }

    /// Takes `tokens` from one of the parts.
    #[inline]
    pub(super) fn take(&self, home: usize, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        let home = home % self.parts.len();
        match self.parts[home].0.take(now, tokens) {
            Ok(()) => Ok(()),
            Err(_) => self.any(home, |part| part.take(now, tokens)),
        }
    }

    pub(super) fn serve(
        &self,
        home: usize,
        from: Instant,
        now: Instant,
        tokens: u64,
    ) -> Result<(), Unavailable> {
        self.any(home, |part| part.serve(from, now, tokens))
    }

    /// Takes as many of `tokens` as leave each stripe at most `debt` tokens of debt, from several stripes if
    /// necessary. Returns the number taken.
    pub(super) fn charge(&self, home: usize, now: Instant, tokens: u64, debt: u64) -> u64 {
        // First the available tokens; then equal debts, so that the whole rate pays for them; then the rest of each
        // stripe's share.
        let mut left = tokens;
        for round in 0..3 {
            let most = match round {
                0 => 0,
                1 => left.div_ceil(self.parts.len() as u64),
                _ => u64::MAX,
            };
            for (part, share) in self.from(home).zip(debts(debt, self.parts.len())) {
                left -= part.charge(now, left, share.min(most));
            }
        }
        tokens - left
    }

    /// Takes `tokens`, leaving no more than `debt` tokens of debt, and reads the state afterwards.
    pub(super) fn borrow<R>(
        &self,
        home: usize,
        now: Instant,
        (tokens, debt): (u64, u64),
        read: impl Fn(&dyn Limit, Instant) -> R,
    ) -> (Result<(), Unavailable>, R) {
        let whole = self.take(home, now, tokens);
        let ready = match whole {
            Err(_) if debt > 0 => {
                let charged = self.charge(home, now, tokens, debt);
                if charged == tokens {
                    Ok(())
                } else {
                    self.give(home, now, charged);
                    Err(self.until(now, tokens, debt))
                }
            }
            whole => whole,
        };
        (ready, read(&self.copy(), now))
    }

    /// Returns when the parts together can give `tokens`, leaving no more than `debt` tokens of debt.
    #[cold]
    fn until(&self, now: Instant, tokens: u64, debt: u64) -> Unavailable {
        let parts = self.copy();
        let has_room = |at| {
            let each = parts.0.iter().zip(debts(debt, parts.0.len()));
            let rooms = each.map(|((gcra, tat), share)| gcra.availability(*tat, at).room(share));
            rooms.fold(0, u64::saturating_add) >= tokens
        };
        let first = first_instant(now, parts.availability(now).full_at, has_room);
        first.map_or(Unavailable::Never, Unavailable::Until)
    }

    /// Gives `tokens` back to the parts that are not full. Debts are paid first: otherwise one part would admit calls
    /// with tokens that others owe.
    pub(super) fn give(&self, home: usize, now: Instant, tokens: u64) {
        let parts = || self.from(home);
        let left = parts().fold(tokens, |left, part| part.pay(now, left));
        parts().fold(left, |left, part| part.give(now, left));
    }

    /// Returns a copy for forecasts. The parts are read one after another.
    pub(super) fn copy(&self) -> StripedCopy {
        StripedCopy(self.parts.iter().map(|part| part.0.copy()).collect())
    }

    pub(super) fn replace(&self, now: Instant, new: &[Gcra], initial: u64, inherit: Inherit) {
        for (part, (gcra, fresh)) in self.parts.iter().zip(shares(new, now, initial)) {
            part.0.replace(now, gcra, fresh, inherit);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }
}
