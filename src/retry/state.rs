//! Whether to try again, and when. Time comes in as an argument.

use std::time::Duration;

use super::config::HintRule;
use crate::event::StopReason;
use crate::instant::Instant;
use crate::verdict::Verdict;

/// The limits of a call that do not depend on the failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_attempts: u32,
    /// No attempt starts after this.
    pub(super) latest_start: Instant,
    /// No attempt starts at this or after.
    pub(super) deadline: Instant,
}

/// Whether attempt number `attempt`, which ended with `verdict`, may be followed by another.
pub(super) fn may_repeat(
    limits: &Limits,
    attempt: u32,
    idempotent: bool,
    verdict: &Verdict,
) -> Result<(), StopReason> {
    if !verdict.is_retryable() {
        Err(StopReason::NotRetryable)
    } else if !idempotent && verdict.may_have_been_executed() {
        Err(StopReason::NotIdempotent)
    } else if attempt >= limits.max_attempts {
        Err(StopReason::MaxAttempts)
    } else {
        Ok(())
    }
}

/// Whether an attempt may start at `next`. `earliest` is when the server said to come back.
pub(super) fn may_start(
    limits: &Limits,
    next: Instant,
    earliest: Instant,
) -> Result<(), StopReason> {
    if next.max(earliest) >= limits.deadline {
        Err(StopReason::Deadline)
    } else if next > limits.latest_start {
        Err(StopReason::MaxElapsed)
    } else {
        Ok(())
    }
}

/// The delay that the server's hint makes of the computed one.
pub(super) fn apply_hint(rule: HintRule, computed: Duration, hint: Option<Duration>) -> Duration {
    match (rule, hint) {
        (HintRule::Within(extra), Some(hint)) => {
            hint.clamp(computed, computed.saturating_add(extra))
        }
        (HintRule::UpTo(max), Some(hint)) => hint.min(max),
        (HintRule::Ignore, _) | (_, None) => computed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const LIMITS: Limits = Limits {
        max_attempts: 3,
        latest_start: Instant::from_nanos(50),
        deadline: Instant::from_nanos(100),
    };

    #[test]
    fn the_first_rule_that_forbids_a_retry_is_named() {
        let table = [
            (1, true, Verdict::transient(), Ok(())),
            (2, true, Verdict::transient(), Ok(())),
            (3, true, Verdict::transient(), Err(StopReason::MaxAttempts)),
            (1, true, Verdict::permanent(), Err(StopReason::NotRetryable)),
            (
                1,
                false,
                Verdict::transient(),
                Err(StopReason::NotIdempotent),
            ),
            (1, false, Verdict::transient().not_executed(), Ok(())),
            (1, true, Verdict::failure(), Err(StopReason::NotRetryable)),
        ];
        for (attempt, idempotent, verdict, expected) in table {
            assert_eq!(may_repeat(&LIMITS, attempt, idempotent, &verdict), expected);
        }
    }

    #[test]
    fn nothing_starts_at_the_deadline_or_after_the_longest_time() {
        let at = Instant::from_nanos;
        let unlimited = Limits {
            latest_start: Instant::FAR_FUTURE,
            ..LIMITS
        };
        assert_eq!(may_start(&LIMITS, at(50), at(0)), Ok(()));
        assert_eq!(
            may_start(&LIMITS, at(51), at(0)),
            Err(StopReason::MaxElapsed)
        );
        assert_eq!(may_start(&unlimited, at(99), at(0)), Ok(()));
        assert_eq!(
            may_start(&unlimited, at(100), at(0)),
            Err(StopReason::Deadline)
        );
        assert_eq!(
            may_start(&LIMITS, at(1), at(100)),
            Err(StopReason::Deadline)
        );
    }

    #[test]
    fn hints() {
        let within = HintRule::Within(s(5));
        let table = [
            (within, s(1), None, s(1)),
            (within, s(1), Some(s(0)), s(1)),
            (within, s(1), Some(s(3)), s(3)),
            (within, s(1), Some(s(60)), s(6)),
            (within, Duration::MAX, Some(s(1)), Duration::MAX),
            (HintRule::UpTo(s(20)), s(1), Some(s(30)), s(20)),
            (HintRule::UpTo(s(20)), s(1), Some(s(0)), s(0)),
            (HintRule::Ignore, s(1), Some(s(30)), s(1)),
        ];
        for (rule, computed, hint, expected) in table {
            assert_eq!(apply_hint(rule, computed, hint), expected);
        }
    }
}
