//! The builder of timeouts.

use std::time::Duration;

use super::{Limit, Timeout};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::policy::Context;

/// Builds a [`Timeout`].
///
/// | setting | default |
/// |---|---|
/// | [`after`](Self::after) or [`after_with`](Self::after_with) | must be given |
/// | [`name`](Self::name) | `timeout` |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TimeoutBuilder {
    after: Option<Limit>,
    after_with: Option<Limit>,
    name: &'static str,
    clock: Option<ClockHandle>,
}

impl Timeout {
    /// Returns a builder, which can also set the name and the clock.
    pub fn builder() -> TimeoutBuilder {
        TimeoutBuilder::new()
    }
}

impl TimeoutBuilder {
    const fn new() -> Self {
        Self {
            after: None,
            after_with: None,
            name: Timeout::NAME,
            clock: ClockHandle::preset(),
        }
    }

    /// Sets the limit. Zero admits only an operation that is ready at once; [`Duration::MAX`] never fires.
    pub fn after(mut self, limit: Duration) -> Self {
        self.after = Some(Limit::fixed(limit));
        self
    }

    /// Sets a function that computes the limit of each call, or of each attempt inside a retry. Contradicts
    /// [`after`](Self::after).
    pub fn after_with(
        mut self,
        limit: impl Fn(&Context) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.after_with = Some(Limit::per_call(limit));
        self
    }

    setters! {
        /// Sets the name in errors and events.
        name;
        /// Sets the clock that measures the limit.
        clock;
    }

    /// Builds the timeout.
    ///
    /// # Errors
    ///
    /// If no limit was given, or two, or no clock where the feature `tokio` is off.
    pub fn build(self) -> Result<Timeout, ConfigError> {
        let error = |setting, problem| ConfigError::new("timeout", setting, problem);
        let limit = match (self.after, self.after_with) {
            (None, None) => return Err(error("after", "must be given")),
            (Some(limit), None) | (None, Some(limit)) => limit,
            (Some(_), Some(_)) => {
                let problem = "contradicts `after`: both set the limit";
                return Err(error("after_with", problem));
            }
        };
        Ok(Timeout {
            limit,
            name: self.name,
            clock: self.clock.ok_or(error("clock", "must be given"))?,
        })
    }
}
