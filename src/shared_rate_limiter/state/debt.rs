//! What a process spent while it alone was cut off from the store.

use super::rules::Rules;
use crate::store::{StoreTime, Taken};

/// Tokens of the next grants that were spent already. At most a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debt(u64);

impl Debt {
    pub(crate) const fn get(&self) -> u64 {
        self.0
    }

    /// Records an answer to a request that debited tokens. `before` is when the store answered the last time, and
    /// what it held then, if it is known; `others` is what the other processes got since.
    ///
    /// What the bucket did not hold is owed, less what it could not keep meanwhile because it was full. If all
    /// processes were cut off, it was full; if only this one was, the others got the tokens.
    pub(crate) fn record(
        &mut self,
        rules: &Rules,
        before: (StoreTime, Option<f64>),
        taken: &Taken,
        others: u64,
    ) {
        if taken.owed == 0 {
            return;
        }
        let (since, level) = before;
        let burst = rules.burst as f64;
        let passed = taken.now.as_micros().saturating_sub(since.as_micros());
        let earned = passed as f64 * 1e3 / rules.token;
        let lost = (level.unwrap_or(burst) + earned - others as f64 - burst).max(0.0);
        let owed = (taken.owed as f64 - lost).max(0.0) as u64;
        self.0 = (self.0 + owed).min(rules.burst);
    }

    /// Pays out of a grant. Returns how many tokens of it.
    pub(crate) fn pay(&mut self, granted: u64) -> u64 {
        let paid = self.0.min(granted);
        self.0 -= paid;
        paid
    }
}
