//! Settings that no call reads while the circuit is closed.

use std::sync::Arc;
use std::time::Duration;

use super::state::HalfOpenRules;
use crate::backoff::{Backoff, Jitter};
use crate::verdict::Health;

/// Settings for open and half-open circuits and for dropped permits.
#[derive(Clone, Copy, PartialEq)]
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

/// The rule for the length of breaks.
#[derive(Clone)]
pub(super) enum Break {
    Backoff(Backoff),
    Custom(Arc<dyn Fn(u32, f64) -> Duration + Send + Sync>),
}

impl Break {
    /// The cap of a growing backoff without a cap of its own.
    pub(super) const MAX: Duration = Duration::from_secs(300);

    pub(super) const DEFAULT: &'static Self = &Self::Backoff(
        Backoff::exponential(Duration::from_secs(5))
            .max(Self::MAX)
            .jitter(Jitter::Equal),
    );
}
