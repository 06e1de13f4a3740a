//! The builder of policies that return stale values.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::stale::Stale;
use super::state::{When, when_setters};
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;

impl<T> Stale<T> {
    /// Returns a builder with the default settings.
    pub const fn builder() -> StaleBuilder<T> {
        StaleBuilder::new()
    }
}

/// Builds a [`Stale`]. The defaults are on the [module page](super).
#[must_use = "a builder does nothing until `build`"]
pub struct StaleBuilder<T> {
    max_age: Option<Duration>,
    when: When,
    name: &'static str,
    clock: Option<ClockHandle>,
    value: PhantomData<fn() -> T>,
}

const NAME: &str = "stale";

impl<T> StaleBuilder<T> {
    const fn new() -> Self {
        Self {
            max_age: None,
            when: When::DEFAULT,
            name: NAME,
            clock: ClockHandle::preset(),
            value: PhantomData,
        }
    }

    /// Sets the age up to which a value replaces errors, inclusive. Required. With zero, only values stored at the
    /// same instant do. With [`Duration::MAX`], a value never becomes too old.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    when_setters!();

    setters! {
        /// Sets the name in events and snapshots.
        name;
        /// Sets the clock that measures ages.
        clock;
    }

    /// Builds the policy, without a value.
    ///
    /// # Errors
    ///
    /// When no age was given, or no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Stale<T>, ConfigError> {
        let error = |setting| ConfigError::new(NAME, setting, "must be given");
        let max_age = self.max_age.ok_or(error("max_age"))?;
        let clock = self.clock.ok_or(error("clock"))?;
        Ok(Stale::of(self.name, max_age, self.when, clock))
    }
}

// Derived implementations would require `T: Clone`.
impl<T> Clone for StaleBuilder<T> {
    fn clone(&self) -> Self {
        Self {
            max_age: self.max_age,
            when: self.when,
            name: self.name,
            clock: self.clock.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for StaleBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaleBuilder")
            .field("max_age", &DebugLimit(&self.max_age))
            .field("when", &self.when)
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish()
    }
}
