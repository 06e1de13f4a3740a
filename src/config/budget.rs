//! Settings of retry budgets.

use std::time::Duration;

use super::error::SettingsError;
use super::kinds::kinds;
use super::scope::Scope;
use super::section::{Checked, builds, section};
use super::setting::Setting;
use crate::error::ConfigError;
use crate::forms::interned;
use crate::retry_budget::{
    InFlightBudgetBuilder, PercentageBudgetBuilder, RetryBudget, TokenBudgetBuilder,
};
use crate::verdict::ErrorClass;

section! {
    /// Settings of a budget that is a share of recent calls, named after the setters of [`PercentageBudgetBuilder`].
    PercentageBudgetSettings, aliases [("percent", "ratio"), ("per_second", "floor")],
    for [] PercentageBudgetBuilder => {
        /// Retries per call, from 0 to 1000: 0.2 allows one retry for five calls.
        ratio: f64 = 0.2,
        /// Retries per second that are always allowed.
        floor: u32 = 10,
        /// The length of the window, from 1 to 60 s.
        window: Duration = Duration::from_secs(10),
        /// The name in snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// The prices of retries, by the class of the error.
    CostSettings, for [] TokenBudgetBuilder => {
        /// Tokens for a transient error.
        transient: u32 = 14 => |builder, tokens, _| builder.cost(ErrorClass::Transient, tokens),
        /// Tokens for a throttled answer.
        throttled: u32 = 5 => |builder, tokens, _| builder.cost(ErrorClass::Throttled, tokens),
        /// Tokens for a timeout.
        timeout: u32 = 14 => |builder, tokens, _| builder.cost(ErrorClass::Timeout, tokens),
    }
}

section! {
    /// Settings of a budget that is a bucket of tokens, named after the setters of [`TokenBudgetBuilder`].
    TokenBudgetSettings, for [] TokenBudgetBuilder => {
        /// The most tokens that the bucket holds.
        capacity: u32 = 500,
        /// The tokens at the start. Default: the capacity.
        initial: u32,
        /// The prices of retries.
        cost: CostSettings = CostSettings::default().effective() => |builder, cost, at| cost.apply_in(builder, at),
        /// Tokens that a success at the first attempt adds.
        reward: f64 = 1.0,
        /// Tokens that are added per second.
        refill_per_second: f64 = 0.0,
        /// The name in snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

section! {
    /// Settings of a budget by the rules of gRPC, see [`RetryBudget::grpc`].
    GrpcBudgetSettings => {
        /// The most tokens, from 1 to 1000.
        max_tokens: u32 = 10,
        /// Tokens that a success adds, at least 0.001.
        ratio: f64 = 0.1,
        /// The name in snapshots.
        name: String,
    }
}

section! {
    /// Settings of a budget that is a share of the calls in flight, named after the setters of
    /// [`InFlightBudgetBuilder`].
    InFlightBudgetSettings, for [] InFlightBudgetBuilder => {
        /// Retries in flight per call in flight, from 0 to 1000.
        ratio: f64 = 0.2,
        /// Retries in flight that are always allowed.
        floor: u32 = 3,
        /// The name in snapshots.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

builds! {
    PercentageBudgetSettings: RetryBudget, RetryBudget::percentage();
    TokenBudgetSettings: RetryBudget, RetryBudget::tokens();
}

impl GrpcBudgetSettings {
    fn make(&self) -> Result<RetryBudget, ConfigError> {
        let max_tokens = self.max_tokens.unwrap_or(10);
        let mut builder = RetryBudget::grpc(max_tokens, self.ratio.unwrap_or(0.1));
        if let Some(name) = &self.name {
            builder = builder.name(interned(name));
        }
        builder.build()
    }
}

impl Checked for GrpcBudgetSettings {
    fn try_build(&self, _at: &mut Scope) -> Result<(), ConfigError> {
        self.make().map(|_| ())
    }
}

impl Checked for InFlightBudgetSettings {
    fn try_build(&self, at: &mut Scope) -> Result<(), ConfigError> {
        let builder = self.apply_in(RetryBudget::in_flight(), at);
        builder.build().map(|_| ())
    }
}

kinds! {
    /// Settings of a [`RetryBudget`].
    BudgetSettings {
        /// A share of recent calls, and a floor per second.
        "percentage" Percentage(PercentageBudgetSettings),
        /// A bucket of tokens, with prices by the class of the error.
        "tokens" Tokens(TokenBudgetSettings),
        /// The rules of gRPC's retry throttling.
        "grpc" Grpc(GrpcBudgetSettings),
        /// A share of the calls in flight.
        "in_flight" InFlight(InFlightBudgetSettings),
    }
}

impl BudgetSettings {
    /// Builds the budget, with the defaults of its builder.
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn build(&self) -> Result<RetryBudget, SettingsError> {
        let mut scope = Scope::default();
        let budget = self.build_in(&mut scope);
        scope.finish(budget)
    }

    /// Reports all mistakes in the settings.
    pub(super) fn check(&self, at: &mut Scope) {
        match self.clone() {
            Self::Percentage(mut settings) => settings.settle(at),
            Self::Tokens(mut settings) => settings.settle(at),
            Self::Grpc(mut settings) => settings.settle(at),
            Self::InFlight(mut settings) => settings.settle(at),
        }
    }

    /// Builds the budget on the clock of the scope, or returns an existing one with the same settings.
    pub(super) fn build_in(&self, at: &mut Scope) -> Option<RetryBudget> {
        let written = self.write();
        if let Some((_, budget)) = at.budgets.iter().find(|(of, _)| *of == written) {
            return Some(budget.clone());
        }
        let before = at.len();
        self.check(at);
        if at.len() > before {
            return None;
        }
        let clock = at.clock.clone();
        let built = match self {
            Self::Percentage(settings) => {
                let builder = settings.apply_in(RetryBudget::percentage(), at);
                match clock {
                    Some(clock) => builder.clock(clock).build(),
                    None => builder.build(),
                }
            }
            Self::Tokens(settings) => {
                let builder = settings.apply_in(RetryBudget::tokens(), at);
                match clock {
                    Some(clock) => builder.clock(clock).build(),
                    None => builder.build(),
                }
            }
            Self::Grpc(settings) => settings.make(),
            Self::InFlight(settings) => settings.apply_in(RetryBudget::in_flight(), at).build(),
        };
        match built {
            Ok(budget) => {
                at.budgets.push((written, budget.clone()));
                Some(budget)
            }
            Err(error) => {
                at.at(error.setting(), |at| at.report(error.rule(), None));
                None
            }
        }
    }
}
