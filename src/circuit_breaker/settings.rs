//! Settings that no call reads while the circuit is closed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::state::{HalfOpenRules, Rules};
use crate::backoff::{Backoff, Jitter};
use crate::verdict::Health;

/// Settings for open and half-open circuits and for dropped permits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) half_open: HalfOpenRules,
    pub(super) max_hint: Duration,
    pub(super) ramp_up: Duration,
    pub(super) cancelled_as: Health,
    pub(super) panicked_as: Health,
}

impl Settings {
    /// The default settings, shared by most breakers.
    pub(super) const DEFAULT: &'static Self = &Self {
        half_open: HalfOpenRules {
            of: 3,
            needed: 2,
            ..HalfOpenRules::DEFAULT
        },
        max_hint: Duration::from_secs(300),
        ramp_up: Duration::ZERO,
        cancelled_as: Health::Neutral,
        panicked_as: Health::Unhealthy,
    };
}

/// The settings of a breaker that may change while it is used. The rules must fit its windows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Terms {
    /// Rarely used settings; `None` if all are at their defaults.
    settings: Option<Box<Settings>>,
    /// The duration of breaks; `None` for the default.
    break_for: Option<Box<Break>>,
    pub(super) rules: Rules,
}

impl Terms {
    pub(super) fn new(settings: Settings, break_for: Option<Break>, rules: Rules) -> Self {
        let is_default = settings == *Settings::DEFAULT;
        Self {
            settings: (!is_default).then(|| Box::new(settings)),
            break_for: break_for.map(Box::new),
            rules,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.settings.as_deref().unwrap_or(Settings::DEFAULT)
    }

    pub(super) fn break_for(&self) -> &Break {
        self.break_for.as_deref().unwrap_or(Break::DEFAULT)
    }
}

/// The rule for the length of breaks.
#[derive(Clone)]
pub(super) enum Break {
    Backoff(Backoff),
    Custom(BreakFn),
}

/// Computes the length of a break from the number of consecutive openings and the share of bad calls.
pub(super) type BreakFn = Arc<dyn Fn(u32, f64) -> Duration + Send + Sync>;

impl Break {
    /// The cap of a growing backoff without a cap of its own.
    pub(super) const MAX: Duration = Duration::from_secs(300);

    pub(super) const DEFAULT: &'static Self = &Self::Backoff(
        Backoff::exponential(Duration::from_secs(5))
            .max(Self::MAX)
            .jitter(Jitter::Equal),
    );
}

/// Functions are equal if one is a clone of the other.
impl PartialEq for Break {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Backoff(one), Self::Backoff(other)) => one == other,
            (Self::Custom(one), Self::Custom(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl fmt::Debug for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backoff(backoff) => backoff.fmt(f),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}
