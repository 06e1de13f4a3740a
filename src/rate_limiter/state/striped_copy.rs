//! A copy of a striped token bucket, for forecasts.

use std::time::Duration;

use super::gcra::Gcra;
use super::limit::{Availability, Limit, Unavailable, first_instant};
use crate::instant::Instant;

/// The rules and the state of each stripe.
#[derive(Clone, Debug)]
pub(crate) struct StripedCopy(pub(crate) Vec<(Gcra, u64)>);

impl StripedCopy {
    /// Returns the stripe that will have `tokens` first.
    fn best(&mut self, now: Instant, tokens: u64) -> Option<&mut (Gcra, u64)> {
        self.0
            .iter_mut()
            .min_by_key(|(gcra, tat)| match gcra.ready(*tat, now, tokens, 0) {
                Ok(()) => Instant::ORIGIN,
                Err(Unavailable::Until(at)) => at,
                Err(Unavailable::Never) => Instant::FAR_FUTURE,
            })
    }
}

impl Limit for StripedCopy {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        let each = self.0.iter();
        if tokens == 0 {
            // Whether all debts are paid.
            let unavailable = each.filter_map(|(gcra, tat)| gcra.ready(*tat, now, 0, debt).err());
            return unavailable.reduce(Unavailable::max).map_or(Ok(()), Err);
        }
        let mut earliest = Unavailable::Never;
        for (gcra, tat) in each {
            match gcra.ready(*tat, now, tokens, debt) {
                Ok(()) => return Ok(()),
                Err(unavailable) => earliest = earliest.min(unavailable),
            }
        }
        Err(earliest)
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        if let Some((gcra, tat)) = self.best(now, tokens) {
            *tat = gcra.force_take(*tat, now, tokens);
        }
    }

    fn give(&mut self, now: Instant, _: Option<Instant>, tokens: u64) {
        let mut left = tokens;
        // Debts first, as in the striped bucket.
        for most in [Gcra::debt, Gcra::missing] {
            for (gcra, tat) in &mut self.0 {
                let given = left.min(most(gcra, *tat, now));
                *tat = gcra.give(*tat, given);
                left -= given;
            }
        }
    }

    fn availability(&self, now: Instant) -> Availability {
        let mut sum = Availability::new(0, 0, now, Duration::ZERO);
        for (gcra, tat) in &self.0 {
            let availability = gcra.availability(*tat, now);
            sum.limit = sum.limit.saturating_add(availability.limit);
            sum.available = sum.available.saturating_add(availability.available);
            sum.full_at = sum.full_at.max(availability.full_at);
            sum.window = sum.window.max(availability.window);
        }
        sum
    }

    fn has_more(&self, now: Instant, tokens: u64) -> Result<(), Unavailable> {
        // The debt of one stripe hides the tokens of the others, so no single stripe knows when.
        let has_more = |at| self.availability(at).room(0) > tokens;
        match first_instant(now, self.availability(now).full_at, has_more) {
            Some(at) if at == now => Ok(()),
            Some(at) => Err(Unavailable::Until(at)),
            None => Err(Unavailable::Never),
        }
    }
}
