//! The builders of the four kinds of budget.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::state::{Deposits, InFlight, Share, Tokens, Withdrawals};
use super::{Inner, Kind, RetryBudget};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::verdict::ErrorClass;

const fn error(setting: &'static str, problem: &'static str) -> ConfigError {
    ConfigError::new("retry_budget", setting, problem)
}

fn budget(kind: Kind, clock: Option<ClockHandle>) -> RetryBudget {
    RetryBudget::of(Arc::new(Inner { kind, clock }))
}

/// Builds a budget that is a share of recent calls.
///
/// | setting | default |
/// |---|---|
/// | [`ratio`](Self::ratio) | 0.2 |
/// | [`floor_per_second`](Self::floor_per_second) | 10 |
/// | [`window`](Self::window) | 10 s |
/// | [`clock`](Self::clock) | tokio's |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PercentageBudget {
    ratio: f64,
    floor_per_second: u32,
    window: Duration,
    clock: Option<ClockHandle>,
}

impl PercentageBudget {
    pub(super) const fn new() -> Self {
        Self {
            ratio: 0.2,
            floor_per_second: 10,
            window: Duration::from_secs(10),
            clock: ClockHandle::preset(),
        }
    }

    /// Retries per call: 0.2 allows one retry for five calls. From 0 (the floor alone) to 1000.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Retries per second that are allowed whatever the traffic.
    pub const fn floor_per_second(mut self, floor: u32) -> Self {
        self.floor_per_second = floor;
        self
    }

    /// How long calls and retries are remembered, in ten slices: 1 to 60 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// The clock that moves the window.
    pub fn clock(mut self, clock: impl Into<ClockHandle>) -> Self {
        self.clock = Some(clock.into());
        self
    }

    /// The budget.
    ///
    /// # Errors
    ///
    /// When the ratio is not a number from 0 to 1000, or the window not from 1 to 60 s.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !(0.0..=1000.0).contains(&self.ratio) {
            return Err(error("ratio", "must be from 0 to 1000"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&self.window) {
            return Err(error("window", "must be from 1 to 60 s"));
        }
        let kind = Kind::Percentage {
            share: Share::new(self.ratio, self.floor_per_second, self.window),
            deposits: Deposits::new(),
            withdrawals: Mutex::new(Withdrawals::new()),
        };
        Ok(budget(
            kind,
            Some(self.clock.ok_or(error("clock", "must be given"))?),
        ))
    }
}

/// Builds a budget that is a bucket of tokens with a price for each class of error.
///
/// | setting | default |
/// |---|---|
/// | [`capacity`](Self::capacity) | 500 |
/// | [`initial`](Self::initial) | the capacity |
/// | [`cost`](Self::cost) | 14; for throttled answers 5 |
/// | [`reward`](Self::reward) | 1 |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TokenBudget {
    capacity: u32,
    initial: Option<u32>,
    reward: f64,
    transient: u32,
    throttled: u32,
    timeout: u32,
}

/// What retries pay, and what a success at the first attempt adds. In the bucket's unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    transient: u64,
    throttled: u64,
    timeout: u64,
    pub(super) reward: u64,
}

impl Prices {
    pub(super) const fn of(&self, class: ErrorClass) -> u64 {
        match class {
            ErrorClass::Transient => self.transient,
            ErrorClass::Throttled => self.throttled,
            ErrorClass::Timeout => self.timeout,
        }
    }
}

impl TokenBudget {
    pub(super) const fn new() -> Self {
        Self {
            capacity: 500,
            initial: None,
            reward: 1.0,
            transient: 14,
            throttled: 5,
            timeout: 14,
        }
    }

    /// How many tokens the bucket holds at most. Zero allows no retry that costs anything.
    pub const fn capacity(mut self, tokens: u32) -> Self {
        self.capacity = tokens;
        self
    }

    /// How many tokens the bucket begins with; never more than its capacity.
    pub const fn initial(mut self, tokens: u32) -> Self {
        self.initial = Some(tokens);
        self
    }

    /// What a retry after an error of this class costs.
    pub const fn cost(mut self, class: ErrorClass, tokens: u32) -> Self {
        match class {
            ErrorClass::Transient => self.transient = tokens,
            ErrorClass::Throttled => self.throttled = tokens,
            ErrorClass::Timeout => self.timeout = tokens,
        }
        self
    }

    /// How many tokens a success at the first attempt adds, in thousandths at the finest.
    pub const fn reward(mut self, tokens: f64) -> Self {
        self.reward = tokens;
        self
    }

    /// The budget.
    ///
    /// # Errors
    ///
    /// When the reward is negative or not a finite number.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !self.reward.is_finite() || self.reward < 0.0 {
            return Err(error("reward", "must be finite and not negative"));
        }
        let unit = |tokens: u32| u64::from(tokens) * Tokens::ONE;
        let kind = Kind::Tokens {
            bucket: Tokens::new(
                unit(self.capacity),
                unit(self.initial.unwrap_or(self.capacity)),
            ),
            prices: Prices {
                transient: unit(self.transient),
                throttled: unit(self.throttled),
                timeout: unit(self.timeout),
                reward: Tokens::from_f64(self.reward),
            },
        };
        Ok(budget(kind, None))
    }
}

/// Builds a budget with the rules of gRPC's retry throttling.
///
/// | setting | default |
/// |---|---|
/// | `max_tokens` | must be given: 1 to 1000 |
/// | `ratio` | must be given: at least 0.001, rounded down to thousandths |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct GrpcBudget {
    max_tokens: u32,
    ratio: f64,
}

impl GrpcBudget {
    pub(super) const fn new(max_tokens: u32, ratio: f64) -> Self {
        Self { max_tokens, ratio }
    }

    /// The budget.
    ///
    /// # Errors
    ///
    /// When `max_tokens` is not from 1 to 1000, or `ratio` not a finite number of at least 0.001.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !(1..=1000).contains(&self.max_tokens) {
            return Err(error("max_tokens", "must be from 1 to 1000"));
        }
        let ratio = Tokens::from_f64(self.ratio);
        if !self.ratio.is_finite() || ratio == 0 {
            return Err(error("ratio", "must be finite and at least 0.001"));
        }
        let max = u64::from(self.max_tokens) * Tokens::ONE;
        let kind = Kind::Grpc {
            bucket: Tokens::new(max, max),
            ratio,
        };
        Ok(budget(kind, None))
    }
}

/// Builds a budget that is a share of the calls in flight.
///
/// | setting | default |
/// |---|---|
/// | [`ratio`](Self::ratio) | 0.2 |
/// | [`at_least`](Self::at_least) | 3 |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct InFlightBudget {
    ratio: f64,
    at_least: u32,
}

impl InFlightBudget {
    pub(super) const fn new() -> Self {
        Self {
            ratio: 0.2,
            at_least: 3,
        }
    }

    /// Retries in flight per call in flight, 0 to 1000.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Retries in flight that are allowed whatever the traffic.
    pub const fn at_least(mut self, retries: u32) -> Self {
        self.at_least = retries;
        self
    }

    /// The budget.
    ///
    /// # Errors
    ///
    /// When the ratio is not a number from 0 to 1000.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !(0.0..=1000.0).contains(&self.ratio) {
            return Err(error("ratio", "must be from 0 to 1000"));
        }
        let kind = Kind::InFlight(InFlight::new(self.ratio, self.at_least));
        Ok(budget(kind, None))
    }
}
