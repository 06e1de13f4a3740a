//! The builder of coalescing policies.

use std::fmt;
use std::marker::PhantomData;

use super::Coalesce;
use super::inner::Inner;
use crate::clock::ClockHandle;
use crate::error::ConfigError;

impl<K, T, E> Coalesce<K, T, E> {
    /// Returns a builder with the default settings.
    pub const fn builder() -> CoalesceBuilder<K, T, E> {
        CoalesceBuilder::new()
    }
}

/// Builds a [`Coalesce`]. The defaults are on the [module page](super).
#[must_use = "a builder does nothing until `build`"]
pub struct CoalesceBuilder<K, T, E> {
    name: &'static str,
    clock: Option<ClockHandle>,
    types: PhantomData<Types<K, T, E>>,
}

type Types<K, T, E> = fn(K) -> Result<T, E>;

const NAME: &str = "coalesce";

impl<K, T, E> CoalesceBuilder<K, T, E> {
    const fn new() -> Self {
        Self {
            name: NAME,
            clock: ClockHandle::preset(),
            types: PhantomData,
        }
    }

    setters! {
        /// Sets the name in events and snapshots.
        name;
        /// Sets the clock that measures how long calls wait.
        clock;
    }

    /// Builds the policy.
    ///
    /// # Errors
    ///
    /// When there is no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Coalesce<K, T, E>, ConfigError> {
        let Some(clock) = self.clock else {
            return Err(ConfigError::new(NAME, "clock", "must be given"));
        };
        Ok(Coalesce::of(Inner::new(self.name, clock)))
    }
}

// Derived implementations would require `K: Clone`.
impl<K, T, E> Clone for CoalesceBuilder<K, T, E> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            clock: self.clock.clone(),
            types: PhantomData,
        }
    }
}

impl<K, T, E> fmt::Debug for CoalesceBuilder<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceBuilder")
            .field("name", &self.name)
            .field("clock", &self.clock)
            .finish()
    }
}
