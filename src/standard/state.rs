//! Checks for settings that contradict each other.

use std::time::Duration;

use crate::error::ConfigError;

/// The durations of a stack that must fit each other. `None` for an absent limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Durations {
    pub(super) total_timeout: Option<Duration>,
    pub(super) attempt_timeout: Option<Duration>,
    /// The retry's `max_elapsed`.
    pub(super) max_elapsed: Option<Duration>,
    /// The breaker's `slow_call`.
    pub(super) slow_call: Option<Duration>,
    /// The breaker's `probe_lease`.
    pub(super) probe_lease: Option<Duration>,
}

pub(super) const NAME: &str = "standard";

impl Durations {
    /// Explains which durations contradict each other, if any do.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rule =
            |setting, own: Option<Duration>, problem, other: Option<Duration>, fits: bool| match (
                own, other,
            ) {
                (Some(own), Some(other)) if !fits => {
                    let durations = (own, other);
                    Err(ConfigError::contradiction(
                        NAME, setting, problem, durations,
                    ))
                }
                _ => Ok(()),
            };
        for (setting, limit) in [
            ("total_timeout", self.total_timeout),
            ("attempt_timeout", self.attempt_timeout),
        ] {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Err(ConfigError::new(NAME, setting, "must be above zero, is 0s"));
            }
        }
        let (total, attempt) = (self.total_timeout, self.attempt_timeout);
        rule(
            "attempt_timeout",
            attempt,
            "must be shorter than total_timeout",
            total,
            attempt < total,
        )?;
        // A longer `max_elapsed` would never end a call.
        rule(
            "max_elapsed",
            self.max_elapsed,
            "must be shorter than total_timeout",
            total,
            self.max_elapsed < total,
        )?;
        // With a longer one, no call could be slow, because it would be cut off first.
        rule(
            "slow_call",
            self.slow_call,
            "must be shorter than attempt_timeout",
            attempt,
            self.slow_call < attempt,
        )?;
        // With a shorter one, a probe could lose its lease while its attempt still runs.
        rule(
            "probe_lease",
            self.probe_lease,
            "must not be shorter than attempt_timeout",
            attempt,
            self.probe_lease >= attempt,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    const USUAL: Durations = Durations {
        total_timeout: s(30),
        attempt_timeout: s(10),
        max_elapsed: s(20),
        slow_call: s(5),
        probe_lease: s(10),
    };

    #[test]
    fn contradictions_are_named_with_both_values() {
        let of = |change: fn(&mut Durations)| {
            let mut durations = USUAL;
            change(&mut durations);
            durations.check().map_err(|error| error.to_string())
        };
        assert_eq!(of(|_| ()), Ok(()));
        type Change = fn(&mut Durations);
        let table: [(Change, &str); 7] = [
            (
                |d| d.attempt_timeout = s(30),
                "attempt_timeout of 30s must be shorter than total_timeout of 30s",
            ),
            (
                |d| d.total_timeout = s(9),
                "attempt_timeout of 10s must be shorter than total_timeout of 9s",
            ),
            (
                |d| d.max_elapsed = s(30),
                "max_elapsed of 30s must be shorter than total_timeout of 30s",
            ),
            (
                |d| d.slow_call = s(10),
                "slow_call of 10s must be shorter than attempt_timeout of 10s",
            ),
            (
                |d| d.probe_lease = s(9),
                "probe_lease of 9s must not be shorter than attempt_timeout of 10s",
            ),
            (
                |d| d.total_timeout = s(0),
                "total_timeout must be above zero, is 0s",
            ),
            (
                |d| d.attempt_timeout = s(0),
                "attempt_timeout must be above zero, is 0s",
            ),
        ];
        for (change, text) in table {
            assert_eq!(of(change), Err(format!("standard: {text}")));
        }
    }

    #[test]
    fn without_a_limit_nothing_contradicts_it() {
        let unlimited = Durations {
            total_timeout: None,
            attempt_timeout: None,
            max_elapsed: s(1000),
            slow_call: s(1000),
            probe_lease: s(1),
        };
        assert_eq!(unlimited.check(), Ok(()));
        let one = Durations {
            attempt_timeout: s(1000),
            ..Durations::default()
        };
        assert_eq!(one.check(), Ok(()));
    }
}
