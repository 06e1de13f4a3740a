//! Changes of an injector at run time.

use std::fmt;
use std::sync::Arc;

use super::inner::Inner;
use super::snapshot::Snapshot;
use super::state::{Fault, Latency, NAME, check_latency, check_rates, check_share};
use crate::error::ConfigError;
use crate::sync::lock;

/// Turns an injector of faults on and off, and changes its rates, while calls run. Returned by
/// [`Chaos::switch`](super::Chaos::switch).
///
/// It has no type parameters, so an admin endpoint or a test can hold one whatever the faults are. Cheap to clone.
#[derive(Clone)]
pub struct Switch {
    inner: Arc<Inner>,
}

impl Switch {
    pub(super) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Injects faults from now on.
    pub fn enable(&self) {
        self.inner.state.switch(true);
    }

    /// Injects no further faults. Faults already injected into calls in flight run their course.
    pub fn disable(&self) {
        self.inner.state.switch(false);
    }

    /// Returns whether faults are injected.
    pub fn is_enabled(&self) -> bool {
        self.inner.state.is_on()
    }

    /// Sets the share of calls that get a fault.
    ///
    /// # Errors
    ///
    /// If the rate is not from 0 to 1, if the rates exceed 1 together, or if the builder got no function for this
    /// fault.
    pub fn set_rate(&self, fault: Fault, rate: f64) -> Result<(), ConfigError> {
        let inner = &*self.inner;
        if !inner.possible[fault as usize] && rate > 0.0 {
            let problem = "needs a function that makes the fault, which the builder was not given";
            return Err(ConfigError::new(NAME, fault.as_str(), problem));
        }
        let _setting = lock(&inner.setting);
        let mut rates = Fault::ALL.map(|fault| inner.state.rate(fault));
        rates[fault as usize] = rate;
        check_rates(rates)?;
        inner.state.set_rate(fault, rate);
        Ok(())
    }

    /// Sets how long calls are delayed.
    ///
    /// # Errors
    ///
    /// If the range ends before it begins.
    pub fn set_latency(&self, latency: impl Into<Latency>) -> Result<(), ConfigError> {
        let latency = latency.into();
        check_latency(latency)?;
        *lock(&self.inner.latency) = latency;
        Ok(())
    }

    /// Sets the largest share of calls that get a fault.
    ///
    /// # Errors
    ///
    /// If it is not from 0 to 1.
    pub fn set_max_share(&self, share: f64) -> Result<(), ConfigError> {
        check_share(share)?;
        self.inner.state.set_max_share(share);
        Ok(())
    }

    /// Returns a snapshot of the injector.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("name", &self.inner.base.name)
            .field("is_enabled", &self.is_enabled())
            .finish_non_exhaustive()
    }
}
