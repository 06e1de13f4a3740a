//! The further copies of a call, and the outcomes of those that have failed.

use std::pin::Pin;

use super::inner::{Extras, InFlight};
use crate::error::Error;
use crate::instant::Instant;
use crate::policy::{Operation, Outcome};

pub(super) type OutcomeOf<Op> = Outcome<<Op as Operation>::Value, <Op as Operation>::Error>;

/// The further copies of a call.
pub(super) struct Copies<'a, Op: Operation> {
    pub(super) in_flight: Vec<OtherCopy<'a, Op>>,
    pub(super) launched: u32,
    /// The outcome to return if all copies fail: that of a failed copy, preferably one that was executed.
    pub(super) kept: Option<OutcomeOf<Op>>,
}

pub(super) struct OtherCopy<'a, Op: Operation> {
    // `None` once the copy has been dropped.
    pub(super) attempt: Option<Pin<Box<Op::Attempt>>>,
    pub(super) number: u32,
    pub(super) started: Instant,
    // Released after the attempt has been dropped.
    pub(super) _extras: Extras<'a>,
    pub(super) _in_flight: InFlight<'a>,
}

/// Returns the number of further copies launched so far.
pub(super) fn launched<Op: Operation>(copies: &Option<Box<Copies<'_, Op>>>) -> u32 {
    copies.as_ref().map_or(0, |copies| copies.launched)
}

pub(super) fn is_rejected<T, E>(outcome: &Outcome<T, E>) -> bool {
    outcome.result.as_ref().is_err_and(Error::is_rejected)
}

/// Returns the later of two outcomes, unless it is a rejection and the earlier one is not.
pub(super) fn better<Op: Operation>(
    kept: Option<OutcomeOf<Op>>,
    outcome: OutcomeOf<Op>,
    op: Op,
) -> OutcomeOf<Op> {
    // A new outcome, because the cached end time of the old one is out of date by the time it is returned.
    let outcome = Outcome::new(outcome.result, outcome.verdict);
    match kept {
        Some(kept) if is_rejected(&outcome) && !is_rejected(&kept) => {
            discard(Some(outcome), op);
            kept
        }
        kept => {
            discard(kept, op);
            outcome
        }
    }
}

pub(super) fn discard<Op: Operation>(outcome: Option<OutcomeOf<Op>>, op: Op) {
    if let Some(Err(error)) = outcome.map(|outcome| outcome.result) {
        op.discard(error);
    }
}
