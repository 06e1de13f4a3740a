//! Settings of retries.

use std::time::Duration;

use super::backoff::BackoffSettings;
use super::budget::BudgetSettings;
use super::scope::Scope;
use super::section::{allow_only_in_stacks, builds, section};
use super::setting::{Setting, expected};
use super::value::Value;
use crate::error::ConfigError;
use crate::forms::interned;
use crate::retry::{HintRule, Retry, RetryBuilder};

impl Setting for HintRule {
    fn read(value: &Value, at: &mut Scope) -> Option<Self> {
        if let Value::Text(text) = value {
            match text.as_str() {
                "obey" => return Some(Self::Obey),
                "ignore" => return Some(Self::Ignore),
                _ => {}
            }
        }
        if let Value::Table(entries) = value {
            if let [(key, longest)] = &entries[..] {
                let rule = match key.as_str() {
                    "within" => Some(Self::Within as fn(Duration) -> Self),
                    "up_to" => Some(Self::UpTo as fn(Duration) -> Self),
                    _ => None,
                };
                if let Some(rule) = rule {
                    return at.at(key, |at| Duration::read(longest, at)).map(rule);
                }
            }
        }
        let rule = "must be \"obey\", \"ignore\", { within = \"5s\" }, or { up_to = \"5s\" }";
        expected(rule, value, at)
    }

    fn write(&self) -> Value {
        let (key, longest) = match self {
            Self::Obey => return Value::Text("obey".into()),
            Self::Ignore => return Value::Text("ignore".into()),
            Self::Within(longest) => ("within", longest),
            Self::UpTo(longest) => ("up_to", longest),
        };
        Value::Table(vec![(key.into(), longest.write())])
    }

    #[cfg(feature = "schema")]
    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let within = super::schema::single("within", Duration::schema(generator));
        let up_to = super::schema::single("up_to", Duration::schema(generator));
        let words = schemars::json_schema!({ "type": "string", "enum": ["obey", "ignore"] });
        schemars::json_schema!({ "anyOf": [words, within, up_to] })
    }
}

fn default_backoff() -> BackoffSettings {
    BackoffSettings::exponential(Duration::from_millis(50))
}

fn default_throttled_backoff() -> BackoffSettings {
    BackoffSettings::exponential(Duration::from_secs(1))
}

section! {
    /// Settings of a [`Retry`], named after the setters of [`RetryBuilder`].
    RetrySettings, for [] RetryBuilder => {
        /// Whether the layer is on. Allowed only in a stack.
        enabled: bool = true => allow_only_in_stacks,
        /// The most attempts of a call, the first one included. At least 1.
        max_attempts: u32 = 3,
        /// The delays between attempts.
        backoff: BackoffSettings = default_backoff() => |builder, backoff, at| {
            match backoff.build(default_backoff(), at) {
                Some(backoff) => builder.backoff(backoff),
                None => builder,
            }
        },
        /// The delays after throttled attempts.
        throttled_backoff: BackoffSettings = default_throttled_backoff() => |builder, backoff, at| {
            match backoff.build(default_throttled_backoff(), at) {
                Some(backoff) => builder.throttled_backoff(backoff),
                None => builder,
            }
        },
        /// The effect of a server's hint: `obey`, `ignore`, `{ within = "5s" }`, or `{ up_to = "5s" }`.
        hint: HintRule = HintRule::Obey,
        /// The longest wait that a server's hint may demand.
        max_hint: Duration = Duration::from_secs(60),
        /// The longest time from the start of a call to the start of its last attempt.
        max_elapsed: Duration,
        /// A budget of the retries.
        budget: BudgetSettings => |builder, budget, at| match budget.build_in(at) {
            Some(budget) => builder.budget(budget),
            None => builder,
        },
        /// Whether to wait until an open inner circuit admits probes.
        retry_open_circuit: bool = false,
        /// Whether to return the rejection if an inner layer rejects a later attempt.
        return_rejection: bool = false,
        /// Whether to wait for the delay before returning the error when the budget is empty.
        wait_when_budget_empty: bool = false,
        /// Makes the jitter reproducible.
        seed: u64,
        /// The name in events.
        name: String => |builder, name, _| builder.name(interned(&name)),
    }
}

builds! { RetrySettings: Retry, Retry::builder(); }
