//! A striped token bucket, as a copy that can be asked what would be.

use std::time::Duration;

use super::gcra::Gcra;
use super::limit::{Limit, Refusal, Standing};
use crate::instant::Instant;

/// A copy of a striped bucket: each part's rules and state.
#[derive(Clone, Debug)]
pub(crate) struct Parts(pub(crate) Vec<(Gcra, u64)>);

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
        let each = self.0.iter();
        if tokens == 0 {
            // Whether all debts are paid.
            let refused = each.filter_map(|(gcra, tat)| gcra.ready(*tat, now, 0, debt).err());
            return refused.reduce(Refusal::max).map_or(Ok(()), Err);
        }
        let mut refused = Refusal::Never;
        for (gcra, tat) in each {
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

    fn give(&mut self, now: Instant, _: Option<Instant>, tokens: u64) {
        let mut left = tokens;
        for (gcra, tat) in &mut self.0 {
            let given = left.min(gcra.missing(*tat, now));
            *tat = gcra.give(*tat, given);
            left -= given;
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        let mut sum = Standing::new(0, 0, now, Duration::ZERO);
        for (gcra, tat) in &self.0 {
            let standing = gcra.standing(*tat, now);
            sum.limit = sum.limit.saturating_add(standing.limit);
            sum.available = sum.available.saturating_add(standing.available);
            sum.full_at = sum.full_at.max(standing.full_at);
            sum.window = sum.window.max(standing.window);
        }
        sum
    }
}
