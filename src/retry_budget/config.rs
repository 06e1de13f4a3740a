//! The builders of the four kinds of budget.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::state::{Deposits, InFlight, Prices, Share, Slices, Tokens, Withdrawals};
use super::{Inner, Kind, RetryBudget};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::instant::Instant;
use crate::verdict::ErrorClass;

impl RetryBudget {
    /// A share of the calls of a sliding window, plus a floor per second.
    ///
    /// Each call deposits the share and each retry withdraws one; both are forgotten when they leave
    /// the window. Exact at any percentage. From Finagle's `RetryBudget`.
    pub const fn percentage() -> PercentageBudget {
        PercentageBudget::new()
    }

    /// A bucket of tokens: retries pay by class of error, successes refill it.
    ///
    /// A success after a retry pays back what its last retry cost, a success at the first attempt
    /// adds a little. From the AWS SDKs' standard retry mode, version 2.1.
    pub const fn tokens() -> TokenBudget {
        TokenBudget::new()
    }

    /// gRPC's retry throttling: a failed attempt takes one token, a successful call adds `ratio`, and
    /// retries are allowed while more than half of `max_tokens` are left. From gRPC proposal A6.
    pub const fn grpc(max_tokens: u32, ratio: f64) -> GrpcBudget {
        GrpcBudget::new(max_tokens, ratio)
    }

    /// A share of the calls in flight, and never fewer than a small number. From Envoy's
    /// `retry_budget`.
    pub const fn in_flight() -> InFlightBudget {
        InFlightBudget::new()
    }
}

const fn error(setting: &'static str, problem: &'static str) -> ConfigError {
    ConfigError::new("retry_budget", setting, problem)
}

fn budget(kind: Kind, clock: Option<ClockHandle>) -> RetryBudget {
    // Of std also under loom: the number orders nothing.
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Relaxed: only that numbers differ matters. After 2^32 budgets they begin again.
    let number = NEXT.fetch_add(1, Ordering::Relaxed).max(1);
    RetryBudget::of(Arc::new(Inner {
        number,
        kind,
        clock,
    }))
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
    const fn new() -> Self {
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
        let slices = Slices::new(self.window);
        let share = Share::new(self.ratio, self.floor_per_second, &slices);
        let kind = Kind::Percentage {
            slices,
            deposits: Deposits::new(),
            withdrawals: Mutex::new((share, Withdrawals::new())),
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
/// | [`refill_per_second`](Self::refill_per_second) | 0 |
/// | [`clock`](Self::clock) | tokio's; read only if there is a refill |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct TokenBudget {
    capacity: u32,
    initial: Option<u32>,
    reward: f64,
    transient: u32,
    throttled: u32,
    timeout: u32,
    refill_per_second: f64,
    clock: Option<ClockHandle>,
}

impl TokenBudget {
    const fn new() -> Self {
        Self {
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

    /// How many tokens come back per second whatever the results, in thousandths at the finest. With
    /// 0, the default, only successes refill the bucket, so one that is empty stays empty for as long
    /// as nothing succeeds at the first attempt. From the token bucket of smithy-rs.
    pub const fn refill_per_second(mut self, tokens: f64) -> Self {
        self.refill_per_second = tokens;
        self
    }

    /// The clock that times the refill.
    pub fn clock(mut self, clock: impl Into<ClockHandle>) -> Self {
        self.clock = Some(clock.into());
        self
    }

    /// The budget.
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
        Ok(budget(kind, clock))
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
    const fn new(max_tokens: u32, ratio: f64) -> Self {
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
    const fn new() -> Self {
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
