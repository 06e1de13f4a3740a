//! The rules of retries: whether another attempt follows, and when. Time is an argument.

use std::time::Duration;

use crate::event::StopReason;
use crate::instant::Instant;
use crate::verdict::Verdict;

/// The effect of a server's hint ([`Verdict::hint`]) on the delay of a retry.
///
/// Under any rule, no wait goes beyond the deadline: if the hint ends after it, the retry stops at once. Only
/// [`HintRule::Ignore`] and [`RetryBuilder::delay_with`](super::RetryBuilder::delay_with) do not check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintRule {
    /// Waits for the time of the hint, plus the jitter of the backoff, so that clients do not return all at once. A
    /// hint above [`max_hint`](super::RetryBuilder::max_hint), or beyond the deadline or the longest time of the
    /// call, ends the call at once. The default.
    #[default]
    Obey,
    /// Waits for the time of the hint, but at least the computed delay and at most this much longer. So a server can
    /// neither make callers hammer it nor stop them for a day. As in the AWS SDKs, with 5 s.
    Within(Duration),
    /// Waits for the time of the hint, but at most this long.
    UpTo(Duration),
    /// Waits for the computed delay, and ignores the hint.
    Ignore,
}

/// A failed attempt that will be followed by another one. Passed to the hooks of a
/// [`Retry`](super::Retry).
#[derive(Clone, Copy, Debug)]
pub struct Retrying {
    attempt: u32,
    verdict: Verdict,
    delay: Duration,
}

impl Retrying {
    pub(super) const fn new(attempt: u32, verdict: Verdict, delay: Duration) -> Self {
        Self {
            attempt,
            verdict,
            delay,
        }
    }

    /// Returns the number of the attempt, from 1.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the verdict on the attempt.
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Returns the wait before the next attempt. In a [`delay_with`](super::RetryBuilder::delay_with) hook, this is
    /// the computed delay; in other hooks, it is the final one.
    pub const fn delay(&self) -> Duration {
        self.delay
    }
}

/// The limits of a call that do not depend on the failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_attempts: u32,
    /// The longest wait that a server may ask for.
    pub(super) max_hint: Duration,
    /// No attempt starts after this.
    pub(super) latest_start: Instant,
    /// No attempt starts at this time or later.
    pub(super) deadline: Instant,
}

/// Whether a call may be repeated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) idempotent: bool,
    pub(super) repeatable: bool,
}

/// Returns whether attempt number `attempt`, which ended with `verdict`, may be followed by another. `started` means
/// that the operation was executed, not rejected by an inner layer.
pub(super) fn may_repeat(
    limits: &Limits,
    attempt: u32,
    call: Call,
    started: bool,
    verdict: &Verdict,
) -> Result<(), StopReason> {
    if !verdict.is_retryable() {
        Err(StopReason::NotRetryable)
    } else if started && !call.repeatable {
        Err(StopReason::NotRepeatable)
    } else if !call.idempotent && verdict.may_have_been_executed() {
        Err(StopReason::NotIdempotent)
    } else if attempt >= limits.max_attempts {
        Err(StopReason::MaxAttempts)
    } else {
        Ok(())
    }
}

/// A wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) delay: Duration,
    /// The time at which the server or the rejecting layer admits calls again. A delay beyond it is jitter, and may
    /// be dropped.
    pub(super) earliest: Duration,
    /// Whether it follows an obeyed hint of a server.
    pub(super) is_obeyed: bool,
}

impl Wait {
    /// Returns a wait that follows from the backoff alone.
    pub(super) const fn of(delay: Duration) -> Self {
        Self {
            delay,
            earliest: Duration::ZERO,
            is_obeyed: false,
        }
    }

    /// Returns the wait that a hint leads to. `computed` is the delay of the backoff, `spread` its random part.
    pub(super) fn hinted(
        rule: HintRule,
        hint: Duration,
        computed: impl FnOnce() -> Duration,
        spread: impl FnOnce() -> Duration,
    ) -> Self {
        let delay = match rule {
            HintRule::Obey => hint.saturating_add(spread()),
            HintRule::Within(extra) => {
                let computed = computed();
                hint.clamp(computed, computed.saturating_add(extra))
            }
            HintRule::UpTo(max) => hint.min(max),
            HintRule::Ignore => return Self::of(computed()),
        };
        Self {
            delay,
            earliest: hint,
            is_obeyed: matches!(rule, HintRule::Obey),
        }
    }
}

/// Returns the delay before the next attempt, or the reason to stop.
pub(super) fn may_start(limits: &Limits, now: Instant, wait: Wait) -> Result<Duration, StopReason> {
    if wait.is_obeyed && wait.earliest > limits.max_hint {
        return Err(StopReason::HintTooLong);
    }
    let check = |delay: Duration| {
        let next = now + delay;
        if next.max(now + wait.earliest) >= limits.deadline {
            Err(StopReason::Deadline)
        } else if next > limits.latest_start {
            Err(StopReason::MaxElapsed)
        } else {
            Ok(delay)
        }
    };
    // If only the jitter pushes an obeyed hint beyond a limit, the hint applies without jitter.
    match check(wait.delay) {
        Err(_) if wait.is_obeyed => check(wait.earliest),
        checked => checked,
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
        max_hint: s(60),
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
            let call = Call {
                idempotent,
                repeatable: true,
            };
            assert_eq!(may_repeat(&LIMITS, attempt, call, true, &verdict), expected);
        }
    }

    #[test]
    fn an_operation_that_runs_once_is_retried_only_if_it_did_not_start() {
        let call = Call {
            idempotent: true,
            repeatable: false,
        };
        let refused = Verdict::transient().not_executed();
        let stop = Err(StopReason::NotRepeatable);
        assert_eq!(may_repeat(&LIMITS, 1, call, true, &refused), stop);
        assert_eq!(may_repeat(&LIMITS, 1, call, false, &refused), Ok(()));
    }

    const fn n(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    const START: Instant = Instant::ORIGIN;

    #[test]
    fn nothing_starts_at_the_deadline_or_after_the_longest_time() {
        let unlimited = Limits {
            latest_start: Instant::FAR_FUTURE,
            ..LIMITS
        };
        let start = |limits, delay| may_start(limits, START, Wait::of(n(delay)));
        assert_eq!(start(&LIMITS, 50), Ok(n(50)));
        assert_eq!(start(&LIMITS, 51), Err(StopReason::MaxElapsed));
        assert_eq!(start(&unlimited, 99), Ok(n(99)));
        assert_eq!(start(&unlimited, 100), Err(StopReason::Deadline));
        // A rule may shorten a hint, but must not return before a deadline that the hint exceeds.
        let short = Wait::hinted(HintRule::UpTo(n(1)), n(100), || n(7), || n(7));
        assert_eq!(may_start(&LIMITS, START, short), Err(StopReason::Deadline));
    }

    #[test]
    fn a_hint_that_does_not_fit_ends_the_call_and_jitter_does_not() {
        let obey = |hint, spread| Wait::hinted(HintRule::Obey, hint, || n(7), || spread);
        let start = |wait| may_start(&LIMITS, START, wait);
        assert_eq!(start(obey(n(20), n(5))), Ok(n(25)));
        assert_eq!(start(obey(n(50), n(5))), Ok(n(50)));
        assert_eq!(start(obey(n(51), n(0))), Err(StopReason::MaxElapsed));
        assert_eq!(start(obey(n(100), n(0))), Err(StopReason::Deadline));
        let unlimited = Limits {
            latest_start: Instant::FAR_FUTURE,
            deadline: Instant::FAR_FUTURE,
            ..LIMITS
        };
        let start = |wait| may_start(&unlimited, START, wait);
        assert_eq!(start(obey(s(60), s(7))), Ok(s(67)));
        let longer = s(60) + n(1);
        assert_eq!(start(obey(longer, s(0))), Err(StopReason::HintTooLong));
    }

    #[test]
    fn hints() {
        let within = HintRule::Within(s(5));
        let table = [
            (HintRule::Obey, s(1), s(0), s(2)),
            (HintRule::Obey, s(1), s(30), s(32)),
            (HintRule::Obey, s(1), Duration::MAX, Duration::MAX),
            (within, s(1), s(0), s(1)),
            (within, s(1), s(3), s(3)),
            (within, s(1), s(60), s(6)),
            (within, Duration::MAX, s(1), Duration::MAX),
            (HintRule::UpTo(s(20)), s(1), s(30), s(20)),
            (HintRule::UpTo(s(20)), s(1), s(0), s(0)),
            (HintRule::Ignore, s(1), s(30), s(1)),
        ];
        for (rule, computed, hint, expected) in table {
            let wait = Wait::hinted(rule, hint, || computed, || s(2));
            assert_eq!(wait.delay, expected);
        }
    }
}
