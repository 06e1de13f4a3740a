//! Errors of builders.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::debug::DebugLimit;

/// The error of a builder: an invalid setting, or two settings that contradict each other.
///
/// Setters of builders neither fail nor panic; `build()` checks all settings.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    policy: &'static str,
    setting: &'static str,
    problem: &'static str,
    /// The two durations, if the problem is that they contradict each other.
    durations: Option<(Duration, Duration)>,
}

impl ConfigError {
    /// Returns an error about a setting of a policy, for builders of your own.
    pub const fn new(policy: &'static str, setting: &'static str, problem: &'static str) -> Self {
        Self {
            policy,
            setting,
            problem,
            durations: None,
        }
    }

    /// Returns an error about two settings that contradict each other: `setting`, which is the first duration, and
    /// the one that `problem` names at its end, which is the second.
    pub(crate) const fn contradiction(
        policy: &'static str,
        setting: &'static str,
        problem: &'static str,
        durations: (Duration, Duration),
    ) -> Self {
        let mut error = Self::new(policy, setting, problem);
        error.durations = Some(durations);
        error
    }

    /// Returns the name of the policy that could not be built, such as `circuit_breaker`.
    pub const fn policy(&self) -> &'static str {
        self.policy
    }

    /// Returns the setting, by the name of its setter.
    pub const fn setting(&self) -> &'static str {
        self.setting
    }

    /// Returns the violated rule, as the rest of a sentence: `must be at least 1`.
    pub const fn problem(&self) -> &'static str {
        self.problem
    }

    /// Returns the violated rule. If it is about two settings, includes the value of the other one.
    #[cfg(feature = "config")]
    pub(crate) fn rule(&self) -> String {
        let rule = self.problem.split(", is ").next().unwrap_or_default();
        match self.durations {
            Some((_, other)) => format!("{rule} of {:?}", DebugLimit(&other)),
            None => rule.to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            setting,
            problem,
            durations,
        } = self;
        match durations {
            None => write!(f, "{policy}: {setting} {problem}"),
            Some((own, other)) => {
                let (own, other) = (DebugLimit(own), DebugLimit(other));
                write!(f, "{policy}: {setting} of {own:?} {problem} of {other:?}")
            }
        }
    }
}

crate::debug::debug_settings!(ConfigError { policy, setting, problem; durations });

impl StdError for ConfigError {}
