//! The builder of hedges.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Hedge;
use super::inner::{Delay, DelayFn, Inner};
use super::state::delay::LatencyDelay;
use crate::clock::{ClockHandle, blocking};
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::retry_budget::RetryBudget;

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
    min_delay: Duration,
    min_calls: u32,
    window: Duration,
    throttled_pause: Duration,
    budget: Option<RetryBudget>,
    name: &'static str,
    clock: Option<ClockHandle>,
}

const NAME: &str = "hedge";
const DEFAULT_EXTRA_LOAD: f64 = 0.05;

impl HedgeBuilder {
    const fn new() -> Self {
        Self {
            after: None,
            after_with: None,
            quantile: None,
            max_extra_load: None,
            max_hedges: 1,
            min_delay: Duration::from_millis(1),
            min_calls: 20,
            window: Duration::from_secs(30),
            throttled_pause: Duration::from_secs(1),
            budget: None,
            name: NAME,
            clock: ClockHandle::preset(),
        }
    }

    /// Launches a copy when those in flight have taken this long, the last one counted from its launch. Zero
    /// launches all copies at once; [`Duration::MAX`] launches one only when one has failed.
    ///
    /// Nothing bounds the extra load then but [`max_extra_load`](Self::max_extra_load) or
    /// [`budget`](Self::budget): while the dependency is slow, each call has a copy.
    pub const fn after(mut self, delay: Duration) -> Self {
        self.after = Some(delay);
        self
    }

    /// As [`after`](Self::after), with a delay that depends on the number of the copy, from 1. From Polly's
    /// delay generator.
    pub fn after_with(mut self, delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.after_with = Some(Arc::new(move |copy| blocking::outside(|| delay(copy))));
        self
    }

    /// Launches a copy when those in flight have taken longer than this share of recent calls: above 0 and
    /// below 1. Without [`max_extra_load`](Self::max_extra_load) and [`budget`](Self::budget) nothing bounds the
    /// extra load when the dependency becomes slow.
    pub const fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = Some(quantile);
        self
    }

    /// The share of copies among calls, above 0 and at most 1. It bounds what is launched within the last 60 s,
    /// whatever the dependency does.
    ///
    /// Unless the delay is set otherwise, it is the quantile of recent latencies that leads to this share: the
    /// one knob. From Finagle's `maxExtraLoad`.
    pub const fn max_extra_load(mut self, share: f64) -> Self {
        self.max_extra_load = Some(share);
        self
    }

    /// How many further copies a call has at most: from 1 to 10.
    pub const fn max_hedges(mut self, copies: u32) -> Self {
        self.max_hedges = copies;
        self
    }

    /// The shortest delay that follows from latencies.
    pub const fn min_delay(mut self, delay: Duration) -> Self {
        self.min_delay = delay;
        self
    }

    /// The number of recent latencies below which no copy is launched. Zero counts as 1. Only where the delay
    /// follows from latencies.
    pub const fn min_calls(mut self, calls: u32) -> Self {
        self.min_calls = calls;
        self
    }

    /// The length of a window of latencies, of which there are two: the current one and the one before. From
    /// 1 s to 1 hour.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long no call is hedged after an answer that was throttled and said no time. One that it says is
    /// obeyed up to 60 s.
    pub const fn throttled_pause(mut self, pause: Duration) -> Self {
        self.throttled_pause = pause;
        self
    }

    /// A budget that copies share with retries. When it is empty no further copy is launched; those in flight
    /// go on. A call that a retry outside has begun under the same budget is not counted twice.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    setters! {
        /// The name in events and snapshots.
        name;
        /// The clock that measures latencies and delays.
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
        if !(1..=10).contains(&self.max_hedges) {
            return fail("max_hedges", "must be from 1 to 10");
        }
        if self.after.is_some() && self.after_with.is_some() {
            return fail("after_with", "contradicts `after`: both set the delay");
        }
        let is_fixed = self.after.is_some() || self.after_with.is_some();
        if self.quantile.is_some() && is_fixed {
            return fail("quantile", "contradicts `after`: both set the delay");
        }
        if !self.quantile.is_none_or(|share| share > 0.0 && share < 1.0) {
            return fail("quantile", "must be above 0 and below 1");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.window) {
            return fail("window", "must be from 1 s to 1 hour");
        }
        let max_extra_load = match self.max_extra_load {
            None if !is_fixed && self.quantile.is_none() => Some(DEFAULT_EXTRA_LOAD),
            share => share,
        };
        if !max_extra_load.is_none_or(|share| share > 0.0 && share <= 1.0) {
            return fail("max_extra_load", "must be above 0 and at most 1");
        }
        let cap = match max_extra_load {
            Some(share) => {
                let cap = RetryBudget::percentage().ratio(share).floor(0);
                // As long as a window may be: a share of few calls is nothing.
                let cap = cap.window(Duration::from_secs(60)).clock(clock.clone());
                Some(cap.build()?)
            }
            None => None,
        };
        let delay = match (self.after, self.after_with) {
            (Some(after), _) => Delay::Fixed {
                nanos: nanos(after),
            },
            (None, Some(delay)) => Delay::PerCopy(delay),
            (None, None) => {
                let by_load = 1.0 - max_extra_load.unwrap_or(DEFAULT_EXTRA_LOAD);
                let quantile = self.quantile.unwrap_or(by_load);
                Delay::Latency {
                    latency: LatencyDelay::new(quantile, self.min_calls, self.window),
                    min: nanos(self.min_delay),
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

impl fmt::Debug for HedgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeBuilder")
            .field("after", &self.after)
            .field("quantile", &self.quantile)
            .field("max_extra_load", &self.max_extra_load)
            .field("max_hedges", &self.max_hedges)
            .field("min_delay", &self.min_delay)
            .field("min_calls", &self.min_calls)
            .field("window", &self.window)
            .field("throttled_pause", &self.throttled_pause)
            .field("budget", &self.budget)
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
