//! The builder of hedges.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Hedge;
use super::inner::{Delay, DelayFn, Inner};
use super::state::delay::LatencyDelay;
use crate::blocking;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::retry_budget::RetryBudget;
use crate::sync::AtomicU64;

impl Hedge {
    /// Returns a builder with the default settings.
    pub const fn builder() -> HedgeBuilder {
        HedgeBuilder::new()
    }
}

/// Builds a [`Hedge`]. The defaults are on the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct HedgeBuilder {
    after: Option<Duration>,
    after_with: Option<Arc<DelayFn>>,
    quantile: Option<f64>,
    max_extra_load: Option<f64>,
    max_hedges: u32,
    min_delay: Option<Duration>,
    min_calls: Option<u32>,
    window: Option<Duration>,
    throttled_pause: Duration,
    budget: Option<RetryBudget>,
    name: &'static str,
    clock: Option<ClockHandle>,
}

pub(super) const NAME: &str = "hedge";
const MAX_HEDGES: u32 = 10;
const DEFAULT_EXTRA_LOAD: f64 = 0.05;

#[cfg(feature = "tokio")]
impl Default for Hedge {
    /// Returns a hedge with the default settings, on tokio's clock.
    fn default() -> Self {
        let built = Self::builder().build();
        built.expect("the default settings are valid")
    }
}

impl HedgeBuilder {
    const fn new() -> Self {
        Self {
            after: None,
            after_with: None,
            quantile: None,
            max_extra_load: None,
            max_hedges: 1,
            min_delay: None,
            min_calls: None,
            window: None,
            throttled_pause: Duration::from_secs(1),
            budget: None,
            name: NAME,
            clock: ClockHandle::preset(),
        }
    }

    /// Sets a fixed delay: a copy is launched this long after the one before it. Zero launches all copies at once;
    /// with [`Duration::MAX`], a copy is launched only when one has failed.
    ///
    /// Only [`max_extra_load`](Self::max_extra_load) and [`budget`](Self::budget) bound the extra load then: without
    /// them, each call has a copy while the dependency is slow.
    pub const fn after(mut self, delay: Duration) -> Self {
        self.after = Some(delay);
        self
    }

    /// Like [`after`](Self::after), with a delay for each copy, whose number starts at 1. Modeled on Polly's delay
    /// generator.
    pub fn after_with(mut self, delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.after_with = Some(Arc::new(move |copy| blocking::outside(|| delay(copy))));
        self
    }

    /// Makes the delay a quantile of recent latencies, above 0 and below 1: at 0.95, a copy is launched for the slowest
    /// 5 % of the calls. Without [`max_extra_load`](Self::max_extra_load) and [`budget`](Self::budget), nothing bounds
    /// the extra load when the dependency becomes slow.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = Some(quantile);
        self
    }

    /// Sets the largest share of copies among the calls of the last 60 s, above 0 and at most 1. Default 0.05, unless
    /// another setting determines the delay; then there is no bound.
    ///
    /// Unless the delay is set otherwise, it is the quantile of recent latencies that leads to this share. Modeled on
    /// Finagle's `maxExtraLoad`.
    pub const fn max_extra_load(mut self, share: f64) -> Self {
        self.max_extra_load = Some(share);
        self
    }

    /// Sets how many further copies a call has at most, from 1 to 10. Default 1.
    pub const fn max_hedges(mut self, copies: u32) -> Self {
        self.max_hedges = copies;
        self
    }

    /// Sets the shortest delay that follows from latencies. Default 1 ms. Zero means no bound. Contradicts a fixed
    /// delay.
    pub const fn min_delay(mut self, delay: Duration) -> Self {
        self.min_delay = Some(delay);
        self
    }

    /// Sets the number of recent latencies below which no copy is launched, at least 1. Default 20. Contradicts a
    /// fixed delay.
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = Some(calls);
        self
    }

    /// Sets the length of a window of latencies, from 1 s to 1 hour. Default 30 s. Two windows count: the current
    /// one and the one before. Contradicts a fixed delay.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets how long no call is hedged after a throttled answer without a hint. Default 1 s. Zero means no pause.
    /// Hints are obeyed up to 60 s.
    pub const fn throttled_pause(mut self, pause: Duration) -> Self {
        self.throttled_pause = pause;
        self
    }

    /// Sets a budget that copies share with retries. When it is empty, no further copy is launched; copies in flight
    /// continue. A call that a retry outside has begun under the same budget is counted once.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    setters! {
        /// Sets the name in events and snapshots.
        name;
        /// Sets the clock that measures latencies and delays.
        clock;
    }

    /// Builds the hedge.
    ///
    /// # Errors
    ///
    /// When a setting is outside the range its setter documents, two of them set the delay, or there is no
    /// clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Hedge, ConfigError> {
        let fail = |setting, problem| Err(ConfigError::new(NAME, setting, problem));
        let Some(clock) = self.clock else {
            return fail("clock", "must be given");
        };
        if self.max_hedges == 0 {
            return fail("max_hedges", "must be from 1 to 10");
        }
        check_max_hedges(self.max_hedges)?;
        if self.after.is_some() && self.after_with.is_some() {
            return fail("after_with", "contradicts `after`: both set the delay");
        }
        let is_fixed = self.after.is_some() || self.after_with.is_some();
        if self.quantile.is_some() && is_fixed {
            return fail("quantile", "contradicts `after`: both set the delay");
        }
        self.quantile.map_or(Ok(()), check_quantile)?;
        let latency_settings = [
            ("min_delay", self.min_delay.is_some()),
            ("min_calls", self.min_calls.is_some()),
            ("window", self.window.is_some()),
        ];
        if let Some((setting, _)) = latency_settings
            .iter()
            .find(|(_, is_set)| is_fixed && *is_set)
        {
            return fail(setting, "contradicts a fixed delay: it is about latencies");
        }
        let window = self.window.unwrap_or(Duration::from_secs(30));
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&window) {
            return fail("window", "must be from 1 s to 1 hour");
        }
        let min_calls = self.min_calls.unwrap_or(20);
        if min_calls == 0 {
            return fail("min_calls", "must be at least 1");
        }
        let min_delay = self.min_delay.unwrap_or(Duration::from_millis(1));
        let max_extra_load = match self.max_extra_load {
            None if !is_fixed && self.quantile.is_none() => Some(DEFAULT_EXTRA_LOAD),
            share => share,
        };
        max_extra_load.map_or(Ok(()), check_max_extra_load)?;
        let cap = match max_extra_load {
            Some(share) => {
                let cap = RetryBudget::percentage().ratio(share).floor(0);
                // The longest window that a budget can have. In a shorter one, a small share of few calls would allow
                // no copy.
                let cap = cap.window(Duration::from_secs(60)).clock(clock.clone());
                Some(cap.build()?)
            }
            None => None,
        };
        let delay = match (self.after, self.after_with) {
            (Some(after), _) => Delay::Fixed {
                nanos: AtomicU64::new(nanos(after)),
            },
            (None, Some(delay)) => Delay::PerCopy(delay),
            (None, None) => {
                let by_load = 1.0 - max_extra_load.unwrap_or(DEFAULT_EXTRA_LOAD);
                let quantile = self.quantile.unwrap_or(by_load);
                Delay::Latency {
                    latency: LatencyDelay::new(quantile, min_calls, window),
                    min: nanos(min_delay),
                    follows_load: self.quantile.is_none(),
                }
            }
        };
        Ok(Hedge::of(Inner::new(
            self.name,
            delay,
            self.max_hedges,
            [cap, self.budget],
            self.throttled_pause,
            clock,
        )))
    }
}

pub(super) fn check_max_hedges(copies: u32) -> Result<(), ConfigError> {
    match copies <= MAX_HEDGES {
        true => Ok(()),
        false => Err(ConfigError::new(NAME, "max_hedges", "must be at most 10")),
    }
}

pub(super) fn check_quantile(quantile: f64) -> Result<(), ConfigError> {
    let problem = "must be above 0 and below 1";
    match quantile > 0.0 && quantile < 1.0 {
        true => Ok(()),
        false => Err(ConfigError::new(NAME, "quantile", problem)),
    }
}

pub(super) fn check_max_extra_load(share: f64) -> Result<(), ConfigError> {
    let problem = "must be above 0 and at most 1";
    match share > 0.0 && share <= 1.0 {
        true => Ok(()),
        false => Err(ConfigError::new(NAME, "max_extra_load", problem)),
    }
}

impl fmt::Debug for HedgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeBuilder")
            .field("after", &DebugLimit(&self.after))
            .field("quantile", &self.quantile)
            .field("max_extra_load", &self.max_extra_load)
            .field("max_hedges", &self.max_hedges)
            .field("min_delay", &DebugLimit(&self.min_delay))
            .field("min_calls", &self.min_calls)
            .field("window", &DebugLimit(&self.window))
            .field("throttled_pause", &DebugLimit(&self.throttled_pause))
            .field("budget", &self.budget)
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
