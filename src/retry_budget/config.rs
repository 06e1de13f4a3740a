//! The builders of the four kinds of budget.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::number::Number;
use super::state::{Deposits, InFlight, Prices, Share, Slices, Tokens, Withdrawals};
use super::{Inner, Kind, RetryBudget};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::verdict::ErrorClass;

impl RetryBudget {
    /// Builds a budget that is a share of the calls of a sliding window, plus a floor per second.
    ///
    /// Each call deposits the share and each retry withdraws one; both are forgotten when they leave the window.
    /// Exact at any percentage. From Finagle's `RetryBudget`.
    pub const fn percentage() -> PercentageBudgetBuilder {
        PercentageBudgetBuilder::new()
    }

    /// Builds a budget that is a bucket of tokens: retries pay by class of error, successes refill it.
    ///
    /// A success after a retry refunds the price of its last retry, and a success at the first attempt adds
    /// the reward. From the AWS SDKs' standard retry mode, version 2.1.
    pub const fn tokens() -> TokenBudgetBuilder {
        TokenBudgetBuilder::new()
    }

    /// Builds a budget with the rules of gRPC's retry throttling: a failed attempt takes one token, a successful call
    /// adds `ratio`, and retries are allowed while more than half of `max_tokens` are left. From gRPC proposal A6.
    pub const fn grpc(max_tokens: u32, ratio: f64) -> GrpcBudgetBuilder {
        GrpcBudgetBuilder::new(max_tokens, ratio)
    }

    /// Builds a budget that is a share of the calls in flight, with a floor. From Envoy's
    /// `retry_budget`.
    pub const fn in_flight() -> InFlightBudgetBuilder {
        InFlightBudgetBuilder::new()
    }
}

/// The default name.
const NAME: &str = "retry_budget";

const fn error(setting: &'static str, problem: &'static str) -> ConfigError {
    ConfigError::new("retry_budget", setting, problem)
}

fn budget(name: &'static str, kind: Kind, clock: Option<ClockHandle>) -> RetryBudget {
    RetryBudget {
        inner: Arc::new(Inner {
            name,
            number: Number::take(),
            kind,
            clock,
        }),
    }
}

/// Builds a budget that is a share of recent calls.
///
/// | setting | default |
/// |---|---|
/// | [`ratio`](Self::ratio) | 0.2 |
/// | [`floor`](Self::floor) | 10 |
/// | [`window`](Self::window) | 10 s |
/// | [`clock`](Self::clock) | tokio's |
/// | [`name`](Self::name) | `retry_budget` |
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct PercentageBudgetBuilder {
    name: &'static str,
    ratio: f64,
    floor: u32,
    window: Duration,
    clock: Option<ClockHandle>,
}

crate::debug::debug_settings!(PercentageBudgetBuilder { name, ratio, floor, clock; window });

impl PercentageBudgetBuilder {
    const fn new() -> Self {
        Self {
            name: NAME,
            ratio: 0.2,
            floor: 10,
            window: Duration::from_secs(10),
            clock: ClockHandle::preset(),
        }
    }

    /// Sets the retries per call, from 0 to 1000: 0.2 allows one retry for five calls. With zero, only the floor is
    /// left.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the retries per second that are always allowed. Zero allows none.
    pub const fn floor(mut self, floor: u32) -> Self {
        self.floor = floor;
        self
    }

    /// Sets the length of the sliding window, which has ten slices: 1 to 60 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    setters! {
        /// Sets the clock of the window.
        clock;
        /// Sets the name in snapshots.
        name;
    }

    /// Builds the budget.
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
        let slices = Slices::new(self.window);
        let share = Share::new(self.ratio, self.floor, &slices);
        let kind = Kind::Percentage {
            slices,
            deposits: Deposits::new(),
            withdrawals: Mutex::new((share, Withdrawals::new())),
        };
        Ok(budget(
            self.name,
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
/// | [`refill_per_second`](Self::refill_per_second) | 0 |
/// | [`clock`](Self::clock) | tokio's; read only if there is a refill |
/// | [`name`](Self::name) | `retry_budget` |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TokenBudgetBuilder {
    name: &'static str,
    capacity: u32,
    initial: Option<u32>,
    reward: f64,
    transient: u32,
    throttled: u32,
    timeout: u32,
    refill_per_second: f64,
    clock: Option<ClockHandle>,
}

impl TokenBudgetBuilder {
    const fn new() -> Self {
        Self {
            name: NAME,
            capacity: 500,
            initial: None,
            reward: 1.0,
            transient: 14,
            throttled: 5,
            timeout: 14,
            refill_per_second: 0.0,
            clock: ClockHandle::preset(),
        }
    }

    /// Sets the most tokens that the bucket holds. Zero allows no retry that costs anything.
    pub const fn capacity(mut self, tokens: u32) -> Self {
        self.capacity = tokens;
        self
    }

    /// Sets the tokens at the start, at most the capacity.
    pub const fn initial(mut self, tokens: u32) -> Self {
        self.initial = Some(tokens);
        self
    }

    /// Sets the price of a retry after an error of this class, in tokens. Zero makes such retries free.
    pub const fn cost(mut self, class: ErrorClass, tokens: u32) -> Self {
        match class {
            ErrorClass::Transient => self.transient = tokens,
            ErrorClass::Throttled => self.throttled = tokens,
            ErrorClass::Timeout => self.timeout = tokens,
        }
        self
    }

    /// Sets the tokens that a success at the first attempt adds, rounded down to thousandths. Zero adds none.
    pub const fn reward(mut self, tokens: f64) -> Self {
        self.reward = tokens;
        self
    }

    /// Sets the tokens that are added per second, whatever the results, rounded down to thousandths. With zero, the
    /// default, only successes refill the bucket, so an empty bucket stays empty until a call succeeds at the first
    /// attempt. From the token bucket of smithy-rs.
    pub const fn refill_per_second(mut self, tokens: f64) -> Self {
        self.refill_per_second = tokens;
        self
    }

    setters! {
        /// Sets the clock of the refill.
        clock;
        /// Sets the name in snapshots.
        name;
    }

    /// Builds the budget.
    ///
    /// # Errors
    ///
    /// When the reward or the refill is negative or not a finite number, or there is a refill and no
    /// clock.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !self.reward.is_finite() || self.reward < 0.0 {
            return Err(error("reward", "must be finite and not negative"));
        }
        if !self.refill_per_second.is_finite() || self.refill_per_second < 0.0 {
            return Err(error(
                "refill_per_second",
                "must be finite and not negative",
            ));
        }
        let refill = Tokens::from_f64(self.refill_per_second);
        let clock = match refill {
            0 => None,
            _ => Some(self.clock.ok_or(error("clock", "must be given"))?),
        };
        let now = clock.as_ref().map_or(Instant::ORIGIN, ClockHandle::now);
        let unit = |tokens: u32| u64::from(tokens) * Tokens::ONE;
        let kind = Kind::Tokens {
            bucket: Tokens::new(
                unit(self.capacity),
                unit(self.initial.unwrap_or(self.capacity)),
            )
            .refilled(refill, now),
            prices: Prices {
                transient: unit(self.transient),
                throttled: unit(self.throttled),
                timeout: unit(self.timeout),
                reward: Tokens::from_f64(self.reward),
            },
        };
        Ok(budget(self.name, kind, clock))
    }
}

/// Builds a budget with the rules of gRPC's retry throttling.
///
/// | setting | default |
/// |---|---|
/// | `max_tokens` | must be given: 1 to 1000 |
/// | `ratio` | must be given: at least 0.001, rounded down to thousandths |
/// | [`name`](Self::name) | `retry_budget` |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct GrpcBudgetBuilder {
    name: &'static str,
    max_tokens: u32,
    ratio: f64,
}

impl GrpcBudgetBuilder {
    const fn new(max_tokens: u32, ratio: f64) -> Self {
        Self {
            name: NAME,
            max_tokens,
            ratio,
        }
    }

    setters! {
        /// Sets the name in snapshots.
        name;
    }

    /// Builds the budget.
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
        Ok(budget(self.name, kind, None))
    }
}

/// Builds a budget that is a share of the calls in flight.
///
/// | setting | default |
/// |---|---|
/// | [`ratio`](Self::ratio) | 0.2 |
/// | [`floor`](Self::floor) | 3 |
/// | [`name`](Self::name) | `retry_budget` |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct InFlightBudgetBuilder {
    name: &'static str,
    ratio: f64,
    floor: u32,
}

impl InFlightBudgetBuilder {
    const fn new() -> Self {
        Self {
            name: NAME,
            ratio: 0.2,
            floor: 3,
        }
    }

    /// Sets the retries in flight per call in flight, 0 to 1000.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets the retries in flight that are always allowed. Zero allows none.
    pub const fn floor(mut self, retries: u32) -> Self {
        self.floor = retries;
        self
    }

    setters! {
        /// Sets the name in snapshots.
        name;
    }

    /// Builds the budget.
    ///
    /// # Errors
    ///
    /// When the ratio is not a number from 0 to 1000.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        if !(0.0..=1000.0).contains(&self.ratio) {
            return Err(error("ratio", "must be from 0 to 1000"));
        }
        let kind = Kind::InFlight(InFlight::new(self.ratio, self.floor));
        Ok(budget(self.name, kind, None))
    }
}
