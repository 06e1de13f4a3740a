//! The builder of circuit votes.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::CircuitVotes;
use super::inner::Inner;
use super::state::{Follow, Rules};
use crate::base::{Setup, random_instance};
use crate::circuit_breaker::CircuitBreaker;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::store::VoteStore;

const NAME: &str = "circuit_votes";

/// Builds [`CircuitVotes`].
///
/// | setting | default |
/// |---|---|
/// | [`store`](Self::store) | must be given |
/// | [`key`](Self::key) | must be given |
/// | [`breaker`](Self::breaker) | must be given |
/// | [`instance`](Self::instance) | random |
/// | [`every`](Self::every) | 1 s |
/// | [`quorum`](Self::quorum) | more than 0.5 of the other voters |
/// | [`min_votes`](Self::min_votes) | 2 |
/// | [`follow`](Self::follow) | [`Follow::Sooner`] |
/// | [`failure_rate`](Self::failure_rate) | 0.25, half of a breaker's default |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct CircuitVotesBuilder {
    store: Option<Arc<dyn VoteStore>>,
    key: Option<String>,
    instance: Option<String>,
    breaker: Option<CircuitBreaker>,
    every: Duration,
    rules: Rules,
    setup: Setup,
}

impl CircuitVotesBuilder {
    pub(super) const fn new() -> Self {
        Self {
            store: None,
            key: None,
            instance: None,
            breaker: None,
            every: Duration::from_secs(1),
            rules: Rules {
                quorum: 0.5,
                min_votes: 2,
                follows: Follow::Sooner,
                failure_rate: 0.25,
            },
            setup: Setup::new(NAME),
        }
    }

    /// Sets the store that all processes share.
    pub fn store(mut self, store: impl VoteStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets the key in the store, which identifies the dependency behind the circuits.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the identifier of this process. It must be unique among the running processes.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// Sets the breaker that votes. At least one of its rules must have a window, such as a failure rate: the calls in
    /// the first window show whether the breaker is in use.
    pub fn breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Sets the interval at which the process votes and reads the votes of the others. From 10 ms to an hour.
    pub const fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Sets the share of the other voters that the voters with open circuits must exceed. From 0 to below 1.
    pub const fn quorum(mut self, share: f64) -> Self {
        self.rules.quorum = share;
        self
    }

    /// Sets the least number of other voters with open circuits. Above zero.
    pub const fn min_votes(mut self, votes: u64) -> Self {
        self.rules.min_votes = votes;
        self
    }

    /// Sets the effect of a quorum on the breaker.
    pub const fn follow(mut self, follow: Follow) -> Self {
        self.rules.follows = follow;
        self
    }

    /// Sets the failure rate in the breaker's first window at which a quorum opens the breaker. The window must have
    /// half the calls that the breaker's rules need. Above 0, at most 1.
    pub const fn failure_rate(mut self, rate: f64) -> Self {
        self.rules.failure_rate = rate;
        self
    }

    setters! {
        in setup;
        /// Sets the clock of the voting interval. Must be the breaker's clock.
        clock;
    }

    /// Builds the voter. Sends no request to the store.
    ///
    /// # Errors
    ///
    /// When the store, the key or the breaker was not given, or no rule of the breaker has a window, or a value is out
    /// of its range, or without a clock where the feature `tokio` is off.
    pub fn build(self) -> Result<CircuitVotes, ConfigError> {
        let error = |setting, problem| ConfigError::new(NAME, setting, problem);
        let store = self.store.ok_or(error("store", "must be given"))?;
        let key = self.key.ok_or(error("key", "must be given"))?;
        let breaker = self.breaker.ok_or(error("breaker", "must be given"))?;
        if !breaker.counts_calls() {
            let problem = "must have a rule over a window: consecutive failures alone do not show whether it has calls";
            return Err(error("breaker", problem));
        }
        if self.every < Duration::from_millis(10) || self.every > Duration::from_secs(3600) {
            return Err(error("every", "must be from 10 ms to an hour"));
        }
        let rules = self.rules;
        if !(rules.quorum >= 0.0 && rules.quorum < 1.0) {
            return Err(error("quorum", "must be from 0 to below 1"));
        }
        if rules.min_votes == 0 {
            return Err(error("min_votes", "must be at least 1"));
        }
        if !(rules.failure_rate > 0.0 && rules.failure_rate <= 1.0) {
            return Err(error("failure_rate", "must be above 0 and at most 1"));
        }
        let clock = self.setup.build(NAME)?.clock;
        Ok(CircuitVotes {
            inner: Arc::new(Inner {
                breaker,
                store,
                clock,
                key: key.into(),
                instance: self.instance.unwrap_or_else(random_instance).into(),
                every: self.every,
                rules,
                seen: Mutex::default(),
            }),
        })
    }
}

impl CircuitVotes {
    /// Returns a builder with the default settings. A store, a key and a breaker must be given.
    pub const fn builder() -> CircuitVotesBuilder {
        CircuitVotesBuilder::new()
    }
}

impl fmt::Debug for CircuitVotesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitVotesBuilder")
            .field("store", &self.store.is_some())
            .field("key", &self.key)
            .field("instance", &self.instance)
            .field("breaker", &self.breaker)
            .field("every", &DebugLimit(&self.every))
            .field("rules", &self.rules)
            .field("setup", &self.setup)
            .finish()
    }
}
