//! Decisions of a hedge: after the end of a copy, and whether to launch another one.

use std::time::Duration;

use crate::error::{Error, Reason};
use crate::event::NotSent;
use crate::instant::Instant;
use crate::verdict::{ErrorClass, Health, Verdict};

/// The effect of the end of a copy on its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hedge) enum CopyEffect {
    /// The result is the answer of the call.
    Answer,
    /// The copy is lost. Another one may be launched at once.
    Lost,
    /// The copy is lost and no further one is launched. Copies in flight may still answer.
    LastOne,
    /// Like `LastOne`, and hedging pauses for this long, or for `throttled_pause` without a hint.
    Throttled(Option<Duration>),
}

/// Classifies a result for its call. An answer is a result that no other attempt would improve, from a
/// dependency that is not failing.
pub(in crate::hedge) fn effect_of<T, E>(
    result: &Result<T, Error<E>>,
    verdict: &Verdict,
) -> CopyEffect {
    match result {
        // No time is left for any copy.
        Err(Error::TimedOut(timed_out)) if timed_out.is_by_deadline() => return CopyEffect::Answer,
        Err(Error::Rejected(rejected)) => {
            return match rejected.reason() {
                Reason::Throttled => CopyEffect::Throttled(rejected.retry_after()),
                _ => CopyEffect::LastOne,
            };
        }
        _ => {}
    }
    if is_good(verdict) {
        CopyEffect::Answer
    } else if verdict.class() == ErrorClass::Throttled || verdict.hint().is_some() {
        CopyEffect::Throttled(verdict.hint())
    } else if verdict.is_retryable() {
        CopyEffect::Lost
    } else {
        CopyEffect::LastOne
    }
}

/// Returns whether this is the verdict of an answer.
#[inline]
pub(in crate::hedge) fn is_good(verdict: &Verdict) -> bool {
    !verdict.is_retryable() && verdict.health() != Health::Unhealthy
}

/// Returns the verdict on a call whose copies failed with these verdicts, the later one `waited` after the other. It is
/// the later one, except that the rest of the longer hint applies, and that a retry is forbidden or slowed down as one
/// of the two says: all copies reached the same dependency.
pub(in crate::hedge) fn verdict_of_both(
    earlier: Verdict,
    waited: Duration,
    later: Verdict,
) -> Verdict {
    let mut verdict = later.with_retry(later.is_retryable() && earlier.is_retryable());
    if earlier.class() == ErrorClass::Throttled {
        verdict = verdict.with_class(ErrorClass::Throttled);
    }
    match earlier.later(waited).hint().max(later.hint()) {
        Some(hint) => verdict.after(hint),
        None => verdict,
    }
}

/// The facts about a call that decide whether a copy may be launched.
#[derive(Clone, Copy, Debug)]
pub(in crate::hedge) struct LaunchFacts {
    pub(in crate::hedge) idempotent: bool,
    pub(in crate::hedge) repeatable: bool,
    /// Whether the call is a copy itself.
    pub(in crate::hedge) nested: bool,
    /// Whether the call is a probe of a half-open circuit.
    pub(in crate::hedge) probe: bool,
    pub(in crate::hedge) deadline: Instant,
    /// End of the pause in hedging while the dependency throttles.
    pub(in crate::hedge) paused_until: Instant,
}

impl LaunchFacts {
    /// Returns whether a copy may be launched at `at`, apart from the budget.
    pub(in crate::hedge) fn may_launch(&self, at: Instant) -> Result<(), NotSent> {
        if !self.repeatable {
            Err(NotSent::NotRepeatable)
        } else if !self.idempotent {
            Err(NotSent::NotIdempotent)
        } else if self.nested {
            Err(NotSent::Nested)
        } else if self.probe {
            Err(NotSent::HalfOpen)
        } else if at < self.paused_until {
            Err(NotSent::Throttled)
        } else if at >= self.deadline {
            Err(NotSent::Deadline)
        } else {
            Ok(())
        }
    }
}
