//! The builder of throttles.

use std::sync::Arc;
use std::time::Duration;

use super::Throttle;
use super::inner::{Inner, Settings};
use super::state::{Rule, State};
use crate::base::Setup;
use crate::error::ConfigError;
use crate::verdict::Health;
use crate::window::TimeWindow;

/// Builds a [`Throttle`].
///
/// | setting | default |
/// |---|---|
/// | [`success_threshold`](Self::success_threshold) | 0.9 |
/// | [`window`](Self::window) | 60 s |
/// | [`slices`](Self::slices) | 20 |
/// | [`min_requests`](Self::min_requests) | 10 |
/// | [`min_rps`](Self::min_rps) | 0 |
/// | [`max_rejection`](Self::max_rejection) | 0.9 |
/// | [`aggression`](Self::aggression) | 1 |
/// | [`probe_every`](Self::probe_every) | 1 s |
/// | [`grace`](Self::grace) | 1 s |
/// | [`count_refused`](Self::count_refused) | `false` |
/// | [`cancelled_as`](Self::cancelled_as) | neutral |
/// | [`panicked_as`](Self::panicked_as) | unhealthy |
/// | [`shadow`](Self::shadow) | `false` |
/// | [`name`](Self::name) | `throttle` |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ThrottleBuilder {
    rule: Rule,
    window: Duration,
    slices: u32,
    probe_every: Duration,
    grace: Duration,
    count_refused: bool,
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

impl ThrottleBuilder {
    const fn new() -> Self {
        Self {
            rule: Rule {
                success_threshold: 0.9,
                aggression: 1.0,
                max_rejection: 0.9,
                min_requests: 10,
                min_rps: 0.0,
            },
            window: Duration::from_secs(60),
            slices: 20,
            probe_every: Duration::from_secs(1),
            grace: Duration::from_secs(1),
            count_refused: false,
            cancelled_as: Health::Neutral,
            panicked_as: Health::Unhealthy,
            seed: None,
            setup: Setup::new(NAME),
        }
    }

    /// The share of good results below which calls are refused: above 0 and at most 1. It is 1/K of
    /// the SRE book, whose K = 2 is 0.5.
    pub const fn success_threshold(mut self, share: f64) -> Self {
        self.rule.success_threshold = share;
        self
    }

    /// How far back results count. Make it several times longer than a call may take.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How many slices the window has: from 1 to 1024, of at least 100 µs each. What is counted
    /// covers the window but for at most one slice of it.
    pub const fn slices(mut self, slices: u32) -> Self {
        self.slices = slices;
        self
    }

    /// Nothing is refused while fewer calls than this are in the window, those in flight within
    /// their [`grace`](Self::grace) not counted.
    pub const fn min_requests(mut self, requests: u32) -> Self {
        self.rule.min_requests = requests;
        self
    }

    /// Nothing is refused while there are fewer calls per second than this, over the whole window.
    /// At least 0. From Envoy.
    pub const fn min_rps(mut self, rps: f64) -> Self {
        self.rule.min_rps = rps;
        self
    }

    /// The highest probability of a refusal, from 0 to 1. What is left of the calls finds out that
    /// the dependency has recovered.
    pub const fn max_rejection(mut self, probability: f64) -> Self {
        self.rule.max_rejection = probability;
        self
    }

    /// Raises the probability to the power of 1/aggression: above 1 small shortfalls count more. At
    /// least 1. From Envoy.
    pub const fn aggression(mut self, aggression: f64) -> Self {
        self.rule.aggression = aggression;
        self
    }

    /// A call that should be refused is let through when none was for this long, while calls are
    /// refused: so the first one to be refused, or the first after a while without, passes as a probe.
    /// Above zero; [`Duration::MAX`] forces none.
    pub const fn probe_every(mut self, interval: Duration) -> Self {
        self.probe_every = interval;
        self
    }

    /// A call in flight counts against the dependency once it is this old, and at most two slices
    /// later; before, it weighs nothing, so that a burst after a pause is not taken for a
    /// dependency that does not answer.
    ///
    /// Zero makes it count from its start, as in the SRE book. [`Duration::MAX`] makes it count at
    /// its end, as in Envoy and failsafe-go.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Counts refused calls as requests too, as the SRE book does. By default they are not, as in
    /// Envoy and failsafe-go.
    ///
    /// It bounds what reaches an overloaded dependency to K times what it accepts, where otherwise
    /// it is about the square root of K × offered × accepted. But then recovery feeds on accepted
    /// calls alone: with the default threshold of 0.9 it takes many windows. Use it with a
    /// threshold of 0.5.
    pub const fn count_refused(mut self, count: bool) -> Self {
        self.count_refused = count;
        self
    }

    /// What a call counts as whose future, or permit, was dropped before its end. Neutral takes it
    /// back.
    pub const fn cancelled_as(mut self, health: Health) -> Self {
        self.cancelled_as = health;
        self
    }

    /// What a call counts as that panicked. Default unhealthy.
    pub const fn panicked_as(mut self, health: Health) -> Self {
        self.panicked_as = health;
        self
    }

    setters! {
        in setup;
        /// Decides, counts and reports, but never refuses. Calls that would have been refused count as
        /// any other.
        shadow;
        /// Makes the decisions reproducible.
        seed;
        /// Hears refusals and probes, also those of calls nobody else listens to.
        observer;
        /// The name in errors and events.
        name;
        /// The clock of the window and the probes.
        clock;
    }

    /// The throttle.
    ///
    /// # Errors
    ///
    /// When a setting is outside the range its setter documents, or when there is no clock where
    /// the feature `tokio` is off.
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
        if !(rule.min_rps >= 0.0 && rule.min_rps.is_finite()) {
            return fail("min_rps", "must be a number of at least 0");
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
            count_refused: self.count_refused,
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
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
