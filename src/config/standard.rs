//! Settings of the standard stack.

use std::time::Duration;

use super::breaker::BreakerSettings;
use super::budget::BudgetSettings;
use super::error::SettingsError;
use super::limiter::LimiterSettings;
use super::retry::RetrySettings;
use super::scope::Scope;
use super::section::{Checked, Section, section};
use super::setting::{Setting, UNLIMITED, expected};
use super::value::Value;
use crate::circuit_breaker::CircuitBreaker;
use crate::clock::ManualClock;
use crate::error::ConfigError;
use crate::forms::interned;
use crate::rate_limiter::RateLimiter;
use crate::retry::Retry;
use crate::standard::{Config, Standard, StandardBuilder};

section! {
    /// Settings of the stack's own budget, see [`budget_share`](StandardBuilder::budget_share).
    BudgetShareSettings => {
        /// Retries for each call of the last 10 s, from 0 to 1000.
        ratio: f64 = 0.2,
        /// Retries per second that are always allowed.
        floor_per_second: u32 = 10,
    }
}

/// The budget of a stack.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StackBudget {
    /// The stack's own budget. It is kept when its settings change.
    Share(BudgetShareSettings),
    /// A budget of another kind. It is replaced when its settings change.
    Kind(BudgetSettings),
    /// No budget: only the number of attempts bounds retries.
    Unlimited,
}

impl Setting for StackBudget {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        match value {
            Value::Text(text) if text == UNLIMITED => Some(Self::Unlimited),
            Value::Table(_) if value.get("kind").is_some() => {
                BudgetSettings::read(value, at).map(Self::Kind)
            }
            Value::Table(_) => BudgetShareSettings::read(value, at).map(Self::Share),
            other => expected("must be a table or \"unlimited\"", other, at),
        }
    }

    fn write(&self) -> Value {
        match self {
            Self::Share(settings) => settings.write(),
            Self::Kind(settings) => settings.write(),
            Self::Unlimited => Value::Text(UNLIMITED.into()),
        }
    }

    fn effective(self) -> Self {
        match self {
            Self::Share(settings) => Self::Share(settings.effective()),
            Self::Kind(settings) => Self::Kind(settings.effective()),
            Self::Unlimited => self,
        }
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let share = BudgetShareSettings::schema(generator);
        let mut kind = BudgetSettings::schema(generator);
        // A table without a kind is a share.
        kind.insert("required".into(), serde_json::json!(["kind"]));
        schemars::json_schema!({ "anyOf": [share, kind, { "const": UNLIMITED }] })
    }
}

section! {
    /// Settings of a [`Standard`] stack, named after the setters of [`StandardBuilder`].
    ///
    /// `enabled = false` in the table of a layer removes the layer; the duration `unlimited` removes a timeout.
    StandardSettings, aliases [
        ("rate_limit", "limiter"),
        ("rate_limiter", "limiter"),
        ("circuit_breaker", "breaker"),
        ("timeout", "total_timeout"),
        ("max_attempts", "retry"),
        ("backoff", "retry"),
        ("quota", "limiter"),
        ("budget_share", "budget"),
    ] => {
        /// Whether there are any layers. A stack without layers makes plain calls, and keeps the state of its layers
        /// for when it is switched on again.
        enabled: bool = true,
        /// The limiter, the outermost layer. Default: none.
        limiter: LimiterSettings,
        /// The time limit of a call, retries included.
        total_timeout: Duration = Duration::from_secs(30),
        /// The retry.
        retry: RetrySettings = RetrySettings::default().effective(),
        /// The budget of the retries: `{ ratio = 0.2, floor_per_second = 10 }`, a table with a `kind`, or
        /// `unlimited`.
        budget: StackBudget,
        /// The breaker.
        breaker: BreakerSettings = BreakerSettings::default().effective(),
        /// The time limit of one attempt, shorter than the total timeout.
        attempt_timeout: Duration = Duration::from_secs(10),
        /// The name of the stack. Not in a registry, where the key is the name.
        name: String,
    }
}

/// Settings of nested tables in errors of the stack, each with its table.
const NESTED: [(&str, &str); 3] = [
    ("max_elapsed", "retry"),
    ("slow_call", "breaker"),
    ("probe_lease", "breaker"),
];

impl StandardSettings {
    /// Builds the stack on the default clock.
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn build(&self) -> Result<Standard, SettingsError> {
        self.apply_to(Standard::builder()).and_then(|builder| {
            builder.build().map_err(|error| {
                let mut scope = Scope::default();
                scope.at(error.setting(), |at| at.report(error.rule(), None));
                scope.finish(None::<()>).unwrap_err()
            })
        })
    }

    /// Passes the settings to a builder.
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn apply_to(&self, builder: StandardBuilder) -> Result<StandardBuilder, SettingsError> {
        let mut scope = Scope::default();
        let config = self.config_in(&mut scope);
        let config = scope.finish(config)?;
        let builder = builder.config(config);
        Ok(match &self.name {
            Some(name) => builder.name(interned(name)),
            None => builder,
        })
    }

    /// Returns the settings for [`Standard::reconfigure`].
    ///
    /// # Errors
    ///
    /// All mistakes in the settings.
    pub fn config(&self) -> Result<Config, SettingsError> {
        let mut scope = Scope::default();
        let config = self.config_in(&mut scope);
        scope.finish(config)
    }

    /// Returns the settings for a stack; `None` if any is wrong, which is reported to `at`.
    pub(super) fn config_in(&self, at: &mut Scope) -> Option<Config> {
        let before = at.len();
        let mut valid = self.clone();
        valid.settle(at);
        if at.len() > before {
            return None;
        }
        Some(self.make(at))
    }

    /// Returns the settings for a stack.
    fn make(&self, at: &mut Scope) -> Config {
        let mut config = Config::new();
        if self.enabled == Some(false) {
            return config
                .without_limiter()
                .without_total_timeout()
                .without_retry()
                .without_breaker()
                .without_attempt_timeout();
        }
        if let Some(mut limiter) = self.limiter.clone() {
            config = match limiter.enabled.take() {
                Some(false) => config.without_limiter(),
                _ => config
                    .limiter(at.at("limiter", |at| limiter.apply_in(RateLimiter::builder(), at))),
            };
        }
        if let Some(mut retry) = self.retry.clone() {
            config = match retry.enabled.take() {
                Some(false) => config.without_retry(),
                _ => config.retry(at.at("retry", |at| retry.apply_in(Retry::builder(), at))),
            };
        }
        if let Some(mut breaker) = self.breaker.clone() {
            config = match breaker.enabled.take() {
                Some(false) => config.without_breaker(),
                _ => config.breaker(at.at("breaker", |at| {
                    breaker.apply_in(CircuitBreaker::builder(), at)
                })),
            };
        }
        config = match self.total_timeout {
            Some(Duration::MAX) => config.without_total_timeout(),
            Some(limit) => config.total_timeout(limit),
            None => config,
        };
        config = match self.attempt_timeout {
            Some(Duration::MAX) => config.without_attempt_timeout(),
            Some(limit) => config.attempt_timeout(limit),
            None => config,
        };
        match &self.budget {
            Some(StackBudget::Share(share)) => {
                let all = share.effective();
                config.budget_share(
                    all.ratio.unwrap_or_default(),
                    all.floor_per_second.unwrap_or_default(),
                )
            }
            Some(StackBudget::Kind(budget)) => match at.at("budget", |at| budget.build_in(at)) {
                Some(budget) => config.budget(budget),
                None => config,
            },
            Some(StackBudget::Unlimited) => config.without_budget(),
            None => config,
        }
    }
}

/// Checks a layer, and removes invalid settings. A layer that is off is checked too.
fn settle_layer<S: Checked>(layer: &mut Option<S>, key: &str, at: &mut Scope) {
    let Some(mut settings) = layer.take() else {
        return;
    };
    let off = ("enabled".to_owned(), Value::Bool(false));
    let is_off = settings.write().get("enabled") == Some(&off.1);
    settings.clear("enabled");
    at.at(key, |at| settings.settle(at));
    *layer = match is_off {
        true => S::read(&Value::Table(vec![off]), at),
        // A layer that cannot be built is dropped: its mistakes have been reported.
        false => Some(settings).filter(|valid| valid.try_build(&mut Scope::default()).is_ok()),
    };
}

impl Checked for StandardSettings {
    fn try_build(&self, at: &mut Scope) -> Result<(), ConfigError> {
        let config = self.make(at);
        let builder = Standard::builder().config(config).clock(ManualClock::new());
        builder.build().map(|_| ())
    }

    fn settle(&mut self, at: &mut Scope) {
        settle_layer(&mut self.limiter, "limiter", at);
        settle_layer(&mut self.retry, "retry", at);
        settle_layer(&mut self.breaker, "breaker", at);
        if let Some(StackBudget::Kind(budget)) = &self.budget {
            let before = at.len();
            at.at("budget", |at| budget.check(at));
            if at.len() > before {
                self.budget = None;
            }
        }
        // Contradictions between layers.
        while let Err(error) = self.try_build(&mut Scope::default()) {
            if !self.note_contradiction(&error, at) {
                return;
            }
        }
    }
}

impl StandardSettings {
    /// Reports a mistake of the whole stack, and removes the setting. Returns whether it was there.
    fn note_contradiction(&mut self, error: &ConfigError, at: &mut Scope) -> bool {
        let key = error.setting();
        let nested = NESTED.iter().find(|(nested, _)| *nested == key);
        let table = match nested {
            Some((_, table)) => Some(*table),
            None if error.policy() == "retry_budget" => Some("budget"),
            None => None,
        };
        // The value to report comes from the effective settings, because a given value may contradict a default.
        let effective = Self::effective(self).write();
        let value = match table {
            Some(table) => effective.get(table).and_then(|table| table.get(key)),
            None => effective.get(key),
        };
        match table {
            Some(table) => at.at(table, |at| at.at(key, |at| at.report(error.rule(), value))),
            None => at.at(key, |at| at.report(error.rule(), value)),
        }
        let removed = match table {
            Some("budget") => self.budget.take().is_some(),
            Some("retry") => self.retry.as_mut().is_some_and(|retry| retry.clear(key)),
            Some(_) => self
                .breaker
                .as_mut()
                .is_some_and(|breaker| breaker.clear(key)),
            // Its default could contradict other settings, too.
            None if key == "total_timeout" => remove_limit(&mut self.total_timeout),
            None if key == "attempt_timeout" => remove_limit(&mut self.attempt_timeout),
            None => self.clear(key),
        };
        removed || self.clear("total_timeout") || self.clear("attempt_timeout")
    }
}

/// Makes a timeout unlimited. Returns whether it was limited.
fn remove_limit(timeout: &mut Option<Duration>) -> bool {
    timeout.replace(Duration::MAX) != Some(Duration::MAX)
}
