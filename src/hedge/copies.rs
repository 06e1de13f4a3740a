//! The further copies of a call, and the outcomes of those that have failed.

use std::pin::Pin;

use super::inner::{Extras, InFlight};
use super::state::decision;
use crate::instant::Instant;
use crate::policy::{Operation, Outcome, OutcomeOf};

/// The further copies of a call.
pub(super) struct Copies<'a, Op: Operation> {
    pub(super) in_flight: Vec<OtherCopy<'a, Op>>,
    pub(super) launched: u32,
    /// The outcome to return if all copies fail: that of a failed copy, preferably one that was executed.
    pub(super) kept: Option<Kept<Op>>,
    /// Tokens that the last failure cost in the budget.
    pub(super) failure_cost: u64,
    /// The last of the copies that have ended without being rejected, and its price.
    pub(super) paid: Option<(u32, u64)>,
}

impl<Op: Operation> Copies<'_, Op> {
    /// Returns the price of the last copy that was not rejected.
    pub(super) fn last_price(&self) -> Option<u64> {
        let in_flight = self.in_flight.last();
        let in_flight = in_flight.map(|copy| (copy.number, copy.extras.price()));
        in_flight.max(self.paid).map(|(_, price)| price)
    }

    /// Ends the copies in flight, and discards the outcome that was kept. Returns how many were launched.
    pub(super) fn end(self, op: Op) -> u32 {
        drop(self.in_flight);
        if let Some(kept) = self.kept {
            discard(kept.outcome, op);
        }
        self.launched
    }
}

/// The outcome of a failed copy, and when that copy ended.
pub(super) struct Kept<Op: Operation> {
    pub(super) outcome: OutcomeOf<Op>,
    pub(super) at: Instant,
}

pub(super) struct OtherCopy<'a, Op: Operation> {
    // `None` once the copy has been dropped.
    pub(super) attempt: Option<Pin<Box<Op::Attempt>>>,
    pub(super) number: u32,
    pub(super) started: Instant,
    // Released after the attempt has been dropped.
    pub(super) extras: Extras<'a>,
    pub(super) _in_flight: InFlight<'a>,
}

/// Returns the number of further copies launched so far.
pub(super) fn launched<Op: Operation>(copies: &Option<Box<Copies<'_, Op>>>) -> u32 {
    copies.as_ref().map_or(0, |copies| copies.launched)
}

/// Returns the later of two outcomes, unless it is a rejection and the earlier one is not. The verdict obeys what the
/// servers of both copies asked for.
pub(super) fn better<Op: Operation>(
    kept: Option<Kept<Op>>,
    outcome: OutcomeOf<Op>,
    now: Instant,
    op: Op,
) -> Kept<Op> {
    // A new outcome, because the cached end time of the old one is out of date by the time it is returned.
    let mut outcome = Outcome::new(outcome.result, outcome.verdict);
    match kept {
        Some(kept) if outcome.is_rejected() && !kept.outcome.is_rejected() => {
            discard(outcome, op);
            kept
        }
        kept => {
            if let Some(kept) = kept {
                if !kept.outcome.is_rejected() {
                    let waited = now.saturating_duration_since(kept.at);
                    outcome.verdict =
                        decision::verdict_of_both(kept.outcome.verdict, waited, outcome.verdict);
                }
                discard(kept.outcome, op);
            }
            Kept { outcome, at: now }
        }
    }
}

fn discard<Op: Operation>(outcome: OutcomeOf<Op>, op: Op) {
    if let Err(error) = outcome.result {
        op.discard(error);
    }
}
