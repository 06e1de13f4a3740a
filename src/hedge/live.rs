//! Settings that change while calls run.

use std::time::Duration;

use super::Hedge;
use super::config::{NAME, check_max_extra_load, check_max_hedges, check_quantile};
use super::inner::Delay;
use crate::error::ConfigError;
use crate::instant::nanos;
use crate::sync::Ordering;

/// Live changes of settings. They apply to the next copy of each call, including calls in flight; a timer that is
/// already armed keeps its delay. Latencies, counts, and budgets are kept.
impl Hedge {
    /// Sets how many further copies a call has at most, up to 10. Zero turns hedging off; latencies are recorded
    /// nevertheless.
    ///
    /// # Errors
    ///
    /// If it is above 10.
    pub fn set_max_hedges(&self, copies: u32) -> Result<(), ConfigError> {
        check_max_hedges(copies)?;
        // Relaxed, here and below: a setting that publishes nothing.
        self.inner.max_hedges.store(copies, Ordering::Relaxed);
        Ok(())
    }

    /// Sets the fixed delay.
    ///
    /// # Errors
    ///
    /// If the hedge was not built with [`after`](super::HedgeBuilder::after).
    pub fn set_after(&self, delay: Duration) -> Result<(), ConfigError> {
        let Delay::Fixed { nanos: current } = &self.inner.delay else {
            let problem = "cannot change: the hedge was built without a fixed delay";
            return Err(ConfigError::new(NAME, "after", problem));
        };
        current.store(nanos(delay), Ordering::Relaxed);
        Ok(())
    }

    /// Sets the quantile of recent latencies that is the delay.
    ///
    /// # Errors
    ///
    /// If it is not above 0 and below 1, or the hedge was not built with
    /// [`quantile`](super::HedgeBuilder::quantile).
    pub fn set_quantile(&self, quantile: f64) -> Result<(), ConfigError> {
        check_quantile(quantile)?;
        match &self.inner.delay {
            Delay::Latency {
                latency,
                follows_load: false,
                ..
            } => latency.set_quantile(quantile),
            _ => {
                let problem = "cannot change: the hedge was built without a quantile";
                return Err(ConfigError::new(NAME, "quantile", problem));
            }
        }
        Ok(())
    }

    /// Sets the share of copies among calls, above 0 and at most 1, and with it the delay, unless the hedge was built
    /// with another setting of the delay. Calls of the last 60 s count at the new share.
    ///
    /// # Errors
    ///
    /// If the share is outside its range, or the hedge was built without
    /// [`max_extra_load`](super::HedgeBuilder::max_extra_load).
    pub fn set_max_extra_load(&self, share: f64) -> Result<(), ConfigError> {
        check_max_extra_load(share)?;
        let Some(cap) = &self.inner.cap else {
            let problem = "cannot change: the hedge was built without a bound";
            return Err(ConfigError::new(NAME, "max_extra_load", problem));
        };
        cap.set_ratio(share);
        if let Delay::Latency {
            latency,
            follows_load: true,
            ..
        } = &self.inner.delay
        {
            latency.set_quantile(1.0 - share);
        }
        Ok(())
    }
}
