//! The builder of throttles.

use std::sync::Arc;
use std::time::Duration;

use super::Throttle;
use super::inner::{Inner, Settings};
use super::state::{RejectionRule, State};
use crate::base::Setup;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::verdict::Health;
use crate::window::TimeWindow;

/// Builds a [`Throttle`]. The [module page](super#defaults) has a table of all settings and their defaults.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ThrottleBuilder {
    rule: RejectionRule,
    window: Duration,
    slices: u32,
    probe_every: Duration,
    grace: Duration,
    count_rejected: bool,
    cancelled_as: Health,
    panicked_as: Health,
    seed: Option<u64>,
    setup: Setup,
}

impl Throttle {
    /// Returns a builder with the default settings.
    pub const fn builder() -> ThrottleBuilder {
        ThrottleBuilder::new()
    }
}

const NAME: &str = "throttle";

#[cfg(feature = "tokio")]
impl Default for Throttle {
    /// Returns a throttle with the default settings, on tokio's clock.
    fn default() -> Self {
        let built = Self::builder().build();
        built.expect("the default settings are valid")
    }
}

impl ThrottleBuilder {
    const fn new() -> Self {
        Self {
            rule: RejectionRule {
                success_threshold: 0.9,
                aggression: 1.0,
                max_rejection: 0.9,
                min_calls: 10,
                min_calls_per_second: 0.0,
            },
            window: Duration::from_secs(60),
            slices: 20,
            probe_every: Duration::from_secs(1),
            grace: Duration::from_secs(1),
            count_rejected: false,
            cancelled_as: Health::Neutral,
            panicked_as: Health::Unhealthy,
            seed: None,
            setup: Setup::new(NAME),
        }
    }

    /// Sets the share of successes below which calls are rejected: above 0 and at most 1. In the terms of the SRE book
    /// it is 1/K, so the book's K = 2 corresponds to 0.5. Default 0.9.
    pub const fn success_threshold(mut self, share: f64) -> Self {
        self.rule.success_threshold = share;
        self
    }

    /// Sets how long results count. Make it several times longer than a call may take. Default 60 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the number of slices of the window: from 1 to 1024, each at least 100 µs long. The window covers at least
    /// its length less one slice. Default 20.
    pub const fn slices(mut self, slices: u32) -> Self {
        self.slices = slices;
        self
    }

    /// Sets the least number of calls in the window before any is rejected, at least 1. Calls in flight do not count
    /// during their [`grace`](Self::grace). Default 10.
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.rule.min_calls = calls;
        self
    }

    /// Sets the least number of calls per second, on average over the window, before any is rejected. At least 0, which
    /// is the default. From Envoy.
    pub const fn min_calls_per_second(mut self, calls: f64) -> Self {
        self.rule.min_calls_per_second = calls;
        self
    }

    /// Sets the highest probability of a rejection, from 0 to 1. The calls that are still admitted detect that the
    /// dependency has recovered. Default 0.9.
    pub const fn max_rejection(mut self, probability: f64) -> Self {
        self.rule.max_rejection = probability;
        self
    }

    /// Raises the probability to the power of 1/aggression, so that values above 1 react more to small shortfalls. At
    /// least 1, which is the default. From Envoy.
    pub const fn aggression(mut self, aggression: f64) -> Self {
        self.rule.aggression = aggression;
        self
    }

    /// Admits a call that would be rejected, as a probe, if no call has been admitted for this long while calls are
    /// rejected. The first rejection therefore becomes a probe. Above zero; [`Duration::MAX`] forces none. Default 1 s.
    pub const fn probe_every(mut self, interval: Duration) -> Self {
        self.probe_every = interval;
        self
    }

    /// Sets the age from which a call in flight counts against the dependency; it may start to count up to two slices
    /// later. Without it, a burst after a pause would look like a dependency that does not answer. Default 1 s.
    ///
    /// Zero counts a call from its start, like the SRE book. [`Duration::MAX`] counts it at its end, like Envoy and
    /// failsafe-go.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Counts rejected calls as requests too, like the SRE book. Default `false`, like Envoy and failsafe-go.
    ///
    /// Bounds the load on an overloaded dependency to K times what it accepts; otherwise it is about the square root of
    /// K × offered × accepted. Recovery then depends on accepted calls alone, and takes many windows with the default
    /// threshold of 0.9. Use it with a threshold near 0.5.
    pub const fn count_rejected(mut self, count: bool) -> Self {
        self.count_rejected = count;
        self
    }

    /// Sets how a call counts that is dropped before its end. Default neutral: it is not counted.
    pub const fn cancelled_as(mut self, health: Health) -> Self {
        self.cancelled_as = health;
        self
    }

    /// Sets how a call counts that panics. Default unhealthy.
    pub const fn panicked_as(mut self, health: Health) -> Self {
        self.panicked_as = health;
        self
    }

    setters! {
        in setup;
        /// Admits every call, and only counts and reports rejections. Default `false`. Calls that would have
        /// been rejected count like all others.
        shadow;
        /// Makes the decisions reproducible.
        seed;
        /// Sets an observer of the rejections and probes of all calls, in addition to the observers of
        /// pipelines.
        observer;
        /// Sets the name in errors, events, and snapshots. Default `throttle`.
        name;
        /// Sets the clock of the window and the probes. Default tokio's.
        clock;
    }

    /// Builds the throttle.
    ///
    /// # Errors
    ///
    /// If a setting is outside the range that its setter documents, or if no clock is given and the feature `tokio` is
    /// off.
    pub fn build(self) -> Result<Throttle, ConfigError> {
        let fail = |setting, problem| Err(ConfigError::new(NAME, setting, problem));
        let rule = self.rule;
        if !(rule.success_threshold > 0.0 && rule.success_threshold <= 1.0) {
            return fail("success_threshold", "must be above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&rule.max_rejection) {
            return fail("max_rejection", "must be from 0 to 1");
        }
        if !(rule.aggression >= 1.0 && rule.aggression.is_finite()) {
            return fail("aggression", "must be a number of at least 1");
        }
        if !(rule.min_calls_per_second >= 0.0 && rule.min_calls_per_second.is_finite()) {
            return fail("min_calls_per_second", "must be a number of at least 0");
        }
        if rule.min_calls == 0 {
            return fail("min_calls", "must be at least 1");
        }
        if self.slices == 0 || self.slices > TimeWindow::MAX_SLICES {
            return fail("slices", "must be from 1 to 1024");
        }
        if self.window / self.slices < TimeWindow::MIN_SLICE {
            return fail("window", "must have slices of at least 100 µs");
        }
        if self.probe_every.is_zero() {
            return fail("probe_every", "must be above zero");
        }
        let base = self.setup.build(NAME)?;
        let settings = Settings {
            count_rejected: self.count_rejected,
            cancelled_as: self.cancelled_as,
            panicked_as: self.panicked_as,
        };
        let state = State::new(rule, self.window, self.slices, self.grace, self.probe_every);
        Ok(Throttle {
            inner: Arc::new(Inner::new(base, settings, state, self.seed)),
        })
    }
}

impl std::fmt::Debug for ThrottleBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThrottleBuilder")
            .field("setup", &self.setup)
            .field("rule", &self.rule)
            .field("window", &DebugLimit(&self.window))
            .finish_non_exhaustive()
    }
}
